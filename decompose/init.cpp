#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/reader.hpp"
#include "base/text.hpp"
#include "decompose/decompose.hpp"
#include "decompose/folder.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::decompose {
namespace {

/// Normal numbers cut at two deviations, each a pure function of (seed, tensor, index): the same on
/// every machine and in any order. A sum of twelve uniform integers (Irwin-Hall) needs no
/// logarithm, whose last bit differs between libraries.
class Normal {
 public:
  Normal(std::uint64_t seed, std::string_view tensor) : key_(mix(seed ^ hash(tensor))) {}

  /// Deviation 1 before the cut.
  double at(std::uint64_t index) const {
    double value = 0;
    std::uint64_t counter = index * draws_an_index;
    do {
      value = sum_of_twelve(counter);
      counter += 3;
    } while (std::abs(value) > 2);
    return value;
  }

 private:
  // One draw in twenty is beyond the cut; running into the next index' counters after 21 of them
  // does no harm.
  static constexpr std::uint64_t draws_an_index = 64;

  double sum_of_twelve(std::uint64_t counter) const {
    std::int64_t sum = 0;
    for (std::uint64_t i = 0; i < 3; ++i) {
      const std::uint64_t bits = mix(key_ + (counter + i) * golden);
      for (int shift = 0; shift < 64; shift += 16) {
        sum += static_cast<std::int64_t>((bits >> shift) & 0xffff);
      }
    }
    // Twelve uniform numbers on 0..65535: mean 6 · 65535, deviation 65536 but for one part in 10^9.
    return static_cast<double>(sum - 6 * 65535) / 65536;
  }

  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;

  /// The finaliser of SplitMix64 (Steele et al. 2014).
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  /// FNV-1a.
  static std::uint64_t hash(std::string_view text) {
    std::uint64_t value = 0xcbf29ce484222325;
    for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return value;
  }

  std::uint64_t key_;
};

/// blocks.<l>.norm_attention.weight, norm.weight …
bool is_norm_weight(std::string_view name) {
  return base::ends_with(name, "weight") && name.find("norm") != std::string_view::npos;
}

/// Values [begin, begin + target.size()) of a fresh parameter.
void fill(const std::string& name, const Normal& normal, std::uint64_t begin,
          std::vector<float>& target) {
  constexpr double deviation = 0.02;
  if (base::ends_with(name, ".bias")) {
    std::fill(target.begin(), target.end(), 0.0F);
  } else if (is_norm_weight(name)) {
    std::fill(target.begin(), target.end(), 1.0F);
  } else {
    for (std::size_t i = 0; i < target.size(); ++i) {
      target[i] = static_cast<float>(deviation * normal.at(begin + i));
    }
  }
}

void write_tensor(const model::StoredTensor& stored, std::uint64_t seed,
                  model::ModelWriter& writer) {
  constexpr std::int64_t chunk = 1 << 16;
  const std::string& name = stored.parts.front().name;
  std::int64_t count = 0;
  for (const auto& part : stored.parts) count += part.count();
  const Normal normal(seed, name);
  std::vector<float> values;
  for (std::int64_t begin = 0; begin < count; begin += chunk) {
    values.resize(static_cast<std::size_t>(std::min(chunk, count - begin)));
    fill(name, normal, static_cast<std::uint64_t>(begin), values);
    writer.write(values.data(), values.size() * sizeof(float));
  }
}

enum class Kind { vit, deit, bert, roberta, distilbert, gpt2, qwen2, mistral, llama3 };

/// Shape of a published checkpoint.
struct Preset {
  const char* name;
  Kind kind;
  std::int64_t width, layers, heads;
  /// 0: four times the width.
  std::int64_t mlp_width = 0;
  /// Queries on each head of keys and values.
  std::int64_t group = 1;
};

constexpr std::array<Preset, 16> presets{{
    {"vit-base", Kind::vit, 768, 12, 12},
    {"vit-large", Kind::vit, 1024, 24, 16},
    {"deit-tiny", Kind::deit, 192, 12, 3},
    {"deit-small", Kind::deit, 384, 12, 6},
    {"deit-base", Kind::deit, 768, 12, 12},
    {"bert-base", Kind::bert, 768, 12, 12},
    {"bert-large", Kind::bert, 1024, 24, 16},
    {"roberta-base", Kind::roberta, 768, 12, 12},
    {"distilbert-base", Kind::distilbert, 768, 6, 12},
    {"gpt2", Kind::gpt2, 768, 12, 12},
    {"gpt2-medium", Kind::gpt2, 1024, 24, 16},
    {"gpt2-large", Kind::gpt2, 1280, 36, 20},
    {"gpt2-xl", Kind::gpt2, 1600, 48, 25},
    {"qwen2.5-0.5b", Kind::qwen2, 896, 24, 14, 4864, 7},
    {"mistral-7b", Kind::mistral, 4096, 32, 32, 14336, 4},
    {"llama-3.2-1b", Kind::llama3, 2048, 16, 32, 8192, 4},
}};

model::ImageProcessing deit_processing() {
  model::ImageProcessing processing;
  processing.resample = 3;
  processing.crop_from = 256;
  processing.mean = {0.485, 0.456, 0.406};
  processing.std = {0.229, 0.224, 0.225};
  return processing;
}

/// Images of 224 x 224 in patches of 16. The plain DeiT checkpoints are ViTs by architecture,
/// prepared as DeiT does.
void make_vit(Kind kind, model::ModelConfig& config) {
  config.image_height = config.image_width = 224;
  config.patch = 16;
  config.channels = 3;
  config.classes = 1000;
  if (kind == Kind::deit) config.processing = deit_processing();
}

/// With the head of a masked language model, as published.
void make_bert(model::ModelConfig& config) {
  config.family = model::Family::bert;
  config.norm_placement = model::NormPlacement::after;
  config.task = model::Task::masked_lm;
  config.vocabulary = config.classes = 30522;
  config.context = 512;
  config.token_types = 2;
  config.tied_head = true;
}

void make_roberta(model::ModelConfig& config) {
  make_bert(config);
  config.family = model::Family::roberta;
  config.vocabulary = config.classes = 50265;
  config.token_types = 1;
  config.position_offset = 2;
  config.norm_eps = 1e-5;
}

void make_distilbert(model::ModelConfig& config) {
  make_bert(config);
  config.family = model::Family::distilbert;
  config.token_types = 0;
}

void make_gpt2(model::ModelConfig& config) {
  config.family = model::Family::gpt2;
  config.task = model::Task::causal_lm;
  config.causal = true;
  config.activation = model::Activation::gelu_tanh;
  config.norm_eps = 1e-5;
  config.vocabulary = config.classes = 50257;
  config.context = 1024;
  config.end_tokens = {50256};
  config.tied_head = true;
}

/// What Llama and its like share.
void make_llama(const Preset& preset, model::ModelConfig& config) {
  config.family = model::Family::llama;
  config.task = model::Task::causal_lm;
  config.causal = config.gated = true;
  config.activation = model::Activation::silu;
  config.norm_kind = model::NormKind::rms;
  config.norm_eps = 1e-5;
  config.qkv_bias = config.output_bias = config.mlp_bias = false;
  config.group = preset.group;
}

void make_qwen2(const Preset& preset, model::ModelConfig& config) {
  make_llama(preset, config);
  config.family = model::Family::qwen2;
  config.qkv_bias = true;
  config.norm_eps = 1e-6;
  config.vocabulary = config.classes = 151936;
  config.context = 32768;
  config.rotary_base = 1e6;
  config.end_tokens = {151643};
  config.tied_head = true;
}

/// The first release, whose attention sees a window: its context ends there.
void make_mistral(const Preset& preset, model::ModelConfig& config) {
  make_llama(preset, config);
  config.family = model::Family::mistral;
  config.vocabulary = config.classes = 32000;
  config.context = config.window = 4096;
  config.rotary_base = 10000;
  config.end_tokens = {2};
}

void make_llama3(const Preset& preset, model::ModelConfig& config) {
  make_llama(preset, config);
  config.vocabulary = config.classes = 128256;
  config.context = 131072;
  config.rotary_base = 500000;
  config.rotary_scaling = {model::RotaryScaling::Kind::llama3, 32, 1, 4, 8192};
  config.end_tokens = {128001};
  config.tied_head = true;
}

model::ModelConfig config_of(const Preset& preset) {
  model::ModelConfig config;
  config.width = preset.width;
  config.head_width = preset.width / preset.heads;
  const std::int64_t mlp_width = preset.mlp_width > 0 ? preset.mlp_width : 4 * preset.width;
  config.layers.assign(static_cast<std::size_t>(preset.layers), {preset.heads, mlp_width});
  switch (preset.kind) {
    case Kind::vit:
    case Kind::deit:
      make_vit(preset.kind, config);
      break;
    case Kind::bert:
      make_bert(config);
      break;
    case Kind::roberta:
      make_roberta(config);
      break;
    case Kind::distilbert:
      make_distilbert(config);
      break;
    case Kind::gpt2:
      make_gpt2(config);
      break;
    case Kind::qwen2:
      make_qwen2(preset, config);
      break;
    case Kind::mistral:
      make_mistral(preset, config);
      break;
    case Kind::llama3:
      make_llama3(preset, config);
      break;
  }
  return config;
}

}  // namespace

void init(const model::ModelConfig& config, std::uint64_t seed, const std::filesystem::path& out,
          const base::ProgressCallback& progress, std::uint64_t shard_bytes) {
  config.check();
  const auto tensors = model::stored_tensors(config);
  std::vector<model::TensorEntry> entries;
  for (const auto& stored : tensors) {
    model::TensorEntry entry;
    entry.name = stored.key;
    entry.dims = stored.dims();
    entries.push_back(std::move(entry));
  }
  if (std::filesystem::exists(out / "config.json") && !model::read_config(out).random_weights)
    throw std::invalid_argument("[" + out.string() +
                                "] holds a model whose weights are not random, needs a new or an "
                                "empty folder, or one of random weights");
  ModelFolder folder(out);
  model::ModelWriter writer(folder.path(), std::move(entries), {}, shard_bytes);
  Steps steps("init " + out.filename().string(), static_cast<std::int64_t>(tensors.size()),
              progress);
  for (const auto& stored : tensors) {
    steps.next();
    write_tensor(stored, seed, writer);
  }
  writer.commit();
  model::ModelConfig marked = config;
  marked.random_weights = true;
  folder.commit(marked);
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const auto& preset : presets) names.emplace_back(preset.name);
  return names;
}

model::ModelConfig preset(const std::string& name) {
  std::string known;
  for (const auto& preset : presets) {
    if (name == preset.name) return config_of(preset);
    known += (known.empty() ? "" : ", ") + std::string(preset.name);
  }
  const std::string near = base::nearest(name, preset_names());
  throw std::invalid_argument("[preset] saw '" + name + "', needs one of " + known +
                              (near.empty() ? "" : " (did you mean " + near + "?)"));
}

}  // namespace cleave::decompose
