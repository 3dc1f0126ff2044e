#include "net/message.hpp"

#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/digest.hpp"
#include "base/file.hpp"

namespace cleave::net {
namespace {

Value tensor(std::vector<std::int64_t> dims) {
  Value value;
  value.element = base::Element::f32;
  value.dims = std::move(dims);
  std::vector<float> numbers(static_cast<std::size_t>(value.count()));
  std::iota(numbers.begin(), numbers.end(), 1.0f);
  value.data = Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
  return value;
}

Result<Message> decode_frame(const Frame& frame, const Limits& limits = {}) {
  const auto header = decode_header(frame.head.data(), limits);
  if (!header) return header.error();
  const auto* body = frame.head.data() + header_bytes;
  if (checksum_of(body, header->body_length, frame.payload) != header->checksum)
    return Errc::bad_checksum;
  return decode(*header, frame.head.data() + header_bytes, frame.payload);
}

template <class M>
M round_trip(const M& message) {
  const auto back = decode_frame(encode(message));
  EXPECT_TRUE(back.has_value()) << back.error().message();
  EXPECT_TRUE(std::holds_alternative<M>(*back));
  return std::get<M>(*back);
}

/// One of each, with every field set.
std::vector<Message> one_of_each() {
  std::vector<Message> messages;
  Hello hello;
  hello.role = Role::client;
  hello.bundle = std::string(64, 'a');
  hello.device = "pi4";
  hello.name = "hub";
  hello.epoch = 3;
  hello.origin = 0x123456789abcdef0;
  messages.emplace_back(hello);
  Welcome welcome;
  welcome.bundle = "b";
  welcome.device = "d";
  welcome.max_requests = 4;
  welcome.memory_bytes = 2.5e8;
  welcome.model_json = "{\"labels\": [\"café\"]}";
  messages.emplace_back(welcome);
  Refused refused;
  refused.text = "bundle: saw x, needs y";
  messages.emplace_back(refused);
  Admit admit;
  admit.request = 9;
  admit.epoch = 2;
  admit.plan = std::string(64, 'b');
  admit.digest = std::string(64, 'd');
  admit.deadline_ms = 1500;
  admit.batch = 2;
  admit.tokens = 12;
  admit.best = 64;
  admit.from_kept = true;
  admit.sequence = 6;
  admit.past = 20;
  admit.capacity = 84;
  admit.observe = Observe::account;
  messages.emplace_back(admit);
  Busy busy;
  busy.text = "no link to 'cam'";
  messages.emplace_back(busy);
  ValueMessage value;
  value.request = 9;
  value.tag = 1;
  value.last = true;
  value.origin = 5;
  value.queued_s = 0.25;
  value.compute_s = 0.5;
  value.wait_s = 0.125;
  value.tensor = tensor({1, 1, 8});
  messages.emplace_back(value);
  Done done;
  done.queued_s = 0.5;
  done.compute_s = 0.75;
  done.wait_s = 0.25;
  done.account.told = true;
  done.account.queued_s = 0.5;
  done.account.compute_s = 0.75;
  done.account.wait_s = 0.25;
  done.account.transfer_s = 0.125;
  done.account.flops = 3e9;
  done.account.peak_memory_bytes = 2e8;
  done.account.links = {{"cam", 512, 1024}};
  done.account.happenings = {
      {Happening::What::send, "h_3", "cam", 100.25, 100.5, 512},
      {Happening::What::stretch, "layers 0-1", "", 100, 100.25, 0},
  };
  done.account.left_out = 7;
  messages.emplace_back(done);
  Failed failed;
  failed.text = "out of memory";
  messages.emplace_back(failed);
  messages.emplace_back(Cancel{});
  Abort abort;
  abort.text = "no K/V";
  messages.emplace_back(abort);
  Ping ping;
  ping.stamp = 77;
  messages.emplace_back(ping);
  Pong pong;
  pong.stamp = 77;
  pong.memory_bytes = 1e8;
  pong.queued = 2;
  pong.clock_s = 1234.5;
  messages.emplace_back(pong);
  messages.emplace_back(StatusRequest{});
  StatusReply reply;
  reply.agents.resize(2);
  reply.agents[1].device = "cam";
  reply.agents[1].address = "127.0.0.1:7103";
  reply.agents[1].connected = true;
  reply.agents[1].last_error = "none";
  reply.agents[1].memory_bytes = 1.5e8;
  reply.agents[1].held_bytes = 2e7;
  reply.agents[1].weight_format = "f32";
  reply.agents[1].round_trip_s = 0.003;
  reply.agents[1].queued = 3;
  reply.agents[1].answered = 12;
  reply.plans = {{"default", "tensor", "exact", "hub, cam"}};
  messages.emplace_back(reply);
  InferRequest ask;
  ask.request = 4;
  ask.plan = "night";
  ask.deadline_ms = 100;
  ask.require_all = true;
  ask.sequence = 6;
  ask.past = 20;
  ask.capacity = 84;
  ask.observe = Observe::trace;
  ask.choosing = {true, 0.75, 40, 0.5, 1.25, 9, 3, 500};
  ask.tensor = tensor({2, 2});
  messages.emplace_back(ask);
  InferAnswer answer;
  answer.request = 4;
  answer.status = 1;
  answer.text = "overloaded";
  answer.queue_s = 0.0625;
  answer.fuse_s = 0.25;
  answer.total_s = 0.5;
  answer.overhead_s = 0.125;
  answer.devices.resize(1);
  answer.devices[0].device = "hub";
  answer.devices[0].present = true;
  answer.devices[0].queued_s = 1;
  answer.devices[0].compute_s = 2;
  answer.devices[0].round_trip_s = 3;
  answer.devices[0].predicted_s = 4;
  answer.devices[0].sent_bytes = 1234;
  answer.devices[0].received_bytes = 4321;
  answer.devices[0].why = "late";
  answer.devices[0].account = done.account;
  answer.aggregator.told = true;
  answer.aggregator.flops = 5;
  messages.emplace_back(answer);
  answer.tensor = tensor({2, 10});
  messages.emplace_back(answer);
  messages.emplace_back(Drain{});
  messages.emplace_back(Bye{});
  messages.emplace_back(EndSequence{});
  Routes routes;
  routes.routes = {{"hub", "127.0.0.1:7101"}, {"cam", "[::1]:7102"}};
  messages.emplace_back(routes);
  PlanMessage plan;
  plan.digest = std::string(64, 'b');
  plan.json = "{\"name\": \"default\"}";
  messages.emplace_back(plan);
  PlanReply planned;
  planned.digest = plan.digest;
  planned.refusal = "no such weights";
  messages.emplace_back(planned);
  return messages;
}

TEST(Message, EveryKindComesBackTheSame) {
  for (const auto& message : one_of_each()) {
    const auto frame = encode(message);
    const auto back = decode_frame(frame);
    ASSERT_TRUE(back.has_value()) << name_of(kind_of(message)) << ": " << back.error().message();
    EXPECT_EQ(kind_of(*back), kind_of(message));
    EXPECT_EQ(encode(*back).head, frame.head) << name_of(kind_of(message));
    EXPECT_NE(name_of(kind_of(message)), "?");
  }
}

TEST(Message, FieldsComeBack) {
  const auto messages = one_of_each();
  const auto hello = round_trip(std::get<Hello>(messages[0]));
  EXPECT_EQ(hello.role, Role::client);
  EXPECT_EQ(hello.device, "pi4");
  EXPECT_EQ(hello.epoch, 3u);
  const auto value = round_trip(std::get<ValueMessage>(messages[5]));
  EXPECT_TRUE(value.last);
  EXPECT_EQ(value.request, 9u);
  EXPECT_EQ(value.tag, 1u);
  EXPECT_EQ(value.compute_s, 0.5);
  EXPECT_EQ(value.tensor.dims, (std::vector<std::int64_t>{1, 1, 8}));
  const auto done = round_trip(std::get<Done>(messages[6]));
  EXPECT_EQ(done.account.flops, 3e9);
  ASSERT_EQ(done.account.happenings.size(), 2u);
  EXPECT_EQ(done.account.happenings[0].what, Happening::What::send);
  EXPECT_EQ(done.account.happenings[0].peer, "cam");
  EXPECT_EQ(done.account.links.at(0).received_bytes, 1024u);
  const auto reply = round_trip(std::get<StatusReply>(messages[13]));
  ASSERT_EQ(reply.agents.size(), 2u);
  EXPECT_TRUE(reply.agents[1].connected);
  EXPECT_EQ(reply.agents[1].answered, 12);
  const auto answer = round_trip(std::get<InferAnswer>(messages[15]));
  EXPECT_FALSE(answer.tensor.present);
  EXPECT_EQ(answer.devices[0].sent_bytes, 1234u);
  EXPECT_EQ(answer.devices[0].account.left_out, 7u);
  EXPECT_EQ(answer.aggregator.flops, 5);
  const auto ask = round_trip(std::get<InferRequest>(messages[14]));
  EXPECT_EQ(ask.observe, Observe::trace);
  EXPECT_TRUE(ask.choosing.wanted);
  EXPECT_EQ(ask.choosing.temperature, 0.75);
  EXPECT_EQ(ask.choosing.top_k, 40);
  EXPECT_EQ(ask.choosing.top_p, 0.5);
  EXPECT_EQ(ask.choosing.repetition_penalty, 1.25);
  EXPECT_EQ(ask.choosing.seed, 9u);
  EXPECT_EQ(ask.choosing.step, 3);
  EXPECT_EQ(ask.choosing.vocabulary, 500);
  const auto admit = round_trip(std::get<Admit>(messages[3]));
  EXPECT_EQ(admit.observe, Observe::account);
  EXPECT_EQ(admit.best, 64);
  EXPECT_TRUE(admit.from_kept);
}

// What both ends misread alike comes back the same: the bytes themselves are compared.
TEST(Message, IsTheSameOnTheWireAsEver) {
  std::string bytes;
  for (const auto& message : one_of_each()) {
    const auto frame = encode(message);
    bytes.append(reinterpret_cast<const char*>(frame.head.data()), frame.head.size());
    bytes.append(reinterpret_cast<const char*>(frame.payload.data()), frame.payload.size());
  }
  // A change here breaks peers of another version: raise the protocol's version with it.
  EXPECT_EQ(base::sha256(bytes),
            "6532c6d10f6555fe20e9d8cf744ac7c94429261d7bcfb4752c7cab023cbf3624");
}

// Seeds of an older version are refused at the header and lead a fuzzer nowhere.
TEST(Message, FuzzersSeedsAreFramesOfThisVersion) {
  std::set<Kind> kinds;
  for (const auto& seed :
       std::filesystem::directory_iterator(CLEAVE_SOURCE_DIR "/fuzz/seeds/frame")) {
    const auto text = base::read_text(seed.path());
    ASSERT_GE(text.size(), header_bytes);
    Frame frame;
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    const auto header = decode_header(bytes, {});
    ASSERT_TRUE(header.has_value()) << seed.path() << ": " << header.error().message();
    const auto body_end = header_bytes + header->body_length;
    ASSERT_EQ(text.size(), body_end + header->payload_length) << seed.path();
    frame.head.assign(bytes, bytes + body_end);
    frame.payload = Buffer::copy_of(bytes + body_end, header->payload_length);
    const auto message = decode_frame(frame);
    ASSERT_TRUE(message.has_value()) << seed.path() << ": " << message.error().message();
    kinds.insert(kind_of(*message));
  }
  EXPECT_EQ(kinds.size(), std::variant_size_v<Message>);
}

/// The double at an offset of a frame's head.
double number_at(const Frame& frame, std::size_t offset) {
  double number = 0;
  std::memcpy(&number, frame.head.data() + offset, sizeof number);
  return number;
}

TEST(Message, SaysWhereTheTimeWentInOneOrder) {
  InferAnswer answer;  // status, then the length of its text, then seconds
  answer.queue_s = 1;
  answer.fuse_s = 2;
  answer.total_s = 3;
  answer.overhead_s = 4;
  const auto frame = encode(answer);
  for (const std::size_t i : {0u, 1u, 2u, 3u})
    EXPECT_EQ(number_at(frame, header_bytes + 1 + 4 + 8 * i), static_cast<double>(i + 1));
  ValueMessage value;
  value.queued_s = 1;
  value.compute_s = 2;
  value.wait_s = 3;
  value.tensor = tensor({1});
  const auto second = encode(value);
  for (const std::size_t i : {0u, 1u, 2u})
    EXPECT_EQ(number_at(second, header_bytes + 16 + 8 + 8 * i), static_cast<double>(i + 1));
}

// No copy: the frame's payload is the tensor's memory, and the decoded tensor is the payload.
TEST(Message, TensorKeepsItsMemory) {
  ValueMessage value;
  value.tensor = tensor({4, 4});
  const auto* bytes = value.tensor.data.data();
  const auto frame = encode(value);
  EXPECT_EQ(frame.payload.data(), bytes);
  EXPECT_EQ(frame.payload.owner(), value.tensor.data.owner());
  const auto back = decode_frame(frame);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(std::get<ValueMessage>(*back).tensor.data.data(), bytes);
}

/// Decodes after `forge` has changed header or body; the lengths follow the body.
template <class Forge>
Errc forged(const Message& message, Forge forge) {
  auto frame = encode(message);
  auto header = *decode_header(frame.head.data(), {});
  std::vector<std::byte> body(frame.head.begin() + header_bytes, frame.head.end());
  forge(header, body, frame.payload);
  header.body_length = static_cast<std::uint32_t>(body.size());
  const auto back = decode(header, body.data(), frame.payload);
  EXPECT_FALSE(back.has_value());
  return back ? Errc::closed : static_cast<Errc>(back.error().value());
}

TEST(Message, RefusesAnUnknownKind) {
  for (const int kind : {0, 23, 32, 39, 65535})
    EXPECT_EQ(forged(Bye{}, [kind](Header& h, auto&,
                                   auto&) { h.kind = static_cast<std::uint16_t>(kind); }),
              Errc::unknown_kind);
}

TEST(Message, RefusesEveryTruncation) {
  for (const auto& message : one_of_each()) {
    const auto frame = encode(message);
    const auto whole = frame.head.size() - header_bytes;
    for (std::size_t size = 0; size < whole; ++size) {
      auto header = *decode_header(frame.head.data(), {});
      header.body_length = static_cast<std::uint32_t>(size);
      const auto back = decode(header, frame.head.data() + header_bytes, frame.payload);
      EXPECT_FALSE(back.has_value()) << name_of(kind_of(message)) << " cut to " << size;
    }
  }
}

TEST(Message, RefusesTrailingBytes) {
  EXPECT_EQ(forged(Bye{}, [](Header&, auto& body, auto&) { body.push_back({}); }),
            Errc::trailing_bytes);
}

TEST(Message, CarriesRowsWithTheirScales) {
  ValueMessage value;
  const std::string rows(2 * (3 + 4), 'r');  // two scales, then six numbers
  value.tensor.element = base::Element::scaled_i8;
  value.tensor.dims = {2, 3};
  value.tensor.data = Buffer::copy_of(rows.data(), rows.size());
  const Value back = round_trip(value).tensor;
  EXPECT_EQ(back.element, base::Element::scaled_i8);
  EXPECT_EQ(back.dims, value.tensor.dims);
  EXPECT_EQ(back.data.size(), rows.size());
  for (const std::size_t size : {std::size_t{6}, std::size_t{13}})  // without scales; a byte short
    EXPECT_EQ(
        forged(value, [&](Header&, auto&, Buffer& p) { p = Buffer(p.owner(), p.data(), size); }),
        Errc::payload_mismatch);
}

TEST(Message, RefusesAPayloadThatDoesNotMatchItsDims) {
  ValueMessage value;
  value.tensor = tensor({4, 4});
  EXPECT_EQ(forged(value, [](Header&, auto& body, auto&) { body[8] = std::byte{5}; }),
            Errc::payload_mismatch);
  EXPECT_EQ(forged(value, [](Header&, auto&, Buffer& p) { p = Buffer(p.owner(), p.data(), 60); }),
            Errc::payload_mismatch);
  EXPECT_EQ(forged(value, [](Header&, auto& body, auto&) { body[15] = std::byte{0x7f}; }),
            Errc::bad_dims);
}

TEST(Message, RefusesAMissingOrUnexpectedTensor) {
  const auto drop = [](Header& h, auto& body, Buffer& payload) {
    h.flags = 0;
    body.erase(body.begin(), body.begin() + 24);
    payload = {};
  };
  ValueMessage value;
  value.tensor = tensor({4, 4});
  EXPECT_EQ(forged(value, drop), Errc::missing_tensor);
  EXPECT_EQ(forged(Bye{}, [](Header& h, auto&, auto&) { h.flags = flag_tensor; }),
            Errc::unexpected_tensor);
}

TEST(Message, RefusesFieldsOutOfRange) {
  Hello hello;
  EXPECT_EQ(forged(hello, [](Header&, auto& body, auto&) { body[0] = std::byte{9}; }),
            Errc::bad_field);
  Admit admit;  // what is to be observed is its last byte
  EXPECT_EQ(forged(admit, [](Header&, auto& body, auto&) { body.back() = std::byte{3}; }),
            Errc::bad_field);
  Pong pong;  // stamp, then a double: all ones is not a number
  EXPECT_EQ(forged(pong,
                   [](Header&, auto& body, auto&) {
                     for (std::size_t i = 8; i < 16; ++i) body[i] = std::byte{0xff};
                   }),
            Errc::bad_field);
  Refused refused;  // a text said to be 4 GiB long
  EXPECT_EQ(forged(refused,
                   [](Header&, auto& body, auto&) {
                     for (auto& byte : body) byte = std::byte{0xff};
                   }),
            Errc::truncated);
  StatusReply reply;  // a list said to have 2^32 − 1 items
  EXPECT_EQ(forged(reply,
                   [](Header&, auto& body, auto&) {
                     for (auto& byte : body) byte = std::byte{0xff};
                   }),
            Errc::truncated);
}

TEST(Message, EncodeRefusesWhatNoReaderAccepts) {
  ValueMessage value;
  value.tensor = tensor({4, 4});
  value.tensor.dims = {4, 5};
  EXPECT_THROW(encode(value), std::invalid_argument);
  value.tensor = Value::absent();
  EXPECT_THROW(encode(value), std::invalid_argument);
  Failed failed;
  failed.text.assign(2u << 20, 'x');
  try {
    encode(failed);
    FAIL() << "nothing was thrown";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "[encode] failed: saw 2097156 bytes, needs at most 1048576");
  }
}

}  // namespace
}  // namespace cleave::net
