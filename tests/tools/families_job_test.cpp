// The main job on a tiny checkpoint of each family of texts that has no recipe: plan, cut,
// calibrate, and the same answer over agents as in one process.

#include <set>

#include <nlohmann/json.hpp>

#include "model/tokenizer/byte_pair.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

using nlohmann::json;

/// A checkpoint, as its config.json says beside what all share.
struct Checkpoint {
  const char* name;
  json fields;
};

std::ostream& operator<<(std::ostream& out, const Checkpoint& checkpoint) {
  return out << checkpoint.name;
}

/// What Llama and its like share.
json llama_fields(const std::string& type, const std::string& architecture, const json& more) {
  json fields = {{"model_type", type},
                 {"architectures", {architecture}},
                 {"hidden_size", 16},
                 {"num_hidden_layers", 2},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"intermediate_size", 24},
                 {"vocab_size", 256},
                 {"max_position_embeddings", 64}};
  fields.update(more);
  return fields;
}

std::vector<Checkpoint> checkpoints() {
  return {{"roberta",
           {{"model_type", "roberta"},
            {"architectures", {"RobertaForMaskedLM"}},
            {"hidden_size", 16},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 4},
            {"intermediate_size", 24},
            {"vocab_size", 261},
            {"type_vocab_size", 1},
            {"max_position_embeddings", 66}}},
          {"distilbert",
           {{"model_type", "distilbert"},
            {"architectures", {"DistilBertForSequenceClassification"}},
            {"dim", 16},
            {"n_layers", 2},
            {"n_heads", 4},
            {"hidden_dim", 24},
            {"vocab_size", 7},
            {"max_position_embeddings", 64}}},
          {"qwen2", llama_fields("qwen2", "Qwen2ForCausalLM", {{"tie_word_embeddings", true}})},
          {"mistral", llama_fields("mistral", "MistralForCausalLM", {{"sliding_window", 48}})},
          {"llama3", llama_fields("llama", "LlamaForCausalLM",
                                  {{"rope_scaling",
                                    {{"rope_type", "llama3"},
                                     {"factor", 4.0},
                                     {"low_freq_factor", 1.0},
                                     {"high_freq_factor", 4.0},
                                     {"original_max_position_embeddings", 16}}}})}};
}

/// RoBERTa's: four special tokens, the bytes, and the mask.
void write_roberta_tokenizer(const Scratch& s, const std::string& folder) {
  json vocabulary = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}, {"<mask>", 260}};
  for (int byte = 0; byte < 256; ++byte)
    vocabulary[model::letter_of_byte(static_cast<unsigned char>(byte))] = 4 + byte;
  write_text(s / (folder + "/vocab.json"), vocabulary.dump());
  write_text(s / (folder + "/merges.txt"), "#version: 0.2\n");
}

class FamilyJob : public testing::TestWithParam<Checkpoint> {
 protected:
  Ran run(const std::vector<std::string>& words, const std::set<int>& codes = {0}) const {
    auto ran = run_cleave(s, words);
    EXPECT_EQ(codes.count(ran.code), 1U) << words[0] << ": " << ran.error << ran.out;
    return ran;
  }

  void make_model() const {
    write_text(s / "config/config.json", GetParam().fields.dump());
    run({"init", "--config", s / "config", "--out", s / "model"});
    const std::string name = GetParam().name;
    if (name == "roberta")
      write_roberta_tokenizer(s, "model");
    else if (name == "distilbert")
      write_text(s / "model/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad\n");
    else
      model::write_byte_tokenizer(s / "model");
  }

  void make_data() const {
    std::string text, lines;
    for (int i = 0; i < 60; ++i) {
      text += "one two buckle my shoe, three four open the door.\n";
      lines += i % 2 == 0 ? "good good\t1\n" : "bad bad good bad\t0\n";
    }
    const bool labelled = GetParam().fields.contains("dim");
    for (const std::string split : {"train", "test"})
      write_text(s / ("data/" + split + (labelled ? ".tsv" : ".txt")), labelled ? lines : text);
  }

  /// What is asked, and how it ran.
  Ran ask(const std::vector<std::string>& way) const {
    const std::string name = GetParam().name;
    std::vector<std::string> words = {"infer", s / "bundle", "good bad"};
    if (name == "roberta") words = {"infer", s / "bundle", "one <mask> my"};
    if (name == "qwen2" || name == "mistral" || name == "llama3")
      words = {"generate", s / "bundle", "one two", "--tokens", "24"};
    words.insert(words.end(), way.begin(), way.end());
    words.insert(words.end(), {"--format", "json"});
    return run(words);
  }
  json answer(const std::vector<std::string>& way) const {
    const json found = json::parse(ask(way).out);
    for (const char* what : {"classes", "masks", "ids"})
      if (found.contains(what)) return found.at(what);
    return found;
  }

  Scratch s;
};

TEST_P(FamilyJob, IsPlannedCutCalibratedAndAnsweredByAgents) {
  make_model();
  make_data();
  write_text(s / "fleet.toml", tiny_fleet());
  run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "decomposed",
       "--max-part-share", "0.8", "--accuracy-weight", "1000", "--tokens", "8", "--out",
       s / "plan.json"});
  run({"decompose", s / "model", "--plan", s / "plan.json", "--fleet", s / "fleet.toml", "--data",
       s / "data", "--length", "16", "--out", s / "bundle"});
  const std::string warned = ask({"--local"}).error;
  EXPECT_EQ(count_of(warned, "was fitted and never calibrated"), 1) << warned;
  write_text(s / "recipe.toml",
             "format = 1\n[data]\npath = \"data\"\nvalidation = 8\nlength = 16\n[alone]\nepochs = "
             "1\nbatch = 8\n[joint]\nepochs = 2\nbatch = 8\nlearning_rate = 0.01\n");
  // Weights that are random have nothing to lose: it may end no better than it began.
  run({"calibrate", s / "bundle", "--teacher", s / "model", "--recipe", s / "recipe.toml",
       "--threads", "1"},
      {0, 3});
  const auto agents = start_agents(s / "bundle", s);
  const json fleet = answer({"--hosts", s / "hosts.toml"});
  EXPECT_FALSE(fleet.empty());
  EXPECT_EQ(fleet, answer({"--local"}));
}

INSTANTIATE_TEST_SUITE_P(Of, FamilyJob, testing::ValuesIn(checkpoints()),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace cleave::tools
