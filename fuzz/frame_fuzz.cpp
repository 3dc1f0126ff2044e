// Frames and messages from a hostile peer: whatever the bytes, they are refused, or they are a
// message that is encoded to the same bytes again. The hostile peer computes its checksums: they
// are set right here, else no mutation would pass them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <boost/endian/conversion.hpp>

#include "base/crc32c.hpp"
#include "net/message.hpp"

namespace {

using namespace cleave::net;

void require(bool holds) {
  if (!holds) std::abort();
}

void store(std::byte* at, std::uint32_t value) {
  boost::endian::endian_store<std::uint32_t, 4, boost::endian::order::little>(
      reinterpret_cast<unsigned char*>(at), value);
}

/// With the checksums of what the bytes are.
std::vector<std::byte> checked(const std::byte* bytes, std::size_t size) {
  std::vector<std::byte> frame(bytes, bytes + size);
  const auto set_header = [&frame] { store(&frame[52], cleave::base::crc32c(frame.data(), 52)); };
  set_header();
  if (const auto header = decode_header(frame.data(), {})) {
    const auto stated =
        header->header_length - header_bytes + header->body_length + header->payload_length;
    const auto rest = std::min<std::uint64_t>(stated, size - header_bytes);
    store(&frame[48], cleave::base::crc32c(frame.data() + header_bytes, rest));
    set_header();
  }
  return frame;
}

/// The bytes after the header, split as the header says; false where there are fewer.
bool split(const Header& header, const std::byte* bytes, std::size_t size,
           std::vector<std::byte>* body, Buffer* payload) {
  if (size < header.header_length) return false;
  bytes += header.header_length;
  size -= header.header_length;
  if (size < header.body_length || size - header.body_length < header.payload_length) return false;
  body->assign(bytes, bytes + header.body_length);
  *payload = Buffer::copy_of(bytes + header.body_length, header.payload_length);
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < header_bytes) return 0;
  (void)decode_header(reinterpret_cast<const std::byte*>(data), {});
  const auto forged = checked(reinterpret_cast<const std::byte*>(data), size);
  const std::byte* bytes = forged.data();
  const auto header = decode_header(bytes, {});
  if (!header) return 0;
  require(header->body_length <= Limits{}.max_body &&
          header->payload_length <= Limits{}.max_payload);
  std::vector<std::byte> body;
  Buffer payload;
  if (!split(*header, bytes, size, &body, &payload)) return 0;
  if (header->header_length == header_bytes)
    require(checksum_of(body.data(), body.size(), payload) == header->checksum);
  const auto message = decode(*header, body.data(), payload);
  if (!message) return 0;

  const auto frame = encode(*message);
  require(frame.payload.data() == payload.data() || payload.size() == 0);
  require(frame.head.size() == header_bytes + body.size());
  require(std::equal(body.begin(), body.end(), frame.head.begin() + header_bytes));
  const auto again = decode_header(frame.head.data(), {});
  require(again && again->kind == header->kind && again->request == header->request &&
          again->epoch == header->epoch && again->tag == header->tag &&
          again->flags == header->flags);
  return 0;
}
