#include "optimizer/simulate.hpp"

#include <algorithm>
#include <set>
#include <sstream>
#include <stdexcept>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "optimizer/task_graph.hpp"
#include "tests/base/scratch.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::optimizer {
namespace {

/// A device whose matrix products take `product_s` each and nothing else takes any time: times can
/// be told by hand.
plan::Device clockwork(const std::string& name, double product_s) {
  plan::Device device;
  device.name = name;
  device.memory_bytes = 1e9;
  device.profile.cost.kernels[static_cast<std::size_t>(plan::KernelKind::matmul)].overhead_s =
      product_s;
  return device;
}

/// Patches and six products of one layer.
constexpr double products_of_one_layer = 7;
constexpr double pixels = 28 * 28;

/// One part of one layer and 64 channels on each device; the first aggregates.
plan::Plan one_layer_each(const plan::Fleet& fleet) {
  const auto teacher = examples::fashion_vit();
  std::vector<plan::PlanPart> parts;
  for (const plan::Device& device : fleet.devices)
    parts.push_back(examples::part(teacher, device.name, 1, 64, 2, 128));
  return examples::plan_of(teacher, parts, fleet.devices.front().name, "decomposed");
}

Timeline play(const plan::Plan& plan, const plan::Fleet& fleet) {
  return simulate(plan, plan::compile(plan, plan.shape), fleet);
}

const Event& find(const Timeline& timeline, const std::string& lane, const std::string& what) {
  const auto found =
      std::find_if(timeline.events.begin(), timeline.events.end(),
                   [&](const Event& event) { return event.lane == lane && event.what == what; });
  if (found == timeline.events.end()) throw std::out_of_range(lane + ": " + what);
  return *found;
}

TEST(Simulate, AddsUpWhatOneRemoteDeviceDoes) {
  // The pixels go out (1 s a kilobyte), are computed on, the features come back, the aggregator
  // fuses.
  auto fleet = examples::fleet({clockwork("hub", 0), clockwork("cam", 0.1)}, 1000, 0.25);
  auto plan = one_layer_each(fleet);
  plan.parts.erase(plan.parts.begin());
  const Timeline timeline = play(plan, fleet);
  EXPECT_NEAR(timeline.latency_s,
              pixels / 1000 + 0.25 + products_of_one_layer * 0.1 + 64 * 4 / 1000.0 + 0.25, 1e-9);
  EXPECT_NEAR(find(timeline, "cam", "layer 0").start_s, pixels / 1000 + 0.25, 1e-9);
}

TEST(Simulate, NeedsNoLinkBetweenProcessesOfOneDevice) {
  auto fleet = examples::fleet({clockwork("hub", 0.1)}, 1000, 0.25);
  const auto plan = one_layer_each(fleet);
  // Seven products of the part; the fusion's two: the part's own and the classifier.
  EXPECT_NEAR(play(plan, fleet).latency_s, (products_of_one_layer + 2) * 0.1, 1e-9);
}

TEST(Simulate, PaysForAMessageAtBothEnds) {
  auto fleet = examples::fleet({clockwork("hub", 0.1)}, 1000, 0);
  fleet.devices[0].profile.cost.message_s = 0.01;
  fleet.devices[0].profile.cost.message_s_per_byte = 1e-4;
  const auto plan = one_layer_each(fleet);
  EXPECT_NEAR(play(plan, fleet).latency_s,
              (products_of_one_layer + 2) * 0.1 + 4 * 0.01 + 2 * (pixels + 64 * 4) * 1e-4, 1e-9);
}

TEST(Simulate, SendsToOneDeviceAfterTheOther) {
  // The pixels for both leave through the hub's only network: the second device starts a transfer
  // later.
  const auto fleet =
      examples::fleet({clockwork("hub", 0), clockwork("box", 0.1), clockwork("cam", 0.1)}, 1000, 0);
  auto plan = one_layer_each(fleet);
  plan.parts.erase(plan.parts.begin());
  const Timeline timeline = play(plan, fleet);
  EXPECT_NEAR(find(timeline, "box", "layer 0").start_s, pixels / 1000, 1e-9);
  EXPECT_NEAR(find(timeline, "cam", "layer 0").start_s, 2 * pixels / 1000, 1e-9);
}

TEST(Simulate, TakesTheFeaturesInOneAfterTheOther) {
  // Both are ready at the same time and leave through their own networks, but arrive through the
  // hub's.
  auto fleet =
      examples::fleet({clockwork("hub", 0), clockwork("box", 0.1), clockwork("cam", 0.1)}, 1e9, 0);
  fleet.pairs.push_back({1, 0, {1000, 0}});
  fleet.pairs.push_back({2, 0, {1000, 0}});
  auto plan = one_layer_each(fleet);
  plan.parts.erase(plan.parts.begin());
  const double first_s = products_of_one_layer * 0.1 + 64 * 4 / 1000.0;
  EXPECT_NEAR(play(plan, fleet).latency_s, first_s + 64 * 4 / 1000.0, 1e-5);
}

// Centres and what they stand for are two messages from each device to the other one; of 25 rows 5.
TEST(Simulate, PlaysBothResultsOfAnInstruction) {
  const auto fleet = examples::fleet({clockwork("d0", 0), clockwork("d1", 0)}, 1000, 0);
  plan::Plan plan = examples::prism_plan(examples::vit(1, 192, 3, 28, 4, 1, 10), 2);
  plan.parts[0].share()->rows = 1;
  plan.segments->compression = {500};
  const double pixels_s = pixels / 1000;
  const double means_s = 4 * 5 * 192 / 1000.0, marks_s = 4 * 5 * 2 / 1000.0;
  // The answer stays on the device that aggregates; pixels go to the other one.
  EXPECT_NEAR(play(plan, fleet).latency_s, pixels_s + means_s, 1e-9);
  plan.segments->content = plan::Segments::Content::clusters;
  EXPECT_NEAR(play(plan, fleet).latency_s, pixels_s + means_s + marks_s, 1e-9);
}

TEST(Simulate, ADeviceComputesOneThingAtATime) {
  // Two parts cannot be on one device in a plan; programs that say so still wait for each other.
  const auto fleet = examples::fleet({clockwork("hub", 0.1)}, 1000, 0);
  const auto teacher = examples::fashion_vit();
  auto plan = examples::plan_of(teacher,
                                {examples::part(teacher, "hub", 1, 64, 2, 128),
                                 examples::part(teacher, "cam", 1, 64, 2, 128)},
                                "hub", "decomposed");
  const auto programs = plan::compile(plan, plan.shape);
  plan.parts[1].device = "hub";
  // Both parts, and a fusion of two parts: one product, and the classifier.
  EXPECT_NEAR(simulate(plan, programs, fleet).latency_s, (2 * products_of_one_layer + 2) * 0.1,
              1e-9);
}

TEST(Simulate, RunsTheWholeModelOnOneDevice) {
  const auto fleet = examples::fleet({clockwork("hub", 0.1), clockwork("box", 0.05)}, 1000, 0.25);
  const auto teacher = examples::fashion_vit();
  auto plan =
      examples::plan_of(teacher, {examples::part(teacher, "box", 6, 192, 6, 768)}, "hub", "local");
  // Patches, six layers of six products, the classifier; ten logits come back.
  EXPECT_NEAR(play(plan, fleet).latency_s,
              pixels / 1000 + 0.25 + (1 + 6 * 6 + 1) * 0.05 + 10 * 4 / 1000.0 + 0.25, 1e-9);
}

TEST(Simulate, PlaysATokenOfATextThatIsGenerated) {
  const auto fleet = examples::fleet({clockwork("hub", 0.1), clockwork("cam", 0.1)}, 1000, 0.25);
  const auto teacher = examples::small_llama();
  auto plan = examples::plan_of(teacher, {examples::part(teacher, "cam", 2, 64, 3, 128)}, "hub",
                                "decomposed");
  plan.shape = {1, 100, 60};
  // A token goes out; of each layer queries, keys, values and what they come to, gate, up and down;
  // 64 numbers come back; the fusion's product and the head.
  EXPECT_NEAR(play(plan, fleet).latency_s,
              4 / 1000.0 + 0.25 + 2 * 7 * 0.1 + 64 * 4 / 1000.0 + 0.25 + 2 * 0.1, 1e-9);
}

TEST(Simulate, NamesTheSlowDeviceAsBottleneck) {
  auto fleet = examples::fleet({clockwork("hub", 0.1), clockwork("cam", 0.5)}, 1e6, 1e-3);
  const Timeline timeline = play(one_layer_each(fleet), fleet);
  EXPECT_EQ(timeline.bottleneck, "compute on cam");
  EXPECT_TRUE(find(timeline, "cam", "layer 0").critical);
  EXPECT_FALSE(find(timeline, "hub", "layer 0").critical);
}

TEST(Simulate, NamesTheSlowLinkAsBottleneck) {
  auto fleet = examples::fleet({clockwork("hub", 0.01), clockwork("cam", 0.01)}, 100, 0);
  EXPECT_EQ(play(one_layer_each(fleet), fleet).bottleneck, "link hub -> cam");
  fleet.default_link = {1e9, 5};
  fleet.pairs.push_back({0, 1, {1e9, 1}});
  EXPECT_EQ(play(one_layer_each(fleet), fleet).bottleneck, "link cam -> hub");
}

TEST(Simulate, TheCriticalPathExplainsTheWholeLatency) {
  const auto fleet = examples::three_devices();
  auto plan = one_layer_each(fleet);
  const Timeline timeline = play(plan, fleet);
  double critical_s = 0;
  for (const Event& event : timeline.events)
    if (event.critical) critical_s += event.end_s - event.start_s;
  const double link_latencies_s = 2 * 0.3e-3;
  EXPECT_NEAR(critical_s + link_latencies_s, timeline.latency_s, 1e-9);
}

TEST(Simulate, RefusesProgramsThatDoNotMatch) {
  const auto fleet = examples::three_devices();
  const auto plan = one_layer_each(fleet);
  const auto message = [&](const std::vector<plan::Program>& programs) -> std::string {
    try {
      simulate(plan, programs, fleet);
    } catch (const std::invalid_argument& wrong) {
      return wrong.what();
    }
    return "nothing was thrown";
  };
  auto no_receive = plan::compile(plan, plan.shape);
  std::get<plan::Send>(no_receive[1].instructions.back()).tag = 77;
  EXPECT_EQ(message(no_receive),
            "[programs] send from rank 1 to rank 3 with tag 77: saw no receive, needs one");

  auto no_send = plan::compile(plan, plan.shape);
  no_send[1].instructions.pop_back();
  EXPECT_EQ(message(no_send),
            "[programs] receive from rank 1 to rank 3 with tag 1: saw no send, needs one");

  auto one_less = plan::compile(plan, plan.shape);
  one_less.erase(one_less.begin());
  EXPECT_EQ(message(one_less), "[programs] saw 3, needs one for each of 4 ranks");
}

TEST(Simulate, RefusesProgramsThatWaitForEachOther) {
  const auto fleet = examples::fleet({clockwork("hub", 0.1)}, 1000, 0);
  const auto plan = one_layer_each(fleet);
  auto programs = plan::compile(plan, plan.shape);
  // What the part embeds comes from the aggregator, which has fused it before.
  auto& part = programs[0];
  const auto answer = plan::find_first<plan::Output>(programs[1])->value;
  const auto back = static_cast<plan::ValueId>(part.values.size());
  part.values.push_back(part.values[0]);
  part.instructions.insert(part.instructions.begin() + 1, plan::Receive{back, 1, 9, false});
  std::get<plan::Embed>(part.instructions[2]).given = back;
  programs[1].instructions.emplace_back(plan::Send{answer, 0, 9});
  EXPECT_EQ(testing::message_of([&] { simulate(plan, programs, fleet); }),
            "[programs] saw instructions that wait for each other, needs an order");
}

TEST(Trace, IsWhatPerfettoReads) {
  const auto fleet = examples::three_devices();
  const Timeline timeline = play(one_layer_each(fleet), fleet);
  const auto trace = nlohmann::json::parse(to_trace(timeline));
  std::size_t bars = 0;
  std::set<std::string> lanes;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("ph") == "X") {
      EXPECT_NEAR(event.at("ts").get<double>() * 1e-6, timeline.events[bars].start_s, 1e-12);
      EXPECT_GT(event.at("dur").get<double>(), 0);
      ++bars;
    } else if (event.at("name") == "thread_name") {
      lanes.insert(event.at("args").at("name").get<std::string>());
    }
  }
  EXPECT_EQ(bars, timeline.events.size());
  EXPECT_TRUE(lanes.count("hub -> cam"));
  EXPECT_TRUE(lanes.count("aggregator@hub"));
}

TEST(Gantt, HasOneAlignedRowForEachLane) {
  const auto fleet = examples::three_devices();
  const Timeline timeline = play(one_layer_each(fleet), fleet);
  std::istringstream text(to_gantt(timeline, 90));
  std::vector<std::string> rows;
  for (std::string row; std::getline(text, row);) rows.push_back(row);
  std::set<std::string> lanes;
  for (const Event& event : timeline.events) lanes.insert(event.lane);
  ASSERT_EQ(rows.size(), lanes.size() + 2);
  for (std::size_t i = 0; i + 1 < rows.size(); ++i) EXPECT_EQ(rows[i].size(), 90u) << rows[i];
  EXPECT_NE(rows.back().find(timeline.bottleneck), std::string::npos);
}

TEST(Gantt, DrawsEvenWhereNothingTakesTimeOrThereIsNoRoom) {
  EXPECT_NE(to_gantt({}, 0).find("bottleneck"), std::string::npos);
  const auto fleet = examples::three_devices();
  EXPECT_NE(to_gantt(play(one_layer_each(fleet), fleet), 1).find("cam"), std::string::npos);
}

}  // namespace
}  // namespace cleave::optimizer
