#include "calibrate/calibrate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "calibrate/accelerator.hpp"
#include "calibrate/augment.hpp"
#include "calibrate/evaluate.hpp"
#include "calibrate/forward.hpp"
#include "calibrate/fused.hpp"
#include "calibrate/loss.hpp"
#include "calibrate/quality.hpp"
#include "calibrate/run.hpp"
#include "calibrate/split.hpp"
#include "calibrate/teacher_cache.hpp"
#include "calibrate/weights.hpp"
#include "decompose/slice.hpp"
#include "model/checkpoint.hpp"
#include "model/lanes.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::calibrate {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using NamedTensors = std::vector<std::pair<std::string, at::Tensor*>>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::string part_prefix(std::size_t p) { return "part." + std::to_string(p) + "."; }

/// JSON has no NaN: null stands for it.
json number(double x) { return std::isnan(x) ? json(nullptr) : json(x); }
double number_in(const json& table, const std::string& key) {
  const auto found = table.find(key);
  return found != table.end() && found->is_number() ? found->get<double>() : nan;
}

/// What is trained: parts, fusion head, and for parts without a head a temporary one to learn alone
/// with.
struct Student {
  FusedModel fused;
  std::vector<model::Transformer> readouts;  // without tensors where the part has a head
  /// The way from the teacher's features to a part's: the pseudo-inverse of its basis [D_p, D].
  std::vector<at::Tensor> readers;

  NamedTensors tensors() {
    NamedTensors all;
    for (std::size_t p = 0; p < fused.parts.size(); ++p) {
      for (const auto& parameter : model::parameters(fused.parts[p].config))
        all.emplace_back(part_prefix(p) + parameter.name,
                         &fused.parts[p].tensors.at(parameter.name));
      for (auto& [name, tensor] : readouts[p].tensors)
        all.emplace_back(part_prefix(p) + "readout." + name, &tensor);
    }
    for (const auto& [name, tensor] : model::parameters(fused.fusion))
      all.emplace_back("fusion." + name, tensor);
    return all;
  }

  std::vector<at::Tensor*> handles() {
    std::vector<at::Tensor*> pointers;
    for (const auto& [name, tensor] : tensors()) pointers.push_back(tensor);
    return pointers;
  }

  void move_to(at::Device device) {
    fused.move_to(device);
    for (model::Transformer& readout : readouts) readout.move_to(device);
    for (at::Tensor& reader : readers) reader = reader.to(device);
  }

  /// The answer of one part by itself: of its own head, or of one like the teacher's where its
  /// features lie among the teacher's.
  at::Tensor classify_alone(std::size_t p, const at::Tensor& features) const {
    if (fused.parts[p].config.classes > 0) return model::classify(fused.parts[p], features);
    return model::classify(readouts[p], model::mapped_back(fused.fusion.parts[p], features));
  }

  /// The teacher's features as part p can have them. [.., D] -> [.., D_p].
  at::Tensor wanted_of(std::size_t p, const at::Tensor& teacher) const {
    return at::matmul(teacher - fused.fusion.parts[p].origin, readers[p].t());
  }
};

/// A head like the teacher's, for a part that has none.
model::Transformer readout_of(const model::FusionHead& fusion, const model::ModelConfig& part) {
  model::Transformer readout;
  readout.config = fusion.teacher();
  if (part.classes > 0) return readout;
  for (const auto& [name, tensor] : fusion.head.tensors) readout.tensors[name] = tensor.clone();
  return readout;
}

/// Of fp32 numbers, wherever they lie.
std::string digest_of_numbers(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kCPU).contiguous();
  return base::sha256({reinterpret_cast<const char*>(flat.data_ptr<float>()),
                       static_cast<std::size_t>(flat.numel()) * sizeof(float)});
}

Student make_student(FusedModel fused, at::Device device) {
  Student student;
  for (std::size_t p = 0; p < fused.parts.size(); ++p) {
    student.readouts.push_back(readout_of(fused.fusion, fused.parts[p].config));
    const at::Tensor basis = fused.fusion.parts[p].basis.to(at::kDouble);
    student.readers.push_back(
        at::linalg_solve(at::matmul(basis.t(), basis), basis.t()).to(at::kFloat));
  }
  student.fused = std::move(fused);
  student.move_to(device);
  return student;
}

json describe(const CalibrateRecipe::Joint& joint) {
  return {describe(joint.schedule), joint.labels, joint.soft_targets,
          joint.features,           joint.tokens, joint.temperature,
          joint.device_dropout};
}

json describe(const CalibrateRecipe& recipe) {
  const auto& alone = recipe.alone;
  const auto& boost = recipe.boost;
  return {{"data", {recipe.data.validation, describe(recipe.data.augmentation)}},
          {"alone",
           {describe(alone.schedule), alone.labels, alone.soft_targets, alone.features,
            alone.tokens, alone.relations, alone.temperature}},
          {"boost",
           {describe(boost.schedule), boost.labels, boost.soft_targets, boost.features,
            boost.temperature, boost.focus}},
          {"joint", describe(recipe.joint)},
          {"head", describe(recipe.head)},
          {"rest", {static_cast<int>(recipe.compute), recipe.views, recipe.seed}}};
}

/// A random subset of the parts, neither none nor all; one missing is likelier than two.
Presence draw_presence(Draw& draw, std::size_t parts) {
  Presence present(parts, false);
  const auto full = static_cast<std::ptrdiff_t>(parts);
  std::ptrdiff_t count = 0;
  while (count == 0 || count == full) {
    for (std::size_t p = 0; p < parts; ++p) present[p] = draw.below(3) != 0;
    count = std::count(present.begin(), present.end(), true);
  }
  return present;
}

/// A part's features, and with `tokens` what they are read from.
TokenFeatures made_by(const model::Transformer& part, const at::Tensor& inputs, bool tokens,
                      const model::Observer* observer = nullptr) {
  if (tokens) return token_features(part, inputs, observer);
  return {{}, summary_features(part, inputs, observer)};
}

/// The part's attention layer nearest to its middle, or −1.
int middle_attention(const model::ModelConfig& config) {
  const int layers = static_cast<int>(config.num_layers()), middle = layers / 2;
  int best = -1;
  for (int layer = 0; layer < layers; ++layer)
    if (config.layers[static_cast<std::size_t>(layer)].heads > 0 &&
        (best < 0 || std::abs(layer - middle) < std::abs(best - middle)))
      best = layer;
  return best;
}

/// Data, teacher and student of one run, and what each stage's batch costs.
class Calibration {
 public:
  Calibration(const plan::Bundle& bundle, const fs::path& teacher, const CalibrateRecipe& recipe,
              const base::ProgressCallback& progress, const Group& group, at::Device device,
              bool force)
      : bundle_(bundle),
        plan_(bundle.plan()),
        recipe_(recipe),
        group_(group),
        compute_(number_format(recipe.compute, device, group)),
        teacher_folder_(teacher),
        fitted_(plan::weights_state(bundle, plan_) == plan::WeightsState::fitted),
        teacher_(model::load(teacher)),
        lanes_(recipe.threads),
        student_(make_student(load_fused(bundle, plan_, compute_), device)),
        weights_(student_.tensors(), group) {
    teacher_.compute = compute_;
    teacher_.move_to(device);
    tokenizer_ = tokenizer_of(plan_.teacher, teacher);
    Split data = read_split(recipe.data, plan_.teacher, tokenizer_.get());
    remarks_ = data.remarks;
    compare_splits(data);
    for (model::Transformer& part : student_.fused.parts) part.config.held_out = data.held_out;
    base::say(remarks_, progress);
    training_ = std::move(data.training);
    validation_ = std::move(data.validation);
    copies_.assign(static_cast<std::size_t>(group.pieces()), student_);
    for (std::int64_t piece = 0; piece < group.pieces(); ++piece)
      weights_.bind(piece, copy(piece).handles());
    data_digest_ = digest_of(training_);
    check_losses();
    // Not of the parts' own weights: after a kill in the middle of replacing them they are some of
    // each.
    json start = {describe(recipe), plan::to_json(plan_), plan_.teacher_digest, data_digest_};
    for (const auto& part : student_.fused.fusion.parts)
      start.push_back(digest_of_numbers(part.basis));
    run_.emplace(Run::Options{bundle.work_path() / "checkpoint.safetensors",
                              bundle.folder() / "calibration.jsonl", base::sha256(start.dump()),
                              recipe.seed, extents(), "", force},
                 weights_, lanes_, group, progress);
    if (!force && !resumed() && validation_.size() == 0 && group.any(is_calibrated()))
      throw std::invalid_argument(
          "[" + bundle.folder().string() +
          "] was calibrated by another recipe, and without data.validation nobody can tell which "
          "is better; needs a validation split, or --force to lose the first");
  }

  /// False: stopped by the callback.
  bool run() {
    if (!ask_teacher()) return false;
    if (fitted_ && !resumed()) measure_fit();
    return run_group("alone", alone_stages()) && run_group("boost", boost_stages()) &&
           run_group("joint", fused_stages("joint", recipe_.joint, "")) &&
           run_group("head", fused_stages("head", recipe_.head, "fusion."));
  }

  bool resumed() const { return run_->resumed(); }
  /// What the run made of the bundle: the weights at its end, or where they are worse those that it
  /// began with. Every process calls it.
  void conclude();
  CalibrateSummary summary(bool finished) const;

 private:
  struct Batch {
    at::Tensor inputs;   // as features() takes them
    at::Tensor targets;  // undefined where the task has no labels
    at::Tensor teacher_answers, teacher_features;
    at::Tensor teacher_tokens, real;  // where every token is compared; real: where tokens are
  };

  Student& copy(std::int64_t piece) { return copies_[static_cast<std::size_t>(piece)]; }
  std::vector<Extent> extents();
  bool ask_teacher();
  void measure_fit();
  FusedModel as_cut() const;
  Batch batch(const Stage::Position& at, const at::Tensor& indices, bool tokens = false) const;
  bool run_group(const std::string& name, std::vector<Stage> stages);
  Stage stage(const std::string& name, const Schedule& schedule, const std::string& moves) const;
  std::vector<Stage> alone_stages();
  std::vector<Stage> boost_stages();
  std::string boosted_head(std::size_t p) const;
  std::vector<Stage> fused_stages(const std::string& name, const CalibrateRecipe::Joint& joint,
                                  const std::string& moves);
  at::Tensor alone_loss(std::size_t part, const Stage::Position& at, const at::Tensor& indices);
  at::Tensor boost_loss(std::size_t part, const Stage::Position& at, const at::Tensor& indices);
  at::Tensor fused_loss(const CalibrateRecipe::Joint& joint, const Stage::Position& at,
                        const at::Tensor& indices);
  template <typename Weighted>
  at::Tensor answer_losses(const Weighted& weights, const at::Tensor& answers,
                           const Batch& batch) const;
  at::Tensor joint_loss(const CalibrateRecipe::Joint& joint, const Student& student,
                        const Batch& batch, const std::vector<TokenFeatures>& made,
                        const Presence& present) const;
  at::Tensor relation_target_loss(std::size_t part, int layer, const at::Tensor& inputs,
                                  const Relations& seen) const;
  void check_losses() const;
  bool is_calibrated() const;
  void note(plan::CalibrationState state) const;
  void note_largest_features();
  void write() const;
  void compare_splits(const Split& split);
  double fused_quality() { return quality_of_fused(student_.fused); }
  double quality_of_fused(const FusedModel& model);
  double alone_quality(std::size_t part);

  const plan::Bundle& bundle_;
  plan::Plan plan_;
  const CalibrateRecipe& recipe_;
  Group group_;
  model::Compute compute_;
  fs::path teacher_folder_;
  bool fitted_;  // when it was cut, and never calibrated
  model::Transformer teacher_;
  model::Lanes lanes_;
  Student student_;
  Weights weights_;
  std::vector<Student> copies_;
  std::unique_ptr<const model::Tokenizer> tokenizer_;
  model::Dataset training_, validation_;
  std::string data_digest_;
  base::Remarks remarks_;
  std::vector<TeacherView> views_;  // none for a language model: its answers are asked for live
  double teacher_quality_ = nan, start_quality_ = nan, end_quality_ = nan;
  bool rejected_ = false;
  std::optional<Run> run_;
  int next_stage_ = 0;
};

std::vector<Extent> Calibration::extents() {
  std::vector<Extent> all;
  for (const auto& stages :
       {alone_stages(), boost_stages(), fused_stages("joint", recipe_.joint, ""),
        fused_stages("head", recipe_.head, "fusion.")})
    for (const Stage& each : stages) all.push_back(extent_of(each));
  return all;
}

bool Calibration::ask_teacher() {
  const Augmentation& how = recipe_.data.augmentation;
  const json key = {plan_.teacher_digest, data_digest_, describe(how), recipe_.seed,
                    static_cast<int>(compute_)};
  const TeacherCache cache(group_.work_path(bundle_.work_path()), base::sha256(key.dump()), group_);
  // Answers for every token fill no memory.
  const int views = plan_.teacher.reads_every_token() ? 0 : recipe_.views;
  std::vector<std::optional<TeacherView>> kept;
  for (int view = 0; view < views; ++view)
    kept.push_back(cache.kept(plan_.teacher, training_.size(), view));
  // Not before: where a file is refused, nothing has begun.
  if (group_.leads() && !is_calibrated()) note(plan::CalibrationState::unfinished);
  for (int view = 0; view < views; ++view) {
    auto& outputs = kept[static_cast<std::size_t>(view)];
    const std::string what =
        "teacher, view " + std::to_string(view + 1) + "/" + std::to_string(recipe_.views);
    const auto report = [&](std::int64_t done) {
      return run_->report({what, done, training_.size(), ""});
    };
    if (!outputs)
      outputs = cache.make(teacher_, training_, how, recipe_.seed, view, lanes_, report);
    if (!outputs) return false;
    views_.push_back(std::move(*outputs));
  }
  if (group_.leads()) teacher_quality_ = quality(teacher_, validation_, lanes_);
  return true;
}

/// The parts as they were before their fit, and a head that averages.
FusedModel Calibration::as_cut() const {
  FusedModel cut;
  std::vector<std::string> devices;
  std::vector<std::vector<std::int64_t>> channels;
  const fs::path scratch = bundle_.work_path() / "cut";
  for (const auto& part : plan_.parts) {
    const auto keep = decompose::read_keep(bundle_.part_path(plan_, part.device) / "keep.json");
    decompose::slice(teacher_folder_, keep, scratch);
    cut.parts.push_back(model::load(scratch));
    cut.parts.back().compute = compute_;
    devices.push_back(part.device);
    channels.push_back(keep.channels);
  }
  fs::remove_all(scratch);
  model::Transformer head = student_.fused.fusion.head;
  head.move_to(at::kCPU);
  cut.fusion = model::make_fusion(head, devices, channels);
  cut.move_to(teacher_.device());
  return cut;
}

/// What the fit brought, before the first step: the first rows of the ablation table.
void Calibration::measure_fit() {
  if (validation_.size() == 0 || !group_.leads()) return;
  const double cut = quality_of_fused(as_cut());
  FusedModel averaged = student_.fused;
  averaged.fusion = model::make_fusion(averaged.fusion.head, averaged.fusion.parts);
  const double fit = quality_of_fused(averaged), solved = fused_quality();
  json& notes = run_->notes();
  notes["cut"] = {{"before", nullptr}, {"after", number(cut)}};
  notes["fit"] = {{"before", number(cut)}, {"after", number(fit)}};
  notes["closed-form head"] = {{"before", number(fit)}, {"after", number(solved)}};
}

Calibration::Batch Calibration::batch(const Stage::Position& at, const at::Tensor& indices,
                                      bool tokens) const {
  const at::Device device = teacher_.device();
  Batch batch;
  if (plan_.teacher.reads_every_token()) {
    at::Tensor windows;
    if (training_.stream.defined()) {
      // No window of two epochs is the same, and the teacher reads each as it comes.
      const auto view = static_cast<std::uint64_t>(next_stage_ * 1000 + at.epoch);
      windows =
          take_windows(training_.stream, training_.inputs, indices, recipe_.seed, view).to(device);
      batch.targets = windows.narrow(1, 1, windows.size(1) - 1).to(at::kLong);
    } else {
      windows = training_.rows(indices).to(device);
      batch.targets = targets_of(training_, indices).to(device);
    }
    batch.inputs = model::inputs_of(plan_.teacher, windows);
    const c10::NoGradGuard no_grad;
    batch.teacher_features = model::features(teacher_, batch.inputs);
    batch.teacher_answers = model::classify(teacher_, batch.teacher_features);
    return batch;
  }
  const int view = at.epoch % recipe_.views;
  const TeacherView& teacher = views_[static_cast<std::size_t>(view)];
  const at::Tensor rows = take_view(training_, indices, recipe_.data.augmentation, recipe_.seed,
                                    static_cast<std::uint64_t>(view));
  batch.inputs = model::inputs_of(plan_.teacher, rows.to(device));
  batch.targets = targets_of(training_, indices);
  if (batch.targets.defined()) batch.targets = batch.targets.to(device);
  batch.teacher_answers = teacher.logits.index_select(0, indices).to(device, at::kFloat);
  batch.teacher_features = teacher.features.index_select(0, indices).to(device, at::kFloat);
  if (tokens) {
    const c10::NoGradGuard no_grad;
    batch.teacher_tokens = token_features(teacher_, batch.inputs).tokens;
    if (plan_.teacher.is_text()) batch.real = (batch.inputs >= 0).to(at::kFloat);
  }
  return batch;
}

/// Warns where the teacher, or an earlier calibration, learned from rows that are held out here.
/// Who does not say what was held out is from elsewhere.
void Calibration::compare_splits(const Split& split) {
  const auto compare = [&](const std::string& who, const model::HeldOut& other) {
    if (other.rows == 0 || split.is_kept_apart_by(other)) return;
    const auto text = [](const model::HeldOut& held_out) {
      return std::to_string(held_out.count) + " of " + std::to_string(held_out.rows) +
             " rows (digest " + held_out.digest.substr(0, 12) + ")";
    };
    remarks_.push_back({"other_split", 1,
                        "[" + who + "] split: held out " + text(other) +
                            ", which do not contain what this recipe holds out, " +
                            text(split.held_out) +
                            ": validation may be what was learned from, and look too good",
                        true});
  };
  const model::HeldOut& teacher = teacher_.config.held_out;
  compare("teacher", teacher);
  const model::HeldOut& before = student_.fused.parts.front().config.held_out;
  if (!(before == teacher)) compare("bundle", before);
}

/// Weights of losses that the task does not have would be left out without a word.
void Calibration::check_losses() const {
  if (plan_.teacher.reads_every_token() &&
      recipe_.alone.tokens + recipe_.joint.tokens + recipe_.head.tokens > 0)
    throw std::invalid_argument(
        "[recipe] tokens: saw a weight, needs 0 (a language model's features are every token's)");
  std::string unlabelled;
  if (plan_.teacher.task == model::Task::embedding) unlabelled = "an embedding has no labels";
  if (recipe_.data.augmentation.splice > 0) unlabelled = "a text made of two has no label";
  if (unlabelled.empty()) return;
  const auto expect_none = [&](double labels, const std::string& stage) {
    if (labels != 0)
      throw std::invalid_argument("[recipe] " + stage + ".labels: saw a weight, needs 0 (" +
                                  unlabelled + ")");
  };
  if (recipe_.alone.schedule.epochs > 0) expect_none(recipe_.alone.labels, "alone");
  if (recipe_.joint.schedule.epochs > 0) expect_none(recipe_.joint.labels, "joint");
  if (recipe_.head.schedule.epochs > 0) expect_none(recipe_.head.labels, "head");
  if (recipe_.boost.schedule.epochs > 0)
    throw std::invalid_argument("[recipe] boost.epochs: saw some, needs 0 (" + unlabelled + ")");
}

// ---- stages
// -------------------------------------------------------------------------------------------------------

Stage Calibration::stage(const std::string& name, const Schedule& schedule,
                         const std::string& moves) const {
  Stage stage;
  stage.name = name;
  stage.schedule = schedule;
  stage.compute = compute_;
  stage.rows = training_.size();
  stage.measure = measure_of(plan_.teacher);
  stage.moves = [moves](const std::string& tensor) { return base::starts_with(tensor, moves); };
  return stage;
}

std::vector<Stage> Calibration::alone_stages() {
  std::vector<Stage> stages;
  for (std::size_t p = 0; recipe_.alone.schedule.epochs > 0 && p < plan_.parts.size(); ++p) {
    stages.push_back(
        stage("alone " + plan_.parts[p].device, recipe_.alone.schedule, part_prefix(p)));
    stages.back().loss = [this, p](const Stage::Position& at, const at::Tensor& indices) {
      return alone_loss(p, at, indices);
    };
    if (validation_.size() > 0) stages.back().validate = [this, p] { return alone_quality(p); };
  }
  return stages;
}

/// The names in the fusion head that part p learns with while those after it are absent.
std::string Calibration::boosted_head(std::size_t p) const {
  if (!student_.fused.fusion.shared.empty()) return model::shared_name(p);
  std::vector<bool> present(plan_.parts.size(), false);
  std::fill_n(present.begin(), p + 1, true);
  return model::subset_name(present);
}

std::vector<Stage> Calibration::boost_stages() {
  // The first part has nothing before it: stage (a) is its training.
  std::vector<Stage> stages;
  for (std::size_t p = 1; recipe_.boost.schedule.epochs > 0 && p < plan_.parts.size(); ++p) {
    stages.push_back(
        stage("boost " + plan_.parts[p].device, recipe_.boost.schedule, part_prefix(p)));
    const std::string head = "fusion." + boosted_head(p);
    stages.back().moves = [p, head](const std::string& tensor) {
      return (base::starts_with(tensor, part_prefix(p)) || base::starts_with(tensor, head)) &&
             tensor != head + "absent";
    };
    stages.back().loss = [this, p](const Stage::Position& at, const at::Tensor& indices) {
      return boost_loss(p, at, indices);
    };
    if (validation_.size() > 0) stages.back().validate = [this] { return fused_quality(); };
  }
  return stages;
}

std::vector<Stage> Calibration::fused_stages(const std::string& name,
                                             const CalibrateRecipe::Joint& joint,
                                             const std::string& moves) {
  if (joint.schedule.epochs == 0) return {};
  std::vector<Stage> stages = {stage(name, joint.schedule, moves)};
  stages[0].loss = [this, &joint](const Stage::Position& at, const at::Tensor& indices) {
    return fused_loss(joint, at, indices);
  };
  if (validation_.size() > 0) stages[0].validate = [this] { return fused_quality(); };
  return stages;
}

/// Runs the stages of one letter and notes what they brought. Notes survive a kill with the
/// checkpoint; one that was not saved is computed again from the same weights.
bool Calibration::run_group(const std::string& name, std::vector<Stage> stages) {
  if (stages.empty()) return true;
  json& notes = run_->notes();
  if (!notes.contains(name) && !run_->is_done(next_stage_))
    notes[name] = {{"before", number(fused_quality())}};
  for (const Stage& each : stages) {
    const bool done = run_->is_done(next_stage_) || run_->finish(each);
    if (!done) return false;
    ++next_stage_;
  }
  if (!notes[name].contains("after")) notes[name]["after"] = number(fused_quality());
  if (std::isnan(start_quality_)) start_quality_ = number_in(notes[name], "before");
  end_quality_ = number_in(notes[name], "after");
  return true;
}

// ---- losses
// -------------------------------------------------------------------------------------------------------

at::Tensor Calibration::alone_loss(std::size_t part, const Stage::Position& at,
                                   const at::Tensor& indices) {
  const auto& recipe = recipe_.alone;
  const Student& student = copy(at.piece);
  const Batch batch = this->batch(at, indices, recipe.tokens > 0);
  const int layer =
      recipe.relations > 0 ? middle_attention(plan_.parts[part].sub_model().config) : -1;
  Relations relations;
  model::Observer observer;
  observer.on_attention = [&](int seen, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v) {
    if (seen == layer) relations = {q, k, v};
  };
  const model::Transformer& model = student.fused.parts[part];
  const TokenFeatures made =
      made_by(model, batch.inputs, recipe.tokens > 0, layer >= 0 ? &observer : nullptr);
  const at::Tensor answers = student.classify_alone(part, made.features);
  at::Tensor loss =
      answer_losses(recipe, answers, batch).mean() +
      recipe.features *
          feature_loss(made.features, student.wanted_of(part, batch.teacher_features)).mean();
  if (recipe.tokens > 0)
    loss =
        loss + recipe.tokens * token_loss(made.tokens,
                                          student.wanted_of(part, batch.teacher_tokens), batch.real)
                                   .mean();
  if (layer >= 0)
    loss = loss + recipe.relations * relation_target_loss(part, layer, batch.inputs, relations);
  return loss;
}

/// What labels and the teacher's answers say of answers, weighted. -> [B].
template <typename Weighted>
at::Tensor Calibration::answer_losses(const Weighted& weights, const at::Tensor& answers,
                                      const Batch& batch) const {
  if (plan_.teacher.task == model::Task::embedding)
    return weights.soft_targets *
           similarity_loss(directions_of(plan_.teacher, answers),
                           directions_of(plan_.teacher, batch.teacher_answers),
                           weights.temperature);
  return weights.labels * label_loss(answers, batch.targets, weights.schedule.label_smoothing) +
         weights.soft_targets *
             soft_target_loss(answers, batch.teacher_answers, weights.temperature);
}

at::Tensor Calibration::relation_target_loss(std::size_t part, int layer, const at::Tensor& inputs,
                                             const Relations& seen) const {
  const int teacher_layer =
      static_cast<int>(plan_.parts[part].sub_model().layers[static_cast<std::size_t>(layer)]);
  const at::Tensor real = plan_.teacher.is_text() ? (inputs >= 0).to(at::kFloat) : at::Tensor();
  return relation_loss(seen, relations_at(teacher_, teacher_layer, inputs),
                       static_cast<double>(plan_.teacher.head_width), real);
}

at::Tensor Calibration::boost_loss(std::size_t part, const Stage::Position& at,
                                   const at::Tensor& indices) {
  const auto& recipe = recipe_.boost;
  const Student& student = copy(at.piece);
  const Batch batch = this->batch(at, indices);
  const model::FusionHead& fusion = student.fused.fusion;
  std::vector<at::Tensor> features(plan_.parts.size());
  for (std::size_t p = 0; p <= part; ++p)
    features[p] = summary_features(student.fused.parts[p], batch.inputs);
  std::vector<at::Tensor> before = features;
  before[part] = at::Tensor();
  const at::Tensor missed = attention_to_errors(
      model::answer(fusion, model::fuse(fusion, before)).detach(), batch.targets, recipe.focus);
  const at::Tensor fused = model::fuse(fusion, features);
  const at::Tensor losses = answer_losses(recipe, model::answer(fusion, fused), batch) +
                            recipe.features * feature_loss(fused, batch.teacher_features);
  return (losses * missed).mean();
}

at::Tensor Calibration::fused_loss(const CalibrateRecipe::Joint& joint, const Stage::Position& at,
                                   const at::Tensor& indices) {
  const Student& student = copy(at.piece);
  const Batch batch = this->batch(at, indices, joint.tokens > 0);
  std::vector<TokenFeatures> made;
  for (const auto& part : student.fused.parts)
    made.push_back(made_by(part, batch.inputs, joint.tokens > 0));
  const double dropout = made.size() > 1 ? joint.device_dropout : 0;
  at::Tensor loss = at::zeros({});
  if (dropout < 1)
    loss = (1 - dropout) * joint_loss(joint, student, batch, made, all_present(made.size()));
  if (dropout == 0) return loss;
  Draw draw({recipe_.seed, static_cast<std::uint64_t>(next_stage_),
             static_cast<std::uint64_t>(at.epoch), static_cast<std::uint64_t>(at.step),
             static_cast<std::uint64_t>(at.piece)});
  const Presence present = draw_presence(draw, made.size());
  return loss + dropout * joint_loss(joint, student, batch, made, present);
}

/// Of the answer from the parts that are there.
at::Tensor Calibration::joint_loss(const CalibrateRecipe::Joint& joint, const Student& student,
                                   const Batch& batch, const std::vector<TokenFeatures>& made,
                                   const Presence& present) const {
  const auto fused_of = [&](at::Tensor TokenFeatures::*which) {
    std::vector<at::Tensor> there(made.size());
    for (std::size_t p = 0; p < made.size(); ++p)
      if (present[p]) there[p] = made[p].*which;
    return model::fuse(student.fused.fusion, there);
  };
  const at::Tensor fused = fused_of(&TokenFeatures::features);
  const at::Tensor answers = model::answer(student.fused.fusion, fused);
  at::Tensor loss = answer_losses(joint, answers, batch).mean() +
                    joint.features * feature_loss(fused, batch.teacher_features).mean();
  if (joint.tokens > 0)
    loss =
        loss +
        joint.tokens *
            token_loss(fused_of(&TokenFeatures::tokens), batch.teacher_tokens, batch.real).mean();
  return loss;
}

// ---- quality on the validation split
// -----------------------------------------------------------------------------

double Calibration::quality_of_fused(const FusedModel& model) {
  if (validation_.size() == 0 || !group_.leads()) return nan;
  const auto answer = [this, &model](const at::Tensor& rows) {
    const auto features =
        features_of(model, model::inputs_of(plan_.teacher, rows).to(teacher_.device()));
    return std::vector<at::Tensor>{
        fused_answer(model.fusion, features, all_present(features.size()))};
  };
  return qualities(plan_.teacher, validation_, 1, answer, lanes_).front();
}

double Calibration::alone_quality(std::size_t part) {
  const auto answer = [this, part](const at::Tensor& rows) {
    const at::Tensor inputs = model::inputs_of(plan_.teacher, rows).to(teacher_.device());
    const at::Tensor features = summary_features(student_.fused.parts[part], inputs);
    return std::vector<at::Tensor>{student_.classify_alone(part, features)};
  };
  return qualities(plan_.teacher, validation_, 1, answer, lanes_).front();
}

// ---- the result
// ---------------------------------------------------------------------------------------------------

bool Calibration::is_calibrated() const {
  const auto& states = bundle_.manifest().calibration;
  if (!states) return fs::exists(bundle_.folder() / "calibration.jsonl") && !resumed();
  const auto found = states->find(plan_.name);
  return found != states->end() && found->second == plan::CalibrationState::done;
}

void Calibration::note(plan::CalibrationState state) const {
  plan::write_calibration(bundle_.folder(), plan_.name, state);
}

void Calibration::conclude() {
  const json found = json::parse(group_.text_from_leader(json{
      {"teacher", number(teacher_quality_)},
      {"start", number(start_quality_)},
      {"end", number(end_quality_)}}.dump()));
  teacher_quality_ = number_in(found, "teacher");
  start_quality_ = number_in(found, "start");
  end_quality_ = number_in(found, "end");
  // Without a validation split both are NaN; an end that is none is worse than any start.
  const bool holds = measure_of(plan_.teacher).more_is_better ? end_quality_ >= start_quality_
                                                              : end_quality_ <= start_quality_;
  rejected_ = !std::isnan(start_quality_) && !holds;
  if (!group_.leads()) return;
  if (!rejected_) {
    note_largest_features();
    write();
  } else if (!is_calibrated())
    note(plan::CalibrationState::rejected);
  run_->close();
}

/// How large the features of rows to learn from are: the aggregator tells a device at fault by it.
void Calibration::note_largest_features() {
  constexpr std::int64_t most_rows = 512, piece = 32;
  const std::int64_t rows = std::min(training_.size(), most_rows);
  const c10::NoGradGuard no_grad;
  for (auto& part : student_.fused.fusion.parts) part.largest_feature = 0;
  for (std::int64_t begin = 0; begin < rows; begin += piece) {
    const auto inputs = model::inputs_of(
        plan_.teacher, training_.rows(begin, std::min(piece, rows - begin)).to(teacher_.device()));
    const auto features = features_of(student_.fused, inputs);
    for (std::size_t p = 0; p < features.size(); ++p) {
      double& largest = student_.fused.fusion.parts[p].largest_feature;
      largest = std::max(largest, features[p].abs().max().item<double>());
    }
  }
}

/// Parts, fusion and manifest anew; what else the bundle holds (plans, other plans' parts) as it
/// is.
void Calibration::write() const {
  const fs::path& bundle = bundle_.folder();
  base::StagedFolder staged(bundle);
  for (std::size_t p = 0; p < plan_.parts.size(); ++p)
    model::save(student_.fused.parts[p],
                staged.path() / "parts" / plan_.name / plan_.parts[p].device);
  model::save(student_.fused.fusion, staged.path() / "fusion" / plan_.name);
  for (const auto& [name, file] : bundle_.manifest().files) {
    if (fs::exists(staged.path() / name) || !fs::exists(bundle / name)) continue;
    fs::create_directories((staged.path() / name).parent_path());
    fs::copy_file(bundle / name, staged.path() / name);
  }
  auto states =
      bundle_.manifest().calibration.value_or(std::map<std::string, plan::CalibrationState>());
  states[plan_.name] = plan::CalibrationState::done;
  plan::write_manifest(staged.path(), bundle_.manifest().default_plan,
                       bundle_.manifest().teacher_digest, states);
  staged.commit();
}

CalibrateSummary Calibration::summary(bool finished) const {
  CalibrateSummary summary;
  summary.finished = finished;
  summary.epochs = run_->records();
  summary.measure = measure_of(plan_.teacher);
  summary.compute = compute_;
  summary.teacher_quality = teacher_quality_;
  summary.shortened = training_.shortened;
  summary.start_quality = start_quality_;
  summary.fused_quality = end_quality_;
  summary.rejected = rejected_;
  const json& notes = run_->notes();
  for (const std::string name :
       {"cut", "fit", "closed-form head", "alone", "boost", "joint", "head"}) {
    if (!notes.contains(name) || !notes[name].contains("after")) continue;
    CalibrateSummary::Stage stage{name, number_in(notes[name], "before"),
                                  number_in(notes[name], "after"), 0};
    for (const EpochRecord& epoch : summary.epochs)
      if (epoch.stage == name || base::starts_with(epoch.stage, name + " "))
        stage.seconds += epoch.seconds;
    summary.stages.push_back(stage);
  }
  summary.below_target = finished && recipe_.target_loss_points > 0 &&
                         lost(summary.measure, summary.teacher_quality, summary.fused_quality) >
                             recipe_.target_loss_points;
  summary.remarks = remarks_;
  summary.message =
      finished
          ? rejected_ ? "it ended worse than it began: the bundle keeps its weights" : "calibrated"
          : "stopped; the same command goes on from " + bundle_.work_path().string();
  return summary;
}

void check(const plan::Bundle& bundle, const plan::Plan& plan, const fs::path& teacher) {
  if (!fs::exists(bundle.fusion_path(plan)))
    throw std::invalid_argument("[" + bundle.folder().string() + "] plan '" + plan.name +
                                "': strategy " + plan.strategy +
                                " has no fusion head, there is nothing to calibrate");
  plan::expect_teacher(bundle, teacher);
}

}  // namespace

CalibrateSummary calibrate(const fs::path& folder, const fs::path& teacher,
                           const CalibrateRecipe& recipe, const base::ProgressCallback& progress,
                           const Group& group, at::Device compute_device, bool force) {
  recipe.check();
  (void)plan::Bundle(folder);  // what is no bundle gets no lock
  const auto lock = group.lock(folder);
  const plan::Bundle bundle(folder);
  check(bundle, bundle.plan(), teacher);
  Calibration calibration(bundle, teacher, recipe, progress, group, compute_device, force);
  // A run that was killed while it replaced the parts has their weights in its checkpoint.
  if (!calibration.resumed()) bundle.verify("");
  const bool finished = calibration.run();
  if (finished) calibration.conclude();
  CalibrateSummary summary = calibration.summary(finished);
  const auto poor = nothing_right(summary.measure, summary.fused_quality, "validation");
  base::say(poor, progress);
  summary.remarks.insert(summary.remarks.end(), poor.begin(), poor.end());
  return summary;
}

}  // namespace cleave::calibrate
