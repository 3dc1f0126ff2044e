#include "decompose/holding.hpp"

#include <map>
#include <string>
#include <utility>

#include <ATen/core/Tensor.h>

#include "decompose/folder.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"

namespace cleave::decompose {

void cut_holding(const std::filesystem::path& teacher,
                 const std::vector<model::ParameterRange>& weights,
                 const std::filesystem::path& out, const base::ProgressCallback& progress) {
  model::Holding holding{model::read_config(teacher), {}};
  const model::TensorFiles files(teacher);
  model::check_tensors(holding.model, files);
  std::map<std::string, const model::ParameterRange*> wanted;
  for (const model::ParameterRange& held : weights) {
    model::dims_of(held, holding.model);
    wanted[held.name] = &held;
  }
  // In the order of the checkpoint, of which each tensor is read once.
  const auto all = model::stored_tensors(holding.model);
  std::vector<model::TensorEntry> entries;
  for (const auto& stored : all)
    for (const auto& parameter : stored.parts)
      if (const auto held = wanted.find(parameter.name); held != wanted.end()) {
        holding.weights.push_back(*held->second);
        entries.push_back({parameter.name, base::Element::f32,
                           model::dims_of(*held->second, holding.model), 0, 0});
      }
  std::filesystem::create_directories(out);
  model::SafetensorsWriter writer(out / "model.safetensors", std::move(entries));
  Steps steps("decompose", static_cast<std::int64_t>(all.size()), progress);
  for (const auto& stored : all) {
    steps.next();
    bool any = false;
    for (const auto& parameter : stored.parts) any = any || wanted.count(parameter.name) != 0;
    if (!any) continue;
    const auto tensors = model::read_stored(holding.model, files, stored);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const auto held = wanted.find(stored.parts[i].name);
      if (held == wanted.end()) continue;
      const at::Tensor some =
          tensors[i]
              .narrow(held->second->axis, held->second->range.begin, held->second->range.size())
              .contiguous();
      writer.write(some.data_ptr<float>(), some.nbytes());
    }
  }
  writer.commit();
  model::write_holding(holding, out);
}

}  // namespace cleave::decompose
