#include "decompose/decompose.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include "base/file.hpp"
#include "base/lock.hpp"
#include "decompose/fit/heads.hpp"
#include "decompose/fit/unit_losses.hpp"
#include "decompose/folder.hpp"
#include "decompose/holding.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/fusion.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "optimizer/plan/program.hpp"
#include "optimizer/plan/weights.hpp"
#include "optimizer/plan/work.hpp"

namespace cleave::decompose {
namespace {

namespace fs = std::filesystem;
using Indices = std::vector<std::int64_t>;

// ---- selection ----

/// The units of one group, and how many parts hold each so far.
class Pool {
 public:
  Pool(std::vector<double> importance, double discount)
      : importance_(std::move(importance)), held_(importance_.size(), 0), discount_(discount) {}

  /// The `count` units of the highest score, ascending.
  Indices take(std::int64_t count) {
    Indices order(importance_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return comes_before(index(a), index(b)); });
    order.resize(static_cast<std::size_t>(count));
    std::sort(order.begin(), order.end());
    for (const auto unit : order) ++held_[index(unit)];
    return order;
  }

 private:
  static std::size_t index(std::int64_t unit) { return static_cast<std::size_t>(unit); }

  bool comes_before(std::size_t a, std::size_t b) const {
    const double score_a = importance_[a] * std::pow(discount_, held_[a]);
    const double score_b = importance_[b] * std::pow(discount_, held_[b]);
    if (score_a != score_b) return score_a > score_b;
    if (held_[a] != held_[b]) return held_[a] < held_[b];
    return importance_[a] > importance_[b];
  }

  std::vector<double> importance_;
  std::vector<int> held_;
  double discount_;
};

/// The teacher's units, taken by one part after the other.
class Selection {
 public:
  Selection(const Importance& importance, double discount)
      : channels_(importance.channels, discount) {
    for (const auto& heads : importance.heads) heads_.emplace_back(heads, discount);
    for (const auto& mlp : importance.mlp) mlp_.emplace_back(mlp, discount);
  }

  KeepList take(const plan::PlanPart& part) {
    KeepList keep;
    const auto& [config, layers] = part.sub_model();
    keep.layers = layers;
    keep.channels = channels_.take(config.width);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto layer = static_cast<std::size_t>(layers[i]);
      keep.heads.push_back(heads_[layer].take(config.layers[i].heads / config.group));
      keep.mlp.push_back(mlp_[layer].take(config.layers[i].mlp_width));
    }
    keep.classifier = config.classes > 0;
    return keep;
  }

 private:
  Pool channels_;
  std::vector<Pool> heads_, mlp_;
};

/// Share of the teacher's channels and heads that at least `parts` of the parts hold.
double share_held(const model::ModelConfig& teacher, const std::vector<KeepList>& keeps,
                  int parts) {
  std::map<std::pair<std::int64_t, std::int64_t>, int> held;  // (layer, head); channels: (−1, c)
  for (const auto& keep : keeps) {
    for (const auto channel : keep.channels) ++held[{-1, channel}];
    for (std::size_t i = 0; i < keep.layers.size(); ++i) {
      for (const auto head : keep.heads[i]) ++held[{keep.layers[i], head}];
    }
  }
  const auto enough = std::count_if(held.begin(), held.end(),
                                    [&](const auto& unit) { return unit.second >= parts; });
  std::int64_t units = teacher.width;
  for (const auto& layer : teacher.layers) units += layer.heads / teacher.group;
  return static_cast<double>(enough) / static_cast<double>(units);
}

// ---- the plan ----

/// Two configs of one shape; names, pictures and where the weights come from aside.
bool same_shape(model::ModelConfig a, const model::ModelConfig& b) {
  a.labels = b.labels;
  a.processing = b.processing;
  a.random_weights = b.random_weights;
  a.held_out = b.held_out;
  a.texts_per_row = b.texts_per_row;
  return a == b;
}

std::string shape_text(const model::ModelConfig& config) {
  return "width " + std::to_string(config.width) + ", " + std::to_string(config.num_layers()) +
         " layers, " + std::to_string(model::count_parameters(config)) + " parameters";
}

/// Makes the plan one of this very teacher, or throws.
void adopt(plan::Plan& plan, const model::ModelConfig& teacher, const std::string& digest) {
  if (!same_shape(plan.teacher, teacher)) {
    throw std::invalid_argument("[decompose] plan.teacher: made for another model (" +
                                shape_text(plan.teacher) + "), the teacher has " +
                                shape_text(teacher));
  }
  if (!plan.teacher_digest.empty() && plan.teacher_digest != digest) {
    throw std::invalid_argument("[decompose] plan.teacher_digest: saw " + plan.teacher_digest +
                                ", the teacher has " + digest);
  }
  plan.teacher = teacher;
  plan.teacher_digest = digest;
}

bool fuses(const plan::Plan& plan) {
  const auto programs = plan::compile(plan, plan.shape);
  return std::any_of(programs.begin(), programs.end(), [](const auto& program) {
    return plan::find_first<plan::Fuse>(program) != nullptr;
  });
}

// ---- the bundle ----

/// Progress of one part as progress of the whole.
base::ProgressCallback continued(const base::ProgressCallback& progress, std::int64_t before,
                                 std::int64_t total) {
  if (!progress) return {};
  return [&progress, before, total](base::Progress now) {
    now.done += before;
    now.total = total;
    return progress(now);
  };
}

void write_parts(const fs::path& teacher, const plan::Plan& plan,
                 const std::vector<KeepList>& keeps, const fs::path& folder,
                 const base::ProgressCallback& progress) {
  const auto num_tensors = [](const plan::PlanPart& part) {
    return static_cast<std::int64_t>(model::parameters(part.sub_model().config).size());
  };
  std::int64_t total = 0, done = 0;
  for (const auto& part : plan.parts) total += num_tensors(part);
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const auto out = folder / plan.parts[p].device;
    slice(teacher, keeps[p], out, continued(progress, done, total));
    write_keep(keeps[p], out / "keep.json");
    done += num_tensors(plan.parts[p]);
  }
}

/// The teacher's head alone: all that the fusion head takes from it.
model::Transformer head_of(const fs::path& teacher, const model::ModelConfig& config) {
  model::Transformer head;
  head.config = config;
  const model::TensorFiles files(teacher);
  std::set<std::string> needed;
  for (const auto& parameter : model::head_parameters(config)) needed.insert(parameter.name);
  for (const auto& stored : model::stored_tensors(config)) {
    if (needed.count(stored.parts.front().name) == 0) continue;
    head.tensors[stored.parts.front().name] = model::read_stored(config, files, stored).front();
  }
  return head;
}

/// Heads and MLP columns of parts that are refitted are worth what the refitted rest cannot make up
/// for.
Importance refitted(Importance importance, const fs::path& teacher, const FitRows& rows,
                    const FitOptions& options, const base::ProgressCallback& progress) {
  auto losses = unit_losses(teacher, rows, options.writer_ridge, options.threads, progress);
  importance.heads = std::move(losses.heads);
  importance.mlp = std::move(losses.mlp);
  return importance;
}

/// Fits the parts that were cut into `folder`: as many at a time as are small together.
Fit fit_parts(const fs::path& teacher, const plan::Plan& plan, std::vector<KeepList>& keeps,
              const fs::path& folder, const FitRows& rows, const FitOptions& options,
              const base::ProgressCallback& progress) {
  constexpr double most_bytes = 1e9;
  const auto bytes_of = [&](std::size_t p) {
    return plan::weight_bytes(plan.parts[p].sub_model().config);
  };
  Fit whole;
  for (std::size_t begin = 0, end = 0; begin < keeps.size(); begin = end) {
    double bytes = 0;
    std::vector<model::Transformer> parts;
    for (; end < keeps.size() && (end == begin || bytes + bytes_of(end) <= most_bytes); ++end) {
      bytes += bytes_of(end);
      parts.push_back(model::load(folder / plan.parts[end].device));
    }
    Fit fit = decompose::fit_parts(teacher,
                                   {keeps.begin() + static_cast<std::ptrdiff_t>(begin),
                                    keeps.begin() + static_cast<std::ptrdiff_t>(end)},
                                   std::move(parts), rows, options, progress);
    for (std::size_t p = begin; p < end; ++p) {
      FittedPart& part = fit.parts[p - begin];
      const auto out = folder / plan.parts[p].device;
      keeps[p].stream = part.stream;
      if (!part.exact && options.what != FitOptions::What::heads) model::save(part.model, out);
      write_keep(keeps[p], out / "keep.json");
      part.model.tensors.clear();
      whole.parts.push_back(std::move(part));
    }
    whole.teacher_features = std::move(fit.teacher_features);
  }
  return whole;
}

/// `fit`: null where nothing was fitted.
void write_fusion(const fs::path& teacher, const plan::Plan& plan,
                  const std::vector<KeepList>& keeps, const Fit* fit, const FitOptions& options,
                  const fs::path& folder) {
  std::vector<model::FusionHead::Part> parts(keeps.size());
  for (std::size_t p = 0; p < keeps.size(); ++p) {
    parts[p].device = plan.parts[p].device;
    if (fit == nullptr) {
      parts[p].basis =
          model::channel_basis(keeps[p].channels, plan.teacher.width, plan.parts[p].device);
    } else {
      parts[p].basis = fit->parts[p].basis;
      parts[p].origin = fit->parts[p].origin;
      for (const auto& features : fit->parts[p].features)
        parts[p].largest_feature =
            std::max(parts[p].largest_feature, features.abs().max().item<double>());
    }
  }
  auto fusion = model::make_fusion(head_of(teacher, plan.teacher), std::move(parts));
  if (fit != nullptr && options.what != FitOptions::What::parts)
    fit_heads(fusion, *fit, options.head_ridge);
  model::save(fusion, folder);
  if (plan.teacher.is_text()) model::copy_tokenizer(teacher, folder);
}

void expect_names(const std::vector<plan::Plan>& plans) {
  if (plans.empty()) throw std::invalid_argument("[decompose] plans: saw none, needs one or more");
  std::set<std::string> names;
  for (const plan::Plan& plan : plans)
    if (!names.insert(plan.name).second)
      throw std::invalid_argument("[decompose] plans: saw two of the name '" + plan.name +
                                  "', needs one for each ('cleave plan --name')");
}

/// What each device keeps of the teacher for all plans together.
void write_holdings(const fs::path& teacher, const std::vector<plan::Plan>& plans,
                    const fs::path& folder, const base::ProgressCallback& progress) {
  const model::ModelConfig& config = plans.front().teacher;
  std::set<std::string> devices;
  for (const plan::Plan& plan : plans)
    for (const plan::PlanPart& part : plan.parts)
      if (part.share()) devices.insert(part.device);
  const auto tensors = static_cast<std::int64_t>(model::stored_tensors(config).size());
  const std::int64_t all = static_cast<std::int64_t>(devices.size()) * tensors;
  std::int64_t done = 0;
  for (const std::string& device : devices) {
    const fs::path out = folder / device;
    cut_holding(teacher, plan::holding_of(plans, device), out, continued(progress, done, all));
    done += tensors;
    if (config.is_text() && model::has_tokenizer(teacher)) model::copy_tokenizer(teacher, out);
  }
}

/// What was made from the old weights of a bundle that is being replaced.
void remove_traces(const fs::path& bundle) {
  for (const char* name : {".work", "calibration.jsonl", "measured.json"}) {
    fs::remove_all(bundle / name);
  }
}

/// Files of the old bundle that the new one does not have, and folders left empty.
void remove_strangers(const fs::path& bundle, const plan::Manifest& manifest) {
  std::vector<fs::path> found;
  for (const char* top : {"plans", "parts", "holdings", "fusion"}) {
    if (!fs::exists(bundle / top)) continue;
    found.push_back(bundle / top);
    for (const auto& entry : fs::recursive_directory_iterator(bundle / top)) {
      found.push_back(entry.path());
    }
  }
  // Contents come after their folder, so backwards a folder is empty when its turn comes.
  for (auto path = found.rbegin(); path != found.rend(); ++path) {
    const bool held = manifest.files.count(path->lexically_relative(bundle).generic_string()) > 0;
    if (!held && (!fs::is_directory(*path) || fs::is_empty(*path))) fs::remove(*path);
  }
}

/// The plans, the manifest, and then the whole takes its place.
void commit_bundle(base::StagedFolder& staged, const std::vector<plan::Plan>& plans,
                   const std::map<std::string, plan::CalibrationState>& states, const fs::path& out,
                   DecomposeSummary& summary) {
  fs::create_directories(staged.path() / "plans");
  for (const plan::Plan& plan : plans)
    plan::write_plan(plan, staged.path() / "plans" / (plan.name + ".json"));
  summary.manifest =
      plan::write_manifest(staged.path(), plans.front().name, plans.front().teacher_digest, states);
  staged.commit();
  remove_traces(out);
  remove_strangers(out, summary.manifest);
}

}  // namespace

void expect_nothing_lost(const fs::path& out) {
  if (!fs::exists(out / "manifest.json")) return;
  std::string lost;
  const auto add = [&lost](const std::string& what) { lost += (lost.empty() ? "" : ", ") + what; };
  const auto calibration = plan::Bundle(out).manifest().calibration;
  for (const auto& [plan, state] : calibration.value_or(decltype(calibration)::value_type()))
    if (state == plan::CalibrationState::done) add("the calibrated weights of plan '" + plan + "'");
  if (fs::exists(out / "calibration.jsonl")) add("calibration.jsonl");
  if (base::WorkLock::has_work(out))
    add(".work (a calibration's checkpoint and the teacher's answers)");
  if (!lost.empty())
    throw std::invalid_argument("[" + out.string() + "] holds a bundle that was calibrated: saw " +
                                lost + "; needs another folder, or --force to lose them");
}

void SelectOptions::check() const {
  if (overlap_discount >= 0 && overlap_discount <= 1) return;
  throw std::invalid_argument("[select] options.overlap_discount: saw " +
                              std::to_string(overlap_discount) + ", needs 0..1");
}

std::vector<KeepList> select(const plan::Plan& plan, const Importance& importance,
                             const SelectOptions& options) {
  options.check();
  plan::check(plan);
  importance.check(plan.teacher);
  Selection selection(importance, plan.partition ? 0 : options.overlap_discount);
  std::vector<KeepList> keeps;
  for (const auto& part : plan.parts) keeps.push_back(selection.take(part));
  return keeps;
}

DecomposeSummary decompose(const fs::path& teacher, std::vector<plan::Plan> plans,
                           const Importance& importance, const fs::path& out,
                           const base::ProgressCallback& progress, const SelectOptions& options,
                           const Fitting* fitting) {
  const auto config = model::read_config(teacher);
  const std::string digest = plan::digest_model(teacher);
  expect_names(plans);
  for (plan::Plan& plan : plans) adopt(plan, config, digest);
  if (config.is_text() && model::has_tokenizer(teacher))
    model::read_tokenizer(teacher, config.vocabulary);  // parts of a model that reads other words
  if (fitting != nullptr && std::all_of(plans.begin(), plans.end(), plan::is_shared))
    throw std::invalid_argument("[decompose] plan: saw strategy '" + plans.front().strategy +
                                "', which takes the teacher's weights as they are: nothing of it "
                                "is fitted");
  std::optional<FitRows> rows;
  if (fitting != nullptr) rows.emplace(config, fitting->data, fitting->options.batch);
  const bool refits = fitting != nullptr && fitting->options.what != FitOptions::What::heads;
  std::optional<Importance> better;
  if (refits) better = refitted(importance, teacher, *rows, fitting->options, progress);
  DecomposeSummary summary;
  summary.covered = 1;
  std::map<std::string, std::vector<KeepList>> keeps;  // by plan
  for (const plan::Plan& plan : plans) {
    if (plan::is_shared(plan)) continue;
    keeps[plan.name] = select(plan, better ? *better : importance, options);
    if (&plan != &plans.front()) continue;
    summary.keeps = keeps[plan.name];
    summary.covered = share_held(config, summary.keeps, 1);
    summary.shared = share_held(config, summary.keeps, 2);
  }

  expect_replaceable(out, "manifest.json", "bundle");
  // Not where a calibration would lose its bundle under its feet.
  std::optional<base::WorkLock> lock;
  if (fs::exists(out / "manifest.json")) lock.emplace(out);
  base::StagedFolder staged(out);
  std::map<std::string, plan::CalibrationState> states;
  for (const plan::Plan& plan : plans) {
    if (plan::is_shared(plan)) continue;
    const fs::path parts = staged.path() / "parts" / plan.name;
    std::vector<KeepList>& kept = keeps[plan.name];
    write_parts(teacher, plan, kept, parts, progress);
    if (!fuses(plan)) continue;
    std::optional<Fit> fit;
    if (fitting != nullptr) {
      std::vector<model::ModelConfig> configs;
      for (const auto& part : plan.parts) configs.push_back(part.sub_model().config);
      summary.fitted_rows = fitting->data.size();
      summary.remarks = too_few_tokens(configs, *rows);
      base::say(summary.remarks, progress);
      fit = fit_parts(teacher, plan, kept, parts, *rows, fitting->options, progress);
      states[plan.name] = plan::CalibrationState::fitted;
    }
    write_fusion(teacher, plan, kept, fit ? &*fit : nullptr,
                 fitting != nullptr ? fitting->options : FitOptions(),
                 staged.path() / "fusion" / plan.name);
    if (&plan == &plans.front()) summary.keeps = kept;
  }
  write_holdings(teacher, plans, staged.path() / "holdings", progress);
  commit_bundle(staged, plans, states, out, summary);
  return summary;
}

}  // namespace cleave::decompose
