// What `cleave inspect` says of a bundle that is damaged, or calibrated since it was measured.

#include <algorithm>

#include <nlohmann/json.hpp>

#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;

class Inspect : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    make_tiny_bundle(*shared_);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  void SetUp() override { fs::copy(*shared_ / "bundle", bundle(), fs::copy_options::recursive); }
  std::string bundle() const { return own_ / "bundle"; }
  Ran inspect(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"inspect", bundle()});
    return run_cleave(own_, more);
  }
  void expect_refusal(const Ran& ran, const std::vector<std::string>& words) {
    EXPECT_EQ(ran.code, 1) << ran.error << ran.out;
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1) << ran.error;
    EXPECT_EQ(ran.error.find("json.exception"), std::string::npos) << ran.error;
    for (const auto& word : words)
      EXPECT_NE(ran.error.find(word), std::string::npos)
          << "'" << word << "' is not in: " << ran.error;
  }

  /// The hub's keep.json with one field changed; the manifest is made anew where `sealed`.
  void spoil_keep(const std::string& field, const nlohmann::json& value, bool sealed) {
    const std::string path = bundle() + "/parts/default/hub/keep.json";
    auto keep = nlohmann::json::parse(base::read_text(path));
    keep[field] = value;
    write_text(path, keep.dump());
    const auto manifest = plan::Bundle(bundle()).manifest();
    if (sealed) plan::write_manifest(bundle(), manifest.default_plan, manifest.teacher_digest);
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* Inspect::shared_ = nullptr;

TEST_F(Inspect, ADamagedKeepListIsRefusedByItsDigest) {
  spoil_keep("channels", {0, 1}, false);
  expect_refusal(inspect(), {"parts/default/hub/keep.json", "saw", "needs"});
}

TEST_F(Inspect, AKeepListOutsideTheTeacherIsRefused) {
  const std::vector<std::pair<std::string, nlohmann::json>> spoilt{
      {"channels", {0, 1000000000000}}, {"channels", {0, 32}}, {"heads", nlohmann::json::array()},
      {"heads", {{0, 7}, {0}}},         {"layers", {5, 6}},    {"mlp", "none"}};
  for (const auto& [field, value] : spoilt) {
    spoil_keep(field, value, true);
    expect_refusal(inspect(), {"keep.json] " + field});
    fs::remove_all(bundle());
    SetUp();
  }
}

TEST_F(Inspect, ADamagedMeasurementIsRefused) {
  for (const auto& [text, where] : std::vector<std::pair<std::string, std::string>>{
           {R"({"format": 1, "accuracy": {}})", "accuracy.rows: is missing"},
           {R"({"format": 1, "testbed": {}})", "testbed.systems: is missing"},
           {R"({"format": 1, "accuracy": {"rows": [{"what": 3}]}})",
            "accuracy.rows[0].what: saw 3"},
           {R"({"format": 1, "accuracy": 7})", "accuracy: saw 7"},
           {R"({"format": 2})", "format: saw 2"},
           {"[1]", "saw a list"}}) {
    write_text(bundle() + "/measured.json", text);
    expect_refusal(inspect({"--measured"}), {"measured.json] " + where});
    expect_refusal(inspect(), {"measured.json] " + where});
  }
  for (const std::string text : {R"({"format": 1, "accuracy": 7})", "[1]"}) {
    write_text(bundle() + "/measured.json", text);
    expect_refusal(inspect({"--measured", "--format", "json"}), {"measured.json]"});
  }
}

TEST_F(Inspect, MeasurementsOfOtherWeightsSaySo) {
  EXPECT_EQ(inspect({"--measured"}).out, "nothing is measured yet\n");
  const nlohmann::json rows = {{{"what", "fused"}, {"value", 0.5}}};
  const std::string identity = plan::Bundle(bundle()).identity();
  plan::write_measured(bundle(), "accuracy", {{"bundle", identity}, {"rows", rows}});
  auto measured = inspect({"--measured"}).out;
  EXPECT_NE(measured.find("fused"), std::string::npos) << measured;
  EXPECT_EQ(measured.find("earlier"), std::string::npos) << measured;

  spoil_keep("classifier", false, true);  // any change of the parts
  measured = inspect({"--measured"}).out;
  EXPECT_NE(measured.find("accuracy of an earlier bundle"), std::string::npos) << measured;
  const auto json = nlohmann::json::parse(inspect({"--measured", "--format", "json"}).out);
  EXPECT_FALSE(json.at("accuracy").at("of_this_bundle").get<bool>());
}

}  // namespace
}  // namespace cleave::tools
