#include "base/element.hpp"

#include <set>
#include <string_view>

#include <gtest/gtest.h>

namespace cleave::base {
namespace {

TEST(Element, KeepsItsNumbersOnTheWire) {
  EXPECT_EQ(static_cast<int>(Element::f32), 1);
  EXPECT_EQ(static_cast<int>(Element::f16), 2);
  EXPECT_EQ(static_cast<int>(Element::bf16), 3);
  EXPECT_EQ(static_cast<int>(Element::i64), 4);
  EXPECT_EQ(static_cast<int>(Element::i32), 5);
  EXPECT_EQ(static_cast<int>(Element::u8), 6);
  EXPECT_EQ(static_cast<int>(Element::i8), 7);
  EXPECT_EQ(static_cast<int>(Element::f64), 8);
  EXPECT_EQ(static_cast<int>(Element::boolean), 9);
  EXPECT_EQ(static_cast<int>(Element::scaled_i8), 10);
}

TEST(Element, HasASizeAndANameOfItsOwn) {
  std::set<std::string_view> names;
  for (int number = 1; number <= 10; ++number) {
    const auto element = static_cast<Element>(number);
    EXPECT_GT(size_of(element), 0) << number;
    names.insert(name_of(element));
  }
  EXPECT_EQ(names.size(), 10u);
  EXPECT_EQ(names.count("?"), 0u);
}

TEST(Element, HasAScaleForEachRowWhereItSaysSo) {
  EXPECT_EQ(scale_bytes_of(Element::scaled_i8), 4);
  EXPECT_EQ(scale_bytes_of(Element::i8), 0);
  EXPECT_EQ(scale_bytes_of(static_cast<Element>(77)), 0);
}

TEST(Element, GivesNoSizeToABadNumber) {
  EXPECT_EQ(size_of(static_cast<Element>(77)), 0);
  EXPECT_EQ(name_of(static_cast<Element>(77)), "?");
}

}  // namespace
}  // namespace cleave::base
