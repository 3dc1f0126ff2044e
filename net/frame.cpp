#include "net/frame.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include <boost/endian/conversion.hpp>

#include "base/crc32c.hpp"

namespace cleave::net {
namespace {

constexpr char magic[4] = {'C', 'L', 'V', 'F'};
constexpr std::size_t checksum_at = 52;
constexpr std::size_t descriptor_front = 8;
constexpr std::uint16_t known_flags = flag_tensor | flag_last;

const char* text_of(Errc code) {
  switch (code) {
    case Errc::closed:
      return "the peer closed the connection";
    case Errc::deadline:
      return "the deadline has passed";
    case Errc::bad_magic:
      return "frame: wrong magic, the peer does not speak this protocol";
    case Errc::unknown_version:
      return "frame: unknown protocol version, both ends need the same";
    case Errc::bad_header_length:
      return "frame: header length out of range";
    case Errc::unknown_kind:
      return "frame: unknown kind of message";
    case Errc::unknown_flags:
      return "frame: unknown flags";
    case Errc::body_too_long:
      return "frame: body length over the limit";
    case Errc::payload_too_long:
      return "frame: payload length over the limit";
    case Errc::truncated:
      return "message: ends before its last field";
    case Errc::trailing_bytes:
      return "message: bytes after its last field";
    case Errc::bad_dims:
      return "tensor: dims out of range";
    case Errc::unknown_element:
      return "tensor: unknown element type";
    case Errc::unknown_encoding:
      return "tensor: unknown encoding";
    case Errc::payload_mismatch:
      return "tensor: payload length does not match dims";
    case Errc::missing_tensor:
      return "message: needs a tensor";
    case Errc::unexpected_tensor:
      return "message: has a tensor where none belongs";
    case Errc::bad_field:
      return "message: field out of range";
    case Errc::unexpected_message:
      return "message: of a kind that does not belong here";
    case Errc::not_reading:
      return "the peer does not read what it is sent";
    case Errc::no_memory_left:
      return "no memory is left for what the peers send";
    case Errc::refused:
      return "the peer refused the handshake";
    case Errc::bad_header_checksum:
      return "frame: header damaged on the way, its checksum does not match";
    case Errc::bad_checksum:
      return "frame: damaged on the way, its checksum does not match";
  }
  return "unknown error";
}

// Boost's destructor is not virtual: nobody deletes a category.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"
class Category final : public boost::system::error_category {
 public:
  const char* name() const noexcept override { return "cleave.net"; }
  std::string message(int code) const override { return text_of(static_cast<Errc>(code)); }
};
#pragma GCC diagnostic pop

template <class T>
T load(const std::byte* from) {
  return boost::endian::endian_load<T, sizeof(T), boost::endian::order::little>(
      reinterpret_cast<const unsigned char*>(from));
}

template <class T>
void store(std::byte* to, T value) {
  boost::endian::endian_store<T, sizeof(T), boost::endian::order::little>(
      reinterpret_cast<unsigned char*>(to), value);
}

}  // namespace

const boost::system::error_category& net_category() {
  static const Category category;
  return category;
}

void encode_header(const Header& header, std::byte* out) {
  std::memcpy(out, magic, sizeof magic);
  store(out + 4, header.version);
  store(out + 6, header.header_length);
  store(out + 8, header.kind);
  store(out + 10, header.flags);
  store(out + 12, header.epoch);
  store(out + 16, header.request);
  store(out + 24, header.sequence);
  store(out + 32, header.tag);
  store(out + 36, header.body_length);
  store(out + 40, header.payload_length);
  store(out + 48, header.checksum);
  store(out + checksum_at, base::crc32c(out, checksum_at));
}

boost::system::error_code check_front(const std::byte* bytes) {
  if (std::memcmp(bytes, magic, sizeof magic) != 0) return Errc::bad_magic;
  if (load<std::uint16_t>(bytes + 4) != protocol_version) return Errc::unknown_version;
  return {};
}

Result<Header> decode_header(const std::byte* bytes, const Limits& limits) {
  if (const auto error = check_front(bytes)) return error;
  if (load<std::uint32_t>(bytes + checksum_at) != base::crc32c(bytes, checksum_at))
    return Errc::bad_header_checksum;
  Header header;
  header.version = load<std::uint16_t>(bytes + 4);
  header.header_length = load<std::uint16_t>(bytes + 6);
  header.kind = load<std::uint16_t>(bytes + 8);
  header.flags = load<std::uint16_t>(bytes + 10);
  header.epoch = load<std::uint32_t>(bytes + 12);
  header.request = load<std::uint64_t>(bytes + 16);
  header.sequence = load<std::uint64_t>(bytes + 24);
  header.tag = load<std::uint32_t>(bytes + 32);
  header.body_length = load<std::uint32_t>(bytes + 36);
  header.payload_length = load<std::uint64_t>(bytes + 40);
  header.checksum = load<std::uint32_t>(bytes + 48);
  if (header.header_length < header_bytes || header.header_length > limits.max_header)
    return Errc::bad_header_length;
  if ((header.flags & ~known_flags) != 0) return Errc::unknown_flags;
  if (header.body_length > limits.max_body) return Errc::body_too_long;
  if (header.payload_length > limits.max_payload) return Errc::payload_too_long;
  const bool has_tensor = (header.flags & flag_tensor) != 0;
  if (!has_tensor && header.payload_length != 0) return Errc::payload_mismatch;
  return header;
}

std::uint32_t checksum_of(const std::byte* bytes, std::size_t size, const Buffer& payload) {
  return base::crc32c(payload.data(), payload.size(), base::crc32c(bytes, size));
}

std::size_t encoded_size(const TensorDescriptor& descriptor) {
  return descriptor_front + 8 * descriptor.dims.size();
}

void encode_descriptor(const TensorDescriptor& descriptor, std::byte* out) {
  std::memset(out, 0, descriptor_front);
  out[0] = static_cast<std::byte>(descriptor.encoding);
  out[1] = static_cast<std::byte>(descriptor.element);
  out[2] = static_cast<std::byte>(descriptor.dims.size());
  for (std::size_t i = 0; i < descriptor.dims.size(); ++i)
    store(out + descriptor_front + 8 * i, descriptor.dims[i]);
}

Result<TensorDescriptor> decode_descriptor(const std::byte* bytes, std::size_t size,
                                           std::size_t* used) {
  if (size < descriptor_front) return Errc::truncated;
  TensorDescriptor descriptor;
  descriptor.encoding = static_cast<Encoding>(bytes[0]);
  descriptor.element = static_cast<base::Element>(bytes[1]);
  const auto num_dims = static_cast<std::size_t>(bytes[2]);
  if (descriptor.encoding != Encoding::raw) return Errc::unknown_encoding;
  if (base::size_of(descriptor.element) == 0) return Errc::unknown_element;
  if (num_dims > max_dims) return Errc::bad_dims;
  for (std::size_t i = 3; i < descriptor_front; ++i)
    if (bytes[i] != std::byte{0}) return Errc::bad_field;
  if (size < descriptor_front + 8 * num_dims) return Errc::truncated;
  for (std::size_t i = 0; i < num_dims; ++i) {
    descriptor.dims.push_back(load<std::int64_t>(bytes + descriptor_front + 8 * i));
    if (descriptor.dims.back() < 0) return Errc::bad_dims;
  }
  *used = encoded_size(descriptor);
  return descriptor;
}

Result<std::uint64_t> payload_bytes(const TensorDescriptor& descriptor) {
  constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const auto size = static_cast<std::uint64_t>(base::size_of(descriptor.element));
  const auto scale = static_cast<std::uint64_t>(base::scale_bytes_of(descriptor.element));
  const auto& dims = descriptor.dims;
  const auto columns = dims.empty() ? 1 : static_cast<std::uint64_t>(dims.back());
  if (size == 0) return Errc::unknown_element;
  if (columns > (limit - scale) / size) return Errc::bad_dims;
  // The product of the non-zero dims must fit too, else a zero would hide an absurd shape.
  const std::uint64_t row = columns * size + scale;
  std::uint64_t bytes = std::max(row, std::uint64_t{1});
  bool empty = row == 0;
  for (std::size_t i = 0; i + 1 < dims.size(); ++i) {
    const auto dim = static_cast<std::uint64_t>(dims[i]);
    if (dim == 0) {
      empty = true;
      continue;
    }
    if (bytes > limit / dim) return Errc::bad_dims;
    bytes *= dim;
  }
  return empty ? 0 : bytes;
}

}  // namespace cleave::net
