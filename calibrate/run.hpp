#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "base/progress.hpp"
#include "base/reader.hpp"
#include "calibrate/group.hpp"
#include "calibrate/train.hpp"
#include "calibrate/weights.hpp"
#include "model/lanes.hpp"

namespace cleave::calibrate {

/// Named tensors and a JSON state in one file with a digest, written whole or not at all.
void write_checkpoint(const std::filesystem::path& path,
                      const std::map<std::string, at::Tensor>& tensors,
                      const nlohmann::json& state);
/// The JSON state of a checkpoint. Throws std::runtime_error where the file is none, is damaged or
/// has no digest.
nlohmann::json read_checkpoint_state(const std::filesystem::path& path);
void restore_tensors(const std::filesystem::path& path,
                     const std::map<std::string, at::Tensor>& tensors);

/// A schedule in a run's fingerprint.
nlohmann::json describe(const Schedule& schedule);
nlohmann::json describe(const Augmentation& how);

/// A stage of training: what one pass over the data does.
struct Stage {
  std::string name;
  Schedule schedule;
  double ema = 0;
  model::Compute compute = model::Compute::f32;
  /// Which weights move, by name.
  std::function<bool(const std::string&)> moves;
  /// Rows of the data to go through in an epoch.
  std::int64_t rows = 0;
  /// Where one piece of a batch stands in the run.
  struct Position {
    std::int64_t piece = 0;
    int epoch = 0;
    std::int64_t step = 0;
  };
  /// The mean loss over some rows, on the piece's own leaves.
  std::function<at::Tensor(const Position&, const at::Tensor& indices)> loss;
  /// Quality on the validation split or NaN, in `measure`; all lanes are free.
  std::function<double()> validate;
  Measure measure;
};

/// How far a stage goes: what a checkpoint says of it is held against this.
struct Extent {
  std::string name;
  int epochs = 0;
  std::int64_t steps = 0;  // in an epoch
};
Extent extent_of(const Stage& stage);

/// Runs stages one after another so that it can be killed anywhere: everything that decides what
/// comes next is in the checkpoint (weights, moments, place in the epoch) or a function of the
/// seed. One checkpoint an epoch and one on stop. Of a group the leader alone has the files; a
/// process that is asked to stop stops all.
class Run {
 public:
  struct Options {
    std::filesystem::path checkpoint;
    std::filesystem::path log;  // a JSON line an epoch
    /// What the run is a function of (recipe, data, start): a checkpoint of another run is refused.
    std::string fingerprint;
    std::uint64_t seed = 1;
    /// All stages, in the order in which finish() will be called.
    std::vector<Extent> stages;
    /// What a run of another recipe that has ended left, in words: it is not replaced. Empty: this
    /// run starts from it.
    std::string result = {};
    /// Starts anew where there is a run of another recipe.
    bool force = false;
  };
  /// Resumes where there is a checkpoint: weights are restored here.
  Run(Options options, Weights& weights, model::Lanes& lanes, Group group,
      base::ProgressCallback progress);

  bool resumed() const { return resumed_; }
  /// True where the stage of this number (0, 1 …) lies behind.
  bool is_done(int stage) const { return stage_ > stage; }
  /// Starts or resumes the stage that comes next and runs it to its end. False: stopped by the
  /// callback, checkpoint written.
  bool finish(const Stage& stage);
  const std::vector<EpochRecord>& records() const { return records_; }
  /// Figures of the caller that must survive a kill; saved with the next checkpoint.
  nlohmann::json& notes() { return notes_; }
  const nlohmann::json& notes() const { return notes_; }
  /// Reports outside of stages too, at most ten times a second; false: this process is asked to
  /// stop.
  bool report(const base::Progress& progress);
  /// The run is over and its result written. The checkpoint stays, so that the same call does
  /// nothing but write the same result again; another recipe starts anew.
  void close();

 private:
  std::string state_of_leader();
  void take_place(const base::Reader& state);
  void take_records(const base::Reader& lines);
  void restore_weights();
  bool run_epoch(const Stage& stage);
  double train_step(const Stage& stage, const std::vector<std::int64_t>& order, std::int64_t batch);
  void end_epoch(const Stage& stage, std::int64_t steps);
  void save() const;
  void write_log() const;

  Options options_;
  Weights& weights_;
  model::Lanes& lanes_;
  Group group_;
  base::ProgressCallback progress_;
  bool resumed_ = false, mid_stage_ = false, closed_ = false;
  int stage_ = 0, epoch_ = 0;
  std::int64_t step_ = 0;
  double loss_sum_ = 0, seconds_ = 0;
  double last_report_s_ = -1;
  std::vector<EpochRecord> records_;
  nlohmann::json notes_ = nlohmann::json::object();
};

}  // namespace cleave::calibrate
