#include "net/message.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <boost/endian/conversion.hpp>

namespace cleave::net {
namespace {

template <class M, class = void>
struct HasTensor : std::false_type {};
template <class M>
struct HasTensor<M, std::void_t<decltype(std::declval<M&>().tensor)>> : std::true_type {};

/// An answer may go without; everything else that has a tensor needs it.
template <class M>
constexpr bool tensor_is_optional = std::is_same_v<M, InferAnswer>;

/// Appends fields.
class Writer {
 public:
  explicit Writer(std::vector<std::byte>* out) : out_(out) {}
  template <class... T>
  void operator()(const T&... values) {
    (put(values), ...);
  }

 private:
  void put(std::uint8_t value) { integer(value); }
  void put(std::uint32_t value) { integer(value); }
  void put(std::uint64_t value) { integer(value); }
  void put(std::int64_t value) { integer(value); }
  void put(bool value) { integer(static_cast<std::uint8_t>(value)); }
  template <class Name, class = std::enable_if_t<std::is_enum_v<Name>>>
  void put(Name value) {
    integer(static_cast<std::uint8_t>(value));
  }
  void put(const Account& account) { Account::fields(account, *this); }
  void put(const Choosing& choosing) { Choosing::fields(choosing, *this); }
  void put(double value) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    integer(bits);
  }
  void put(const std::string& text) {
    integer(static_cast<std::uint32_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    out_->insert(out_->end(), bytes, bytes + text.size());
  }
  template <class T>
  void put(const std::vector<T>& items) {
    integer(static_cast<std::uint32_t>(items.size()));
    for (const auto& item : items) T::fields(item, *this);
  }
  template <class T>
  void integer(T value) {
    unsigned char bytes[sizeof(T)];
    boost::endian::endian_store<T, sizeof(T), boost::endian::order::little>(bytes, value);
    const auto* first = reinterpret_cast<const std::byte*>(bytes);
    out_->insert(out_->end(), first, first + sizeof(T));
  }
  std::vector<std::byte>* out_;
};

/// Takes fields from the front; after the first error it takes nothing more.
class Reader {
 public:
  Reader(const std::byte* bytes, std::size_t size) : next_(bytes), left_(size) {}
  template <class... T>
  void operator()(T&... values) {
    (get(values), ...);
  }
  boost::system::error_code finish() {
    if (!error_ && left_ != 0) error_ = Errc::trailing_bytes;
    return error_;
  }

 private:
  void get(std::uint8_t& value) { integer(value); }
  void get(std::uint32_t& value) { integer(value); }
  void get(std::uint64_t& value) { integer(value); }
  void get(std::int64_t& value) { integer(value); }
  void get(bool& value) {
    std::uint8_t byte = 0;
    integer(byte);
    if (byte > 1) fail(Errc::bad_field);
    value = byte == 1;
  }
  void get(Role& value) { name(value, Role::aggregator, Role::client); }
  void get(Observe& value) { name(value, Observe::nothing, Observe::trace); }
  void get(Happening::What& value) { name(value, Happening::What::stretch, Happening::What::wait); }
  void get(Account& account) { Account::fields(account, *this); }
  void get(Choosing& choosing) { Choosing::fields(choosing, *this); }
  /// The last one too.
  template <class Name>
  void name(Name& value, Name first, Name last) {
    std::uint8_t byte = 0;
    integer(byte);
    const auto named = static_cast<Name>(byte);
    if (!error_ && (named < first || named > last)) fail(Errc::bad_field);
    value = named;
  }
  void get(double& value) {
    std::uint64_t bits = 0;
    integer(bits);
    std::memcpy(&value, &bits, sizeof value);
    if (!std::isfinite(value)) fail(Errc::bad_field);
  }
  void get(std::string& text) {
    std::uint32_t length = 0;
    integer(length);
    if (const auto* bytes = take(length)) text.assign(reinterpret_cast<const char*>(bytes), length);
  }
  template <class T>
  void get(std::vector<T>& items) {
    std::uint32_t count = 0;
    integer(count);
    // Grows item by item: a count of 2^32 ends with the bytes, not with the memory.
    for (std::uint32_t i = 0; i < count && !error_; ++i) {
      items.emplace_back();
      T::fields(items.back(), *this);
    }
  }
  template <class T>
  void integer(T& value) {
    if (const auto* bytes = take(sizeof(T)))
      value = boost::endian::endian_load<T, sizeof(T), boost::endian::order::little>(
          reinterpret_cast<const unsigned char*>(bytes));
  }
  const std::byte* take(std::size_t size) {
    if (error_) return nullptr;
    if (size > left_) {
      fail(Errc::truncated);
      return nullptr;
    }
    const auto* bytes = next_;
    next_ += size;
    left_ -= size;
    return bytes;
  }
  void fail(Errc code) {
    if (!error_) error_ = code;
  }
  const std::byte* next_;
  std::size_t left_;
  boost::system::error_code error_;
};

/// Writes the descriptor behind the header and hands the payload over.
void attach(const Value& tensor, Frame* frame) {
  TensorDescriptor descriptor;
  descriptor.element = tensor.element;
  descriptor.dims = tensor.dims;
  const auto needed = payload_bytes(descriptor);
  if (descriptor.dims.size() > max_dims || !needed || *needed != tensor.data.size())
    throw std::invalid_argument("[encode] tensor: saw " + std::to_string(tensor.data.size()) +
                                " bytes, needs those of its dims (at most 8)");
  const auto at = frame->head.size();
  frame->head.resize(at + encoded_size(descriptor));
  encode_descriptor(descriptor, frame->head.data() + at);
  frame->payload = tensor.data;
}

template <class M>
Frame encode_one(const M& message) {
  Frame frame;
  frame.head.resize(header_bytes);
  Header header;
  header.kind = static_cast<std::uint16_t>(M::kind);
  header.epoch = message.epoch;
  header.request = message.request;
  header.sequence = message.sequence;
  header.tag = message.tag;
  if (message.last) header.flags |= flag_last;
  if constexpr (HasTensor<M>::value) {
    if (message.tensor.present) {
      header.flags |= flag_tensor;
      attach(message.tensor, &frame);
    } else if (!tensor_is_optional<M>) {
      throw std::invalid_argument("[encode] " + std::string(name_of(M::kind)) +
                                  ": saw an absent tensor, needs one");
    }
  }
  Writer writer(&frame.head);
  M::fields(message, writer);
  const auto body = frame.head.size() - header_bytes;
  if (body > Limits{}.max_body)
    throw std::invalid_argument("[encode] " + std::string(name_of(M::kind)) + ": saw " +
                                std::to_string(body) + " bytes, needs at most " +
                                std::to_string(Limits{}.max_body));
  header.body_length = static_cast<std::uint32_t>(body);
  header.payload_length = frame.payload.size();
  header.checksum = checksum_of(frame.head.data() + header_bytes, body, frame.payload);
  encode_header(header, frame.head.data());
  return frame;
}

template <class M>
Result<Message> decode_one(const Header& header, const std::byte* body, Buffer payload) {
  M message;
  message.request = header.request;
  message.epoch = header.epoch;
  message.sequence = header.sequence;
  message.tag = header.tag;
  message.last = (header.flags & flag_last) != 0;
  std::size_t used = 0;
  const bool has_tensor = (header.flags & flag_tensor) != 0;
  if constexpr (HasTensor<M>::value) {
    if (has_tensor) {
      auto descriptor = decode_descriptor(body, header.body_length, &used);
      if (!descriptor) return descriptor.error();
      const auto needed = payload_bytes(*descriptor);
      if (!needed) return needed.error();
      if (*needed != payload.size()) return Errc::payload_mismatch;
      message.tensor.element = descriptor->element;
      message.tensor.dims = std::move(descriptor->dims);
      message.tensor.data = std::move(payload);
      message.tensor.present = true;
    } else if (!tensor_is_optional<M>) {
      return Errc::missing_tensor;
    }
  } else if (has_tensor) {
    return Errc::unexpected_tensor;
  }
  Reader reader(body + used, header.body_length - used);
  M::fields(message, reader);
  if (const auto error = reader.finish()) return error;
  return Message(std::move(message));
}

/// Tries the alternatives of the variant in turn.
template <std::size_t I = 0>
Result<Message> decode_any(const Header& header, const std::byte* body, Buffer payload) {
  if constexpr (I == std::variant_size_v<Message>) {
    return Errc::unknown_kind;
  } else {
    using M = std::variant_alternative_t<I, Message>;
    if (header.kind == static_cast<std::uint16_t>(M::kind))
      return decode_one<M>(header, body, std::move(payload));
    return decode_any<I + 1>(header, body, std::move(payload));
  }
}

}  // namespace

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::hello:
      return "hello";
    case Kind::welcome:
      return "welcome";
    case Kind::refused:
      return "refused";
    case Kind::admit:
      return "admit";
    case Kind::busy:
      return "busy";
    case Kind::value:
      return "value";
    case Kind::done:
      return "done";
    case Kind::failed:
      return "failed";
    case Kind::cancel:
      return "cancel";
    case Kind::abort:
      return "abort";
    case Kind::ping:
      return "ping";
    case Kind::pong:
      return "pong";
    case Kind::status_request:
      return "status_request";
    case Kind::status_reply:
      return "status_reply";
    case Kind::infer_request:
      return "infer_request";
    case Kind::infer_answer:
      return "infer_answer";
    case Kind::drain:
      return "drain";
    case Kind::bye:
      return "bye";
    case Kind::end_sequence:
      return "end_sequence";
    case Kind::routes:
      return "routes";
    case Kind::plan:
      return "plan";
    case Kind::plan_reply:
      return "plan_reply";
    case Kind::first_push:
    case Kind::last_push:
      return "push";
  }
  return kind > Kind::first_push && kind < Kind::last_push ? "push" : "?";
}

Frame encode(const Message& message) {
  return std::visit([](const auto& m) { return encode_one(m); }, message);
}

Result<Message> decode(const Header& header, const std::byte* body, Buffer payload) {
  return decode_any<>(header, body, std::move(payload));
}

Kind kind_of(const Message& message) {
  return std::visit([](const auto& m) { return std::decay_t<decltype(m)>::kind; }, message);
}

const Envelope& envelope_of(const Message& message) {
  return std::visit([](const auto& m) -> const Envelope& { return m; }, message);
}

}  // namespace cleave::net
