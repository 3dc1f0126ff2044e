#include "model/config/holding.hpp"

#include <limits>
#include <set>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "model/config/hugging_face.hpp"

namespace cleave::model {
namespace {

constexpr std::int64_t holding_format = 1;
constexpr std::int64_t max_integer = std::numeric_limits<std::int64_t>::max();
constexpr const char* file_name = "holding.json";

}  // namespace

std::vector<std::int64_t> dims_of(const ParameterRange& held, const ModelConfig& model) {
  const auto parameters = parameters_by_name(model);
  const auto found = parameters->find(held.name);
  if (found == parameters->end())
    throw std::invalid_argument("name: saw '" + held.name + "', the model has no such parameter");
  std::vector<std::int64_t> dims = found->second.dims();
  const auto axis = static_cast<std::size_t>(held.axis);
  if (held.axis < 0 || axis >= dims.size())
    throw std::invalid_argument("axis: saw " + std::to_string(held.axis) + ", " + held.name +
                                " has " + std::to_string(dims.size()));
  if (held.range.begin < 0 || held.range.end < held.range.begin || held.range.end > dims[axis])
    throw std::invalid_argument("range: saw " + std::to_string(held.range.begin) + " to " +
                                std::to_string(held.range.end) + ", " + held.name + " has 0 to " +
                                std::to_string(dims[axis]));
  dims[axis] = held.range.size();
  return dims;
}

std::int64_t count_of(const ParameterRange& held, const ModelConfig& model) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims_of(held, model)) count *= dim;
  return count;
}

Holding read_holding(const std::filesystem::path& folder) {
  const base::Reader reader = base::Reader::json_file(folder / file_name);
  reader.expect_format(holding_format);
  reader.allow({"format", "model", "weights"});
  Holding holding;
  holding.model = config_from_json(reader.at("model"));
  std::set<std::string> seen;
  for (const base::Reader& item : reader.at("weights").items()) {
    item.allow({"name", "axis", "begin", "end"});
    ParameterRange held{
        item.at("name").text(),
        item.at("axis").integer(0, max_integer),
        {item.at("begin").integer(0, max_integer), item.at("end").integer(0, max_integer)}};
    try {
      dims_of(held, holding.model);
    } catch (const std::invalid_argument& wrong) {
      throw item.error(wrong.what());
    }
    if (!seen.insert(held.name).second) throw item.error("saw '" + held.name + "' again");
    holding.weights.push_back(std::move(held));
  }
  return holding;
}

void write_holding(const Holding& holding, const std::filesystem::path& folder) {
  nlohmann::json json = {{"format", holding_format},
                         {"model", config_to_json(holding.model)},
                         {"weights", nlohmann::json::array()}};
  for (const ParameterRange& held : holding.weights)
    json["weights"].push_back({{"name", held.name},
                               {"axis", held.axis},
                               {"begin", held.range.begin},
                               {"end", held.range.end}});
  base::write_whole(folder / file_name, json.dump(1) + "\n");
}

}  // namespace cleave::model
