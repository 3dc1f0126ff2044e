#include "optimizer/plan/profile.hpp"

#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/base/scratch.hpp"

namespace cleave::plan {
namespace {

using testing::message_of;

Profile some_profile() {
  Profile profile;
  profile.machine = "a board, 4 cores";
  profile.runtime_bytes = 174e6;
  double rate = 1e9;
  for (KernelCost& cost : profile.cost.kernels) cost = {1e-6, rate += 1e9, 2 * rate};
  profile.cost.instruction_s = 2e-6;
  profile.cost.wake_s = 3e-6;
  profile.cost.message_s = 1e-4;
  profile.cost.message_s_per_byte = 1e-10;
  profile.median_error = 0.04;
  profile.p90_error = 0.125;
  profile.samples.push_back({{KernelKind::attention, 300, 64, 50}, 0.0015, true});
  return profile;
}

TEST(CostModel, AddsOverheadWorkAndTraffic) {
  CostModel cost;
  cost.kernels[static_cast<std::size_t>(KernelKind::matmul)] = {1e-3, 1000, 100};
  const Kernel product{KernelKind::matmul, 2, 3, 5};
  EXPECT_DOUBLE_EQ(cost.seconds(product), 1e-3 + 60 / 1000.0 + 124 / 100.0);
  EXPECT_DOUBLE_EQ(cost.seconds(std::vector<Kernel>{product, product}), 2 * cost.seconds(product));
}

TEST(CostModel, TakesARateOfZeroAsNoSuchTerm) {
  CostModel cost;
  cost.kernels[static_cast<std::size_t>(KernelKind::norm)] = {0.5, 0, 0};
  EXPECT_DOUBLE_EQ(cost.seconds(Kernel{KernelKind::norm, 100, 0, 100}), 0.5);
}

TEST(Profile, ComesBackFromItsFile) {
  const testing::Scratch scratch;
  const Profile written = some_profile();
  write_profile(written, scratch / "board.json");
  const Profile read = read_profile(scratch / "board.json");
  EXPECT_EQ(to_json(read), to_json(written));
  ASSERT_EQ(read.samples.size(), 1u);
  EXPECT_EQ(read.samples[0].kernel.kind, KernelKind::attention);
  EXPECT_EQ(read.samples[0].kernel.columns, 50);
  EXPECT_TRUE(read.samples[0].held_out);
  for (std::size_t kind = 0; kind < num_kernel_kinds; ++kind) {
    EXPECT_EQ(read.cost.kernels[kind].overhead_s, written.cost.kernels[kind].overhead_s);
    EXPECT_EQ(read.cost.kernels[kind].flops_per_s, written.cost.kernels[kind].flops_per_s);
    EXPECT_EQ(read.cost.kernels[kind].bytes_per_s, written.cost.kernels[kind].bytes_per_s);
  }
  EXPECT_EQ(read.cost.instruction_s, 2e-6);
  EXPECT_EQ(read.cost.message_s, 1e-4);
  EXPECT_EQ(read.cost.message_s_per_byte, 1e-10);
  EXPECT_EQ(read.runtime_bytes, 174e6);
  EXPECT_EQ(read.machine, "a board, 4 cores");
  EXPECT_EQ(read.median_error, 0.04);
  EXPECT_EQ(read.p90_error, 0.125);
  EXPECT_EQ(read.samples[0].seconds, 0.0015);
}

TEST(Profile, NamesTheFieldThatIsWrong) {
  const auto read = [](const nlohmann::json& json) {
    return message_of([&] { profile_from_json(json.dump(), "board.json"); });
  };
  nlohmann::json json = to_json(some_profile());
  json["cost"]["norm"]["bytes_per_s"] = -1;
  EXPECT_EQ(read(json), "[board.json] cost.norm.bytes_per_s: saw -1, needs a number of at least 0");

  json = to_json(some_profile());
  json["cost"].erase("activation");
  EXPECT_NE(read(json).find("[board.json] cost.activation: "), std::string::npos) << read(json);

  json = to_json(some_profile());
  json["samples"][0]["kind"] = "softmax";
  EXPECT_NE(read(json).find("[board.json] samples[0].kind: saw \"softmax\""), std::string::npos)
      << read(json);

  json = to_json(some_profile());
  json["format"] = 3;
  EXPECT_NE(read(json).find("[board.json] format: saw 3"), std::string::npos) << read(json);
  json["format"] = 1;
  EXPECT_EQ(read(json),
            "[board.json] format: saw 1, needs 2: measure it again with 'cleave profile'");

  json = to_json(some_profile());
  json["weight_format"] = "int5";
  EXPECT_NE(read(json).find("[board.json] weight_format: saw "), std::string::npos) << read(json);
}

}  // namespace
}  // namespace cleave::plan
