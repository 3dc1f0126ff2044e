#include "optimizer/plan/profile.hpp"

#include <limits>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "optimizer/plan/names.hpp"

namespace cleave::plan {
namespace {

constexpr std::int64_t profile_format = 2;
constexpr double any_number = std::numeric_limits<double>::max();
constexpr std::int64_t max_dimension = std::int64_t{1} << 40;

KernelKind kind_at(int index) { return static_cast<KernelKind>(index); }

KernelKind read_kind(const base::Reader& reader) {
  const std::string name =
      reader.one_of({"matmul", "attention", "norm", "activation", "elementwise"});
  for (int i = 0; i < num_kernel_kinds; ++i)
    if (name_of(kind_at(i)) == name) return kind_at(i);
  throw reader.error("saw a kind without a number");
}

KernelCost read_kernel_cost(const base::Reader& reader) {
  reader.allow({"overhead_s", "flops_per_s", "bytes_per_s"});
  KernelCost cost;
  cost.overhead_s = reader.at("overhead_s").number(0, any_number);
  cost.flops_per_s = reader.at("flops_per_s").number(0, any_number);
  cost.bytes_per_s = reader.at("bytes_per_s").number(0, any_number);
  return cost;
}

CostModel read_cost(const base::Reader& reader) {
  reader.allow({"matmul", "attention", "norm", "activation", "elementwise", "instruction_s",
                "wake_s", "message_s", "message_s_per_byte"});
  CostModel cost;
  for (int i = 0; i < num_kernel_kinds; ++i)
    cost.kernels[static_cast<std::size_t>(i)] =
        read_kernel_cost(reader.at(std::string(name_of(kind_at(i)))));
  cost.instruction_s = reader.at("instruction_s").number(0, any_number);
  cost.wake_s = reader.number("wake_s", 0, any_number, 0);
  cost.message_s = reader.at("message_s").number(0, any_number);
  cost.message_s_per_byte = reader.at("message_s_per_byte").number(0, any_number);
  return cost;
}

Sample read_sample(const base::Reader& reader) {
  reader.allow({"kind", "rows", "inner", "columns", "seconds", "held_out"});
  Sample sample;
  sample.kernel.kind = read_kind(reader.at("kind"));
  sample.kernel.rows = reader.at("rows").integer(0, max_dimension);
  sample.kernel.inner = reader.at("inner").integer(0, max_dimension);
  sample.kernel.columns = reader.at("columns").integer(0, max_dimension);
  sample.seconds = reader.at("seconds").number(0, any_number);
  sample.held_out = reader.boolean("held_out", false);
  return sample;
}

Profile read(const base::Reader& reader) {
  reader.expect_format(profile_format, "measure it again with 'cleave profile'");
  reader.allow({"format", "machine", "weight_format", "runtime_bytes", "cost", "median_error",
                "p90_error", "samples"});
  reader.at("weight_format").one_of({std::string(weight_format_f32)});
  Profile profile;
  profile.machine = reader.at("machine").text();
  profile.runtime_bytes = reader.at("runtime_bytes").number(0, any_number);
  profile.cost = read_cost(reader.at("cost"));
  profile.median_error = reader.number("median_error", 0, any_number, 0);
  profile.p90_error = reader.number("p90_error", 0, any_number, 0);
  if (const auto samples = reader.find("samples"))
    for (const base::Reader& sample : samples->items())
      profile.samples.push_back(read_sample(sample));
  return profile;
}

nlohmann::json cost_to_json(const CostModel& cost) {
  nlohmann::json json;
  for (int i = 0; i < num_kernel_kinds; ++i) {
    const KernelCost& kernel = cost.kernels[static_cast<std::size_t>(i)];
    json[std::string(name_of(kind_at(i)))] = {{"overhead_s", kernel.overhead_s},
                                              {"flops_per_s", kernel.flops_per_s},
                                              {"bytes_per_s", kernel.bytes_per_s}};
  }
  json["instruction_s"] = cost.instruction_s;
  json["wake_s"] = cost.wake_s;
  json["message_s"] = cost.message_s;
  json["message_s_per_byte"] = cost.message_s_per_byte;
  return json;
}

nlohmann::json sample_to_json(const Sample& sample) {
  return {{"kind", name_of(sample.kernel.kind)}, {"rows", sample.kernel.rows},
          {"inner", sample.kernel.inner},        {"columns", sample.kernel.columns},
          {"seconds", sample.seconds},           {"held_out", sample.held_out}};
}

double term(double amount, double rate) { return rate > 0 ? amount / rate : 0; }

}  // namespace

double CostModel::seconds(const Kernel& kernel) const {
  const KernelCost& cost = kernels[static_cast<std::size_t>(kernel.kind)];
  return cost.overhead_s + term(kernel.flops(), cost.flops_per_s) +
         term(kernel.bytes(), cost.bytes_per_s);
}

double CostModel::seconds(const std::vector<Kernel>& all) const {
  double sum = 0;
  for (const Kernel& kernel : all) sum += seconds(kernel);
  return sum;
}

Profile read_profile(const std::filesystem::path& path) {
  return read(base::Reader::json_file(path));
}

Profile profile_from_json(const std::string& text, const std::string& name) {
  return read(base::Reader::json_text(text, name));
}

void write_profile(const Profile& profile, const std::filesystem::path& path) {
  base::write_whole(path, to_json(profile).dump(1) + "\n");
}

nlohmann::json to_json(const Profile& profile) {
  nlohmann::json json = {
      {"format", profile_format},           {"machine", profile.machine},
      {"weight_format", weight_format_f32}, {"runtime_bytes", profile.runtime_bytes},
      {"cost", cost_to_json(profile.cost)}, {"median_error", profile.median_error},
      {"p90_error", profile.p90_error},     {"samples", nlohmann::json::array()}};
  for (const Sample& sample : profile.samples) json["samples"].push_back(sample_to_json(sample));
  return json;
}

}  // namespace cleave::plan
