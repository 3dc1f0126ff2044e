#include "model/fusion.hpp"

#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

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

FusionHead::Part part_of(const std::string& device, const std::vector<std::int64_t>& channels,
                         std::int64_t width = 24) {
  FusionHead::Part part;
  part.device = device;
  part.basis = channel_basis(channels, width, device);
  return part;
}

/// Parts keep channels 0..11, 8..19 and 2, 20; channels 21..23 are kept by nobody. A fourth and a
/// fifth keep 3..5 and 5, 6.
FusionHead head_of_parts(const Transformer& teacher, std::size_t count) {
  std::vector<std::int64_t> first(12), second(12);
  std::iota(first.begin(), first.end(), 0);
  std::iota(second.begin(), second.end(), 8);
  std::vector<FusionHead::Part> parts = {part_of("hub", first), part_of("desk", second),
                                         part_of("cam", {2, 20}), part_of("door", {3, 4, 5}),
                                         part_of("gate", {5, 6})};
  parts.resize(count);
  return make_fusion(teacher, std::move(parts));
}
FusionHead three_parts(const Transformer& teacher) { return head_of_parts(teacher, 3); }

Tensor seeded(at::IntArrayRef dims, std::uint64_t seed = 1) {
  at::manual_seed(seed);
  return at::randn(dims);
}

std::vector<Tensor> three_features(std::int64_t batch = 2, std::int64_t tokens = 1) {
  return {seeded({batch, tokens, 12}, 1), seeded({batch, tokens, 12}, 2),
          seeded({batch, tokens, 2}, 3)};
}

std::vector<Tensor> five_features(std::int64_t batch = 2, std::int64_t tokens = 1) {
  auto features = three_features(batch, tokens);
  features.push_back(seeded({batch, tokens, 3}, 4));
  features.push_back(seeded({batch, tokens, 2}, 5));
  return features;
}

/// Numbers of its own in everything that is trained.
void scramble(FusionHead& head, std::uint64_t seed) {
  for (auto& [name, tensor] : parameters(head)) *tensor = seeded(tensor->sizes(), seed++);
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
  const FusionHead head = make_fusion(teacher, {part_of("hub", all_channels())});
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
  const FusionHead head = make_fusion(teacher, {part_of("hub", channels, 768)});
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

// The formulas of the header, for every set of parts that are present.
TEST(Fusion, FollowsItsFormulaAfterTraining) {
  FusionHead head = three_parts(tiny_teacher(2));
  scramble(head, 10);
  for (std::size_t set = 1; set < 8; ++set) {
    auto f = three_features(2, 2);
    std::vector<Tensor> there;
    for (std::size_t p = 0; p < 3; ++p) {
      if ((set >> p & 1) != 0)
        there.push_back(f[p]);
      else
        f[p] = Tensor();
    }
    const auto& subset = head.subsets[set - 1];
    const Tensor fused = at::matmul(at::cat(there, 2), subset.weight.t()) + subset.bias;
    EXPECT_TRUE(at::allclose(fuse(head, f), fused, 1e-5, 1e-5)) << set;
    Tensor logits = at::zeros({2, 5});
    for (const std::int64_t t : {0, 1}) {
      const std::string name = t == 0 ? "head" : "head_distilled";
      logits = logits + at::matmul(fused.select(1, t), head.head[name + ".weight"].t()) +
               head.head[name + ".bias"];
    }
    EXPECT_TRUE(at::allclose(answer(head, fused), logits / 2, 1e-5, 1e-5));
  }
}

TEST(Fusion, SharesOneHeadAmongMoreThanFourParts) {
  FusionHead head = head_of_parts(tiny_teacher(2), 5);
  EXPECT_TRUE(head.subsets.empty());
  scramble(head, 10);
  for (int missing = -1; missing < 5; ++missing) {
    auto f = five_features(2, 2);
    if (missing >= 0) f[static_cast<std::size_t>(missing)] = Tensor();
    Tensor sum = at::zeros({2, 2, 24}), cover = at::zeros({24});
    for (std::size_t p = 0; p < 5; ++p) {
      const auto& part = head.shared[p];
      sum = sum + (f[p].defined() ? at::matmul(f[p], part.weight.t()) + part.bias : part.absent);
      if (f[p].defined()) cover = cover + part.cover;
    }
    EXPECT_TRUE(at::allclose(fuse(head, f), sum / at::clamp_min(cover, 1), 1e-5, 1e-5))
        << "missing " << missing;
  }
}

TEST(Fusion, AveragesOverFourPartsAndFiveAlike) {
  const FusionHead four = head_of_parts(tiny_teacher(), 4), five = head_of_parts(tiny_teacher(), 5);
  ASSERT_EQ(four.subsets.size(), 15u);
  auto f = five_features();
  f[4] = f[1] = Tensor();
  EXPECT_TRUE(at::allclose(fuse(five, f), fuse(four, {f[0], f[1], f[2], f[3]}), 1e-5, 1e-6));
}

TEST(Fusion, MapsFeaturesBackByTheirBasisAndOrigin) {
  const Transformer teacher = tiny_teacher();
  FusionHead::Part first, second = part_of("desk", {1, 2});
  first.device = "hub";
  first.basis = seeded({24, 3}, 7);
  first.origin = seeded({24}, 8);
  const FusionHead head = make_fusion(teacher, {first, second});
  const Tensor f = seeded({2, 1, 3}, 9), g = seeded({2, 1, 2}, 10);
  const Tensor back = at::matmul(f, first.basis.t()) + first.origin;
  EXPECT_TRUE(at::allclose(mapped_back(head.parts[0], f), back, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(fuse(head, {f, Tensor()}), back, 1e-5, 1e-5));
  const Tensor both = fuse(head, {f, g});
  EXPECT_TRUE(at::allclose(both.select(2, 0), back.select(2, 0), 1e-5, 1e-5));
  EXPECT_TRUE(
      at::allclose(both.select(2, 2), (back.select(2, 2) + g.select(2, 1)) / 2, 1e-5, 1e-5));
}

TEST(Fusion, TrainsEveryParameter) {
  FusionHead head = three_parts(tiny_teacher());
  for (auto& [name, tensor] : parameters(head)) tensor->requires_grad_(true);
  auto f = three_features();
  f[1] = Tensor();
  answer(head, fuse(head, f)).square().sum().backward();
  const auto& fused = head.subset({true, false, true});
  for (const Tensor& moved :
       {fused.weight, fused.bias, head.head["head.weight"], head.head["head.bias"]})
    EXPECT_GT(moved.grad().abs().sum().item<float>(), 0);
  for (std::size_t s = 0; s < head.subsets.size(); ++s)
    EXPECT_EQ(head.subsets[s].weight.grad().defined(), s + 1 == 0b101) << s;
}

TEST(Fusion, OwnsItsTensors) {
  const Transformer teacher = tiny_teacher();
  FusionHead head = make_fusion(teacher, {part_of("hub", all_channels())});
  const Tensor before = teacher["head.weight"].clone();
  head.head["head.weight"].detach().zero_();
  EXPECT_TRUE(at::equal(teacher["head.weight"], before));
}

TEST(Fusion, NamesItsParameters) {
  FusionHead head = three_parts(tiny_teacher(2));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : parameters(head)) names.push_back(name);
  EXPECT_EQ(names.front(), "subsets.0.weight");
  EXPECT_EQ(names.at(9), "subsets.0+2.bias");
  EXPECT_EQ(names.at(13), "subsets.0+1+2.bias");
  EXPECT_EQ(names.back(), "head_distilled.weight");
  EXPECT_EQ(names.size(), 18u);
  EXPECT_EQ(subset_name({true, false, true}), "subsets.0+2.");
  FusionHead five = head_of_parts(tiny_teacher(), 5);
  EXPECT_EQ(parameters(five).at(5).first, "shared.1.absent");
}

TEST(Fusion, ComesBackFromDiskAsItWas) {
  const Scratch scratch;
  for (const std::size_t count : {3, 5}) {
    FusionHead head = head_of_parts(tiny_teacher(2), count);
    scramble(head, 20);
    head.parts[1].largest_feature = 7.5;
    head.parts[1].origin = seeded({24}, 40);
    save(head, scratch.path / "fusion");
    FusionHead loaded = load_fusion(scratch.path / "fusion", true);
    EXPECT_TRUE(loaded.teacher() == head.teacher());
    const auto before = parameters(head), after = parameters(loaded);
    ASSERT_EQ(before.size(), after.size());
    for (std::size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(at::equal(*before[i].second, *after[i].second)) << before[i].first;
    for (std::size_t p = 0; p < count; ++p) {
      EXPECT_EQ(loaded.parts[p].device, head.parts[p].device);
      EXPECT_EQ(loaded.parts[p].width, head.parts[p].width);
      EXPECT_EQ(loaded.parts[p].largest_feature, head.parts[p].largest_feature);
      EXPECT_TRUE(at::equal(loaded.parts[p].basis, head.parts[p].basis));
      EXPECT_TRUE(at::equal(loaded.parts[p].origin, head.parts[p].origin));
    }
    for (std::size_t p = 0; p < head.shared.size(); ++p)
      EXPECT_TRUE(at::equal(loaded.shared[p].cover, head.shared[p].cover));
    EXPECT_FALSE(load_fusion(scratch.path / "fusion").parts[0].basis.defined()) << "to answer";
  }
}

/// What format 2 wrote of parts that keep channels: A_p, b_p and m_p of each.
struct OldHead {
  std::vector<std::vector<std::int64_t>> channels;
  std::vector<Tensor> weights, biases, absents;

  Tensor fuse(const std::vector<Tensor>& features) const {
    Tensor sum = at::zeros({24}), cover = at::zeros({24});
    for (std::size_t p = 0; p < channels.size(); ++p) {
      if (!features[p].defined()) {
        sum = sum + absents[p];
        continue;
      }
      sum = sum + at::matmul(features[p], weights[p].t()) + biases[p];
      for (const std::int64_t channel : channels[p]) cover[channel] += 1;
    }
    return sum / cover.clamp_min(1);
  }

  void write(const Transformer& teacher, const fs::path& folder) const {
    std::vector<std::pair<std::string, Tensor>> tensors;
    nlohmann::json parts = nlohmann::json::array();
    for (std::size_t p = 0; p < channels.size(); ++p) {
      const std::string prefix = "parts." + std::to_string(p) + ".";
      tensors.emplace_back(prefix + "weight", weights[p]);
      tensors.emplace_back(prefix + "bias", biases[p]);
      tensors.emplace_back(prefix + "absent", absents[p]);
      parts.push_back({{"device", "device" + std::to_string(p)},
                       {"channels", channels[p]},
                       {"largest_feature", 2.5}});
    }
    for (const Parameter& parameter : head_parameters(teacher.config))
      tensors.emplace_back(parameter.name, teacher[parameter.name]);
    std::vector<TensorEntry> entries;
    for (const auto& [name, tensor] : tensors) {
      TensorEntry entry;
      entry.name = name;
      entry.dims = tensor.sizes().vec();
      entry.bytes = static_cast<std::uint64_t>(tensor.numel()) * sizeof(float);
      entries.push_back(entry);
    }
    fs::create_directories(folder);
    SafetensorsWriter writer(folder / "model.safetensors", entries);
    for (std::size_t i = 0; i < tensors.size(); ++i)
      writer.write(tensors[i].second.contiguous().data_ptr<float>(), entries[i].bytes);
    writer.commit();
    base::write_whole(
        folder / "fusion.json",
        nlohmann::json{{"format", 2}, {"teacher", config_to_json(teacher.config)}, {"parts", parts}}
            .dump(1));
  }
};

TEST(Fusion, AnswersAsFormat2DidWhereAHeadIsOfThatFormat) {
  const Scratch scratch;
  const Transformer teacher = tiny_teacher();
  for (const std::size_t count : {3, 5}) {
    OldHead old;
    auto f = five_features();
    f.resize(count);
    for (std::size_t p = 0; p < count; ++p) {
      old.channels.push_back({});
      for (std::int64_t c = 0; c < f[p].size(2); ++c)
        old.channels.back().push_back(c + static_cast<std::int64_t>(p));
      old.weights.push_back(seeded({24, f[p].size(2)}, 60 + p));
      old.biases.push_back(seeded({24}, 70 + p));
      old.absents.push_back(seeded({24}, 80 + p));
    }
    old.write(teacher, scratch.path / "old");
    const FusionHead head = load_fusion(scratch.path / "old", true);
    EXPECT_EQ(head.subsets.empty(), count == 5);
    EXPECT_EQ(head.parts[2].largest_feature, 2.5);
    EXPECT_TRUE(at::equal(head.parts[1].basis, channel_basis(old.channels[1], 24, "device1")));
    for (std::size_t set = 1; set < (std::size_t{1} << count); ++set) {
      std::vector<Tensor> there = f;
      for (std::size_t p = 0; p < count; ++p)
        if ((set >> p & 1) == 0) there[p] = Tensor();
      EXPECT_TRUE(at::allclose(fuse(head, there), old.fuse(there), 1e-5, 1e-5)) << set;
    }
    EXPECT_TRUE(
        at::equal(answer(head, at::ones({1, 1, 24})), classify(teacher, at::ones({1, 1, 24}))));
  }
}

TEST(Fusion, ReplacesAnOlderOneOnDisk) {
  const Scratch scratch;
  FusionHead head = three_parts(tiny_teacher());
  save(head, scratch.path / "fusion");
  head.subsets[0].bias = at::ones({24});
  save(head, scratch.path / "fusion");
  EXPECT_TRUE(at::equal(load_fusion(scratch.path / "fusion").subsets[0].bias, at::ones({24})));
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
  EXPECT_EQ(error_of([] {
              channel_basis({0, 24}, 24, "hub");
            }),
            "[fusion] channels of 'hub': saw 24 after 0, needs ascending numbers 0..23");
  EXPECT_EQ(error_of([] {
              channel_basis({3, 3}, 24, "hub");
            }),
            "[fusion] channels of 'hub': saw 3 after 3, needs ascending numbers 0..23");
  EXPECT_EQ(error_of([] { channel_basis({}, 24, "hub"); }),
            "[fusion] channels of 'hub': saw none, needs at least 1");
  const Transformer teacher = tiny_teacher();
  EXPECT_EQ(error_of([&] { make_fusion(teacher, {}); }),
            "[fusion] parts: saw none, needs at least 1");
  EXPECT_EQ(error_of([&] { make_fusion(teacher, {part_of("hub", {1}, 23)}); }),
            "[fusion] basis of 'hub': needs 24 rows, the teacher's width");
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
  EXPECT_EQ(damaged("\"format\": 3", "\"format\": 1"),
            "/fusion.json] format: saw 1, needs 3 or 2, the versions this program knows");
  EXPECT_EQ(damaged("\"width\": 2", "\"width\": 0"),
            "/fusion.json] parts[2].width: saw 0, needs a whole number from 1 to 16777216");
  EXPECT_EQ(damaged("\"device\"", "\"devise\""),
            "/fusion.json] parts[0].devise: unknown key; did you mean \"device\"?");
  EXPECT_EQ(damaged("\"hidden_size\": 24", "\"hidden_size\": 16"),
            "/model.safetensors: subsets.0.weight] saw [24, 12], needs [16, 12]");
  base::write_whole(folder / "fusion.json", good);
  fs::remove(folder / "model.safetensors");
  EXPECT_NE(error_of([&] { load_fusion(folder); }).find(folder.string()), std::string::npos);
}

TEST(Fusion, RefusesATensorOfTheWrongShape) {
  const Scratch scratch;
  FusionHead head = three_parts(tiny_teacher());
  head.subsets[1].bias = at::zeros({23});
  save(head, scratch.path / "fusion");
  EXPECT_EQ(error_of([&] { load_fusion(scratch.path / "fusion"); }),
            "[" + (scratch.path / "fusion" / "model.safetensors").string() +
                ": subsets.1.bias] saw [23], needs [24]");
}

}  // namespace
}  // namespace cleave::model
