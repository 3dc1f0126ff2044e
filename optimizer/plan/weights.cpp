#include "optimizer/plan/weights.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>

#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/names.hpp"

namespace cleave::plan {
namespace {

/// Collects what one instruction reads of one part's parameters.
class Reads {
 public:
  explicit Reads(const Plan& plan) : plan_(plan) {}
  std::vector<WeightRange> take() { return std::move(read_); }

  void operator()(const Embed& i) {
    if (!config_of(i.part, plan_).is_text()) {
      for (const auto& [name, parameter] : of(i.part))
        if (name.rfind("embedding.", 0) == 0) whole(i.part, name);
      return;
    }
    some(i.part, "embedding.token", 0, i.vocabulary);
    if (!i.positions) return;
    whole(i.part, "embedding.position");
    whole(i.part, "embedding.type");
  }
  void operator()(const Norm& i) { norm(i.part, model::norm_prefix(i.layer, i.which)); }
  void operator()(const Project& i) {
    const model::ModelConfig& config = config_of(i.part, plan_);
    const std::int64_t unit =
        config.head_width * (i.which == model::Projection::query ? config.group : 1);
    rows(i.part, model::projection_prefix(i.layer, i.which), times(i.heads, unit));
  }
  void operator()(const AttendInputs& i) {
    const model::Range units = times(i.heads, config_of(i.part, plan_).head_width);
    some(i.part, model::projection_prefix(i.layer, model::Projection::key) + ".weight", 0, units);
    rows(i.part, model::projection_prefix(i.layer, model::Projection::value), units);
  }
  void operator()(const ProjectOut& i) {
    const model::ModelConfig& config = config_of(i.part, plan_);
    columns(i.part, model::output_prefix(i.layer, model::Half::attention),
            times(i.heads, config.head_width * config.group), i.with_bias);
  }
  void operator()(const MlpUp& i) {
    rows(i.part, model::block_prefix(i.layer) + "mlp.gate", i.columns);
    rows(i.part, model::block_prefix(i.layer) + "mlp.up", i.columns);
  }
  void operator()(const MlpDown& i) {
    columns(i.part, model::output_prefix(i.layer, model::Half::mlp), i.columns, i.with_bias);
  }
  void operator()(const AddBias& i) {
    whole(i.part, model::output_prefix(i.layer, i.half) + ".bias");
  }
  void operator()(const ReadOut& i) {
    if (config_of(i.part, plan_).norm_placement == model::NormPlacement::before)
      norm(i.part, model::norm_prefix(-1, model::NormOf::feature));
  }
  void operator()(const Head& i) {
    const model::ModelConfig& config = config_of(i.part, plan_);
    for (const model::Parameter& parameter : model::head_parameters(config)) {
      const bool by_token =
          parameter.name == "embedding.token" || parameter.name.rfind("head.", 0) == 0;
      if (config.reads_every_token() && by_token)
        some(i.part, parameter.name, 0, i.vocabulary);
      else
        whole(i.part, parameter.name);
    }
  }
  template <class Operation>
  void operator()(const Operation&) {}

 private:
  static model::Range times(const model::Range& range, std::int64_t unit) {
    return {range.begin * unit, range.end * unit};
  }
  /// Those that the part has: a bias may be missing.
  const model::Parameter* find(std::int32_t part, const std::string& name) {
    const auto found = of(part).find(name);
    return found == of(part).end() ? nullptr : &found->second;
  }
  const model::ParametersByName& of(std::int32_t part) {
    if (part != known_part_) parameters_ = model::parameters_by_name(config_of(part, plan_));
    known_part_ = part;
    return *parameters_;
  }
  void some(std::int32_t part, const std::string& name, std::int64_t axis, model::Range range) {
    if (find(part, name)) read_.push_back({part, {name, axis, range}});
  }
  void whole(std::int32_t part, const std::string& name) {
    if (const model::Parameter* parameter = find(part, name))
      read_.push_back({part, {name, 0, {0, parameter->dims().at(0)}}});
  }
  void norm(std::int32_t part, const std::string& prefix) {
    whole(part, prefix + ".weight");
    whole(part, prefix + ".bias");
  }
  /// Units that a product writes.
  void rows(std::int32_t part, const std::string& prefix, model::Range range) {
    some(part, prefix + ".weight", 0, range);
    some(part, prefix + ".bias", 0, range);
  }
  /// Units that it reads.
  void columns(std::int32_t part, const std::string& prefix, model::Range range, bool with_bias) {
    some(part, prefix + ".weight", 1, range);
    if (with_bias) whole(part, prefix + ".bias");
  }

  const Plan& plan_;
  std::vector<WeightRange> read_;
  std::shared_ptr<const model::ParametersByName> parameters_;  // of known_part_
  std::int32_t known_part_ = -2;
};

/// From the first of both to the last.
void join(model::ParameterRange& all, const model::ParameterRange& more) {
  if (all.axis != more.axis)
    throw std::logic_error("[weights] " + all.name + ": is read along two axes");
  if (more.range.size() == 0) return;
  if (all.range.size() == 0) all.range = more.range;
  all.range = {std::min(all.range.begin, more.range.begin),
               std::max(all.range.end, more.range.end)};
}

}  // namespace

const model::ModelConfig& config_of(std::int32_t part, const Plan& plan) {
  return part == teacher_part ? plan.teacher
                              : plan.parts.at(static_cast<std::size_t>(part)).sub_model().config;
}

std::vector<WeightRange> weights_of(const Instruction& instruction, const Plan& plan) {
  Reads reads(plan);
  std::visit([&reads](const auto& i) { reads(i); }, instruction);
  return reads.take();
}

std::vector<WeightRange> weights_of(const std::vector<const Program*>& programs, const Plan& plan) {
  Reads reads(plan);
  for (const Program* program : programs)
    for (const Instruction& instruction : program->instructions)
      std::visit([&reads](const auto& i) { reads(i); }, instruction);
  std::map<std::pair<std::int32_t, std::string>, WeightRange> held;
  for (const WeightRange& read : reads.take()) {
    const auto [at, added] = held.emplace(std::pair(read.part, read.held.name), read);
    if (!added) join(at->second.held, read.held);
  }
  std::vector<WeightRange> list;
  for (auto& [name, weights] : held) list.push_back(std::move(weights));
  return list;
}

std::vector<RequestShape> shapes_of(const Plan& plan) {
  if (!plan.teacher.is_text()) return {plan.shape};
  std::vector<RequestShape> shapes = {{1, 1, 0}, {1, plan.teacher.context, 0}};
  if (plan.teacher.causal) {
    shapes.push_back(shapes.back());
    shapes.back().continues = true;
  }
  return shapes;
}

std::vector<model::ParameterRange> holding_of(const std::vector<Plan>& plans,
                                              const std::string& device) {
  std::map<std::string, model::ParameterRange> held;
  for (const Plan& plan : plans) {
    const auto rank = rank_of(plan, device);
    if (!rank || !plan.parts[*rank].share()) continue;
    for (const RequestShape& shape : shapes_of(plan)) {
      const Program program = compile(plan, shape).at(*rank);
      for (WeightRange& weights : weights_of(std::vector<const Program*>{&program}, plan)) {
        const auto [at, added] = held.emplace(weights.held.name, weights.held);
        if (!added) join(at->second, weights.held);
      }
    }
  }
  std::vector<model::ParameterRange> list;
  for (auto& [name, range] : held) list.push_back(std::move(range));
  return list;
}

double held_bytes(const std::vector<Plan>& plans, const std::string& device) {
  double bytes = 0;
  for (const Plan& plan : plans)
    if (const auto rank = rank_of(plan, device); rank && !plan.parts[*rank].share())
      bytes += weight_bytes(plan.parts[*rank].sub_model().config);
  for (const model::ParameterRange& held : holding_of(plans, device))
    bytes += 4 * static_cast<double>(model::count_of(held, plans.front().teacher));
  return bytes;
}

void expect_held(const Bundle& bundle, const Plan& plan, const std::string& device) {
  const auto refuse = [&](const std::string& what) {
    throw std::invalid_argument("[plan '" + plan.name + "'] " + what);
  };
  const std::string& teacher = bundle.manifest().teacher_digest;
  if (plan.teacher_digest != teacher)
    refuse("teacher_digest: saw " + plan.teacher_digest.substr(0, 12) + ", the bundle has " +
           teacher.substr(0, 12));
  const auto rank = rank_of(plan, device);
  if (!rank) refuse("saw no device " + shown(device));
  const std::string again = "; cut the bundle again";
  const PlanPart& part = plan.parts[*rank];
  if (!part.share()) {
    const std::vector<std::string> known = bundle.manifest().plans();
    if (std::find(known.begin(), known.end(), plan.name) == known.end())
      refuse("parts/" + plan.name + ": is not in the bundle" + again);
    const Plan cut = bundle.plan(plan.name);
    const auto at = rank_of(cut, device);
    if (!at || cut.parts[*at].share() ||
        !(cut.parts[*at].sub_model().config == part.sub_model().config) ||
        cut.parts[*at].sub_model().layers != part.sub_model().layers)
      refuse("parts/" + plan.name + "/" + device + ": was cut to other widths or layers" + again);
    return;
  }
  const std::string inside = "holdings/" + device;
  if (bundle.manifest().files.count(inside + "/holding.json") == 0)
    refuse(inside + ": is not in the bundle" + again);
  if (!std::filesystem::exists(bundle.folder() / inside))
    refuse(inside + ": is not here: copy it from where the bundle was made");
  const model::Holding holding = model::read_holding(bundle.folder() / inside);
  std::map<std::string, model::ParameterRange> held;
  for (const model::ParameterRange& range : holding.weights) held[range.name] = range;
  for (const model::ParameterRange& needed : holding_of({plan}, device)) {
    const auto found = held.find(needed.name);
    const model::Range range = found == held.end() || found->second.axis != needed.axis
                                   ? model::Range()
                                   : found->second.range;
    if (needed.range.size() > 0 &&
        (needed.range.begin < range.begin || needed.range.end > range.end))
      refuse(inside + ": saw " + std::to_string(range.begin) + ":" + std::to_string(range.end) +
             " of " + needed.name + ", needs " + std::to_string(needed.range.begin) + ":" +
             std::to_string(needed.range.end) + again);
  }
}

}  // namespace cleave::plan
