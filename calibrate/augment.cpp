#include "calibrate/augment.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <ATen/ATen.h>

#include "model/transformer.hpp"

namespace cleave::calibrate {
namespace {

constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

struct Move {
  bool mirror = false;
  std::int64_t down = 0, right = 0;
};

Move draw_move(const Augmentation& how, std::uint64_t seed, std::uint64_t view,
               std::int64_t index) {
  Draw draw({seed, view, static_cast<std::uint64_t>(index)});
  Move move;
  if (how.flip) move.mirror = draw.below(2) == 1;
  if (how.shift > 0) {
    move.down = draw.below(2 * how.shift + 1) - how.shift;
    move.right = draw.below(2 * how.shift + 1) - how.shift;
  }
  return move;
}

/// One plane; rows and columns that come in stay as `to` has them (0).
void move_plane(const std::uint8_t* from, std::uint8_t* to, std::int64_t height, std::int64_t width,
                const Move& move) {
  const std::int64_t first = std::max<std::int64_t>(0, move.right),
                     last = std::min(width, width + move.right);
  for (std::int64_t y = std::max<std::int64_t>(0, move.down);
       y < std::min(height, height + move.down); ++y) {
    const std::uint8_t* source = from + (y - move.down) * width;
    if (first >= last) continue;
    if (move.mirror)
      std::reverse_copy(source + (width - (last - move.right)),
                        source + (width - (first - move.right)), to + y * width + first);
    else
      std::memcpy(to + y * width + first, source + (first - move.right),
                  static_cast<std::size_t>(last - first));
  }
}

at::Tensor moved(const at::Tensor& images, const at::Tensor& indices, const Augmentation& how,
                 std::uint64_t seed, std::uint64_t view) {
  const std::int64_t planes = images.size(1), height = images.size(2), width = images.size(3);
  const std::int64_t area = height * width;
  at::Tensor moved = at::zeros({indices.size(0), planes, height, width}, at::kByte);
  for (std::int64_t i = 0; i < indices.size(0); ++i) {
    const std::int64_t index = indices.data_ptr<std::int64_t>()[i];
    const Move move = draw_move(how, seed, view, index);
    for (std::int64_t c = 0; c < planes; ++c)
      move_plane(images.data_ptr<std::uint8_t>() + (index * planes + c) * area,
                 moved.data_ptr<std::uint8_t>() + (i * planes + c) * area, height, width, move);
  }
  return moved;
}

/// A text keeps its first token, and ends with the last one of the other: what a tokenizer puts
/// around texts stays around them.
at::Tensor spliced(const at::Tensor& texts, const at::Tensor& indices, double share,
                   std::uint64_t seed, std::uint64_t view) {
  at::Tensor rows = texts.index_select(0, indices);
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    Draw draw({seed, view, static_cast<std::uint64_t>(indices[i].item<std::int64_t>())});
    at::Tensor row = rows[i];
    const at::Tensor other = texts[draw.below(texts.size(0))];
    const auto lengths = model::lengths_of(at::stack({row, other}));
    const std::int64_t length = lengths[0], other_length = lengths[1];
    if (draw.uniform() >= share || length < 2 || other_length < 2) continue;
    const std::int64_t begin = 1 + draw.below(length - 1);
    const std::int64_t end = std::min(1 + draw.below(other_length - 1), row.size(0) - begin);
    row.narrow(0, begin, row.size(0) - begin).fill_(-1);
    row.narrow(0, begin, end).copy_(other.narrow(0, other_length - end, end));
  }
  return rows;
}

}  // namespace

Draw::Draw(std::initializer_list<std::uint64_t> key) {
  for (const std::uint64_t part : key) state_ = mix(state_ + golden + part);
}

std::uint64_t Draw::next() {
  state_ += golden;
  return mix(state_);
}

std::int64_t Draw::below(std::int64_t count) {
  // The bias of the remainder is below 2^-40 for every count that occurs.
  return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(count));
}

double Draw::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

std::vector<std::int64_t> shuffled(std::int64_t count, std::initializer_list<std::uint64_t> key) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  Draw draw(key);
  for (std::int64_t i = count - 1; i > 0; --i)
    std::swap(order[static_cast<std::size_t>(i)],
              order[static_cast<std::size_t>(draw.below(i + 1))]);
  return order;
}

at::Tensor take_view(const at::Tensor& rows, const at::Tensor& indices, const Augmentation& how,
                     std::uint64_t seed, std::uint64_t view) {
  const bool images = rows.dim() == 4;
  if (view > 0 && images && (how.flip || how.shift > 0))
    return moved(rows, indices, how, seed, view);
  if (view > 0 && !images && how.splice > 0) return spliced(rows, indices, how.splice, seed, view);
  return rows.index_select(0, indices);
}

at::Tensor take_windows(const at::Tensor& stream, const at::Tensor& inputs,
                        const at::Tensor& indices, std::uint64_t seed, std::uint64_t view) {
  if (view == 0) return inputs.index_select(0, indices);
  const std::int64_t window = inputs.size(1) - 1;
  // The only window has no room to begin later, the last one may have none.
  const std::int64_t later = Draw({seed, view}).below(std::min(window, stream.size(0) - window));
  const std::int64_t room = stream.size(0) - later;
  const at::Tensor moved = stream.narrow(0, later, room).unfold(0, window + 1, window);
  return moved.index_select(0, indices.clamp_max(moved.size(0) - 1));
}

}  // namespace cleave::calibrate
