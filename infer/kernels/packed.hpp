#pragma once

#include <cstddef>
#include <cstdint>

#include "infer/kernels/pool.hpp"
#include "infer/kernels/table.hpp"

namespace cleave::kernels {

/// The weights of a product x · Wᵀ: O outputs over an inner axis of I, both in units that shares
/// take or leave: heads, 64 columns, a block of vocabulary rows.
struct Shape {
  Format format = Format::f32;
  std::int64_t num_units = 0, unit = 0;              // O = num_units · unit
  std::int64_t num_inner_units = 0, inner_unit = 0;  // I = num_inner_units · inner_unit

  std::int64_t outputs() const { return num_units * unit; }
  std::int64_t inner() const { return num_inner_units * inner_unit; }
};

/// O and I in units of `unit` and `inner_unit`. Throws std::invalid_argument "[pack] …" where they
/// do not divide.
Shape shape_in_units(Format format, std::int64_t outputs, std::int64_t unit, std::int64_t inner,
                     std::int64_t inner_unit);

/// Units [first, first + count).
struct Units {
  std::int64_t first = 0, count = 0;
};

/// Weights in panels as one target wants them. A unit of outputs is a run of panels, and within a
/// panel a unit of the inner axis is a run too, so that any range of units is used where it lies.
/// Does not own its memory.
struct Packed {
  Shape shape;
  const Table* table = nullptr;
  const std::byte* panels = nullptr;

  Units all() const { return {0, shape.num_units}; }
  Units all_inner() const { return {0, shape.num_inner_units}; }
};

/// Alignment of the memory that `pack` and `product` are given.
constexpr std::size_t alignment = 64;

/// What `pack` needs.
std::size_t packed_bytes(const Table& table, const Shape& shape);

/// Puts W, plain rows [O, I] of fp32, bf16 or int8, into panels at `memory` (packed_bytes,
/// aligned). int8 has scales [O, num_inner_units]: the weight is scale · int8. Throws
/// std::invalid_argument "[pack] …" where a scale is zero, negative or not finite, where units are
/// empty, or a unit of the inner axis is over 65536 (sums of int8 would not fit). A row of zeros
/// may have any positive scale.
Packed pack(const Table& table, const Shape& shape, const void* weights, const float* scales,
            std::byte* memory);

/// fp32 weights [O, I] as int8 with a scale for each row and unit of the inner axis: max |w| / 127,
/// or 1 where all are zero. `scales` is [O, I / inner_unit].
void quantise(const float* weights, std::int64_t outputs, std::int64_t inner,
              std::int64_t inner_unit, std::int8_t* out, float* scales);

/// What is done to a sum before it is written: residual + factor · activation(sum + bias). What is
/// null is left out. `bias` is that of all outputs, [O]; `factor` (an activated gate) and
/// `residual` have the shape of the result and may be it.
struct Epilogue {
  const float* bias = nullptr;
  Activation activation = Activation::none;
  const float* factor = nullptr;
  std::ptrdiff_t factor_stride = 0;  // floats from one row to the next, as all strides here
  const float* residual = nullptr;
  std::ptrdiff_t residual_stride = 0;
};

/// out[r, o] = epilogue(Σ_i x[r, i] · W[o, i]) for the outputs of `units` and the columns of
/// `inner`, both ranges of the weights' units; x and out have only those columns.
struct Product {
  Units units, inner;
  std::int64_t rows = 0;
  const float* x = nullptr;
  std::ptrdiff_t x_stride = 0;
  float* out = nullptr;
  std::ptrdiff_t out_stride = 0;
  Epilogue epilogue;
};

/// Memory that a product needs beside its operands: rows in the format's own numbers. 0 for fp32.
std::size_t workspace_bytes(const Packed& weights, Units inner, std::int64_t rows);

/// Adds an output's terms in an order that depends on format and target alone: neither rows, nor
/// ranges of outputs, nor threads change a bit. `workspace` has workspace_bytes and is aligned.
/// `pool` may be null. Blocks until all is written.
void product(const Packed& weights, const Product& product, std::byte* workspace, Pool* pool);

}  // namespace cleave::kernels
