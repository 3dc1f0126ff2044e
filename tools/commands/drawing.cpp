#include "tools/commands/drawing.hpp"

#include <algorithm>

#include "optimizer/plan/strategies/shared_pass.hpp"

namespace cleave::tools {
namespace {

std::string cell(double share) {
  constexpr double tiny = 1e-9;
  return share < tiny       ? "·"
         : share < 0.34     ? "░"
         : share < 0.67     ? "▒"
         : share < 1 - tiny ? "▓"
                            : "█";
}

/// "0:6 of 12"; "differ" where the ranges do.
std::string text_of(const std::vector<model::Range>& ranges, std::int64_t total) {
  if (ranges.empty()) return "none";
  const model::Range& first = ranges.front();
  for (const model::Range& range : ranges)
    if (!(range == first)) return "differ by layer";
  if (first.size() == 0) return "none";
  return std::to_string(first.begin) + ":" + std::to_string(first.end) + " of " +
         std::to_string(total);
}

/// What a device has of one axis.
struct Line {
  std::string what;
  std::vector<model::Range> ranges;
  std::int64_t total = 0;
};

std::vector<Line> lines_of(const plan::Plan& plan, std::size_t part,
                           const std::vector<model::Range>& rows) {
  const plan::Share& share = *plan.parts[part].share();
  const plan::Share all = plan::whole_share(plan.teacher);
  Line layers{"layers", {}, plan.teacher.num_layers()}, heads{"heads", {}, 0},
      columns{"MLP columns", {}, 0};
  for (std::size_t l = 0; l < share.layers.size(); ++l) {
    heads.total = std::max(heads.total, all.layers[l].heads.size());
    columns.total = std::max(columns.total, all.layers[l].columns.size());
    if (share.layers[l] == plan::LayerShare()) continue;
    const auto layer = static_cast<std::int64_t>(l);
    if (layers.ranges.empty()) layers.ranges.push_back({layer, layer});
    layers.ranges.front().end = layer + 1;
    heads.ranges.push_back(share.layers[l].heads);
    columns.ranges.push_back(share.layers[l].columns);
  }
  std::vector<Line> lines{layers, heads, columns};
  if (plan.teacher.is_text())
    lines.push_back({"vocabulary", {share.vocabulary}, plan.teacher.vocabulary});
  if (!rows.empty())
    lines.push_back({"rows", {part < rows.size() ? rows[part] : model::Range()}, rows.back().end});
  return lines;
}

}  // namespace

std::string strip(const std::vector<std::int64_t>& kept, std::int64_t total, int cells) {
  const int width = static_cast<int>(std::min<std::int64_t>(cells, total));
  std::vector<int> held(static_cast<std::size_t>(width)), size(held.size());
  const auto cell_of = [&](std::int64_t unit) {
    return static_cast<std::size_t>(unit * width / total);
  };
  for (std::int64_t unit = 0; unit < total; ++unit) ++size[cell_of(unit)];
  for (auto unit : kept) ++held[cell_of(unit)];
  std::string text;
  for (std::size_t i = 0; i < held.size(); ++i)
    text += cell(static_cast<double>(held[i]) / size[i]);
  return text;
}

std::string bar(const std::vector<model::Range>& ranges, std::int64_t total, int cells) {
  std::string text;
  const double per_unit = total > 0 ? static_cast<double>(cells) / static_cast<double>(total) : 0;
  for (int i = 0; i < cells; ++i) {
    double covered = 0;
    for (const model::Range& range : ranges) {
      const double begin = std::max<double>(i, static_cast<double>(range.begin) * per_unit);
      const double end = std::min<double>(i + 1, static_cast<double>(range.end) * per_unit);
      covered += std::max(0.0, end - begin);
    }
    text += cell(ranges.empty() ? 0 : covered / static_cast<double>(ranges.size()));
  }
  return text;
}

std::vector<model::Range> planned_rows(const plan::Plan& plan) {
  const auto divided =
      std::count_if(plan.parts.begin(), plan.parts.end(),
                    [](const plan::PlanPart& part) { return part.share()->rows > 0; });
  const std::int64_t rows = plan::rows_in(plan.teacher, plan.shape);
  if (divided == 0 || rows < divided) return {};
  return plan::rows_of(plan, rows);
}

std::string drawing(const plan::Plan& plan, int columns) {
  constexpr int label_width = 11, text_width = 18;
  std::size_t name_width = 0;
  for (const auto& part : plan.parts) name_width = std::max(name_width, part.device.size());
  const int cells =
      std::clamp(columns - static_cast<int>(name_width) - label_width - text_width - 8, 8, 64);
  const auto padded = [](std::string text, std::size_t width) {
    text.resize(std::max(text.size(), width), ' ');
    return text;
  };
  const std::vector<model::Range> rows = planned_rows(plan);
  std::string text;
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    std::string name = plan.parts[p].device;
    for (const Line& line : lines_of(plan, p, rows)) {
      text += "  " + padded(std::move(name), name_width) + "  " + padded(line.what, label_width) +
              "  " + bar(line.ranges, line.total, cells) + "  " + text_of(line.ranges, line.total) +
              "\n";
      name.clear();
    }
  }
  return text;
}

}  // namespace cleave::tools
