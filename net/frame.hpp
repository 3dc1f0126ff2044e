#pragma once

// The frame: how bytes travel between devices.
//
// Goals: a reader knows how much to read, and whether it wants to, before it allocates anything; a
// tensor's bytes travel from and to the tensor's own memory; a bit that flips on the way is noticed
// (TCP's own checksum lets one damaged segment in 65536 pass), in the header before its lengths are
// believed; a later version can lengthen the header and add kinds, encodings and flags; the same
// bytes on every machine (integers are little-endian).
//
// Non-goals: compression, encryption and protection against who forges (a stream below brings
// them), streams larger than one frame, text protocols.
//
// A frame is header | tensor descriptor, where the flag says so | fields of the message | payload.
//
//   offset  size  header
//   0       4     magic "CLVF"
//   4       2     version, 8
//   6       2     header length, 56; a longer header is read and its tail ignored
//   8       2     kind (net/message.hpp)
//   10      2     flags: 1 a tensor descriptor follows, 2 the sender's last frame of the request
//   12      4     plan epoch
//   16      8     request id
//   24      8     sequence id
//   32      4     tag
//   36      4     body length: descriptor and fields
//   40      8     payload length
//   48      4     CRC32C of all that follows these 56 bytes: a longer header's tail, descriptor,
//                 fields, payload
//   52      4     CRC32C of bytes 0 to 51
//
// Magic, version and header length stand where they stand in every version. Both checksums are
// always there; 0 is a checksum like any other. A stream that authenticates what it carries may one
// day spare them (both 0, known to both ends before the first frame), not a flag in the frame: a
// flipped bit must not switch the check off.
//
//   offset  size  tensor descriptor
//   0       1     encoding: 1 raw, as the element says (2 to 4 were reserved and never sent)
//   1       1     element (base/element.hpp)
//   2       1     number of dims, 0..8
//   3       5     zero
//   8       8·n   dims, each 0..2^63−1

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <vector>

#include <boost/system/result.hpp>

#include "net/buffer.hpp"

namespace cleave::net {

/// Why a peer's bytes were not accepted, or why a connection ended.
enum class Errc {
  closed = 1,
  deadline,
  bad_magic,
  unknown_version,
  bad_header_length,
  unknown_kind,
  unknown_flags,
  body_too_long,
  payload_too_long,
  truncated,
  trailing_bytes,
  bad_dims,
  unknown_element,
  unknown_encoding,
  payload_mismatch,
  missing_tensor,
  unexpected_tensor,
  bad_field,
  unexpected_message,
  not_reading,
  no_memory_left,
  refused,
  bad_header_checksum,
  bad_checksum,
};
const boost::system::error_category& net_category();
inline boost::system::error_code make_error_code(Errc code) {
  return {static_cast<int>(code), net_category()};
}

template <class T>
using Result = boost::system::result<T>;

/// What one frame may make the reader allocate.
struct Limits {
  std::uint64_t max_payload = std::uint64_t{1} << 30;
  std::uint32_t max_body = 1u << 20;
  std::uint16_t max_header = 1024;
};
constexpr std::size_t max_dims = 8;

constexpr std::uint16_t protocol_version = 8;
constexpr std::size_t header_bytes = 56;
/// The bytes that all versions have in common: magic, version, header length.
constexpr std::size_t front_bytes = 8;

/// Bits of Header::flags.
constexpr std::uint16_t flag_tensor = 1, flag_last = 2;

/// The fixed header, without magic and its own checksum.
struct Header {
  std::uint16_t version = protocol_version;
  std::uint16_t header_length = header_bytes;
  std::uint16_t kind = 0;
  std::uint16_t flags = 0;
  std::uint32_t epoch = 0;
  std::uint64_t request = 0;
  std::uint64_t sequence = 0;
  std::uint32_t tag = 0;
  std::uint32_t body_length = 0;
  std::uint64_t payload_length = 0;
  std::uint32_t checksum = 0;  // of what follows
};

/// How the payload holds the tensor. The numbers stand on the wire. What is smaller than it was
/// computed has an element of its own.
enum class Encoding : std::uint8_t { raw = 1 };

struct TensorDescriptor {
  Encoding encoding = Encoding::raw;
  base::Element element = base::Element::f32;
  std::vector<std::int64_t> dims;
};

/// One frame in memory: `head` is header, descriptor and fields, ready to write; the payload is the
/// tensor's own memory.
struct Frame {
  std::vector<std::byte> head;
  Buffer payload;
  std::uint64_t size() const { return head.size() + payload.size(); }
};

/// Writes `header_bytes` bytes, its own checksum included.
void encode_header(const Header& header, std::byte* out);
/// What the first `front_bytes` bytes say of the peer: another protocol or version has a header of
/// another length, perhaps a shorter one.
boost::system::error_code check_front(const std::byte* bytes);
/// Decides on `header_bytes` bytes alone, so that nothing is allocated for a length over the limit.
Result<Header> decode_header(const std::byte* bytes, const Limits& limits);

/// Header::checksum of `size` bytes behind the fixed header and a payload.
std::uint32_t checksum_of(const std::byte* bytes, std::size_t size, const Buffer& payload);

/// Bytes of the descriptor on the wire.
std::size_t encoded_size(const TensorDescriptor& descriptor);
void encode_descriptor(const TensorDescriptor& descriptor, std::byte* out);
/// Reads a descriptor from the front of a body; `used` receives its length.
Result<TensorDescriptor> decode_descriptor(const std::byte* bytes, std::size_t size,
                                           std::size_t* used);
/// Length that the payload must have. Errc::bad_dims where it does not fit 63 bits.
Result<std::uint64_t> payload_bytes(const TensorDescriptor& descriptor);

}  // namespace cleave::net

template <>
struct boost::system::is_error_code_enum<cleave::net::Errc> : std::true_type {};
