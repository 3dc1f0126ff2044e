#include "infer/cast.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace cleave::infer {
namespace {

using at::Tensor;
using base::Element;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

plan::ValueInfo info_of(const Tensor& x, Element element) {
  return {"w7", element, x.sizes().vec()};
}

Element computed(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? Element::f64 : Element::f32;
}

Tensor packed(const Tensor& x, Element wire) {
  return cast(x, info_of(x, computed(x)), info_of(x, wire));
}

Tensor there_and_back(const Tensor& x, Element wire) {
  return cast(packed(x, wire), info_of(x, wire), info_of(x, computed(x)));
}

/// Writes a scale of int8 rows, which stand before the numbers.
void set_scale(Tensor& bytes, std::int64_t row, float scale) {
  bytes.narrow(0, 0, bytes.numel() / 4 * 4).view(at::kFloat)[row] = scale;
}

std::string error_of(const Tensor& x, const plan::ValueInfo& from, const plan::ValueInfo& to) {
  try {
    cast(x, from, to);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

std::string refusal_of(const Tensor& x, Element wire) {
  return error_of(x, info_of(x, computed(x)), info_of(x, wire));
}

TEST(Cast, WritesScalesThenNumbers) {
  const Tensor x = at::tensor({1.0F, -254.0F, 3.0F, 0.5F, 0.0F, 0.0F}).view({1, 2, 3});
  const Tensor bytes = packed(x, Element::scaled_i8);
  ASSERT_EQ(bytes.sizes(), (std::vector<std::int64_t>{2 * (3 + 4)}));
  const Tensor scales = bytes.narrow(0, 0, 8).view(at::kFloat);
  EXPECT_EQ(scales[0].item<float>(), 2.0F);
  EXPECT_EQ(scales[1].item<float>(), 0.5F / 127);
  const Tensor numbers = bytes.narrow(0, 8, 6).view(at::kChar);
  // Halves go to the even neighbour: 1 / 2 to 0, 3 / 2 to 2.
  EXPECT_TRUE(numbers.equal(at::tensor({0, -127, 2, 127, 0, 0}, at::kChar))) << numbers;
}

TEST(Cast, IsWhatTheFormulaSays) {
  at::manual_seed(5);
  const Tensor x = at::randn({40, 500});
  const Tensor bytes = packed(x, Element::scaled_i8);
  const Tensor scales = x.abs().amax({1}, true) / 127;
  EXPECT_TRUE(bytes.narrow(0, 0, 4 * 40).view(at::kFloat).equal(scales.flatten()));
  EXPECT_TRUE(bytes.narrow(0, 4 * 40, 40 * 500)
                  .view(at::kChar)
                  .view({40, 500})
                  .equal((x / scales).round().to(at::kChar)));
}

TEST(Cast, IsOffByHalfAStepAtMost) {
  at::manual_seed(3);
  const Tensor x =
      at::randn({2, 5, 96}) * at::tensor({1e-3F, 1.0F, 40.0F, 1e4F, 7.0F}).view({5, 1});
  const Tensor most = x.abs().amax({-1}, true);
  for (const Tensor& given : {x, x.to(at::kDouble)}) {
    const auto off = [&](Element wire) { return (there_and_back(given, wire) - given).abs(); };
    EXPECT_TRUE((off(Element::scaled_i8) <= most / 253.9).all().item<bool>());
    EXPECT_TRUE((off(Element::f16) <= given.abs() / 2047 + 6e-8).all().item<bool>());
    EXPECT_TRUE((off(Element::bf16) <= given.abs() / 255).all().item<bool>());
    EXPECT_EQ(there_and_back(given, Element::f16).scalar_type(), given.scalar_type());
  }
}

TEST(Cast, IsTheSameOfBothPrecisions) {
  at::manual_seed(4);
  const Tensor x = at::randn({3, 2, 50});
  for (const Element wire : {Element::f16, Element::bf16, Element::scaled_i8})
    EXPECT_TRUE(packed(x, wire).equal(packed(x.to(at::kDouble), wire))) << base::name_of(wire);
}

TEST(Cast, KeepsRowsOfZeros) {
  for (const float little : {0.0F, 1e-45F, 1e-44F}) {
    const Tensor x = at::full({2, 1, 4}, little);
    const Tensor back = there_and_back(x, Element::scaled_i8);
    EXPECT_TRUE(back.equal(at::zeros({2, 1, 4}))) << little;
    EXPECT_TRUE(packed(x, Element::scaled_i8).equal(at::zeros({2 * (4 + 4)}, at::kByte)));
  }
}

// A scale far below the smallest normal number is rounded coarsely: quotients may be beyond 127.
TEST(Cast, StaysInRangeWithTheSmallestScales) {
  const Tensor x = at::tensor({1.9e-43F, -1.9e-43F}).view({1, 1, 2});
  const Tensor back = there_and_back(x, Element::scaled_i8);
  EXPECT_GT(back[0][0][0].item<float>(), 0);
  EXPECT_LT(back[0][0][1].item<float>(), 0);
}

TEST(Cast, OfNoRowsIsNone) {
  EXPECT_EQ(packed(at::zeros({0, 3, 8}), Element::scaled_i8).numel(), 0);
  EXPECT_EQ(there_and_back(at::zeros({0, 3, 8}), Element::scaled_i8).sizes(),
            (std::vector<std::int64_t>{0, 3, 8}));
}

TEST(Cast, RefusesWhatAFormatDoesNotHave) {
  for (const float bad : {nan, infinity, -infinity})
    for (const auto type : {at::kFloat, at::kDouble}) {
      Tensor x = at::ones({2, 3, 4}, type);
      x[1][2][0] = bad;
      EXPECT_EQ(refusal_of(x, Element::scaled_i8),
                "[cast] value w7: saw a number that is not finite, needs finite ones to travel as "
                "int8");
      for (const Element wire : {Element::f16, Element::bf16})
        EXPECT_EQ(refusal_of(x, wire),
                  "[cast] value w7: saw a number that is not finite or too large, needs finite "
                  "ones to travel as " +
                      std::string(base::name_of(wire)));
    }
  const Tensor large = at::full({1, 1, 2}, 65520.0F);  // would round to what f16 has not
  EXPECT_NE(refusal_of(large, Element::f16), "no error");
  EXPECT_EQ(refusal_of(large, Element::bf16), "no error");
  EXPECT_EQ(refusal_of(large - 1, Element::f16), "no error");
  EXPECT_NE(refusal_of(at::full({1, 1, 2}, 1e39, at::kDouble), Element::scaled_i8), "no error");
}

TEST(Cast, RefusesScalesThatAreNone) {
  const Tensor x = at::ones({1, 3, 4});
  for (const float scale : {-1.0F, nan, infinity, -infinity}) {
    Tensor bytes = packed(x, Element::scaled_i8);
    set_scale(bytes, 2, scale);
    EXPECT_EQ(error_of(bytes, info_of(x, Element::scaled_i8), info_of(x, Element::f32)),
              "[cast] value w7: saw a scale of " + std::to_string(scale) +
                  ", needs finite ones from 0 on");
  }
}

}  // namespace
}  // namespace cleave::infer
