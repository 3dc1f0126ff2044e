#include "calibrate/measure.hpp"

#include <cmath>
#include <cstdio>

namespace cleave::calibrate {
namespace {

std::string formatted(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

}  // namespace

Measure measure_of(const model::ModelConfig& config) {
  if (config.task == model::Task::classification) return measure_named("accuracy");
  return measure_named(config.task == model::Task::embedding ? "spearman" : "nats");
}

Measure measure_named(std::string_view name) {
  if (name == "spearman") return {"spearman", true};
  if (name == "nats") return {"nats", false};
  return {"accuracy", true};
}

std::string to_text(const Measure& measure, double value) {
  if (std::isnan(value)) return "–";
  if (measure.name == "accuracy") return formatted("%.2f %%", 100 * value);
  if (measure.name == "spearman") return formatted("%.2f", 100 * value);
  return formatted("%.4f nats", value) + formatted(" (perplexity %.4g)", std::exp(value));
}

std::string compared(const Measure& measure, double other, double value) {
  if (std::isnan(other) || std::isnan(value)) return "–";
  const double worse = lost(measure, other, value);
  return formatted("%+.2f", measure.more_is_better ? 0 - worse : worse);  // no "-0.00"
}

double lost(const Measure& measure, double teacher, double value) {
  return measure.more_is_better ? 100 * (teacher - value) : 100 * (value / teacher - 1);
}

base::Remarks nothing_right(const Measure& measure, double value, const std::string& split) {
  if (measure.name != "accuracy" || value != 0) return {};
  return {{"nothing_right", 1,
           "[" + split + "] no answer is right: " + to_text(measure, value) +
               ", less than guessing gives; are its classes learned from?",
           true}};
}

}  // namespace cleave::calibrate
