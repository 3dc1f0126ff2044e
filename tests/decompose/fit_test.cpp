#include <numeric>

#include <gtest/gtest.h>

#include "decompose/fit/heads.hpp"
#include "model/config/hugging_face.hpp"
#include "tests/decompose/fitting.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using model::Family;
using testing::all_configs;
using testing::expect_equal;
using testing::expect_near;
using testing::hard_cut;
using testing::lively_model;
using testing::lively_teacher;
using testing::message_of;
using testing::name_of_config;
using testing::rows_of;
using testing::Scratch;
using testing::seeded;
using testing::tiny_config;

model::Transformer in_fp64(model::Transformer model) {
  for (auto& [name, tensor] : model.tensors) tensor = tensor.to(at::kDouble);
  return model;
}

/// What a part is before its fit.
model::Transformer sliced(const Scratch& scratch, const KeepList& keep) {
  slice(scratch / "teacher", keep, scratch / "part");
  return model::load(scratch / "part");
}

Fit fit_one(const Scratch& scratch, const KeepList& keep, const FitRows& rows,
            const FitOptions& options = {}) {
  auto part = sliced(scratch, keep);
  if (options.element == at::kDouble) part = in_fp64(std::move(part));
  return fit_parts(scratch / "teacher", {keep}, {std::move(part)}, rows, options);
}

/// In fp64, and next to no ridge: what can be met exactly is.
FitOptions exactly(Stream stream = Stream::channels) {
  FitOptions options;
  options.stream = stream;
  options.element = at::kDouble;
  options.reader_ridge = options.writer_ridge = options.head_ridge = 1e-15;
  return options;
}

constexpr double exact = 1e-12;

FitRows wide_rows_of(const model::ModelConfig& config) { return rows_of(config, 200, at::kDouble); }

/// Of features by batch, in rows.
Tensor joined(const std::vector<Tensor>& batches) {
  std::vector<Tensor> flat;
  for (const Tensor& batch : batches) flat.push_back(batch.flatten(0, 1));
  return at::cat(flat);
}

double distance(const Tensor& a, const Tensor& b) {
  return (a - b).square().mean().sqrt().item<double>();
}

TEST(Fit, KeepingEverythingIsTheTeacherBitForBit) {
  for (const auto& config : all_configs()) {
    for (const auto stream : {Stream::channels, Stream::components}) {
      SCOPED_TRACE(name_of_config(config));
      const Scratch scratch;
      lively_teacher(scratch, config);
      FitOptions options;
      options.stream = stream;
      const auto rows = rows_of(config);
      auto fit = fit_one(scratch, keep_all(config), rows, options);
      EXPECT_TRUE(fit.parts[0].exact);
      EXPECT_EQ(fit.parts[0].stream, Stream::channels);
      const auto teacher = lively_model(config);
      for (const auto& [name, tensor] : fit.parts[0].model.tensors)
        expect_equal(tensor, teacher[name]);
      for (std::size_t i = 0; i < rows.batches(); ++i) {
        expect_equal(fit.parts[0].features[i], model::features(teacher, rows.inputs(i)));
        expect_equal(fit.teacher_features[i], fit.parts[0].features[i]);
      }
      if (!config.answers()) continue;
      auto fusion = model::make_fusion(teacher, {{"hub", 0, 0, fit.parts[0].basis, {}}});
      const Tensor before = fusion.subsets[0].weight;
      fit_heads(fusion, fit, 1e-3);
      expect_equal(fusion.subsets[0].weight, before);
    }
  }
}

// What a teacher does not use can be cut without a loss: heads and units that write nothing.
TEST(Fit, WithoutDeadHeadsAndUnitsIsTheTeacher) {
  for (auto config : all_configs()) {
    SCOPED_TRACE(name_of_config(config));
    const Scratch scratch;
    auto teacher = lively_model(config);
    auto keep = keep_all(config);
    for (std::size_t l = 0; l < config.layers.size(); ++l) {
      keep.heads[l].erase(keep.heads[l].begin());
      keep.mlp[l].erase(keep.mlp[l].begin() + 2, keep.mlp[l].begin() + 5);
      const std::string block = "blocks." + std::to_string(l) + ".";
      testing::mask(teacher.tensors[block + "attention.output.weight"], keep.heads[l],
                    config.head_width * config.group);
      testing::mask(teacher.tensors[block + "mlp.down.weight"], keep.mlp[l], 1);
    }
    model::save(teacher, scratch / "teacher");
    const auto rows = wide_rows_of(config);
    const auto fit = fit_one(scratch, keep, rows, exactly());
    EXPECT_FALSE(fit.parts[0].exact);
    // Norms behind the sums are fitted from sums of squares, which lose some digits.
    const bool after = config.norm_placement == model::NormPlacement::after;
    expect_near(joined(fit.parts[0].features), joined(fit.teacher_features), after ? 1e-10 : exact);
    // The same from the weights: what was fitted is what is computed.
    expect_near(model::features(fit.parts[0].model, rows.inputs(0)), fit.parts[0].features[0],
                1e-14);
  }
}

/// The teacher's writers, so that its stream lies in a subspace of `rank` dimensions: each channel
/// is ±1 or ±1/2 times one of the first, which numbers in fp32 say exactly.
model::Transformer in_a_subspace(model::Transformer teacher, std::int64_t rank) {
  const std::int64_t width = teacher.config.width;
  const Tensor spread = at::zeros({width, rank});
  constexpr double factors[] = {1, -0.5, -1, 0.5};
  for (std::int64_t channel = 0; channel < width; ++channel)
    spread[channel][channel % rank] = channel < rank ? 1 : factors[channel % 4];
  for (auto& [name, tensor] : teacher.tensors) {
    const bool writes = name.find("attention.output") != std::string::npos ||
                        name.find("mlp.down") != std::string::npos ||
                        name.find("embedding.patch") != std::string::npos;
    if (writes)
      tensor =
          at::matmul(spread, tensor.narrow(0, 0, rank).reshape({rank, -1})).reshape(tensor.sizes());
    else if (name.find("embedding.") == 0)
      tensor = at::matmul(tensor.narrow(-1, 0, rank), spread.t());
  }
  return teacher;
}

// The algebra of rotation: a part with all heads and units whose stream has as many dimensions as
// the teacher's has is the teacher, norms included.
TEST(Fit, OnItsComponentsAPartIsATeacherWhoseStreamHasNoMore) {
  for (const auto& config : all_configs()) {
    if (config.norm_placement == model::NormPlacement::after) continue;
    SCOPED_TRACE(name_of_config(config));
    const Scratch scratch;
    const std::int64_t kept = 8;
    const bool centres = config.norm_kind == model::NormKind::layer;
    auto teacher = in_a_subspace(lively_model(config), centres ? kept - 1 : kept);
    model::save(teacher, scratch / "teacher");
    auto keep = keep_all(config);
    keep.channels.resize(static_cast<std::size_t>(kept));
    keep.classifier = !config.is_text();  // a part's own head over images is rotated with it
    const auto rows = wide_rows_of(config);
    const auto fit = fit_one(scratch, keep, rows, exactly(Stream::components));
    const auto& part = fit.parts[0];
    EXPECT_EQ(part.stream, Stream::components);
    EXPECT_DOUBLE_EQ(
        part.model.config.norm_eps,
        config.norm_eps * static_cast<double>(config.width) / static_cast<double>(kept));
    auto fusion = model::make_fusion(in_fp64(teacher), {{"hub", 0, 0, part.basis, part.origin}});
    // Mapped back, and through the head that was solved.
    expect_near(model::mapped_back(fusion.parts[0], joined(part.features)),
                joined(fit.teacher_features), exact);
    fit_heads(fusion, fit, 1e-15);
    expect_near(model::fuse(fusion, {part.features[0]}), fit.teacher_features[0], exact);
    if (keep.classifier)
      expect_near(model::classify(part.model, part.features[0]),
                  model::classify(in_fp64(teacher), fit.teacher_features[0]), exact);
  }
}

TEST(Fit, BringsAHardCutNearerToTheTeacher) {
  for (const auto& config : all_configs()) {
    for (const auto stream : {Stream::channels, Stream::components}) {
      const bool after = config.norm_placement == model::NormPlacement::after;
      if (after && stream == Stream::components) continue;
      SCOPED_TRACE(name_of_config(config) +
                   (stream == Stream::channels ? " channels" : " components"));
      const Scratch scratch;
      lively_teacher(scratch, config);
      auto keep = hard_cut(config);
      keep.classifier = false;
      const auto rows = rows_of(config, 200);
      const auto before = sliced(scratch, keep);
      FitOptions options;
      options.stream = stream;
      const auto fit = fit_one(scratch, keep, rows, options);
      std::vector<Tensor> unfitted;
      for (std::size_t i = 0; i < rows.batches(); ++i)
        unfitted.push_back(model::features(before, rows.inputs(i)));
      model::FusionHead::Part cut, fitted;
      cut.basis = model::channel_basis(keep.channels, config.width, "hub");
      fitted.basis = fit.parts[0].basis;
      cut.origin = at::zeros({config.width});
      fitted.origin = fit.parts[0].origin;
      const Tensor teacher = joined(fit.teacher_features);
      EXPECT_LT(distance(model::mapped_back(fitted, joined(fit.parts[0].features)), teacher),
                0.95 * distance(model::mapped_back(cut, joined(unfitted)), teacher));
    }
  }
}

TEST(Fit, LeavesAPartWhereItsLastHalfIsAttentionOrNothing) {
  auto config = tiny_config();
  const Scratch scratch;
  lively_teacher(scratch, config);
  auto keep = hard_cut(config);
  keep.mlp[0].clear();    // aims behind layers 0 and 1
  keep.heads[1].clear();  // the MLP alone
  const auto rows = rows_of(config, 200);
  const auto fit = fit_one(scratch, keep, rows);
  expect_near(model::features(fit.parts[0].model, rows.inputs(0)), fit.parts[0].features[0], 1e-5);
  keep.mlp[1].clear();
  const auto less = fit_one(scratch, keep, rows);
  const Tensor teacher = joined(fit.teacher_features);
  const auto mapped = [&](const Fit& of) {
    model::FusionHead::Part part;
    part.basis = of.parts[0].basis;
    part.origin = of.parts[0].origin;
    return model::mapped_back(part, joined(of.parts[0].features));
  };
  EXPECT_LT(distance(mapped(fit), teacher), distance(mapped(less), teacher));
}

TEST(Fit, IsTheSameOnAnyNumberOfThreadsAndBesideOtherParts) {
  const auto config = tiny_config();
  const Scratch scratch;
  lively_teacher(scratch, config);
  const auto rows = rows_of(config, 100);
  FitOptions options;
  options.stream = Stream::components;
  options.threads = 1;
  const auto one = fit_one(scratch, hard_cut(config), rows, options);
  options.threads = 3;
  const auto other = testing::tiny_keep();
  const auto two =
      fit_parts(scratch / "teacher", {other, hard_cut(config)},
                {sliced(scratch, other), sliced(scratch, hard_cut(config))}, rows, options);
  for (const auto& [name, tensor] : one.parts[0].model.tensors)
    expect_equal(two.parts[1].model[name], tensor);
}

TEST(Fit, LeavesPartsAsTheyWereWhereOnlyHeadsAreWanted) {
  const auto config = tiny_config();
  const Scratch scratch;
  lively_teacher(scratch, config);
  const auto rows = rows_of(config, 100);
  FitOptions options;
  options.what = FitOptions::What::heads;
  const auto before = sliced(scratch, hard_cut(config));
  const auto fit = fit_one(scratch, hard_cut(config), rows, options);
  for (const auto& [name, tensor] : before.tensors) expect_equal(fit.parts[0].model[name], tensor);
  expect_equal(fit.parts[0].features[1], model::features(before, rows.inputs(1)));
  expect_equal(fit.teacher_features[1], model::features(lively_model(), rows.inputs(1)));
  options.stream = Stream::components;
  EXPECT_EQ(message_of([&] { fit_one(scratch, hard_cut(config), rows, options); }),
            "[fit] options.stream: needs channels where only heads are fitted");
}

// ---- heads ----

/// Three or five parts whose features are noise, a teacher that is a map of them and more noise.
Fit noisy_fit(std::size_t parts, std::int64_t width = 12) {
  Fit fit;
  fit.parts.resize(parts);
  for (std::size_t batch = 0; batch < 3; ++batch) {
    Tensor sum = seeded({20, 1, width}, 900 + batch);
    for (std::size_t p = 0; p < parts; ++p) {
      const auto columns = static_cast<std::int64_t>(2 + p % 3);
      const Tensor f = seeded({20, 1, columns}, 10 * batch + p) + 1;
      fit.parts[p].features.push_back(f);
      sum = sum + at::matmul(f, seeded({columns, width}, 500 + p));
    }
    fit.teacher_features.push_back(sum);
  }
  return fit;
}

model::FusionHead head_for(const Fit& fit) {
  std::vector<model::FusionHead::Part> parts;
  for (std::size_t p = 0; p < fit.parts.size(); ++p) {
    model::FusionHead::Part part;
    part.device = "device" + std::to_string(p);
    part.basis = seeded({12, fit.parts[p].features[0].size(2)}, 40 + p);
    parts.push_back(part);
  }
  return model::make_fusion(lively_model(), std::move(parts));
}

TEST(FitHeads, SolvesAHeadForEverySet) {
  const Fit fit = noisy_fit(3);
  auto fusion = head_for(fit);
  fit_heads(fusion, fit, 1e-12);
  const Tensor teacher = joined(fit.teacher_features).to(at::kDouble);
  for (std::size_t set = 1; set < 8; ++set) {
    std::vector<Tensor> columns = {at::ones({60, 1}, at::kDouble)};
    std::vector<Tensor> there(3);
    for (std::size_t p = 0; p < 3; ++p) {
      if ((set >> p & 1) == 0) continue;
      columns.push_back(joined(fit.parts[p].features).to(at::kDouble));
      there[p] = joined(fit.parts[p].features).unsqueeze(1);
    }
    const Tensor x = at::cat(columns, 1);
    const Tensor best = at::matmul(x, at::matmul(at::linalg_pinv(x), teacher));
    expect_near(model::fuse(fusion, there).squeeze(1).to(at::kDouble), best, 1e-5);
  }
}

// Against the regression over every pattern of absences, weighted by its probability.
TEST(FitHeads, SolvesOneHeadThatManyShareInExpectation) {
  const Fit fit = noisy_fit(5);
  auto fusion = head_for(fit);
  fit_heads(fusion, fit, 1e-12);
  std::vector<Tensor> designs, targets;
  const Tensor teacher = joined(fit.teacher_features).to(at::kDouble);
  const auto design_of = [&](std::size_t set) {
    std::vector<Tensor> columns = {at::ones({60, 1}, at::kDouble)};
    for (std::size_t p = 0; p < 5; ++p) {
      const double there = (set >> p & 1) != 0 ? 1 : 0;
      columns.push_back(joined(fit.parts[p].features).to(at::kDouble) * there);
      columns.push_back(at::full({60, 1}, there, at::kDouble));
    }
    return at::cat(columns, 1);
  };
  for (std::size_t set = 0; set < 32; ++set) {
    double probability = 1;
    for (std::size_t p = 0; p < 5; ++p) probability *= (set >> p & 1) != 0 ? 2.0 / 3 : 1.0 / 3;
    designs.push_back(design_of(set) * std::sqrt(probability));
    targets.push_back(teacher * std::sqrt(probability));
  }
  const Tensor map = at::matmul(at::linalg_pinv(at::cat(designs)), at::cat(targets));
  for (const std::size_t set : {31, 1, 22}) {
    std::vector<Tensor> there(5);
    for (std::size_t p = 0; p < 5; ++p)
      if ((set >> p & 1) != 0) there[p] = joined(fit.parts[p].features).unsqueeze(1);
    expect_near(model::fuse(fusion, there).squeeze(1).to(at::kDouble),
                at::matmul(design_of(set), map), 1e-4);
  }
}

// ---- what is refused, and what is said ----

TEST(Fit, RefusesWhatItCannotDo) {
  const Scratch scratch;
  const auto bert = model::testing::tiny_text_config(Family::bert);
  lively_teacher(scratch, bert);
  FitOptions components;
  components.stream = Stream::components;
  const auto cut = hard_cut(bert);
  const auto rows = rows_of(bert);
  EXPECT_EQ(
      message_of([&] { fit_one(scratch, cut, rows, components); }),
      "[fit] stream: saw components of a model whose norms come after each half, which cannot "
      "be rotated; needs channels");
  const Scratch other;
  const auto gpt2 = model::testing::tiny_text_config(Family::gpt2);
  lively_teacher(other, gpt2);
  const auto texts = rows_of(gpt2);
  EXPECT_EQ(
      message_of([&] { fit_one(other, hard_cut(gpt2), texts, components); }),
      "[fit] stream: saw components of a part with a head of its own over texts, which is not "
      "rotated; needs channels");
  EXPECT_EQ(message_of([&] { rows_of(gpt2, 0); }), "[fit] data: saw no rows, needs at least 1");
  FitOptions wrong;
  wrong.reader_ridge = 0;
  EXPECT_EQ(message_of([&] { fit_one(other, hard_cut(gpt2), texts, wrong); }),
            "[fit] options.reader_ridge: needs a number above 0");
}

TEST(Fit, RefusesActivationsThatAreNotFinite) {
  for (const auto stream : {Stream::channels, Stream::components}) {
    const Scratch scratch;
    auto teacher = lively_model();
    teacher.tensors["blocks.0.mlp.down.weight"].fill_(3e38);
    model::save(teacher, scratch / "teacher");
    FitOptions options;
    options.stream = stream;
    const auto rows = rows_of(tiny_config());
    EXPECT_EQ(message_of([&] { fit_one(scratch, hard_cut(tiny_config()), rows, options); }),
              stream == Stream::channels
                  ? "[fit, layer 0 of the part, what MLP writes] activations: not finite"
                  : "[fit] covariance of the teacher's stream: not finite");
  }
}

TEST(Fit, SaysWhereRowsAreFew) {
  const auto config = tiny_config();
  auto part = config;
  part.layers[1].mlp_width = 200;
  EXPECT_TRUE(too_few_tokens({config}, rows_of(config, 60)).empty());
  const auto said = too_few_tokens({config, part}, rows_of(config, 60));
  ASSERT_EQ(said.size(), 1u);
  EXPECT_EQ(
      said[0].text,
      "[fit] data: saw 300 tokens, where a regression has up to 200 inputs and wants twice as "
      "many; fitted with larger ridges, give it more rows");
  // Of texts, without what only fills up rows.
  const auto bert = model::testing::tiny_text_config(Family::bert);
  EXPECT_EQ(rows_of(bert, 7).num_tokens(), 2 + 3 + 4 + 5 + 6 + 7 + 8);
}

TEST(Fit, StopsOnRequest) {
  const Scratch scratch;
  lively_teacher(scratch);
  const auto keep = hard_cut(tiny_config());
  const auto rows = rows_of(tiny_config());
  EXPECT_EQ(message_of([&] {
              fit_parts(scratch / "teacher", {keep}, {sliced(scratch, keep)}, rows, {},
                        [](const base::Progress&) { return false; });
            }),
            "[fit] stopped on request");
}

}  // namespace
}  // namespace cleave::decompose
