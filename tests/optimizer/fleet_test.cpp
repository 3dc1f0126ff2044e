#include "optimizer/plan/fleet.hpp"

#include <fstream>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "tests/base/scratch.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::plan {
namespace {

using testing::message_of;

const std::string head = "format = 1\n";
const std::string links = "[links]\nbandwidth = \"100 Mbit/s\"\nlatency = \"0.3 ms\"\n";

/// A device with these lines instead of its preset and memory.
std::string device(const std::string& name,
                   const std::string& rest = "memory = \"256 MB\"\npreset = \"pi5\"\n") {
  return "[[device]]\nname = \"" + name + "\"\n" + rest;
}

Fleet parse(const std::string& text) { return fleet_from_toml(text, "fleet.toml"); }

std::string refusal(const std::string& text) {
  return message_of([&] { parse(text); });
}

TEST(Fleet, ReadsEveryField) {
  const Fleet fleet = parse(head + links + R"(
    [[link]]
    from = "hub"
    to = "cam"
    bandwidth = "50 Mbit/s"
    [[device]]
    name = "hub"
    address = "127.0.0.1:7101"
    memory = "260 MB"
    disk = "8 GB"
    speed = 0.2
    watts_idle = 2.5
    watts_busy = 6.0
    aggregator = true
    [device.figures]
    gflops = 60
    memory_bandwidth = "9 GB/s"
    overhead = "10 us"
    message = "120 us"
    runtime_memory = "170 MB"
    [[device]]
    name = "cam"
    memory = "200 MiB"
    preset = "pi4"
  )");
  ASSERT_EQ(fleet.devices.size(), 2u);
  const Device& hub = fleet.devices[0];
  EXPECT_EQ(hub.address, "127.0.0.1:7101");
  EXPECT_EQ(hub.memory_bytes, 260e6);
  EXPECT_EQ(hub.disk_bytes, 8e9);
  EXPECT_EQ(hub.speed, 0.2);
  EXPECT_EQ(hub.watts_idle, 2.5);
  EXPECT_EQ(hub.watts_busy, 6);
  EXPECT_EQ(hub.profile.runtime_bytes, 170e6);
  EXPECT_DOUBLE_EQ(hub.profile.cost.message_s, 120e-6);
  const Kernel product{KernelKind::matmul, 100, 100, 100};
  EXPECT_DOUBLE_EQ(hub.seconds({product}), (10e-6 + 2e6 / 60e9 + 120e3 / 9e9) / 0.2);
  EXPECT_EQ(fleet.devices[1].memory_bytes, 200.0 * 1024 * 1024);
  EXPECT_EQ(fleet.devices[1].speed, 1);
  EXPECT_EQ(fleet.may_aggregate, (std::vector<bool>{true, false}));
  EXPECT_EQ(fleet.find("cam"), std::size_t{1});
  EXPECT_FALSE(fleet.find("box"));
}

TEST(Fleet, KnowsWhoOnlyAggregates) {
  const std::string some = "memory = \"1 GB\"\npreset = \"pi4\"\n";
  const Fleet fleet =
      parse(head + links + device("a", some) + device("b", some + "agent = false\n"));
  EXPECT_TRUE(fleet.devices[0].agent);
  EXPECT_FALSE(fleet.devices[1].agent);
  EXPECT_NE(refusal(head + links + device("a", some) +
                    device("b", some + "agent = false\naggregator = false\n"))
                .find("saw a device that neither has a part nor aggregates"),
            std::string::npos);
  EXPECT_NE(refusal(head + links + device("a", some + "agent = false\n"))
                .find("saw agent = false on every device, needs one that has a part"),
            std::string::npos);
}

TEST(Fleet, PrefersAPairsOwnLink) {
  const Fleet fleet = parse(head + links +
                            "[[link]]\nfrom = \"a\"\nto = \"b\"\nbandwidth = \"8 Mbit/s\"\n"
                            "[[link]]\nfrom = \"b\"\nto = \"c\"\nbandwidth = \"16 Mbit/s\"\n"
                            "one_way = true\n" +
                            device("a") + device("b") + device("c"));
  EXPECT_DOUBLE_EQ(fleet.link(0, 1).bytes_per_s, 1e6);
  EXPECT_DOUBLE_EQ(fleet.link(1, 0).bytes_per_s, 1e6);
  EXPECT_DOUBLE_EQ(fleet.link(0, 1).latency_s, 0);
  EXPECT_DOUBLE_EQ(fleet.link(1, 2).bytes_per_s, 2e6);
  EXPECT_DOUBLE_EQ(fleet.link(2, 1).bytes_per_s, 12.5e6);
  EXPECT_DOUBLE_EQ(fleet.link(2, 1).latency_s, 0.3e-3);
  EXPECT_EQ(1 / fleet.link(2, 2).bytes_per_s, 0);
}

TEST(Fleet, LetsTheFastestAggregateThatMay) {
  const std::string slow = "memory = \"1 GB\"\npreset = \"pi4\"\n";
  const std::string fast = "memory = \"1 GB\"\npreset = \"n100\"\n";
  EXPECT_EQ(parse(head + links + device("a", slow) + device("b", fast)).aggregator(), 1u);
  EXPECT_EQ(parse(head + links + device("a", slow + "aggregator = true\n") + device("b", fast))
                .aggregator(),
            0u);
  EXPECT_EQ(parse(head + links + device("a", slow) + device("b", fast + "aggregator = false\n"))
                .aggregator(),
            0u);
  EXPECT_EQ(
      parse(head + links + device("a", slow) + device("b", fast + "speed = 0.05\n")).aggregator(),
      0u);
  EXPECT_EQ(parse(head + links + device("a", fast) + device("b", fast)).aggregator(), 0u);
}

TEST(Fleet, ReadsAProfileBesideIt) {
  const testing::Scratch scratch;
  write_profile(examples::device("x", 1).profile, scratch / "x.json");
  base::write_whole(scratch / "fleet.toml",
                    head + device("x", "memory = \"1 GB\"\nprofile = \"x.json\"\n"));
  EXPECT_EQ(read_fleet(scratch / "fleet.toml").devices.at(0).profile.runtime_bytes, 175e6);
}

TEST(Fleet, OrdersThePresetsAsTheBoardsAre) {
  const auto seconds = [](const std::string& preset) {
    const std::string rest = "memory = \"1 GB\"\npreset = \"" + preset + "\"\n";
    return parse(head + device("x", rest))
        .devices[0]
        .seconds(kernels_of_model(examples::vit_base(), {1, 0, 0}, true));
  };
  EXPECT_LT(seconds("jetson-orin-nano"), seconds("jetson-nano"));
  EXPECT_LT(seconds("n100"), seconds("pi5"));
  EXPECT_LT(seconds("pi5"), seconds("pi4"));
  EXPECT_NEAR(seconds("pi5"), 0.75, 0.25);
}

TEST(Fleet, TakesOneDeviceWithoutLinks) {
  EXPECT_EQ(parse(head + device("only")).devices.size(), 1u);
}

TEST(Fleet, RefusesAnUnknownDeviceInALink) {
  EXPECT_EQ(refusal(head + links +
                    "[[link]]\nfrom = \"camera\"\nto = \"camara\"\nbandwidth = \"1 MB/s\"\n" +
                    device("hub") + device("camera")),
            "[fleet.toml] link[0].to: saw 'camara', needs a device of this fleet (did you mean "
            "'camera'?)");
}

TEST(Fleet, RefusesADoubledName) {
  EXPECT_EQ(refusal(head + links + device("hub") + device("hub")),
            "[fleet.toml] device[1].name: saw 'hub' again, needs another name for each device");
}

TEST(Fleet, RefusesANameThatIsNoFolder) {
  EXPECT_NE(refusal(head + device("../hub")).find("device[0].name: saw '../hub', needs 1 to 64"),
            std::string::npos);
}

TEST(Fleet, RefusesZeroMemory) {
  EXPECT_EQ(refusal(head + device("hub", "memory = 0\npreset = \"pi5\"\n")),
            "[fleet.toml] device[0].memory: saw 0, needs more than 0");
}

TEST(Fleet, RefusesDevicesWithoutALink) {
  EXPECT_EQ(refusal(head + device("hub") + device("cam")),
            "[fleet.toml] saw no link between hub and cam: needs [links] or a [[link]]");
  EXPECT_EQ(refusal(head + "[[link]]\nfrom = \"hub\"\nto = \"cam\"\nbandwidth = \"1 MB/s\"\n" +
                    "one_way = true\n" + device("hub") + device("cam")),
            "[fleet.toml] saw no link between cam and hub: needs [links] or a [[link]]");
}

TEST(Fleet, RefusesADoubledLinkAndALoop) {
  const std::string there = "[[link]]\nfrom = \"hub\"\nto = \"cam\"\nbandwidth = \"1 MB/s\"\n";
  const std::string back = "[[link]]\nfrom = \"cam\"\nto = \"hub\"\nbandwidth = \"1 MB/s\"\n";
  EXPECT_EQ(refusal(head + there + back + device("hub") + device("cam")),
            "[fleet.toml] link[1]: saw the link cam -> hub again, needs each direction once");
  EXPECT_EQ(refusal(head + "[[link]]\nfrom = \"hub\"\nto = \"hub\"\nbandwidth = \"1 MB/s\"\n" +
                    device("hub")),
            "[fleet.toml] link[0]: saw a link from 'hub' to itself, needs two devices");
}

TEST(Fleet, RefusesAnUnknownPreset) {
  EXPECT_EQ(refusal(head + device("hub", "memory = \"1 GB\"\npreset = \"pi6\"\n")),
            "[fleet.toml] device[0].preset: saw 'pi6', needs one of pi4, pi5, jetson-nano, "
            "jetson-orin-nano, n100");
}

TEST(Fleet, RefusesADeviceOfUnknownSpeed) {
  EXPECT_EQ(refusal(head + device("hub", "memory = \"1 GB\"\n")),
            "[fleet.toml] device[0]: saw 0 of profile, figures, preset, needs exactly one");
  EXPECT_EQ(refusal(head + device("hub", "memory = \"1 GB\"\npreset = \"pi5\"\nprofile = \"x\"\n")),
            "[fleet.toml] device[0]: saw 2 of profile, figures, preset, needs exactly one");
}

TEST(Fleet, NamesTheNearestKey) {
  const std::string message =
      refusal(head + device("hub", "memroy = \"1 GB\"\npreset = \"pi5\"\n"));
  EXPECT_NE(message.find("device[0]"), std::string::npos) << message;
  EXPECT_NE(message.find("memory"), std::string::npos) << message;
}

TEST(Fleet, RefusesBadAddresses) {
  const auto address = [](const std::string& text) {
    return device("hub", "memory = \"1 GB\"\npreset = \"pi5\"\naddress = \"" + text + "\"\n");
  };
  for (const char* bad :
       {"hub", "hub:", ":7101", "hub:0", "hub:65536", "hub:7x", "a b:1", "::1:80"})
    EXPECT_NE(refusal(head + address(bad)).find("device[0].address: saw '" + std::string(bad)),
              std::string::npos)
        << bad;
  for (const char* good : {"hub:1", "127.0.0.1:65535", "[::1]:80"})
    EXPECT_EQ(refusal(head + address(good)), "") << good;
  EXPECT_NE(refusal(head + links + address("hub:1") + device("cam") + "address = \"hub:1\"\n")
                .find("device[1].address: saw 'hub:1' again (it is hub's)"),
            std::string::npos);
}

TEST(Fleet, RefusesAFleetThatCannotAggregate) {
  EXPECT_EQ(
      refusal(head + device("hub", "memory = \"1 GB\"\npreset = \"pi5\"\naggregator = false\n")),
      "[fleet.toml] device: saw aggregator = false on every device, needs one that may aggregate");
}

TEST(Fleet, RefusesAnUnknownFormatAndNoDevices) {
  EXPECT_NE(refusal("format = 2\n").find("[fleet.toml] format: saw 2"), std::string::npos);
  EXPECT_NE(refusal(head + "device = []\n").find("saw 0 devices"), std::string::npos);
}

}  // namespace
}  // namespace cleave::plan
