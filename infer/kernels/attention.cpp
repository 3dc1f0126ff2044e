#include "infer/kernels/attention.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "infer/kernels/sizes.hpp"

namespace cleave::kernels {
namespace {

/// Where things lie in what is kept of a text: for each head its keys, its values and their scales.
struct Layout {
  Layout(const Table& table, const KeyValueShape& shape) : panel(2 * table.lanes) {
    const std::int64_t number = size_of(shape.format);
    row = rounded_up(shape.width, table.lanes);
    rows = rounded_up(shape.capacity, panel);
    values_at = rounded_up(rows * shape.width * number, 64);
    scales_at = values_at + rounded_up(rows * row * number, 64);
    head_bytes = scales_at + (shape.format == Format::int8 ? rounded_up(2 * rows * 4, 64) : 0);
  }
  std::int64_t panel;      // columns of a panel of keys
  std::int64_t row, rows;  // numbers of a row of values; of rows, in whole panels
  std::int64_t values_at, scales_at, head_bytes;
};

std::uint16_t bf16_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// A row of K numbers to `at(i)`, in the format; returns its scale.
template <class At>
float put(Format format, const float* row, std::int64_t width, const At& at) {
  if (format == Format::f32) {
    for (std::int64_t i = 0; i < width; ++i) std::memcpy(at(i), row + i, 4);
    return 1;
  }
  if (format == Format::bf16) {
    for (std::int64_t i = 0; i < width; ++i) {
      const std::uint16_t number = bf16_of(row[i]);
      std::memcpy(at(i), &number, 2);
    }
    return 1;
  }
  float most = 0;
  for (std::int64_t i = 0; i < width; ++i) most = std::max(most, std::fabs(row[i]));
  const bool is_zero = !(most > 1e-36F);
  for (std::int64_t i = 0; i < width; ++i)
    *reinterpret_cast<std::int8_t*>(at(i)) =
        is_zero ? std::int8_t{0} : static_cast<std::int8_t>(std::lrintf(row[i] * (127 / most)));
  return is_zero ? 0 : most / 127;
}

/// The most rows of queries that one thread takes before it asks for more.
constexpr std::int64_t rows_of_task = 112;

/// Rows [first, first + count) of the queries of one head of keys; a group's queries are rows of a
/// tile.
void attend_head(const KeyValues& from, const Layout& layout, const Attention& a, std::int64_t head,
                 std::int64_t first, std::int64_t count) {
  const Table& table = *from.table;
  const std::int64_t width = from.shape.width;
  const std::byte* memory = from.memory + (a.heads.first + head) * layout.head_bytes;
  std::int32_t positions[max_tile_rows];
  AttendRows some;
  some.width = width;
  some.format = from.shape.format;
  some.key_panels = memory;
  some.values = memory + layout.values_at;
  if (some.format == Format::int8) {
    some.key_scales = reinterpret_cast<const float*>(memory + layout.scales_at);
    some.value_scales = some.key_scales + layout.rows;
  }
  some.scale = 1 / std::sqrt(static_cast<float>(width));
  some.bias = a.bias;
  some.seen_from = a.seen_from;
  some.positions = positions;
  const float* query = a.query + head * a.group * width;
  float* out = a.out + head * a.group * width;
  // A group's queries lie side by side in a row: of one query alone the rows are used where they
  // are, else a tile is gathered.
  const bool alone = a.group == 1;
  alignas(64) float gathered[max_tile_rows * max_head_width],
      context[max_tile_rows * max_head_width];
  const std::int64_t all = count * a.group, tiles = divided_up(all, table.f32.max_rows);
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t begin = all * t / tiles, end = all * (t + 1) / tiles;
    some.rows = static_cast<int>(end - begin);
    some.query = alone ? query + (first + begin) * a.query_stride : gathered;
    some.query_stride = alone ? a.query_stride : width;
    some.out = alone ? out + (first + begin) * a.out_stride : context;
    some.out_stride = alone ? a.out_stride : width;
    const auto bytes = static_cast<std::size_t>(width) * sizeof(float);
    std::int32_t last = 0;
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t row = first + r / a.group;
      if (!alone)
        std::memcpy(gathered + (r - begin) * width,
                    query + row * a.query_stride + r % a.group * width, bytes);
      positions[r - begin] = a.positions ? a.positions[row] : 0;
      last = std::max(last, positions[r - begin]);
    }
    some.keys = a.keys;
    // What none of the rows sees is not looked at.
    if (a.seen_from)
      while (some.keys > 1 && a.seen_from[some.keys - 1] > last) --some.keys;
    table.attend(some);
    for (std::int64_t r = begin; r < end && !alone; ++r)
      std::memcpy(out + (first + r / a.group) * a.out_stride + r % a.group * width,
                  context + (r - begin) * width, bytes);
  }
}

}  // namespace

std::size_t key_value_bytes(const Table& table, const KeyValueShape& shape) {
  return static_cast<std::size_t>(shape.heads * Layout(table, shape).head_bytes);
}

KeyValues key_values(const Table& table, const KeyValueShape& shape, std::byte* memory) {
  assert(shape.heads > 0 && shape.width > 0 && shape.width <= max_head_width && shape.capacity > 0);
  return {shape, &table, memory};
}

void store(const KeyValues& to, Heads heads, std::int64_t first, std::int64_t rows,
           const float* keys, std::ptrdiff_t keys_stride, const float* values,
           std::ptrdiff_t values_stride) {
  const Layout layout(*to.table, to.shape);
  const KeyValueShape& shape = to.shape;
  const std::int64_t number = size_of(shape.format);
  assert(first >= 0 && first + rows <= shape.capacity);
  assert(heads.first >= 0 && heads.first + heads.count <= shape.heads);
  for (std::int64_t h = 0; h < heads.count; ++h) {
    std::byte* memory = to.memory + (heads.first + h) * layout.head_bytes;
    auto* scales = reinterpret_cast<float*>(memory + layout.scales_at);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t row = first + r;
      std::byte* key =
          memory + (row / layout.panel * shape.width * layout.panel + row % layout.panel) * number;
      const float key_scale =
          put(shape.format, keys + r * keys_stride + h * shape.width, shape.width,
              [&](std::int64_t i) { return key + i * layout.panel * number; });
      std::byte* value = memory + layout.values_at + row * layout.row * number;
      const float value_scale =
          put(shape.format, values + r * values_stride + h * shape.width, shape.width,
              [&](std::int64_t i) { return value + i * number; });
      // The rest of a row is read with it.
      std::memset(value + shape.width * number, 0,
                  static_cast<std::size_t>((layout.row - shape.width) * number));
      if (shape.format != Format::int8) continue;
      scales[row] = key_scale;
      scales[layout.rows + row] = value_scale;
    }
  }
}

void attend(const KeyValues& from, const Attention& a, Pool* pool) {
  assert(a.keys > 0 && a.keys <= from.shape.capacity);
  const Layout layout(*from.table, from.shape);
  const std::int64_t chunks = divided_up(a.rows * a.group, rows_of_task);
  parallel_for(pool, a.heads.count * chunks, [&](std::int64_t task) {
    const std::int64_t head = task / chunks, chunk = task % chunks;
    const std::int64_t begin = a.rows * chunk / chunks, end = a.rows * (chunk + 1) / chunks;
    attend_head(from, layout, a, head, begin, end - begin);
  });
}

}  // namespace cleave::kernels
