#include "model/fusion.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::model {
namespace {

constexpr std::int64_t fusion_format = 2;

void check_channels(const std::vector<std::int64_t>& channels, std::int64_t width,
                    const std::string& device) {
  std::int64_t before = -1;
  for (const std::int64_t channel : channels) {
    if (channel <= before || channel >= width)
      throw std::invalid_argument("[fusion] channels of '" + device + "': saw " +
                                  std::to_string(channel) + " after " + std::to_string(before) +
                                  ", needs ascending numbers 0.." + std::to_string(width - 1));
    before = channel;
  }
  if (channels.empty())
    throw std::invalid_argument("[fusion] channels of '" + device +
                                "': saw none, needs at least 1");
}

at::Tensor cover_of(const std::vector<std::int64_t>& channels, std::int64_t width) {
  const Tensor cover = at::zeros({width}, at::kFloat);
  for (const std::int64_t channel : channels) cover.data_ptr<float>()[channel] = 1;
  return cover;
}

/// A part that puts each kept channel back in its place.
FusionHead::Part make_part(const std::string& device, const std::vector<std::int64_t>& channels,
                           std::int64_t width) {
  check_channels(channels, width, device);
  const auto kept = static_cast<std::int64_t>(channels.size());
  FusionHead::Part part;
  part.device = device;
  part.channels = channels;
  part.weight = at::zeros({width, kept}, at::kFloat);
  for (std::int64_t i = 0; i < kept; ++i)
    part.weight.data_ptr<float>()[channels[static_cast<std::size_t>(i)] * kept + i] = 1;
  part.bias = at::zeros({width}, at::kFloat);
  part.absent = at::zeros({width}, at::kFloat);
  part.cover = cover_of(channels, width);
  return part;
}

/// Throws unless features fit the parts and at least one is there; returns B.
std::int64_t check_features(const FusionHead& head, const std::vector<Tensor>& features) {
  if (features.size() != head.parts.size())
    throw std::invalid_argument("[fuse] features: saw " + std::to_string(features.size()) +
                                ", needs one for each of " + std::to_string(head.parts.size()) +
                                " parts, undefined where absent");
  std::int64_t batch = -1, tokens = -1;  // as the first part has them
  for (std::size_t p = 0; p < features.size(); ++p) {
    if (!features[p].defined()) continue;
    const auto width = static_cast<std::int64_t>(head.parts[p].channels.size());
    expect_dims(features[p], {batch, tokens, width}, "feature of '" + head.parts[p].device + "'");
    batch = features[p].size(0);
    tokens = features[p].size(1);
  }
  if (batch < 0)
    throw std::invalid_argument("[fuse] features: saw 0 of " + std::to_string(features.size()) +
                                " present, needs at least 1");
  return batch;
}

void add_to(Tensor& sum, const Tensor& term) { sum = sum.defined() ? sum.add(term) : term; }

/// Names and tensors, const where the head is.
template <typename Head>
auto parameters_of(Head& head) {
  std::vector<std::pair<std::string, decltype(&head.parts.front().weight)>> found;
  for (std::size_t p = 0; p < head.parts.size(); ++p) {
    const std::string prefix = "parts." + std::to_string(p) + ".";
    found.emplace_back(prefix + "weight", &head.parts[p].weight);
    found.emplace_back(prefix + "bias", &head.parts[p].bias);
    found.emplace_back(prefix + "absent", &head.parts[p].absent);
  }
  for (auto& [name, tensor] : head.head.tensors) found.emplace_back(name, &tensor);
  return found;
}

void write_tensors(const FusionHead& head, const std::filesystem::path& path) {
  const auto tensors = parameters_of(head);
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    TensorEntry entry;
    entry.name = name;
    entry.dims = tensor->sizes().vec();
    entry.bytes = static_cast<std::uint64_t>(tensor->numel()) * sizeof(float);
    entries.push_back(std::move(entry));
  }
  SafetensorsWriter writer(path, entries);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor flat = tensors[i].second->detach().to(at::kCPU, at::kFloat).contiguous();
    writer.write(flat.data_ptr<float>(), entries[i].bytes);
  }
  writer.commit();
}

/// The tensor as fp32 where its shape is the needed one.
Tensor read_checked(const TensorFiles& files, const std::string& name,
                    const std::vector<std::int64_t>& dims, const std::filesystem::path& folder) {
  const TensorEntry& entry = files.at(name);
  const Tensor tensor = read_tensor(files, entry);
  files.release(entry);  // else the file's pages would count beside the copies
  try {
    expect_dims(tensor, dims, (folder / "model.safetensors").string() + ": " + name);
  } catch (const std::invalid_argument& wrong) {
    throw std::runtime_error(wrong.what());
  }
  return tensor;
}

FusionHead::Part read_part(const base::Reader& reader, std::int64_t width) {
  FusionHead::Part part;
  part.device = reader.at("device").text();
  for (const auto& item : reader.at("channels").items())
    part.channels.push_back(item.integer(0, width - 1));
  try {
    check_channels(part.channels, width, part.device);
  } catch (const std::invalid_argument& wrong) {
    throw reader.error(wrong.what());
  }
  part.cover = cover_of(part.channels, width);
  part.largest_feature = reader.number("largest_feature", 0, 1e30, 0);
  return part;
}

}  // namespace

void FusionHead::move_to(at::Device device) {
  for (Part& part : parts)
    for (Tensor* tensor : {&part.weight, &part.bias, &part.absent, &part.cover})
      *tensor = tensor->to(device);
  head.move_to(device);
}

FusionHead make_fusion(const Transformer& teacher, const std::vector<std::string>& devices,
                       const std::vector<std::vector<std::int64_t>>& channels) {
  const ModelConfig& config = teacher.config;
  if (devices.empty() || devices.size() != channels.size())
    throw std::invalid_argument("[fusion] parts: saw " + std::to_string(devices.size()) +
                                " devices and " + std::to_string(channels.size()) +
                                " lists of channels, needs one list for each of at least 1 device");
  if (!config.answers()) throw std::invalid_argument("[fusion] teacher: saw no head, needs one");
  FusionHead head;
  head.head.config = config;
  for (std::size_t p = 0; p < devices.size(); ++p)
    head.parts.push_back(make_part(devices[p], channels[p], config.width));
  for (const Parameter& parameter : head_parameters(config))
    head.head.tensors[parameter.name] = teacher[parameter.name].detach().clone();
  return head;
}

Tensor fuse(const FusionHead& head, const std::vector<Tensor>& features) {
  check_features(head, features);
  Tensor sum, cover;
  for (std::size_t p = 0; p < features.size(); ++p) {
    const FusionHead::Part& part = head.parts[p];
    if (!features[p].defined()) continue;
    add_to(sum, linear(features[p], part.weight, &part.bias));
    add_to(cover, part.cover);
  }
  for (std::size_t p = 0; p < features.size(); ++p)
    if (!features[p].defined()) add_to(sum, head.parts[p].absent);
  return sum.div(cover.clamp_min(1));
}

Tensor answer(const FusionHead& head, const Tensor& fused) { return classify(head.head, fused); }

void save(const FusionHead& head, const std::filesystem::path& folder) {
  nlohmann::json parts = nlohmann::json::array();
  for (const auto& part : head.parts)
    parts.push_back({{"device", part.device},
                     {"channels", part.channels},
                     {"largest_feature", part.largest_feature}});
  const nlohmann::json description = {
      {"format", fusion_format}, {"teacher", config_to_json(head.teacher())}, {"parts", parts}};
  base::StagedFolder staged(folder, "fusion.json");
  write_tensors(head, staged.path() / "model.safetensors");
  base::write_whole(staged.path() / "fusion.json", description.dump(1) + "\n");
  staged.commit();
}

FusionHead load_fusion(const std::filesystem::path& folder) {
  const auto description = base::Reader::json_file(folder / "fusion.json");
  description.expect_format(fusion_format);
  description.allow({"format", "teacher", "parts"});
  FusionHead head;
  head.head.config = config_from_json(description.at("teacher"));
  const std::int64_t width = head.teacher().width;
  const TensorFiles files(folder);
  for (const auto& item : description.at("parts").items()) {
    FusionHead::Part part = read_part(item, width);
    const std::string prefix = "parts." + std::to_string(head.parts.size()) + ".";
    const auto kept = static_cast<std::int64_t>(part.channels.size());
    part.weight = read_checked(files, prefix + "weight", {width, kept}, folder);
    part.bias = read_checked(files, prefix + "bias", {width}, folder);
    part.absent = read_checked(files, prefix + "absent", {width}, folder);
    head.parts.push_back(std::move(part));
  }
  if (head.parts.empty()) throw description.at("parts").error("saw none, needs at least 1");
  for (const Parameter& parameter : head_parameters(head.teacher()))
    head.head.tensors[parameter.name] =
        read_checked(files, parameter.name, parameter.dims(), folder);
  return head;
}

std::vector<std::pair<std::string, Tensor*>> parameters(FusionHead& head) {
  return parameters_of(head);
}

}  // namespace cleave::model
