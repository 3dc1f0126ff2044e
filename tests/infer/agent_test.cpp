#include "infer/agent.hpp"

#include <array>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "infer/compute.hpp"
#include "infer/machine.hpp"
#include "infer/observation.hpp"
#include "net/mesh.hpp"
#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/program.hpp"
#include "tests/infer/fake_parts.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using boost::asio::ip::tcp;
using net::Message;

template <class Action>
std::string text_of_error(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

/// An aggregator made of a blocking socket: what an agent says to each message, in order.
class Caller {
 public:
  explicit Caller(const std::string& address) : socket_(io_) {
    const auto parsed = net::Address::parse(address);
    socket_.connect(tcp::endpoint(boost::asio::ip::make_address(parsed.host),
                                  static_cast<std::uint16_t>(std::stoi(parsed.port))));
    socket_.set_option(tcp::no_delay(true));
  }
  /// A write that fails shows as a closed connection.
  void write(const std::string& bytes) {
    boost::system::error_code closed;
    boost::asio::write(socket_, boost::asio::buffer(bytes), closed);
  }
  void send(const Message& message) {
    const auto frame = net::encode(message);
    const std::array<boost::asio::const_buffer, 2> parts{
        boost::asio::buffer(frame.head),
        boost::asio::buffer(frame.payload.data(), frame.payload.size())};
    boost::system::error_code closed;
    boost::asio::write(socket_, parts, closed);
  }
  void send(const Asked& asked) {
    send(Message(asked));
    if (asked.tensor.present) send(Message(asked.input()));
  }
  /// The next message that is no ping; a `Bye` with request 404 where the agent closed.
  Message receive() {
    while (true) {
      auto message = receive_any();
      if (!std::holds_alternative<net::Ping>(message)) return message;
    }
  }
  template <class M>
  M receive_as() {
    auto message = receive();
    EXPECT_TRUE(std::holds_alternative<M>(message)) << "saw " << name_of(net::kind_of(message));
    return std::holds_alternative<M>(message) ? std::get<M>(message) : M{};
  }
  /// Everything sent before has been dealt with: the agent answers in order.
  void wait_until_heard() {
    net::Ping ping;
    ping.stamp = 1;
    send(ping);
    receive_as<net::Pong>();
  }
  bool is_closed() { return net::envelope_of(receive()).request == 404; }

 private:
  Message receive_any() {
    net::Bye closed;
    closed.request = 404;
    std::vector<std::byte> head(net::header_bytes);
    boost::system::error_code error;
    boost::asio::read(socket_, boost::asio::buffer(head), error);
    if (error) return closed;
    const auto header = net::decode_header(head.data(), {});
    if (!header) return closed;
    std::vector<std::byte> body(header->body_length);
    boost::asio::read(socket_, boost::asio::buffer(body), error);
    std::byte* at = nullptr;
    auto payload = net::Buffer::allocate(header->payload_length, &at);
    boost::asio::read(socket_, boost::asio::buffer(at, header->payload_length), error);
    auto message = net::decode(*header, body.data(), payload);
    return message ? *message : Message(closed);
  }
  boost::asio::io_context io_;
  tcp::socket socket_;
};

class AgentTest : public ::testing::Test {
 protected:
  net::Hello hello() const {
    net::Hello message;
    message.epoch = 1;
    message.bundle = bundle.identity();
    message.device = "cam";
    message.name = "test";
    message.origin = ++origins;
    return message;
  }
  Asked admit(std::uint64_t request, std::uint8_t seed = 1, std::uint32_t deadline_ms = 5000) {
    Asked message;
    message.request = request;
    message.epoch = 1;
    message.plan = plan::digest_of(plan);
    message.digest = plan::compile(plan, plan.shape).at(2).digest;
    message.deadline_ms = deadline_ms;
    message.tensor = pixels(seed);
    message.batch = message.tensor.dims[0];
    return message;
  }
  /// Connects and joins.
  std::unique_ptr<Caller> join(const RunningAgent& agent) {
    auto caller = std::make_unique<Caller>(agent.address());
    caller->send(hello());
    caller->receive_as<net::Welcome>();
    caller->send(told(plan));
    EXPECT_EQ(caller->receive_as<net::PlanReply>().refusal, "");
    return caller;
  }

  ScratchFolder folder{"agent"};
  plan::Plan plan = fake_plan();
  plan::Bundle bundle = write_bundle(folder.path(), plan);
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  mutable std::uint64_t origins = 0;
};

TEST_F(AgentTest, GreetsTheAggregatorOfItsBundle) {
  auto options = RunningAgent::options_for("cam");
  options.max_requests = 3;
  options.memory_bytes = 8e9;
  const RunningAgent agent(bundle, plan, std::move(options));
  Caller caller(agent.address());
  caller.send(hello());
  const auto welcome = caller.receive_as<net::Welcome>();
  EXPECT_EQ(welcome.bundle, bundle.identity());
  EXPECT_EQ(welcome.device, "cam");
  EXPECT_EQ(welcome.max_requests, 3u);
  EXPECT_EQ(welcome.memory_bytes, 8e9);
}

TEST_F(AgentTest, RefusesWhoeverMeansAnother) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto refusal = [&agent](const net::Hello& greeting) {
    Caller caller(agent.address());
    caller.send(greeting);
    const auto text = caller.receive_as<net::Refused>().text;
    EXPECT_TRUE(caller.is_closed());
    return text;
  };
  auto wrong = hello();
  wrong.bundle = std::string(64, 'f');
  EXPECT_EQ(refusal(wrong), "agent 'cam': bundle: saw '" + std::string(64, 'f') + "', needs '" +
                                bundle.identity() + "'");
  wrong = hello();
  wrong.device = "hub";
  EXPECT_EQ(refusal(wrong), "agent 'cam': device: saw 'hub', needs 'cam'");
  wrong = hello();
  wrong.role = net::Role::client;
  EXPECT_EQ(refusal(wrong), "agent 'cam': role: saw 'client', needs 'aggregator'");
}

/// The same devices, other widths.
plan::Plan night_plan() {
  plan::Plan night = fake_plan();
  night.name = "night";
  for (plan::PlanPart& part : night.parts) part.sub_model().config.width /= 2;
  return night;
}

TEST_F(AgentTest, ServesEveryPlanWhoseWeightsItHolds) {
  const plan::Plan night = night_plan();
  bundle = write_bundle(folder.path(), {plan, night});
  const RunningAgent agent(bundle, {plan, night}, RunningAgent::options_for("cam"));
  const auto caller = join(agent);
  caller->send(told(night));
  EXPECT_EQ(caller->receive_as<net::PlanReply>().digest, plan::digest_of(night));
  caller->send(admit(7));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().tensor.dims.back(), 8);
  auto of_night = admit(8);
  of_night.plan = plan::digest_of(night);
  of_night.digest = plan::compile(night, night.shape).at(2).digest;
  caller->send(of_night);
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().tensor.dims.back(), 4);
}

TEST_F(AgentTest, RefusesAPlanThatItCannotServe) {
  bundle = write_bundle(folder.path(), {plan, night_plan()});
  const RunningAgent agent(bundle, {plan}, RunningAgent::options_for("cam"));
  const auto caller = join(agent);
  const auto refusal = [&](const net::PlanMessage& message) {
    caller->send(message);
    const auto reply = caller->receive_as<net::PlanReply>();
    EXPECT_EQ(reply.digest, message.digest);
    return reply.refusal;
  };
  EXPECT_EQ(refusal(told(night_plan())),
            "[plan 'night'] is left out by --plan: its weights are not loaded");
  auto other = plan;
  other.name = "day";
  EXPECT_EQ(refusal(told(other)),
            "[plan 'day'] parts/day: is not in the bundle; cut the bundle again");
  other = plan;
  other.parts[2].sub_model().config.width = 12;
  EXPECT_EQ(refusal(told(other)),
            "[plan 'default'] parts/default/cam: was cut to other widths or layers; cut the bundle "
            "again");
  other = plan;
  other.teacher_digest = std::string(64, 'b');
  EXPECT_EQ(refusal(told(other)),
            "[plan 'default'] teacher_digest: saw bbbbbbbbbbbb, the bundle has aaaaaaaaaaaa");
  other = plan;
  other.parts.pop_back();
  EXPECT_EQ(refusal(told(other)),
            "[agent] device: saw 'cam', needs one of plan 'default': hub, desk");
  auto message = told(plan);
  message.digest = std::string(64, '0');
  EXPECT_EQ(refusal(message), "plan digest: saw '" + std::string(64, '0') + "', needs '" +
                                  plan::digest_of(plan) + "'");
  // A format of values that it does not know, and one that means nothing here.
  message = told(plan);
  message.digest = std::string(64, '1');
  auto json = nlohmann::json::parse(message.json);
  json["wire"] = "int4";
  message.json = json.dump();
  EXPECT_EQ(refusal(message), "[plan] wire: saw \"int4\", needs one of f32, f16, bf16, int8");
  json["wire"] = "int8";
  message.json = json.dump();
  EXPECT_NE(refusal(message).find("wire: saw int8, needs f32"), std::string::npos);
  json.erase("wire");
  json["wires"] = "int8";
  message.json = json.dump();
  EXPECT_NE(refusal(message).find("[plan] wires: unknown key"), std::string::npos);
  message.json = "{";
  EXPECT_NE(refusal(message).find("[plan] "), std::string::npos);
  // What was served before is served on.
  caller->send(admit(7));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 7u);
}

TEST_F(AgentTest, TakesNoRequestOfAPlanThatWasNotSent) {
  const RunningAgent agent(bundle, plan, "cam");
  Caller caller(agent.address());
  caller.send(hello());
  caller.receive_as<net::Welcome>();
  caller.send(admit(7));
  EXPECT_EQ(caller.receive_as<net::Failed>().text, "plan: saw " +
                                                       plan::digest_of(plan).substr(0, 12) +
                                                       ", which was not sent on this connection");
}

TEST_F(AgentTest, KeepsOnlySoManyPlansOfOneConnection) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto caller = join(agent);
  std::string last;
  for (int i = 1; i < 70; ++i) {
    auto other = plan;
    other.shape.batch = 1 + i;
    caller->send(told(other));
    last = caller->receive_as<net::PlanReply>().refusal;
  }
  EXPECT_EQ(last, "plans: saw 64 on this connection, takes no more");
}

TEST_F(AgentTest, ComputesItsPart) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto caller = join(agent);
  caller->send(admit(7, 3));
  const auto value = caller->receive_as<net::ValueMessage>();
  EXPECT_EQ(value.request, 7u);
  EXPECT_EQ(value.epoch, 1u);
  EXPECT_EQ(value.tag, 2u);
  EXPECT_TRUE(value.last);
  EXPECT_EQ(value.tensor.dims, (std::vector<std::int64_t>{1, 1, 8}));
  EXPECT_EQ(first_number(value.tensor), feature_of(pixels(3), 2));
  EXPECT_GE(value.queued_s, 0);
}

TEST_F(AgentTest, TellsWhatItDidForARequestThatIsObserved) {
  const RunningAgent agent(bundle, plan, "cam", 2ms);
  const auto caller = join(agent);
  auto asked = admit(7, 3);
  asked.observe = net::Observe::trace;
  caller->send(asked);
  const auto value = caller->receive_as<net::ValueMessage>();
  EXPECT_FALSE(value.last) << "what it did comes behind";
  const auto done = caller->receive_as<net::Done>();
  EXPECT_TRUE(done.last);
  EXPECT_EQ(done.request, 7u);
  const net::Account& account = done.account;
  EXPECT_TRUE(account.told);
  EXPECT_GE(account.compute_s, 0.002);
  EXPECT_GT(account.transfer_s, 0);
  EXPECT_GT(account.peak_memory_bytes, 1e6);
  const auto programs = plan::compile(plan, {1, 0, 0});
  EXPECT_EQ(account.flops, plan::flops_of(programs.at(2), plan, 0));
  ASSERT_EQ(account.links.size(), 1u);
  EXPECT_EQ(account.links[0].peer, "aggregator@" + plan.aggregator);
  EXPECT_EQ(account.links[0].sent_bytes, net::encode(value).size());
  EXPECT_EQ(account.links[0].received_bytes, net::encode(asked.input()).size());
  std::map<net::Happening::What, int> happened;
  for (const net::Happening& happening : account.happenings) {
    ++happened[happening.what];
    EXPECT_LE(happening.start_s, happening.end_s);
    EXPECT_LE(happening.end_s, seconds_of(Clock::now()));
    EXPECT_GE(happening.start_s, seconds_of(Clock::now()) - 60);
  }
  EXPECT_EQ(happened[net::Happening::What::send], 1);
  EXPECT_EQ(happened[net::Happening::What::receive], 1);
  EXPECT_GE(happened[net::Happening::What::compute], 1);
  EXPECT_GE(happened[net::Happening::What::stretch], 1);

  // Where only the sums are asked for, and where nothing is.
  asked.request = 8;
  asked.observe = net::Observe::account;
  caller->send(asked);
  caller->receive_as<net::ValueMessage>();
  const auto summed = caller->receive_as<net::Done>().account;
  EXPECT_TRUE(summed.told);
  EXPECT_EQ(summed.flops, account.flops);
  EXPECT_TRUE(summed.happenings.empty());
  asked.request = 9;
  asked.observe = net::Observe::nothing;
  caller->send(asked);
  EXPECT_TRUE(caller->receive_as<net::ValueMessage>().last);
}

/// Allocates many small blocks, of which a few stay, as the parts of a large computation do.
class WastefulEngine : public FakeEngine {
 public:
  explicit WastefulEngine(std::atomic<double>* left_bytes) : left_bytes_(left_bytes) {}
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    if (!begins(instruction)) return FakeEngine::compute(instruction, program, operands, sequence);
    for (int i = 0; i < 8000; ++i) blocks_.emplace_back(16384, 'x');
    for (std::size_t i = 0; i < blocks_.size(); ++i)
      if (i % 100 != 99) std::string().swap(blocks_[i]);
    *left_bytes_ = resident_memory_bytes();
    return FakeEngine::compute(instruction, program, operands, sequence);
  }

 private:
  std::vector<std::string> blocks_;
  std::atomic<double>* left_bytes_;
};

TEST_F(AgentTest, GivesMemoryBackOnceItIsIdle) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "needs glibc's allocator";
#endif
  std::atomic<double> left_bytes{0};
  const RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                           std::make_unique<WastefulEngine>(&left_bytes));
  const auto caller = join(agent);
  const double before = resident_memory_bytes();
  caller->send(admit(1));
  caller->receive_as<net::ValueMessage>();
  ASSERT_GT(left_bytes, before + 100e6) << "the allocator kept nothing";
  EXPECT_TRUE(eventually([&] { return resident_memory_bytes() < before + 30e6; }))
      << resident_memory_bytes() - before;
}

TEST_F(AgentTest, CountsTheTimeBehindOthersAsQueued) {
  const RunningAgent agent(bundle, plan, "cam", 200ms);
  const auto caller = join(agent);
  caller->send(admit(1));
  caller->send(admit(2));
  const auto first = caller->receive_as<net::ValueMessage>();
  const auto second = caller->receive_as<net::ValueMessage>();
  EXPECT_EQ(first.request, 1u);
  EXPECT_EQ(second.request, 2u);
  EXPECT_GE(first.compute_s, 0.2);
  EXPECT_GE(second.queued_s, 0.1);
  EXPECT_LT(first.queued_s, second.queued_s);
}

TEST_F(AgentTest, IsBusyBeyondItsRequests) {
  auto options = RunningAgent::options_for("cam");
  options.max_requests = 1;
  const RunningAgent agent(bundle, plan, std::move(options), std::make_unique<GatedEngine>(gate));
  const auto caller = join(agent);
  caller->send(admit(1));
  caller->send(admit(2));
  const auto busy = caller->receive_as<net::Busy>();
  EXPECT_EQ(busy.request, 2u);
  EXPECT_TRUE(busy.last);
  gate->open();
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 1u);
  caller->send(admit(2));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 2u);
}

TEST_F(AgentTest, FailsWhatCouldNeverFitItsMemory) {
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = 1000;
  const RunningAgent agent(bundle, plan, std::move(options));
  const auto caller = join(agent);
  caller->send(admit(1));
  const auto text = caller->receive_as<net::Failed>().text;
  EXPECT_EQ(text.rfind("memory: saw a program whose peak is ", 0), 0u) << text;
  EXPECT_NE(text.find("needs at most 1"), std::string::npos) << text;
}

TEST_F(AgentTest, FailsWhatIsNotItsProgram) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto caller = join(agent);
  auto wrong = admit(1);
  wrong.digest = std::string(64, '0');
  caller->send(wrong);
  EXPECT_EQ(caller->receive_as<net::Failed>().text.rfind("program digest: saw '0000", 0), 0u);
  wrong = admit(2);
  wrong.tensor.dims = {1, 1, 4, 16};
  caller->send(wrong);
  const auto failed = caller->receive_as<net::Failed>();
  EXPECT_EQ(failed.request, 2u);
  EXPECT_NE(failed.text.find("saw u8 [1, 1, 4, 16], needs u8 [1, 1, 8, 8]"), std::string::npos)
      << failed.text;
  wrong = admit(3);
  wrong.tensor.dims = {0, 1, 8, 8};
  wrong.tensor.data = {};
  caller->send(wrong);
  EXPECT_EQ(caller->receive_as<net::Failed>().request, 3u);
  caller->send(admit(4));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 4u);
}

TEST_F(AgentTest, IgnoresAnInputThatIsOfNoRequest) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto caller = join(agent);
  caller->send(Message(admit(1, 3).input()));
  caller->send(Message(admit(1, 7)));
  auto stale = admit(1, 5).input();
  stale.epoch = 2;
  caller->send(Message(stale));
  auto elsewhere = admit(1, 5).input();
  elsewhere.tag = 9;
  caller->send(Message(elsewhere));
  caller->send(Message(admit(1, 7).input()));
  const auto value = caller->receive_as<net::ValueMessage>();
  EXPECT_EQ(value.request, 1u);
  EXPECT_EQ(first_number(value.tensor), feature_of(pixels(7), 2));
}

TEST_F(AgentTest, FailsARequestThatIsAdmittedAlready) {
  const RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                           std::make_unique<GatedEngine>(gate));
  const auto caller = join(agent);
  caller->send(admit(1));
  caller->send(admit(1));
  EXPECT_EQ(caller->receive_as<net::Failed>().text, "request 1: is admitted already");
  gate->open();
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 1u);
}

TEST_F(AgentTest, CancelEndsWithoutAValue) {
  const RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                           std::make_unique<GatedEngine>(gate));
  const auto caller = join(agent);
  caller->send(admit(1));
  gate->wait_for_entry();
  caller->send(admit(2));
  net::Cancel cancel;
  cancel.request = 2;
  caller->send(cancel);
  caller->wait_until_heard();
  gate->open();
  // The end of one and the value of the other may overtake each other.
  std::set<std::pair<std::uint64_t, std::string>> said;
  for (int i = 0; i < 2; ++i) {
    const auto message = caller->receive();
    said.emplace(net::envelope_of(message).request, name_of(net::kind_of(message)));
    EXPECT_TRUE(net::envelope_of(message).last);
  }
  EXPECT_EQ(said, (std::set<std::pair<std::uint64_t, std::string>>{{1, "value"}, {2, "done"}}));
}

TEST_F(AgentTest, AbortOfTheRunningRequestEndsItToo) {
  const RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                           std::make_unique<GatedEngine>(gate));
  const auto caller = join(agent);
  caller->send(admit(1));
  gate->wait_for_entry();
  net::Abort abort;
  abort.request = 1;
  caller->send(abort);
  caller->wait_until_heard();
  gate->open();
  EXPECT_EQ(caller->receive_as<net::Done>().request, 1u);
}

TEST_F(AgentTest, DropsARequestAtItsDeadline) {
  const RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                           std::make_unique<GatedEngine>(gate));
  const auto caller = join(agent);
  caller->send(admit(1));
  gate->wait_for_entry();
  caller->send(admit(2, 1, 20));
  caller->wait_until_heard();
  std::this_thread::sleep_for(25ms);
  gate->open();
  std::set<std::pair<std::uint64_t, std::string>> said;
  for (int i = 0; i < 2; ++i) {
    const auto message = caller->receive();
    said.emplace(net::envelope_of(message).request, name_of(net::kind_of(message)));
  }
  EXPECT_EQ(said, (std::set<std::pair<std::uint64_t, std::string>>{{1, "value"}, {2, "done"}}));
}

TEST_F(AgentTest, IgnoresAnotherEpoch) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto caller = join(agent);
  auto stale = admit(1);
  stale.epoch = 0;
  caller->send(stale);
  caller->send(admit(2));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 2u);
}

TEST_F(AgentTest, GarbageEndsAConnectionAndNothingElse) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto before = join(agent);
  const auto good = net::encode(hello());
  const std::string bytes(reinterpret_cast<const char*>(good.head.data()), good.head.size());
  std::vector<std::string> garbage = {
      "GET / HTTP/1.1\r\nHost: agent\r\nUser-Agent: a browser\r\n\r\n", std::string(4096, '\0'),
      std::string(4096, '\xff')};
  for (const std::size_t at : {4u, 7u, 8u, 10u, 39u, 47u, 48u, 49u, 52u}) {
    garbage.push_back(bytes);
    garbage.back()[at] = '\x7f';
  }
  for (const auto& text : garbage) {
    Caller caller(agent.address());
    caller.write(text);
    // Another version is told ours first.
    if (text[4] == '\x7f') caller.receive_as<net::Refused>();
    EXPECT_TRUE(caller.is_closed());
  }
  Caller hasty(agent.address());  // work before the handshake
  hasty.send(Message(admit(1)));
  EXPECT_EQ(hasty.receive_as<net::Refused>().text,
            "agent 'cam': handshake: saw 'admit', needs 'hello'");
  EXPECT_TRUE(hasty.is_closed());
  {
    Caller short_lived(agent.address());
    short_lived.write(bytes.substr(0, 20));
  }
  const auto after = join(agent);
  after->send(hello());  // once is enough
  EXPECT_TRUE(after->is_closed());
  before->send(admit(9));
  EXPECT_EQ(before->receive_as<net::ValueMessage>().request, 9u);
}

TEST_F(AgentTest, ALostConnectionFreesItsRequests) {
  auto options = RunningAgent::options_for("cam");
  options.max_requests = 2;
  const RunningAgent agent(bundle, plan, std::move(options), std::make_unique<GatedEngine>(gate));
  const auto next = join(agent);
  {
    const auto first = join(agent);
    first->send(admit(1));
    first->send(admit(2));
    gate->wait_for_entry();
  }
  // Still held: the engine is in the middle of one.
  next->send(admit(1));
  EXPECT_EQ(next->receive_as<net::Busy>().request, 1u);
  gate->open();
  while (true) {
    next->send(admit(1));
    const auto message = next->receive();
    if (std::holds_alternative<net::ValueMessage>(message)) break;
    ASSERT_TRUE(std::holds_alternative<net::Busy>(message)) << name_of(net::kind_of(message));
  }
}

TEST_F(AgentTest, DrainsWhatItHasAdmitted) {
  RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                     std::make_unique<GatedEngine>(gate));
  auto caller = join(agent);
  caller->send(admit(1));
  gate->wait_for_entry();
  agent.drain();
  caller->receive_as<net::Drain>();
  caller->send(admit(2));
  EXPECT_EQ(caller->receive_as<net::Busy>().request, 2u);
  gate->open();
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 1u);
  caller->receive_as<net::Bye>();
  EXPECT_TRUE(caller->is_closed());
  caller.reset();
  agent.join();
  EXPECT_TRUE(agent.ended());
}

TEST_F(AgentTest, DrainsAtOnceWhenIdle) {
  RunningAgent agent(bundle, plan, "cam");
  agent.drain();
  agent.join();
  EXPECT_THROW(Caller(agent.address()), boost::system::system_error);
}

TEST_F(AgentTest, SaysWhyItCannotStart) {
  const auto start = [this](AgentOptions options) {
    return text_of_error(
        [&] { Agent(bundle, {plan}, std::make_unique<FakeEngine>(), std::move(options)); });
  };
  EXPECT_EQ(start(RunningAgent::options_for("phone")),
            "[agent] device: saw 'phone', needs one of plan 'default': hub, desk, cam");
  const RunningAgent agent(bundle, plan, "cam");
  EXPECT_EQ(start(RunningAgent::options_for("hub", agent.address())),
            "[listen] " + agent.address() + ": Address already in use");
  EXPECT_EQ(start(RunningAgent::options_for("hub", "0.0.0.0:0")),
            "[listen] 0.0.0.0:0: saw an address beyond loopback, needs --insecure, because nothing "
            "protects it yet");
  auto options = RunningAgent::options_for("hub");
  options.max_requests = 0;
  EXPECT_EQ(start(options), "[agent] max_requests: saw 0, needs 1..1024");
}

/// Cannot be prepared.
class BrokenEngine : public FakeEngine {
 public:
  void prepare() override { throw std::runtime_error("[engine] no such part"); }
};

TEST_F(AgentTest, PassesOnWhatTheEngineThrowsWhenPrepared) {
  EXPECT_EQ(text_of_error([this] {
              Agent(bundle, {plan}, std::make_unique<BrokenEngine>(),
                    RunningAgent::options_for("cam"));
            }),
            "[engine] no such part");
}

/// Throws for one image.
class MoodyEngine : public FakeEngine {
 public:
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    if (begins(instruction) && static_cast<int>(*operands.at(0)->data.data()) == 13)
      throw std::runtime_error("[run] no memory");
    return FakeEngine::compute(instruction, program, operands, sequence);
  }
};

TEST_F(AgentTest, AnEngineThatThrowsFailsOneRequest) {
  const RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                           std::make_unique<MoodyEngine>());
  const auto caller = join(agent);
  caller->send(admit(1, 13));
  EXPECT_EQ(caller->receive_as<net::Failed>().text, "[run] no memory");
  caller->send(admit(2, 14));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 2u);
}

TEST_F(AgentTest, AnswersAPing) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto caller = join(agent);
  net::Ping ping;
  ping.stamp = 42;
  caller->send(ping);
  const auto pong = caller->receive_as<net::Pong>();
  EXPECT_EQ(pong.stamp, 42u);
  EXPECT_GT(pong.memory_bytes, 1e6);
}

// ---- texts that are generated ----

class TextAgentTest : public AgentTest {
 protected:
  TextAgentTest() {
    plan = fake_text_plan();
    bundle = write_bundle(folder.path(), plan);
  }
  Asked step(std::uint64_t request, std::uint64_t sequence, std::int64_t past,
             std::int64_t capacity = 4096) {
    Asked message;
    message.request = request;
    message.epoch = 1;
    message.plan = plan::digest_of(plan);
    message.digest = plan::compile(plan, plan.shape).at(2).digest;
    message.deadline_ms = 5000;
    message.sequence = sequence;
    message.past = past;
    message.capacity = capacity;
    message.tensor.element = base::Element::i32;
    message.batch = message.tokens = 1;
    message.tensor.present = true;
    message.tensor.dims = {1, 1};
    const std::int32_t id = 7;
    message.tensor.data = net::Buffer::copy_of(&id, sizeof id);
    return message;
  }
  /// [B, N] tokens at once, of a text that begins or of none.
  Asked prompt(std::uint64_t request, const plan::RequestShape& shape, std::uint64_t sequence = 0,
               std::int64_t capacity = 0) {
    auto message = step(request, sequence, 0, capacity);
    message.digest = plan::compile(plan, shape).at(2).digest;
    message.batch = shape.batch;
    message.tokens = shape.tokens;
    message.tensor.dims = {shape.batch, shape.tokens};
    const std::vector<std::int32_t> ids(static_cast<std::size_t>(shape.batch * shape.tokens), 7);
    message.tensor.data = net::Buffer::copy_of(ids.data(), ids.size() * sizeof(std::int32_t));
    return message;
  }
  double room_of(const plan::RequestShape& shape) const {
    return plan::running_bytes(plan::compile(plan, shape).at(2), plan);
  }
};

TEST_F(TextAgentTest, ATextStaysWithItsPlan) {
  auto night = plan;
  night.name = "night";
  bundle = write_bundle(folder.path(), {plan, night});
  const RunningAgent agent(bundle, {plan, night}, RunningAgent::options_for("cam"));
  const auto caller = join(agent);
  caller->send(told(night));
  EXPECT_EQ(caller->receive_as<net::PlanReply>().refusal, "");
  caller->send(step(1, 5, 0));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 1u);
  auto other = step(2, 5, 1);
  other.plan = plan::digest_of(night);
  other.digest = plan::compile(night, night.shape).at(2).digest;
  caller->send(other);
  EXPECT_EQ(caller->receive_as<net::Failed>().text,
            "sequence 5: saw another plan than its first tokens");
  caller->send(step(3, 5, 1));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 3u);
}

TEST_F(TextAgentTest, ForgetsTheTextThatRestedLongestWhereAnotherNeedsTheRoom) {
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = resident_memory_bytes() + 1.3e9;  // one such text, not two
  options.sequence_rest = 0ms;
  const RunningAgent agent(bundle, plan, options);
  const auto caller = join(agent);
  caller->send(step(1, 5, 0));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().sequence, 5u);
  caller->send(step(2, 5, 1));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 2u);
  caller->send(step(3, 6, 0));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 3u);
  caller->send(step(4, 5, 2));
  EXPECT_EQ(caller->receive_as<net::Failed>().text,
            "sequence 5: forgotten to make room for another text");
  caller->send(step(5, 6, 1));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 5u);
}

// Here the log throws; whatever does must not leave an aggregator that is never heard again.
TEST_F(TextAgentTest, AMessageThatThrowsEndsItsSessionAndItsTexts) {
  const auto forgotten = std::make_shared<Forgotten>();
  std::string why;
  auto options = RunningAgent::options_for("cam");
  options.log = [&](base::LogLevel, const std::string& line) {
    if (line.find("] request 2: ") != std::string::npos)
      throw std::runtime_error("the log is broken");
    if (const auto at = line.find("lost: "); at != std::string::npos) why = line.substr(at);
  };
  RunningAgent agent(bundle, plan, options, std::make_unique<ForgettingEngine>(forgotten));
  const auto caller = join(agent);
  caller->send(step(1, 5, 0));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().sequence, 5u);
  caller->send(step(2, 6, 3));
  caller->receive_as<net::Failed>();
  EXPECT_TRUE(caller->is_closed());
  EXPECT_TRUE(eventually([&] { return forgotten->count() == 1; }));
  agent.stop();
  EXPECT_EQ(why, "lost: the log is broken");
}

TEST_F(TextAgentTest, KeepsTheTextThatGoesOnWhereAnotherNeedsTheRoom) {
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = resident_memory_bytes() + 1.3e9;
  const RunningAgent agent(bundle, plan, options);
  const auto caller = join(agent);
  caller->send(step(1, 5, 0));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().sequence, 5u);
  caller->send(step(2, 6, 0));
  EXPECT_NE(caller->receive_as<net::Failed>().text.find("sequence 6: memory: saw no room for"),
            std::string::npos);
  caller->send(step(3, 5, 1));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 3u);
}

TEST_F(TextAgentTest, RefusesATextThatNeverFits) {
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = resident_memory_bytes() + 0.5e9;
  const RunningAgent agent(bundle, plan, options);
  const auto caller = join(agent);
  caller->send(step(1, 5, 0));
  const std::string text = caller->receive_as<net::Failed>().text;
  EXPECT_EQ(text.rfind("sequence 5: memory: saw no room for 805 MB of keys and values", 0), 0u)
      << text;
  caller->send(step(2, 5, 0, 64));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 2u);
}

TEST_F(TextAgentTest, CountsWhatAPromptComputesInBesideWhatIsKept) {
  const double room = room_of({1, 2048, 0});
  ASSERT_GT(room, 1e8);
  const auto refusal = [](const net::Failed& failed) {
    return failed.text.substr(0, failed.text.find(" and values"));
  };
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = resident_memory_bytes() + 0.81e9 + room / 2;
  const RunningAgent agent(bundle, plan, options);
  const auto caller = join(agent);
  caller->send(prompt(1, {1, 2048, 0}, 5, 4096));
  EXPECT_EQ(refusal(caller->receive_as<net::Failed>()),
            "sequence 5: memory: saw no room for 805 MB of keys");
  caller->send(step(2, 5, 0));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 2u);
  caller->send(prompt(3, {1, 2048, 0}));
  EXPECT_EQ(refusal(caller->receive_as<net::Failed>()), "memory: saw no room for 0 B of keys");
  net::EndSequence end;
  end.sequence = 5;
  caller->send(end);
  caller->send(prompt(4, {1, 2048, 0}));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 4u);
}

/// Holds requests up that belong to no text.
class GatedAloneEngine : public GatedEngine {
 public:
  using GatedEngine::GatedEngine;
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    return sequence.id == 0 ? GatedEngine::compute(instruction, program, operands, sequence)
                            : FakeEngine::compute(instruction, program, operands, sequence);
  }
};

// Beside the request under way not even forgetting the resting text makes room; behind it, it does.
TEST_F(TextAgentTest, IsBusyWhereTheRequestUnderWayIsInTheWay) {
  const plan::RequestShape first{2000, 4096, 0}, second{2200, 4096, 0};
  const double cache = plan::cache_bytes(plan.parts.at(2).sub_model().config, 1, 100);
  double held = 0;
  const auto program = plan::compile(plan, first).at(2);
  for (const auto& value : program.values) held += value.bytes();
  ASSERT_GT(held, cache / 2 + 5e6);
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = resident_memory_bytes() + room_of(second) + cache / 2;
  options.sequence_rest = 0ms;
  const RunningAgent agent(bundle, plan, options, std::make_unique<GatedAloneEngine>(gate));
  const auto caller = join(agent);
  caller->send(step(1, 5, 0, 100));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 1u);
  caller->send(prompt(2, first));
  gate->wait_for_entry();
  caller->send(prompt(3, second));
  EXPECT_EQ(caller->receive_as<net::Busy>().request, 3u);
  gate->open();
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 2u);
  caller->send(prompt(4, second));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 4u);
  caller->send(step(5, 5, 1, 100));
  EXPECT_EQ(caller->receive_as<net::Failed>().text,
            "sequence 5: forgotten to make room for another text");
}

TEST_F(TextAgentTest, KeepsRoomForTheNextTokenOfTheTextsItHas) {
  const plan::RequestShape many{2000, 1, 0};
  const double kept = plan::cache_bytes(plan.parts.at(2).sub_model().config, many.batch, 2),
               more = plan::cache_bytes(plan.parts.at(2).sub_model().config, 1, 64);
  ASSERT_GT(room_of(many), room_of({1, 1, 0}) + more + 1e6);
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = resident_memory_bytes() + kept + room_of(many) + more / 2;
  const RunningAgent agent(bundle, plan, options);
  const auto caller = join(agent);
  caller->send(prompt(1, many, 5, 2));
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 1u);
  caller->send(step(2, 6, 0, 64));
  EXPECT_NE(caller->receive_as<net::Failed>().text.find("sequence 6: memory: saw no room for"),
            std::string::npos);
  auto next = prompt(3, many, 5, 2);
  next.past = 1;
  caller->send(next);
  EXPECT_EQ(caller->receive_as<net::ValueMessage>().request, 3u);
}

TEST_F(TextAgentTest, FreesTheTextsOfALostConnection) {
  auto options = RunningAgent::options_for("cam");
  options.memory_bytes = resident_memory_bytes() + 1.3e9;  // one such text, not two
  const auto forgotten = std::make_shared<Forgotten>();
  const RunningAgent agent(bundle, plan, options, std::make_unique<ForgettingEngine>(forgotten));
  const auto next = join(agent);
  auto first = join(agent);
  first->send(step(1, 5, 0));
  first->receive_as<net::ValueMessage>();
  // The same number on another connection is another text.
  next->send(step(1, 5, 1));
  EXPECT_NE(next->receive_as<net::Failed>().text.find("saw none of its tokens"), std::string::npos);
  next->send(step(2, 5, 0));
  EXPECT_NE(next->receive_as<net::Failed>().text.find("memory: saw no room for"),
            std::string::npos);
  EXPECT_EQ(forgotten->count(), 0);
  first.reset();
  EXPECT_TRUE(eventually([&] { return forgotten->count() == 1; })) << "the engine still keeps it";
  next->send(step(3, 5, 0));
  EXPECT_EQ(next->receive_as<net::ValueMessage>().request, 3u);
}

TEST_F(TextAgentTest, FreesATextThatEndsOrBeginsAnew) {
  const auto forgotten = std::make_shared<Forgotten>();
  const RunningAgent agent(bundle, plan, RunningAgent::options_for("cam"),
                           std::make_unique<ForgettingEngine>(forgotten));
  const auto caller = join(agent);
  net::EndSequence end;
  end.sequence = 5;
  for (const int times : {1, 2}) {
    caller->send(step(1, 5, 0));
    caller->receive_as<net::ValueMessage>();
    caller->send(step(2, 5, 1));
    caller->receive_as<net::ValueMessage>();
    if (times == 1) caller->send(end);
  }
  EXPECT_TRUE(eventually([&] { return forgotten->count() == 1; }));
  caller->send(step(3, 5, 0));
  caller->receive_as<net::ValueMessage>();
  EXPECT_EQ(forgotten->count(), 2) << "what it had before is gone before it begins again";
}

TEST_F(TextAgentTest, SaysWhatItHasNotSeenOrCannotHold) {
  const RunningAgent agent(bundle, plan, "cam");
  const auto caller = join(agent);
  caller->send(step(1, 5, 3));
  EXPECT_EQ(caller->receive_as<net::Failed>().text,
            "sequence 5: saw none of its tokens, needs the 3 before (was this agent restarted?)");
  caller->send(step(2, 5, 0, 5000));
  EXPECT_EQ(caller->receive_as<net::Failed>().text,
            "sequence 5: capacity: saw '5000', needs '1..4096'");
  caller->send(step(3, 5, 0));
  caller->receive_as<net::ValueMessage>();
  net::EndSequence end;
  end.sequence = 5;
  caller->send(end);
  caller->send(step(4, 5, 1));
  EXPECT_NE(caller->receive_as<net::Failed>().text.find("saw none of its tokens"),
            std::string::npos);
}

}  // namespace
}  // namespace cleave::infer
