#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "infer/kernels/target.hpp"

namespace cleave::kernels {

/// Numbers of a normal distribution.
inline std::vector<float> noise(std::int64_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// Memory aligned as kernels want it, of exactly so many bytes, so that a sanitizer sees what goes
/// beyond; full of NaN, so that what is read before it was written shows.
class Memory {
 public:
  explicit Memory(std::size_t bytes)
      : data_(static_cast<std::byte*>(::operator new (bytes + 1, std::align_val_t{64}))) {
    for (std::size_t i = 0; i < bytes; ++i) data_.get()[i] = std::byte{0xff};
  }
  std::byte* data() { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const { ::operator delete (data, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

inline std::vector<Target> targets_here() { return targets_of(features()); }

}  // namespace cleave::kernels
