// Every family of texts against Hugging Face Transformers (goldens by
// tests/goldens/make_text_goldens.py), and what padding, caches and groups may not change.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/tokenizer/segment.hpp"
#include "model/transformer.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using nlohmann::json;
using testing::error_of;
using testing::expect_contains;
using testing::golden;
using testing::Scratch;
using testing::tiny_text_config;

const std::vector<std::string> goldens = {"bert",
                                          "bert_classifier",
                                          "bert_pairs",
                                          "bert_masked_sharded",
                                          "roberta",
                                          "roberta_classifier",
                                          "roberta_masked",
                                          "distilbert",
                                          "distilbert_classifier",
                                          "distilbert_masked",
                                          "gpt2",
                                          "gpt2_headless_f16",
                                          "llama",
                                          "llama_tied_bf16",
                                          "llama31",
                                          "llama_linear_biased",
                                          "qwen2_tied",
                                          "mistral_window"};
const std::vector<std::string> generating = {"llama31", "llama_linear_biased", "qwen2_tied",
                                             "mistral_window"};

std::map<std::string, Tensor> answers_of(const std::string& name) {
  const TensorFiles files(golden("models/" + name) / "golden.safetensors");
  std::map<std::string, Tensor> tensors;
  for (const auto& [key, entry] : files.entries())
    if (key == "ids" || key == "continued") {
      Tensor ids = at::empty(entry.dims, at::kLong);
      std::memcpy(ids.data_ptr(), files.data(entry), entry.bytes);
      tensors[key] = ids;
    } else {
      tensors[key] = read_tensor(files, entry);
    }
  return tensors;
}

void expect_close(const Tensor& a, const Tensor& b, double tolerance = 1e-5) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a - b).abs().max().item<double>(), tolerance);
}

/// [B, N, ..] with 0 where the rows are filled up.
Tensor where_real(const Tensor& x, const Tensor& ids) {
  if (x.dim() < 3 || x.size(1) != ids.size(1)) return x;
  return x * (ids >= 0).unsqueeze(-1);
}

Transformer lively_model(const ModelConfig& config) {
  Transformer model = random_model(config, 3);
  at::manual_seed(4);
  for (auto& [name, tensor] : model.tensors) tensor = tensor + 0.2 * at::randn_like(tensor);
  return model;
}

Tensor ids_of(const std::vector<std::vector<std::int64_t>>& rows) {
  std::size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  Tensor ids = at::full(
      {static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(longest)}, -1, at::kLong);
  for (std::size_t r = 0; r < rows.size(); ++r)
    for (std::size_t i = 0; i < rows[r].size(); ++i)
      ids[static_cast<std::int64_t>(r)][static_cast<std::int64_t>(i)] = rows[r][i];
  return ids;
}

class TextModel : public ::testing::TestWithParam<std::string> {};

TEST_P(TextModel, AnswersAsTransformersDoes) {
  const Transformer model = load(golden("models/" + GetParam()));
  const auto golden = answers_of(GetParam());
  const Tensor& ids = golden.at("ids");
  const Tensor found = features(model, ids);
  expect_close(where_real(found, ids), golden.at("features"), 1e-4);
  if (!model.config.answers()) return;
  expect_close(where_real(classify(model, found), ids), golden.at("answer"), 1e-4);
}

TEST_P(TextModel, AnswersATextAloneAsInABatch) {
  const Transformer model = load(golden("models/" + GetParam()));
  const Tensor ids = answers_of(GetParam()).at("ids");
  const Tensor together = features(model, ids);
  const std::vector<std::int64_t> lengths = lengths_of(ids);
  for (std::int64_t row = 0; row < ids.size(0); ++row) {
    const std::int64_t length = lengths[static_cast<std::size_t>(row)];
    const Tensor alone = features(model, ids.narrow(0, row, 1).narrow(1, 0, length));
    expect_close(alone, together.narrow(0, row, 1).narrow(1, 0, alone.size(1)));
  }
}

TEST_P(TextModel, ComesBackFromDiskAsItWas) {
  const Scratch scratch;
  const Transformer model = load(golden("models/" + GetParam()));
  save(model, scratch / "copy");
  const Transformer copy = load(scratch / "copy");
  EXPECT_TRUE(copy.config == model.config);
  ASSERT_EQ(copy.tensors.size(), model.tensors.size());
  for (const auto& [name, tensor] : model.tensors) EXPECT_TRUE(copy[name].equal(tensor)) << name;
}

TEST_P(TextModel, ComesBackFromShardsAsItWas) {
  const Scratch scratch;
  const Transformer model = load(golden("models/" + GetParam()));
  save(model, scratch / "copy", 4000);
  EXPECT_TRUE(std::filesystem::exists(scratch / "copy/model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "copy/model.safetensors"));
  const Transformer copy = load(scratch / "copy");
  ASSERT_EQ(copy.tensors.size(), model.tensors.size());
  for (const auto& [name, tensor] : model.tensors) EXPECT_TRUE(copy[name].equal(tensor)) << name;
}

INSTANTIATE_TEST_SUITE_P(Goldens, TextModel, ::testing::ValuesIn(goldens),
                         [](const auto& one) { return one.param; });

class Generating : public ::testing::TestWithParam<std::string> {};

// Greedily, token for token, each on the cache of those before it; llama31 beyond the context that
// its positions are scaled from.
TEST_P(Generating, GoesOnAsTransformersDoes) {
  const Transformer model = load(golden("models/" + GetParam()));
  const auto golden = answers_of(GetParam());
  const Tensor &ids = golden.at("ids"), &expected = golden.at("continued");
  KvCache cache = make_cache(model.config, ids.size(0), model.config.context);
  Tensor fed = ids;
  for (std::int64_t step = 0; step < expected.size(1); ++step) {
    const Tensor last = last_token(features(model, {fed, &cache}), (fed >= 0).sum(1));
    fed = classify(model, last).argmax(-1);
    EXPECT_TRUE(fed.squeeze(1).equal(expected.select(1, step))) << "token " << step;
  }
}

TEST_P(Generating, StepByStepIsTheWholeTextInEitherFormat) {
  Transformer model = load(golden("models/" + GetParam()));
  const auto golden = answers_of(GetParam());
  const Tensor whole =
      at::cat({golden.at("ids").narrow(0, 0, 1), golden.at("continued").narrow(0, 0, 1)}, 1);
  const Tensor exact = features(model, whole);
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    model.compute = compute;
    KvCache cache = make_cache(model.config, 1, model.config.context);
    for (std::int64_t i = 0; i < whole.size(1); ++i)
      expect_close(features(model, {whole.narrow(1, i, 1), &cache})[0][0], exact[0][i],
                   compute == Compute::f32 ? 1e-4 : 0.5);
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, Generating, ::testing::ValuesIn(generating),
                         [](const auto& one) { return one.param; });

// One token after the other on a cache is the whole text at once, for texts of unequal length.
TEST(KvCache, GoesOnWhereTheTextEnds) {
  for (const Family family : {Family::gpt2, Family::llama, Family::qwen2, Family::mistral}) {
    const Transformer model = lively_model(tiny_text_config(family));
    const std::vector<std::vector<std::int64_t>> texts = {{1, 2, 3, 4, 5, 6, 7, 8},
                                                          {9, 8, 7, 6, 5}};
    const Tensor whole = features(model, ids_of(texts));
    KvCache cache = make_cache(model.config, 2, 16);
    features(model, {ids_of({{1, 2, 3, 4}, {9}}), &cache});
    EXPECT_EQ(cache.lengths, (std::vector<std::int64_t>{4, 1}));
    for (std::int64_t step = 0; step < 4; ++step) {
      const auto s = static_cast<std::size_t>(step);
      const Tensor found =
          features(model, {ids_of({{texts[0][4 + s]}, {texts[1][1 + s]}}), &cache});
      expect_close(found[0][0], whole[0][4 + step]);
      expect_close(found[1][0], whole[1][1 + step]);
    }
    EXPECT_EQ(cache.lengths, (std::vector<std::int64_t>{8, 5}));
  }
}

TEST(KvCache, TakesSeveralTokensAtOnceAndNoneForSome) {
  const Transformer model = lively_model(tiny_text_config(Family::llama));
  const Tensor whole = features(model, ids_of({{1, 2, 3, 4, 5}, {9, 8, 7, 6}}));
  KvCache cache = make_cache(model.config, 2, 16);
  features(model, {ids_of({{1, 2}, {9, 8, 7}}), &cache});
  const Tensor first = features(model, {ids_of({{3, 4}, {}}), &cache});
  expect_close(first[0], whole[0].narrow(0, 2, 2));
  EXPECT_EQ(cache.lengths, (std::vector<std::int64_t>{4, 3}));
  const Tensor then = features(model, {ids_of({{5}, {6}}), &cache});
  expect_close(then[0][0], whole[0][4]);
  expect_close(then[1][0], whole[1][3]);
}

TEST(KvCache, HoldsSixteenBitsWhereProductsAreInBf16) {
  Transformer model = lively_model(tiny_text_config(Family::gpt2));
  const Tensor exact = features(model, ids_of({{1, 2, 3}}));
  model.compute = Compute::bf16;
  KvCache cache = make_cache(model.config, 1, 16);
  features(model, {ids_of({{1, 2}}), &cache});
  EXPECT_EQ(cache.keys[0].scalar_type(), at::kBFloat16);
  const Tensor last = features(model, {ids_of({{3}}), &cache});
  expect_close(last[0][0], exact[0][2], 0.2);
}

// Keys and values that a group shares are those of as many heads with the same weights.
TEST(GroupedAttention, IsAttentionWithRepeatedKeysAndValues) {
  ModelConfig config = tiny_text_config(Family::llama);
  ASSERT_EQ(config.group, 2);
  const Transformer grouped = lively_model(config);
  config.group = 1;
  Transformer repeated = grouped;
  repeated.config = config;
  for (auto& [name, tensor] : repeated.tensors)
    if (name.find("attention.key") != std::string::npos ||
        name.find("attention.value") != std::string::npos)
      tensor = tensor.unflatten(0, {-1, config.head_width}).repeat_interleave(2, 0).flatten(0, 1);
  const Tensor ids = ids_of({{1, 2, 3, 4}, {5, 6}});
  expect_close(where_real(features(grouped, ids), ids), where_real(features(repeated, ids), ids));
}

TEST(CausalModel, DoesNotSeeWhatComesLater) {
  for (const Family family : {Family::gpt2, Family::llama, Family::qwen2, Family::mistral}) {
    const Transformer model = lively_model(tiny_text_config(family));
    const Tensor one = features(model, ids_of({{1, 2, 3, 4, 5}}));
    const Tensor other = features(model, ids_of({{1, 2, 3, 9, 9}}));
    EXPECT_TRUE(one.narrow(1, 0, 3).equal(other.narrow(1, 0, 3)));
    EXPECT_FALSE(one[0][3].allclose(other[0][3]));
  }
}

TEST(Pairs, AnswerDependsOnWhichTextATokenBelongsTo) {
  ModelConfig config = tiny_text_config(Family::bert);
  config.task = Task::classification;
  config.classes = 2;
  const Transformer model = lively_model(config);
  const Tensor ids = ids_of({{1, 2, 3, 4, 5}, {6, 7, 8}});
  Tensor pairs = ids.clone();
  pairs[0].narrow(0, 3, 2).bitwise_or_(second_text);
  const Tensor one = forward(model, ids), other = forward(model, pairs);
  EXPECT_FALSE(one[0].allclose(other[0]));
  EXPECT_TRUE(one[1].allclose(other[1]));
  EXPECT_EQ(lengths_of(pairs), lengths_of(ids));
  EXPECT_TRUE(forward(model, pairs.to(at::kInt)).equal(other));
}

TEST(CheckInput, TakesASecondTextOnlyOfAModelThatTellsTwoApart) {
  const auto error = [](const ModelConfig& config, std::int64_t id) {
    const Transformer model = lively_model(config);
    return error_of([&] { check_input(model, ids_of({{1, id}})); });
  };
  ModelConfig config = tiny_text_config(Family::bert);
  check_input(lively_model(config), ids_of({{1, 19 + second_text, -1}}));
  EXPECT_EQ(error(config, 20 + second_text),
            "[tokens] text 0: saw token 20, needs 0..19, the model's vocabulary");
  EXPECT_EQ(error(config, std::int64_t{1} << 31),
            "[tokens] text 0: saw token 2147483648, needs 0..19, the model's vocabulary");
  const std::string refused =
      "[tokens] text 0: saw a token of a pair's second text, needs none: the model has no token "
      "types";
  config.token_types = 1;
  EXPECT_EQ(error(config, 2 + second_text), refused);
  EXPECT_EQ(error(tiny_text_config(Family::gpt2), 2 + second_text), refused);
}

TEST(CheckInput, SaysWhatIsWrongWithATextAndWhere) {
  const Transformer model = lively_model(tiny_text_config(Family::gpt2));
  const auto error = [&](const Tensor& ids) { return error_of([&] { check_input(model, ids); }); };
  check_input(model, ids_of({{1, 2, 3}, {0}}));
  EXPECT_EQ(error(ids_of({{1}, {2, 20}})),
            "[tokens] text 1: saw token 20, needs 0..19, the model's vocabulary");
  EXPECT_EQ(error(ids_of({{1, -1, 2}})),
            "[tokens] text 0: saw a token after its end, needs -1 at the end only");
  EXPECT_EQ(error(ids_of({{1}, {}})), "[tokens] text 1: saw no token, needs at least 1");
  EXPECT_EQ(error(ids_of({std::vector<std::int64_t>(17, 1)})),
            "[tokens] saw 17 tokens in one text, needs at most 16, the model's context");
  EXPECT_EQ(error(at::zeros({0, 0}, at::kLong)), "[tokens] saw none, needs at least 1");
  EXPECT_EQ(error(at::zeros({3}, at::kLong)), "[tokens] saw [3], needs [any, any]");
  KvCache cache = make_cache(model.config, 1, 4);
  features(model, {ids_of({{1, 2, 3}}), &cache});
  EXPECT_EQ(error_of([&] {
              check_input(model, {ids_of({{1, 2}}), &cache});
            }),
            "[tokens] saw 5 tokens in one text, needs at most 4");
}

TEST(Load, RefusesNumbersThatAreNone) {
  const Scratch scratch;
  Transformer model = lively_model(tiny_text_config(Family::gpt2));
  model.tensors.at("blocks.1.mlp.up.weight")[3][2] = std::numeric_limits<float>::quiet_NaN();
  save(model, scratch / "model");
  EXPECT_EQ(error_of([&] { load(scratch / "model"); }),
            "[" + (scratch / "model").string() +
                "] transformer.h.1.mlp.c_fc.weight: saw NaN or infinity, needs finite numbers");
}

/// The error of a golden's folder with one field of its config replaced (null: removed).
std::string error_with(const std::string& name, const std::string& key, const json& value) {
  json config = json::parse(base::read_text(golden("models/" + name) / "config.json"));
  if (value.is_null())
    config.erase(key);
  else
    config[key] = value;
  return error_of([&] { config_from_json(base::Reader::json_text(config.dump(), "config.json")); });
}

TEST(ReadTextConfig, NamesFileAndField) {
  EXPECT_EQ(error_with("gpt2", "vocab_size", nullptr), "[config.json] vocab_size: is missing");
  expect_contains(error_with("gpt2", "n_embd", 25),
                  "n_head: saw 3, needs a divisor of n_embd = 25");
  expect_contains(error_with("gpt2", "scale_attn_by_inverse_layer_idx", true),
                  "saw true, needs false");
  expect_contains(error_with("gpt2", "architectures", {"GPT2ForTokenClassification"}),
                  "needs one of GPT2LMHeadModel, GPT2Model");
  expect_contains(
      error_with("bert", "position_embedding_type", "relative_key"),
      "[config.json] position_embedding_type: saw \"relative_key\", needs \"absolute\"");
  expect_contains(error_with("llama", "num_key_value_heads", 4),
                  "num_key_value_heads: saw 4, needs a divisor of num_attention_heads = 6");
  for (const char* known :
       {"vit", "deit", "bert", "roberta", "distilbert", "gpt2", "llama", "qwen2", "mistral"})
    expect_contains(error_with("llama", "model_type", "mamba"), known);
}

TEST(ReadTextConfig, NamesTheArchitecturesOfAFamily) {
  for (const auto& [name, architecture, known] :
       {std::tuple("bert", "BertForNextSentencePrediction",
                   "BertModel, BertForSequenceClassification, BertForMaskedLM, BertForPreTraining"),
        std::tuple("roberta", "RobertaForTokenClassification",
                   "RobertaModel, RobertaForSequenceClassification, RobertaForMaskedLM"),
        std::tuple("distilbert", "DistilBertForQuestionAnswering",
                   "DistilBertModel, DistilBertForSequenceClassification, DistilBertForMaskedLM"),
        std::tuple("llama", "LlamaForSequenceClassification", "LlamaForCausalLM, LlamaModel"),
        std::tuple("qwen2_tied", "Qwen2ForTokenClassification", "Qwen2ForCausalLM, Qwen2Model"),
        std::tuple("mistral_window", "MistralForSequenceClassification",
                   "MistralForCausalLM, MistralModel")})
    EXPECT_EQ(error_with(name, "architectures", {architecture}),
              "[config.json] architectures: saw '" + std::string(architecture) +
                  "', needs one of " + known);
}

TEST(ReadTextConfig, RefusesFamiliesWhoseTokenizerIsNotBuilt) {
  for (const char* name : {"xlm-roberta", "camembert"})
    EXPECT_EQ(error_with("roberta", "model_type", name),
              "[config.json] model_type: saw '" + std::string(name) +
                  "', whose tokenizer (Unigram) is not built; needs one of vit, deit, bert, "
                  "roberta, distilbert, gpt2, llama, qwen2, mistral");
}

/// A golden's config with some fields replaced.
ModelConfig config_with(const std::string& name, const json& fields) {
  json config = json::parse(base::read_text(golden("models/" + name) / "config.json"));
  config.update(fields);
  return config_from_json(base::Reader::json_text(config.dump(), "config.json"));
}

TEST(ReadTextConfig, CountsRobertasPositionsFromBehindItsPadding) {
  const ModelConfig config = config_with("roberta", json::object());
  EXPECT_EQ(config.position_offset, 2);
  EXPECT_EQ(config.context, 16);  // of max_position_embeddings = 18
  EXPECT_EQ(config.token_types, 1);
  EXPECT_EQ(config_with("roberta", {{"pad_token_id", 4}}).context, 13);
  EXPECT_EQ(error_with("roberta", "max_position_embeddings", 2),
            "[config.json] max_position_embeddings: saw 2, needs more than pad_token_id + 1 = 2");
  expect_contains(error_with("roberta", "is_decoder", true), "is_decoder: saw true, needs false");
}

TEST(ReadTextConfig, TakesDistilBertsOwnSpellings) {
  const ModelConfig config = config_with("distilbert", {{"sinusoidal_pos_embds", true}});
  EXPECT_EQ(config.width, 16);
  EXPECT_EQ(config.num_layers(), 2);
  EXPECT_EQ(config.norm_eps, 1e-12);
  EXPECT_EQ(config.token_types, 0);
  EXPECT_EQ(error_with("distilbert", "hidden_dim", nullptr),
            "[config.json] hidden_dim: is missing");
}

TEST(ReadTextConfig, ReadsScaledRotaryPositions) {
  using Kind = RotaryScaling::Kind;
  const auto scaling = [](const json& fields) {
    return config_with("llama", fields).rotary_scaling;
  };
  EXPECT_EQ(scaling({{"rope_scaling", {{"rope_type", "default"}}}}).kind, Kind::none);
  const RotaryScaling linear = scaling({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}});
  EXPECT_EQ(linear.kind, Kind::linear);
  EXPECT_EQ(linear.factor, 2.0);
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const RotaryScaling read = scaling({{"rope_scaling", llama3}});
  EXPECT_EQ(read.kind, Kind::llama3);
  EXPECT_EQ(read.original_context, 8192);
  json table = llama3;
  table["rope_theta"] = 500000.0;
  EXPECT_TRUE(scaling({{"rope_parameters", table}}) == read);
  EXPECT_EQ(config_with("llama", {{"rope_parameters", table}}).rotary_base, 500000.0);
  EXPECT_TRUE(scaling({{"rope_scaling", llama3}, {"rope_parameters", table}}) == read);
}

TEST(ReadTextConfig, RefusesOtherRotaryPositionsByName) {
  const auto error = [](const json& table) { return error_with("llama", "rope_scaling", table); };
  for (const char* kind : {"dynamic", "yarn", "longrope", "ntk", "mrope"})
    for (const char* key : {"rope_type", "type"})
      EXPECT_EQ(error({{key, kind}, {"factor", 2.0}}),
                "[config.json] rope_scaling." + std::string(key) + ": saw \"" + kind +
                    "\", needs one of default, linear, llama3");
  EXPECT_EQ(error({{"factor", 2.0}}), "[config.json] rope_scaling.type: is missing");
  EXPECT_EQ(error({{"rope_type", "linear"}, {"type", "llama3"}, {"factor", 2.0}}),
            "[config.json] rope_scaling.type: saw 'llama3', needs rope_type's 'linear'");
  EXPECT_EQ(error({{"type", "linear"}}), "[config.json] rope_scaling.factor: is missing");
  expect_contains(error({{"type", "linear"}, {"factor", 0.5}}), "rope_scaling.factor: saw 0.5");
  expect_contains(error({{"rope_type", "llama3"},
                         {"factor", 8.0},
                         {"low_freq_factor", 4.0},
                         {"high_freq_factor", 1.0},
                         {"original_max_position_embeddings", 8192}}),
                  "[config.json] rope_scaling.high_freq_factor: saw 1");
  expect_contains(error_with("llama", "partial_rotary_factor", 0.5), "saw 0.5, needs 1 (");
  expect_contains(error_with("llama", "rope_parameters", {{"partial_rotary_factor", 0.5}}),
                  "rope_parameters.partial_rotary_factor: saw 0.5, needs 1 (");
  expect_contains(error_with("llama31", "rope_parameters", {{"rope_theta", 100.0}}),
                  "rope_parameters: saw another scaling than rope_scaling's");
}

// What is not said is what Transformers takes: 8 heads of keys and values and a window of 4096 in
// Mistral, no window in Qwen2.
TEST(ReadTextConfig, TakesEachFamilysOwnDefaults) {
  json mistral = json::parse(base::read_text(golden("models/mistral_window") / "config.json"));
  for (const char* key : {"num_key_value_heads", "sliding_window", "head_dim"}) mistral.erase(key);
  mistral["num_attention_heads"] = 16;
  mistral["hidden_size"] = 32;
  mistral["max_position_embeddings"] = 8192;
  const auto read = [](const json& config) {
    return config_from_json(base::Reader::json_text(config.dump(), "config.json"));
  };
  ModelConfig config = read(mistral);
  EXPECT_EQ(config.group, 2);
  EXPECT_EQ(config.head_width, 2);
  EXPECT_EQ(config.context, 4096);
  EXPECT_EQ(config.window, 4096);
  mistral["num_key_value_heads"] = nullptr;
  mistral["sliding_window"] = nullptr;
  config = read(mistral);
  EXPECT_EQ(config.group, 1);
  EXPECT_EQ(config.context, 8192);
  EXPECT_EQ(config.window, 0);
  mistral.erase("num_key_value_heads");
  mistral["num_attention_heads"] = 4;
  EXPECT_EQ(error_of([&] { read(mistral); }),
            "[config.json] num_key_value_heads: saw 8 (the default), needs a divisor of "
            "num_attention_heads = 4");

  EXPECT_EQ(config_with("qwen2_tied", {{"sliding_window", 32}}).window, 0);
  config = config_with("qwen2_tied", {{"sliding_window", 32}, {"use_sliding_window", true}});
  EXPECT_EQ(config.window, 32);
  EXPECT_EQ(config.context, 32);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.output_bias);
  EXPECT_FALSE(config_with("llama", json::object()).qkv_bias);
}

TEST(CheckInput, SaysThatAWindowIsWhatEndsTheContext) {
  const Transformer model = load(golden("models/mistral_window"));
  check_input(model, at::ones({1, 48}, at::kLong));
  EXPECT_EQ(error_of([&] {
              check_input(model, at::ones({1, 49}, at::kLong));
            }),
            "[tokens] saw 49 tokens in one text, needs at most 48, the window that its attention "
            "sees");
}

TEST(ReadTextConfig, TakesWhatPublishedFilesSay) {
  json config = json::parse(base::read_text(golden("models/llama") / "config.json"));
  config["eos_token_id"] = {2, 7, 4711};  // several, and one beyond the vocabulary
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  const ModelConfig read = config_from_json(base::Reader::json_text(config.dump(), "config.json"));
  EXPECT_EQ(read.end_tokens, (std::vector<std::int64_t>{2, 7}));
  EXPECT_EQ(read.rotary_base, 500000.0);
  EXPECT_EQ(read.group, 3);
}

TEST(ReadTextConfig, TakesTheEndTokensOfGenerationConfig) {
  const Scratch scratch;
  const auto path = scratch / "model/generation_config.json";
  save(load(golden("models/llama")), scratch / "model");
  const auto own = read_config(scratch / "model").end_tokens;
  base::write_whole(path, R"({"temperature": 0.6})");
  EXPECT_EQ(read_config(scratch / "model").end_tokens, own);
  base::write_whole(path, R"({"eos_token_id": [3, 9]})");
  EXPECT_EQ(read_config(scratch / "model").end_tokens, (std::vector<std::int64_t>{3, 9}));
  base::write_whole(path, R"({"eos_token_id": -1})");
  EXPECT_EQ(read_config(scratch / "model").end_tokens, own);
  base::write_whole(path, R"({"eos_token_id": "end"})");
  expect_contains(error_of([&] { read_config(scratch / "model"); }),
                  "generation_config.json] eos_token_id: ");
}

// BERT's norms were gamma and beta once, and a model alone goes without its prefix.
TEST(Load, FindsTensorsUnderTheirOlderNames) {
  const Scratch scratch;
  const Transformer model = lively_model(tiny_text_config(Family::bert));
  save(model, scratch / "new");
  save(model, scratch / "old");
  const TensorFiles files(scratch / "new");
  std::vector<TensorEntry> entries;
  for (const StoredTensor& stored : stored_tensors(model.config)) {
    TensorEntry entry = files.at(stored.key);
    entry.name = entry.name.substr(std::string("bert.").size());
    for (const auto& [from, to] : {std::pair("LayerNorm.weight", "LayerNorm.gamma"),
                                   std::pair("LayerNorm.bias", "LayerNorm.beta")})
      if (const auto at = entry.name.find(from); at != std::string::npos)
        entry.name.replace(at, std::string(from).size(), to);
    entries.push_back(entry);
  }
  SafetensorsWriter writer(scratch / "old/model.safetensors", entries);
  for (const StoredTensor& stored : stored_tensors(model.config)) {
    const TensorEntry& entry = files.at(stored.key);
    writer.write(files.data(entry), entry.bytes);
  }
  writer.commit();
  const Tensor ids = ids_of({{1, 2, 3}});
  EXPECT_TRUE(features(load(scratch / "old"), ids).equal(features(model, ids)));
}

}  // namespace
}  // namespace cleave::model
