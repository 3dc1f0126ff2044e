// Trained models say what Transformers says (goldens by tests/goldens/make_text_goldens.py).

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "infer/engine.hpp"
#include "infer/generate.hpp"
#include "model/config/hugging_face.hpp"
#include "tests/infer/tiny_bundle.hpp"

namespace cleave::infer {
namespace {

namespace fs = std::filesystem;

std::vector<Generated> said(const fs::path& folder, const Text& prompt, std::int64_t tokens) {
  plan::Plan plan;
  plan.strategy = "local";
  plan.aggregator = "here";
  plan.teacher = model::read_config(folder);
  plan.parts = {plan_part("here", plan.teacher)};
  const auto engine = model_engine(folder);
  engine->prepare();
  GenerateOptions options;
  options.max_tokens = tokens;
  options.context = plan.teacher.context;
  return generate([&](const net::Value& ids,
                      const Sequence& at) { return run_locally(*engine, plan, ids, {}, at); },
                  1, {prompt}, options);
}

TEST(PublishedText, IsWhatTransformersSays) {
  const char* given = std::getenv("CLEAVE_SHARED");
  const fs::path shared =
      given != nullptr ? fs::path(given) : fs::path(CLEAVE_SOURCE_DIR) / "../shared";
  if (!fs::exists(shared / "data/gpt2-capp"))
    GTEST_SKIP() << "no trained models in " << shared << " (CLEAVE_SHARED names another place)";
  const Scratch scratch;
  const fs::path stories = scratch.path() / "stories";
  const std::string convert = std::string("'") + CLEAVE_SOURCE_DIR + "/recipes/stories/convert' '";
  const std::string from = (shared / "data/stories260k").string();
  ASSERT_EQ(std::system((convert + from + "/stories260K.bin' '" + from + "/tok512.bin' '" +
                         stories.string() + "' > /dev/null")
                            .c_str()),
            0);
  const auto goldens = nlohmann::json::parse(
      base::read_text(fs::path(CLEAVE_SOURCE_DIR) / "tests/goldens/published_text.json"));
  ASSERT_EQ(goldens.size(), 5U);
  for (const auto& golden : goldens) {
    const auto expected = golden.at("ids").get<Text>();
    // No choice was so close that rounding could turn it.
    ASSERT_GT(golden.at("margin").get<double>(), 1e-3);
    const fs::path folder =
        golden.at("model") == "stories260k" ? stories : shared / "data/gpt2-capp";
    const auto found =
        said(folder, golden.at("prompt").get<Text>(), static_cast<std::int64_t>(expected.size()));
    EXPECT_EQ(found.at(0).tokens, expected) << golden.at("model") << golden.at("prompt");
  }
}

}  // namespace
}  // namespace cleave::infer
