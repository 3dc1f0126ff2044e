#include "infer/kernels/packed.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "infer/kernels/sizes.hpp"

namespace cleave::kernels {
namespace {

constexpr int panel_vectors = 2;

/// Where things lie in the panels of one matrix of weights.
struct Layout {
  explicit Layout(const Table& table, const Shape& shape)
      : kernels(table.product(shape.format)), lanes(table.lanes) {
    vectors = divided_up(shape.unit, lanes);
    panels = divided_up(vectors, panel_vectors);
    padded_inner_unit = rounded_up(shape.inner_unit, kernels.group);
    inner_unit_bytes = padded_inner_unit * size_of(shape.format);
    if (shape.format == Format::int8) inner_unit_bytes += kernels.has_offsets ? 8 : 4;
    vector_bytes = shape.num_inner_units * inner_unit_bytes * lanes;
    unit_bytes = vectors * vector_bytes;
  }
  /// Vectors of a unit's panel: its last panel may have less.
  int vectors_of(std::int64_t panel) const {
    return static_cast<int>(std::min<std::int64_t>(panel_vectors, vectors - panel * panel_vectors));
  }
  std::int64_t offset(std::int64_t unit, std::int64_t panel) const {
    return unit * unit_bytes + panel * panel_vectors * vector_bytes;
  }

  const ProductKernels& kernels;
  std::int64_t lanes;
  std::int64_t vectors, panels;  // of a unit of outputs
  std::int64_t padded_inner_unit;
  std::int64_t inner_unit_bytes;  // for each column, its scale included
  std::int64_t vector_bytes;      // of a panel, for each of its vectors
  std::int64_t unit_bytes;
};

void check(const Shape& s) {
  if (s.num_units < 1 || s.unit < 1 || s.num_inner_units < 1 || s.inner_unit < 1)
    throw std::invalid_argument("[pack] empty: saw " + std::to_string(s.num_units) + " units of " +
                                std::to_string(s.unit) + " outputs over " +
                                std::to_string(s.num_inner_units) + " of " +
                                std::to_string(s.inner_unit) + ", needs one of each at least");
  if (s.format == Format::int8 && s.inner_unit > 65536)
    throw std::invalid_argument(
        "[pack] a unit of the inner axis is too long for sums of int8: saw " +
        std::to_string(s.inner_unit) + ", needs 65536 at most");
}

/// Columns [first, first + columns) of a panel, for one unit of the inner axis; returns its end.
/// Rows of W at or beyond `end` are padding.
template <class T>
std::byte* pack_unit(const Layout& layout, const Shape& shape, const T* weights,
                     const float* scales, std::int64_t first, std::int64_t end,
                     std::int64_t columns, std::int64_t inner_unit, std::byte* to) {
  const std::int64_t start = inner_unit * shape.inner_unit, inner = shape.inner();
  if (shape.format == Format::int8) {
    auto* column_scales = reinterpret_cast<float*>(to);
    to += columns * 4;
    for (std::int64_t c = 0; c < columns; ++c)
      column_scales[c] =
          first + c < end ? scales[(first + c) * shape.num_inner_units + inner_unit] : 0.0F;
    if (layout.kernels.has_offsets) {
      auto* offsets = reinterpret_cast<std::int32_t*>(to);
      to += columns * 4;
      for (std::int64_t c = 0; c < columns; ++c) {
        std::int32_t sum = 0;
        if (first + c < end)
          for (std::int64_t k = 0; k < shape.inner_unit; ++k)
            sum += static_cast<std::int32_t>(weights[(first + c) * inner + start + k]);
        offsets[c] = -128 * sum;
      }
    }
  }
  auto* out = reinterpret_cast<T*>(to);
  const std::int64_t group = layout.kernels.group;
  for (std::int64_t k = 0; k < layout.padded_inner_unit; k += group)
    for (std::int64_t c = 0; c < columns; ++c)
      for (std::int64_t g = k; g < k + group; ++g)
        *out++ = first + c < end && g < shape.inner_unit ? weights[(first + c) * inner + start + g]
                                                         : T{};
  return reinterpret_cast<std::byte*>(out);
}

template <class T>
void pack_all(const Layout& layout, const Shape& shape, const T* weights, const float* scales,
              std::byte* memory) {
  for (std::int64_t u = 0; u < shape.num_units; ++u) {
    for (std::int64_t p = 0; p < layout.panels; ++p) {
      std::byte* to = memory + layout.offset(u, p);
      const std::int64_t first = u * shape.unit + p * panel_vectors * layout.lanes;
      for (std::int64_t i = 0; i < shape.num_inner_units; ++i)
        to = pack_unit(layout, shape, weights, scales, first, (u + 1) * shape.unit,
                       layout.vectors_of(p) * layout.lanes, i, to);
    }
  }
}

/// So many rows are prepared, or multiplied, by one thread before it asks for more.
constexpr std::int64_t rows_of_task = 96;

/// Where the rows of x lie as tiles want them.
struct Rows {
  const std::byte* x = nullptr;
  std::ptrdiff_t stride = 0;
  const float* scales = nullptr;
  std::ptrdiff_t scales_stride = 0;
};

Rows prepare(const Packed& weights, const Layout& layout, const Product& p, std::byte* workspace,
             Pool* pool) {
  if (!layout.kernels.prepare)
    return {reinterpret_cast<const std::byte*>(p.x), p.x_stride * std::ptrdiff_t{sizeof(float)}};
  const std::int64_t row_bytes = p.inner.count * layout.padded_inner_unit * layout.kernels.x_bytes;
  Rows rows{workspace, row_bytes};
  if (weights.shape.format == Format::int8) {
    rows.scales = reinterpret_cast<const float*>(
        workspace + rounded_up(p.rows * row_bytes, static_cast<std::int64_t>(alignment)));
    rows.scales_stride = p.inner.count;
  }
  parallel_for(pool, divided_up(p.rows, 16), [&](std::int64_t task) {
    const std::int64_t first = task * 16;
    Prepare prepare;
    prepare.rows = std::min<std::int64_t>(16, p.rows - first);
    prepare.num_units = p.inner.count;
    prepare.unit = weights.shape.inner_unit;
    prepare.padded_unit = layout.padded_inner_unit;
    prepare.x = p.x + first * p.x_stride;
    prepare.x_stride = p.x_stride;
    prepare.out = workspace + first * row_bytes;
    prepare.scales = const_cast<float*>(rows.scales) + first * rows.scales_stride;
    layout.kernels.prepare(prepare);
  });
  return rows;
}

/// Rows [first, first + count) of one panel.
void multiply(const Packed& weights, const Layout& layout, const Product& p, const Rows& rows,
              std::int64_t unit, std::int64_t panel, std::int64_t first, std::int64_t count) {
  alignas(alignment) float sums[max_tile_rows * max_tile_columns];
  const Shape& shape = weights.shape;
  Tile tile;
  tile.vectors = layout.vectors_of(panel);
  const std::int64_t columns = tile.vectors * layout.lanes;
  tile.x_stride = rows.stride;
  tile.x_scales_stride = rows.scales_stride;
  tile.panel = weights.panels + layout.offset(p.units.first + unit, panel) +
               p.inner.first * layout.inner_unit_bytes * columns;
  tile.panel_stride = columns;
  tile.num_units = p.inner.count;
  tile.unit = shape.inner_unit;
  tile.sums = sums;
  const std::int64_t column = panel * panel_vectors * layout.lanes;  // in the unit
  const std::int64_t of_out = unit * shape.unit + column;
  const Epilogue& e = p.epilogue;
  Finish finish;
  finish.columns = static_cast<int>(std::min(columns, shape.unit - column));
  finish.sums = sums;
  finish.sums_stride = static_cast<int>(columns);
  if (e.bias) finish.bias = e.bias + p.units.first * shape.unit + of_out;
  finish.activation = e.activation;
  finish.factor_stride = e.factor_stride;
  finish.residual_stride = e.residual_stride;
  finish.out_stride = p.out_stride;
  // Tiles of nearly equal height: a last one of a row or two would leave most of the registers
  // idle.
  const std::int64_t tiles = divided_up(count, layout.kernels.max_rows);
  // Memory is fetched ahead: by one tile alone some way before it reads it, else the next panel, a
  // part by each tile. What lies behind the last panel may be fetched too, which never fails.
  constexpr std::int64_t way = 4096;
  const std::int64_t panel_bytes = p.inner.count * layout.inner_unit_bytes * columns;
  const std::int64_t steps = p.inner.count * layout.padded_inner_unit / layout.kernels.group;
  const char* ahead =
      static_cast<const char*>(tile.panel) + (tiles > 1 ? layout.vector_bytes * tile.vectors : way);
  tile.ahead_step = panel_bytes / tiles / steps;
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t row = first + count * t / tiles;
    tile.rows = finish.rows = static_cast<int>(first + count * (t + 1) / tiles - row);
    tile.x = rows.x + row * rows.stride;
    tile.ahead = ahead + panel_bytes * t / tiles;
    if (rows.scales) tile.x_scales = rows.scales + row * rows.scales_stride;
    layout.kernels.tile(tile);
    if (e.factor) finish.factor = e.factor + row * e.factor_stride + of_out;
    if (e.residual) finish.residual = e.residual + row * e.residual_stride + of_out;
    finish.out = p.out + row * p.out_stride + of_out;
    weights.table->finish(finish);
  }
}

}  // namespace

Shape shape_in_units(Format format, std::int64_t outputs, std::int64_t unit, std::int64_t inner,
                     std::int64_t inner_unit) {
  const auto expect_divides = [](const char* what, std::int64_t whole, std::int64_t part) {
    if (part < 1 || whole < 1 || whole % part != 0)
      throw std::invalid_argument(std::string("[pack] units of ") + what + " do not divide: saw " +
                                  std::to_string(whole) + " in units of " + std::to_string(part) +
                                  ", needs a multiple");
  };
  expect_divides("outputs", outputs, unit);
  expect_divides("the inner axis", inner, inner_unit);
  return {format, outputs / unit, unit, inner / inner_unit, inner_unit};
}

std::size_t packed_bytes(const Table& table, const Shape& shape) {
  return static_cast<std::size_t>(shape.num_units * Layout(table, shape).unit_bytes);
}

Packed pack(const Table& table, const Shape& shape, const void* weights, const float* scales,
            std::byte* memory) {
  check(shape);
  const Layout layout(table, shape);
  switch (shape.format) {
    case Format::f32:
      pack_all(layout, shape, static_cast<const float*>(weights), nullptr, memory);
      break;
    case Format::bf16:
      pack_all(layout, shape, static_cast<const std::uint16_t*>(weights), nullptr, memory);
      break;
    case Format::int8:
      for (std::int64_t i = 0; i < shape.outputs() * shape.num_inner_units; ++i)
        if (!(scales[i] > 0) || !std::isfinite(scales[i]))
          throw std::invalid_argument(
              "[pack] scale of row " + std::to_string(i / shape.num_inner_units) + ", unit " +
              std::to_string(i % shape.num_inner_units) + ": saw " + std::to_string(scales[i]) +
              ", needs a positive finite number");
      pack_all(layout, shape, static_cast<const std::int8_t*>(weights), scales, memory);
      break;
  }
  return {shape, &table, memory};
}

void quantise(const float* weights, std::int64_t outputs, std::int64_t inner,
              std::int64_t inner_unit, std::int8_t* out, float* scales) {
  for (std::int64_t i = 0; i < outputs * inner; i += inner_unit) {
    float most = 0;
    for (std::int64_t k = 0; k < inner_unit; ++k) most = std::max(most, std::fabs(weights[i + k]));
    // So small a unit is zero: its inverse would be infinite.
    const bool is_zero = !(most > 1e-36F);
    scales[i / inner_unit] = is_zero ? 1 : most / 127;
    for (std::int64_t k = 0; k < inner_unit; ++k)
      out[i + k] = is_zero ? std::int8_t{0}
                           : static_cast<std::int8_t>(std::lrintf(weights[i + k] * (127 / most)));
  }
}

std::size_t workspace_bytes(const Packed& weights, Units inner, std::int64_t rows) {
  const Layout layout(*weights.table, weights.shape);
  if (!layout.kernels.prepare) return 0;
  const std::int64_t x = rows * inner.count * layout.padded_inner_unit * layout.kernels.x_bytes;
  const std::int64_t scales = weights.shape.format == Format::int8 ? rows * inner.count * 4 : 0;
  return static_cast<std::size_t>(rounded_up(x, static_cast<std::int64_t>(alignment)) + scales);
}

void product(const Packed& weights, const Product& p, std::byte* workspace, Pool* pool) {
  const Shape& shape = weights.shape;
  assert(p.units.first >= 0 && p.units.first + p.units.count <= shape.num_units);
  assert(p.inner.first >= 0 && p.inner.first + p.inner.count <= shape.num_inner_units);
  const Layout layout(*weights.table, shape);
  const Rows rows = prepare(weights, layout, p, workspace, pool);
  const std::int64_t num_panels = p.units.count * layout.panels;
  const std::int64_t chunks = divided_up(p.rows, rows_of_task);
  // Neighbours in time share a panel, which stays in the cache.
  parallel_for(pool, num_panels * chunks, [&](std::int64_t task) {
    const std::int64_t panel = task / chunks, chunk = task % chunks;
    const std::int64_t first = p.rows * chunk / chunks, end = p.rows * (chunk + 1) / chunks;
    multiply(weights, layout, p, rows, panel / layout.panels, panel % layout.panels, first,
             end - first);
  });
}

}  // namespace cleave::kernels
