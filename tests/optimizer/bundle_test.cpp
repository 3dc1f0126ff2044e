#include "optimizer/plan/bundle.hpp"

#include <functional>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "model/config/holding.hpp"
#include "optimizer/plan/weights.hpp"
#include "tests/base/scratch.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::plan {
namespace {

namespace fs = std::filesystem;
using testing::message_of;

Plan two_parts() {
  const model::ModelConfig teacher = examples::vit(2, 32, 4, 8, 4, 1, 10);
  return examples::plan_of(
      teacher,
      {examples::part(teacher, "hub", 2, 16, 2, 32), examples::part(teacher, "cam", 1, 8, 1, 16)},
      "hub", "decomposed");
}

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  base::write_whole(path, text);
}

/// A bundle whose weights are a few letters.
class BundleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder_.path() / "plans");
    write_plan(two_parts(), folder_ / "plans/default.json");
    write(folder_ / "parts/default/hub/model.safetensors", "hub's weights");
    write(folder_ / "parts/default/cam/model.safetensors", "cam's weights");
    write(folder_ / "fusion/default/fusion.json", "{}");
    write(folder_ / "hosts.toml", "format = 1\n[hosts]\n");
    write(folder_ / ".work/cache", "not part of it");
    manifest_ = write_manifest(folder_.path(), "default", std::string(64, 'f'));
  }

  std::string verify(const std::string& prefix) const {
    const Bundle bundle(folder_.path());
    return message_of([&] { bundle.verify(prefix); });
  }

  /// What opening says after `change` of the manifest.
  std::string opening(const std::function<void(nlohmann::json&)>& change) const {
    nlohmann::json json = nlohmann::json::parse(base::read_text(folder_ / "manifest.json"));
    change(json);
    return message_of([&] { manifest_from_json(json.dump(), "manifest.json"); });
  }

  testing::Scratch folder_;
  Manifest manifest_;
};

TEST_F(BundleTest, ListsWhatBelongsToIt) {
  std::vector<std::string> paths;
  for (const auto& [path, file] : manifest_.files) paths.push_back(path);
  EXPECT_EQ(paths, (std::vector<std::string>{
                       "fusion/default/fusion.json", "parts/default/cam/model.safetensors",
                       "parts/default/hub/model.safetensors", "plans/default.json"}));
  const ManifestFile& hub = manifest_.files.at("parts/default/hub/model.safetensors");
  EXPECT_EQ(hub.bytes, 13u);
  EXPECT_EQ(hub.sha256, base::sha256("hub's weights"));
}

TEST_F(BundleTest, ComesBackFromItsManifest) {
  const Bundle bundle(folder_.path());
  EXPECT_EQ(bundle.identity(), manifest_.identity());
  EXPECT_EQ(bundle.manifest().teacher_digest, std::string(64, 'f'));
  const Plan plan = bundle.plan();
  EXPECT_EQ(plan.parts[1].device, "cam");
  EXPECT_EQ(bundle.part_path(plan, "cam"), folder_ / "parts/default/cam");
  EXPECT_EQ(bundle.fusion_path(plan), folder_ / "fusion/default");
  EXPECT_EQ(verify(""), "");
  EXPECT_EQ(verify("parts/default/hub"), "");
  EXPECT_EQ(verify("parts/default/hub/"), "");
}

TEST_F(BundleTest, HasAnIdentityOfTeacherAndWeights) {
  Manifest manifest;
  manifest.teacher_digest = "22";
  manifest.files["plans/a.json"] = {"00", 3};
  manifest.files["parts/a/x/w"] = {"11", 4};
  EXPECT_EQ(manifest.identity(), base::sha256("teacher 22\nparts/a/x/w 11 4\n"));
  const std::string before = manifest_.identity();
  write(folder_ / "hosts.toml", "changed");
  EXPECT_EQ(write_manifest(folder_.path(), "default", manifest_.teacher_digest).identity(), before);
  write(folder_ / "parts/default/cam/model.safetensors", "calibrated");
  EXPECT_NE(write_manifest(folder_.path(), "default", "").identity(), before);
}

TEST_F(BundleTest, SaysWhatItsWeightsAre) {
  const auto state = [&](const Plan& plan) { return weights_state(Bundle(folder_.path()), plan); };
  EXPECT_EQ(state(two_parts()), WeightsState::uncalibrated);
  Plan random = two_parts();
  random.teacher.random_weights = true;
  EXPECT_EQ(state(random), WeightsState::uncalibrated);
  for (const auto& [noted, seen] :
       {std::pair(CalibrationState::unfinished, WeightsState::unfinished),
        std::pair(CalibrationState::rejected, WeightsState::rejected),
        std::pair(CalibrationState::fitted, WeightsState::fitted),
        std::pair(CalibrationState::done, WeightsState::calibrated)}) {
    write_calibration(folder_.path(), "default", noted);
    EXPECT_EQ(state(two_parts()), seen);
    EXPECT_EQ(weights_state_named(name_of(seen)), seen);
  }
  EXPECT_EQ(state(random), WeightsState::random);
  EXPECT_EQ(Bundle(folder_.path()).identity(), manifest_.identity());
  EXPECT_EQ(verify(""), "");
  EXPECT_EQ(weights_state_named("good"), std::nullopt);
}

TEST_F(BundleTest, NeedsNoCalibrationWhereNothingIsCutAway) {
  Plan whole = two_parts();
  for (PlanPart& part : whole.parts) {
    part.sub_model().config = whole.teacher;
    part.sub_model().config.classes = 0;
  }
  EXPECT_EQ(weights_state(Bundle(folder_.path()), whole), WeightsState::exact);
  whole.parts[1].sub_model().config.layers.pop_back();
  EXPECT_EQ(weights_state(Bundle(folder_.path()), whole), WeightsState::uncalibrated);
  // Without a fusion head one device answers with the whole model.
  fs::remove_all(folder_ / "fusion");
  write_manifest(folder_.path(), "default", "");
  EXPECT_EQ(weights_state(Bundle(folder_.path()), two_parts()), WeightsState::exact);
}

TEST_F(BundleTest, KnowsNothingOfTheWeightsWhereAnOlderProgramWroteIt) {
  nlohmann::json json = nlohmann::json::parse(base::read_text(folder_ / "manifest.json"));
  json.erase("calibration");
  base::write_whole(folder_ / "manifest.json", json.dump());
  EXPECT_EQ(weights_state(Bundle(folder_.path()), two_parts()), WeightsState::unknown);
  write(folder_ / "calibration.jsonl", "{}");
  EXPECT_EQ(weights_state(Bundle(folder_.path()), two_parts()), WeightsState::calibrated);
  const std::string refusal =
      opening([](auto& change) { change["calibration"]["default"] = "perhaps"; });
  EXPECT_NE(refusal.find("calibration.default"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("one of unfinished, rejected, done"), std::string::npos) << refusal;
}

TEST_F(BundleTest, SaysWhoseDigestIsWrong) {
  base::write_whole(folder_ / "parts/default/cam/model.safetensors", "CAM's weights");
  EXPECT_EQ(verify("parts/default/cam"), "[parts/default/cam/model.safetensors] digest: saw " +
                                             base::sha256("CAM's weights") + ", needs " +
                                             base::sha256("cam's weights"));
  EXPECT_NE(verify(""), "");
  EXPECT_EQ(verify("parts/default/hub"), "");
  base::write_whole(folder_ / "parts/default/cam/model.safetensors", "cam");
  EXPECT_EQ(verify("parts/default/cam"),
            "[parts/default/cam/model.safetensors] size: saw 3 bytes, needs 13");
}

TEST_F(BundleTest, SaysWhichPartToCopy) {
  fs::remove_all(folder_ / "parts/default/cam");
  EXPECT_EQ(verify("parts/default/cam"),
            "[parts/default/cam/model.safetensors] the part of 'cam' is not here: copy "
            "parts/default/cam");
  EXPECT_EQ(verify(""), "") << "a device need not hold the others' parts";
  EXPECT_NE(verify("parts/default/cat").find("[parts/default/cat] is not in the manifest of"),
            std::string::npos);
  // A name that only begins like a device is another device.
  EXPECT_NE(verify("parts/default/hu").find("is not in the manifest"), std::string::npos);
}

TEST_F(BundleTest, RefusesAPlanThatWasChanged) {
  Plan plan = two_parts();
  plan.seed = 2;
  write_plan(plan, folder_ / "plans/default.json");
  const std::string message = message_of([&] { Bundle(folder_.path()).plan(); });
  EXPECT_NE(message.find("[plans/default.json] digest: saw "), std::string::npos) << message;
}

TEST_F(BundleTest, NamesThePlansAndDevicesItKnows) {
  const Bundle bundle(folder_.path());
  EXPECT_NE(
      message_of([&] { bundle.plan("night"); }).find("saw no plan 'night', needs one of default"),
      std::string::npos);
  EXPECT_NE(message_of([&] {
              bundle.part_path(bundle.plan(), "../hub");
            }).find("saw no device '../hub' in plan 'default', needs one of hub, cam"),
            std::string::npos);
}

// A unit less at either end of one parameter, or none of it, is too little.
TEST(ExpectHeld, NamesWhatAHoldingLacks) {
  const testing::Scratch folder;
  Plan plan = examples::tensor_plan(examples::fashion_vit(), 3);
  plan.teacher_digest = std::string(64, 'f');
  fs::create_directories(folder / "plans");
  fs::create_directories(folder / "holdings/d1");
  write_plan(plan, folder / "plans/default.json");
  const std::string name = "blocks.2.mlp.down.weight";
  const auto refusal = [&](const std::function<void(model::ParameterRange&)>& change) {
    model::Holding holding{plan.teacher, holding_of({plan}, "d1")};
    for (model::ParameterRange& held : holding.weights)
      if (held.name == name) change(held);
    write_holding(holding, folder / "holdings/d1");
    write_manifest(folder.path(), "default", plan.teacher_digest);
    return message_of([&] { expect_held(Bundle(folder.path()), plan, "d1"); });
  };
  const auto lacks = [&](const std::string& range) {
    return "[plan 'default'] holdings/d1: saw " + range + " of " + name +
           ", needs 256:512; cut the bundle again";
  };
  EXPECT_EQ(refusal([](model::ParameterRange&) {}), "");
  EXPECT_EQ(refusal([](model::ParameterRange& held) { held.range = {0, 768}; }), "");
  EXPECT_EQ(refusal([](model::ParameterRange& held) { held.range.end -= 1; }), lacks("256:511"));
  EXPECT_EQ(refusal([](model::ParameterRange& held) { held.range.begin += 1; }), lacks("257:512"));
  EXPECT_EQ(refusal([](model::ParameterRange& held) {
              held.range = {300, 300};
            }),
            lacks("300:300"));
  const auto without_holding = [&] {
    return message_of([&] { expect_held(Bundle(folder.path()), plan, "d1"); });
  };
  fs::remove_all(folder / "holdings/d1");
  EXPECT_EQ(without_holding(),
            "[plan 'default'] holdings/d1: is not here: copy it from where the bundle was made");
  write_manifest(folder.path(), "default", plan.teacher_digest);
  EXPECT_EQ(without_holding(),
            "[plan 'default'] holdings/d1: is not in the bundle; cut the bundle again");
}

TEST_F(BundleTest, RefusesPathsThatLeadOut) {
  for (const char* path :
       {"/etc/passwd", "../x", "parts/../../x", "parts/./x", "parts//x", "parts", "parts/", "",
        "other/x", "parts\\x/y", "parts/.hidden", ".staging/parts/x", "parts/a/b\n"}) {
    const std::string message = opening([&](nlohmann::json& json) {
      json["files"][path] = {{"sha256", std::string(64, '0')}, {"bytes", 1}};
    });
    EXPECT_NE(message.find("[manifest.json] files: saw the path '"), std::string::npos)
        << "'" << path << "': " << message;
  }
}

TEST_F(BundleTest, RefusesAManifestThatContradictsItself) {
  EXPECT_EQ(opening([](nlohmann::json&) {}), "");
  EXPECT_NE(opening([](nlohmann::json& json) {
              json["files"]["parts/default/hub/model.safetensors"]["bytes"] = 7;
            }).find("[manifest.json] identity: saw " + manifest_.identity()),
            std::string::npos);
  EXPECT_NE(opening([](nlohmann::json& json) {
              json["files"]["plans/default.json"]["sha256"] = "AB";
            }).find("sha256: saw 'AB', needs 64 hexadecimal digits"),
            std::string::npos);
  EXPECT_EQ(opening([](nlohmann::json& json) { json["default_plan"] = "night"; }),
            "[manifest.json] default_plan: saw 'night', needs one of the plans in files");
  EXPECT_NE(opening([](nlohmann::json& json) {
              json["format"] = 3;
            }).find("[manifest.json] format: saw 3"),
            std::string::npos);
  EXPECT_EQ(opening([](nlohmann::json& json) { json["format"] = 1; }),
            "[manifest.json] format: saw 1, needs 2: cut the bundle again");
}

TEST_F(BundleTest, RefusesAFolderThatIsNone) {
  fs::remove(folder_ / "manifest.json");
  EXPECT_EQ(message_of([&] { Bundle{folder_.path()}; }),
            "[" + folder_.path().string() + "] is not a bundle: saw no manifest.json");
}

TEST_F(BundleTest, NeedsItsDefaultPlan) {
  EXPECT_NE(message_of([&] {
              write_manifest(folder_.path(), "night", "");
            }).find("saw no plans/night.json"),
            std::string::npos);
  EXPECT_EQ(Bundle(folder_.path()).identity(), manifest_.identity()) << "the old one stays";
}

TEST(DigestModel, CoversConfigAndWeights) {
  const testing::Scratch scratch;
  write(scratch / "config.json", "{}");
  write(scratch / "model.safetensors", "weights");
  const std::string digest = digest_model(scratch.path());
  write(scratch / "README.md", "words");
  EXPECT_EQ(digest_model(scratch.path()), digest);
  write(scratch / "model.safetensors", "weight5");
  EXPECT_NE(digest_model(scratch.path()), digest);
  write(scratch / "model.safetensors", "weights");
  EXPECT_EQ(digest_model(scratch.path()), digest);
  write(scratch / "config.json", "{ }");
  EXPECT_NE(digest_model(scratch.path()), digest);
}

TEST(DigestModel, CoversEveryFileThatChangesAnswers) {
  const testing::Scratch scratch;
  write(scratch / "config.json", "{}");
  write(scratch / "model.safetensors", "weights");
  std::string digest = digest_model(scratch.path());
  std::filesystem::create_directories(scratch / "1_Pooling");
  for (const char* file :
       {"generation_config.json", "preprocessor_config.json", "modules.json", "tokenizer.json",
        "sentence_bert_config.json", "sentence_roberta_config.json", "1_Pooling/config.json",
        "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt"}) {
    write(scratch / file, "{}");
    const std::string with = digest_model(scratch.path());
    EXPECT_NE(with, digest) << file;
    digest = with;
  }
  for (const char* file : {"chat_template.jinja", "config_sentence_transformers.json", "README.md"})
    write(scratch / file, "{}");
  EXPECT_EQ(digest_model(scratch.path()), digest) << "what is ignored does not count";
}

TEST(DigestModel, RefusesAFolderWithoutAModel) {
  const testing::Scratch scratch;
  write(scratch / "config.json", "{}");
  EXPECT_EQ(message_of([&] { digest_model(scratch.path()); }),
            "[" + scratch.path().string() + "] saw no .safetensors file, needs the weights");
  EXPECT_EQ(message_of([&] { digest_model(scratch / "none"); }),
            "[" + (scratch / "none").string() + "] is not a model folder");
}

TEST(Hosts, ComeBackFromTheirFile) {
  const testing::Scratch scratch;
  const std::map<std::string, std::string> hosts = {{"box.1", "[::1]:7102"},
                                                    {"hub", "127.0.0.1:7101"}};
  write_hosts(hosts, scratch / "hosts.toml");
  EXPECT_EQ(read_hosts(scratch / "hosts.toml"), hosts);
}

TEST(Hosts, NameTheAddressThatIsWrong) {
  const testing::Scratch scratch;
  write(scratch / "hosts.toml", "format = 1\n[hosts]\nhub = \"nowhere\"\n");
  EXPECT_NE(message_of([&] {
              read_hosts(scratch / "hosts.toml");
            }).find("hosts.hub: saw 'nowhere', needs \"host:port\""),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              write_hosts({{"a b", "x:1"}}, scratch / "hosts.toml");
            }).find("[hosts] saw 'a b' at 'x:1'"),
            std::string::npos);
}

}  // namespace
}  // namespace cleave::plan
