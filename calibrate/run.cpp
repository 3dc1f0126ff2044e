#include "calibrate/run.hpp"

#include <chrono>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "calibrate/augment.hpp"
#include "calibrate/sealed.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::calibrate {
namespace {

using nlohmann::json;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// JSON has no NaN: null stands for it.
json number(double x) { return std::isnan(x) ? json(nullptr) : json(x); }

json to_json(const EpochRecord& record) {
  return {{"stage", record.stage},
          {"epoch", record.epoch},
          {"loss", number(record.loss)},
          {"validation", number(record.validation)},
          {"seconds", record.seconds}};
}

double number_or_nan(const base::Reader& table, const std::string& key) {
  constexpr double any = std::numeric_limits<double>::max();
  const auto field = table.find(key);
  return field ? field->number(-any, any) : std::numeric_limits<double>::quiet_NaN();
}

EpochRecord record_from(const base::Reader& line) {
  EpochRecord record;
  record.stage = line.at("stage").text();
  record.epoch = static_cast<int>(line.at("epoch").integer(0, 1 << 30));
  record.loss = number_or_nan(line, "loss");
  record.validation = number_or_nan(line, "validation");
  record.seconds = line.at("seconds").number(0, 1e12);
  return record;
}

/// Steps of an epoch in batches of the schedule; rows that fill none are left out.
std::int64_t batch_of(const Stage& stage) { return std::min(stage.schedule.batch, stage.rows); }
std::int64_t steps_of(const Stage& stage) {
  return stage.rows > 0 ? stage.rows / batch_of(stage) : 0;
}

model::TensorFiles open_checkpoint(const std::filesystem::path& path) {
  return open_sealed(path, "checkpoint", "start anew");
}

std::string loss_note(double loss, std::int64_t rows, double seconds) {
  char text[64];
  std::snprintf(text, sizeof text, "loss %.4f, %.0f rows/s", loss,
                seconds > 0 ? static_cast<double>(rows) / seconds : 0.0);
  return text;
}

}  // namespace

Extent extent_of(const Stage& stage) {
  return {stage.name, stage.schedule.epochs, steps_of(stage)};
}

json describe(const Augmentation& how) { return {how.flip, how.shift, how.splice}; }

json describe(const Schedule& schedule) {
  return {schedule.epochs,          static_cast<int>(schedule.optimizer),
          schedule.batch,           schedule.learning_rate,
          schedule.weight_decay,    schedule.warmup_epochs,
          schedule.label_smoothing, schedule.clip_norm};
}

void write_checkpoint(const std::filesystem::path& path,
                      const std::map<std::string, at::Tensor>& tensors, const json& state) {
  write_sealed(path, tensors, {{"state", state.dump()}});
}

json read_checkpoint_state(const std::filesystem::path& path) {
  const model::TensorFiles files = open_checkpoint(path);
  const auto found = files.metadata().find("state");
  if (found == files.metadata().end())
    throw std::runtime_error("[" + path.string() + "] checkpoint: has no state, needs one");
  return base::Reader::json_text(found->second, path.string()).json();
}

void restore_tensors(const std::filesystem::path& path,
                     const std::map<std::string, at::Tensor>& tensors) {
  const model::TensorFiles files = open_checkpoint(path);
  for (const auto& [name, tensor] : tensors) {
    const auto found = files.entries().find(name);
    if (found == files.entries().end())
      throw std::runtime_error("[" + path.string() + "] " + name +
                               ": is missing, the run needs it");
    if (found->second.dims != tensor.sizes().vec())
      throw std::runtime_error("[" + path.string() + "] " + name +
                               ": has another shape than the run");
    const at::Tensor kept = at::empty(tensor.sizes(), at::kFloat);
    model::convert_to_f32(found->second.element, files.data(found->second), kept.numel(),
                          kept.data_ptr<float>());
    tensor.copy_(kept);
  }
}

Run::Run(Options options, Weights& weights, model::Lanes& lanes, Group group,
         base::ProgressCallback progress)
    : options_(std::move(options)),
      weights_(weights),
      lanes_(lanes),
      group_(std::move(group)),
      progress_(std::move(progress)) {
  if (group_.text_from_leader(options_.fingerprint) != options_.fingerprint)
    throw std::runtime_error("[process " + std::to_string(group_.rank()) +
                             "] data-parallel: has another recipe, data or start than process 0, "
                             "needs the same in all");
  const std::string text = group_.text_from_leader(group_.leads() ? state_of_leader() : "");
  resumed_ = !text.empty();
  if (resumed_) {
    const base::Reader state = base::Reader::json_text(text, options_.checkpoint.string());
    state.expect_format(1);
    take_place(state);
    take_records(state.at("records"));
    const base::Reader notes = state.at("notes");
    for (const std::string& name : notes.keys()) notes.at(name).keys();  // throws: no tables
    notes_ = notes.json();
  }
  restore_weights();
}

/// Where the checkpoint stands, within what the recipe's stages have.
void Run::take_place(const base::Reader& state) {
  const auto& stages = options_.stages;
  stage_ = static_cast<int>(state.at("stage").integer(0, static_cast<std::int64_t>(stages.size())));
  const auto at = static_cast<std::size_t>(stage_);
  const Extent here = at < stages.size() ? stages[at] : Extent();
  epoch_ = static_cast<int>(state.at("epoch").integer(0, here.epochs));
  step_ = state.at("step").integer(0, epoch_ < here.epochs ? here.steps - 1 : 0);
  mid_stage_ = epoch_ > 0 || step_ > 0;
  // Between two stages it is still that of the one before.
  const Extent before = at > 0 ? stages[at - 1] : Extent();
  const std::int64_t steps =
      mid_stage_ ? epoch_ * here.steps + step_ : before.epochs * before.steps;
  weights_.set_steps(state.at("steps").integer(steps, steps));
  loss_sum_ = state.at("loss_sum").number(-1e300, 1e300);
  seconds_ = state.at("seconds").number(0, 1e12);
  closed_ = state.at("closed").boolean();
  if (closed_ && at < stages.size())
    throw state.at("closed").error("saw true in stage " + std::to_string(stage_) +
                                   ", needs false before the end");
}

/// A record for every epoch that lies behind.
void Run::take_records(const base::Reader& lines) {
  for (const base::Reader& line : lines.items()) records_.push_back(record_from(line));
  std::size_t next = 0;
  const auto expect = [&](const Extent& stage, int epochs) {
    for (int epoch = 1; epoch <= epochs; ++epoch, ++next)
      if (next >= records_.size() || records_[next].stage != stage.name ||
          records_[next].epoch != epoch)
        throw lines.error("saw none of '" + stage.name + "' epoch " + std::to_string(epoch) +
                          " in its place, needs one");
  };
  for (int i = 0; i < stage_; ++i)
    expect(options_.stages[static_cast<std::size_t>(i)],
           options_.stages[static_cast<std::size_t>(i)].epochs);
  if (epoch_ > 0) expect(options_.stages[static_cast<std::size_t>(stage_)], epoch_);
  if (next != records_.size())
    throw lines.error("saw " + std::to_string(records_.size()) + ", needs " + std::to_string(next));
}

/// The state in the checkpoint to continue from; empty where there is none, or one of another
/// recipe that gives way.
std::string Run::state_of_leader() {
  const auto& path = options_.checkpoint;
  std::filesystem::create_directories(path.parent_path());
  if (!std::filesystem::exists(path)) return "";
  const std::string text = read_checkpoint_state(path).dump();
  const base::Reader state = base::Reader::json_text(text, path.string());
  state.expect_format(1);
  if (state.at("fingerprint").text() == options_.fingerprint) return text;
  const bool closed = state.at("closed").boolean();
  if (options_.force || (closed && options_.result.empty())) return "";
  throw std::runtime_error("[" + path.string() +
                           "] checkpoint: belongs to a run with another recipe, data or start" +
                           (closed ? ", which made " + options_.result : "") +
                           "; needs another folder, or --force to lose it");
}

/// What the checkpoint has of the weights' present state, in all processes.
void Run::restore_weights() {
  const auto state = weights_.state();
  if (resumed_ && group_.leads()) restore_tensors(options_.checkpoint, state);
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : state) tensors.push_back(tensor);
  group_.copy_from(0, tensors);
}

bool Run::finish(const Stage& stage) {
  StepOptions options;
  options.optimizer = stage.schedule.optimizer;
  options.compute = stage.compute;
  options.weight_decay = stage.schedule.weight_decay;
  options.clip_norm = stage.schedule.clip_norm;
  options.ema = stage.ema;
  const std::int64_t steps = weights_.steps();
  weights_.start(options, stage.moves);
  if (mid_stage_) {
    weights_.set_steps(steps);
    restore_weights();
    mid_stage_ = false;
  }
  while (epoch_ < stage.schedule.epochs)
    if (!run_epoch(stage)) return false;
  if (stage.ema > 0) weights_.swap_average();
  ++stage_;
  epoch_ = 0;
  save();
  write_log();  // its last line too, after a kill between checkpoint and log
  return true;
}

bool Run::run_epoch(const Stage& stage) {
  const std::int64_t batch = batch_of(stage);
  const std::int64_t steps = steps_of(stage);
  const auto order = shuffled(stage.rows, {options_.seed, static_cast<std::uint64_t>(stage_),
                                           static_cast<std::uint64_t>(epoch_)});
  const std::string what = stage.name + " epoch " + std::to_string(epoch_ + 1) + "/" +
                           std::to_string(stage.schedule.epochs);
  const double started = now_s();
  const std::int64_t first = step_;
  while (step_ < steps) {
    loss_sum_ += train_step(stage, order, batch);
    ++step_;
    const double spent = now_s() - started;
    const std::string note =
        loss_note(loss_sum_ / static_cast<double>(step_), (step_ - first) * batch, spent);
    if (step_ < steps && group_.any(!report({what, step_, steps, note}))) {
      seconds_ += spent;
      save();
      return false;
    }
  }
  seconds_ += now_s() - started;
  end_epoch(stage, steps);
  const EpochRecord& last = records_.back();
  const std::string note =
      std::isnan(last.validation) ? "" : "validation " + to_text(stage.measure, last.validation);
  return !group_.any(progress_ && !progress_({what, steps, steps, note}));
}

double Run::train_step(const Stage& stage, const std::vector<std::int64_t>& order,
                       std::int64_t batch) {
  const model::Slice own = group_.own_pieces();
  std::vector<double> losses(static_cast<std::size_t>(own.size()), 0.0);
  lanes_.run(own.size(), [&](std::int64_t i) {
    const std::int64_t piece = own.begin + i;
    const model::Slice mine = model::slice_of(batch, piece, group_.pieces());
    if (mine.size() == 0) return;
    const at::Tensor indices = at::empty({mine.size()}, at::kLong);
    std::copy_n(order.begin() + step_ * batch + mine.begin, mine.size(),
                indices.data_ptr<std::int64_t>());
    const double share = static_cast<double>(mine.size()) / static_cast<double>(batch);
    const at::Tensor loss = stage.loss({piece, epoch_, step_}, indices) * share;
    losses[static_cast<std::size_t>(i)] = loss.item<double>();
    loss.backward();
  });
  const double epochs = static_cast<double>(epoch_) + static_cast<double>(step_ + 1) *
                                                          static_cast<double>(batch) /
                                                          static_cast<double>(stage.rows);
  weights_.step(lanes_, learning_rate_at(epochs, stage.schedule.learning_rate,
                                         stage.schedule.warmup_epochs, stage.schedule.epochs));
  double loss = 0;
  for (const double part : losses) loss += part;
  if (group_.size() > 1) {
    at::Tensor sum = at::full({1}, loss, at::kDouble);
    group_.sum(sum);
    loss = sum.item<double>();
  }
  if (!std::isfinite(loss))
    throw std::runtime_error("[" + stage.name + "] loss: is no longer a number in epoch " +
                             std::to_string(epoch_ + 1) +
                             ", needs a lower learning rate or a longer warm-up");
  return loss;
}

void Run::end_epoch(const Stage& stage, std::int64_t steps) {
  EpochRecord record;
  record.stage = stage.name;
  record.epoch = epoch_ + 1;
  record.loss = loss_sum_ / static_cast<double>(steps);
  const double started = now_s();
  if (stage.ema > 0) weights_.swap_average();
  record.validation = stage.validate && group_.leads() ? stage.validate()
                                                       : std::numeric_limits<double>::quiet_NaN();
  if (stage.ema > 0) weights_.swap_average();
  record.seconds = seconds_ + now_s() - started;
  records_.push_back(record);
  ++epoch_;
  step_ = 0;
  loss_sum_ = seconds_ = 0;
  save();
  write_log();
}

void Run::save() const {
  if (!group_.leads()) return;
  json records = json::array();
  for (const EpochRecord& record : records_) records.push_back(to_json(record));
  const json state = {{"format", 1},           {"fingerprint", options_.fingerprint},
                      {"stage", stage_},       {"epoch", epoch_},
                      {"step", step_},         {"steps", weights_.steps()},
                      {"loss_sum", loss_sum_}, {"seconds", seconds_},
                      {"records", records},    {"closed", closed_},
                      {"notes", notes_}};
  write_checkpoint(options_.checkpoint, weights_.state(), state);
}

void Run::write_log() const {
  if (!group_.leads()) return;
  // Whole each time: after a kill between checkpoint and log no line is missing or twice.
  std::string lines;
  for (const EpochRecord& record : records_) lines += to_json(record).dump() + "\n";
  base::write_whole(options_.log, lines);
}

bool Run::report(const base::Progress& progress) {
  const double now = now_s();
  if (!progress_ || now - last_report_s_ < 0.1) return true;
  last_report_s_ = now;
  return progress_(progress);
}

void Run::close() {
  if (std::exchange(closed_, true)) return;
  save();
}

}  // namespace cleave::calibrate
