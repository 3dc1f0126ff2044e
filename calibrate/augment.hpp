#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "calibrate/recipe.hpp"

namespace cleave::calibrate {

/// A small generator whose whole state is its key (SplitMix64): every draw of a run is a function
/// of (seed, stage, epoch, index), so that nothing about randomness needs to be saved and every
/// machine draws the same.
class Draw {
 public:
  explicit Draw(std::initializer_list<std::uint64_t> key);
  std::uint64_t next();
  /// 0 … count − 1.
  std::int64_t below(std::int64_t count);
  /// [0, 1).
  double uniform();

 private:
  std::uint64_t state_ = 0;
};

/// 0 … count − 1 in random order.
std::vector<std::int64_t> shuffled(std::int64_t count, std::initializer_list<std::uint64_t> key);

/// rows[indices], each changed by draws of (seed, view, index). View 0 is the row as it is. Images
/// uint8 [n, c, h, w] or token ids [n, N], int64 [b] -> [b, …].
at::Tensor take_view(const at::Tensor& rows, const at::Tensor& indices, const Augmentation& how,
                     std::uint64_t seed, std::uint64_t view);

/// Windows of a running text as epoch `view` sees them: rows begin up to a window later, by a draw
/// of (seed, view), so that no token always begins one. View 0 is inputs[indices]. -> int32 [b, N +
/// 1].
at::Tensor take_windows(const at::Tensor& stream, const at::Tensor& inputs,
                        const at::Tensor& indices, std::uint64_t seed, std::uint64_t view);

}  // namespace cleave::calibrate
