#include "net/buffer.hpp"

#include <cstdint>
#include <memory>
#include <utility>

#include <gtest/gtest.h>

namespace cleave::net {
namespace {

TEST(Buffer, IsAligned) {
  for (const std::size_t size : {0u, 1u, 63u, 64u, 1000003u}) {
    std::byte* writable = nullptr;
    const auto buffer = Buffer::allocate(size, &writable);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_EQ(buffer.data(), writable);
    EXPECT_EQ(buffer.size(), size);
  }
}

TEST(Buffer, CopiesShareTheirOwner) {
  auto first = Buffer::copy_of("abc", 3);
  const auto* bytes = first.data();
  std::weak_ptr<const void> owner = first.owner();
  {
    const Buffer second = first;
    first = Buffer();
    EXPECT_EQ(second.data(), bytes);
    EXPECT_EQ(static_cast<char>(second.data()[2]), 'c');
  }
  EXPECT_TRUE(owner.expired());
}

TEST(Value, CountsItsBytes) {
  Value value;
  value.element = base::Element::f16;
  value.dims = {2, 3, 4};
  EXPECT_EQ(value.count(), 24);
  EXPECT_EQ(value.bytes(), 48);
  EXPECT_EQ(value.rows(), 6);
  value.element = base::Element::scaled_i8;
  EXPECT_EQ(value.bytes(), 6 * (4 + 4));
  EXPECT_FALSE(Value::absent().present);
}

}  // namespace
}  // namespace cleave::net
