#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "calibrate/augment.hpp"
#include "calibrate/group.hpp"
#include "model/dataset.hpp"
#include "model/lanes.hpp"
#include "model/transformer.hpp"

namespace cleave::calibrate {

/// What the teacher says about one view of every row, fp16: answers [n, C] (of an embedding [n, D])
/// and features [n, T, D].
struct TeacherView {
  at::Tensor logits, features;
};

/// Teacher outputs on disk, a file for each view: computing them is a forward pass of the largest
/// model over all images, and calibration asks for them again in every stage and after every kill.
class TeacherCache {
 public:
  /// `key` says what the outputs are a function of (teacher, images, augmentation, seed); a file
  /// with another key is not used.
  TeacherCache(std::filesystem::path folder, std::string key, Group group = Group());
  /// From disk, where every process of the group has it. Throws std::runtime_error where a file is
  /// damaged or has no digest.
  std::optional<TeacherView> kept(const model::ModelConfig& teacher, std::int64_t rows,
                                  int view) const;
  /// Computed, each process of the group a share, and written. Nothing when a `report` (rows done)
  /// asked to stop.
  std::optional<TeacherView> make(const model::Transformer& teacher, const model::Dataset& data,
                                  const Augmentation& how, std::uint64_t seed, int view,
                                  model::Lanes& lanes,
                                  const std::function<bool(std::int64_t)>& report = {}) const;

 private:
  std::filesystem::path path_of(int view) const;
  std::optional<TeacherView> read(int view, const model::ModelConfig& teacher,
                                  std::int64_t images) const;
  void write(int view, const TeacherView& outputs) const;

  std::filesystem::path folder_;
  std::string key_;
  Group group_;
};

}  // namespace cleave::calibrate
