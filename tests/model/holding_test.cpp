#include "model/config/holding.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.hpp"
#include "model/checkpoint.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using testing::error_of;
using testing::Scratch;
using testing::tiny_config;

const ParameterRange some_columns{"blocks.1.mlp.down.weight", 1, {5, 12}};
const ParameterRange all_of_a_norm{"norm.weight", 0, {0, 12}};

std::string refusal(const ParameterRange& held) {
  return error_of([&] { dims_of(held, tiny_config()); });
}

TEST(ParameterRange, HasTheShapeOfItsPart) {
  EXPECT_EQ(dims_of(some_columns, tiny_config()), (std::vector<std::int64_t>{12, 7}));
  EXPECT_EQ(dims_of(all_of_a_norm, tiny_config()), (std::vector<std::int64_t>{12}));
}

TEST(ParameterRange, RefusesWhatTheModelHasNot) {
  EXPECT_EQ(refusal({"blocks.7.mlp.up.weight", 0, {0, 1}}),
            "name: saw 'blocks.7.mlp.up.weight', the model has no such parameter");
  EXPECT_EQ(refusal({"norm.weight", 1, {0, 1}}), "axis: saw 1, norm.weight has 1");
  EXPECT_EQ(refusal({"norm.weight", 0, {3, 13}}), "range: saw 3 to 13, norm.weight has 0 to 12");
  EXPECT_EQ(refusal({"norm.weight", 0, {3, 2}}), "range: saw 3 to 2, norm.weight has 0 to 12");
}

TEST(Holding, ComesBackFromItsFolder) {
  const Scratch scratch;
  write_holding({tiny_config(), {some_columns, all_of_a_norm}}, scratch.path());
  const Holding read = read_holding(scratch.path());
  EXPECT_TRUE(read.model == tiny_config());
  ASSERT_EQ(read.weights.size(), 2u);
  EXPECT_TRUE(read.weights[0] == some_columns);
  EXPECT_TRUE(read.weights[1] == all_of_a_norm);
}

TEST(Holding, SaysInItsFileWhatIsWrong) {
  const Scratch scratch;
  const auto refused = [&](const std::string& from, const std::string& to) {
    write_holding({tiny_config(), {some_columns, all_of_a_norm}}, scratch.path());
    std::string text = base::read_text(scratch / "holding.json");
    const auto at = text.find(from);
    text.replace(at, from.size(), to);
    base::write_whole(scratch / "holding.json", text);
    return error_of([&] { read_holding(scratch.path()); })
        .substr(scratch.path().string().size() + 1);
  };
  EXPECT_EQ(refused("\"end\": 12,\n   \"name\": \"blocks", "\"end\": 99,\n   \"name\": \"blocks"),
            "/holding.json] weights[0]: range: saw 5 to 99, blocks.1.mlp.down.weight has 0 to 20");
  EXPECT_EQ(refused("norm.weight", "blocks.1.mlp.down.weight"),
            "/holding.json] weights[1]: saw 'blocks.1.mlp.down.weight' again");
  EXPECT_EQ(refused("\"format\": 1", "\"format\": 2"),
            "/holding.json] format: saw 2, needs 1, the one version this program knows");
}

TEST(Holding, IsRefusedWhereItsTensorsAreOthers) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "held");
  const at::Tensor weights = at::ones({12, 6});
  SafetensorsWriter writer(scratch / "held" / "model.safetensors",
                           {{some_columns.name, base::Element::f32, {12, 6}, 0, 0}});
  writer.write(weights.data_ptr<float>(), weights.nbytes());
  writer.commit();
  write_holding({tiny_config(), {some_columns}}, scratch / "held");
  testing::expect_contains(
      error_of([&] { load_holding(scratch / "held"); }),
      "model.safetensors: [blocks.1.mlp.down.weight] saw [12, 6], needs [12, 7]");
  write_holding({tiny_config(), {all_of_a_norm}}, scratch / "held");
  testing::expect_contains(error_of([&] { load_holding(scratch / "held"); }), "norm.weight");
}

}  // namespace
}  // namespace cleave::model
