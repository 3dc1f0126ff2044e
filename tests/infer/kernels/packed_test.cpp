#include "infer/kernels/packed.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "tests/infer/kernels/numbers.hpp"

namespace cleave::kernels {
namespace {

constexpr std::array formats = {Format::f32, Format::bf16, Format::int8};
const char* name_of(Format format) {
  return format == Format::f32 ? "f32" : format == Format::bf16 ? "bf16" : "int8";
}

std::uint16_t bf16_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float widened(std::uint16_t x) {
  const std::uint32_t bits = std::uint32_t{x} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// A matrix of weights in a format, packed for a target, with what its numbers are.
struct Weights {
  Weights(const Table& table, const Shape& shape, unsigned seed)
      : memory(packed_bytes(table, shape)), bytes(packed_bytes(table, shape)) {
    const std::int64_t outputs = shape.outputs(), inner = shape.inner();
    plain = noise(outputs * inner, seed, 0.3F);
    std::vector<float> scales(static_cast<std::size_t>(outputs * shape.num_inner_units));
    std::vector<std::uint16_t> halves;
    std::vector<std::int8_t> bytes8(plain.size());
    const void* rows = plain.data();
    if (shape.format == Format::bf16) {
      for (float& value : plain) {
        halves.push_back(bf16_of(value));
        value = widened(halves.back());
      }
      rows = halves.data();
    } else if (shape.format == Format::int8) {
      quantise(plain.data(), outputs, inner, shape.inner_unit, bytes8.data(), scales.data());
      for (std::size_t i = 0; i < plain.size(); ++i)
        plain[i] =
            static_cast<float>(bytes8[i]) * scales[i / static_cast<std::size_t>(shape.inner_unit)];
      rows = bytes8.data();
    }
    packed = pack(table, shape, rows, scales.data(), memory.data());
  }
  Memory memory;
  std::size_t bytes;
  std::vector<float> plain;  // [O, I]
  Packed packed;
};

/// What a format makes of the numbers of x.
std::vector<float> as_taken(Format format, const Table& table, std::vector<float> x,
                            std::int64_t unit) {
  if (format == Format::bf16 && table.bf16.prepare)
    for (float& value : x) value = widened(bf16_of(value));
  if (format == Format::int8)
    for (std::size_t at = 0; at < x.size(); at += static_cast<std::size_t>(unit)) {
      float most = 0;
      for (std::int64_t i = 0; i < unit; ++i)
        most = std::max(most, std::fabs(x[at + static_cast<std::size_t>(i)]));
      for (std::int64_t i = 0; i < unit; ++i) {
        float& value = x[at + static_cast<std::size_t>(i)];
        value = std::nearbyint(value * (127 / most)) * (most / 127);
      }
    }
  return x;
}

std::vector<float> multiplied(const Packed& weights, Units units, Units inner, std::int64_t rows,
                              const std::vector<float>& x, const Epilogue& epilogue, Pool* pool) {
  Memory workspace(workspace_bytes(weights, inner, rows));
  const std::int64_t outputs = units.count * weights.shape.unit;
  std::vector<float> out(static_cast<std::size_t>(rows * outputs),
                         std::numeric_limits<float>::quiet_NaN());
  Product product;
  product.units = units;
  product.inner = inner;
  product.rows = rows;
  product.x = x.data();
  product.x_stride = inner.count * weights.shape.inner_unit;
  product.out = out.data();
  product.out_stride = outputs;
  product.epilogue = epilogue;
  kernels::product(weights, product, workspace.data(), pool);
  return out;
}

class OnTarget : public testing::TestWithParam<std::tuple<Target, Format>> {
 protected:
  const Table& table = table_of(std::get<0>(GetParam()));
  Format format = std::get<1>(GetParam());
};

std::string name_of_case(const testing::TestParamInfo<std::tuple<Target, Format>>& info) {
  std::string name(name_of(std::get<0>(info.param)));
  for (char& c : name)
    if (c == '-') c = '_';
  return name + "_" + name_of(std::get<1>(info.param));
}

TEST_P(OnTarget, AnyRangeOfUnitsIsTheSumsOfItsRows) {
  for (const std::int64_t unit : {1, 7, 12, 31, 33, 64})
    for (const std::int64_t inner_unit : {1, 13, 32}) {
      const Shape shape = shape_in_units(format, 3 * unit, unit, 4 * inner_unit, inner_unit);
      const Weights weights(table, shape, static_cast<unsigned>(unit + inner_unit));
      for (const auto& [units, inner] :
           {std::pair(Units{0, 3}, Units{0, 4}), std::pair(Units{1, 2}, Units{1, 2}),
            std::pair(Units{2, 1}, Units{3, 1})}) {
        const std::int64_t rows = 5, width = inner.count * inner_unit;
        const auto x = noise(rows * width, 3);
        const auto taken = as_taken(format, table, x, inner_unit);
        const auto out = multiplied(weights.packed, units, inner, rows, x, {}, nullptr);
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t o = 0; o < units.count * unit; ++o) {
            double sum = 0, size = 0;
            for (std::int64_t i = 0; i < width; ++i) {
              const double term =
                  double{taken[static_cast<std::size_t>(r * width + i)]} *
                  double{weights.plain[static_cast<std::size_t>(
                      (units.first * unit + o) * shape.inner() + inner.first * inner_unit + i)]};
              sum += term;
              size += std::fabs(term);
            }
            ASSERT_NEAR(out[static_cast<std::size_t>(r * units.count * unit + o)], sum,
                        1e-5 * size + 1e-7)
                << "row " << r << ", output " << o << " in units of " << unit << ", " << inner_unit;
          }
      }
    }
}

TEST_P(OnTarget, RowsThreadsAndSharesChangeNoBit) {
  const Shape shape = shape_in_units(format, 3 * 33, 33, 4 * 13, 13);
  const Weights weights(table, shape, 5);
  constexpr std::int64_t most_rows = 200;
  const auto x = noise(most_rows * shape.inner(), 6);
  const auto whole = multiplied(weights.packed, weights.packed.all(), weights.packed.all_inner(),
                                most_rows, x, {}, nullptr);
  const auto first_rows = [&](std::int64_t rows) {
    return std::vector<float>(whole.begin(), whole.begin() + rows * shape.outputs());
  };
  for (std::int64_t rows = 1; rows <= 33; ++rows)
    ASSERT_EQ(multiplied(weights.packed, weights.packed.all(), weights.packed.all_inner(), rows, x,
                         {}, nullptr),
              first_rows(rows))
        << rows << " rows";
  for (const int threads : {2, 3, 5}) {
    Pool pool(threads);
    for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{17}, most_rows})
      ASSERT_EQ(multiplied(weights.packed, weights.packed.all(), weights.packed.all_inner(), rows,
                           x, {}, &pool),
                first_rows(rows))
          << threads << " threads";
  }
  // Of one unit alone.
  for (std::int64_t u = 0; u < 3; ++u) {
    const auto part =
        multiplied(weights.packed, {u, 1}, weights.packed.all_inner(), 20, x, {}, nullptr);
    for (std::int64_t r = 0; r < 20; ++r)
      for (std::int64_t o = 0; o < 33; ++o)
        ASSERT_EQ(part[static_cast<std::size_t>(r * 33 + o)],
                  whole[static_cast<std::size_t>(r * shape.outputs() + u * 33 + o)]);
  }
}

TEST_P(OnTarget, AnEpilogueIsBiasActivationFactorAndResidual) {
  const Shape shape = shape_in_units(format, 2 * 33, 33, 16, 16);
  const Weights weights(table, shape, 8);
  const std::int64_t rows = 7, outputs = shape.outputs();
  const auto x = noise(rows * shape.inner(), 9), bias = noise(outputs, 10);
  const auto factor = noise(rows * outputs, 11), residual = noise(rows * outputs, 12);
  const auto plain = multiplied(weights.packed, weights.packed.all(), weights.packed.all_inner(),
                                rows, x, {}, nullptr);
  const auto activated = [](Activation activation, double v) {
    switch (activation) {
      case Activation::none:
        return v;
      case Activation::relu:
        return std::max(v, 0.0);
      case Activation::gelu:
        return v / 2 * (1 + std::erf(v / std::sqrt(2.0)));
      case Activation::gelu_tanh:
        return v / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
      case Activation::silu:
        return v / (1 + std::exp(-v));
    }
    return v;
  };
  for (const auto activation : {Activation::none, Activation::relu, Activation::gelu,
                                Activation::gelu_tanh, Activation::silu}) {
    Epilogue epilogue;
    epilogue.bias = bias.data();
    epilogue.activation = activation;
    epilogue.factor = factor.data();
    epilogue.factor_stride = outputs;
    epilogue.residual = residual.data();
    epilogue.residual_stride = outputs;
    const auto out = multiplied(weights.packed, weights.packed.all(), weights.packed.all_inner(),
                                rows, x, epilogue, nullptr);
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double before = double{plain[i]} + double{bias[i % bias.size()]};
      const double wanted = double{residual[i]} + double{factor[i]} * activated(activation, before);
      ASSERT_NEAR(out[i], wanted, 2e-6 * (1 + std::fabs(wanted) + std::fabs(before)))
          << static_cast<int>(activation);
    }
  }
}

TEST_P(OnTarget, ARowWithANumberThatIsNotFiniteSaysSoAndNoOther) {
  const Shape shape = shape_in_units(format, 18, 9, 2 * 21, 21);
  const Weights weights(table, shape, 13);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
        std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    auto x = noise(3 * shape.inner(), 14);
    x[static_cast<std::size_t>(shape.inner()) + 20] = bad;
    const auto out = multiplied(weights.packed, weights.packed.all(), weights.packed.all_inner(), 3,
                                x, {}, nullptr);
    for (std::size_t i = 0; i < out.size(); ++i)
      ASSERT_EQ(std::isfinite(out[i]), i / 18 != 1) << bad << " at " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Packed, OnTarget,
                         testing::Combine(testing::ValuesIn(targets_here()),
                                          testing::ValuesIn(formats)),
                         name_of_case);

TEST(Pack, SaysWhatItCannotTake) {
  const auto refusal = [](const auto& work) -> std::string {
    try {
      work();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal([] { shape_in_units(Format::f32, 10, 4, 8, 8); }),
            "[pack] units of outputs do not divide: saw 10 in units of 4, needs a multiple");
  EXPECT_EQ(refusal([] { shape_in_units(Format::f32, 8, 4, 9, 2); }),
            "[pack] units of the inner axis do not divide: saw 9 in units of 2, needs a multiple");
  const Table& table = table_of(Target::scalar);
  const Shape shape = shape_in_units(Format::int8, 2, 1, 4, 2);
  Memory memory(packed_bytes(table, shape));
  const std::vector<std::int8_t> rows(8, 1);
  for (const float bad : {0.0F, -1.0F, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    const std::vector<float> scales = {1, 1, 1, bad};
    const auto said =
        refusal([&] { pack(table, shape, rows.data(), scales.data(), memory.data()); });
    EXPECT_EQ(said.rfind("[pack] scale of row 1, unit 1: saw ", 0), 0U) << said;
    EXPECT_NE(said.find("needs a positive finite number"), std::string::npos);
  }
}

}  // namespace
}  // namespace cleave::kernels
