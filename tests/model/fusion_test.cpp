#include "model/fusion.hpp"

#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;

ModelConfig tiny_config(std::int64_t summary_tokens) {
  ModelConfig config;
  config.family = summary_tokens == 2 ? Family::deit : Family::vit;
  config.summary_tokens = summary_tokens;
  config.width = 24;
  config.head_width = 8;
  config.layers.assign(2, LayerShape{3, 48});
  config.image_height = config.image_width = 8;
  config.patch = 4;
  config.channels = 1;
  config.classes = 5;
  config.processing.mean = config.processing.std = {0.5};
  config.processing.height = config.processing.width = 8;
  return config;
}

Transformer tiny_teacher(std::int64_t summary_tokens = 1) {
  Transformer teacher = random_model(tiny_config(summary_tokens), 3);
  at::manual_seed(5);  // a classifier's bias that is not zero
  for (auto& [name, tensor] : teacher.tensors) tensor = tensor + 0.1 * at::randn_like(tensor);
  return teacher;
}

std::vector<std::int64_t> all_channels() {
  std::vector<std::int64_t> channels(24);
  std::iota(channels.begin(), channels.end(), 0);
  return channels;
}

/// Three parts: channels 0..11, 8..19 and 2, 20; channels 21..23 are kept by nobody.
FusionHead three_parts(const Transformer& teacher) {
  std::vector<std::int64_t> first(12), second(12);
  std::iota(first.begin(), first.end(), 0);
  std::iota(second.begin(), second.end(), 8);
  return make_fusion(teacher, {"hub", "desk", "cam"}, {first, second, {2, 20}});
}

Tensor seeded(at::IntArrayRef dims, std::uint64_t seed = 1) {
  at::manual_seed(seed);
  return at::randn(dims);
}

std::vector<Tensor> three_features(std::int64_t batch = 2, std::int64_t tokens = 1) {
  return {seeded({batch, tokens, 12}, 1), seeded({batch, tokens, 12}, 2),
          seeded({batch, tokens, 2}, 3)};
}

struct Scratch {
  Scratch() {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    path = fs::temp_directory_path() / ("cleave_fusion_" + name + "_" + std::to_string(::getpid()));
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Scratch() { fs::remove_all(path); }
  fs::path path;
};

template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

class IdentityTest : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(IdentityTest, OnePartThatKeepsEverythingIsTheTeacherBitForBit) {
  const Transformer teacher = tiny_teacher(GetParam());
  const FusionHead head = make_fusion(teacher, {"hub"}, {all_channels()});
  const Tensor f = features(teacher, seeded({3, 1, 8, 8}));
  EXPECT_TRUE(at::equal(fuse(head, {f}), f));
  EXPECT_TRUE(at::equal(answer(head, fuse(head, {f})), classify(teacher, f)));
}
INSTANTIATE_TEST_SUITE_P(Fusion, IdentityTest, ::testing::Values(1, 2));

TEST(Fusion, IsExactAtARealModelsWidth) {
  ModelConfig config = tiny_config(1);
  config.width = 768;
  config.head_width = 64;
  config.layers = {LayerShape{1, 8}};
  const Transformer teacher = random_model(config, 1);
  std::vector<std::int64_t> channels(768);
  std::iota(channels.begin(), channels.end(), 0);
  const FusionHead head = make_fusion(teacher, {"hub"}, {channels});
  for (const std::int64_t batch : {1, 7, 64}) {
    const Tensor f = seeded({batch, 1, 768}) * 1e3;
    EXPECT_TRUE(at::equal(fuse(head, {f}), f)) << batch;
  }
}

TEST(Fusion, AveragesEachChannelOverThePartsThatKeepIt) {
  const FusionHead head = three_parts(tiny_teacher());
  const auto f = three_features();
  const Tensor fused = fuse(head, f);
  const auto channel = [&](std::int64_t c) { return fused.select(2, c); };
  EXPECT_TRUE(at::equal(channel(0), f[0].select(2, 0)));
  EXPECT_TRUE(at::equal(channel(19), f[1].select(2, 11)));
  EXPECT_TRUE(at::equal(channel(20), f[2].select(2, 1)));
  EXPECT_TRUE(at::allclose(channel(9), (f[0].select(2, 9) + f[1].select(2, 1)) / 2));
  EXPECT_TRUE(at::allclose(channel(2), (f[0].select(2, 2) + f[2].select(2, 0)) / 2));
  EXPECT_EQ(channel(23).abs().max().item<float>(), 0);
}

TEST(Fusion, AveragesOverThosePresentOnly) {
  const FusionHead head = three_parts(tiny_teacher());
  auto f = three_features();
  f[0] = Tensor();
  const Tensor fused = fuse(head, f);
  EXPECT_TRUE(at::equal(fused.select(2, 9), f[1].select(2, 1)));
  EXPECT_TRUE(at::equal(fused.select(2, 2), f[2].select(2, 0)));
  EXPECT_EQ(fused.select(2, 0).abs().max().item<float>(), 0);
}

// The formula of the header, channel by channel.
TEST(Fusion, FollowsItsFormulaAfterTraining) {
  FusionHead head = three_parts(tiny_teacher(2));
  std::uint64_t seed = 10;
  for (auto& [name, tensor] : parameters(head)) *tensor = seeded(tensor->sizes(), seed++);
  for (int missing = -1; missing < 3; ++missing) {
    auto f = three_features(2, 2);
    if (missing >= 0) f[static_cast<std::size_t>(missing)] = Tensor();
    Tensor sum = at::zeros({2, 2, 24}), cover = at::zeros({24});
    for (std::size_t p = 0; p < 3; ++p) {
      const auto& part = head.parts[p];
      sum = sum + (f[p].defined() ? at::matmul(f[p], part.weight.t()) + part.bias : part.absent);
      if (f[p].defined()) cover = cover + part.cover;
    }
    const Tensor fused = sum / at::clamp_min(cover, 1);
    EXPECT_TRUE(at::allclose(fuse(head, f), fused, 1e-5, 1e-5)) << "missing " << missing;
    Tensor logits = at::zeros({2, 5});
    for (const std::int64_t t : {0, 1}) {
      const std::string name = t == 0 ? "head" : "head_distilled";
      logits = logits + at::matmul(fused.select(1, t), head.head[name + ".weight"].t()) +
               head.head[name + ".bias"];
    }
    EXPECT_TRUE(at::allclose(answer(head, fused), logits / 2, 1e-5, 1e-5));
  }
}

TEST(Fusion, TrainsEveryParameter) {
  FusionHead head = three_parts(tiny_teacher());
  for (auto& [name, tensor] : parameters(head)) tensor->requires_grad_(true);
  auto f = three_features();
  f[1] = Tensor();
  answer(head, fuse(head, f)).square().sum().backward();
  EXPECT_FALSE(head.parts[1].weight.grad().defined()) << "absent";
  EXPECT_FALSE(head.parts[0].absent.grad().defined()) << "present";
  for (const Tensor& moved : {head.parts[0].weight, head.parts[2].bias, head.parts[1].absent,
                              head.head["head.weight"], head.head["head.bias"]})
    EXPECT_GT(moved.grad().abs().sum().item<float>(), 0);
}

TEST(Fusion, OwnsItsTensors) {
  const Transformer teacher = tiny_teacher();
  FusionHead head = make_fusion(teacher, {"hub"}, {all_channels()});
  const Tensor before = teacher["head.weight"].clone();
  head.head["head.weight"].detach().zero_();
  EXPECT_TRUE(at::equal(teacher["head.weight"], before));
}

TEST(Fusion, NamesItsParameters) {
  FusionHead head = three_parts(tiny_teacher(2));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : parameters(head)) names.push_back(name);
  EXPECT_EQ(names.front(), "parts.0.weight");
  EXPECT_EQ(names.at(8), "parts.2.absent");
  EXPECT_EQ(names.back(), "head_distilled.weight");
  EXPECT_EQ(names.size(), 13u);
}

TEST(Fusion, ComesBackFromDiskAsItWas) {
  const Scratch scratch;
  FusionHead head = three_parts(tiny_teacher(2));
  std::uint64_t seed = 20;
  for (auto& [name, tensor] : parameters(head)) *tensor = seeded(tensor->sizes(), seed++);
  save(head, scratch.path / "fusion");
  FusionHead loaded = load_fusion(scratch.path / "fusion");
  EXPECT_TRUE(loaded.teacher() == head.teacher());
  const auto before = parameters(head), after = parameters(loaded);
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i)
    EXPECT_TRUE(at::equal(*before[i].second, *after[i].second)) << before[i].first;
  for (std::size_t p = 0; p < 3; ++p) {
    EXPECT_EQ(loaded.parts[p].device, head.parts[p].device);
    EXPECT_EQ(loaded.parts[p].channels, head.parts[p].channels);
    EXPECT_TRUE(at::equal(loaded.parts[p].cover, head.parts[p].cover));
  }
}

TEST(Fusion, ReplacesAnOlderOneOnDisk) {
  const Scratch scratch;
  FusionHead head = three_parts(tiny_teacher());
  save(head, scratch.path / "fusion");
  head.parts[0].bias = at::ones({24});
  save(head, scratch.path / "fusion");
  EXPECT_TRUE(at::equal(load_fusion(scratch.path / "fusion").parts[0].bias, at::ones({24})));
}

TEST(Fusion, RefusesFeaturesThatDoNotFit) {
  const FusionHead head = three_parts(tiny_teacher());
  auto f = three_features();
  EXPECT_EQ(error_of([&] {
              fuse(head, {f[0], f[1]});
            }),
            "[fuse] features: saw 2, needs one for each of 3 parts, undefined where absent");
  EXPECT_EQ(error_of([&] {
              fuse(head, {Tensor(), Tensor(), Tensor()});
            }),
            "[fuse] features: saw 0 of 3 present, needs at least 1");
  f[2] = at::zeros({2, 1, 3});
  EXPECT_EQ(error_of([&] { fuse(head, f); }), "[feature of 'cam'] saw [2, 1, 3], needs [2, 1, 2]");
  f[2] = at::zeros({1, 1, 2});
  EXPECT_EQ(error_of([&] { fuse(head, f); }), "[feature of 'cam'] saw [1, 1, 2], needs [2, 1, 2]");
}

TEST(Fusion, RefusesChannelsTheTeacherHasNot) {
  const Transformer teacher = tiny_teacher();
  EXPECT_EQ(error_of([&] {
              make_fusion(teacher, {"hub"}, {{0, 24}});
            }),
            "[fusion] channels of 'hub': saw 24 after 0, needs ascending numbers 0..23");
  EXPECT_EQ(error_of([&] {
              make_fusion(teacher, {"hub"}, {{3, 3}});
            }),
            "[fusion] channels of 'hub': saw 3 after 3, needs ascending numbers 0..23");
  EXPECT_EQ(error_of([&] { make_fusion(teacher, {"hub"}, {{}}); }),
            "[fusion] channels of 'hub': saw none, needs at least 1");
  EXPECT_EQ(error_of([&] { make_fusion(teacher, {"hub"}, {}); }),
            "[fusion] parts: saw 1 devices and 0 lists of channels, needs one list for each of at "
            "least 1 device");
}

TEST(Fusion, RefusesADamagedFolder) {
  const Scratch scratch;
  const fs::path folder = scratch.path / "fusion";
  save(three_parts(tiny_teacher()), folder);
  const std::string good = base::read_text(folder / "fusion.json");
  // The error after one replacement, without the folder's name.
  const auto damaged = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    base::write_whole(folder / "fusion.json", text);
    return error_of([&] { load_fusion(folder); }).substr(folder.string().size() + 1);
  };
  EXPECT_EQ(damaged("\"format\": 2", "\"format\": 1"),
            "/fusion.json] format: saw 1, needs 2, the one version this program knows");
  EXPECT_EQ(damaged("\"device\"", "\"devise\""), "/fusion.json] parts[0].device: is missing");
  EXPECT_EQ(damaged("\"hidden_size\": 24", "\"hidden_size\": 16"),
            "/model.safetensors: parts.0.weight] saw [24, 12], needs [16, 12]");
  base::write_whole(folder / "fusion.json", good);
  fs::remove(folder / "model.safetensors");
  EXPECT_NE(error_of([&] { load_fusion(folder); }).find(folder.string()), std::string::npos);
}

TEST(Fusion, RefusesATensorOfTheWrongShape) {
  const Scratch scratch;
  FusionHead head = three_parts(tiny_teacher());
  head.parts[1].bias = at::zeros({23});
  save(head, scratch.path / "fusion");
  EXPECT_EQ(error_of([&] { load_fusion(scratch.path / "fusion"); }),
            "[" + (scratch.path / "fusion" / "model.safetensors").string() +
                ": parts.1.bias] saw [23], needs [24]");
}

}  // namespace
}  // namespace cleave::model
