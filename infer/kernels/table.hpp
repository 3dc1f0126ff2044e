#pragma once

#include <cstddef>
#include <cstdint>

#include "infer/kernels/target.hpp"

namespace cleave::kernels {

/// Of weights, keys and values. int8 is symmetric, with fp32 scales beside it.
enum class Format { f32, bf16, int8 };

/// Applied to a sum with its bias. gelu: x/2 (1 + erf(x/√2)); gelu_tanh:
/// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))); silu: x / (1 + e^−x).
enum class Activation { none, relu, gelu, gelu_tanh, silu };

/// The most rows of a tile, over all targets, and its most columns.
constexpr int max_tile_rows = 16, max_tile_columns = 32;

/// One tile of a product: `rows` rows of x times one panel of columns. Sums of an output are added
/// in the order of the inner axis, one chain from zero, whatever `rows` is.
struct Tile {
  int rows = 0, vectors = 0;        // the panel has vectors · lanes columns
  const void* x = nullptr;          // as ProductKernels::prepare leaves it
  std::ptrdiff_t x_stride = 0;      // bytes
  const float* x_scales = nullptr;  // int8: one for each unit of the inner axis
  std::ptrdiff_t x_scales_stride = 0;
  const void* panel = nullptr;
  std::ptrdiff_t panel_stride = 0;       // f32: floats from one step of the inner axis to the next
  std::int64_t num_units = 0, unit = 0;  // of the inner axis
  bool goes_on = false;                  // f32: starts from what `sums` holds
  float* sums = nullptr;                 // [rows, vectors · lanes]
  /// What is fetched meanwhile, a bit with each step of the inner axis: part of the panel that
  /// comes next, which the hardware does not foresee while this one is read again and again.
  const char* ahead = nullptr;
  std::ptrdiff_t ahead_step = 0;
};

/// What becomes of a tile's sums: out = residual + factor · activation(sum + bias); what is null is
/// left out. Pointers are those of the tile's first row and column. `out` may be `factor` or
/// `residual`.
struct Finish {
  int rows = 0, columns = 0;
  const float* sums = nullptr;
  int sums_stride = 0;
  const float* bias = nullptr;
  Activation activation = Activation::none;
  const float* factor = nullptr;
  std::ptrdiff_t factor_stride = 0;
  const float* residual = nullptr;
  std::ptrdiff_t residual_stride = 0;
  float* out = nullptr;
  std::ptrdiff_t out_stride = 0;
};

/// Rows of x as a tile wants them. bf16, int8: [rows, units, padded unit].
struct Prepare {
  std::int64_t rows = 0, num_units = 0, unit = 0, padded_unit = 0;
  const float* x = nullptr;
  std::ptrdiff_t x_stride = 0;
  void* out = nullptr;
  float* scales = nullptr;  // int8: [rows, num_units]
};

/// The kernels of one target for one format of weights.
struct ProductKernels {
  /// Rows of a tile; a tile with fewer gives the same.
  int max_rows = 1;
  /// So many neighbours of the inner axis lie together in a panel; units are padded to it.
  int group = 1;
  /// Bytes of an element of x after `prepare`.
  int x_bytes = 4;
  /// int8: x is stored plus 128, so panels hold what that adds to each sum.
  bool has_offsets = false;
  void (*prepare)(const Prepare&) = nullptr;  // null: rows are taken as they are
  void (*tile)(const Tile&) = nullptr;
  /// Multiply-adds without memory, to measure the machine's limit: returns how many.
  double (*limit)(std::int64_t repeats) = nullptr;
};

/// Attention of some rows of one head (a group's queries are rows too).
struct AttendRows {
  int rows = 0;            // at most ProductKernels::max_rows of f32
  std::int64_t width = 0;  // K
  std::int64_t keys = 0;   // the last one that any row sees, and one more
  Format format = Format::f32;
  const std::byte* key_panels = nullptr;  // [panels, K, a panel's columns]
  const std::byte* values = nullptr;      // [keys, K in whole vectors]
  const float* key_scales = nullptr;      // int8: [keys in whole panels], and of values
  const float* value_scales = nullptr;
  const float* query = nullptr;  // [rows, K]
  std::ptrdiff_t query_stride = 0;
  float scale = 1;  // of the products, 1/√K
  const float* bias = nullptr;
  const std::int32_t* seen_from = nullptr;
  const std::int32_t* positions = nullptr;  // of the rows
  float* out = nullptr;                     // [rows, K]
  std::ptrdiff_t out_stride = 0;
};

/// Rows that are normalised: y = (x − mean) / √(variance + eps) · weight + bias, or of RMSNorm
/// x / √(mean of squares + eps) · weight. Where there is a residual, x is x + residual first, and
/// that is written to `stream` where it is wanted.
struct NormRows {
  std::int64_t rows = 0, width = 0;
  const float* x = nullptr;         // [rows, width], as all
  const float* residual = nullptr;  // null: none
  const float* weight = nullptr;    // [width]
  const float* bias = nullptr;      // null: none
  float eps = 0;
  bool is_rms = false;
  float* stream = nullptr;  // may be x or residual; null: not wanted
  float* out = nullptr;     // may be x
};

/// Of a row: its largest number, and Σ e^(x − largest).
struct LargestAndSum {
  float largest = 0, sum = 0;
};

struct Table {
  Target target = Target::scalar;
  int lanes = 1;  // fp32 numbers in a vector; a panel has two vectors of columns
  ProductKernels f32, bf16, int8;
  void (*finish)(const Finish&) = nullptr;
  void (*attend)(const AttendRows&) = nullptr;
  void (*norm)(const NormRows&) = nullptr;
  LargestAndSum (*largest_and_sum)(const float* x, std::int64_t count, float factor) = nullptr;
  /// Reads memory as fast as it can, to measure the machine's limit; returns a value that depends
  /// on all of it.
  std::uint64_t (*read)(const void* data, std::size_t bytes) = nullptr;

  const ProductKernels& product(Format format) const {
    return format == Format::f32 ? f32 : format == Format::bf16 ? bf16 : int8;
  }
};

/// Throws std::invalid_argument where this program has no kernels for the target.
const Table& table_of(Target target);
/// What this process runs on: the best that the machine can, or what CLEAVE_CPU names. Chosen at
/// the first call; errors as choose_target.
const Table& chosen_table();

}  // namespace cleave::kernels
