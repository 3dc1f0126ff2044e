#include "optimizer/plan/plan.hpp"

#include <algorithm>
#include <functional>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "optimizer/plan/program.hpp"
#include "tests/base/scratch.hpp"
#include "tests/model/fixtures.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::plan {
namespace {

using testing::message_of;

/// Six layers of three heads, 192 wide; three unequal parts.
Plan three_parts() {
  const model::ModelConfig teacher = examples::vit(6, 192, 3, 28, 4, 1, 10);
  PlanPart cam = examples::part(teacher, "cam", 2, 64, 1, 96);
  cam.sub_model().layers = {1, 4};
  Plan plan = examples::plan_of(teacher,
                                {examples::part(teacher, "hub", 6, 128, 2, 256),
                                 examples::part(teacher, "box", 4, 96, 1, 128), std::move(cam)},
                                "hub", "decomposed");
  plan.teacher.labels = {"t-shirt", "b", "c", "d", "e", "f", "g", "h", "i", "ankle boot"};
  return plan;
}

std::string refusal(const std::function<void(Plan&)>& change) {
  Plan plan = three_parts();
  change(plan);
  return message_of([&] { check(plan); });
}

/// What reading the file says after `change`.
std::string file_refusal(const std::function<void(nlohmann::json&)>& change) {
  nlohmann::json json = to_json(three_parts());
  change(json);
  return message_of([&] { plan_from_json(json.dump(), "plan.json"); });
}

TEST(Plan, ComesBackFromItsFile) {
  const testing::Scratch scratch;
  Plan plan = three_parts();
  plan.name = "night";
  plan.teacher_digest = std::string(64, 'a');
  plan.shape.batch = 3;
  plan.seed = 77;
  plan.parts[0].parameter_share = 0.25;
  plan.parts[0].compute_share = 0.375;
  plan.prediction.latency_s = 0.0125;
  plan.prediction.kept_importance = 0.5;
  plan.prediction.bottleneck = "compute on cam";
  plan.prediction.devices.push_back({"hub", 1, 2, 3, 4, 5, 6, 7, 8, 9});
  plan.candidates.push_back({"local on hub", 0.5, "does not fit: 31 MB short"});
  write_plan(plan, scratch / "plan.json");
  const Plan read = read_plan(scratch / "plan.json");

  EXPECT_EQ(read.name, "night");
  EXPECT_EQ(read.teacher, plan.teacher);
  EXPECT_EQ(read.parts[2].sub_model().config, plan.parts[2].sub_model().config);
  EXPECT_EQ(read.parts[2].sub_model().layers, (std::vector<std::int64_t>{1, 4}));
  EXPECT_EQ(read.shape, plan.shape);
  EXPECT_EQ(read.seed, 77u);
  EXPECT_EQ(read.teacher_digest, std::string(64, 'a'));
  EXPECT_EQ(read.parts[0].parameter_share, 0.25);
  EXPECT_EQ(read.parts[0].compute_share, 0.375);
  EXPECT_EQ(read.prediction.latency_s, 0.0125);
  EXPECT_EQ(read.prediction.kept_importance, 0.5);
  EXPECT_EQ(read.prediction.bottleneck, "compute on cam");
  const DevicePrediction& hub = read.prediction.devices.at(0);
  EXPECT_EQ((std::vector<double>{hub.compute_s, hub.send_s, hub.receive_s, hub.runtime_bytes,
                                 hub.model_bytes, hub.limit_bytes, hub.sent_bytes,
                                 hub.received_bytes, hub.energy_j}),
            (std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(read.candidates[0].reason, "does not fit: 31 MB short");
  EXPECT_EQ(to_json(read), to_json(plan));
}

TEST(Plan, OfTextsAndOfAPartitionComesBackFromItsFile) {
  const testing::Scratch scratch;
  const model::ModelConfig teacher = examples::small_llama();
  Plan plan = examples::plan_of(teacher,
                                {examples::part(teacher, "hub", 4, 128, 6, 256),
                                 examples::part(teacher, "cam", 2, 64, 3, 96)},
                                "cam", "decomposed");
  plan.shape = {3, 100, 60};
  plan.partition = true;
  write_plan(plan, scratch / "plan.json");
  const Plan read = read_plan(scratch / "plan.json");
  EXPECT_EQ(read.shape.batch, 3);
  EXPECT_EQ(read.shape.tokens, 100);
  EXPECT_EQ(read.shape.generate, 60);
  EXPECT_TRUE(read.partition);
  EXPECT_EQ(read.aggregator, "cam");
  EXPECT_EQ(read.teacher, teacher);
  EXPECT_EQ(read.parts[1].sub_model().config, plan.parts[1].sub_model().config);
  EXPECT_EQ(compile(read, read.shape).front().digest, compile(plan, plan.shape).front().digest);
}

TEST(Plan, ShowsTheProgramsOfItsShape) {
  const Plan plan = three_parts();
  const nlohmann::json programs = to_json(plan)["programs"];
  EXPECT_EQ(programs["digest"], compile(plan, plan.shape).front().digest);
  EXPECT_EQ(programs["text"][0], "rank 0:");
  EXPECT_EQ(programs["text"].back(), "  output(y)");
}

TEST(Plan, NeedsOnlyWhatAPersonWouldWrite) {
  nlohmann::json json = to_json(three_parts());
  for (const char* key : {"name", "teacher_digest", "shape", "partition", "prediction",
                          "candidates", "seed", "programs"})
    json.erase(key);
  for (auto& part : json["parts"]) {
    part.erase("parameter_share");
    part.erase("compute_share");
  }
  const Plan plan = plan_from_json(json.dump(), "plan.json");
  EXPECT_EQ(plan.name, "default");
  EXPECT_EQ(plan.shape.batch, 1);
}

TEST(Plan, RefusesAPartWiderThanTheTeacher) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts[1].sub_model().config.width = 200; }),
            "[check] plan.parts[1].config.width: keeps 200, the teacher has 192");
}

TEST(Plan, RefusesMoreHeadsOrColumnsThanTheLayerHas) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts[1].sub_model().config.layers[2].heads = 4; }),
            "[check] plan.parts[1].config.layers[2].heads: keeps 4, the teacher has 3");
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts[0].sub_model().config.layers[5].mlp_width = 769; }),
            "[check] plan.parts[0].config.layers[5].mlp_width: keeps 769, the teacher has 768");
  // Layer 1 of the part is layer 4 of the teacher.
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.teacher.layers[4].heads = 1;
              plan.parts[2].sub_model().config.layers[1].heads = 2;
            }),
            "[check] plan.parts[0].config.layers[4].heads: keeps 2, the teacher has 1");
}

TEST(Plan, RefusesAnotherHeadWidth) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts[0].sub_model().config.head_width = 32; }),
            "[check] plan.parts[0].config.head_width: saw 32, needs 64 as the teacher has");
}

TEST(Plan, RefusesLayersOutOfOrderOrRange) {
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.parts[2].sub_model().layers = {4, 1};
            }),
            "[check] plan.parts[2].layers[1]: saw 1, needs ascending teacher layers 0..5");
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.parts[2].sub_model().layers = {4, 4};
            }),
            "[check] plan.parts[2].layers[1]: saw 4, needs ascending teacher layers 0..5");
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.parts[2].sub_model().layers = {1, 6};
            }),
            "[check] plan.parts[2].layers[1]: saw 6, needs ascending teacher layers 0..5");
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.parts[2].sub_model().layers = {-1, 2};
            }),
            "[check] plan.parts[2].layers[0]: saw -1, needs ascending teacher layers 0..5");
  EXPECT_EQ(
      refusal([](Plan& plan) { plan.parts[2].sub_model().layers = {1}; }),
      "[check] plan.parts[2].layers: saw 1 numbers, needs one for each of the part's 2 layers");
}

TEST(Plan, RefusesAPartThatSeesOtherPictures) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts[0].sub_model().config.patch = 7; }),
            "[check] plan.parts[0].config.patch: saw 7, needs 4 as the teacher has");
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts[0].sub_model().config.classes = 11; }),
            "[check] plan.parts[0].config.classes: saw 11, needs 10 as the teacher has");
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.parts[0].sub_model().config.activation = model::Activation::relu;
            }),
            "[check] plan.parts[0].config: saw another activation, bias, norm, task or kind of "
            "positions, needs "
            "the teacher's");
}

TEST(Plan, RefusesAPartThatReadsTextsInAnotherWay) {
  const model::ModelConfig teacher = model::testing::tiny_scaled_config();
  const auto refusal_of = [&](const auto& change) {
    Plan plan = examples::plan_of(
        teacher,
        {examples::part(teacher, "hub", 3, 16, 2, 20), examples::part(teacher, "box", 2, 8, 2, 8)},
        "hub", "decomposed");
    plan.shape.tokens = 4;
    change(plan.parts[1].sub_model().config);
    try {
      check(plan);
    } catch (const std::invalid_argument& wrong) {
      return std::string(wrong.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal_of([](model::ModelConfig&) {}), "");
  const std::string other =
      "[check] plan.parts[1].config: saw another activation, bias, norm, task or kind of "
      "positions, needs the teacher's";
  EXPECT_EQ(refusal_of([](model::ModelConfig& part) { part.rotary_scaling.factor = 2; }), other);
  EXPECT_EQ(refusal_of([](model::ModelConfig& part) { part.qkv_bias = part.output_bias = true; }),
            other);
  EXPECT_EQ(refusal_of([](model::ModelConfig& part) { part.mlp_bias = true; }), other);
}

TEST(Plan, RefusesADeviceTwice) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts[2].device = "hub"; }),
            "[check] plan.parts[2].device: saw 'hub' again, needs another device for each part");
}

TEST(Plan, RefusesNamesThatLeadOutOfTheBundle) {
  EXPECT_NE(refusal([](Plan& plan) { plan.name = "../x"; }).find("plan.name: saw '../x'"),
            std::string::npos);
  EXPECT_NE(refusal([](Plan& plan) {
              plan.parts[0].device = "..";
            }).find("plan.parts[0].device: saw '..'"),
            std::string::npos);
  EXPECT_NE(refusal([](Plan& plan) { plan.aggregator = ""; }).find("plan.aggregator: saw ''"),
            std::string::npos);
}

TEST(Plan, RefusesASeedThatItsFileCannotHold) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.seed = std::uint64_t{1} << 63; }),
            "[check] plan.seed: saw 9223372036854775808, needs at most 9223372036854775807");
}

TEST(Plan, RefusesNoPartsAndUnknownStrategies) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.parts.clear(); }),
            "[check] plan.parts: saw 0, needs 1..256");
  EXPECT_EQ(
      refusal([](Plan& plan) { plan.strategy = "decompose"; }),
      "[strategy] saw 'decompose', needs one of local, decomposed, pipeline, tensor, voltage, "
      "hepti, galaxy, prism");
}

TEST(Plan, HoldsAPartitionToItsWord) {
  EXPECT_EQ(refusal([](Plan& plan) { plan.partition = true; }),
            "[check] plan.partition: saw widths that sum to 288, needs at most 192");
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.partition = true;
              for (PlanPart& part : plan.parts) part.sub_model().config.width = 64;
            }),
            "[check] plan.partition: saw 4 heads of layer 1, needs at most 3");
  EXPECT_EQ(refusal([](Plan& plan) {
              plan.partition = true;
              for (PlanPart& part : plan.parts) part.sub_model().config.width = 64;
              for (model::LayerShape& layer : plan.parts[0].sub_model().config.layers)
                layer.heads = 1;
            }),
            "");
}

TEST(Plan, AsksLocalForTheWholeTeacher) {
  const model::ModelConfig teacher = examples::fashion_vit();
  const PlanPart whole = examples::part(teacher, "hub", 6, 192, 6, 768);
  const auto refused = [&](std::vector<PlanPart> parts) {
    return message_of([&] { check(examples::plan_of(teacher, std::move(parts), "hub", "local")); });
  };
  EXPECT_EQ(refused({whole}), "");
  EXPECT_EQ(refused({examples::part(teacher, "hub", 6, 184, 6, 768)}),
            "[check] plan.parts[0].config: saw a cut model, the strategy 'local' needs the whole "
            "teacher");
  EXPECT_EQ(refused({whole, examples::part(teacher, "cam", 6, 192, 6, 768)}),
            "[check] plan.parts: saw 2 parts, the strategy 'local' needs 1");
}

// ---- shares ----

Plan pipeline() { return examples::pipeline_plan(examples::fashion_vit(), 2); }
Plan tensor() { return examples::tensor_plan(examples::vit(6, 192, 3, 28, 4, 1, 10), 3); }

std::string refusal_of(Plan plan, const std::function<void(Plan&)>& change) {
  change(plan);
  return message_of([&] { check(plan); });
}

TEST(Share, ComesBackFromItsFile) {
  const testing::Scratch scratch;
  for (Plan plan : {pipeline(), tensor()}) {
    plan.all_reduce = AllReduce::star;
    write_plan(plan, scratch / "plan.json");
    const Plan read = read_plan(scratch / "plan.json");
    EXPECT_EQ(read.all_reduce, AllReduce::star);
    ASSERT_EQ(read.parts.size(), plan.parts.size());
    for (std::size_t p = 0; p < plan.parts.size(); ++p) {
      ASSERT_TRUE(read.parts[p].share());
      EXPECT_TRUE(*read.parts[p].share() == *plan.parts[p].share());
    }
    EXPECT_EQ(compile(read, {2}).front().digest, compile(plan, {2}).front().digest);
  }
}

TEST(Wire, ComesBackFromItsFileAndIsPartOfTheDigest) {
  std::set<std::string> digests, programs;
  for (const base::Element wire : wire_formats()) {
    Plan plan = pipeline();
    plan.wire = wire;
    const Plan read = plan_from_json(to_json(plan).dump(), "plan.json");
    EXPECT_EQ(read.wire, wire);
    EXPECT_EQ(digest_of(read), digest_of(plan));
    digests.insert(digest_of(plan));
    programs.insert(compile(plan, {2}).front().digest);
  }
  EXPECT_EQ(digests.size(), 4u);
  EXPECT_EQ(programs.size(), 4u);
}

// Plans that were made before the field was known stay what they were.
TEST(Wire, IsLeftOutWhereItIsWhatIsComputed) {
  EXPECT_EQ(to_json(pipeline()).count("wire"), 0u);
  EXPECT_EQ(plan_from_json(to_json(pipeline()).dump(), "plan.json").wire, base::Element::f32);
  nlohmann::json said = to_json(pipeline());
  said["wire"] = "f32";
  EXPECT_EQ(digest_of(plan_from_json(said.dump(), "plan.json")), digest_of(pipeline()));
}

TEST(Wire, IsOneOfTheFormatsThatThereAre) {
  nlohmann::json json = to_json(tensor());
  json["wire"] = "int4";
  EXPECT_EQ(message_of([&] { plan_from_json(json.dump(), "plan.json"); }),
            "[plan.json] wire: saw \"int4\", needs one of f32, f16, bf16, int8");
  json["wire"] = 8;
  EXPECT_EQ(message_of([&] { plan_from_json(json.dump(), "plan.json"); }),
            "[plan.json] wire: saw 8, needs one of f32, f16, bf16, int8");
  EXPECT_EQ(message_of([] { wire_named("i8"); }),
            "[wire] saw 'i8', needs one of f32, f16, bf16, int8");
  EXPECT_EQ(refusal_of(tensor(), [](Plan& plan) { plan.wire = base::Element::i8; }),
            "[check] plan.wire: saw i8, needs one of f32, f16, bf16, int8");
  Plan local = whole_plan(examples::fashion_vit(), "hub");
  EXPECT_EQ(refusal_of(local, [](Plan& plan) { plan.wire = base::Element::f16; }),
            "[check] plan.wire: saw f16, needs f32: with the strategy 'local' devices exchange "
            "nothing");
}

TEST(Share, SaysInItsFileWhatIsWrong) {
  const auto refused = [](const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json json = to_json(tensor());
    change(json);
    return message_of([&] { plan_from_json(json.dump(), "plan.json"); });
  };
  EXPECT_EQ(refused([](auto& json) { json["parts"][0]["share"]["vocabulary"] = {1}; }),
            "[plan.json] parts[0].share.vocabulary: saw 1 numbers, needs begin and end");
  EXPECT_EQ(
      refused([](auto& json) { json["parts"][1]["share"]["layers"].erase(5); }),
      "[plan.json] parts[1].share.layers: saw 5, needs one for each of the teacher's 6 layers");
  EXPECT_EQ(refused([](auto& json) {
              json["parts"][2]["share"]["layers"][3]["heads"] = {2, 4};
            }),
            "[plan.json] parts[2].share.layers[3].heads: saw 2:4, needs a range within 0:3 of the "
            "teacher");
  EXPECT_EQ(refused([](auto& json) { json["all_reduce"] = "tree"; }),
            "[plan.json] all_reduce: saw \"tree\", needs one of ring, star, direct");
  EXPECT_EQ(refused([](auto& json) { json["parts"][2]["share"]["lines"] = 3; }),
            "[plan.json] parts[2].share.lines: unknown key; known are layers, vocabulary, rows");
  EXPECT_EQ(refused([](auto& json) { json["parts"][2]["share"]["rows"] = -1; }),
            "[plan.json] parts[2].share.rows: saw -1, needs a whole number from 0 to 1048576");
  EXPECT_EQ(
      refused([](auto& json) { json["parts"][2]["share"]["rows"] = 3; }),
      "[plan.json] parts[2].share.rows: saw 3, needs none: the strategy 'tensor' divides none");
}

TEST(Share, OfEqualRangesHasNoOther) {
  EXPECT_EQ(refusal_of(tensor(),
                       [](Plan& plan) {
                         plan.parts[0].share()->layers[2].heads = {0, 2};
                       }),
            "[check] plan.parts[0].share.layers[2].heads: saw 0:2, needs 0:1, an equal share of 3");
  EXPECT_EQ(refusal_of(tensor(),
                       [](Plan& plan) {
                         plan.parts[1].share()->layers[0].columns = {0, 0};
                       }),
            "[check] plan.parts[1].share.layers[0].columns: saw 0:0, needs 256:512, an equal share "
            "of 768");
  EXPECT_EQ(
      message_of([&] { check(examples::tensor_plan(examples::vit(6, 192, 3, 28, 4, 1, 10), 4)); }),
      "[check] plan.parts: saw 4 devices, needs at most 3, one for each of the teacher's heads "
      "of keys and values");
  EXPECT_EQ(
      refusal_of(tensor(),
                 [](Plan& plan) {
                   plan.parts[1].runs = SubModel{plan.teacher, {0, 1, 2, 3, 4, 5}};
                 }),
      "[check] plan.parts[1]: saw a sub-model, needs a share: the strategy 'tensor' divides the "
      "teacher");
  EXPECT_EQ(refusal_of(tensor(), [](Plan& plan) { plan.teacher.classes = 0; }),
            "[check] plan.teacher: saw no head, needs one: the strategy 'tensor' answers as the "
            "teacher does");
}

TEST(Share, OfWhatIsDividedFollowsTheOneBeforeIt) {
  const model::ModelConfig teacher = examples::vit(6, 192, 3, 28, 4, 1, 10);
  const Plan heads = examples::hepti_heads_plan(teacher, 3);
  EXPECT_NO_THROW(check(heads));
  EXPECT_EQ(
      refusal_of(heads, [](Plan& plan) { plan.parts[2].share()->layers[1].columns.begin -= 1; }),
      "[check] plan.parts[2].share.layers[1].columns: saw 548:768, needs a range from 549 on");
  EXPECT_EQ(
      refusal_of(heads, [](Plan& plan) { plan.parts[2].share()->layers[1].columns.end -= 1; }),
      "[check] plan.parts: saw shares whose layers[1].columns end at 767, needs 768 in all");
  EXPECT_EQ(
      refusal_of(heads, [](Plan& plan) { plan.parts[1].share()->rows = 2; }),
      "[check] plan.parts[1].share.rows: saw 2, needs none: the strategy 'hepti' divides none "
      "here");
  EXPECT_EQ(refusal_of(examples::galaxy_plan(teacher, 3),
                       [](Plan& plan) { plan.parts[2].share()->rows = 0; }),
            "[check] plan.parts[2].share.rows: saw 0, needs at least 1");
  EXPECT_EQ(refusal_of(examples::hepti_columns_plan(teacher, 3),
                       [](Plan& plan) {
                         plan.parts[1].share()->layers[5].heads = {0, 1};
                       }),
            "[check] plan.parts[1].share.layers[5].heads: saw 0:1, needs 0:3, all of them on each "
            "device");
}

TEST(Share, SaysHowRowsAreExchangedWhereTheyAre) {
  const model::ModelConfig teacher = examples::vit(6, 192, 3, 28, 4, 1, 10);
  const auto overlap = [](Plan& plan) { plan.overlap = true; };
  const auto keys = [](Plan& plan) { plan.gathered = Gathered::keys_and_values; };
  const std::string none =
      "[check] plan.overlap: saw true, needs false: devices exchange no rows here";
  EXPECT_EQ(refusal_of(tensor(), overlap), none);
  EXPECT_EQ(refusal_of(examples::prism_plan(teacher, 3), overlap), none);
  EXPECT_EQ(refusal_of(examples::hepti_heads_plan(teacher, 3), overlap), none);
  const std::string others =
      "[check] plan.gathered: saw 'keys and values', needs 'rows': not each device has rows and "
      "all "
      "heads";
  EXPECT_EQ(refusal_of(tensor(), keys), others);
  EXPECT_EQ(refusal_of(examples::galaxy_plan(teacher, 3), keys), others);
  EXPECT_EQ(refusal_of(examples::prism_plan(teacher, 3), keys), others);
  EXPECT_EQ(refusal_of(examples::voltage_plan(teacher, 3), keys),
            "[check] plan.gathered: saw 'keys and values', needs 'rows': the strategy 'voltage' "
            "exchanges rows");
  Plan columns = examples::hepti_columns_plan(teacher, 3);
  keys(columns);
  overlap(columns);
  EXPECT_NO_THROW(check(columns));
  const Plan read = plan_from_json(to_json(columns).dump(), "plan.json");
  EXPECT_EQ(read.gathered, Gathered::keys_and_values);
  EXPECT_TRUE(read.overlap);
}

TEST(Share, SaysWhereProductsCannotBeReordered) {
  const model::ModelConfig teacher = examples::vit(6, 192, 3, 28, 4, 1, 10);
  const auto reorder = [](Plan& plan) { plan.reordered = true; };
  EXPECT_EQ(refusal_of(examples::hepti_rows_plan(teacher, 3), reorder),
            "[check] plan.reordered: saw true, needs false: the strategy 'hepti' has keys and "
            "values");
  EXPECT_EQ(refusal_of(examples::voltage_plan(examples::small_llama(), 3), reorder),
            "[check] plan.reordered: saw true, needs false: what continues a text attends to its "
            "keys and values");
  model::ModelConfig turned = teacher;
  turned.rotary_base = 10000;
  EXPECT_EQ(refusal_of(examples::voltage_plan(turned, 3), reorder),
            "[check] plan.reordered: saw true, needs false: keys are turned by their positions");
  Plan voltage = examples::voltage_plan(teacher, 3);
  const std::string before = digest_of(voltage);
  reorder(voltage);
  EXPECT_NO_THROW(check(voltage));
  EXPECT_TRUE(plan_from_json(to_json(voltage).dump(), "plan.json").reordered);
  EXPECT_NE(digest_of(voltage), before);
}

// Programs of the planned prompt are compiled of what a plan says, before anything else is known.
TEST(Plan, RefusesATextLongerThanTheContext) {
  Plan plan = examples::prism_plan(examples::small_llama(), 2);
  plan.shape = {1, std::int64_t{1} << 62, 1};
  EXPECT_EQ(message_of([&] { check(plan); }),
            "[check] plan.shape.tokens: saw 4611686018427387904, needs 1..2048, the model's "
            "context");
  plan.shape = {1, 2000, 49};
  EXPECT_EQ(message_of([&] {
              check(plan);
            }).rfind("[check] plan.shape.generate: saw 49, needs at most 48", 0),
            0u);
}

TEST(Share, HasNoWidthsThatCouldOverlap) {
  Plan plan = tensor();
  plan.partition = true;
  EXPECT_NO_THROW(check(plan));
}

TEST(Share, OfRowsHasAllWeights) {
  const auto voltage = [] {
    return examples::voltage_plan(examples::vit(6, 192, 3, 28, 4, 1, 10), 3);
  };
  EXPECT_EQ(refusal_of(voltage(),
                       [](Plan& plan) {
                         plan.parts[1].share()->layers[2].heads = {0, 2};
                       }),
            "[check] plan.parts[1].share.layers[2].heads: saw 0:2, needs 0:3, all of them on each "
            "device");
  EXPECT_EQ(refusal_of(voltage(), [](Plan& plan) { plan.parts[0].share()->rows = 0; }),
            "[check] plan.parts[0].share.rows: saw 0, needs at least 1");
  EXPECT_EQ(refusal_of(voltage(), [](Plan& plan) { plan.parts[1].share()->rows = 0; }),
            "[check] plan.parts[2].share.rows: saw 1 behind a device without rows, needs those "
            "without to be the last");
  EXPECT_EQ(refusal_of(voltage(), [](Plan& plan) { plan.teacher.classes = 0; }),
            "[check] plan.teacher: saw no head, needs one: the strategy 'voltage' answers as the "
            "teacher does");
  EXPECT_EQ(refusal_of(voltage(),
                       [](Plan& plan) {
                         plan.parts[2].runs = SubModel{plan.teacher, {0, 1, 2, 3, 4, 5}};
                       }),
            "[check] plan.parts[2]: saw a sub-model, needs a share: the strategy 'voltage' divides "
            "the teacher");
}

// ---- segments ----

Plan prism() { return examples::prism_plan(examples::vit(6, 192, 3, 28, 4, 1, 10), 3); }

TEST(Segments, ComeBackFromTheirFile) {
  const testing::Scratch scratch;
  Plan by_layer = prism(), counted = prism();
  by_layer.segments->compression = {150, 200, 250, 300, 495, 1000};
  counted.segments->compression.clear();
  counted.segments->count = {3};
  counted.segments->content = Segments::Content::clusters;
  std::set<std::string> digests;
  for (const Plan& plan : {prism(), by_layer, counted}) {
    write_plan(plan, scratch / "plan.json");
    const Plan read = read_plan(scratch / "plan.json");
    ASSERT_TRUE(read.segments);
    EXPECT_EQ(read.segments->compression, plan.segments->compression);
    EXPECT_EQ(read.segments->count, plan.segments->count);
    EXPECT_EQ(read.segments->content, plan.segments->content);
    EXPECT_EQ(digest_of(read), digest_of(plan));
    digests.insert(digest_of(plan));
  }
  EXPECT_EQ(digests.size(), 3u) << "two plans of other segments have one digest";
}

// 99 rows at CR 9.9, 4.95 and 3.3 are 10, 20 and 30 segments.
TEST(Segments, AreRowsByTheCompressionRate) {
  const auto of = [](std::int64_t hundredths, std::int64_t rows) {
    Segments segments;
    segments.compression = {hundredths};
    return segments.of(7, rows);
  };
  EXPECT_EQ(of(990, 99), 10);
  EXPECT_EQ(of(495, 98), 20);
  EXPECT_EQ(of(330, 98), 30);
  EXPECT_EQ(of(100, 98), 98);
  EXPECT_EQ(of(12800, 128), 1);
  EXPECT_EQ(of(12800, 5), 1) << "at least one";
  Segments counted;
  counted.compression.clear();
  counted.count = {2, 5};
  EXPECT_EQ(counted.of(1, 98), 5);
  EXPECT_EQ(counted.of(1, 4), 4) << "at most the rows";
}

TEST(Segments, SayInTheirFileWhatIsWrong) {
  const auto refused = [](const nlohmann::json& segments) {
    nlohmann::json json = to_json(prism());
    json["segments"] = segments;
    return message_of([&] { plan_from_json(json.dump(), "plan.json"); });
  };
  EXPECT_EQ(refused({{"content", "medians"}, {"compression", 4}}),
            "[plan.json] segments.content: saw \"medians\", needs one of means, clusters");
  EXPECT_EQ(refused({{"compression", 0.5}}),
            "[plan.json] segments.compression: saw 0.5, needs a number from 1 to 1048576");
  EXPECT_EQ(refused({{"compression", {2, 2, 2, 2, 2, 3.333}}}),
            "[plan.json] segments.compression[5]: saw 3.333, needs a number of two decimals");
  EXPECT_EQ(refused({{"compression", {2, 3}}}),
            "[plan.json] segments.compression: saw 2 numbers, needs one, or one for each of the "
            "teacher's 6 layers");
  EXPECT_EQ(refused({{"count", 0}}),
            "[plan.json] segments.count: saw 0, needs a whole number from 1 to 1048576");
  EXPECT_EQ(refused({{"content", "means"}}),
            "[plan.json] segments: saw neither, needs one of compression and count");
  EXPECT_EQ(refused({{"count", 2}, {"compression", 2}}),
            "[plan.json] segments: saw both, needs one of compression and count");
  EXPECT_EQ(refused({{"size", 2}}),
            "[plan.json] segments.size: unknown key; known are content, compression, count");
}

TEST(Segments, AreOfTheStrategyThatExchangesThem) {
  EXPECT_EQ(refusal_of(prism(), [](Plan& plan) { plan.segments.reset(); }),
            "[check] plan.segments: saw none, needs compression or count: the strategy 'prism' "
            "exchanges segments");
  EXPECT_EQ(refusal_of(prism(), [](Plan& plan) { plan.strategy = "voltage"; }),
            "[check] plan.segments: saw some, needs none: the strategy 'voltage' has none");
  EXPECT_EQ(refusal_of(prism(), [](Plan& plan) { plan.segments->compression = {99}; }),
            "[check] plan.segments.compression: saw one out of range, needs numbers from 1");
  EXPECT_EQ(refusal_of(prism(), [](Plan& plan) { plan.teacher.classes = 0; }),
            "[check] plan.teacher: saw no head, needs one: the strategy 'prism' answers as the "
            "teacher does");
}

// 50 tokens, 3 : 1 : 1.
TEST(Segments, AreLeftOfEveryDevicesRows) {
  EXPECT_EQ(refusal_of(prism(), [](Plan& plan) { plan.segments->compression = {2001}; }),
            "[check] plan.segments.compression: saw 20.01, needs at most 20: device 'd1' has 10 "
            "rows, and no segment is left of them");
  EXPECT_EQ(refusal_of(prism(), [](Plan& plan) { plan.segments->compression = {2000}; }), "");
  const auto text = [](std::int64_t tokens) {
    Plan plan = examples::prism_plan(examples::small_llama(), 2);
    plan.shape.tokens = tokens;
    plan.segments->compression = {900};
    return plan;
  };
  EXPECT_EQ(refusal_of(text(12), [](Plan&) {}),
            "[check] plan.segments.compression: saw 9, needs at most 6: device 'd1' has 3 rows, "
            "and no segment is left of them");
  EXPECT_NO_THROW(compile(text(100), {1, 12})) << "a shorter text than planned";
}

TEST(Share, OfLayersFollowsTheOneBefore) {
  EXPECT_EQ(
      refusal_of(pipeline(), [](Plan& plan) { std::swap(plan.parts[0].runs, plan.parts[1].runs); }),
      "[check] plan.parts[0].share.layers: saw layers from 5 on, needs those from 0 on, where "
      "the device before it ends");
  EXPECT_EQ(refusal_of(pipeline(), [](Plan& plan) { plan.parts[1].share()->layers[5] = {}; }),
            "[check] plan.parts[1].share.layers: saw none, needs at least one");
  EXPECT_EQ(refusal_of(pipeline(),
                       [](Plan& plan) {
                         plan.parts[0].share()->layers[1].heads = {0, 1};
                       }),
            "[check] plan.parts[0].share.layers[1]: saw some of its heads or columns, needs all of "
            "them");
  EXPECT_EQ(refusal_of(pipeline(), [](Plan& plan) { plan.parts.pop_back(); }),
            "[check] plan.parts: saw layers up to 5 in all, needs the teacher's 6");
}

TEST(Share, IsNothingForThoseThatTakeModels) {
  EXPECT_EQ(refusal_of(tensor(), [](Plan& plan) { plan.strategy = "decomposed"; }),
            "[check] plan.parts[0]: saw a share, the strategy 'decomposed' needs a sub-model");
  EXPECT_EQ(refusal_of(examples::tensor_plan(examples::fashion_vit(), 1),
                       [](Plan& plan) { plan.strategy = "local"; }),
            "[check] plan.parts[0]: saw a share, the strategy 'local' needs the whole teacher");
}

TEST(Propose, GivesLayersBySpeedAndRoom) {
  const auto counts = [](const std::vector<Capacity>& devices) {
    std::vector<std::int64_t> layers;
    for (const Share& share : find_strategy("pipeline").propose(examples::vit_base(), devices))
      layers.push_back(
          std::count_if(share.layers.begin(), share.layers.end(),
                        [](const LayerShare& layer) { return layer.heads.size() > 0; }));
    return layers;
  };
  using Counts = std::vector<std::int64_t>;
  EXPECT_EQ(counts({{1, 0}, {1, 0}, {1, 0}}), (Counts{4, 4, 4}));
  EXPECT_EQ(counts({{4, 0}, {1, 0}, {1, 0}}), (Counts{8, 2, 2}));
  EXPECT_EQ(counts({{100, 0}, {1, 0}}), (Counts{11, 1})) << "each has one";
  const double layer = weight_bytes(examples::vit_base()) / 12;
  EXPECT_EQ(counts({{4, 3.5 * layer}, {1, 0}, {1, 0}}), (Counts{3, 5, 4}));
  EXPECT_EQ(counts({{1, 2.5 * layer}, {1, 1.5 * layer}}), (Counts{11, 1})) << "nobody has room";
  EXPECT_EQ(message_of([&] { counts(std::vector<Capacity>(13)); }),
            "[check] plan.parts: saw 13 devices, needs at most 12, one for each of the teacher's "
            "layers");
}

TEST(Propose, GivesSharesThatTheStrategyTakes) {
  for (const Strategy& strategy : strategies()) {
    if (strategy.propose == nullptr) continue;
    for (const auto& teacher : {examples::vit_base(), examples::small_llama()})
      for (const std::size_t devices : {1u, 2u, 3u, 4u}) {
        std::vector<PlanPart> parts;
        for (const Share& share : strategy.propose(teacher, std::vector<Capacity>(devices)))
          parts.push_back({"d" + std::to_string(parts.size()), share});
        Plan plan = examples::plan_of(teacher, std::move(parts), "d0", std::string(strategy.name));
        plan.shape.tokens = teacher.is_text() ? 5 : 0;
        if (strategy.has_segments) plan.segments.emplace().compression = {200};
        EXPECT_EQ(compile(plan, plan.shape).size(), devices + 1);
      }
  }
}

TEST(Plan, TellsAFilesFaultWithTheFile) {
  EXPECT_EQ(file_refusal([](nlohmann::json& json) {
              json["parts"][1]["config"]["cleave"]["layers"][2]["heads"] = 4;
            }),
            "[plan.json] parts[1].config.layers[2].heads: keeps 4, the teacher has 3");
  EXPECT_NE(file_refusal([](nlohmann::json& json) {
              json["format"] = 9;
            }).find("[plan.json] format: saw 9"),
            std::string::npos);
  EXPECT_NE(
      file_refusal([](nlohmann::json& json) { json.erase("parts"); }).find("[plan.json] parts: "),
      std::string::npos);
  EXPECT_NE(file_refusal([](nlohmann::json& json) {
              json["shape"]["batch"] = 0;
            }).find("[plan.json] shape.batch: saw 0"),
            std::string::npos);
  const std::string misspelt = file_refusal([](nlohmann::json& json) {
    json["agregator"] = json["aggregator"];
    json.erase("aggregator");
  });
  EXPECT_NE(misspelt.find("agregator"), std::string::npos) << misspelt;
  EXPECT_NE(misspelt.find("aggregator"), std::string::npos) << misspelt;
}

}  // namespace
}  // namespace cleave::plan
