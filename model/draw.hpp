#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace cleave::model {

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

// Stratified draws: row numbers, ascending, of each class in the share that it has of all rows.
// They are a function of `classes`, the class of each row, alone: the same on every machine,
// whatever the seed of a run and whatever the numbers that classes go by. Rows of a class are drawn
// at random. A larger draw contains a smaller one.

/// `count` rows to learn from or to judge by: every class is shown where there are as many rows as
/// classes. All rows where `count` is 0 or there are no more.
std::vector<std::int64_t> stratified(const std::vector<std::int64_t>& classes, std::int64_t count);

/// `count` rows to hold out, at most all: every class keeps a row as long as any other row is there
/// to be held out.
std::vector<std::int64_t> held_out(const std::vector<std::int64_t>& classes, std::int64_t count);

}  // namespace cleave::model
