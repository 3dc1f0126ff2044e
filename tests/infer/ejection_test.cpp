// A device that is alive and too late: it is left out, probed, and taken back.

#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "tests/infer/aggregator_fixture.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/infer/scripted_agent.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

const std::vector<std::string> without_cam = {"hub", "desk"};

/// An agent that answers, or is silent, as the test says; remembers what it was asked.
class MoodyAgent {
 public:
  std::string address() const { return agent_.address(); }
  void say(net::Message message) { agent_.say(std::move(message)); }
  std::atomic<bool> silent{true};
  double compute_s = 0;
  std::vector<net::Admit> asked() {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  /// What came behind them.
  std::vector<net::ValueMessage> inputs() {
    const std::lock_guard lock(mutex_);
    return inputs_;
  }

 private:
  std::mutex mutex_;
  std::vector<net::Admit> asked_;
  std::vector<net::ValueMessage> inputs_;
  ScriptedAgent agent_{[this](const net::Admit& admit) -> std::vector<net::Message> {
                         const std::lock_guard lock(mutex_);
                         asked_.push_back(admit);
                         if (silent) return {};
                         auto value = value_for(admit, 1);
                         value.compute_s = compute_s;
                         return {value};
                       },
                       [this](const net::Message& message) {
                         const std::lock_guard lock(mutex_);
                         if (const auto* input = std::get_if<net::ValueMessage>(&message))
                           inputs_.push_back(*input);
                       }};
};

class EjectionTest : public AggregatorTest {
 protected:
  /// An aggregator over hub and desk that answer, and cam.
  void start() {
    hosts["cam"] = cam.address();
    if (agents.empty()) start_agents({"hub", "desk"});
    auto wanted = options();
    wanted.min_wait = patience;
    wanted.min_wait_in_text = patience_in_text;
    wanted.log = [this](base::LogLevel, const std::string& line) {
      const std::lock_guard lock(mutex);
      lines.push_back(line);
    };
    service = aggregator(std::move(wanted), 3);
  }
  std::string state() const { return service->status().at(2).state(); }
  void eject_cam() {
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(state(), "joined") << i;
      EXPECT_EQ(ask(*service, request_of(1)).devices.at(2).why, "late");
    }
    EXPECT_EQ(state(), ejected);
  }
  /// Live requests bring the probes along.
  bool cam_comes_back(const Request& request = request_of(1)) {
    cam.silent = false;
    return eventually([&] {
      ask(*service, request);
      return state() == "joined";
    });
  }
  int lines_with(const std::string& text) {
    const std::lock_guard lock(mutex);
    return static_cast<int>(std::count_if(lines.begin(), lines.end(), [&](const auto& line) {
      return line.find(text) != std::string::npos;
    }));
  }

  const std::string ejected = "ejected: late";
  std::chrono::milliseconds patience{200}, patience_in_text{200};
  MoodyAgent cam;
  std::mutex mutex;
  std::vector<std::string> lines;
  std::unique_ptr<Aggregator> service;
};

TEST_F(EjectionTest, ADeviceThatIsLateThreeTimesIsLeftOutAndSaidToBe) {
  start();
  eject_cam();
  const auto asked = cam.asked().size();
  const auto response = ask(*service, request_of(2));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), expected_answer(pixels(2), {0, 1}));
  EXPECT_EQ(response.devices.at(2).why, ejected);
  EXPECT_EQ(response.devices.at(2).sent_bytes, 0u);
  EXPECT_EQ(cam.asked().size(), asked) << "it is not even asked";
  EXPECT_TRUE(service->status().at(2).connected);
  EXPECT_EQ(lines_with("[cam] ejected: late"), 1);
}

TEST_F(EjectionTest, AClientIsTold) {
  start();
  RunningServer server(*service, bundle);
  Client client(server.address());
  eject_cam();
  const auto list = client.status().agents;
  EXPECT_EQ(list.at(0).state(), "joined");
  EXPECT_EQ(list.at(2).state(), ejected);
  EXPECT_EQ(ask(client, request_of(1)).devices.at(2).why, ejected);
  auto request = request_of(1);
  request.require_all = true;
  const auto refused = ask(client, std::move(request));
  EXPECT_EQ(refused.status, Status::no_device);
  EXPECT_NE(refused.message.find(ejected), std::string::npos) << refused.message;
}

// The first three are late; what else it was asked is given up with them, at once.
TEST_F(EjectionTest, WhatAnEjectedDeviceStillHasIsGivenUp) {
  plan = fake_plan(0.1);
  bundle = write_bundle(folder.path() / "slow", plan);
  start();
  Order order;
  auto whole = request_of(1, 1h);
  whole.require_all = true;
  service->submit(whole, order.note("whole"));
  for (int i = 0; i < 3; ++i) service->submit(request_of(1, 1h), order.note(std::to_string(i)));
  ASSERT_TRUE(eventually([&] { return order.names().size() == 4; }));
  EXPECT_EQ(order.of("whole").status, Status::no_device);
  EXPECT_EQ(order.of("whole").message,
            "[infer] device 'cam' at " + hosts["cam"] + " is needed: ejected: late");
  EXPECT_EQ(state(), ejected);
  // It never said that it had ended them: they take no place when it is back.
  ASSERT_EQ(cam.asked().size(), 4u);
  EXPECT_TRUE(cam_comes_back());
  EXPECT_EQ(present_devices(ask(*service, request_of(1))), all);
}

// Nobody waits for it, so it may still come.
// It was asked while nobody else was there.
TEST_F(EjectionTest, WhoHasOnlyTheEjectedDeviceWaitsOn) {
  hosts["cam"] = cam.address();
  auto wanted = options();
  wanted.min_wait = patience;
  service = aggregator(std::move(wanted), 1);
  Order order;
  service->submit(request_of(1, 1h), order.note("alone"));
  ASSERT_TRUE(eventually([&] { return cam.asked().size() == 1; }));
  for (const auto& device : without_cam)
    agents[device] = std::make_unique<RunningAgent>(
        bundle, plan, RunningAgent::options_for(device, hosts[device]));
  ASSERT_EQ(service->wait_for_agents(3, 10s), 3);
  eject_cam();
  EXPECT_FALSE(order.has("alone")) << order.of("alone").message;
  cam.say(value_for(cam.asked().at(0), 7));
  ASSERT_TRUE(eventually([&] { return order.has("alone"); }));
  const auto response = order.of("alone");
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), 7);
  EXPECT_EQ(present_devices(response), std::vector<std::string>{"cam"});
}

class LastDeviceTest : public EjectionTest {
 protected:
  /// A hub that answers while `hub_answers`, and cam, ejected.
  void start() {
    hub = std::make_unique<ScriptedAgent>([this](const net::Admit& admit) {
      ++asked_of_hub;
      auto value = value_for(admit, 1, 16);
      value.tag = 0;
      return hub_answers ? std::vector<net::Message>{value} : std::vector<net::Message>{};
    });
    hosts["hub"] = hub->address();
    hosts["cam"] = cam.address();
    auto wanted = options();
    wanted.min_wait = patience;
    service = aggregator(std::move(wanted), 2);
  }
  /// Hub has been asked and goes.
  void lose_hub(int asked) {
    ASSERT_TRUE(eventually([&] { return asked_of_hub == asked; }));
    hub.reset();
  }
  std::atomic<bool> hub_answers{true};
  std::atomic<int> asked_of_hub{0};
  std::unique_ptr<ScriptedAgent> hub;
};

TEST_F(LastDeviceTest, AnEjectedDeviceIsAskedByWhoeverWasLeftWithoutAnother) {
  start();
  eject_cam();
  cam.silent = false;
  hub_answers = false;
  Order order;
  service->submit(request_of(1, 1min), order.note("alone"));
  lose_hub(4);
  ASSERT_TRUE(eventually([&] { return order.has("alone"); }));
  const auto response = order.of("alone");
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), 1);
  EXPECT_EQ(present_devices(response), std::vector<std::string>{"cam"});
  EXPECT_EQ(response.devices.at(0).why.substr(0, 5), "lost:");
  EXPECT_EQ(response.devices.at(2).why, "");
  EXPECT_EQ(state(), "joined");
}

// It has the request already: it is not sent it again, and answers it.
TEST_F(LastDeviceTest, WhatADeviceHadWhenItWasEjectedStillCounts) {
  patience = 50ms;
  start();
  hub_answers = false;
  Order order;
  service->submit(request_of(9, 1min), order.note("alone"));
  ASSERT_TRUE(eventually([&] { return asked_of_hub == 1 && cam.asked().size() == 1; }));
  hub_answers = true;
  eject_cam();
  EXPECT_FALSE(order.has("alone")) << order.of("alone").message;
  lose_hub(4);
  ASSERT_TRUE(eventually([&] { return !service->status().at(0).connected; }));
  cam.say(value_for(cam.asked().at(0), 7));
  ASSERT_TRUE(eventually([&] { return order.has("alone"); }));
  const auto response = order.of("alone");
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), 7);
  EXPECT_EQ(cam.asked().size(), 4u) << "once, and three times until it was ejected";
}

TEST_F(EjectionTest, ALateDeviceIsTakenAsLongAsAnotherIsWaitedFor) {
  plan.prediction.devices[1].compute_s = 1000;
  bundle = write_bundle(folder.path() / "unequal", plan);
  start_agents({"hub"});
  Admitted at_cam, at_desk;
  const auto keep = [](Admitted* admitted) {
    return [admitted](const net::Admit& admit) -> std::vector<net::Message> {
      admitted->add(admit);
      return {};
    };
  };
  ScriptedAgent other_cam(keep(&at_cam)), desk(keep(&at_desk));
  hosts["cam"] = other_cam.address();
  hosts["desk"] = desk.address();
  auto wanted = options();
  wanted.min_wait = 20ms;
  service = aggregator(std::move(wanted), 3);
  std::promise<Response> answer;
  service->submit(request_of(1, 1h),
                  [&](Response response) { answer.set_value(std::move(response)); });
  ASSERT_TRUE(eventually([&] { return at_cam.count() == 1 && at_desk.count() == 1; }));
  std::this_thread::sleep_for(150ms);  // cam has 30 ms
  auto value = value_for(*at_cam.take(), 1);
  other_cam.say(value);
  ASSERT_TRUE(eventually([&] { return service->status().at(2).answered == 1; }));
  value.tag = 1;
  value.request = at_desk.take()->request;
  value.tensor.dims = {1, 1, 12};
  const std::vector<float> numbers(12, 1.0f);
  value.tensor.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
  desk.say(value);
  EXPECT_EQ(present_devices(answer.get_future().get()), all);
}

TEST_F(EjectionTest, ComesBackAfterThreeProbesThatNobodyIsToldOf) {
  start();
  eject_cam();
  const auto before = cam.asked().size();
  cam.silent = false;
  std::set<std::uint64_t> live;
  for (const auto& admit : cam.asked()) live.insert(admit.request);
  ASSERT_TRUE(eventually([&] {
    std::promise<Response> answer;
    live.insert(service->submit(request_of(7),
                                [&](Response given) { answer.set_value(std::move(given)); }));
    const auto response = answer.get_future().get();
    EXPECT_EQ(response.status, Status::answered);
    const auto& report = response.devices.at(2);
    if (report.present) return true;
    EXPECT_EQ(report.why, ejected);
    EXPECT_EQ(report.sent_bytes, 0u);
    EXPECT_EQ(report.received_bytes, 0u);
    EXPECT_EQ(first_number(response.output), expected_answer(pixels(7), {0, 1}));
    EXPECT_EQ(service->status().at(2).answered, 0) << "probes are no answers";
    EXPECT_LE(service->status().at(2).queued, 3) << "nor queued";
    return false;
  }));
  EXPECT_EQ(service->status().at(2).answered, 1);
  const auto asked = cam.asked();
  ASSERT_EQ(asked.size(), before + 4) << "three probes and a request";
  const auto inputs = cam.inputs();
  ASSERT_EQ(inputs.size(), asked.size());
  EXPECT_EQ(live.count(asked.back().request), 1u);
  for (std::size_t i = before; i < before + 3; ++i) {
    EXPECT_TRUE(live.insert(asked[i].request).second) << "an id of its own";
    EXPECT_EQ(asked[i].sequence, 0u);
    EXPECT_EQ(inputs[i].request, asked[i].request);
    EXPECT_EQ(inputs[i].tensor.dims, pixels(7).dims);
    EXPECT_EQ(*inputs[i].tensor.data.data(), *pixels(7).data.data());
  }
  EXPECT_EQ(lines_with("[cam] back"), 1);
}

TEST_F(EjectionTest, OneProbeAtATime) {
  start();
  eject_cam();
  const auto before = cam.asked().size();
  // The probe stays without an answer, and the requests go on.
  ASSERT_TRUE(eventually([&] {
    ask(*service, request_of(1));
    return cam.asked().size() > before;
  }));
  for (int i = 0; i < 20; ++i) ask(*service, request_of(1));
  EXPECT_EQ(cam.asked().size(), before + 1);
}

// A copy of a step of a text has the patience of one.
TEST_F(EjectionTest, ADrainWaitsForNoProbe) {
  plan = fake_text_plan();
  bundle = write_bundle(folder.path() / "text", plan);
  patience_in_text = 1h;
  start();
  auto request = token_request(1h);
  for (int i = 0; i < 3; ++i) ask(*service, request);
  ASSERT_EQ(state(), ejected);
  const auto before = cam.asked().size();
  ASSERT_TRUE(eventually([&] {
    request.sequence = {service->new_sequence(), 0, 8};
    ask(*service, request);
    return cam.asked().size() > before;
  }));
  EXPECT_EQ(cam.asked().back().sequence, 0u) << "a probe is no part of the text";
  service->drain();
  EXPECT_EQ(state(), ejected);
}

TEST_F(EjectionTest, RequireAllIsRefusedAtOnceAndBringsProbesToo) {
  start();
  eject_cam();
  auto request = request_of(1, 1h);
  request.require_all = true;
  const auto refused = ask(*service, request);
  EXPECT_EQ(refused.status, Status::no_device);
  EXPECT_EQ(refused.message,
            "[infer] device 'cam' at " + hosts["cam"] + " is needed: ejected: late");
  EXPECT_TRUE(cam_comes_back(request));
  EXPECT_EQ(ask(*service, request).status, Status::answered);
}

/// Fuses when the test lets it.
class HeldFusion : public FakeEngine {
 public:
  explicit HeldFusion(std::atomic<bool>* held) : held_(held) {}
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    while (*held_) std::this_thread::sleep_for(1ms);
    return FakeEngine::compute(instruction, program, operands, sequence);
  }

 private:
  std::atomic<bool>* held_;
};

TEST_F(EjectionTest, RequireAllIsRefusedThoughEveryPlaceIsTaken) {
  start_agents({"hub", "desk"});
  hosts["cam"] = cam.address();
  auto wanted = options();
  wanted.min_wait = patience;
  wanted.max_in_flight = 1;
  std::atomic<bool> held{false};
  service = std::make_unique<Aggregator>(bundle, std::vector{plan},
                                         std::make_unique<HeldFusion>(&held), std::move(wanted));
  ASSERT_EQ(service->wait_for_agents(0, 10s), 3);
  eject_cam();
  held = true;
  Order order;
  service->submit(request_of(1, 1h), order.note("held"));
  auto request = request_of(1, 1h);
  request.require_all = true;
  service->submit(request, order.note("whole"));
  EXPECT_TRUE(eventually([&] { return order.has("whole"); }));
  EXPECT_FALSE(order.has("held"));
  held = false;
  EXPECT_TRUE(eventually([&] { return order.has("held"); }));
  EXPECT_EQ(order.of("whole").status, Status::no_device);
}

TEST_F(EjectionTest, TheLastDeviceIsAskedAgain) {
  start();
  eject_cam();
  cam.silent = false;
  for (const auto* device : {"hub", "desk"}) agents[device]->stop();
  ASSERT_TRUE(eventually([&] {
    const auto list = service->status();
    return !list.at(0).connected && !list.at(1).connected;
  }));
  const auto response = ask(*service, request_of(1));
  EXPECT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(present_devices(response), std::vector<std::string>{"cam"});
  EXPECT_EQ(state(), "joined");
}

TEST_F(EjectionTest, NobodyIsEjectedWhereEverybodyIsLate) {
  gate->open();
  const ScriptedAgent hub([](const net::Admit&) { return std::vector<net::Message>{}; });
  hosts["hub"] = hub.address();
  hosts["desk"] = free_address();
  hosts["cam"] = cam.address();
  auto wanted = options();
  wanted.min_wait = 20ms;
  service = aggregator(std::move(wanted), 2);
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(ask(*service, request_of(1, 100ms)).status, Status::deadline);
  EXPECT_EQ(service->status().at(0).state(), "joined");
  EXPECT_EQ(state(), "joined");
}

TEST_F(EjectionTest, AShortDeadlineOfTheAskerIsNotTheDevicesFault) {
  patience = 1h;
  start();
  for (int i = 0; i < 6; ++i)
    EXPECT_FALSE(ask(*service, request_of(1, 300ms)).devices.at(2).present);
  EXPECT_EQ(state(), "joined");
}

TEST_F(EjectionTest, WithoutAPredictionTheDeadlineEjectsToo) {
  plan = fake_plan(0);
  bundle = write_bundle(folder.path() / "unpredicted", plan);
  patience = 10ms;
  start();
  for (int i = 0; i < 3; ++i)
    EXPECT_FALSE(ask(*service, request_of(1, 300ms)).devices.at(2).present);
  EXPECT_EQ(state(), ejected);
}

TEST_F(EjectionTest, RequireAllThatReachesItsDeadlineCounts) {
  patience = 20ms;
  start();
  auto request = request_of(1, 300ms);
  request.require_all = true;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(state(), "joined");
    EXPECT_EQ(ask(*service, request).status, Status::deadline) << "it waited";
  }
  EXPECT_EQ(state(), ejected);
}

TEST_F(EjectionTest, RequireAllLeavesHalfOfThePlaces) {
  patience = 1h;
  start();
  auto whole = request_of(1, 1h);
  whole.require_all = true;
  for (int i = 0; i < 8; ++i) service->submit(whole, [](Response) {});
  ASSERT_TRUE(eventually([&] { return cam.asked().size() == 2; }));
  std::promise<Response> answer;
  service->submit(request_of(9, 500ms),
                  [&](Response response) { answer.set_value(std::move(response)); });
  const auto response = answer.get_future().get();
  EXPECT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(first_number(response.output), expected_answer(pixels(9), {0, 1}));
  EXPECT_EQ(cam.asked().size(), 3u);
}

TEST_F(EjectionTest, AConnectionThatIsNewHasNothingHeldAgainstIt) {
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = patience;
  service = aggregator(std::move(wanted), 3);
  eject_cam();
  gate->open();
  const auto address = hosts["cam"];
  agents["cam"]->stop();
  ASSERT_TRUE(eventually([&] { return state() == "away"; }));
  agents["cam"] = std::make_unique<RunningAgent>(
      bundle, plan, RunningAgent::options_for("cam", address), std::make_unique<FakeEngine>());
  ASSERT_EQ(service->wait_for_agents(0, 10s), 3);
  EXPECT_EQ(state(), "joined");
  EXPECT_EQ(present_devices(ask(*service, request_of(1))), all);
}

// A real agent takes the copy under another id, and lets go of what was canceled.
TEST_F(EjectionTest, ARealAgentIsEjectedAndComesBack) {
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = patience;
  service = aggregator(std::move(wanted), 3);
  eject_cam();
  gate->open();
  EXPECT_TRUE(cam_comes_back());
  EXPECT_EQ(present_devices(ask(*service, request_of(1))), all);
  EXPECT_EQ(service->status().at(2).queued, 0);
}

// Its first piece is enough of a copy, and has a program where the whole has none.
TEST_F(EjectionTest, ALargeBatchBringsProbesToo) {
  start_agents({"hub", "desk"});
  start_agent("cam", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.min_wait = patience;
  service = aggregator(std::move(wanted), 3);
  eject_cam();
  gate->open();
  Request batch;
  batch.input = pixels(1, 200);
  batch.require_all = true;
  EXPECT_TRUE(cam_comes_back(batch));
}

TEST_F(EjectionTest, ATextThatLostTheDeviceGoesOnWithoutItAndANewOneHasItAgain) {
  plan = fake_text_plan();
  bundle = write_bundle(folder.path() / "text", plan);
  start();
  auto request = token_request(1min);
  const auto step = [&](std::uint64_t text, std::int64_t past) {
    request.sequence = {text, past, 8};
    return ask(*service, request);
  };
  const auto text = service->new_sequence();
  for (int i = 0; i < 3; ++i) step(i == 0 ? text : service->new_sequence(), 0);
  ASSERT_EQ(state(), ejected);
  const auto begun_meanwhile = service->new_sequence();
  EXPECT_EQ(step(begun_meanwhile, 0).devices.at(2).why, ejected);
  ASSERT_TRUE(cam_comes_back(token_request(1min)));
  for (const auto old : {text, begun_meanwhile})
    EXPECT_EQ(present_devices(step(old, 1)), without_cam);
  EXPECT_EQ(present_devices(step(service->new_sequence(), 0)), all);
}

TEST_F(EjectionTest, SaysOnceThatADeviceNeedsAMultipleOfItsPrediction) {
  cam.silent = false;
  cam.compute_s = 0.0425;  // predicted: 0.01
  start();
  for (int i = 0; i < 45; ++i) ask(*service, request_of(1));
  EXPECT_EQ(lines_with("[cam] needs 4.2 times the predicted time: run 'cleave profile'"), 1);
  EXPECT_EQ(lines_with("times the predicted time"), 1);
}

}  // namespace
}  // namespace cleave::infer
