#include "calibrate/augment.hpp"

#include <algorithm>
#include <cstring>
#include <tuple>

#include <ATen/ATen.h>

#include "model/tokenizer/segment.hpp"
#include "model/transformer.hpp"

namespace cleave::calibrate {
namespace {

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

at::Tensor moved(const model::Dataset& data, const at::Tensor& indices, const Augmentation& how,
                 std::uint64_t seed, std::uint64_t view) {
  const at::Tensor& images = data.inputs;
  const at::Tensor places = data.places_of(indices);
  const std::int64_t planes = images.size(1), height = images.size(2), width = images.size(3);
  const std::int64_t area = height * width;
  at::Tensor moved = at::zeros({indices.size(0), planes, height, width}, at::kByte);
  for (std::int64_t i = 0; i < indices.size(0); ++i) {
    const std::int64_t index = indices.data_ptr<std::int64_t>()[i];
    const Move move = draw_move(how, seed, view, index);
    const std::int64_t place = places.data_ptr<std::int64_t>()[i];
    for (std::int64_t c = 0; c < planes; ++c)
      move_plane(images.data_ptr<std::uint8_t>() + (place * planes + c) * area,
                 moved.data_ptr<std::uint8_t>() + (i * planes + c) * area, height, width, move);
  }
  return moved;
}

/// Where the second text of a pair begins in a row of `length` tokens; `length` where none does.
std::int64_t second_begin(const at::Tensor& row, std::int64_t length) {
  return row.narrow(0, 0, length).lt(model::second_text).sum().item<std::int64_t>();
}

/// A text keeps its first token, and ends with the last one of the other: what a tokenizer puts
/// around texts stays around them. Of two pairs the other takes over in the text in which the first
/// is left, so that two texts come out.
at::Tensor spliced(const model::Dataset& texts, const at::Tensor& indices, double share,
                   std::uint64_t seed, std::uint64_t view) {
  at::Tensor rows = texts.rows(indices);
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    Draw draw({seed, view, static_cast<std::uint64_t>(indices[i].item<std::int64_t>())});
    at::Tensor row = rows[i];
    const at::Tensor other = texts.rows(at::full({1}, draw.below(texts.size()), at::kLong))[0];
    const auto lengths = model::lengths_of(at::stack({row, other}));
    const std::int64_t length = lengths[0], other_length = lengths[1];
    if (draw.uniform() >= share || length < 2 || other_length < 2) continue;
    const std::int64_t begin = 1 + draw.below(length - 1);
    const std::int64_t second = other_length - second_begin(other, other_length);
    // Of the other's end: all its second text and a token before it, or no more than that text.
    std::int64_t least = second > 0 ? second + 1 : 1, most = other_length - 1;
    if (begin >= second_begin(row, length)) std::tie(least, most) = std::pair(1, second);
    most = std::min(most, row.size(0) - begin);
    const std::int64_t drawn = 1 + draw.below(other_length - 1);
    if (least > most) continue;
    const std::int64_t end = std::clamp(drawn, least, most);
    row.narrow(0, begin, row.size(0) - begin).fill_(-1);
    row.narrow(0, begin, end).copy_(other.narrow(0, other_length - end, end));
  }
  return rows;
}

}  // namespace

at::Tensor take_view(const model::Dataset& data, const at::Tensor& indices, const Augmentation& how,
                     std::uint64_t seed, std::uint64_t view) {
  const bool images = data.inputs.dim() == 4;
  if (view > 0 && images && (how.flip || how.shift > 0))
    return moved(data, indices, how, seed, view);
  if (view > 0 && !images && how.splice > 0) return spliced(data, indices, how.splice, seed, view);
  return data.rows(indices);
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
