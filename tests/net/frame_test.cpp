#include "net/frame.hpp"

#include <array>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/crc32c.hpp"

namespace cleave::net {
namespace {

using Bytes = std::array<std::byte, header_bytes>;

Bytes bytes_of(const Header& header) {
  Bytes bytes{};
  encode_header(header, bytes.data());
  return bytes;
}

Errc error_of(const Bytes& bytes, const Limits& limits = {}) {
  const auto header = decode_header(bytes.data(), limits);
  EXPECT_FALSE(header.has_value());
  return static_cast<Errc>(header.error().value());
}

TEST(Frame, HeaderComesBack) {
  Header header;
  header.kind = 6;
  header.flags = flag_tensor | flag_last;
  header.epoch = 0x01020304;
  header.request = 0x1112131415161718;
  header.sequence = 0x2122232425262728;
  header.tag = 0x31323334;
  header.body_length = 77;
  header.payload_length = 123456789;
  header.checksum = 0x41424344;
  const auto bytes = bytes_of(header);
  const auto back = decode_header(bytes.data(), {});
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->kind, header.kind);
  EXPECT_EQ(back->flags, header.flags);
  EXPECT_EQ(back->epoch, header.epoch);
  EXPECT_EQ(back->request, header.request);
  EXPECT_EQ(back->sequence, header.sequence);
  EXPECT_EQ(back->tag, header.tag);
  EXPECT_EQ(back->body_length, header.body_length);
  EXPECT_EQ(back->payload_length, header.payload_length);
  EXPECT_EQ(back->checksum, header.checksum);
}

// The table in frame.hpp, byte by byte: another machine must read the same.
TEST(Frame, HeaderIsLittleEndianWhereTheTableSays) {
  Header header;
  header.kind = 0x0102;
  header.epoch = 0x03040506;
  header.request = 0x0708090a0b0c0d0e;
  header.payload_length = 0x0f;
  header.checksum = 0x11121314;
  const auto bytes = bytes_of(header);
  EXPECT_EQ(std::memcmp(bytes.data(), "CLVF", 4), 0);
  EXPECT_EQ(bytes[4], std::byte{8});
  EXPECT_EQ(bytes[6], std::byte{56});
  EXPECT_EQ(bytes[8], std::byte{0x02});
  EXPECT_EQ(bytes[9], std::byte{0x01});
  EXPECT_EQ(bytes[12], std::byte{0x06});
  EXPECT_EQ(bytes[16], std::byte{0x0e});
  EXPECT_EQ(bytes[23], std::byte{0x07});
  EXPECT_EQ(bytes[40], std::byte{0x0f});
  EXPECT_EQ(bytes[48], std::byte{0x14});
  EXPECT_EQ(bytes[51], std::byte{0x11});
  const auto checksum = base::crc32c(bytes.data(), 52);
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_EQ(bytes[52 + i], static_cast<std::byte>(checksum >> 8 * i)) << i;
}

TEST(Frame, RefusesEveryFlippedBitOfAHeader) {
  Header header;
  header.kind = 6;
  header.flags = flag_tensor;
  header.request = 12345;
  header.body_length = 77;
  header.payload_length = 1000;
  const auto good = bytes_of(header);
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    auto bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    const auto wanted = bit / 8 < 4   ? Errc::bad_magic
                        : bit / 8 < 6 ? Errc::unknown_version
                                      : Errc::bad_header_checksum;
    EXPECT_EQ(error_of(bytes), wanted) << "bit " << bit;
  }
}

TEST(Frame, ChecksumIsOfBodyAndPayloadTogether) {
  const std::string text = "123456789";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const auto payload = Buffer::copy_of(text.data() + cut, text.size() - cut);
    EXPECT_EQ(checksum_of(reinterpret_cast<const std::byte*>(text.data()), cut, payload),
              0xE3069283u);
  }
}

TEST(Frame, RefusesAWrongMagic) {
  auto bytes = bytes_of({});
  std::memcpy(bytes.data(), "GET ", 4);
  EXPECT_EQ(error_of(bytes), Errc::bad_magic);
}

TEST(Frame, RefusesAnotherVersion) {
  Header header;
  for (const int version : {0, 1, 2, 3, 4, 5, 6, 7, 9, 0x0800}) {
    header.version = static_cast<std::uint16_t>(version);
    EXPECT_EQ(error_of(bytes_of(header)), Errc::unknown_version) << version;
  }
}

TEST(Frame, RefusesAHeaderLengthOutOfRange) {
  Header header;
  header.header_length = 55;
  EXPECT_EQ(error_of(bytes_of(header)), Errc::bad_header_length);
  header.header_length = 0xffff;
  EXPECT_EQ(error_of(bytes_of(header)), Errc::bad_header_length);
  header.header_length = 64;  // a later version's longer header
  EXPECT_TRUE(decode_header(bytes_of(header).data(), {}).has_value());
}

TEST(Frame, RefusesUnknownFlags) {
  Header header;
  header.flags = 4;
  EXPECT_EQ(error_of(bytes_of(header)), Errc::unknown_flags);
}

TEST(Frame, RefusesALengthOverTheLimit) {
  Header header;
  header.flags = flag_tensor;
  header.payload_length = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(error_of(bytes_of(header)), Errc::payload_too_long);
  header.payload_length = (std::uint64_t{1} << 30) + 1;
  EXPECT_EQ(error_of(bytes_of(header)), Errc::payload_too_long);
  Limits tight;
  tight.max_payload = 100;
  header.payload_length = 100;
  EXPECT_TRUE(decode_header(bytes_of(header).data(), tight).has_value());
  header.payload_length = 101;
  EXPECT_EQ(error_of(bytes_of(header), tight), Errc::payload_too_long);
  header.payload_length = 0;
  header.body_length = 0xffffffff;
  EXPECT_EQ(error_of(bytes_of(header)), Errc::body_too_long);
}

TEST(Frame, RefusesAPayloadWithoutATensor) {
  Header header;
  header.payload_length = 8;
  EXPECT_EQ(error_of(bytes_of(header)), Errc::payload_mismatch);
}

TensorDescriptor descriptor_of(std::vector<std::int64_t> dims) {
  TensorDescriptor descriptor;
  descriptor.element = base::Element::u8;
  descriptor.dims = std::move(dims);
  return descriptor;
}

std::vector<std::byte> bytes_of(const TensorDescriptor& descriptor) {
  std::vector<std::byte> bytes(encoded_size(descriptor));
  encode_descriptor(descriptor, bytes.data());
  return bytes;
}

Errc descriptor_error(const std::vector<std::byte>& bytes) {
  std::size_t used = 0;
  const auto descriptor = decode_descriptor(bytes.data(), bytes.size(), &used);
  EXPECT_FALSE(descriptor.has_value());
  return static_cast<Errc>(descriptor.error().value());
}

TEST(TensorDescriptor, ComesBack) {
  for (const auto& dims :
       {std::vector<std::int64_t>{}, {1, 3, 224, 224}, {0, 5}, {1, 1, 1, 1, 1, 1, 1, 2}}) {
    const auto bytes = bytes_of(descriptor_of(dims));
    std::size_t used = 0;
    const auto back = decode_descriptor(bytes.data(), bytes.size(), &used);
    ASSERT_TRUE(back.has_value());
    EXPECT_EQ(back->dims, dims);
    EXPECT_EQ(back->element, base::Element::u8);
    EXPECT_EQ(used, bytes.size());
  }
}

TEST(TensorDescriptor, RefusesForgedBytes) {
  const auto good = bytes_of(descriptor_of({2, 3}));
  auto forged = good;
  forged[0] = std::byte{2};
  EXPECT_EQ(descriptor_error(forged), Errc::unknown_encoding);
  forged = good;
  forged[1] = std::byte{0};
  EXPECT_EQ(descriptor_error(forged), Errc::unknown_element);
  forged = good;
  forged[2] = std::byte{9};
  EXPECT_EQ(descriptor_error(forged), Errc::bad_dims);
  forged = good;
  forged[5] = std::byte{1};
  EXPECT_EQ(descriptor_error(forged), Errc::bad_field);
  forged = good;
  forged.pop_back();
  EXPECT_EQ(descriptor_error(forged), Errc::truncated);
  EXPECT_EQ(descriptor_error(std::vector<std::byte>(3)), Errc::truncated);
  EXPECT_EQ(descriptor_error(bytes_of(descriptor_of({2, -1}))), Errc::bad_dims);
}

TEST(TensorDescriptor, ProductOfDimsDoesNotOverflow) {
  constexpr auto large = std::int64_t{1} << 32;
  EXPECT_EQ(*payload_bytes(descriptor_of({2, 3})), 6u);
  EXPECT_EQ(*payload_bytes(descriptor_of({})), 1u);
  EXPECT_EQ(*payload_bytes(descriptor_of({0, 3})), 0u);
  EXPECT_FALSE(payload_bytes(descriptor_of({large, large})).has_value());
  EXPECT_FALSE(payload_bytes(descriptor_of({large, large, 0})).has_value());
  auto wide = descriptor_of({std::int64_t{1} << 60});
  wide.element = base::Element::f64;
  EXPECT_FALSE(payload_bytes(wide).has_value());
}

TEST(TensorDescriptor, RowsWithScalesHaveTheirBytes) {
  constexpr auto large = std::int64_t{1} << 62;
  const auto bytes = [](std::vector<std::int64_t> dims) {
    auto rows = descriptor_of(std::move(dims));
    rows.element = base::Element::scaled_i8;
    return payload_bytes(rows);
  };
  EXPECT_EQ(*bytes({2, 5, 96}), 10u * (96 + 4));
  EXPECT_EQ(*bytes({7}), 11u);
  EXPECT_EQ(*bytes({}), 5u);
  EXPECT_EQ(*bytes({0, 5, 96}), 0u);
  EXPECT_EQ(*bytes({3, 0}), 12u);
  EXPECT_EQ(*bytes({std::numeric_limits<std::int64_t>::max() - 4}),
            static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
  for (const std::vector<std::int64_t>& dims :
       {std::vector<std::int64_t>{std::numeric_limits<std::int64_t>::max()},
        {large, 1},
        {large, 0},
        {large, large},
        {large, 0, large},
        {0, large, large}})
    EXPECT_FALSE(bytes(dims).has_value()) << dims.size();
  auto unknown = descriptor_of({2, 3});
  unknown.element = static_cast<base::Element>(11);
  EXPECT_FALSE(payload_bytes(unknown).has_value());
}

TEST(Errc, EveryCodeHasAText) {
  for (int code = 1; code <= static_cast<int>(Errc::bad_checksum); ++code)
    EXPECT_NE(net_category().message(code), "unknown error") << code;
  EXPECT_EQ(net_category().message(999), "unknown error");
}

}  // namespace
}  // namespace cleave::net
