#include "infer/lot.hpp"

#include <gtest/gtest.h>

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
const Lot::Time start{};

net::ValueMessage value_of(std::uint32_t tag, std::size_t bytes) {
  net::ValueMessage message;
  message.tag = tag;
  message.tensor.element = base::Element::u8;
  message.tensor.dims = {static_cast<std::int64_t>(bytes)};
  const std::vector<std::byte> data(bytes);
  message.tensor.data = net::Buffer::copy_of(data.data(), bytes);
  return message;
}

TEST(Lot, GivesWhatCameForARequestInOrderAndOnce) {
  Lot lot;
  lot.add({7, 1}, "d2", value_of(5, 10), start);
  lot.add({7, 2}, "d2", value_of(6, 10), start);
  lot.add({8, 1}, "d2", value_of(7, 10), start);
  lot.add({7, 1}, "d0", value_of(8, 10), start);
  const auto values = lot.take({7, 1});
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(values[0].from, "d2");
  EXPECT_EQ(values[0].message.tag, 5u);
  EXPECT_EQ(values[1].from, "d0");
  EXPECT_EQ(values[1].message.tag, 8u);
  EXPECT_TRUE(lot.take({7, 1}).empty());
  EXPECT_EQ(lot.take({8, 1}).size(), 1u);
  EXPECT_EQ(lot.take({7, 2}).size(), 1u);
  EXPECT_EQ(lot.bytes(), 0u);
}

TEST(Lot, LosesTheRequestThatHasNoRoom) {
  Lot lot({3000, 10s});
  lot.add({7, 1}, "d0", value_of(0, 1000), start);
  lot.add({7, 2}, "d0", value_of(0, 1000), start);
  lot.add({7, 2}, "d0", value_of(1, 1000), start);
  EXPECT_FALSE(lot.overflowed({7, 1}));
  EXPECT_TRUE(lot.overflowed({7, 2}));
  EXPECT_LT(lot.bytes(), 1500u) << "what it had is free for others";
  lot.add({7, 2}, "d0", value_of(2, 10), start);
  EXPECT_TRUE(lot.take({7, 2}).empty()) << "a part of it is of no use";
  EXPECT_FALSE(lot.overflowed({7, 2}));
  EXPECT_EQ(lot.take({7, 1}).size(), 1u);
}

TEST(Lot, CountsWhatIsKeptBesideTheNumbers) {
  Lot lot({3000, 10s});
  for (std::uint32_t tag = 0; tag < 1000; ++tag) lot.add({7, 1}, "d0", value_of(tag, 0), start);
  EXPECT_TRUE(lot.overflowed({7, 1}));
}

TEST(Lot, ForgetsWhatWaitsTooLong) {
  Lot lot({3000, 10s});
  EXPECT_FALSE(lot.next());
  lot.add({7, 1}, "d0", value_of(0, 1000), start);
  lot.add({7, 2}, "d0", value_of(0, 1000), start + 4s);
  lot.add({7, 1}, "d0", value_of(1, 10), start + 9s);  // does not begin anew
  EXPECT_EQ(lot.next(), start + 10s);
  lot.expire(start + 10s);
  EXPECT_TRUE(lot.take({7, 1}).empty());
  EXPECT_EQ(lot.next(), start + 14s);
  lot.expire(start + 14s);
  EXPECT_EQ(lot.bytes(), 0u);
  EXPECT_FALSE(lot.next());
}

}  // namespace
}  // namespace cleave::infer
