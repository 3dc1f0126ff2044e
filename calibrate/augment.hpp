#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

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

/// How an image may be changed at random without changing what it shows.
struct Augmentation {
  bool flip = false;
  std::int64_t shift = 0;  // pixels, both directions; what comes in is 0
  bool changes_nothing() const { return !flip && shift == 0; }
};

/// images[indices], each mirrored and shifted by draws of (seed, view, index). View 0 is the image
/// as it is. uint8 [n, c, h, w], int64 [b] -> uint8 [b, c, h, w]; texts [n, N] are never changed.
at::Tensor take_view(const at::Tensor& images, const at::Tensor& indices, const Augmentation& how,
                     std::uint64_t seed, std::uint64_t view);

/// Windows of a running text as epoch `view` sees them: rows begin up to a window later, by a draw
/// of (seed, view), so that no token always begins one. View 0 is inputs[indices]. -> int32 [b, N +
/// 1].
at::Tensor take_windows(const at::Tensor& stream, const at::Tensor& inputs,
                        const at::Tensor& indices, std::uint64_t seed, std::uint64_t view);

}  // namespace cleave::calibrate
