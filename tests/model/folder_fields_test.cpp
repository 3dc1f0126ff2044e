#include "model/config/folder_fields.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using nlohmann::json;
using testing::expect_contains;
using testing::Scratch;

/// Without waiting for the disk.
void write_quickly(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::vector<std::string> words(std::string_view text) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> list;
  for (std::string word; stream >> word;) list.push_back(word);
  return list;
}

std::string joined(const std::vector<std::string>& list, const std::string& around) {
  std::string text;
  for (const auto& one : list) text += (text.empty() ? "" : ", ") + around + one + around;
  return text;
}

std::vector<json> listed_values(const FolderField& row) {
  std::vector<json> values;
  std::string text(row.values);
  for (std::size_t end = 0; !text.empty(); text.erase(0, std::min(end, text.size()))) {
    const std::size_t bar = text.find(" | ");
    values.push_back(json::parse(text.substr(0, bar)));
    end = bar == std::string::npos ? text.size() : bar + 3;
  }
  return values;
}

/// The list as model/FOLDERS.md has it.
std::string as_tables() {
  std::string text, file;
  for (const FolderField& row : folder_fields()) {
    if (row.file != file) {
      file = row.file;
      text += "\n## " + file + "\n\n| field | models | what becomes of it | meaning |\n";
      text += "| --- | --- | --- | --- |\n";
    }
    std::vector<std::string> values;
    for (const json& value : listed_values(row)) values.push_back(value.dump());
    std::string fate(name_of(row.fate));
    if (row.fate == Fate::only)
      fate = values.empty() ? "refused" : "only " + joined(values, "`") + ", else refused";
    if (row.fate == Fate::ignored)
      fate = values.empty() ? "ignored, and said"
                            : "ignored, and said unless it is " + joined(values, "`");
    text += "| " + (row.fields.empty() ? "the file" : joined(words(row.fields), "`")) + " | " +
            joined(words(row.families), "") + " | " + fate + " | " + std::string(row.meaning) +
            " |\n";
  }
  return text;
}

// CLEAVE_WRITE_FOLDERS=1 writes the tables anew.
TEST(FolderFields, StandInTheDocumentation) {
  const auto path = std::filesystem::path(CLEAVE_SOURCE_DIR) / "model" / "FOLDERS.md";
  std::string text = base::read_text(path);
  const auto begin = text.find("\n## config.json");
  ASSERT_NE(begin, std::string::npos);
  if (std::getenv("CLEAVE_WRITE_FOLDERS") != nullptr) {
    text = text.substr(0, begin) + as_tables();
    base::write_whole(path, text);
  }
  EXPECT_EQ(text.substr(begin), as_tables());
}

const std::vector<std::string> all_families = {"vit",  "deit",  "bert",  "roberta", "distilbert",
                                               "gpt2", "llama", "qwen2", "mistral"};

/// The families that a row concerns.
std::vector<std::string> families_of(const FolderField& row) {
  return row.families.empty() ? all_families : words(row.families);
}

/// A config.json that is read.
json config_of(const std::string& family) {
  if (family == "vit") return config_to_json(testing::tiny_config(Family::vit));
  if (family == "deit") return config_to_json(testing::tiny_config(Family::deit));
  for (const Family known : testing::text_families)
    if (family == name_of(known)) return config_to_json(testing::tiny_text_config(known));
  throw std::logic_error(family);
}

std::string error_with(json config, const std::string& field, const json& value) {
  config[field] = value;
  try {
    config_from_json(base::Reader::json_text(config.dump(), "config.json"));
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

TEST(FolderFields, StandInOneRowForEachFamily) {
  std::set<std::string> seen;
  for (const FolderField& row : folder_fields())
    for (const std::string& field : words(row.fields))
      for (const std::string& family : words(row.families))
        EXPECT_TRUE(seen.insert(std::string(row.file) + " " + field + " " + family).second)
            << row.file << " " << field << " " << family;
}

TEST(FolderFields, OfConfigAreRefusedWithAValueThatIsNotBuilt) {
  for (const FolderField& row : folder_fields()) {
    if (row.file != "config.json" || row.fate != Fate::only) continue;
    for (const std::string& family : families_of(row))
      for (const std::string& field : words(row.fields)) {
        const json config = config_of(family);
        expect_contains(error_with(config, field, {{"other", 1}}),
                        "[config.json] " + field + ": saw {\"other\":1}, needs ");
        EXPECT_EQ(error_with(config, field, nullptr), "") << family;
        for (const json& value : listed_values(row))
          EXPECT_EQ(error_with(config, field, value), "") << family;
      }
  }
}

/// The notes of a folder of which `file` has one field more.
std::vector<std::string> notes_with(const std::string& family, const std::string& file,
                                    const std::string& field, const json& value) {
  const Scratch folder;
  json config = config_of(family);
  if (file == "config.json") config[field] = value;
  write_quickly(folder / "config.json", config.dump());
  if (file != "config.json") write_quickly(folder / file, json{{field, value}}.dump());
  return folder_notes(folder.path());
}

TEST(FolderFields, AreSaidWhereTheyAreIgnored) {
  for (const FolderField& row : folder_fields()) {
    if (row.fate != Fate::ignored || row.fields.empty()) continue;
    const std::string file(row.file), family = families_of(row).back();
    for (const std::string& field : words(row.fields)) {
      const auto notes = notes_with(family, file, field, {{"other", 1}});
      ASSERT_EQ(notes.size(), 1) << file << " " << field;
      expect_contains(notes.front(), file + "] " + field + ": {\"other\":1} is ignored (");
      for (const json& value : listed_values(row))
        EXPECT_TRUE(notes_with(family, file, field, value).empty()) << file << " " << field;
    }
  }
}

TEST(FolderFields, OfNoRowAreSaid) {
  EXPECT_TRUE(notes_with("bert", "config.json", "vocab_size", 20).empty());
  const auto notes = notes_with("bert", "tokenizer_config.json", "flux_capacity", 1.21);
  ASSERT_EQ(notes.size(), 1);
  expect_contains(notes.front(),
                  "tokenizer_config.json] fields that are not known are ignored: flux_capacity");
  const Scratch folder;
  write_quickly(folder / "config.json", R"({"model_type": "of its own", "flux_capacity": 1.21})");
  EXPECT_TRUE(folder_notes(folder.path()).empty()) << "nothing of such a family is known";
}

TEST(FolderFields, AreSaidOfFilesThatAreNamedAfterAFamilyOrCounted) {
  for (const std::string file : {"sentence_roberta_config.json", "2_Pooling/config.json"}) {
    const Scratch folder;
    write_quickly(folder / "config.json", config_of("roberta").dump());
    std::filesystem::create_directories((folder / file).parent_path());
    write_quickly(folder / file, R"({"flux_capacity": 1.21})");
    const auto notes = folder_notes(folder.path());
    ASSERT_EQ(notes.size(), 1) << file;
    expect_contains(notes.front(), file + "] fields that are not known are ignored: flux_capacity");
  }
}

/// Writes into `folder` what is read of a whole model of one kind: files by name.
using Files = std::map<std::string, json>;

/// Folders in which, together, every field is looked at. Vocabularies come from the goldens.
std::vector<Files> whole_folders() {
  const auto golden = [](const char* name) {
    return json::parse(base::read_text(testing::golden(std::string("tokenizers/") + name)));
  };
  std::vector<Files> folders;
  for (const std::string& family : all_families) {
    json config = config_of(family);
    if (family == "bert") config["architectures"] = {"BertForSequenceClassification"};
    if (family == "qwen2") config.update({{"use_sliding_window", true}, {"sliding_window", 8}});
    config.erase("id2label");
    folders.push_back({{"config.json", config}});
    if (family == "llama") folders.back()["generation_config.json"] = {{"do_sample", true}};
    if (family == "vit")
      folders.back()["preprocessor_config.json"] = {{"size", 10},
                                                    {"do_center_crop", true},
                                                    {"crop_size", 8},
                                                    {"image_mean", {0, 0}},
                                                    {"image_std", {1, 1}}};
  }
  folders.push_back(
      {{"config.json", config_of("vit")},
       {"preprocessor_config.json",
        {{"image_processor_type", "ConvNextImageProcessor"}, {"size", {{"shortest_edge", 8}}}}}});
  const std::string kind = "sentence_transformers.models.";
  folders.push_back({{"config.json", config_of("bert")},
                     {"modules.json",
                      {{{"path", ""}, {"type", kind + "Transformer"}},
                       {{"path", "1_Pooling"}, {"type", kind + "Pooling"}}}},
                     {"1_Pooling/config.json", {{"pooling_mode_mean_tokens", true}}},
                     {"sentence_bert_config.json", {{"do_lower_case", false}}}});
  folders.push_back({{"tokenizer.json", golden("wordpiece/tokenizer.json")},
                     {"tokenizer_config.json", {{"tokenizer_class", "BertTokenizer"}}}});
  for (const char* name : {"GPT2Tokenizer", "LlamaTokenizer"})
    folders.push_back({{"tokenizer.json", golden("byte_pair/tokenizer.json")},
                       {"tokenizer_config.json",
                        {{"tokenizer_class", name},
                         {"bos_token", "<|endoftext|>"},
                         {"eos_token", "<|endoftext|>"}}}});
  return folders;
}

/// What is read of a folder with these files, as text; what is refused, where it is.
std::string all_of(const Files& files) {
  const Scratch folder;
  for (const auto& [name, content] : files) write_quickly(folder / name, content.dump());
  try {
    if (files.count("tokenizer.json") == 0)
      return config_to_json(read_config(folder.path())).dump();
    const Tokenizer tokenizer = read_tokenizer(folder.path());
    return json(tokenizer.encode("The Café [MASK] <|endoftext|>")).dump();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

bool concerns(const FolderField& row, const Files& files) {
  const auto families = words(row.families);
  const auto config = files.find("config.json");
  return families.empty() || config == files.end() ||
         std::find(families.begin(), families.end(),
                   config->second.at("model_type").get<std::string>()) != families.end();
}

/// Whether some folder is not read as before with `value` in a field of a file.
bool notices(const FolderField& row, const std::string& field, const json& value) {
  static const std::vector<std::pair<Files, std::string>> folders = [] {
    std::vector<std::pair<Files, std::string>> read;
    for (Files& files : whole_folders()) {
      const std::string all = all_of(files);
      EXPECT_NE(all.substr(0, 2), "[/") << all;
      read.emplace_back(std::move(files), all);
    }
    return read;
  }();
  const std::string file(row.file);
  for (auto [files, before] : folders) {
    const bool special = file == "special_tokens_map.json" && files.count("tokenizer.json") != 0;
    const bool beside = file == "tokenizer_config.json" && files.count("modules.json") != 0;
    if ((files.count(file) == 0 && !special && !beside) || !concerns(row, files)) continue;
    json& content = files[file];
    if (file == "modules.json")
      for (json& module : content) module[field] = value;
    else
      content[field] = value;
    if (all_of(files) != before) return true;
  }
  return false;
}

// A value that no field has is seen by whoever reads the field.
TEST(FolderFields, AreLookedAtWhereTheyAreUsedOrRefused) {
  for (const FolderField& row : folder_fields()) {
    if (row.fields.empty() || row.file == "model.safetensors.index.json") continue;
    if (row.fate != Fate::used && row.fate != Fate::only) continue;
    for (const std::string& field : words(row.fields)) {
      // Of the tokenizer, and of a file that counts through the others.
      if (row.file == "config.json" && field == "tokenizer_class") continue;
      if (field == "_from_model_config" || field == "legacy") continue;
      EXPECT_TRUE(notices(row, field, {{"other", 1}}) || notices(row, field, "other"))
          << row.file << " " << field;
    }
  }
}

// The index is read with the weights, not with the config.
TEST(FolderFields, OfTheShardIndexAreUsedOrHaveNoEffect) {
  const std::string file = "model.safetensors.index.json";
  const Scratch folder;
  for (const auto& entry :
       std::filesystem::directory_iterator(testing::golden("models/bert_masked_sharded")))
    std::filesystem::copy(entry.path(), folder / entry.path().filename().string());
  const json index = json::parse(base::read_text(folder / file));
  const auto read = [&](const json& changed) {
    write_quickly(folder / file, changed.dump());
    std::string names;
    try {
      const TensorFiles files(folder.path());
      for (const auto& [name, entry] : files.entries()) names += name + " ";
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return names;
  };
  const std::string before = read(index);
  ASSERT_NE(before.substr(0, 1), "[") << before;
  int rows = 0;
  for (const FolderField& row : folder_fields()) {
    if (row.file != file) continue;
    ++rows;
    for (const std::string& field : words(row.fields)) {
      ASSERT_TRUE(index.contains(field)) << field;
      json without = index;
      without.erase(field);
      std::vector<json> changed = {without};
      for (const json& value : {json(nullptr), json("other"), json(7), json{{"other", 1}},
                                json::array({"other"}), json{{"other", "none.safetensors"}}}) {
        changed.push_back(index);
        changed.back()[field] = value;
      }
      for (const json& one : changed) {
        if (row.fate == Fate::used)
          expect_contains(read(one), file + "] " + field);
        else
          EXPECT_EQ(read(one), before) << row.file << " " << one.value(field, json());
      }
    }
  }
  EXPECT_EQ(rows, 2);
  json more = index;
  more["flux_capacity"] = 1;
  write_quickly(folder / file, more.dump());
  const auto notes = folder_notes(folder.path());
  ASSERT_EQ(notes.size(), 1U);
  expect_contains(notes.front(), file + "] fields that are not known are ignored: flux_capacity");
}

// What Transformers itself writes has nothing that nobody knows.
TEST(FolderFields, CoverTheGoldens) {
  for (const char* name :
       {"bert", "bert_classifier", "bert_masked_sharded", "deit", "deit_distilled_f16", "gpt2",
        "llama", "vit", "vit_oblong", "roberta_classifier", "distilbert_masked", "qwen2_tied",
        "mistral_window", "llama31"})
    EXPECT_EQ(folder_notes(testing::golden(std::string("models/") + name)),
              std::vector<std::string>());
}

}  // namespace
}  // namespace cleave::model
