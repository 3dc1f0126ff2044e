#include "tools/print.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <set>
#include <unistd.h>
#include <utility>

#include "base/text.hpp"
#include "base/units.hpp"
#include "model/config/folder_fields.hpp"
#include "model/config/hugging_face.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool looks_numeric(const std::string& cell) {
  return !cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) || cell[0] == '-' ||
                           cell[0] == '+' || cell == "–");
}

std::string padded(const std::string& cell, std::size_t width, bool right) {
  const std::size_t seen = display_width(cell);
  const std::string space(width > seen ? width - seen : 0, ' ');
  return right ? space + cell : cell + space;
}

std::string csv_cell(const std::string& cell) {
  if (cell.find_first_of(",\"\n") == std::string::npos) return cell;
  std::string quoted = "\"";
  for (char c : cell) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

Table& Table::row(std::vector<std::string> cells) {
  cells.resize(header_.size());
  rows_.push_back(std::move(cells));
  return *this;
}

std::string Table::text() const {
  std::vector<std::size_t> widths(header_.size());
  std::vector<bool> right(header_.size(), !rows_.empty());
  for (std::size_t c = 0; c < header_.size(); ++c) {
    widths[c] = display_width(header_[c]);
    for (const auto& row : rows_) {
      widths[c] = std::max(widths[c], display_width(row[c]));
      if (!row[c].empty() && !looks_numeric(row[c])) right[c] = false;
    }
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string result;
    for (std::size_t c = 0; c < cells.size(); ++c)
      result += (c == 0 ? "" : "  ") + padded(cells[c], widths[c], right[c]);
    result.erase(result.find_last_not_of(' ') + 1);
    return result + '\n';
  };
  std::string result = line(header_), rule;
  for (std::size_t c = 0; c < widths.size(); ++c)
    rule += (c == 0 ? "" : "  ") + std::string(widths[c], '-');
  result += rule + '\n';
  for (const auto& row : rows_) result += line(row);
  return result;
}

std::string Table::csv() const {
  std::string result;
  const auto line = [&result](const std::vector<std::string>& cells) {
    for (std::size_t c = 0; c < cells.size(); ++c)
      result += (c == 0 ? "" : ",") + csv_cell(cells[c]);
    result += '\n';
  };
  line(header_);
  for (const auto& row : rows_) line(row);
  return result;
}

std::string format(const char* pattern, ...) {
  va_list args, again;
  va_start(args, pattern);
  va_copy(again, args);
  const int size = std::vsnprintf(nullptr, 0, pattern, args);
  std::string result(static_cast<std::size_t>(std::max(size, 0)), '\0');
  std::vsnprintf(result.data(), result.size() + 1, pattern, again);
  va_end(again);
  va_end(args);
  return result;
}

std::string percent(double share, int decimals) {
  return std::isnan(share) ? "–" : format("%.*f %%", decimals, 100 * share);
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

ProgressBar::ProgressBar(bool shown)
    : silent_(!shown), terminal_(shown && isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

base::ProgressCallback ProgressBar::callback() {
  return [this](const base::Progress& progress) {
    if (progress.total == 0 && !progress.note.empty())
      say(progress.note);
    else if (terminal_)
      draw(progress);
    return !stop_wanted();
  };
}

void ProgressBar::draw(const base::Progress& progress) {
  const double now = now_s();
  if (progress.what != what_) {
    what_ = progress.what;
    started_ = now;
  } else if (now - shown_ < 0.1) {
    return;
  }
  shown_ = now;
  drawn_ = true;
  const double share =
      progress.total > 0
          ? std::clamp(static_cast<double>(progress.done) / static_cast<double>(progress.total),
                       0.0, 1.0)
          : 0;
  constexpr int cells = 28;
  const int full = static_cast<int>(share * cells);
  std::string bar;
  for (int i = 0; i < cells; ++i) bar += i < full ? "█" : "░";
  const std::string left =
      share > 0.02 ? base::format_seconds((now - started_) * (1 - share) / share) + " left" : "";
  std::fprintf(stderr, "\r\033[K%s %s %3.0f %%  %s  %s", what_.c_str(), bar.c_str(), 100 * share,
               progress.note.c_str(), left.c_str());
  std::fflush(stderr);
}

void say_notes(const std::filesystem::path& folder) {
  static std::set<std::string> said;
  const auto say = [](const std::string& note) {
    if (said.insert(note).second) std::fprintf(stderr, "note: %s\n", note.c_str());
  };
  for (const std::string& note : model::folder_notes(folder)) say(note);
  try {
    const model::ModelConfig config = model::read_config(folder);
    if (!config.tied_head) return;
    for (const auto& note : model::tensor_notes(config, model::TensorFiles(folder))) say(note);
  } catch (
      const std::runtime_error&) {  // a tokenizer alone; who reads the model says what is wrong
  }
}

void warn_of_shortened(std::int64_t texts, std::int64_t length) {
  if (texts > 0)
    std::fprintf(stderr, "%lld texts are longer than %s: only their beginnings count\n",
                 static_cast<long long>(texts),
                 length > 0 ? (std::to_string(length) + " tokens").c_str() : "the context");
}

void ProgressBar::say(const std::string& remark) {
  if (silent_) return;
  std::fprintf(stderr, "%s%s\n", std::exchange(drawn_, false) ? "\r\033[K" : "", remark.c_str());
}

void say(const base::Remarks& remarks) {
  for (const auto& remark : remarks) std::fprintf(stderr, "%s\n", base::to_text(remark).c_str());
}

nlohmann::json to_json(const base::Remarks& remarks) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& remark : remarks)
    list.push_back({{"what", remark.what},
                    {"count", remark.count},
                    {"warning", remark.warning},
                    {"text", remark.text}});
  return list;
}

void warn_of_number_format(model::Compute recipe, model::Compute used) {
  if (used != recipe)
    std::fprintf(stderr,
                 "computed in fp32: products in bf16, which the recipe names, take longer here\n");
}

void warn_of_weights(plan::WeightsState state, const std::string& where) {
  const auto warn = [&](const char* what) {
    std::fprintf(stderr, "warning: %s %s\n", where.c_str(), what);
  };
  switch (state) {
    case plan::WeightsState::random:
      return warn("has random weights: its answers mean nothing");
    case plan::WeightsState::uncalibrated:
      return warn("was never calibrated: its answers mean little before `cleave calibrate`");
    case plan::WeightsState::fitted:
      return warn(
          "was fitted and never calibrated: its answers come nearer to the teacher's with `cleave "
          "calibrate`");
    case plan::WeightsState::unfinished:
      return warn(
          "has a calibration that is unfinished: its answers mean little before the same `cleave "
          "calibrate` has ended");
    case plan::WeightsState::rejected:
      return warn(
          "is not calibrated: `cleave calibrate` ended worse than it began, and its weights were "
          "kept as they were cut");
    case plan::WeightsState::exact:
    case plan::WeightsState::calibrated:
    case plan::WeightsState::unknown:
      return;
  }
}

void announce(bool json, const std::string& name, const std::string& address, double runtime_bytes,
              plan::WeightsState weights, const std::vector<plan::Plan>& plans) {
  std::vector<std::string> names;
  for (const plan::Plan& plan : plans) names.push_back(plan.name);
  if (json) {
    std::printf("%s\n", nlohmann::json{{"name", name},
                                       {"address", address},
                                       {"runtime_bytes", runtime_bytes},
                                       {"weights", plan::name_of(weights)},
                                       {"plans", names}}
                            .dump()
                            .c_str());
  } else {
    const std::string served = names.size() > 1 ? ", plans " + base::joined(names) : "";
    std::printf("%s (runtime %s%s) listens on %s\n", name.c_str(),
                base::format_bytes(runtime_bytes).c_str(), served.c_str(), address.c_str());
  }
  std::fflush(stdout);
}

}  // namespace cleave::tools
