#include "model/config/hugging_face.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "model/config/folder_fields.hpp"
#include "model/config/image_config.hpp"
#include "model/config/text_config.hpp"
#include "model/config/text_files.hpp"

namespace cleave::model {
namespace {

using base::Reader;
using nlohmann::json;

constexpr std::int64_t format = 1;  // of the `cleave` section
// Bounds of ModelConfig::check are tighter; these only keep arithmetic before it safe.
constexpr std::int64_t any_size = 1 << 24;

/// What a published checkpoint calls itself in `architectures`. The first of a family is what a
/// file means that does not say.
struct Architecture {
  std::string_view name;
  Family family;
  Task task;
  bool has_head;
  std::int64_t summary_tokens = 1;
};

constexpr Architecture architectures[] = {
    {"ViTForImageClassification", Family::vit, Task::classification, true},
    {"ViTModel", Family::vit, Task::classification, false},
    {"DeiTForImageClassification", Family::deit, Task::classification, true},
    {"DeiTForImageClassificationWithTeacher", Family::deit, Task::classification, true, 2},
    {"DeiTModel", Family::deit, Task::classification, false},
    {"BertModel", Family::bert, Task::embedding, false},
    {"BertForSequenceClassification", Family::bert, Task::classification, true},
    {"BertForMaskedLM", Family::bert, Task::masked_lm, true},
    {"BertForPreTraining", Family::bert, Task::masked_lm, true},
    {"RobertaModel", Family::roberta, Task::embedding, false},
    {"RobertaForSequenceClassification", Family::roberta, Task::classification, true},
    {"RobertaForMaskedLM", Family::roberta, Task::masked_lm, true},
    {"DistilBertModel", Family::distilbert, Task::embedding, false},
    {"DistilBertForSequenceClassification", Family::distilbert, Task::classification, true},
    {"DistilBertForMaskedLM", Family::distilbert, Task::masked_lm, true},
    {"GPT2LMHeadModel", Family::gpt2, Task::causal_lm, true},
    {"GPT2Model", Family::gpt2, Task::causal_lm, false},
    {"LlamaForCausalLM", Family::llama, Task::causal_lm, true},
    {"LlamaModel", Family::llama, Task::causal_lm, false},
    {"Qwen2ForCausalLM", Family::qwen2, Task::causal_lm, true},
    {"Qwen2Model", Family::qwen2, Task::causal_lm, false},
    {"MistralForCausalLM", Family::mistral, Task::causal_lm, true},
    {"MistralModel", Family::mistral, Task::causal_lm, false},
};

constexpr Family families[] = {Family::vit,     Family::deit,       Family::bert,
                               Family::roberta, Family::distilbert, Family::gpt2,
                               Family::llama,   Family::qwen2,      Family::mistral};

/// Families whose models would run, but whose texts nothing here can read.
constexpr std::string_view unread_families[] = {"xlm-roberta", "camembert"};

constexpr std::pair<std::string_view, Task> tasks[] = {{"classification", Task::classification},
                                                       {"embedding", Task::embedding},
                                                       {"masked_lm", Task::masked_lm},
                                                       {"causal_lm", Task::causal_lm}};

constexpr std::pair<std::string_view, Problem> problems[] = {
    {"single_label_classification", Problem::single_label},
    {"multi_label_classification", Problem::multi_label},
    {"regression", Problem::regression}};

constexpr std::pair<std::string_view, Pooling> poolings[] = {{"mean", Pooling::mean},
                                                             {"first", Pooling::first}};

/// The second of the pair whose name a field has; throws listing the names.
template <class Value, std::size_t count>
Value read_named(const Reader& field, const std::pair<std::string_view, Value> (&known)[count]) {
  std::vector<std::string> names;
  for (const auto& [name, value] : known) names.emplace_back(name);
  const std::string name = field.one_of(names);
  return std::find_if(std::begin(known), std::end(known),
                      [&](const auto& one) { return one.first == name; })
      ->second;
}

template <class Value, std::size_t count>
std::string_view named(Value value, const std::pair<std::string_view, Value> (&known)[count]) {
  return std::find_if(std::begin(known), std::end(known),
                      [&](const auto& one) { return one.second == value; })
      ->first;
}

std::string names_of(Family family) {
  std::string names;
  for (const Architecture& known : architectures)
    if (known.family == family) names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

const Architecture& read_architecture(const Reader& config, Family family) {
  if (const auto list = config.find("architectures"); list && !list->json().is_null()) {
    const auto items = list->items();
    const std::string name = items.empty() ? "" : items.front().text();
    for (const Architecture& known : architectures)
      if (known.family == family && (known.name == name || items.empty())) return known;
    throw list->error("saw '" + name + "', needs one of " + names_of(family));
  }
  return *std::find_if(std::begin(architectures), std::end(architectures),
                       [&](const Architecture& known) { return known.family == family; });
}

/// The one that says most of the model; the `cleave` section says the rest. (Transformers leaves
/// the last state of both tokens to whoever reads a headless DeiT.)
const Architecture& architecture_of(const ModelConfig& config) {
  const bool has_head = config.classes > 0;
  return *std::find_if(
      std::begin(architectures), std::end(architectures), [&](const Architecture& known) {
        return known.family == config.family && known.has_head == has_head &&
               (!has_head ||
                (known.task == config.task && known.summary_tokens == config.summary_tokens));
      });
}

Family read_family(const Reader& config) {
  std::vector<std::string> names;
  std::string known;
  for (const Family family : families) {
    names.emplace_back(name_of(family));
    known += (known.empty() ? "" : ", ") + names.back();
  }
  const Reader field = config.at("model_type");
  for (const std::string_view unread : unread_families)
    if (field.json() == unread)
      throw field.error("saw '" + std::string(unread) +
                        "', whose tokenizer (Unigram) is not built; needs one of " + known);
  const std::string type = field.one_of(names);
  return *std::find_if(std::begin(families), std::end(families),
                       [&](Family family) { return name_of(family) == type; });
}

/// How config.json of a family spells what they all have; DistilBERT's epsilon is no field.
struct FieldNames {
  const char *width, *layers, *heads, *mlp_width, *activation, *norm_eps;
  Activation usual_activation;
  double usual_eps;
};

FieldNames field_names(Family family) {
  switch (family) {
    case Family::gpt2:
      return {"n_embd",
              "n_layer",
              "n_head",
              "n_inner",
              "activation_function",
              "layer_norm_epsilon",
              Activation::gelu_tanh,
              1e-5};
    case Family::distilbert:
      return {"dim",        "n_layers", "n_heads",        "hidden_dim",
              "activation", nullptr,    Activation::gelu, 1e-12};
    case Family::llama:
    case Family::qwen2:
    case Family::mistral:
      return {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
              "hidden_act",  "rms_norm_eps",      Activation::silu,      1e-6};
    default:
      return {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
              "hidden_act",  "layer_norm_eps",    Activation::gelu,      1e-12};
  }
}

Activation read_activation(const Reader& config, const FieldNames& names) {
  const auto field = config.find(names.activation);
  if (!field) return names.usual_activation;
  const std::string name = field->one_of({"gelu", "gelu_python", "gelu_new", "gelu_pytorch_tanh",
                                          "gelu_fast", "relu", "silu", "swish"});
  if (name == "relu") return Activation::relu;
  if (name == "silu" || name == "swish") return Activation::silu;
  return name == "gelu" || name == "gelu_python" ? Activation::gelu : Activation::gelu_tanh;
}

std::string_view name_of(Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_new";
    case Activation::relu:
      return "relu";
    case Activation::silu:
      return "silu";
  }
  return "?";
}

/// Every layer as the fields that Transformers knows say.
void read_layers(const Reader& file, const FieldNames& names, ModelConfig& config) {
  const auto count = file.at(names.layers).integer(1, 4096);
  LayerShape layer;
  layer.heads = file.at(names.heads).integer(1, any_size);
  const auto mlp_width = file.find(names.mlp_width);
  const bool usual = config.family == Family::gpt2 && (!mlp_width || mlp_width->json().is_null());
  layer.mlp_width = usual ? 4 * config.width : file.at(names.mlp_width).integer(1, any_size);
  config.layers.assign(static_cast<std::size_t>(count), layer);
  config.head_width = config.width / layer.heads;
  const bool says_width = find_field("config.json", "head_dim", name_of(config.family)) != nullptr;
  if (const auto width = file.find("head_dim"); says_width && width && !width->json().is_null())
    config.head_width = width->integer(1, any_size);
  else if (!file.has("cleave") && config.width % layer.heads != 0)
    throw file.at(names.heads)
        .error("saw " + std::to_string(layer.heads) + ", needs a divisor of " + names.width +
               " = " + std::to_string(config.width));
}

std::vector<LayerShape> read_layer_list(const Reader& list, const char* count_name,
                                        std::int64_t count) {
  std::vector<LayerShape> layers;
  for (const Reader& layer : list.items()) {
    layer.allow({"heads", "mlp_width"});
    layers.push_back(
        {layer.at("heads").integer(0, any_size), layer.at("mlp_width").integer(0, any_size)});
  }
  if (static_cast<std::int64_t>(layers.size()) != count)
    throw list.error("saw " + std::to_string(layers.size()) + " layers, needs " + count_name +
                     " = " + std::to_string(count));
  return layers;
}

/// "0" … "C-1" -> names. Transformers invents LABEL_0 … where nobody gave names; those are no
/// names.
std::vector<std::string> read_labels(const Reader& id2label) {
  const auto count = id2label.keys().size();
  std::vector<std::string> labels;
  bool named = false;
  for (std::size_t i = 0; i < count; ++i) {
    labels.push_back(id2label.at(std::to_string(i)).text());
    named = named || labels.back() != "LABEL_" + std::to_string(i);
  }
  return named ? labels : std::vector<std::string>();
}

void read_classes(const Reader& file, ModelConfig& config) {
  const auto id2label = file.find("id2label");
  if (id2label && !id2label->json().is_null()) {
    config.classes = static_cast<std::int64_t>(id2label->keys().size());
    if (config.classes == 0) throw id2label->error("saw no class, needs at least 1");
    config.labels = read_labels(*id2label);
  } else {
    config.classes = file.integer("num_labels", 1, any_size, 2);  // Transformers' default
  }
  if (const auto problem = file.find("problem_type"))
    config.problem = read_named(*problem, problems);
  // One class of one would always be it; Transformers' pipeline takes the sigmoid.
  if (config.classes == 1 && config.problem == Problem::single_label)
    config.problem = Problem::multi_label;
}

HeldOut read_held_out(const Reader& table) {
  table.allow({"rows", "count", "digest"});
  HeldOut held_out;
  held_out.rows = table.at("rows").integer(1, std::int64_t{1} << 40);
  held_out.count = table.at("count").integer(0, held_out.rows);
  held_out.digest = table.at("digest").text();
  return held_out;
}

/// What only Cleave reads; see `section`.
void read_section(const Reader& section, ModelConfig& config) {
  section.expect_format(format);
  section.allow({"format", "head_width", "group", "layers", "task", "summary_tokens",
                 "random_weights", "processing", "pooling", "normalised", "text_length", "sampling",
                 "held_out", "texts_per_row"});
  config.head_width = section.integer("head_width", 1, any_size, config.head_width);
  config.group = section.integer("group", 1, any_size, config.group);
  if (const auto task = section.find("task")) config.task = read_named(*task, tasks);
  if (const auto layers = section.find("layers"))
    config.layers =
        read_layer_list(*layers, field_names(config.family).layers, config.num_layers());
  config.summary_tokens = section.integer("summary_tokens", 1, 2, config.summary_tokens);
  config.random_weights = section.boolean("random_weights", false);
  if (const auto pooling = section.find("pooling")) config.pooling = read_named(*pooling, poolings);
  config.normalised = section.boolean("normalised", true);
  config.text_length = section.integer("text_length", 0, any_size, 0);
  if (const auto sampling = section.find("sampling")) config.sampling = read_sampling(*sampling);
  if (const auto processing = section.find("processing"))
    config.processing = read_processing(*processing, config);
  if (const auto held_out = section.find("held_out")) config.held_out = read_held_out(*held_out);
  config.texts_per_row = section.integer("texts_per_row", 1, 2, 0);
}

/// ModelConfig::check, with the file in the message.
void check(const ModelConfig& config, const std::string& file) {
  try {
    config.check();
  } catch (const std::invalid_argument& error) {
    constexpr std::string_view where = "[config] ";
    throw std::runtime_error("[" + file + "] " + std::string(error.what()).substr(where.size()));
  }
}

/// A config that is not checked yet, with the processing that its family defaults to.
ModelConfig read_unchecked(const Reader& file) {
  ModelConfig config;
  config.family = read_family(file);
  check_fields(file, "config.json", name_of(config.family));
  const Architecture& architecture = read_architecture(file, config.family);
  const FieldNames names = field_names(config.family);
  config.task = architecture.task;
  config.summary_tokens = architecture.summary_tokens;
  config.width = file.at(names.width).integer(1, any_size);
  config.activation = read_activation(file, names);
  config.norm_eps = names.norm_eps == nullptr ? names.usual_eps
                                              : file.number(names.norm_eps, 0, 1, names.usual_eps);
  config.qkv_bias = file.boolean("qkv_bias", true);
  read_layers(file, names, config);
  const bool image = config.family == Family::vit || config.family == Family::deit;
  image ? read_image(file, config) : read_text(file, config);
  if (architecture.has_head && config.reads_every_token()) config.classes = config.vocabulary;
  if (architecture.has_head && !config.reads_every_token()) read_classes(file, config);
  if (image) config.processing = default_processing(config);
  if (config.task == Task::causal_lm) config.sampling = read_sampling(file);
  if (const auto section = file.find("cleave")) read_section(*section, config);
  return config;
}

/// Throws where a file is there that the list of the folder's fields refuses as a whole.
void refuse_files(const std::filesystem::path& folder) {
  for (const FolderField& row : folder_fields())
    if (row.fate == Fate::only && row.fields.empty() && std::filesystem::exists(folder / row.file))
      throw std::runtime_error("[" + (folder / row.file).string() + "] saw it, needs none (" +
                               std::string(row.meaning) + ")");
}

std::int64_t largest(const ModelConfig& config, std::int64_t LayerShape::*field) {
  std::int64_t largest = 1;
  for (const LayerShape& layer : config.layers) largest = std::max(largest, layer.*field);
  return largest;
}

json label_map(const ModelConfig& config) {
  json labels = json::object();
  for (std::int64_t i = 0; i < config.classes; ++i)
    labels[std::to_string(i)] = config.labels.empty() ? "LABEL_" + std::to_string(i)
                                                      : config.labels[static_cast<std::size_t>(i)];
  return labels;
}

/// The inverse of label_map. Where two classes share a name, the first keeps it.
json id_map(const ModelConfig& config) {
  json ids = json::object();
  const json labels = label_map(config);
  for (std::int64_t i = 0; i < config.classes; ++i) {
    const auto label = labels.at(std::to_string(i)).get<std::string>();
    if (!ids.contains(label)) ids[label] = i;
  }
  return ids;
}

/// The fields that Transformers reads.
json public_fields(const ModelConfig& config) {
  const FieldNames names = field_names(config.family);
  json fields = config.is_text() ? text_fields(config) : image_fields(config);
  fields["architectures"] = {architecture_of(config).name};
  fields["model_type"] = name_of(config.family);
  fields[names.width] = config.width;
  fields[names.layers] = config.num_layers();
  fields[names.heads] = largest(config, &LayerShape::heads);
  fields[names.mlp_width] = largest(config, &LayerShape::mlp_width);
  fields[names.activation] = name_of(config.activation);
  if (names.norm_eps != nullptr) fields[names.norm_eps] = config.norm_eps;
  if (config.norm_kind == NormKind::rms) return fields;
  if (config.family != Family::gpt2 && config.family != Family::distilbert) {
    fields["hidden_dropout_prob"] = 0.0;
    fields["attention_probs_dropout_prob"] = 0.0;
  }
  if (!config.reads_every_token()) {
    fields["id2label"] = label_map(config);
    fields["label2id"] = id_map(config);
  }
  if (config.problem != Problem::single_label)
    fields["problem_type"] = named(config.problem, problems);
  return fields;
}

/// The fields that Transformers reads say every layer: all are alike, and where D is not H·K there
/// is a field for the width of a head.
bool layers_are_public(const ModelConfig& config) {
  if (config.is_uniform()) return true;
  const bool says_width = config.family == Family::llama || config.family == Family::mistral;
  return says_width && config.layers.front().heads > 0 && config.layers.front().mlp_width > 0 &&
         std::all_of(config.layers.begin(), config.layers.end(),
                     [&](const LayerShape& layer) { return layer == config.layers.front(); });
}

/// The `cleave` section: what the public fields cannot say, and nothing else.
json section(const ModelConfig& config) {
  json section = json::object();
  if (!layers_are_public(config)) {
    section["head_width"] = config.head_width;
    if (config.group > 1) section["group"] = config.group;
    section["layers"] = json::array();
    for (const LayerShape& layer : config.layers)
      section["layers"].push_back({{"heads", layer.heads}, {"mlp_width", layer.mlp_width}});
  }
  const Architecture& architecture = architecture_of(config);
  if (architecture.task != config.task) section["task"] = named(config.task, tasks);
  if (architecture.summary_tokens != config.summary_tokens)
    section["summary_tokens"] = config.summary_tokens;
  if (config.random_weights) section["random_weights"] = true;
  if (config.held_out.rows > 0)
    section["held_out"] = {{"rows", config.held_out.rows},
                           {"count", config.held_out.count},
                           {"digest", config.held_out.digest}};
  if (config.texts_per_row != 0) section["texts_per_row"] = config.texts_per_row;
  if (config.pooling != Pooling::mean) section["pooling"] = named(config.pooling, poolings);
  if (!config.normalised) section["normalised"] = false;
  if (config.text_length != 0) section["text_length"] = config.text_length;
  return section;
}

json with_section(const ModelConfig& config, json section) {
  json fields = public_fields(config);
  if (section.empty()) return fields;
  section["format"] = format;
  fields["cleave"] = std::move(section);
  return fields;
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& folder) {
  refuse_files(folder);
  const auto path = folder / "config.json";
  const Reader file = Reader::json_file(path);
  ModelConfig config = read_unchecked(file);
  if (config.is_text()) {
    check(config, path.string());
    read_generation(folder, file, config);
    read_sentence_files(folder, config);
    check(config, folder.string());
    return config;
  }
  const auto preprocessor = folder / "preprocessor_config.json";
  // The model alone first, so that a wrong field is blamed on the right file.
  config.processing = default_processing(config);
  check(config, path.string());
  if (!std::filesystem::exists(preprocessor)) return config;
  const Reader pictures = Reader::json_file(preprocessor);
  check_fields(pictures, "preprocessor_config.json", name_of(config.family));
  config.processing = read_processing(pictures, config);
  check(config, preprocessor.string());
  return config;
}

ModelConfig config_from_json(const Reader& file) {
  ModelConfig config = read_unchecked(file);
  check(config, file.path().empty() ? file.file() : file.file() + ": " + file.path());
  return config;
}

void write_config(const ModelConfig& config, const std::filesystem::path& folder) {
  base::write_whole(folder / "config.json", with_section(config, section(config)).dump(2) + "\n");
  if (!config.is_text())
    base::write_whole(folder / "preprocessor_config.json",
                      processing_to_json(config.processing).dump(2) + "\n");
  if (config.task == Task::causal_lm)
    base::write_whole(folder / "generation_config.json", generation_fields(config).dump(2) + "\n");
}

json config_to_json(const ModelConfig& config) {
  json all = section(config);
  if (!config.is_text()) all["processing"] = processing_to_json(config.processing);
  if (!(config.sampling == SamplingDefaults())) all["sampling"] = generation_fields(config);
  return with_section(config, std::move(all));
}

namespace {

/// "encoder.layer.7.output.weight" as any layer's: "encoder.layer.#.output.weight".
std::string without_numbers(const std::string& key) {
  std::string general;
  for (const char c : key) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit)
      general += c;
    else if (general.empty() || general.back() != '#')
      general += '#';
  }
  return general;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const auto at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), by);
}

/// The names that releases of Transformers have given to one tensor: a model alone goes without the
/// prefix that it has inside a model with a head, and BERT's norms were gamma and beta once.
std::vector<std::string> spellings(const ModelConfig& config, const std::string& key) {
  const std::string prefix(key_prefix(config.family));
  std::vector<std::string> found = {key};
  if (key.rfind(prefix, 0) == 0) found.push_back(key.substr(prefix.size()));
  for (std::size_t i = 0, known = found.size(); i < known; ++i)
    found.push_back(replaced(replaced(found[i], "LayerNorm.weight", "LayerNorm.gamma"),
                             "LayerNorm.bias", "LayerNorm.beta"));
  return found;
}

const TensorEntry* look_for_spelling(const ModelConfig& config, const TensorFiles& files,
                                     const std::string& key) {
  for (const std::string& name : spellings(config, key)) {
    const auto found = files.entries().find(name);
    if (found != files.entries().end()) return &found->second;
  }
  return nullptr;
}

/// The keys under which a head that is the tokens' embedding may be stored: the embedding's and the
/// head's own. Empty where the head is not tied.
struct TiedKeys {
  std::string embedding, head;
};

TiedKeys tied_keys(const ModelConfig& config) {
  TiedKeys keys;
  if (!config.tied_head || !config.reads_every_token() || config.classes == 0) return keys;
  ModelConfig untied = config;
  untied.tied_head = false;
  for (const StoredTensor& stored : stored_tensors(untied)) {
    if (stored.parts.front().name == "embedding.token") keys.embedding = stored.key;
    if (stored.parts.front().name == "head.weight") keys.head = stored.key;
  }
  return keys;
}

std::runtime_error wrong(const TensorFiles& files, const TensorEntry& entry,
                         const std::string& what) {
  return std::runtime_error("[" + files.path().string() + "] " + entry.name + ": " + what);
}

}  // namespace

const TensorEntry* look_for_stored(const ModelConfig& config, const TensorFiles& files,
                                   const std::string& key) {
  if (const TensorEntry* found = look_for_spelling(config, files, key)) return found;
  const TiedKeys tied = tied_keys(config);
  return key == tied.embedding ? look_for_spelling(config, files, tied.head) : nullptr;
}

const TensorEntry& find_stored(const ModelConfig& config, const TensorFiles& files,
                               const std::string& key) {
  const TensorEntry* found = look_for_stored(config, files, key);
  return found != nullptr ? *found : files.at(key);  // which says what is missing
}

void check_tensors(const ModelConfig& config, const TensorFiles& files) {
  std::set<std::string> keys, general;
  for (const StoredTensor& stored : stored_tensors(config)) {
    const TensorEntry& entry = find_stored(config, files, stored.key);
    keys.insert(entry.name);
    general.insert(without_numbers(entry.name));
    const auto text = [](const std::vector<std::int64_t>& dims) { return json(dims).dump(); };
    if (entry.dims != stored.dims())
      throw wrong(files, entry,
                  "saw " + text(entry.dims) + ", needs " + text(stored.dims()) +
                      " (config.json and weights disagree)");
    expect_real(files, entry);
  }
  // What a model of this family does not use (a pooler) may be there; a layer too many may not.
  for (const auto& [name, entry] : files.entries())
    if (keys.count(name) == 0 && general.count(without_numbers(name)) != 0)
      throw wrong(files, entry,
                  "saw it, needs none beyond the " + std::to_string(config.num_layers()) +
                      " layers of config.json (config.json and weights disagree)");
}

void expect_real(const TensorFiles& files, const TensorEntry& entry) {
  if (!entry.is_real())
    throw wrong(files, entry,
                "saw numbers in " + entry.element_name() +
                    ", needs f32, f16, bf16 or f64 (quantised weights are not read: take the "
                    "unquantised checkpoint)");
}

namespace {

/// What releases of Transformers stored beside the weights of a layer, and no forward pass needs.
bool is_buffer(const std::string& name) {
  constexpr std::string_view ends[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
  return std::any_of(std::begin(ends), std::end(ends), [&](std::string_view end) {
    return name.size() >= end.size() &&
           name.compare(name.size() - end.size(), end.size(), end) == 0;
  });
}

/// A tensor inside the layers that config.json gives no place changes answers elsewhere: a bias
/// that it says is not there, a scale of quantised weights. Poolers and heads may be left over.
std::vector<std::string> notes_of_unread(const ModelConfig& config, const TensorFiles& files) {
  std::set<std::string> read;
  for (const StoredTensor& stored : stored_tensors(config))
    if (const TensorEntry* entry = look_for_stored(config, files, stored.key))
      read.insert(entry->name);
  std::string first;
  std::size_t count = 0;
  for (const auto& [name, entry] : files.entries()) {
    if (read.count(name) != 0 || is_buffer(name) ||
        without_numbers(name).find(".#.") == std::string::npos)
      continue;
    if (count++ == 0) first = name;
  }
  if (count == 0) return {};
  return {"[" + files.path().string() + "] " + first +
          (count > 1 ? " and " + std::to_string(count - 1) + " more tensors" : "") +
          ": config.json has no place for what stands in a layer here; ignored"};
}

}  // namespace

std::vector<std::string> tensor_notes(const ModelConfig& config, const TensorFiles& files) {
  std::vector<std::string> notes = notes_of_unread(config, files);
  const TiedKeys tied = tied_keys(config);
  if (tied.head.empty()) return notes;
  const TensorEntry* embedding = look_for_spelling(config, files, tied.embedding);
  const TensorEntry* head = look_for_spelling(config, files, tied.head);
  if (embedding == nullptr || head == nullptr) return notes;
  const bool same = embedding->element == head->element && embedding->bytes == head->bytes &&
                    std::memcmp(files.data(*embedding), files.data(*head), head->bytes) == 0;
  files.release(*embedding);
  files.release(*head);
  if (!same)
    notes.push_back("[" + files.path().string() + "] " + head->name + ": differs from " +
                    embedding->name +
                    ", which is used for both (the head is tied to the embedding)");
  return notes;
}

}  // namespace cleave::model
