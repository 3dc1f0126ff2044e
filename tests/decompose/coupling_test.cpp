#include "decompose/coupling.hpp"

#include <map>
#include <set>

#include <gtest/gtest.h>

#include "tests/decompose/teacher.hpp"

namespace cleave::decompose {
namespace {

using model::Axis;
using testing::tiny_config;

// The coupling graph of one layer. Each line of a parameter is [axis 0 | axis 1]; axes joined by a
// line are one group.
//
//   patch.weight [D|·····]─┐
//   patch.bias   [D]───────┤
//   class_token  [··|D]────┤
//   position     [··|D]────┤ residual                 heads of layer 0
//                          ●───────────[·|D] query.weight [H·K|·]───●
//   norm_attention.w,b [D]─●───────────[·|D] key.weight   [H·K|·]───●── query, key, value.bias
//   [H·K]
//                          ●───────────[·|D] value.weight [H·K|·]───●
//                          ●───[D|·] attention.output.weight [·|H·K]┘
//                          ●───[D]   attention.output.bias
//                          │
//   norm_mlp.w,b       [D]─●───[·|D] mlp.up.weight   [F|·]──●── mlp.up.bias [F]     MLP of layer 0
//                          ●───[D|·] mlp.down.weight [·|F]──┘
//                          ●───[D]   mlp.down.bias
//                          │   (next layers hang on the same residual line)
//   norm.w,b           [D]─●───[·|D] head.weight [C|·]── head.bias [C]              classes: never
//   cut

/// "attention.output.weight 1" …, one for each member.
std::set<std::string> members_of(const WidthGroup& group) {
  std::set<std::string> names;
  for (const auto& member : group.members) {
    names.insert(member.parameter + " " + std::to_string(member.axis));
  }
  return names;
}

const WidthGroup& find(const std::vector<WidthGroup>& groups, Axis::Kind kind, int layer) {
  for (const auto& group : groups) {
    if (group.kind == kind && group.layer == layer) return group;
  }
  throw std::out_of_range("no such group");
}

TEST(Coupling, TiesAttentionByHeads) {
  const auto groups = width_groups(tiny_config());
  const auto& heads = find(groups, Axis::Kind::heads, 1);
  EXPECT_EQ(heads.size, 2);
  EXPECT_EQ(heads.members.front().unit, 4);
  const std::string attention = "blocks.1.attention.";
  EXPECT_EQ(members_of(heads),
            (std::set<std::string>{attention + "query.weight 0", attention + "query.bias 0",
                                   attention + "key.weight 0", attention + "key.bias 0",
                                   attention + "value.weight 0", attention + "value.bias 0",
                                   attention + "output.weight 1"}));
}

TEST(Coupling, TiesTheMlpThroughItsNonLinearity) {
  const auto groups = width_groups(tiny_config());
  const auto& mlp = find(groups, Axis::Kind::mlp, 2);
  EXPECT_EQ(mlp.size, 10);
  EXPECT_EQ(mlp.members.front().unit, 1);
  EXPECT_EQ(members_of(mlp),
            (std::set<std::string>{"blocks.2.mlp.up.weight 0", "blocks.2.mlp.up.bias 0",
                                   "blocks.2.mlp.down.weight 1"}));
}

TEST(Coupling, ResidualRunsFromThePatchesToTheClassifier) {
  auto config = tiny_config();
  config.layers.resize(1);
  const auto groups = width_groups(config);
  ASSERT_EQ(groups.size(), 3u);  // residual, heads, MLP
  EXPECT_EQ(groups[0].kind, Axis::Kind::residual);
  EXPECT_EQ(groups[0].layer, -1);
  EXPECT_EQ(groups[0].size, 12);
  EXPECT_EQ(members_of(groups[0]),
            (std::set<std::string>{
                "embedding.patch.weight 0", "embedding.patch.bias 0", "embedding.class_token 2",
                "embedding.position 2", "blocks.0.norm_attention.weight 0",
                "blocks.0.norm_attention.bias 0", "blocks.0.attention.query.weight 1",
                "blocks.0.attention.key.weight 1", "blocks.0.attention.value.weight 1",
                "blocks.0.attention.output.weight 0", "blocks.0.attention.output.bias 0",
                "blocks.0.norm_mlp.weight 0", "blocks.0.norm_mlp.bias 0",
                "blocks.0.mlp.up.weight 1", "blocks.0.mlp.down.weight 0",
                "blocks.0.mlp.down.bias 0", "norm.weight 0", "norm.bias 0", "head.weight 1"}));
}

/// Configs that stress the walk: both families, missing heads, MLPs, biases and classifiers.
std::vector<model::ModelConfig> many_configs() {
  std::vector<model::ModelConfig> configs{tiny_config()};
  configs.push_back(testing::tiny_distilled_config());
  auto bare = tiny_config();
  bare.qkv_bias = false;
  bare.classes = 0;
  bare.layers = {{0, 20}, {2, 0}, {1, 1}};
  configs.push_back(bare);
  for (const auto& name : preset_names()) configs.push_back(preset(name));
  return configs;
}

TEST(Coupling, EveryCuttableAxisIsInExactlyOneGroup) {
  for (const auto& config : many_configs()) {
    std::map<std::string, int> seen;
    for (const auto& group : width_groups(config)) {
      for (const auto& name : members_of(group)) ++seen[name];
    }
    std::size_t cuttable = 0;
    for (const auto& parameter : model::parameters(config)) {
      for (std::size_t i = 0; i < parameter.axes.size(); ++i) {
        if (parameter.axes[i].kind == Axis::Kind::fixed) continue;
        ++cuttable;
        EXPECT_EQ(seen[parameter.name + " " + std::to_string(i)], 1) << parameter.name << " " << i;
      }
    }
    EXPECT_EQ(seen.size(), cuttable);  // and nothing else
  }
}

TEST(Coupling, GroupsAreWhatTheFamilyDescribes) {
  // Two descriptions of one model, the walk and the axes of its parameters, must agree.
  for (const auto& config : many_configs()) {
    std::map<std::string, model::Parameter> parameters;
    for (const auto& parameter : model::parameters(config)) parameters[parameter.name] = parameter;
    std::set<std::pair<Axis::Kind, int>> described, walked;
    for (const auto& [name, parameter] : parameters) {
      for (const auto& axis : parameter.axes) {
        if (axis.kind != Axis::Kind::fixed) described.insert({axis.kind, axis.layer});
      }
    }
    const auto groups = width_groups(config);
    for (const auto& group : groups) {
      walked.insert({group.kind, group.layer});
      for (const auto& member : group.members) {
        const auto& axis =
            parameters.at(member.parameter).axes[static_cast<std::size_t>(member.axis)];
        EXPECT_EQ(axis.size, group.size * member.unit) << member.parameter;
      }
    }
    EXPECT_EQ(walked, described);
    EXPECT_EQ(walked.size(), groups.size());
  }
}

}  // namespace
}  // namespace cleave::decompose
