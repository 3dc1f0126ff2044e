#include "model/fusion.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::model {
namespace {

constexpr std::int64_t fusion_format = 3, channel_format = 2;

using Present = std::vector<bool>;

bool is_shared(std::size_t parts) { return parts > most_parts_with_subsets; }

std::size_t number_of_subsets(std::size_t parts) { return (std::size_t{1} << parts) - 1; }

Present present_in(std::size_t subset, std::size_t parts) {
  Present present(parts);
  for (std::size_t p = 0; p < parts; ++p) present[p] = (((subset + 1) >> p) & 1) != 0;
  return present;
}

std::size_t index_of(const Present& present) {
  std::size_t mask = 0;
  for (std::size_t p = 0; p < present.size(); ++p) mask |= std::size_t{present[p]} << p;
  return mask - 1;
}

Present present_among(const std::vector<Tensor>& features) {
  Present present;
  for (const Tensor& feature : features) present.push_back(feature.defined());
  return present;
}

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

void check_basis(const FusionHead::Part& part, std::int64_t width) {
  const bool fits = part.basis.defined() && part.basis.dim() == 2 && part.basis.size(0) == width &&
                    part.basis.size(1) > 0;
  if (!fits)
    throw std::invalid_argument("[fusion] basis of '" + part.device + "': needs " +
                                std::to_string(width) + " rows, the teacher's width");
}

/// The teacher's channels that a basis reaches. -> [D], 0 or 1.
Tensor reach_of(const FusionHead::Part& part) { return part.basis.ne(0).any(1).to(at::kFloat); }

/// Before anything is fitted: each channel averaged over those of `present` that reach it.
FusionHead::Subset averaged(const std::vector<FusionHead::Part>& parts, const Present& present) {
  std::vector<Tensor> columns;
  Tensor reach, origin;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    if (!present[p]) continue;
    columns.push_back(parts[p].basis);
    const Tensor here = reach_of(parts[p]);
    reach = reach.defined() ? reach + here : here;
    origin = origin.defined() ? origin + parts[p].origin : parts[p].origin;
  }
  const Tensor count = reach.clamp_min(1);
  return {at::cat(columns, 1).div_(count.unsqueeze(1)), origin / count};
}

/// Throws unless features fit the parts and at least one is there.
void check_features(const FusionHead& head, const std::vector<Tensor>& features) {
  if (features.size() != head.parts.size())
    throw std::invalid_argument("[fuse] features: saw " + std::to_string(features.size()) +
                                ", needs one for each of " + std::to_string(head.parts.size()) +
                                " parts, undefined where absent");
  std::int64_t batch = -1, tokens = -1;  // as the first part has them
  for (std::size_t p = 0; p < features.size(); ++p) {
    if (!features[p].defined()) continue;
    expect_dims(features[p], {batch, tokens, head.parts[p].width},
                "feature of '" + head.parts[p].device + "'");
    batch = features[p].size(0);
    tokens = features[p].size(1);
  }
  if (batch < 0)
    throw std::invalid_argument("[fuse] features: saw 0 of " + std::to_string(features.size()) +
                                " present, needs at least 1");
}

void add_to(Tensor& sum, const Tensor& term) { sum = sum.defined() ? sum.add(term) : term; }

Tensor fuse_shared(const FusionHead& head, const std::vector<Tensor>& features) {
  Tensor sum, cover;
  for (std::size_t p = 0; p < features.size(); ++p) {
    const FusionHead::Shared& column = head.shared[p];
    if (!features[p].defined()) continue;
    add_to(sum, linear(features[p], column.weight, &column.bias));
    add_to(cover, column.cover);
  }
  for (std::size_t p = 0; p < features.size(); ++p)
    if (!features[p].defined()) add_to(sum, head.shared[p].absent);
  return sum.div(cover.clamp_min(1));
}

/// Names and tensors, const where the head is.
template <typename Head>
auto parameters_of(Head& head) {
  std::vector<std::pair<std::string, decltype(&head.parts.front().basis)>> found;
  for (std::size_t s = 0; s < head.subsets.size(); ++s) {
    const std::string prefix = subset_name(present_in(s, head.parts.size()));
    found.emplace_back(prefix + "weight", &head.subsets[s].weight);
    found.emplace_back(prefix + "bias", &head.subsets[s].bias);
  }
  for (std::size_t p = 0; p < head.shared.size(); ++p) {
    const std::string prefix = shared_name(p);
    found.emplace_back(prefix + "weight", &head.shared[p].weight);
    found.emplace_back(prefix + "bias", &head.shared[p].bias);
    found.emplace_back(prefix + "absent", &head.shared[p].absent);
  }
  for (auto& [name, tensor] : head.head.tensors) found.emplace_back(name, &tensor);
  return found;
}

std::string part_name(std::size_t p) { return "parts." + std::to_string(p) + "."; }

void write_tensors(const FusionHead& head, const std::filesystem::path& path) {
  auto tensors = parameters_of(head);
  for (std::size_t p = 0; p < head.parts.size(); ++p) {
    tensors.emplace_back(part_name(p) + "basis", &head.parts[p].basis);
    tensors.emplace_back(part_name(p) + "origin", &head.parts[p].origin);
  }
  for (std::size_t p = 0; p < head.shared.size(); ++p)
    tensors.emplace_back(shared_name(p) + "cover", &head.shared[p].cover);
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

// ---- reading ----

/// The tensors of one folder, as fp32 where their shape is the needed one.
class Checked {
 public:
  explicit Checked(const std::filesystem::path& folder) : folder_(folder), files_(folder) {}
  Tensor read(const std::string& name, const std::vector<std::int64_t>& dims) const {
    const TensorEntry& entry = files_.at(name);
    const Tensor tensor = read_tensor(files_, entry);
    files_.release(entry);  // else the file's pages would count beside the copies
    try {
      expect_dims(tensor, dims, (folder_ / "model.safetensors").string() + ": " + name);
    } catch (const std::invalid_argument& wrong) {
      throw std::runtime_error(wrong.what());
    }
    return tensor;
  }

 private:
  std::filesystem::path folder_;
  TensorFiles files_;
};

/// Of format 2, which kept channels alone: A_p, b_p, m_p and c_p of each part.
FusionHead::Shared read_column(const Checked& files, const std::string& prefix, std::int64_t width,
                               std::int64_t part_width) {
  FusionHead::Shared column;
  column.weight = files.read(prefix + "weight", {width, part_width});
  column.bias = files.read(prefix + "bias", {width});
  column.absent = files.read(prefix + "absent", {width});
  return column;
}

/// The head that one set of parts has in a head which all share: the same answers.
FusionHead::Subset subset_of(const std::vector<FusionHead::Shared>& shared,
                             const Present& present) {
  std::vector<Tensor> columns;
  Tensor bias, cover;
  for (std::size_t p = 0; p < shared.size(); ++p) {
    add_to(bias, present[p] ? shared[p].bias : shared[p].absent);
    if (!present[p]) continue;
    columns.push_back(shared[p].weight);
    add_to(cover, shared[p].cover);
  }
  const Tensor count = cover.clamp_min(1);
  return {at::cat(columns, 1).div_(count.unsqueeze(1)), bias / count};
}

std::vector<std::int64_t> read_channels(const base::Reader& reader, std::int64_t width,
                                        const std::string& device) {
  std::vector<std::int64_t> channels;
  for (const auto& item : reader.at("channels").items())
    channels.push_back(item.integer(0, width - 1));
  try {
    check_channels(channels, width, device);
  } catch (const std::invalid_argument& wrong) {
    throw reader.error(wrong.what());
  }
  return channels;
}

void read_parts_of_channels(const base::Reader& parts, const Checked& files, FusionHead& head) {
  const std::int64_t width = head.teacher().width;
  std::vector<FusionHead::Shared> shared;
  for (const auto& item : parts.items()) {
    FusionHead::Part part;
    part.device = item.at("device").text();
    const auto channels = read_channels(item, width, part.device);
    part.width = static_cast<std::int64_t>(channels.size());
    part.largest_feature = item.number("largest_feature", 0, 1e30, 0);
    part.basis = channel_basis(channels, width, part.device);
    part.origin = at::zeros({width}, at::kFloat);
    shared.push_back(read_column(files, part_name(head.parts.size()), width, part.width));
    shared.back().cover = reach_of(part);
    head.parts.push_back(std::move(part));
  }
  if (is_shared(shared.size())) {
    head.shared = std::move(shared);
    return;
  }
  for (std::size_t s = 0; s < number_of_subsets(shared.size()); ++s)
    head.subsets.push_back(subset_of(shared, present_in(s, shared.size())));
}

void read_parts(const base::Reader& parts, const Checked& files, bool with_basis,
                FusionHead& head) {
  const std::int64_t width = head.teacher().width;
  for (const auto& item : parts.items()) {
    FusionHead::Part part;
    const std::string prefix = part_name(head.parts.size());
    item.allow({"device", "width", "largest_feature"});
    part.device = item.at("device").text();
    part.width = item.at("width").integer(1, 1 << 24);
    part.largest_feature = item.number("largest_feature", 0, 1e30, 0);
    if (with_basis) {
      part.basis = files.read(prefix + "basis", {width, part.width});
      part.origin = files.read(prefix + "origin", {width});
    }
    head.parts.push_back(std::move(part));
  }
  const std::size_t count = head.parts.size();
  if (is_shared(count)) {
    for (std::size_t p = 0; p < count; ++p) {
      head.shared.push_back(read_column(files, shared_name(p), width, head.parts[p].width));
      head.shared.back().cover = files.read(shared_name(p) + "cover", {width});
    }
    return;
  }
  for (std::size_t s = 0; s < number_of_subsets(count); ++s) {
    const Present present = present_in(s, count);
    std::int64_t columns = 0;
    for (std::size_t p = 0; p < count; ++p) columns += present[p] ? head.parts[p].width : 0;
    head.subsets.push_back({files.read(subset_name(present) + "weight", {width, columns}),
                            files.read(subset_name(present) + "bias", {width})});
  }
}

}  // namespace

FusionHead::Subset& FusionHead::subset(const std::vector<bool>& present) {
  return subsets.at(index_of(present));
}

void FusionHead::move_to(at::Device device) {
  const auto move = [device](Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.to(device);
  };
  for (Part& part : parts)
    for (Tensor* tensor : {&part.basis, &part.origin}) move(*tensor);
  for (Subset& subset : subsets)
    for (Tensor* tensor : {&subset.weight, &subset.bias}) move(*tensor);
  for (Shared& column : shared)
    for (Tensor* tensor : {&column.weight, &column.bias, &column.absent, &column.cover})
      move(*tensor);
  head.move_to(device);
}

Tensor channel_basis(const std::vector<std::int64_t>& channels, std::int64_t width,
                     const std::string& device) {
  check_channels(channels, width, device);
  const auto kept = static_cast<std::int64_t>(channels.size());
  Tensor basis = at::zeros({width, kept}, at::kFloat);
  for (std::int64_t i = 0; i < kept; ++i)
    basis.data_ptr<float>()[channels[static_cast<std::size_t>(i)] * kept + i] = 1;
  return basis;
}

FusionHead make_fusion(const Transformer& teacher, std::vector<FusionHead::Part> parts) {
  const ModelConfig& config = teacher.config;
  if (parts.empty()) throw std::invalid_argument("[fusion] parts: saw none, needs at least 1");
  if (!config.answers()) throw std::invalid_argument("[fusion] teacher: saw no head, needs one");
  FusionHead head;
  head.head.config = config;
  for (FusionHead::Part& part : parts) {
    check_basis(part, config.width);
    part.width = part.basis.size(1);
    if (!part.origin.defined()) part.origin = at::zeros({config.width}, at::kFloat);
  }
  if (is_shared(parts.size())) {
    for (const FusionHead::Part& part : parts)
      head.shared.push_back({part.basis.clone(), part.origin.clone(),
                             at::zeros({config.width}, at::kFloat), reach_of(part)});
  } else {
    for (std::size_t s = 0; s < number_of_subsets(parts.size()); ++s)
      head.subsets.push_back(averaged(parts, present_in(s, parts.size())));
  }
  head.parts = std::move(parts);
  for (const Parameter& parameter : head_parameters(config))
    head.head.tensors[parameter.name] = teacher[parameter.name].detach().clone();
  return head;
}

FusionHead make_fusion(const Transformer& teacher, const std::vector<std::string>& devices,
                       const std::vector<std::vector<std::int64_t>>& channels) {
  std::vector<FusionHead::Part> parts(devices.size());
  for (std::size_t p = 0; p < devices.size(); ++p) {
    parts[p].device = devices[p];
    parts[p].basis = channel_basis(channels.at(p), teacher.config.width, devices[p]);
  }
  return make_fusion(teacher, std::move(parts));
}

Tensor mapped_back(const FusionHead::Part& part, const Tensor& features) {
  return linear(features, part.basis, &part.origin);
}

Tensor fuse(const FusionHead& head, const std::vector<Tensor>& features) {
  check_features(head, features);
  if (!head.shared.empty()) return fuse_shared(head, features);
  std::vector<Tensor> there;
  for (const Tensor& feature : features)
    if (feature.defined()) there.push_back(feature);
  const FusionHead::Subset& subset = head.subsets[index_of(present_among(features))];
  return linear(there.size() == 1 ? there.front() : at::cat(there, -1), subset.weight,
                &subset.bias);
}

Tensor answer(const FusionHead& head, const Tensor& fused) { return classify(head.head, fused); }

void save(const FusionHead& head, const std::filesystem::path& folder) {
  nlohmann::json parts = nlohmann::json::array();
  for (const auto& part : head.parts)
    parts.push_back({{"device", part.device},
                     {"width", part.width},
                     {"largest_feature", part.largest_feature}});
  const nlohmann::json description = {
      {"format", fusion_format}, {"teacher", config_to_json(head.teacher())}, {"parts", parts}};
  base::StagedFolder staged(folder, "fusion.json");
  write_tensors(head, staged.path() / "model.safetensors");
  base::write_whole(staged.path() / "fusion.json", description.dump(1) + "\n");
  staged.commit();
}

FusionHead load_fusion(const std::filesystem::path& folder, bool with_basis) {
  const auto description = base::Reader::json_file(folder / "fusion.json");
  const bool of_channels =
      description.expect_format(fusion_format, channel_format) == channel_format;
  description.allow({"format", "teacher", "parts"});
  FusionHead head;
  head.head.config = config_from_json(description.at("teacher"));
  const Checked files(folder);
  const auto parts = description.at("parts");
  if (of_channels)
    read_parts_of_channels(parts, files, head);
  else
    read_parts(parts, files, with_basis, head);
  if (head.parts.empty()) throw parts.error("saw none, needs at least 1");
  for (const Parameter& parameter : head_parameters(head.teacher()))
    head.head.tensors[parameter.name] = files.read(parameter.name, parameter.dims());
  return head;
}

std::vector<std::pair<std::string, Tensor*>> parameters(FusionHead& head) {
  return parameters_of(head);
}

std::string subset_name(const std::vector<bool>& present) {
  std::string ranks;
  for (std::size_t p = 0; p < present.size(); ++p)
    if (present[p]) ranks += (ranks.empty() ? "" : "+") + std::to_string(p);
  return "subsets." + ranks + ".";
}

std::string shared_name(std::size_t part) { return "shared." + std::to_string(part) + "."; }

}  // namespace cleave::model
