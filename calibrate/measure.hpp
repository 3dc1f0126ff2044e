#pragma once

#include <string>
#include <string_view>

#include "base/remark.hpp"
#include "model/config/config.hpp"

namespace cleave::calibrate {

/// In what a model's answers are measured: the share of right ones (classification), Spearman's
/// rank correlation of cosine and score (embedding), nats a token (language models).
struct Measure {
  std::string_view name;  // "accuracy", "spearman", "nats"
  bool more_is_better = true;
};
Measure measure_of(const model::ModelConfig& config);
/// The measure of this name, as a bundle's figures have it; accuracy where it is none of them.
Measure measure_named(std::string_view name);

/// "93.48 %", "86.72" (Spearman times 100), "1.6123 nats (perplexity 5.01)".
std::string to_text(const Measure& measure, double value);
/// How much worse than the teacher's: points of accuracy or of Spearman times 100; per cent of the
/// teacher's nats.
double lost(const Measure& measure, double teacher, double value);
/// "+0.31": points more than `other`, or per cent above its nats; "–" where one is no number.
std::string compared(const Measure& measure, double other, double value);

/// A warning where a model gives no right answer on a split that was measured.
base::Remarks nothing_right(const Measure& measure, double value, const std::string& split);

}  // namespace cleave::calibrate
