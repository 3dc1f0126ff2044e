#include "tools/commands/show.hpp"

#include <algorithm>
#include <numeric>

#include "base/units.hpp"
#include "optimizer/plan/work.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

std::string range_text(const std::vector<std::int64_t>& sorted) {
  std::string text;
  for (std::size_t i = 0; i < sorted.size();) {
    std::size_t j = i;
    while (j + 1 < sorted.size() && sorted[j + 1] == sorted[j] + 1) ++j;
    text += (text.empty() ? "" : ",") + std::to_string(sorted[i]) +
            (j > i ? "-" + std::to_string(sorted[j]) : "");
    i = j + 1;
  }
  return text;
}

/// "3" where all layers agree, "2-3" else.
template <typename Field>
std::string span_text(const model::ModelConfig& config, Field field) {
  if (config.layers.empty()) return "–";
  const auto [low, high] =
      std::minmax_element(config.layers.begin(), config.layers.end(),
                          [&](const auto& a, const auto& b) { return field(a) < field(b); });
  const auto a = field(*low), b = field(*high);
  return a == b ? std::to_string(a) : std::to_string(a) + "-" + std::to_string(b);
}

std::string units_text(const plan::Share& share, model::Range plan::LayerShare::*field) {
  std::string text;
  for (const plan::LayerShare& layer : share.layers) {
    const model::Range& range = layer.*field;
    if (range.size() == 0) continue;
    const std::string units = std::to_string(range.begin) + ":" + std::to_string(range.end);
    if (text.empty()) text = units;
    if (text != units) return "differ";
  }
  return text.empty() ? "–" : text;
}

/// What each device does of the teacher: layers, heads of keys and values, columns, rows.
std::string shares_table(const plan::Plan& plan) {
  Table table(
      {"device", "layers", "heads", "MLP columns", "rows", "parameters", "of multiply-adds"});
  double rows = 0;  // 0: each device has all of them
  for (const auto& part : plan.parts) rows += static_cast<double>(part.share()->rows);
  for (const auto& part : plan.parts) {
    std::vector<std::int64_t> layers;
    for (std::size_t l = 0; l < part.share()->layers.size(); ++l)
      if (!(part.share()->layers[l] == plan::LayerShare()))
        layers.push_back(static_cast<std::int64_t>(l));
    table.row({part.device, range_text(layers), units_text(*part.share(), &plan::LayerShare::heads),
               units_text(*part.share(), &plan::LayerShare::columns),
               rows > 0 ? percent(static_cast<double>(part.share()->rows) / rows, 1) : "all",
               percent(part.parameter_share, 1), percent(part.compute_share, 1)});
  }
  return table.text();
}

std::string parts_table(const plan::Plan& plan) {
  if (plan::is_shared(plan)) return shares_table(plan);
  Table table(
      {"device", "width", "heads", "MLP", "layers", "parameters", "of teacher", "of its blocks"});
  const auto blocks = [](const model::ModelConfig& config) {
    return static_cast<double>(model::count_parameters(config, true));
  };
  for (const auto& part : plan.parts) {
    const auto& [config, layers] = part.sub_model();
    table.row(
        {part.device, std::to_string(config.width),
         span_text(config, [](const auto& layer) { return layer.heads; }),
         span_text(config, [](const auto& layer) { return layer.mlp_width; }), range_text(layers),
         base::format_count(static_cast<double>(model::count_parameters(config))),
         percent(part.parameter_share, 1), percent(blocks(config) / blocks(plan.teacher), 1)});
  }
  table.row({"(teacher)", std::to_string(plan.teacher.width),
             span_text(plan.teacher, [](const auto& layer) { return layer.heads; }),
             span_text(plan.teacher, [](const auto& layer) { return layer.mlp_width; }),
             "0-" + std::to_string(plan.teacher.num_layers() - 1),
             base::format_count(static_cast<double>(model::count_parameters(plan.teacher))),
             "100.0 %", "100.0 %"});
  return table.text();
}

std::string prediction_table(const plan::Prediction& prediction) {
  Table table({"device", "compute", "send", "receive", "runtime", "model", "peak", "limit", "sent",
               "energy"});
  for (const auto& device : prediction.devices) {
    table.row({device.device, base::format_seconds(device.compute_s),
               base::format_seconds(device.send_s), base::format_seconds(device.receive_s),
               base::format_bytes(device.runtime_bytes), base::format_bytes(device.model_bytes),
               base::format_bytes(device.runtime_bytes + device.model_bytes),
               device.limit_bytes > 0 ? base::format_bytes(device.limit_bytes) : "–",
               base::format_bytes(device.sent_bytes),
               device.energy_j > 0 ? format("%.3g J", device.energy_j) : "–"});
  }
  return table.text();
}

std::string overlap_line(const plan::Plan& plan) {
  if (plan::is_shared(plan) || plan.parts.size() < 2) return {};
  std::int64_t width = 0;
  for (const auto& part : plan.parts) width += part.sub_model().config.width;
  return format(
      "widths sum to %lld, %.2f times the teacher's: %s\n", static_cast<long long>(width),
      static_cast<double>(width) / static_cast<double>(plan.teacher.width),
      width > plan.teacher.width ? "parts share channels" : "parts need not share channels");
}

/// What the rows of a device are for the others.
std::string segments_line(const plan::Plan& plan) {
  if (!plan.segments) return {};
  const auto numbers = [](const std::vector<std::int64_t>& of_layers, double unit) {
    std::string text;
    for (const std::int64_t number : of_layers)
      text += (text.empty() ? "" : ", ") + format("%g", static_cast<double>(number) / unit);
    return text;
  };
  const std::string content =
      plan.segments->content == plan::Segments::Content::means ? "means" : "centres of clusters";
  return "a device's rows are " + content + " for the others: " +
         (plan.segments->count.empty()
              ? "one of " + numbers(plan.segments->compression, 100) + " rows"
              : numbers(plan.segments->count, 1) + " of each device") +
         (plan.segments->compression.size() + plan.segments->count.size() > 1 ? ", by layer\n"
                                                                              : "\n");
}

}  // namespace

std::string describe(const plan::RequestShape& shape) {
  const std::string batch = "a batch of " + std::to_string(shape.batch);
  if (shape.tokens == 0) return batch;
  if (shape.generate == 0) return batch + " with " + std::to_string(shape.tokens) + " tokens";
  return "a token of " + batch + ", " + std::to_string(shape.generate) + " behind a prompt of " +
         std::to_string(shape.tokens);
}

std::string describe(const plan::Plan& plan) {
  std::string text = "strategy " + plan.strategy + ", aggregator on " + plan.aggregator;
  if (plan.wire != base::Element::f32)
    text += ", values travel as " + std::string(base::name_of(plan.wire));
  text += "\n\n" + parts_table(plan) + overlap_line(plan) + segments_line(plan);
  text += "\npredicted for " + describe(plan.shape) + ": latency " +
          base::format_seconds(plan.prediction.latency_s) + ", bottleneck " +
          plan.prediction.bottleneck +
          (plan.segments ? ", answers nearly as the teacher does\n\n"
           : plan::is_shared(plan)
               ? std::string(", answers as the teacher does\n\n")
               : ", kept importance " + percent(plan.prediction.kept_importance, 1) +
                     " (an estimate)\n\n") +
          prediction_table(plan.prediction);
  if (!plan.candidates.empty()) {
    Table losers({"considered", "latency", "why not"});
    for (const auto& candidate : plan.candidates)
      losers.row({candidate.what,
                  candidate.latency_s > 0 ? base::format_seconds(candidate.latency_s) : "–",
                  candidate.reason});
    text += "\n" + losers.text();
  }
  return text;
}

std::string describe_layers(const model::ModelConfig& config) {
  std::string text;
  for (std::size_t i = 0; i < config.layers.size();) {
    std::size_t j = i;
    while (j + 1 < config.layers.size() && config.layers[j + 1] == config.layers[i]) ++j;
    text += format(
        "  layer %s: %lld heads of %lld, MLP %lld\n",
        i == j ? std::to_string(i).c_str() : (std::to_string(i) + "-" + std::to_string(j)).c_str(),
        static_cast<long long>(config.layers[i].heads), static_cast<long long>(config.head_width),
        static_cast<long long>(config.layers[i].mlp_width));
    i = j + 1;
  }
  return text;
}

double total_flops(const model::ModelConfig& config) {
  const auto kernels = plan::kernels_of_model(config, {1, 1, 0}, config.classes > 0);
  return std::accumulate(
      kernels.begin(), kernels.end(), 0.0,
      [](double sum, const plan::Kernel& kernel) { return sum + kernel.flops(); });
}

std::string describe(const model::ModelConfig& config) {
  const auto count = [](std::int64_t n) { return std::to_string(n); };
  const std::string reads = config.is_text()
                                ? "context of " + count(config.context) +
                                      " tokens, vocabulary of " + count(config.vocabulary)
                                : count(config.num_tokens()) + " tokens";
  const std::string answers = config.task == model::Task::embedding ? "embeddings"
                              : config.reads_every_token()
                                  ? (config.classes > 0 ? "logits of tokens" : "features of tokens")
                                  : count(config.classes) + " classes";
  return format("%s, %lld layers, width %lld, %s, %s%s\n  %s parameters, %s, %s FLOPs %s\n",
                std::string(model::name_of(config.family)).c_str(),
                static_cast<long long>(config.num_layers()), static_cast<long long>(config.width),
                reads.c_str(), answers.c_str(),
                config.random_weights ? ", random weights (not trained)" : "",
                base::format_count(static_cast<double>(model::count_parameters(config))).c_str(),
                base::format_bytes(plan::weight_bytes(config)).c_str(),
                base::format_count(total_flops(config)).c_str(),
                config.is_text() ? "a token" : "an image") +
         describe_layers(config);
}

}  // namespace cleave::tools
