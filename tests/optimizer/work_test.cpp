#include "optimizer/plan/work.hpp"

#include <vector>

#include <gtest/gtest.h>

#include "tests/model/fixtures.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::plan {
namespace {

using examples::vit;

double flops_of(const std::vector<Kernel>& kernels) {
  double sum = 0;
  for (const Kernel& kernel : kernels) sum += kernel.flops();
  return sum;
}

std::string text_of(const std::vector<Kernel>& kernels) {
  std::string text;
  for (const Kernel& kernel : kernels)
    text += std::string(name_of(kernel.kind)) + " " + std::to_string(kernel.rows) + " " +
            std::to_string(kernel.inner) + " " + std::to_string(kernel.columns) + "\n";
  return text;
}

TEST(Work, ListsTheKernelsOfAForwardPassInOrder) {
  // 4 patches and the class token; 3 heads of 8, so that attention is narrower than the model.
  model::ModelConfig config = vit(1, 32, 4, 8, 4, 3, 10);
  config.layers = {{3, 64}};
  EXPECT_EQ(text_of(kernels_of_model(config, {2, 0, 0}, true)),
            "elementwise 6 0 64\n"   // pixels
            "elementwise 8 0 48\n"   // unfold
            "matmul 8 48 32\n"       // patches
            "elementwise 10 0 32\n"  // join
            "elementwise 10 0 32\n"  // positions
            "norm 10 0 32\n"
            "matmul 10 32 24\n"
            "matmul 10 32 24\n"
            "matmul 10 32 24\n"
            "attention 30 8 5\n"
            "matmul 10 24 32\n"
            "elementwise 10 0 32\n"
            "norm 10 0 32\n"
            "matmul 10 32 64\n"
            "activation 10 0 64\n"
            "matmul 10 64 32\n"
            "elementwise 10 0 32\n"
            "norm 2 0 32\n"  // of the class token only
            "matmul 2 32 10\n");
}

// DistilBERT has no segments to add, but the norm behind them; and a pooler before its head.
TEST(Work, PricesWhatAnEncoderHasBeforeAndBehindItsBlocks) {
  const auto kernels = [](model::Family family) {
    model::ModelConfig config = model::testing::tiny_text_config(family);
    config.task = model::Task::classification;
    config.classes = 3;
    config.layers.assign(1, {0, 0});
    return text_of(kernels_of_model(config, {1, 5, 0}, true));
  };
  const std::string typed =
      "elementwise 5 0 16\n"  // gather
      "elementwise 5 0 16\n"  // positions
      "elementwise 5 0 16\n"  // types
      "norm 5 0 16\n"
      "matmul 1 16 16\n"  // pooler
      "matmul 1 16 3\n";
  EXPECT_EQ(kernels(model::Family::bert), typed);
  EXPECT_EQ(kernels(model::Family::roberta), typed);
  EXPECT_EQ(kernels(model::Family::distilbert), typed.substr(typed.find('\n') + 1));
}

TEST(Work, LeavesOutWhatALayerDoesNotHave) {
  model::ModelConfig config = vit(2, 32, 4, 8, 4, 3, 10);
  config.layers = {{0, 64}, {4, 0}};
  const std::string text = text_of(kernels_of_model(config, {1, 0, 0}, false));
  EXPECT_EQ(text.find("attention"), text.rfind("attention"));
  EXPECT_EQ(text.find("activation"), text.rfind("activation"));
  EXPECT_EQ(text.find("matmul 1 32 10"), std::string::npos) << "the head was not asked for";
}

TEST(Work, CountsBothHeadsOfADistilledModel) {
  model::ModelConfig config = vit(1, 32, 4, 8, 4, 3, 10);
  config.family = model::Family::deit;
  config.summary_tokens = 2;
  const std::vector<Kernel> with = kernels_of_model(config, {3, 0, 0}, true);
  const std::vector<Kernel> without = kernels_of_model(config, {3, 0, 0}, false);
  ASSERT_EQ(with.size(), without.size() + 3);
  EXPECT_EQ(text_of({with.end() - 3, with.end()}),
            "matmul 3 32 10\nmatmul 3 32 10\nelementwise 3 0 10\n");
}

TEST(Work, AgreesWithTheFormulaOfOneBlock) {
  // 12·N·D² + 2·N²·D multiply-adds.
  const model::ModelConfig two = vit(2, 768, 12, 224, 16, 3, 1000);
  const model::ModelConfig one = vit(1, 768, 12, 224, 16, 3, 1000);
  const double block = flops_of(kernels_of_model(two, {1, 0, 0}, false)) -
                       flops_of(kernels_of_model(one, {1, 0, 0}, false));
  const double tokens = 197, width = 768;
  EXPECT_DOUBLE_EQ(block, 2 * (12 * tokens * width * width + 2 * tokens * tokens * width));
}

TEST(Work, ListsTheKernelsOfATokenBehindOthers) {
  // Of two texts, the 21st token: 4 heads of 8 on 2 of keys and values, a gated MLP of 48.
  EXPECT_EQ(text_of(kernels_of_model(examples::llama(1, 32, 4, 2, 48, 100, 64), {2, 1, 20}, true)),
            "elementwise 2 0 32\n"  // the tokens' rows; positions are rotations
            "norm 2 0 32\n"
            "matmul 2 32 16\n"
            "matmul 2 32 16\n"
            "matmul 2 32 32\n"
            "elementwise 4 0 48\n"  // queries and keys, turned
            "attention 8 8 21\n"
            "matmul 2 32 32\n"
            "elementwise 2 0 32\n"
            "norm 2 0 32\n"
            "matmul 2 32 48\n"  // gate
            "matmul 2 32 48\n"  // up
            "elementwise 2 0 48\n"
            "activation 2 0 48\n"
            "matmul 2 48 32\n"
            "elementwise 2 0 32\n"
            "norm 2 0 32\n"
            "matmul 2 32 100\n");
}

TEST(Work, NormsEveryTokenOfAPromptAndReadsTheLast) {
  const std::string text =
      text_of(kernels_of_model(examples::llama(1, 32, 4, 2, 48, 100, 64), {2, 3, 0}, true));
  const std::string end = "norm 6 0 32\nmatmul 2 32 100\n";
  EXPECT_EQ(text.substr(text.size() - end.size()), end);
}

TEST(Work, AgreesWithTheFormulaOfAGatedBlockWithGroupedKeys) {
  // N·D·(2·H·K + 2·H/G·K) of attention, 3·N·D·F of the MLP, 2·N·(past + N)·H·K of scores.
  const auto flops = [](std::int64_t layers) {
    return flops_of(
        kernels_of_model(examples::llama(layers, 192, 12, 3, 512, 500, 2048), {2, 30, 70}, false));
  };
  const double tokens = 2 * 30, seen = 100, width = 192, inner = 12 * 16, shared = 4 * 16;
  EXPECT_DOUBLE_EQ(flops(2) - flops(1), 2 * (tokens * width * (2 * inner + 2 * shared) +
                                             3 * tokens * width * 512 + 2 * tokens * seen * inner));
}

TEST(Work, KeepsKeysAndValuesOfEveryLayerHeadAndToken) {
  // 2 · layers · H/G · K numbers of each token of each text.
  EXPECT_EQ(cache_bytes(examples::small_llama(), 3, 250), 4.0 * 2 * 4 * (12 / 3) * 16 * 3 * 250);
  EXPECT_EQ(cache_bytes(examples::llama(4, 192, 12, 1, 512, 500, 2048), 3, 250),
            3 * cache_bytes(examples::small_llama(), 3, 250));
  model::ModelConfig cut = examples::small_llama();
  cut.layers = {{12, 512}, {0, 512}, {3, 0}};
  EXPECT_EQ(cache_bytes(cut, 1, 10), 4.0 * 2 * (4 + 1) * 16 * 10);
}

TEST(Work, KnowsTheWeightsOfALlama) {
  // Queries and output, keys and values of a third, gate, up and down, two norms; the last norm,
  // and tokens on both sides.
  const double layer = 192.0 * (2 * 192 + 2 * 64) + 3 * 192.0 * 512 + 2 * 192;
  EXPECT_EQ(weight_bytes(examples::small_llama()), 4 * (4 * layer + 192 + 2 * 500.0 * 192));
}

TEST(Work, AgreesWithThePublishedFlopsOfViTBase) {
  EXPECT_NEAR(flops_of(kernels_of_model(examples::vit_base(), {1, 0, 0}, true)), 35.1e9, 0.1e9);
  EXPECT_NEAR(flops_of(kernels_of_model(examples::vit_base(), {4, 0, 0}, true)), 4 * 35.1e9, 0.4e9);
}

TEST(Work, CountsBytesOnce) {
  EXPECT_EQ((Kernel{KernelKind::matmul, 2, 3, 5}.bytes()), 4 * (6 + 15 + 10));
  EXPECT_EQ((Kernel{KernelKind::attention, 6, 4, 3}.bytes()), 4 * (4 * 24 + 4 * 18));
  EXPECT_EQ((Kernel{KernelKind::norm, 2, 0, 5}.bytes()), 4 * (20 + 10));
  EXPECT_EQ((Kernel{KernelKind::activation, 2, 0, 5}.bytes()), 4 * 20);
  EXPECT_EQ((Kernel{KernelKind::elementwise, 2, 0, 5}.bytes()), 4 * 30);
  EXPECT_EQ((Kernel{KernelKind::elementwise, 2, 0, 5}.flops()), 0);
}

TEST(Work, FusesPartsOntoTheTeachersWidth) {
  const model::ModelConfig teacher = vit(1, 32, 4, 8, 4, 3, 10);
  EXPECT_EQ(text_of(kernels_of_fusion(teacher, {16}, {2, 0, 0})),
            "matmul 2 16 32\n"
            "matmul 2 32 10\n");
  EXPECT_EQ(text_of(kernels_of_fusion(teacher, {16, 8}, {2, 0, 0})),
            "elementwise 2 0 24\n"
            "matmul 2 24 32\n"
            "matmul 2 32 10\n");
  // More than four share a head, a column each.
  EXPECT_EQ(text_of(kernels_of_fusion(teacher, {16, 8, 8, 8, 4}, {1, 0, 0})),
            "matmul 1 16 32\n"
            "elementwise 1 0 32\n"
            "matmul 1 8 32\n"
            "elementwise 1 0 32\n"
            "matmul 1 8 32\n"
            "elementwise 1 0 32\n"
            "matmul 1 8 32\n"
            "elementwise 1 0 32\n"
            "matmul 1 4 32\n"
            "elementwise 1 0 32\n"
            "elementwise 1 0 32\n"
            "matmul 1 32 10\n");
}

TEST(Work, KnowsTheWeightsOfViTBase) {
  EXPECT_EQ(weight_bytes(examples::vit_base()), 4 * 86567656.0);
  EXPECT_EQ(loading_bytes(examples::vit_base()), 4 * 768.0 * 3072);
}

TEST(Work, CountsWhatIsAliveAtTheWidestMoment) {
  // ViT-B/16 while softmax is weighted: pixels, x, its norm, q, k, v, context; scores twice.
  const double pixels = 3 * 224 * 224, stream = 197 * 768, scores = 12 * 197 * 197;
  EXPECT_EQ(activation_bytes(examples::vit_base(), {1, 0, 0}),
            4 * (pixels + 6 * stream + 2 * scores));
}

TEST(Work, HoldsGateAndUpBesideTheirProduct) {
  // One text of 4 tokens and an MLP of 4096: three streams, and of gate, up and product never more
  // than three at once.
  const model::ModelConfig config = examples::llama(1, 32, 4, 2, 4096, 100, 64);
  EXPECT_EQ(activation_bytes(config, {1, 4, 0}), 4.0 * (3 * 4 * 32 + 3 * 4 * 4096));
}

TEST(Work, CopiesWhatIsStoredTransposedOrTogether) {
  // GPT-2 keeps its matrices transposed, and queries, keys and values in one.
  model::ModelConfig config = examples::llama(1, 32, 4, 1, 48, 100, 64);
  config.family = model::Family::gpt2;
  config.gated = false;
  config.rotary_base = 0;
  config.norm_kind = model::NormKind::layer;
  config.qkv_bias = config.output_bias = true;
  config.tied_head = true;
  config.activation = model::Activation::gelu_tanh;
  EXPECT_EQ(loading_bytes(config), 4.0 * 2 * 3 * 32 * 32);
  config.layers = {{4, 480}};
  EXPECT_EQ(loading_bytes(config), 4.0 * 2 * 32 * 480);
}

TEST(Work, TransformsWhatAMaskedModelReads) {
  model::ModelConfig config = examples::llama(1, 32, 4, 1, 48, 100, 64);
  config.family = model::Family::bert;
  config.task = model::Task::masked_lm;
  config.causal = config.gated = false;
  config.rotary_base = 0;
  const std::vector<Kernel> with = kernels_of_model(config, {2, 5, 0}, true);
  const std::vector<Kernel> without = kernels_of_model(config, {2, 5, 0}, false);
  ASSERT_EQ(with.size(), without.size() + 2);
  EXPECT_EQ(text_of({with.end() - 2, with.end()}), "matmul 10 32 32\nmatmul 10 32 100\n");
}

TEST(Work, LetsTheMlpDecideWhereSequencesAreShort) {
  // 17 tokens: pixels, three streams and the wide layer before and after its activation.
  const model::ModelConfig config = vit(1, 64, 4, 28, 7, 1, 10);
  EXPECT_EQ(activation_bytes(config, {1, 0, 0}), 4.0 * (28 * 28 + 3 * 17 * 64 + 2 * 17 * 256));
}

}  // namespace
}  // namespace cleave::plan
