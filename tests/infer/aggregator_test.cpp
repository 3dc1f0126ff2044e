#include "infer/aggregator.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <signal.h>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "net/mesh.hpp"
#include "optimizer/plan/program.hpp"
#include "tests/infer/aggregator_fixture.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/infer/scripted_agent.hpp"
#include "tests/net/recording_stream.hpp"

extern char** environ;

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

template <class Action>
std::string text_of_error(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(AggregatorTest, AnswersFromEveryDevice) {
  start_agents(all, 2ms);
  const auto service = aggregator(options(), 3);
  for (std::uint8_t seed = 1; seed < 20; ++seed) {
    const auto response = ask(*service, request_of(seed));
    ASSERT_EQ(response.status, Status::answered) << response.message;
    EXPECT_EQ(response.output.dims, (std::vector<std::int64_t>{1, 5}));
    EXPECT_EQ(first_number(response.output), expected_answer(pixels(seed), {0, 1, 2}));
    EXPECT_EQ(present_devices(response), all);
    for (const auto& report : response.devices) {
      EXPECT_GE(report.compute_s, 0.002);
      EXPECT_GE(report.round_trip_s, report.compute_s);
      EXPECT_EQ(report.predicted_s, 0.01);
      EXPECT_GT(report.sent_bytes, 64u + 48u);
      EXPECT_GT(report.received_bytes, 8u * 4u + 48u);
      EXPECT_GE(response.total_s, report.round_trip_s);
    }
    EXPECT_GT(response.overhead_s, 0);
  }
}

TEST_F(AggregatorTest, AnswersAnObservedRequestWithWhatEveryDeviceDid) {
  start_agents(all, 2ms);
  const auto service = aggregator(options(), 3);
  auto request = request_of(1);
  request.observe = net::Observe::trace;
  const auto response = ask(*service, std::move(request));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), expected_answer(pixels(1), {0, 1, 2}));
  std::uint64_t sent = 0, received = 0;
  const auto add = [&](const net::Account& account) {
    EXPECT_TRUE(account.told);
    EXPECT_FALSE(account.happenings.empty());
    for (const auto& link : account.links) {
      sent += link.sent_bytes;
      received += link.received_bytes;
    }
    for (const auto& happening : account.happenings) {
      // On one clock, since it was submitted; here all clocks are the same.
      EXPECT_GE(happening.start_s, -0.01) << happening.name;
      EXPECT_LE(happening.end_s, response.total_s + 0.1) << happening.name;
    }
  };
  for (const auto& report : response.devices) {
    EXPECT_GE(report.account.compute_s, 0.002);
    add(report.account);
  }
  add(response.aggregator);
  EXPECT_EQ(response.aggregator.links.size(), 3u);
  EXPECT_GT(sent, 0u);
  EXPECT_EQ(sent, received);

  const auto unobserved = ask(*service, request_of(2));
  EXPECT_FALSE(unobserved.aggregator.told);
  EXPECT_FALSE(unobserved.devices.at(0).account.told);
}

// The answer is there: a device that is lost before it has told what it did takes nothing from it.
TEST_F(AggregatorTest, AnswersAnObservedRequestThoughADeviceDoesNotTell) {
  const ScriptedAgent cam([&](const net::Admit& admit) {
    auto value = value_for(admit, 1);
    value.last = false;
    return std::vector<net::Message>{value, net::Bye{}, net::Hello{}};  // no agent says hello
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  auto request = request_of(1);
  request.observe = net::Observe::account;
  request.deadline = 20s;
  const auto response = ask(*service, std::move(request));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_TRUE(response.devices.at(0).account.told);
  EXPECT_FALSE(response.devices.at(2).account.told);
  EXPECT_LT(response.total_s, 10);
}

// Numbers of another device are only believed as far as they can be.
TEST_F(AggregatorTest, BelievesNoMoreThanCanBe) {
  const ScriptedAgent cam([&](const net::Admit& admit) {
    auto value = value_for(admit, 1);
    value.last = false;
    net::Done done;
    done.request = admit.request;
    done.epoch = admit.epoch;
    done.last = true;
    done.account.told = true;
    done.account.compute_s = -1;
    done.account.wait_s = 1e308;
    done.account.flops = 1e308;
    done.account.links = {{std::string(5000, 'x'), 1, 2}};
    done.account.happenings.resize(3000);
    done.account.happenings[0].start_s = 1e308;
    return std::vector<net::Message>{value, done};
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  auto request = request_of(1);
  request.observe = net::Observe::trace;
  const auto account = ask(*service, std::move(request)).devices.at(2).account;
  EXPECT_EQ(account.compute_s, 0);
  EXPECT_LE(account.wait_s, 86400);
  EXPECT_LE(account.flops, 1e24);
  EXPECT_EQ(account.links.at(0).peer.size(), 64u);
  EXPECT_EQ(account.happenings.size(), net::most_happenings);
  EXPECT_EQ(account.left_out, 3000u - net::most_happenings);
  EXPECT_LE(account.happenings[0].start_s, 1e12);
}

TEST_F(AggregatorTest, AnswersABatch) {
  start_agents(all);
  const auto service = aggregator(options(), 3);
  Request request;
  request.input = pixels(1, 4);
  const auto response = ask(*service, std::move(request));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(response.output.dims, (std::vector<std::int64_t>{4, 5}));
  EXPECT_EQ(first_number(response.output), expected_answer(pixels(1, 4), {0, 1, 2}));
  EXPECT_DOUBLE_EQ(response.devices[0].predicted_s, 0.04);
}

TEST_F(AggregatorTest, RunsTheWholeModelOnOneDevice) {
  plan = fake_local_plan();
  bundle = write_bundle(folder.path() / "local", plan);
  start_agents({"hub"});
  const auto service = aggregator(options(), 1);
  const auto response = ask(*service, request_of(5));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), feature_of(pixels(5), 0));
  EXPECT_EQ(response.output.dims, (std::vector<std::int64_t>{1, 5}));
  agents.clear();
  ASSERT_TRUE(eventually([&] { return !service->status()[0].connected; }));
  EXPECT_EQ(ask(*service, request_of(5)).status, Status::no_device);
}

TEST_F(AggregatorTest, AnswersWithoutTheDeviceThatIsNotThere) {
  start_agents({"hub", "cam"});
  const auto service = aggregator(options(), 2);
  const auto response = ask(*service, request_of(1));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), expected_answer(pixels(1), {0, 2}));
  EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "cam"}));
  ASSERT_EQ(response.devices.size(), 3u);
  EXPECT_EQ(response.devices[1].device, "desk");
  EXPECT_EQ(response.devices[1].sent_bytes, 0u);
}

TEST_F(AggregatorTest, JoinsTheDeviceThatStartsLate) {
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 2);
  EXPECT_EQ(present_devices(ask(*service, request_of(1))).size(), 2u);
  const RunningAgent late(bundle, plan, RunningAgent::options_for("cam", hosts["cam"]));
  EXPECT_EQ(service->wait_for_agents(0, 10s), 3);
  EXPECT_EQ(first_number(ask(*service, request_of(2)).output),
            expected_answer(pixels(2), {0, 1, 2}));
}

TEST_F(AggregatorTest, AnswersWithoutTheDeviceThatIsLate) {
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = 300ms;
  const auto service = aggregator(std::move(wanted), 3);
  const auto response = ask(*service, request_of(1));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), expected_answer(pixels(1), {0, 1}));
  EXPECT_FALSE(response.devices[2].present);
  // It waited for max(min_wait, 3 · prediction), and counts that as the device's time, not its own.
  EXPECT_GE(response.total_s, 0.3);
  EXPECT_LE(response.overhead_s, response.total_s / 2);
  // What comes afterwards belongs to nobody.
  gate->open();
  ASSERT_TRUE(eventually([&] { return service->status()[2].queued == 0; }));
  const auto next = ask(*service, request_of(2));
  EXPECT_EQ(first_number(next.output), expected_answer(pixels(2), {0, 1, 2}));
}

TEST_F(AggregatorTest, WaitsForTheFirstWhenEverybodyIsLate) {
  start_agents({"hub"}, 120ms);
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = 20ms;
  const auto service = aggregator(std::move(wanted), 2);
  const auto response = ask(*service, request_of(1));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub"}));
  EXPECT_GE(response.total_s, 0.12);
  gate->open();
}

TEST_F(AggregatorTest, WithoutAPredictionTheDeadlineDecides) {
  plan = fake_plan(0);
  bundle = write_bundle(folder.path() / "unpredicted", plan);
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = 1ms;
  const auto service = aggregator(std::move(wanted), 3);
  const auto response = ask(*service, request_of(1, 300ms));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(present_devices(response).size(), 2u);
  EXPECT_GE(response.total_s, 0.25);
  gate->open();
}

TEST_F(AggregatorTest, RequireAllNeedsEveryDevice) {
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 2);
  auto request = request_of(1);
  request.require_all = true;
  const auto response = ask(*service, std::move(request));
  EXPECT_EQ(response.status, Status::no_device);
  EXPECT_EQ(response.message, "[infer] device 'cam' at " + hosts["cam"] +
                                  " is needed: not joined (Connection refused)");
  EXPECT_EQ(service->status()[0].queued, 0);
}

TEST_F(AggregatorTest, SaysWhomItCannotReach) {
  const auto service = aggregator(options(), 0);
  ASSERT_TRUE(eventually([&] {
    const auto list = service->status();
    return std::all_of(list.begin(), list.end(),
                       [](const auto& agent) { return !agent.last_error.empty(); });
  }));
  const auto response = ask(*service, request_of(1));
  EXPECT_EQ(response.status, Status::no_device);
  EXPECT_EQ(response.message, "[infer] no device answers: not joined: 'hub' at " + hosts["hub"] +
                                  " (Connection refused), 'desk' at " + hosts["desk"] +
                                  " (Connection refused), 'cam' at " + hosts["cam"] +
                                  " (Connection refused)");
}

TEST_F(AggregatorTest, ShowsWhyAnAgentRefused) {
  auto other = fake_plan();
  other.name = "other";
  write_bundle(folder.path() / "other", other);
  plan::write_manifest(folder.path() / "other", "other", std::string(64, 'b'));
  const plan::Bundle other_bundle(folder.path() / "other");
  const RunningAgent agent(other_bundle, other, "hub");
  hosts["hub"] = agent.address();
  const auto service = aggregator(options(), 0);
  ASSERT_TRUE(eventually([&] { return !service->status()[0].last_error.empty(); }));
  EXPECT_EQ(service->status()[0].last_error, "refused: agent 'hub': bundle: saw '" +
                                                 bundle.identity() + "', needs '" +
                                                 other_bundle.identity() + "'");
}

/// Asks again and again from one thread until told to stop; counts.
class Load {
 public:
  Load(Service& service, std::chrono::milliseconds deadline, int num_threads) {
    for (int i = 0; i < num_threads; ++i)
      threads_.emplace_back([this, &service, deadline, i] { run(service, deadline, i); });
  }
  void finish() {
    stopping_ = true;
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }
  ~Load() { finish(); }
  std::atomic<int> answered{0}, wrong{0}, unanswered{0}, late{0};

 private:
  void run(Service& service, std::chrono::milliseconds deadline, int which) {
    for (int i = 0; !stopping_; ++i) {
      const auto seed = static_cast<std::uint8_t>(which * 31 + i);
      const auto start = Clock::now();
      const auto response = ask(service, request_of(seed, deadline));
      if (Clock::now() - start > deadline + 500ms) ++late;
      if (response.status != Status::answered) {
        ++unanswered;
        continue;
      }
      ++answered;
      std::vector<std::int32_t> present;
      for (std::size_t p = 0; p < response.devices.size(); ++p)
        if (response.devices[p].present) present.push_back(static_cast<std::int32_t>(p));
      if (first_number(response.output) != expected_answer(pixels(seed), present)) ++wrong;
    }
  }
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

TEST_F(AggregatorTest, ADeviceThatDiesUnderLoadLosesNoRequest) {
  start_agents(all, 1ms);
  const auto service = aggregator(options(), 3);
  Load load(*service, 5s, 3);
  ASSERT_TRUE(eventually([&] { return load.answered > 20; }));
  agents["cam"]->stop();
  const int before = load.answered;
  ASSERT_TRUE(eventually([&] { return load.answered > before + 30; }));
  load.finish();
  EXPECT_EQ(load.unanswered, 0);
  EXPECT_EQ(load.wrong, 0);
  EXPECT_EQ(load.late, 0);
  EXPECT_EQ(present_devices(ask(*service, request_of(1))),
            (std::vector<std::string>{"hub", "desk"}));
  EXPECT_FALSE(service->status()[2].connected);
}

/// This test program again, as an agent: see main.
pid_t spawn_agent(const std::filesystem::path& bundle, const std::string& device,
                  const std::string& listen) {
  const std::string program = "/proc/self/exe", folder = bundle.string();
  std::array<char*, 5> arguments = {
      const_cast<char*>("--as-agent"), const_cast<char*>(folder.c_str()),
      const_cast<char*>(device.c_str()), const_cast<char*>(listen.c_str()), nullptr};
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
  return child;
}

TEST_F(AggregatorTest, AProcessThatIsKilledUnderLoadLosesNoRequest) {
  start_agents({"hub", "desk"}, 1ms);
  hosts["cam"] = free_address();
  const auto child = spawn_agent(folder.path(), "cam", hosts["cam"]);
  ASSERT_GT(child, 0);
  const auto service = aggregator(options(), 3);
  Load load(*service, 5s, 3);
  ASSERT_TRUE(eventually([&] { return load.answered > 20; }));
  kill(child, SIGKILL);
  const int before = load.answered;
  ASSERT_TRUE(eventually([&] { return load.answered > before + 30; }));
  load.finish();
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(load.unanswered, 0);
  EXPECT_EQ(load.wrong, 0);
  EXPECT_EQ(load.late, 0);
  // The next one on that port is joined.
  const auto next = spawn_agent(folder.path(), "cam", hosts["cam"]);
  EXPECT_EQ(service->wait_for_agents(0, 10s), 3);
  EXPECT_EQ(present_devices(ask(*service, request_of(1))), all);
  kill(next, SIGKILL);
  waitpid(next, &status, 0);
}

TEST_F(AggregatorTest, AgentsAcceptTheNextAggregator) {
  start_agents(all, 1ms);
  for (int i = 0; i < 3; ++i) {
    const auto service = aggregator(options(), 3);
    for (int k = 0; k < 5; ++k) service->submit(request_of(1), [](Response) {});
    EXPECT_EQ(first_number(ask(*service, request_of(7)).output),
              expected_answer(pixels(7), {0, 1, 2}));
    for (int k = 0; k < 5; ++k) service->submit(request_of(1), [](Response) {});
    // It goes with requests in flight.
  }
}

TEST_F(AggregatorTest, EverySubmittedRequestIsAnsweredAtTheEnd) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  std::atomic<int> canceled{0};
  {
    const auto service = aggregator(options(), 1);
    for (int i = 0; i < 10; ++i)
      service->submit(request_of(1),
                      [&](Response response) { canceled += response.status == Status::canceled; });
  }
  EXPECT_EQ(canceled, 10);
  gate->open();
}

TEST_F(AggregatorTest, IsOverloadedBeyondItsQueue) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.max_in_flight = 2;
  wanted.max_queue = 3;
  std::atomic<int> answered{0}, overloaded{0}, other{0};
  std::mutex mutex;
  std::string text;
  const auto service = aggregator(std::move(wanted), 1);
  for (int i = 0; i < 9; ++i)
    service->submit(request_of(1), [&](Response response) {
      const std::lock_guard lock(mutex);
      if (response.status == Status::overloaded) text = response.message;
      answered += response.status == Status::answered;
      overloaded += response.status == Status::overloaded;
      other += response.status != Status::answered && response.status != Status::overloaded;
    });
  ASSERT_TRUE(eventually([&] { return overloaded == 4; }));
  {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(text, "[submit] queue: saw 3 requests waiting, takes at most 3");
  }
  gate->open();
  ASSERT_TRUE(eventually([&] { return answered == 5; }));
  EXPECT_EQ(overloaded, 4);
  EXPECT_EQ(other, 0);
}

TEST_F(AggregatorTest, ALongQueueEndsWithTheLastDevice) {
  start_agent("hub", std::make_unique<FakeEngine>(700ms));
  auto wanted = options();
  wanted.max_in_flight = 1;
  wanted.max_queue = 1 << 16;
  std::atomic<int> away{0}, other{0};
  const auto service = aggregator(std::move(wanted), 1);
  constexpr int many = 30'000;
  for (int i = 0; i < many; ++i)
    service->submit(request_of(1, 60s), [&](Response response) {
      (response.status == Status::no_device ? away : other)++;
    });
  agents["hub"]->stop();
  EXPECT_TRUE(eventually([&] { return away + other == many; }));
  EXPECT_GT(away, many / 2);
}

TEST_F(AggregatorTest, NoRequestOutlivesItsDeadline) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.max_in_flight = 1;
  std::atomic<int> expired{0}, other{0};
  std::mutex mutex;
  std::set<std::string> texts;
  const auto service = aggregator(std::move(wanted), 1);
  const auto start = Clock::now();
  for (int i = 0; i < 4; ++i)
    service->submit(request_of(1, 150ms), [&](Response response) {
      const std::lock_guard lock(mutex);
      texts.insert(response.message);
      (response.status == Status::deadline ? expired : other)++;
    });
  ASSERT_TRUE(eventually([&] { return expired + other == 4; }));
  EXPECT_EQ(expired, 4);
  EXPECT_GE(Clock::now() - start, 140ms);
  EXPECT_LT(Clock::now() - start, 8s);
  {
    const std::lock_guard lock(mutex);
    EXPECT_TRUE(texts.count("[deadline] 150 ms passed without 'hub'"));
    EXPECT_TRUE(texts.count("[queue] the deadline passed before its turn"));
  }
  EXPECT_EQ(ask(*service, request_of(1, 0ms)).message, "[submit] deadline: has passed");
  gate->open();
  // Only the first was ever computed; the device is free again.
  EXPECT_EQ(ask(*service, request_of(3)).status, Status::answered);
}

TEST_F(AggregatorTest, CancelAnswersAndFreesTheDevice) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.max_in_flight = 1;
  std::atomic<int> canceled{0};
  const auto service = aggregator(std::move(wanted), 1);
  const auto count = [&](Response response) { canceled += response.status == Status::canceled; };
  const auto running = service->submit(request_of(1), count);
  const auto queued = service->submit(request_of(2), count);
  gate->wait_for_entry();
  service->cancel(queued);
  service->cancel(running);
  service->cancel(running);
  service->cancel(99999);
  ASSERT_TRUE(eventually([&] { return canceled == 2; }));
  gate->open();
  ASSERT_TRUE(eventually([&] { return service->status()[0].queued == 0; }));
  EXPECT_EQ(ask(*service, request_of(3)).status, Status::answered);
  EXPECT_EQ(canceled, 2);
}

TEST_F(AggregatorTest, DrainAnswersWhatIsInFlight) {
  start_agents(all, 5ms);
  std::atomic<int> answered{0};
  const auto service = aggregator(options(), 3);
  for (int i = 0; i < 10; ++i)
    service->submit(request_of(1),
                    [&](Response response) { answered += response.status == Status::answered; });
  service->drain();
  EXPECT_EQ(answered, 10);
  const auto refused = ask(*service, request_of(1));
  EXPECT_EQ(refused.status, Status::overloaded);
  EXPECT_EQ(refused.message, "[submit] draining, no new requests");
}

TEST_F(AggregatorTest, GoesOnWithoutAnAgentThatDrains) {
  start_agents(all, 5ms);
  const auto service = aggregator(options(), 3);
  Load load(*service, 5s, 2);
  ASSERT_TRUE(eventually([&] { return load.answered > 5; }));
  agents["cam"]->drain();
  ASSERT_TRUE(eventually([&] { return agents["cam"]->ended(); }));
  const int before = load.answered;
  ASSERT_TRUE(eventually([&] { return load.answered > before + 10; }));
  load.finish();
  EXPECT_EQ(load.unanswered, 0);
  EXPECT_EQ(load.wrong, 0);
}

TEST_F(AggregatorTest, RefusesAnInputThatDoesNotFit) {
  start_agents(all);
  const auto service = aggregator(options(), 3);
  auto request = request_of(1);
  request.input.dims = {1, 1, 16, 4};
  EXPECT_EQ(ask(*service, request).message,
            "[submit] input: saw u8 [1, 1, 16, 4], needs u8 [1, 1, 8, 8]");
  request.input.dims = {};
  EXPECT_EQ(ask(*service, request).status, Status::failed);
  request.input.dims = {-1, 1, 8, 8};
  EXPECT_EQ(ask(*service, request).status, Status::failed);
  request = request_of(1);
  request.input.element = base::Element::i8;
  EXPECT_EQ(ask(*service, request).message,
            "[submit] input: saw i8 [1, 1, 8, 8], needs u8 [1, 1, 8, 8]");
  EXPECT_EQ(ask(*service, request_of(1)).status, Status::answered);
}

/// Fuses nothing.
class BrokenFusion : public FakeEngine {
 public:
  net::Value compute(const plan::Instruction&, const plan::Program&,
                     const std::vector<const net::Value*>&, const Sequence&) override {
    throw std::runtime_error("[fuse] broken");
  }
};

TEST_F(AggregatorTest, AFusionThatThrowsIsAnOutcome) {
  start_agents(all);
  Aggregator service(bundle, {plan}, std::make_unique<BrokenFusion>(), options());
  EXPECT_EQ(service.wait_for_agents(0, 10s), 3);
  for (int i = 0; i < 3; ++i) {
    const auto response = ask(service, request_of(1));
    EXPECT_EQ(response.status, Status::failed);
    EXPECT_EQ(response.message, "[fuse] broken");
  }
}

TEST_F(AggregatorTest, ADeviceThatFailsIsMissing) {
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<BrokenFusion>());
  const auto service = aggregator(options(), 3);
  const auto response = ask(*service, request_of(1));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "desk"}));
}

TEST_F(AggregatorTest, MoreInFlightThanAnAgentAdmitsStillGetsAllAnswers) {
  for (const auto& device : all) {
    auto wanted = RunningAgent::options_for(device);
    wanted.max_requests = device == "cam" ? 1 : 4;
    agents[device] = std::make_unique<RunningAgent>(bundle, plan, std::move(wanted),
                                                    std::make_unique<FakeEngine>(1ms));
    hosts[device] = agents[device]->address();
  }
  std::atomic<int> whole{0}, done{0};
  const auto service = aggregator(options(), 3);
  for (int i = 0; i < 40; ++i)
    service->submit(request_of(1), [&](Response response) {
      whole += present_devices(response).size() == 3;
      ++done;
    });
  ASSERT_TRUE(eventually([&] { return done == 40; }));
  EXPECT_EQ(whole, 40);
}

TEST_F(AggregatorTest, TwoAggregatorsShareAnAgent) {
  for (const auto& device : all) {
    auto wanted = RunningAgent::options_for(device);
    wanted.max_requests = 1;  // the other's request makes it busy
    agents[device] = std::make_unique<RunningAgent>(bundle, plan, std::move(wanted),
                                                    std::make_unique<FakeEngine>(1ms));
    hosts[device] = agents[device]->address();
  }
  std::atomic<int> whole{0}, done{0};
  const auto first = aggregator(options(), 3);
  const auto second = aggregator(options(), 3);
  for (int i = 0; i < 20; ++i)
    for (auto* service : {first.get(), second.get()})
      service->submit(request_of(1), [&](Response response) {
        whole += present_devices(response).size() == 3;
        ++done;
      });
  ASSERT_TRUE(eventually([&] { return done == 40; }));
  EXPECT_EQ(whole, 40);
}

/// An agent that answers when the test says so, and is busy once: full with its first request.
class BusyOnce {
 public:
  const std::string address() const { return agent_.address(); }
  Admitted admitted;
  std::atomic<bool> was_busy{false};
  /// The oldest admission.
  void answer() {
    const auto admit = admitted.take();
    ASSERT_TRUE(admit.has_value());
    agent_.say(value_for(*admit, 1));
  }

 private:
  ScriptedAgent agent_{[this](const net::Admit& admit) -> std::vector<net::Message> {
    if (admitted.count() == 1 && !was_busy.exchange(true)) return {busy_for(admit)};
    admitted.add(admit);
    return {};
  }};
};

TEST_F(AggregatorTest, OffersAsManyAsBeforeOnceABusyAgentIsIdle) {
  BusyOnce cam;
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  auto wanted = options();
  wanted.min_wait = 1h;
  std::atomic<int> whole{0};
  const auto service = aggregator(std::move(wanted), 3);
  const auto submit = [&](int count) {
    for (int i = 0; i < count; ++i)
      service->submit(request_of(1, 1h),
                      [&](Response response) { whole += present_devices(response).size() == 3; });
  };
  submit(2);
  ASSERT_TRUE(eventually([&] { return cam.was_busy.load(); }));
  cam.answer();
  ASSERT_TRUE(eventually([&] { return cam.admitted.count() == 2; })) << "the second once more";
  cam.answer();
  ASSERT_TRUE(eventually([&] { return whole == 2; }));
  submit(4);
  EXPECT_TRUE(eventually([&] { return cam.admitted.most() == 4; }));
  for (int i = 0; i < 4; ++i) cam.answer();
  EXPECT_TRUE(eventually([&] { return whole == 6; }));
}

TEST_F(AggregatorTest, OffersMoreAgainThoughABusyAgentIsNeverIdle) {
  BusyOnce cam;
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  auto wanted = options();
  wanted.min_wait = 1h;
  const auto service = aggregator(std::move(wanted), 3);
  for (int i = 0; i < 60; ++i) service->submit(request_of(1, 1h), [](Response) {});
  ASSERT_TRUE(eventually([&] { return cam.was_busy.load(); }));
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(eventually([&] { return cam.admitted.count() > i; }));
    cam.answer();
  }
  EXPECT_TRUE(eventually([&] { return cam.admitted.most() == 4; }));
}

TEST_F(AggregatorTest, ADeviceThatIsLostIsMissingInEveryRequest) {
  std::atomic<int> admitted{0}, answered{0}, without{0};
  auto cam = std::make_unique<ScriptedAgent>([&](const net::Admit&) -> std::vector<net::Message> {
    ++admitted;
    return {};
  });
  hosts["cam"] = cam->address();
  start_agents({"hub", "desk"});
  auto wanted = options();
  wanted.min_wait = 1h;
  wanted.max_in_flight = 7;  // three more than the agent takes at once
  const auto service = aggregator(std::move(wanted), 3);
  for (int i = 0; i < 7; ++i)
    service->submit(request_of(1, 1h), [&](Response response) {
      answered += response.status == Status::answered;
      without += present_devices(response) == std::vector<std::string>{"hub", "desk"};
    });
  ASSERT_TRUE(eventually([&] { return admitted == 4; }));
  cam.reset();
  EXPECT_TRUE(eventually([&] { return answered == 7; }));
  EXPECT_EQ(without, 7);
}

// Three images are predicted to take three times one; one image behind five others takes six.
TEST_F(AggregatorTest, WaitsForWhatADeviceHasToDoBefore) {
  plan = fake_plan(0.15);
  bundle = write_bundle(folder.path() / "slow", plan);
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = 0ms;
  wanted.lateness = 1;
  wanted.max_in_flight = 8;
  Order order;
  const auto service = aggregator(std::move(wanted), 3);
  Request three;
  three.input = pixels(1, 3);
  service->submit(three, order.note("three"));
  for (int i = 0; i < 4; ++i) service->submit(request_of(1), [](Response) {});
  service->submit(request_of(1), order.note("last"));
  EXPECT_TRUE(eventually([&] { return order.names().size() == 2; }));
  EXPECT_EQ(order.names(), (std::vector<std::string>{"three", "last"}));
  EXPECT_EQ(present_devices(order.of("last")), (std::vector<std::string>{"hub", "desk"}));
  gate->open();
}

TEST_F(AggregatorTest, HasMorePatienceWhereATextIsGenerated) {
  plan = fake_text_plan();
  bundle = write_bundle(folder.path() / "text", plan);
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = 1ms;
  wanted.min_wait_in_text = 1h;
  Order order;
  const auto service = aggregator(std::move(wanted), 3);
  auto request = token_request(10min);
  const auto alone = request;
  request.sequence = {service->new_sequence(), 0, 8};
  service->submit(request, order.note("text"));
  service->submit(alone, order.note("alone"));
  ASSERT_TRUE(eventually([&] { return order.has("alone"); }));
  EXPECT_FALSE(order.has("text")) << "given up as early as a request that stands for itself";
  gate->open();
  ASSERT_TRUE(eventually([&] { return order.has("text"); }));
  // On a busy machine another may be later than that too.
  const auto present = present_devices(order.of("alone"));
  EXPECT_EQ(std::count(present.begin(), present.end(), "cam"), 0);
  EXPECT_EQ(present_devices(order.of("text")), all);
}

TEST_F(AggregatorTest, EveryTextGoesOnWithoutADeviceThatIsLost) {
  plan = fake_text_plan();
  bundle = write_bundle(folder.path() / "text", plan);
  start_agents(all);
  const auto service = aggregator(options(), 3);
  auto request = token_request(1min);
  const std::vector<std::uint64_t> texts = {service->new_sequence(), service->new_sequence()};
  for (const auto text : texts) {
    request.sequence = {text, 0, 8};
    EXPECT_EQ(present_devices(ask(*service, request)), all);
  }
  agents["cam"]->stop();
  ASSERT_TRUE(eventually([&] { return !service->status()[2].connected; }));
  agents["cam"] = std::make_unique<RunningAgent>(
      bundle, plan, RunningAgent::options_for("cam", hosts["cam"]), std::make_unique<FakeEngine>());
  ASSERT_EQ(service->wait_for_agents(0, 10s), 3);
  for (const auto text : texts) {
    request.sequence = {text, 1, 8};
    const auto response = ask(*service, request);
    EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "desk"}));
    EXPECT_EQ(response.devices.at(2).sent_bytes, 0u) << "it is not even asked";
  }
  request.sequence = {service->new_sequence(), 0, 8};
  EXPECT_EQ(present_devices(ask(*service, request)), all) << "a text that begins has it again";
}

TEST_F(AggregatorTest, AnswersInTheOrderOfSubmission) {
  start_agents(all);
  for (const int at_once : {1, 4}) {
    auto wanted = options();
    wanted.max_in_flight = at_once;
    Order order;
    std::vector<std::string> names;
    const auto service = aggregator(std::move(wanted), 3);
    for (int i = 0; i < 30; ++i) {
      names.push_back(std::to_string(i));
      service->submit(request_of(1), order.note(names.back()));
    }
    ASSERT_TRUE(eventually([&] { return order.names().size() == 30; }));
    EXPECT_EQ(order.names(), names) << at_once << " at once";
  }
}

TEST_F(AggregatorTest, OffersTheOldestRequestFirst) {
  std::mutex mutex;
  std::vector<std::uint64_t> asked;
  const ScriptedAgent cam([&](const net::Admit& admit) -> std::vector<net::Message> {
    const std::lock_guard lock(mutex);
    asked.push_back(admit.request);
    return {value_for(admit, 1)};
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  auto wanted = options();
  wanted.max_in_flight = 20;  // more than the agent takes: they wait for it
  std::atomic<int> done{0};
  const auto service = aggregator(std::move(wanted), 3);
  for (int i = 0; i < 20; ++i) service->submit(request_of(1), [&](Response) { ++done; });
  ASSERT_TRUE(eventually([&] { return done == 20; }));
  const std::lock_guard lock(mutex);
  EXPECT_EQ(asked.size(), 20u);
  EXPECT_TRUE(std::is_sorted(asked.begin(), asked.end()));
}

TEST_F(AggregatorTest, TellsTheDeviceThatNobodyWaitsAnyMore) {
  std::atomic<std::uint64_t> admitted{0}, canceled{0};
  const ScriptedAgent cam(
      [&](const net::Admit& admit) -> std::vector<net::Message> {
        admitted = admit.request;
        return {};
      },
      [&](const net::Message& message) {
        if (const auto* cancel = std::get_if<net::Cancel>(&message)) canceled = cancel->request;
      });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  auto wanted = options();
  wanted.min_wait = 20ms;
  const auto service = aggregator(std::move(wanted), 3);
  const auto id = service->submit(request_of(1, 1h), [](Response) {});
  EXPECT_TRUE(eventually([&] { return canceled == id; })) << "late, and answered without it";
  service->submit(request_of(1, 1h), [](Response) {});
  const auto second = id + 1;
  EXPECT_TRUE(eventually([&] { return admitted == second; }));
  service->cancel(second);
  EXPECT_TRUE(eventually([&] { return canceled == second; }));
}

// What has passed before a request is offered is gone from its time.
TEST_F(AggregatorTest, GivesTheDeviceTheTimeThatIsLeft) {
  Admitted admitted;
  ScriptedAgent cam([&](const net::Admit& admit) -> std::vector<net::Message> {
    admitted.add(admit);
    return {};
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  auto wanted = options();
  wanted.min_wait = 1h;
  wanted.max_in_flight = 5;  // the fifth waits until the agent takes it
  const auto service = aggregator(std::move(wanted), 3);
  for (int i = 0; i < 5; ++i) service->submit(request_of(1, 60s), [](Response) {});
  ASSERT_TRUE(eventually([&] { return admitted.count() == 4; }));
  std::this_thread::sleep_for(100ms);
  const auto first = admitted.take();
  EXPECT_LE(first->deadline_ms, 60'000u);
  cam.say(value_for(*first, 1));
  ASSERT_TRUE(eventually([&] { return admitted.count() == 5; }));
  for (int i = 0; i < 3; ++i) EXPECT_LE(admitted.take()->deadline_ms, 60'000u);
  EXPECT_LE(admitted.take()->deadline_ms, 59'900u);
}

/// Of what follows an admission.
std::uint64_t input_bytes(const net::Admit& admit) {
  return net::encode(Asked{admit, pixels(1)}.input()).size();
}

TEST_F(AggregatorTest, ReportsWhatADeviceSaysAndEveryByte) {
  std::atomic<std::uint64_t> admit_bytes{0}, value_bytes{0};
  const ScriptedAgent cam([&](const net::Admit& admit) {
    auto value = value_for(admit, 1);
    value.queued_s = 1.5;
    value.compute_s = 2.5;
    value.wait_s = 3.5;
    admit_bytes = net::encode(admit).size() + input_bytes(admit);
    value_bytes = net::encode(value).size();
    return std::vector<net::Message>{value};
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  const auto report = ask(*service, request_of(1)).devices.at(2);
  EXPECT_EQ(report.queued_s, 1.5);
  EXPECT_EQ(report.compute_s, 2.5);
  EXPECT_EQ(report.sent_bytes, admit_bytes.load());
  EXPECT_EQ(report.received_bytes, value_bytes.load());
}

TEST_F(AggregatorTest, CountsTheBytesOfARequestThatIsOfferedTwice) {
  std::atomic<int> offers{0};
  std::atomic<std::uint64_t> admit_bytes{0}, answer_bytes{0};
  const ScriptedAgent cam([&](const net::Admit& admit) -> std::vector<net::Message> {
    net::Message answer = value_for(admit, 1);
    if (++offers == 1) answer = busy_for(admit);
    admit_bytes = net::encode(admit).size() + input_bytes(admit);
    answer_bytes += net::encode(answer).size();
    return {answer};
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  const auto report = ask(*service, request_of(1)).devices.at(2);
  EXPECT_EQ(offers, 2);
  EXPECT_EQ(report.sent_bytes, 2 * admit_bytes);
  EXPECT_EQ(report.received_bytes, answer_bytes.load());
}

TEST_F(AggregatorTest, DropsFeaturesThatAreNotOfThisRequest) {
  const ScriptedAgent cam([](const net::Admit& admit) {
    auto stale = value_for(admit, 1e6f);
    stale.epoch = admit.epoch + 1;
    auto unknown = value_for(admit, 1e6f);
    unknown.request = admit.request + 1000;
    auto odd_tag = value_for(admit, 1e6f);
    odd_tag.tag = 1;
    for (auto* value : {&stale, &unknown, &odd_tag}) value->last = false;
    return std::vector<net::Message>{stale, unknown, odd_tag, value_for(admit, 5.0f),
                                     value_for(admit, 1e6f)};
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  for (int i = 0; i < 5; ++i) {
    const auto response = ask(*service, request_of(1));
    ASSERT_EQ(response.status, Status::answered) << response.message;
    EXPECT_EQ(first_number(response.output), expected_answer(pixels(1), {0, 1}) + 5.0f);
  }
}

TEST_F(AggregatorTest, AFeatureOfTheWrongShapeIsMissing) {
  const ScriptedAgent cam(
      [](const net::Admit& admit) { return std::vector<net::Message>{value_for(admit, 5.0f, 9)}; });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  auto request = request_of(1);
  const auto response = ask(*service, request);
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "desk"}));
  request.require_all = true;
  const auto strict = ask(*service, request);
  EXPECT_EQ(strict.status, Status::no_device);
  EXPECT_NE(strict.message.find("saw f32 [1, 1, 9], needs f32 [1, 1, 8]"), std::string::npos)
      << strict.message;
}

TEST_F(AggregatorTest, AMessageThatDoesNotBelongEndsThatConnection) {
  const ScriptedAgent cam(
      [](const net::Admit&) { return std::vector<net::Message>{net::StatusRequest{}}; });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  const auto response = ask(*service, request_of(1));
  EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "desk"}));
}

TEST_F(AggregatorTest, DoneWithoutAValueIsMissing) {
  const ScriptedAgent cam([](const net::Admit& admit) {
    net::Done done;
    done.request = admit.request;
    return std::vector<net::Message>{done};
  });
  hosts["cam"] = cam.address();
  start_agents({"hub", "desk"});
  const auto service = aggregator(options(), 3);
  EXPECT_EQ(present_devices(ask(*service, request_of(1))),
            (std::vector<std::string>{"hub", "desk"}));
}

// From the input handed in to the operand of the fusion nothing is copied in user space.
TEST_F(AggregatorTest, TensorsTravelInTheirOwnMemory) {
  const auto agent_record = std::make_shared<net::Record>(),
             own_record = std::make_shared<net::Record>();
  Seen part_seen, fusion_seen;
  auto agent_options = RunningAgent::options_for("hub");
  agent_options.wrap_stream = [agent_record](std::unique_ptr<net::Stream> inner,
                                             const std::string&) {
    return std::make_unique<net::RecordingStream>(std::move(inner), agent_record);
  };
  const RunningAgent agent(bundle, plan, std::move(agent_options),
                           std::make_unique<FakeEngine>(0us, &part_seen));
  hosts["hub"] = agent.address();
  auto wanted = options();
  wanted.wrap_stream = [own_record](std::unique_ptr<net::Stream> inner, const std::string&) {
    return std::make_unique<net::RecordingStream>(std::move(inner), own_record);
  };
  Aggregator service(bundle, {plan}, std::make_unique<FakeEngine>(0us, &fusion_seen),
                     std::move(wanted));
  ASSERT_EQ(service.wait_for_agents(1, 10s), 1);
  const auto request = request_of(1);
  ASSERT_EQ(ask(service, request).status, Status::answered);

  EXPECT_TRUE(own_record->was_written_from(request.input.data.data()));
  ASSERT_EQ(part_seen.operands.size(), 1u);
  EXPECT_TRUE(agent_record->was_read_into(*part_seen.operands.begin()));
  ASSERT_EQ(part_seen.results.size(), 1u);
  EXPECT_TRUE(agent_record->was_written_from(*part_seen.results.begin()));
  int from_the_wire = 0;
  for (const auto* operand : fusion_seen.operands)
    from_the_wire += own_record->was_read_into(operand);
  EXPECT_EQ(from_the_wire, 1);  // the other two are absent
}

TEST_F(AggregatorTest, StatusShowsTheAgents) {
  start_agents({"hub", "cam"});
  const auto service = aggregator(options(), 2);
  ASSERT_EQ(ask(*service, request_of(1)).status, Status::answered);
  ASSERT_TRUE(eventually([&] { return service->status()[0].round_trip_s > 0; }));
  const auto list = service->status();
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0].device, "hub");
  EXPECT_EQ(list[0].address, hosts["hub"]);
  EXPECT_TRUE(list[0].connected);
  EXPECT_GT(list[0].memory_bytes, 1e6);
  EXPECT_LT(list[0].round_trip_s, 1);
  EXPECT_EQ(list[0].answered, 1);
  EXPECT_EQ(list[0].held_bytes, plan::weight_bytes(plan.parts[0].sub_model().config));
  EXPECT_EQ(list[0].weight_format, "f32");
  EXPECT_FALSE(list[1].connected);
  EXPECT_EQ(list[1].last_error, "Connection refused");
}

TEST_F(AggregatorTest, CallbacksThatThrowHurtNobody) {
  start_agents(all);
  const auto service = aggregator(options(), 3);
  service->submit(request_of(1), [](Response) { throw std::runtime_error("mine"); });
  EXPECT_EQ(ask(*service, request_of(2)).status, Status::answered);
}

TEST_F(AggregatorTest, SaysWhyItCannotStart) {
  const auto start = [this](AggregatorOptions wanted) {
    return text_of_error(
        [&] { Aggregator(bundle, {plan}, std::make_unique<FakeEngine>(), std::move(wanted)); });
  };
  EXPECT_EQ(start({}), "[aggregator] hosts: saw no address of 'hub', needs one for each device");
  auto wanted = options();
  wanted.hosts["desk"] = "nowhere";
  EXPECT_EQ(start(wanted), "[address] saw 'nowhere', needs host:port");
  wanted = options();
  wanted.max_in_flight = 0;
  EXPECT_EQ(start(wanted), "[aggregator] max_in_flight: saw 0, needs 1 or more");
  wanted = options();
  wanted.candidates = 1;
  EXPECT_EQ(start(wanted), "[aggregator] candidates: saw 1, needs 2 or more");
}

/// Its features are all `number`.
class WrongEngine : public FakeEngine {
 public:
  explicit WrongEngine(float number) : number_(number) {}
  net::Value leaving(const net::Value& value, const plan::ValueInfo& info) override {
    auto wrong = FakeEngine::leaving(value, info);
    const std::vector<float> numbers(static_cast<std::size_t>(wrong.count()), number_);
    wrong.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
    return wrong;
  }

 private:
  float number_;
};

std::string why_missing(const Response& response) {
  std::string why;
  for (const auto& device : response.devices) why += device.present ? "" : device.why;
  return why;
}

TEST_F(AggregatorTest, NumbersThatAreNotFiniteAreNoAnswer) {
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<WrongEngine>(std::numeric_limits<float>::quiet_NaN()));
  const auto service = aggregator(options(), 3);
  const auto request = request_of(1);
  const Response rest = ask(*service, request);
  EXPECT_EQ(rest.status, Status::answered) << rest.message;
  EXPECT_EQ(present_devices(rest), (std::vector<std::string>{"hub", "desk"}));
  EXPECT_NE(why_missing(rest).find("saw nan, needs finite numbers"), std::string::npos);
  auto all = request_of(1);
  all.require_all = true;
  const Response refused = ask(*service, all);
  EXPECT_EQ(refused.status, Status::no_device);
  EXPECT_NE(refused.message.find("'cam'"), std::string::npos) << refused.message;
}

TEST_F(AggregatorTest, WhereEveryPartIsWrongTheRequestFails) {
  for (const auto& part : plan.parts)
    start_agent(part.device,
                std::make_unique<WrongEngine>(-std::numeric_limits<float>::infinity()));
  const auto service = aggregator(options(), 3);
  const Response response = ask(*service, request_of(1));
  EXPECT_EQ(response.status, Status::failed);
  for (const auto& part : plan.parts)
    EXPECT_NE(response.message.find("'" + part.device + "' value "), std::string::npos)
        << response.message;
}

TEST_F(AggregatorTest, AFeatureFarBeyondThoseOfCalibrationIsNone) {
  nlohmann::json parts = nlohmann::json::array();
  for (const auto& part : plan.parts)
    parts.push_back({{"device", part.device}, {"largest_feature", part.device == "cam" ? 2.5 : 0}});
  std::filesystem::create_directories(bundle.fusion_path(plan));
  base::write_whole(bundle.fusion_path(plan) / "fusion.json",
                    nlohmann::json{{"parts", parts}}.dump());
  for (const float number : {-10.0F, 10.5F}) {
    agents.clear();
    start_agents({"hub", "desk"});
    start_agent("cam", std::make_unique<WrongEngine>(number));
    const auto service = aggregator(options(), 3);
    const Response response = ask(*service, request_of(1));
    EXPECT_EQ(response.status, Status::answered);
    EXPECT_EQ(present_devices(response).size(), number > 10 ? 2U : 3U) << number;
    if (number > 10) {
      EXPECT_NE(why_missing(response).find(
                    "saw 10.5, needs at most 10, 4 times the largest in calibration"),
                std::string::npos)
          << why_missing(response);
    }
  }
}

// An hour, so that a bug is a test that does not end.
TEST_F(AggregatorTest, DoesNotWaitForAgentsThatNobodyStarted) {
  start_agents({"hub", "cam"});
  const auto service = aggregator(options(), 0);
  EXPECT_EQ(service->wait_for_those_in_reach(1h), 2);
  EXPECT_EQ(ask(*service, request_of(1)).status, Status::answered);
}

}  // namespace

/// `--as-agent BUNDLE DEVICE ADDRESS`: an agent to be killed.
int run_as_agent(char** arguments) {
  const plan::Bundle bundle(arguments[1]);
  Agent agent(bundle, {bundle.plan()}, std::make_unique<FakeEngine>(std::chrono::milliseconds(1)),
              RunningAgent::options_for(arguments[2], arguments[3]));
  agent.run();
  return 0;
}

}  // namespace cleave::infer

int main(int count, char** arguments) {
  if (count == 4 && std::string(arguments[0]) == "--as-agent")
    return cleave::infer::run_as_agent(arguments);
  ::testing::InitGoogleTest(&count, arguments);
  return RUN_ALL_TESTS();
}
