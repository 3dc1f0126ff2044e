#include "infer/observation.hpp"

#include <map>

#include <gtest/gtest.h>

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using net::Happening;

const auto start = Clock::now();

plan::ValueInfo info(const std::string& name) {
  plan::ValueInfo value;
  value.name = name;
  value.dims = {1};
  return value;
}

/// a = receive(<- 0); b = norm(a); send(b -> 2)
std::shared_ptr<const plan::Program> program() {
  auto made = std::make_shared<plan::Program>();
  made->values = {info("a"), info("b")};
  plan::Norm norm;
  norm.result = 1;
  norm.x = 0;
  norm.layer = 3;
  made->instructions = {plan::Receive{0, 0, 5, false}, norm, plan::Send{1, 2, 7}};
  return made;
}

struct Watched {
  explicit Watched(net::Observe observe)
      : observation(std::make_shared<Observation>(observe, program(), [this] { ++completions; })) {}
  int completions = 0;
  std::shared_ptr<Observation> observation;
};

TEST(Observation, IsCompleteOnceEverythingRanAndIsWritten) {
  Watched watched(net::Observe::account);
  auto sending = Observation::send(watched.observation, 2, "hub", 7, start);
  watched.observation->finished({0.1, 0.2, 0.3}, {});
  EXPECT_EQ(watched.completions, 0) << "a value is under way";
  sending->bytes = 100;
  sending.reset();
  EXPECT_EQ(watched.completions, 1);
  const auto account = watched.observation->account();
  EXPECT_TRUE(account.told);
  EXPECT_EQ(account.queued_s, 0.1);
  EXPECT_EQ(account.compute_s, 0.2);
  EXPECT_EQ(account.wait_s, 0.3);
  ASSERT_EQ(account.links.size(), 1u);
  EXPECT_EQ(account.links[0].peer, "hub");
  EXPECT_EQ(account.links[0].sent_bytes, 100u);
  EXPECT_TRUE(account.happenings.empty());
  EXPECT_EQ(watched.observation->most_recorded(), 0u);

  Watched other(net::Observe::account);
  other.observation->finished({}, {});
  EXPECT_EQ(other.completions, 1) << "nothing was under way";
  const auto late = Observation::send(watched.observation, 2, "hub", 7, start);
  watched.observation.reset();  // whoever lets go later tells nobody
}

// Two values at once are under way no longer than both of them.
TEST(Observation, CountsAMomentOfTransferOnce) {
  Watched watched(net::Observe::account);
  const auto arrival = [](auto from, auto to) { return Arrival{start + from, start + to, 10}; };
  watched.observation->received(0, "cam", 5, arrival(0ms, 100ms));
  watched.observation->received(1, "desk", 5, arrival(50ms, 150ms));
  watched.observation->received(1, "desk", 6, arrival(60ms, 70ms));
  watched.observation->received(0, "cam", 6, arrival(200ms, 250ms));
  watched.observation->finished({}, {});
  const auto account = watched.observation->account();
  EXPECT_NEAR(account.transfer_s, 0.2, 1e-9);
  ASSERT_EQ(account.links.size(), 2u);
  EXPECT_EQ(account.links[0].received_bytes, 20u);
}

TEST(Observation, NamesWhatHappened) {
  Watched watched(net::Observe::trace);
  EXPECT_EQ(watched.observation->most_recorded(), net::most_happenings);
  watched.observation->received(0, "cam", 5, {start, start + 1ms, 10});
  Observation::send(watched.observation, 2, "hub", 7, start + 3ms)->bytes = 20;
  watched.observation->finished({}, {{Ran::What::idle, 0, 0, start, start + 1ms},
                                     {Ran::What::instruction, 1, 1, start + 1ms, start + 2ms},
                                     {Ran::What::stretch, 1, 1, start + 1ms, start + 3ms}});
  auto account = watched.observation->account();
  std::map<Happening::What, Happening> by_what;
  for (const Happening& happening : account.happenings) by_what[happening.what] = happening;
  ASSERT_EQ(by_what.size(), 5u);
  EXPECT_EQ(by_what[Happening::What::receive].name, "a");
  EXPECT_EQ(by_what[Happening::What::receive].peer, "cam");
  EXPECT_EQ(by_what[Happening::What::send].name, "b");
  EXPECT_EQ(by_what[Happening::What::send].bytes, 20u);
  EXPECT_EQ(by_what[Happening::What::stretch].name, "layer 3");
  EXPECT_EQ(by_what[Happening::What::compute].name.substr(0, 11), "b = norm(a,");
  EXPECT_EQ(by_what[Happening::What::wait].name, "waits");
  EXPECT_NEAR(by_what[Happening::What::receive].start_s, seconds_of(start), 1e-6);
  move_clock(account, -seconds_of(start));
  for (const Happening& happening : account.happenings) EXPECT_NEAR(happening.start_s, 0, 1);
}

TEST(Observation, KeepsSoManyHappenings) {
  Watched watched(net::Observe::trace);
  watched.observation->received(0, "cam", 5, {start, start + 1ms, 10});
  watched.observation->finished(
      {},
      std::vector<Ran>(net::most_happenings, {Ran::What::instruction, 1, 1, start, start + 1ms}));
  const auto account = watched.observation->account();
  EXPECT_EQ(account.happenings.size(), net::most_happenings);
  EXPECT_EQ(account.left_out, 1u);
  EXPECT_EQ(account.happenings.front().what, Happening::What::receive) << "transfers go first";
}

}  // namespace
}  // namespace cleave::infer
