// Frames and messages from a hostile peer: whatever the bytes, they are refused, or they are a
// message that is encoded to the same bytes again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "net/message.hpp"

namespace {

using namespace cleave::net;

void require(bool holds) {
  if (!holds) std::abort();
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
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const auto header = decode_header(bytes, {});
  if (!header) return 0;
  require(header->body_length <= Limits{}.max_body &&
          header->payload_length <= Limits{}.max_payload);
  std::vector<std::byte> body;
  Buffer payload;
  if (!split(*header, bytes, size, &body, &payload)) return 0;
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
