#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/progress.hpp"
#include "base/remark.hpp"
#include "model/config/config.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::tools {

/// A table for people: columns align, numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  Table& row(std::vector<std::string> cells);
  /// Aligned text, a rule below the header.
  std::string text() const;
  std::string csv() const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

/// For dumping JSON: what others said, and names of files, may be no UTF-8.
constexpr auto replace_invalid = nlohmann::json::error_handler_t::replace;

/// printf into a string.
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
/// "91.23 %".
std::string percent(double share, int decimals = 2);

/// Columns that a terminal shows for UTF-8 text (one for each code point).
std::size_t display_width(std::string_view text);

/// A bar on standard error while work goes on: drawn only on a terminal, cleared at the end;
/// remarks on the work are lines there anyway. The callback returns false once SIGINT came, so that
/// the work stops at its next checkpoint.
class ProgressBar {
 public:
  /// Without a bar where standard error is no terminal, silent where `shown` is false.
  explicit ProgressBar(bool shown = true);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  base::ProgressCallback callback();

 private:
  void draw(const base::Progress& progress);
  void say(const std::string& remark);
  bool silent_ = false, terminal_ = false, drawn_ = false;
  double started_ = 0, shown_ = 0;
  std::string what_;
};

/// Says on standard error what a model folder's files say and is ignored, and what is odd about its
/// tensors, once in a run.
void say_notes(const std::filesystem::path& folder);

/// Says on standard error how many texts of a data set were cut to `length` tokens (0: the
/// context).
void warn_of_shortened(std::int64_t texts, std::int64_t length);
/// Says remarks on standard error.
void say(const base::Remarks& remarks);
/// The same for programs: [{"what": "other_files", "count": 3, "warning": false, "text": "…"}].
nlohmann::json to_json(const base::Remarks& remarks);
/// Says on standard error where a run computed in another number format than its recipe names.
void warn_of_number_format(model::Compute recipe, model::Compute used);

/// Says on standard error, in one line, where answers from these weights mean little; `where` is
/// the folder or the server that has them.
void warn_of_weights(plan::WeightsState state, const std::string& where);

/// Says on standard output, at once, that a program listens, what its runtime takes, which plans it
/// serves and what the weights of the first are.
void announce(bool json, const std::string& name, const std::string& address, double runtime_bytes,
              plan::WeightsState weights, const std::vector<plan::Plan>& plans);

}  // namespace cleave::tools
