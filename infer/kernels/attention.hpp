#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "infer/kernels/pool.hpp"
#include "infer/kernels/table.hpp"

namespace cleave::kernels {

/// What is kept of a text: keys and values of H heads of K numbers, for `capacity` rows.
struct KeyValueShape {
  Format format = Format::f32;
  std::int64_t heads = 0, width = 0, capacity = 0;
};

/// The widest head that there are kernels for.
constexpr std::int64_t max_head_width = 256;

/// Keys and values of one text as attention reads them: keys in panels along the rows, values in
/// rows; int8 with a scale for each row of a head. Does not own its memory.
struct KeyValues {
  KeyValueShape shape;
  const Table* table = nullptr;
  std::byte* memory = nullptr;
};

/// Of one text.
std::size_t key_value_bytes(const Table& table, const KeyValueShape& shape);
/// Over memory of so many bytes, aligned. It need not be cleared.
KeyValues key_values(const Table& table, const KeyValueShape& shape, std::byte* memory);

/// Heads [first, first + count).
struct Heads {
  std::int64_t first = 0, count = 0;
};

/// Writes rows [first, first + rows) of some heads: `keys` and `values` are [rows, heads.count · K]
/// with strides in floats.
void store(const KeyValues& to, Heads heads, std::int64_t first, std::int64_t rows,
           const float* keys, std::ptrdiff_t keys_stride, const float* values,
           std::ptrdiff_t values_stride);

/// out[i, h] = Σ_j softmax_j(q[i, h] · k[j] / √K + bias[j]) · v[j] over the keys that row i sees,
/// with a running maximum and sum over blocks of keys (Milakov and Gimelshein 2018; Dao and others
/// 2022), so that no matrix of scores is ever written.
struct Attention {
  Heads heads;                   // of keys and values
  std::int64_t group = 1;        // query heads that share one of them
  std::int64_t rows = 0;         // of queries
  std::int64_t keys = 0;         // stored ones; those from here on are seen by nobody
  const float* query = nullptr;  // [rows, heads.count · group · K]
  std::ptrdiff_t query_stride = 0;
  const float* bias = nullptr;  // of each key, [keys]; null: none
  /// Row i sees key j where seen_from[j] <= positions[i]. Both null: it sees all.
  const std::int32_t* seen_from = nullptr;
  const std::int32_t* positions = nullptr;
  float* out = nullptr;  // as the queries
  std::ptrdiff_t out_stride = 0;
};

/// A result's order of additions hangs on format and target alone: blocks of keys begin at fixed
/// rows, and what is not seen adds nothing. A row that sees no key gets finite numbers. `pool` may
/// be null.
void attend(const KeyValues& from, const Attention& attention, Pool* pool);

}  // namespace cleave::kernels
