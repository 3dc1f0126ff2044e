#include "model/checkpoint.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "base/digest.hpp"
#include "model/config/hugging_face.hpp"

namespace cleave::model {
namespace {

constexpr double initial_std = 0.02;  // Hugging Face's `initializer_range`

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// A seed for one tensor: the same whatever other tensors are made, and in which order.
std::uint64_t seed_of(const std::string& name, std::uint64_t seed) {
  return std::stoull(base::sha256(std::to_string(seed) + " " + name).substr(0, 16), nullptr, 16);
}

}  // namespace

Tensor read_tensor(const TensorFiles& files, const TensorEntry& entry) {
  const Tensor tensor = at::empty(entry.dims, at::kFloat);
  convert_to_f32(entry.element, files.data(entry), tensor.numel(), tensor.data_ptr<float>());
  return tensor;
}

Transformer load(const std::filesystem::path& folder) {
  Transformer model;
  model.config = read_config(folder);
  const TensorFiles files(folder);
  check_tensors(model.config, files);
  for (const Parameter& parameter : parameters(model.config)) {
    const TensorEntry& entry = files.at(parameter.key);
    model.tensors[parameter.name] = read_tensor(files, entry);
    files.release(entry);  // else the file's pages would count beside the copies
  }
  return model;
}

void save(const Transformer& model, const std::filesystem::path& folder) {
  model.config.check();
  const auto list = parameters(model.config);
  std::vector<TensorEntry> entries;
  for (const Parameter& parameter : list) {
    expect_dims(model[parameter.name], parameter.dims(), parameter.name);
    entries.push_back({parameter.key, base::Element::f32, parameter.dims(), 0, 0});
  }
  base::StagedFolder staged(folder, "config.json");
  SafetensorsWriter writer(staged.path() / "model.safetensors", std::move(entries));
  for (const Parameter& parameter : list) {
    const Tensor tensor = model[parameter.name].detach().to(at::kCPU, at::kFloat).contiguous();
    writer.write(tensor.data_ptr<float>(), tensor.nbytes());
  }
  writer.commit();
  write_config(model.config, staged.path());
  staged.commit();
}

Tensor random_tensor(const Parameter& parameter, std::uint64_t seed) {
  const auto dims = parameter.dims();
  if (ends_with(parameter.name, ".bias")) return at::zeros(dims);
  if (parameter.axes.size() == 1) return at::ones(dims);  // a norm's weight
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(seed_of(parameter.name, seed));
  // Hugging Face truncates at ±2, a hundred deviations away: no draw ever gets there.
  return at::normal(0, initial_std, dims, generator);
}

Transformer random_model(const ModelConfig& config, std::uint64_t seed) {
  config.check();
  Transformer model;
  model.config = config;
  for (const Parameter& parameter : parameters(config))
    model.tensors[parameter.name] = random_tensor(parameter, seed);
  return model;
}

}  // namespace cleave::model
