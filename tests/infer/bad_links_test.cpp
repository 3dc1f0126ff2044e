// What links that misbehave cost: those at their ends, and nobody else.

#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "infer/client.hpp"
#include "tests/infer/aggregator_fixture.hpp"
#include "tests/support/proxy.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using testing::Mischief;
using testing::Proxy;
using Way = Proxy::Way;

/// A ping or pong (80 bytes at most) may come before what a test waits for; this far on, a byte is
/// of something else: an admission's digest, a value's floats, a request's pixels, an answer's
/// fields.
constexpr std::uint64_t behind_a_pong = 114;

Mischief flip_at(std::uint64_t byte) {
  Mischief mischief;
  mischief.flip_at = byte;
  return mischief;
}

/// Lines of a log, from any thread.
class Lines {
 public:
  base::Log log() {
    return [this](base::LogLevel, const std::string& line) {
      const std::lock_guard lock(mutex_);
      text_ += line + "\n";
    };
  }
  int count(const std::string& part) const {
    const auto all_of_it = text();
    int count = 0;
    for (auto at = all_of_it.find(part); at != std::string::npos; at = all_of_it.find(part, at + 1))
      ++count;
    return count;
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

class BadLinks : public AggregatorTest {
 protected:
  /// Three agents, cam behind the proxy, and an aggregator that they have joined.
  void start_behind_a_proxy(std::unique_ptr<Engine> cam = std::make_unique<FakeEngine>()) {
    start_agents({"hub", "desk"});
    start_agent("cam", std::move(cam));
    to_cam = std::make_unique<Proxy>(agents["cam"]->address());
    hosts["cam"] = to_cam->address();
    asked = aggregator(options(), 3);
  }
  /// A server, and a proxy before it.
  void serve(ServerOptions wanted = {}) {
    wanted.log = lines.log();
    server = std::make_unique<RunningServer>(*asked, bundle, std::move(wanted));
    to_server = std::make_unique<Proxy>(server->address());
  }
  void expect_full_answer(Service& service, std::uint8_t seed) {
    const auto response = ask(service, request_of(seed));
    ASSERT_EQ(response.status, Status::answered) << response.message;
    EXPECT_EQ(present_devices(response), all);
    EXPECT_EQ(first_number(response.output), expected_answer(pixels(seed), {0, 1, 2}));
  }
  void expect_answer_without_cam(const Response& response, std::uint8_t seed) {
    ASSERT_EQ(response.status, Status::answered) << response.message;
    EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "desk"}));
    EXPECT_EQ(first_number(response.output), expected_answer(pixels(seed), {0, 1}));
  }

  Lines lines;
  std::unique_ptr<Proxy> to_cam, to_server;
  std::unique_ptr<Aggregator> asked;
  std::unique_ptr<RunningServer> server;
};

TEST_F(BadLinks, ABitFlippedInAValueCostsThatDeviceThatRequest) {
  start_behind_a_proxy(std::make_unique<GatedEngine>(gate));
  std::promise<Response> answered;
  asked->submit(request_of(1), [&](Response response) { answered.set_value(std::move(response)); });
  gate->wait_for_entry();
  to_cam->set(Way::back, flip_at(behind_a_pong));
  gate->open();
  const auto response = answered.get_future().get();
  expect_answer_without_cam(response, 1);
  EXPECT_NE(response.devices.at(2).why.find("damaged on the way"), std::string::npos)
      << response.devices.at(2).why;
  EXPECT_EQ(to_cam->counts().flipped_bits, 1u);
  EXPECT_EQ(asked->wait_for_agents(3, 10s), 3);
  expect_full_answer(*asked, 2);
}

TEST_F(BadLinks, ABitFlippedInAnAdmissionCostsThatDeviceThatRequest) {
  start_behind_a_proxy();
  expect_full_answer(*asked, 1);
  to_cam->set(Way::forth, flip_at(behind_a_pong));
  const auto response = ask(*asked, request_of(2));
  expect_answer_without_cam(response, 2);
  EXPECT_EQ(response.devices.at(2).why, "lost: the peer closed the connection");
  EXPECT_EQ(asked->wait_for_agents(3, 10s), 3);
  expect_full_answer(*asked, 3);
}

TEST_F(BadLinks, WhateverByteOfAValueIsDamagedTheAnswerIsRight) {
  start_behind_a_proxy();
  for (std::uint64_t byte = 0; byte < 144; byte += 3) {
    to_cam->set(Way::back, flip_at(byte));
    const auto seed = static_cast<std::uint8_t>(byte);
    const auto response = ask(*asked, request_of(seed));
    ASSERT_EQ(response.status, Status::answered) << byte << ": " << response.message;
    const bool whole = response.devices.at(2).present;
    EXPECT_TRUE(whole || !response.devices.at(2).why.empty()) << byte;
    EXPECT_EQ(first_number(response.output), whole ? expected_answer(pixels(seed), {0, 1, 2})
                                                   : expected_answer(pixels(seed), {0, 1}))
        << byte;
    to_cam->set(Way::back, {});
    ASSERT_EQ(asked->wait_for_agents(3, 10s), 3) << byte;
  }
  EXPECT_GT(to_cam->counts().flipped_bits, 40u);
}

TEST_F(BadLinks, ABitFlippedInARequestCostsThatClientItsConnection) {
  start_behind_a_proxy();
  serve();
  Client other(server->address());
  {
    Client client(to_server->address());
    expect_full_answer(client, 1);
    to_server->set(Way::forth, flip_at(behind_a_pong));
    const auto told = ask(client, request_of(2));
    EXPECT_EQ(told.status, Status::failed);
    EXPECT_EQ(told.message,
              "[" + to_server->address() + "] connection lost: the peer closed the connection");
    EXPECT_TRUE(eventually([&] {
      return lines.count("client lost: frame: damaged on the way") == 1;
    })) << lines.text();
    EXPECT_EQ(ask(client, request_of(3)).message, told.message);
    expect_full_answer(other, 4);
  }
  Client again(to_server->address());
  expect_full_answer(again, 5);
  EXPECT_EQ(to_server->counts().flipped_bits, 1u);
}

TEST_F(BadLinks, ABitFlippedInAnAnswerIsToldAndNotTaken) {
  start_behind_a_proxy(std::make_unique<GatedEngine>(gate));
  serve();
  Client other(server->address());
  {
    Client client(to_server->address());
    std::promise<Response> answered;
    client.submit(request_of(1),
                  [&](Response response) { answered.set_value(std::move(response)); });
    gate->wait_for_entry();
    to_server->set(Way::back, flip_at(behind_a_pong));
    gate->open();
    const auto told = answered.get_future().get();
    EXPECT_EQ(told.status, Status::failed);
    EXPECT_EQ(told.message.rfind("[" + to_server->address() + "] connection lost: frame: ", 0), 0u)
        << told.message;
    EXPECT_NE(told.message.find("damaged on the way"), std::string::npos) << told.message;
    expect_full_answer(other, 2);
  }
  Client again(to_server->address());
  expect_full_answer(again, 3);
}

TEST_F(BadLinks, AClientWhoseGreetingIsDamagedIsRefusedAndTheNextIsNot) {
  start_behind_a_proxy();
  serve();
  for (const auto way : {Way::forth, Way::back}) {
    to_server->set(way, flip_at(60));
    try {
      Client client(to_server->address());
      ADD_FAILURE() << "it joined";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(
          std::string(error.what()).rfind("[" + to_server->address() + "] cannot connect: ", 0), 0u)
          << error.what();
    }
    Client next(to_server->address());
    expect_full_answer(next, 1);
  }
}

TEST_F(BadLinks, AClientThatTricklesKeepsNobodyFromTheirAnswers) {
  start_behind_a_proxy();
  serve();
  Client slow(to_server->address()), other(server->address());
  Mischief trickle;
  trickle.bytes_per_ms = 1;
  to_server->set(Way::forth, trickle);
  Order order;
  Request large = request_of(1, 10min);
  large.input = pixels(1, 2048);  // 131 KB: two minutes
  const auto before = to_server->counts().passed_bytes;
  slow.submit(large, order.note("slow"));
  EXPECT_TRUE(eventually([&] { return to_server->counts().passed_bytes > before + 200; }));
  for (std::uint8_t seed = 2; seed < 12; ++seed) expect_full_answer(other, seed);
  EXPECT_FALSE(order.has("slow"));
  to_server->set(Way::forth, {});
  ASSERT_TRUE(eventually([&] { return order.has("slow"); }, 60s));
  EXPECT_EQ(order.of("slow").status, Status::answered) << order.of("slow").message;
}

TEST_F(BadLinks, AClientThatReadsSlowlyKeepsNobodyFromTheirAnswers) {
  plan.teacher.classes = 5000;
  bundle = write_bundle(folder.path(), plan);
  start_behind_a_proxy();
  serve();
  Client slow(to_server->address()), other(server->address());
  Mischief trickle;
  trickle.bytes_per_ms = 10;
  to_server->set(Way::back, trickle);
  Order order;
  Request large = request_of(1, 1h);
  large.input = pixels(1, 512);  // 10 MB of numbers in the answer: more than the system keeps
  const auto before = to_server->counts().passed_bytes + large.input.data.size();
  slow.submit(large, order.note("slow"));
  EXPECT_TRUE(eventually([&] { return to_server->counts().passed_bytes > before + 1000; }));
  for (std::uint8_t seed = 2; seed < 12; ++seed) expect_full_answer(other, seed);
  EXPECT_FALSE(order.has("slow"));
  to_server->set(Way::back, {});
  ASSERT_TRUE(eventually([&] { return order.has("slow"); }, 60s));
  EXPECT_EQ(order.of("slow").status, Status::answered) << order.of("slow").message;
}

TEST_F(BadLinks, AClientThatClosedHalfIsCleanedUp) {
  start_behind_a_proxy(std::make_unique<GatedEngine>(gate));
  ServerOptions one;
  one.max_clients = 1;
  serve(std::move(one));
  Mischief ending;
  ending.end_after = 0;
  int ended = 0;
  for (const auto way : {Way::forth, Way::back}) {
    Client client(to_server->address());
    std::promise<Response> answered;
    Request wanted = request_of(1, 10min);
    wanted.require_all = true;
    client.submit(wanted, [&](Response response) { answered.set_value(std::move(response)); });
    client.status();              // asked after it: the request has arrived
    to_server->set(way, ending);  // with the next ping or pong
    const auto told = answered.get_future().get();
    EXPECT_EQ(told.status, Status::failed);
    EXPECT_EQ(told.message,
              "[" + to_server->address() + "] connection lost: the peer closed the connection");
    EXPECT_TRUE(eventually([&] { return to_server->counts().open == 0; }));
    ++ended;
    EXPECT_TRUE(eventually([&] {
      return lines.count("client lost: the peer closed the connection, 1 requests open") == ended;
    })) << lines.text();
  }
  gate->open();
  Client next(server->address());  // the place is free
  expect_full_answer(next, 2);
}

}  // namespace
}  // namespace cleave::infer
