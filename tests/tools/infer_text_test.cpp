// What `cleave infer` makes of texts: classes, embeddings, tokens for a mask, alone and over
// agents.

#include <algorithm>
#include <random>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "model/checkpoint.hpp"
#include "model/tokenizer/segment.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

using nlohmann::json;

const std::vector<std::string> words = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the",  "cat",
                                        "dog",   "sits",  "runs",  ",",     "a",      "film", "."};
// [CLS] the cat [MASK] [SEP]
const std::vector<int> masked_ids = {2, 5, 6, 4, 3};

class InferText : public testing::Test {
 protected:
  void SetUp() override {
    make_model("classifier", "BertForSequenceClassification");
    make_model("encoder", "BertModel");
    make_model("masked", "BertForMaskedLM");
  }

  void make_model(const std::string& name, const std::string& architecture) {
    const std::string config = scratch_ / (name + "-config/config.json");
    write_text(config, R"({"model_type": "bert", "architectures": [")" + architecture +
                           R"("], "hidden_size": 32, "num_hidden_layers": 2,
      "num_attention_heads": 2, "intermediate_size": 64, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "vocab_size": 14,
      "type_vocab_size": 2, "max_position_embeddings": 16, "id2label": {"0": "bad", "1": "good"}})");
    run({"init", "--config", scratch_ / (name + "-config"), "--out", scratch_ / name});
    std::string vocabulary;
    for (const auto& word : words) vocabulary += word + "\n";
    write_text(scratch_ / (name + "/vocab.txt"), vocabulary);
    write_text(scratch_ / (name + "/tokenizer_config.json"),
               R"({"tokenizer_class": "BertTokenizer", "do_lower_case": true})");
  }
  void make_bundle(const std::string& model) {
    write_text(scratch_ / "fleet.toml", tiny_fleet());
    run({"plan", scratch_ / model, "--fleet", scratch_ / "fleet.toml", "--strategy", "decomposed",
         "--max-part-share", "0.8", "--accuracy-weight", "1000", "--tokens", "8", "--out",
         scratch_ / "plan.json"});
    run({"decompose", scratch_ / model, "--plan", scratch_ / "plan.json", "--out",
         scratch_ / "bundle"});
  }
  Ran run(const std::vector<std::string>& command, int code = 0) const {
    auto ran = run_cleave(scratch_, command);
    EXPECT_EQ(ran.code, code) << command[0] << ": " << ran.error << ran.out;
    return ran;
  }
  std::vector<json> answers(std::vector<std::string> command) const {
    command.insert(command.begin(), "infer");
    command.insert(command.end(), {"--format", "json"});
    std::istringstream lines(run(command).out);
    std::vector<json> found;
    for (std::string line; std::getline(lines, line);) found.push_back(json::parse(line));
    return found;
  }
  /// What the model says of token numbers.
  at::Tensor expected(const std::string& model, const std::vector<int>& ids) const {
    const c10::NoGradGuard no_grad;
    return model::forward(model::load(scratch_ / model), at::tensor(ids, at::kInt).unsqueeze(0));
  }

  Scratch scratch_;
};

TEST_F(InferText, AMaskGetsItsLikeliestTokens) {
  const auto found = answers({scratch_ / "masked", "The cat [MASK]", "--top", "3"});
  const at::Tensor shares = expected("masked", masked_ids)[0][3].softmax(0);
  const auto [likely, order] = shares.sort(0, true);
  const json& tokens = found.at(0).at("masks").at(0).at("tokens");
  EXPECT_EQ(found.at(0).at("masks").at(0).at("position"), 3);
  ASSERT_EQ(tokens.size(), 3U);
  for (int i = 0; i < 3; ++i) {
    const auto& token = tokens.at(static_cast<std::size_t>(i));
    EXPECT_EQ(token.at("id"), order[i].item<std::int64_t>());
    EXPECT_EQ(token.at("token"), words.at(static_cast<std::size_t>(order[i].item<int>())));
    EXPECT_NEAR(token.at("share").get<double>(), likely[i].item<double>(), 1e-5);
  }
  const auto without = run({"infer", scratch_ / "masked", "the cat"}, 1);
  EXPECT_NE(without.error.find("saw no [MASK], needs one to fill in"), std::string::npos);
}

TEST_F(InferText, AClassifierSaysItsLabels) {
  const std::string mark = "\xEF\xBB\xBF";  // of the byte order, which is no part of a text
  write_text(scratch_ / "texts.txt", mark + "the dog runs.\n\nthe film\n");
  const auto found = answers({scratch_ / "classifier", mark + "the cat, a dog", "--texts",
                              scratch_ / "texts.txt", "--top", "2"});
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].at("text"), "the cat, a dog");
  EXPECT_EQ(found[1].at("text"), "the dog runs.");
  const at::Tensor shares = expected("classifier", {2, 5, 6, 10, 11, 7, 3})[0].softmax(0);
  const auto best = shares.argmax().item<std::int64_t>();
  const json& likeliest = found[0].at("classes").at(0);
  EXPECT_EQ(likeliest.at("label"), best == 1 ? "good" : "bad");
  EXPECT_NEAR(likeliest.at("share").get<double>(), shares[best].item<double>(), 1e-5);
}

TEST_F(InferText, ARegressionSaysItsNumberAndSeveralLabelsEachTheirShare) {
  const auto with = [&](const char* key, const json& value) {
    json config = json::parse(base::read_text(scratch_ / "classifier/config.json"));
    config[key] = value;
    write_text(scratch_ / "classifier/config.json", config.dump());
  };
  const at::Tensor logits = expected("classifier", {2, 5, 6, 3})[0];
  with("problem_type", "regression");
  const json values = answers({scratch_ / "classifier", "the cat"})[0].at("values");
  ASSERT_EQ(values.size(), 2U) << "all, not the largest";
  for (std::int64_t i = 0; i < 2; ++i)
    EXPECT_NEAR(values[static_cast<std::size_t>(i)].at("value").get<double>(),
                logits[i].item<double>(), 1e-6);
  const std::string line = run({"infer", scratch_ / "classifier", "the cat"}).out;
  EXPECT_EQ(line.find('%'), std::string::npos) << line;
  EXPECT_NE(line.find("the cat: bad "), std::string::npos) << line;

  with("problem_type", "multi_label_classification");
  const json shares = answers({scratch_ / "classifier", "the cat", "--top", "2"})[0].at("classes");
  for (const json& one : shares)
    EXPECT_NEAR(one.at("share").get<double>(),
                logits[one.at("class").get<std::int64_t>()].sigmoid().item<double>(), 1e-6);
  // What is not one of several classes is neither judged nor learnt from labels.
  write_text(scratch_ / "data/test.tsv", "the cat\t1\n");
  const auto judged =
      run({"evaluate", scratch_ / "classifier", "--data", scratch_ / "data"}, 1).error;
  EXPECT_NE(judged.find("config.json problem_type: saw a model whose outputs"), std::string::npos)
      << judged;

  make_bundle("classifier");
  const json parts = answers({scratch_ / "bundle", "the cat", "--local"})[0].at("classes");
  EXPECT_GT(parts[0].at("share").get<double>(), 0.4) << "a sigmoid around 0, not a softmax";
  EXPECT_EQ(plan::Bundle(scratch_ / "bundle").plan("").teacher.problem,
            model::Problem::multi_label);
  const auto agents = start_agents(scratch_ / "bundle", scratch_);
  const auto [server, address] = start_server(scratch_ / "bundle", scratch_);
  for (const std::vector<std::string>& way :
       {std::vector<std::string>{"--hosts", scratch_ / "hosts.toml"}, {"--via", address}}) {
    std::vector<std::string> command = {scratch_ / "bundle", "the cat"};
    if (way[0] == "--via") command = {"the cat", "--tokenizer", scratch_ / "bundle"};
    command.insert(command.end(), way.begin(), way.end());
    EXPECT_EQ(answers(command)[0].at("classes"), parts) << way[0];
  }
}

TEST_F(InferText, TextsAreCutAndPooledAsSentenceTransformersSays) {
  write_text(scratch_ / "encoder/sentence_bert_config.json", R"({"max_seq_length": 4})");
  write_text(scratch_ / "encoder/1_Pooling/config.json",
             R"({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false})");
  const std::string kind = R"("type": "sentence_transformers.models.)";
  write_text(scratch_ / "encoder/modules.json", R"([{"path": "", )" + kind +
                                                    R"(Transformer"}, {"path": "1_Pooling", )" +
                                                    kind + R"(Pooling"}])");
  const auto ran =
      run({"infer", scratch_ / "encoder", "the cat sits", "the cat runs", "--format", "json"});
  EXPECT_NE(ran.error.find("the cat sits: cut from 5 to 4 tokens"), std::string::npos) << ran.error;
  const auto found = answers({scratch_ / "encoder", "the cat sits", "the cat runs"});
  EXPECT_EQ(found[0].at("embedding"), found[1].at("embedding"));
  const c10::NoGradGuard no_grad;
  const auto model = model::load(scratch_ / "encoder");
  const at::Tensor ids = at::tensor({2, 5, 6, 3}, at::kInt).unsqueeze(0);
  at::Tensor x = model::embed(model, ids);
  for (int layer = 0; layer < 2; ++layer)
    x = model::block(model, layer, x, model::sight(model, ids));
  const auto vector = found[0].at("embedding").get<std::vector<double>>();
  for (std::size_t i = 0; i < vector.size(); ++i)
    EXPECT_NEAR(vector[i], x[0][0][static_cast<std::int64_t>(i)].item<double>(), 1e-5)
        << "the first token's state, not scaled";
  make_bundle("encoder");
  const auto parts = answers({scratch_ / "bundle", "the cat sits", "the cat runs", "--local"});
  EXPECT_EQ(parts[0].at("embedding"), parts[1].at("embedding"));
}

TEST_F(InferText, SaysOnceWhatItIgnores) {
  write_text(scratch_ / "encoder/tokenizer_config.json",
             R"({"tokenizer_class": "BertTokenizer", "truncation_side": "left", "colour": 7})");
  const auto said = run({"infer", scratch_ / "encoder", "the", "cat"}).error;
  std::size_t notes = 0;
  for (std::size_t at = said.find("note: "); at != std::string::npos;
       at = said.find("note: ", at + 1))
    ++notes;
  EXPECT_EQ(notes, 2U) << said;
  EXPECT_NE(said.find("truncation_side: \"left\" is ignored"), std::string::npos) << said;
  EXPECT_NE(said.find("not known are ignored: colour"), std::string::npos) << said;
}

TEST_F(InferText, AnEncoderGivesEmbeddings) {
  const auto found = answers({scratch_ / "encoder", "the cat sits", "the dog runs"});
  const at::Tensor first = expected("encoder", {2, 5, 6, 8, 3})[0];
  const at::Tensor second = expected("encoder", {2, 5, 7, 9, 3})[0];
  for (std::int64_t i = 0; i < first.size(0); ++i)
    EXPECT_NEAR(found[0].at("embedding").at(static_cast<std::size_t>(i)).get<double>(),
                first[i].item<double>(), 1e-5);
  EXPECT_NEAR(found[0].at("cosine_with_first").get<double>(), 1, 1e-6);
  EXPECT_NEAR(found[1].at("cosine_with_first").get<double>(),
              at::cosine_similarity(first, second, 0).item<double>(), 1e-5);
}

TEST_F(InferText, AgentsAndAServerGiveTheLocalAnswer) {
  make_bundle("encoder");
  const auto agents = start_agents(scratch_ / "bundle", scratch_);
  const std::vector<std::string> texts = {"the cat sits", "a film.", "the dog"};
  const auto ask = [&](std::vector<std::string> how) {
    std::vector<std::string> command = texts;
    if (how[0] != "--via") command.insert(command.begin(), scratch_ / "bundle");
    command.insert(command.end(), how.begin(), how.end());
    return answers(command);
  };
  const auto local = ask({"--local"}), fleet = ask({"--hosts", scratch_ / "hosts.toml"});
  const auto [server, address] = start_server(scratch_ / "bundle", scratch_);
  const auto via = ask({"--via", address, "--tokenizer", scratch_ / "bundle"});
  ASSERT_EQ(local.size(), 3U);
  for (std::size_t i = 0; i < local.size(); ++i) {
    const auto vector = local[i].at("embedding").get<std::vector<double>>();
    for (std::size_t n = 0; n < vector.size(); ++n) {
      EXPECT_NEAR(fleet.at(i).at("embedding").at(n).get<double>(), vector[n], 1e-5);
      EXPECT_NEAR(via.at(i).at("embedding").at(n).get<double>(), vector[n], 1e-5);
    }
    EXPECT_TRUE(fleet[i].at("missing").empty());
  }
}

// [CLS] the cat [SEP] a dog [SEP], the last three of the second text.
TEST_F(InferText, AskedTwoByTwoAClassifierReadsPairs) {
  const auto marked = [](int id) { return id | model::second_text; };
  const std::vector<std::vector<int>> pairs = {{2, 5, 6, 3, marked(11), marked(7), marked(3)},
                                               {2, 5, 12, 3, marked(3)}};
  write_text(scratch_ / "pairs.tsv", "the film\t\n");
  const auto found = answers({scratch_ / "classifier", "the cat", "a dog", "--pairs", "--texts",
                              scratch_ / "pairs.tsv", "--logits"});
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].at("text_a"), "the cat");
  EXPECT_EQ(found[0].at("text_b"), "a dog");
  EXPECT_EQ(found[1].at("text_b"), "");
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const at::Tensor logits = expected("classifier", pairs[i])[0];
    for (std::int64_t c = 0; c < 2; ++c)
      EXPECT_NEAR(found[i].at("logits").at(static_cast<std::size_t>(c)).get<double>(),
                  logits[c].item<double>(), 1e-5);
  }
  const auto said = run({"infer", scratch_ / "classifier", "the cat", "a dog", "--pairs"}).out;
  EXPECT_EQ(said.rfind("the cat | a dog: ", 0), 0U) << said;

  write_text(scratch_ / "pair.txt", "the cat\ta dog\n");
  const auto line = run(
      {"tokenize", scratch_ / "classifier", scratch_ / "pair.txt", "--pairs", "--format", "json"});
  EXPECT_EQ(json::parse(line.out), (json{{"ids", {2, 5, 6, 3, 11, 7, 3}},
                                         {"types", {0, 0, 0, 0, 1, 1, 1}},
                                         {"text", "the cat a dog"}}));
  EXPECT_EQ(run({"tokenize", scratch_ / "classifier", scratch_ / "pair.txt", "--pairs"}).out,
            "2 5 6 3 11 7 3\n");
}

TEST_F(InferText, RefusesTextsThatAreNoPairs) {
  const auto error = [&](std::vector<std::string> command, int code) {
    command.insert(command.begin(), "infer");
    command.emplace_back("--pairs");
    const auto ran = run(command, code);
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1) << ran.error;
    return ran.error;
  };
  const auto expect_part = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  expect_part(error({scratch_ / "classifier", "the", "cat", "dog"}, 2),
              "[--pairs] saw 3 texts, needs two for each pair");
  expect_part(error({scratch_ / "encoder", "the", "cat"}, 2), "needs a classifier of text");
  write_text(scratch_ / "pairs.tsv", "the\tcat\nthe cat\n");
  expect_part(error({scratch_ / "classifier", "--texts", scratch_ / "pairs.tsv"}, 1),
              "pairs.tsv line 2] saw 1 texts, needs two with a tab between");
  std::string text;
  for (int i = 0; i < 10; ++i) text += "cat ";
  expect_part(error({scratch_ / "classifier", text, text}, 1),
              "pair 0: saw 23 tokens, needs at most 16");
}

TEST_F(InferText, SaysInOneLineWhatIsWrong) {
  const auto error = [&](const std::vector<std::string>& command, int code) {
    const auto ran = run(command, code);
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1) << ran.error;
    return ran.error;
  };
  const auto expect_part = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  std::string text;
  for (int i = 0; i < 20; ++i) text += "cat ";
  expect_part(error({"infer", scratch_ / "encoder", text}, 1), "saw 22 tokens, needs at most 16");
  expect_part(error({"infer", scratch_ / "encoder", "a\xff"}, 1),
              "[text 0] byte 1: is no valid UTF-8; --lossy replaces it");
  expect_part(error({"infer", scratch_ / "encoder"}, 2), "needs MODEL");
  expect_part(error({"generate", scratch_ / "masked", "the"}, 1), "does not generate");
  std::filesystem::remove(scratch_ / "encoder/vocab.txt");
  expect_part(error({"infer", scratch_ / "encoder", "a"}, 1), "tokenizer");
}

TEST_F(InferText, ALineWithoutALabelIsFoundBeforeAnythingIsTrained) {
  write_text(
      scratch_ / "recipe.toml",
      "format = 1\ncompute = \"bf16\"\n[data]\nformat = \"tsv\"\npath = \"data\"\n[model]\nstart = "
      "\"encoder\"\ntask = \"classification\"\nclasses = 2\n[schedule]\nepochs = 1\nbatch = 2\n");
  const std::vector<std::string> train = {
      "train", scratch_ / "recipe.toml", "--out", scratch_ / "out", "--format", "json"};
  const auto refused = [&](const std::string& message) {
    const std::string said = run(train, 1).error;
    EXPECT_NE(said.find(message), std::string::npos) << said;
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    EXPECT_FALSE(std::filesystem::exists(scratch_ / "out/model.safetensors"));
  };
  write_text(scratch_ / "data/train.tsv", "the cat\t1\nthe dog\t0\n");
  write_text(scratch_ / "data/test.tsv", "the cat\t1\nthe dog\t0\na film\n");
  refused("test.tsv] line 3: saw 1 columns, needs 2 as in line 1");
  write_text(scratch_ / "data/test.tsv", "the cat\t1\n");
  write_text(scratch_ / "data/train.tsv", "the cat\t1\nthe dog\t\n");
  refused("train.tsv] line 2: label: saw nothing, needs 0..1");

  write_text(scratch_ / "data/train.tsv", "the cat\t1\nthe dog\t0\n");
  const auto ran = run(train);
  const std::string compute = json::parse(ran.out).at("compute");
  EXPECT_EQ(ran.error.find("computed in fp32") != std::string::npos, compute == "f32") << ran.error;
}

/// Lines in which "cat" stands in the first text (label 1) or in the second (0), among as many
/// other words: which of two it is says the label, and nothing else does.
std::string cats(int count) {
  std::mt19937 random(1);
  const char* others[] = {"the", "a", "film", "dog"};
  std::string lines;
  for (int i = 0; i < count; ++i) {
    std::string texts[2];
    for (auto& text : texts)
      for (std::size_t k = 0; k <= random() % 3; ++k)
        text += std::string(others[random() % 4]) + " ";
    texts[i % 2].insert(0, "cat ");
    lines += texts[0] + "\t" + texts[1] + "\t" + (i % 2 == 0 ? "good" : "bad") + "\n";
  }
  return lines;
}

// Every step of the main job on pairs.
TEST_F(InferText, PairsAreTrainedCutCalibratedAndAskedOverAgents) {
  write_text(scratch_ / "data/train.tsv", cats(400));
  write_text(scratch_ / "data/test.tsv", cats(40));
  write_text(scratch_ / "train.toml",
             "format = 1\n[data]\nformat = \"tsv\"\npath = \"data\"\n[model]\nstart = "
             "\"encoder\"\ntask = \"classification\"\nclasses = 2\nlabels = [\"bad\", "
             "\"good\"]\n[schedule]\nepochs = 6\noptimizer = \"muon\"\nbatch = "
             "20\nlearning_rate = 0.01\n");
  write_text(scratch_ / "calibrate.toml",
             "format = 1\nviews = 2\n[data]\nformat = \"tsv\"\npath = \"data\"\nvalidation = "
             "40\nsplice = 0.5\n[alone]\nepochs = 2\nbatch = 20\nlearning_rate = 0.01\nlabels = "
             "0\nsoft_targets = 1\ntokens = 1\n[joint]\nepochs = 2\nbatch = 20\nlearning_rate = "
             "0.01\nlabels = 0\nsoft_targets = 1\n");
  run({"train", scratch_ / "train.toml", "--out", scratch_ / "teacher", "--threads", "1"});
  const auto value_of = [&](const std::string& what, const std::vector<std::string>& command) {
    auto whole = command;
    whole.insert(whole.end(), {"--data", scratch_ / "data", "--threads", "1", "--format", "json"});
    const auto rows = json::parse(run(whole).out).at("rows");
    for (const auto& row : rows)
      if (row.at("what") == what) return row.at("value").get<double>();
    ADD_FAILURE() << "no " << what << " in " << rows;
    return 0.0;
  };
  EXPECT_GT(value_of("model", {"evaluate", scratch_ / "teacher"}), 0.9);
  const auto warned = [&](std::vector<std::string> command) {
    const std::string error = run(command).error;
    const auto at = error.find("the model learned from ");
    if (at == std::string::npos) return std::string();
    EXPECT_NE(error.find("warning: ["), std::string::npos) << error;
    return error.substr(at, error.find('\n', at) - at);
  };
  const std::string alone = "the model learned from pairs of texts, and is asked about single ones";
  write_text(scratch_ / "alone/train.tsv", "cat a\tgood\na\tbad\ncat\tgood\nthe\tbad\n");
  write_text(scratch_ / "alone/test.tsv", "cat a\tgood\na\tbad\n");
  const auto judge = [&](const std::string& folder, const std::string& data) {
    return std::vector<std::string>{"evaluate", scratch_ / folder, "--data", scratch_ / data};
  };
  EXPECT_EQ(warned(judge("teacher", "data")), "");
  EXPECT_EQ(warned(judge("teacher", "alone")), alone);
  EXPECT_EQ(warned({"infer", scratch_ / "teacher", "cat a", "a", "--pairs"}), "");
  EXPECT_EQ(warned({"infer", scratch_ / "teacher", "cat a"}), alone);
  write_text(scratch_ / "fleet.toml", tiny_fleet());
  run({"plan", scratch_ / "teacher", "--fleet", scratch_ / "fleet.toml", "--strategy", "decomposed",
       "--max-part-share", "0.8", "--accuracy-weight", "1000", "--tokens", "8", "--out",
       scratch_ / "plan.json"});
  run({"decompose", scratch_ / "teacher", "--plan", scratch_ / "plan.json", "--data",
       scratch_ / "data", "--out", scratch_ / "bundle"});
  const std::vector<std::string> calibrate = {
      "calibrate", scratch_ / "bundle",         "--teacher", scratch_ / "teacher",
      "--recipe",  scratch_ / "calibrate.toml", "--threads", "1"};
  EXPECT_EQ(warned(calibrate), "");
  EXPECT_EQ(warned(judge("bundle", "alone")), alone);
  EXPECT_EQ(warned({"infer", scratch_ / "bundle", "--local", "cat a"}), alone);
  EXPECT_GT(value_of("fused", {"evaluate", scratch_ / "bundle", "--teacher", scratch_ / "teacher"}),
            0.9);

  std::vector<std::string> devices;
  for (const auto& part : plan::read_plan(scratch_ / "plan.json").parts)
    devices.push_back(part.device);
  ASSERT_GT(devices.size(), 1U);
  const auto agents = start_agents(scratch_ / "bundle", scratch_, devices);
  const auto ask = [&](std::vector<std::string> how) {
    std::vector<std::string> command = {"cat a", "the film", "a", "cat the film"};
    if (how[0] != "--via") command.insert(command.begin(), scratch_ / "bundle");
    command.insert(command.end(), how.begin(), how.end());
    command.insert(command.end(), {"--pairs", "--logits"});
    return answers(command);
  };
  const auto local = ask({"--local"}), fleet = ask({"--hosts", scratch_ / "hosts.toml"});
  const auto [server, address] = start_server(scratch_ / "bundle", scratch_);
  const auto via = ask({"--via", address, "--tokenizer", scratch_ / "bundle"});
  ASSERT_EQ(local.size(), 2U);
  EXPECT_EQ(local[0].at("classes").at(0).at("label"), "good");
  EXPECT_EQ(local[1].at("classes").at(0).at("label"), "bad");
  for (std::size_t i = 0; i < 2; ++i)
    for (std::size_t c = 0; c < 2; ++c) {
      const double logit = local[i].at("logits").at(c);
      EXPECT_NEAR(fleet.at(i).at("logits").at(c).get<double>(), logit, 1e-5);
      EXPECT_NEAR(via.at(i).at("logits").at(c).get<double>(), logit, 1e-5);
    }
}

}  // namespace
}  // namespace cleave::tools
