#pragma once

// The table of one of Highway's targets: every kernel in Highway's words.

#include "infer/kernels/simd/attend.hpp"
#include "infer/kernels/simd/finish.hpp"
#include "infer/kernels/simd/rows.hpp"
#include "infer/kernels/simd/tables.hpp"
#include "infer/kernels/simd/tile_f32.hpp"
#include "infer/kernels/simd/tile_int8_widened.hpp"

namespace cleave::kernels::CLEAVE_TARGET {

inline Table make_table(Target target) {
  Table t;
  t.target = target;
  t.lanes = num_lanes;
  t.f32.max_rows = max_rows_f32;
  t.f32.tile = run_tile<TileF32, max_rows_f32>;
  t.f32.limit = limit_f32;
  t.bf16 = t.f32;
  t.bf16.group = 2;
  t.bf16.tile = run_tile<TileBf16Widened, max_rows_f32>;
  t.int8 = int8_widened();
  t.finish = finish;
  t.attend = attend;
  t.norm = norm;
  t.largest_and_sum = largest_and_sum;
  t.read = read;
  return t;
}

}  // namespace cleave::kernels::CLEAVE_TARGET
