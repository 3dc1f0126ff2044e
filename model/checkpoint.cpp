#include "model/checkpoint.hpp"

#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "base/digest.hpp"
#include "base/text.hpp"
#include "model/config/holding.hpp"
#include "model/config/hugging_face.hpp"

namespace cleave::model {
namespace {

constexpr double initial_std = 0.02;  // Hugging Face's `initializer_range`

/// A seed for one tensor: the same whatever other tensors are made, and in which order.
std::uint64_t seed_of(const std::string& name, std::uint64_t seed) {
  return std::stoull(base::sha256(std::to_string(seed) + " " + name).substr(0, 16), nullptr, 16);
}

/// One pass over the bits, without the copies that at::isfinite makes.
bool all_finite(const Tensor& tensor) {
  constexpr std::uint32_t exponent = 0x7f800000;
  const auto* bits = reinterpret_cast<const std::uint32_t*>(tensor.data_ptr<float>());
  bool finite = true;
  for (std::int64_t i = 0; i < tensor.numel(); ++i) finite &= (bits[i] & exponent) != exponent;
  return finite;
}

}  // namespace

Tensor read_tensor(const TensorFiles& files, const TensorEntry& entry) {
  const Tensor tensor = at::empty(entry.dims, at::kFloat);
  convert_to_f32(entry.element, files.data(entry), tensor.numel(), tensor.data_ptr<float>());
  if (!all_finite(tensor))
    throw std::runtime_error("[" + files.path().string() + "] " + entry.name +
                             ": saw NaN or infinity, needs finite numbers");
  return tensor;
}

std::vector<Tensor> read_stored(const ModelConfig& config, const TensorFiles& files,
                                const StoredTensor& stored) {
  const TensorEntry& entry = find_stored(config, files, stored.key);
  Tensor whole = read_tensor(files, entry);
  files.release(entry);  // else the file's pages would count beside the copies
  if (stored.transposed) whole = whole.t();
  std::vector<Tensor> parts;
  std::int64_t begin = 0;
  for (const Parameter& part : stored.parts) {
    const std::int64_t size = part.axes.front().size;
    parts.push_back(whole.narrow(0, begin, size).contiguous());
    begin += size;
  }
  return parts;
}

Tensor to_stored(const Transformer& model, const StoredTensor& stored) {
  std::vector<Tensor> parts;
  for (const Parameter& part : stored.parts) {
    expect_dims(model[part.name], part.dims(), part.name);
    parts.push_back(model[part.name].detach().to(at::kCPU, at::kFloat));
  }
  const Tensor whole = parts.size() == 1 ? parts.front() : at::cat(parts);
  return (stored.transposed ? whole.t() : whole).contiguous();
}

Transformer load(const std::filesystem::path& folder) {
  Transformer model;
  model.config = read_config(folder);
  const TensorFiles files(folder);
  check_tensors(model.config, files);
  for (const StoredTensor& stored : stored_tensors(model.config)) {
    const std::vector<Tensor> parts = read_stored(model.config, files, stored);
    for (std::size_t i = 0; i < parts.size(); ++i) model.tensors[stored.parts[i].name] = parts[i];
  }
  return model;
}

void save(const Transformer& model, const std::filesystem::path& folder, std::uint64_t most) {
  model.config.check();
  const auto list = stored_tensors(model.config);
  std::vector<TensorEntry> entries;
  for (const StoredTensor& stored : list)
    entries.push_back({stored.key, base::Element::f32, stored.dims(), 0, 0});
  base::StagedFolder staged(folder, "config.json");
  ModelWriter writer(staged.path(), std::move(entries), {}, most);
  for (const StoredTensor& stored : list) {
    const Tensor tensor = to_stored(model, stored);
    writer.write(tensor.data_ptr<float>(), tensor.nbytes());
  }
  writer.commit();
  write_config(model.config, staged.path());
  remove_other_weights(folder, staged.path());
  staged.commit();
}

Tensor random_tensor(const Parameter& parameter, std::uint64_t seed) {
  const auto dims = parameter.dims();
  if (base::ends_with(parameter.name, ".bias")) return at::zeros(dims);
  if (parameter.axes.size() == 1) return at::ones(dims);  // a norm's weight
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(seed_of(parameter.name, seed));
  // Hugging Face truncates at ±2, a hundred deviations away: no draw ever gets there.
  return at::normal(0, initial_std, dims, generator);
}

Transformer load_holding(const std::filesystem::path& folder) {
  Transformer model;
  Holding holding = read_holding(folder);
  const TensorFiles files(folder / "model.safetensors");
  for (const ParameterRange& held : holding.weights) {
    const TensorEntry& entry = files.at(held.name);
    const Tensor tensor = read_tensor(files, entry);
    files.release(entry);
    try {
      expect_dims(tensor, dims_of(held, holding.model), held.name);
    } catch (const std::invalid_argument& wrong) {
      throw std::runtime_error("[" + folder.string() + "] model.safetensors: " + wrong.what());
    }
    model.tensors[held.name] = tensor;
    model.begins[held.name] = held.range.begin;
  }
  model.config = std::move(holding.model);
  return model;
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
