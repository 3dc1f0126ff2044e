#include "optimizer/plan/plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "base/reader.hpp"
#include "base/text.hpp"
#include "model/config/hugging_face.hpp"
#include "optimizer/plan/names.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::plan {
namespace {

constexpr std::int64_t plan_format = 2;
constexpr std::size_t max_parts = 256;
constexpr std::int64_t max_share_rows =
    1 << 20;  // products with rows of a sequence stay far from overflow
constexpr std::int64_t max_integer = std::numeric_limits<std::int64_t>::max();
constexpr double any_number = std::numeric_limits<double>::max();

std::vector<std::int64_t> all_layers(const model::ModelConfig& config) {
  std::vector<std::int64_t> layers(config.layers.size());
  std::iota(layers.begin(), layers.end(), 0);
  return layers;
}

// --- checks ---

[[noreturn]] void refuse(const std::string& where, const std::string& saw,
                         const std::string& needs) {
  throw std::invalid_argument("[check] plan." + where + ": saw " + saw + ", needs " + needs);
}

/// What a part keeps must be there to keep.
void expect_kept(const std::string& where, std::int64_t kept, std::int64_t there) {
  if (kept <= there) return;
  throw std::invalid_argument("[check] plan." + where + ": keeps " + std::to_string(kept) +
                              ", the teacher has " + std::to_string(there));
}

void expect_same(const std::string& where, std::int64_t saw, std::int64_t teacher) {
  if (saw != teacher)
    refuse(where, std::to_string(saw), std::to_string(teacher) + " as the teacher has");
}

void check_layers(const SubModel& part, const model::ModelConfig& teacher,
                  const std::string& where) {
  if (part.layers.size() != part.config.layers.size())
    refuse(where + ".layers", std::to_string(part.layers.size()) + " numbers",
           "one for each of the part's " + std::to_string(part.config.layers.size()) + " layers");
  std::int64_t before = -1;
  for (std::size_t i = 0; i < part.layers.size(); ++i) {
    const std::int64_t layer = part.layers[i];
    if (layer <= before || layer >= teacher.num_layers())
      refuse(where + ".layers[" + std::to_string(i) + "]", std::to_string(layer),
             "ascending teacher layers 0.." + std::to_string(teacher.num_layers() - 1));
    const model::LayerShape& there = teacher.layers[static_cast<std::size_t>(layer)];
    const std::string field = where + ".config.layers[" + std::to_string(i) + "]";
    expect_kept(field + ".heads", part.config.layers[i].heads, there.heads);
    expect_kept(field + ".mlp_width", part.config.layers[i].mlp_width, there.mlp_width);
    before = layer;
  }
}

/// What cutting never changes.
void check_likeness(const model::ModelConfig& config, const model::ModelConfig& teacher,
                    const std::string& where) {
  expect_same(where + ".head_width", config.head_width, teacher.head_width);
  expect_same(where + ".image_height", config.image_height, teacher.image_height);
  expect_same(where + ".image_width", config.image_width, teacher.image_width);
  expect_same(where + ".patch", config.patch, teacher.patch);
  expect_same(where + ".channels", config.channels, teacher.channels);
  expect_same(where + ".summary_tokens", config.summary_tokens, teacher.summary_tokens);
  if (config.classes != 0) expect_same(where + ".classes", config.classes, teacher.classes);
  if (config.family != teacher.family)
    refuse(where + ".family", "'" + std::string(model::name_of(config.family)) + "'",
           "'" + std::string(model::name_of(teacher.family)) + "' as the teacher is");
  expect_same(where + ".group", config.group, teacher.group);
  expect_same(where + ".vocabulary", config.vocabulary, teacher.vocabulary);
  expect_same(where + ".context", config.context, teacher.context);
  if (config.activation != teacher.activation || config.qkv_bias != teacher.qkv_bias ||
      config.norm_placement != teacher.norm_placement || config.norm_kind != teacher.norm_kind ||
      config.gated != teacher.gated || config.causal != teacher.causal ||
      config.task != teacher.task || config.pooling != teacher.pooling ||
      config.rotary_base != teacher.rotary_base ||
      !(config.rotary_scaling == teacher.rotary_scaling) || config.window != teacher.window ||
      config.position_offset != teacher.position_offset ||
      config.output_bias != teacher.output_bias || config.mlp_bias != teacher.mlp_bias)
    refuse(where, "another activation, bias, norm, task or kind of positions", "the teacher's");
}

void check_config(const model::ModelConfig& config, const std::string& where) {
  try {
    config.check();
  } catch (const std::invalid_argument& wrong) {
    throw std::invalid_argument("[check] plan." + where + ": " + wrong.what());
  }
}

void check_range(const model::Range& range, std::int64_t units, const std::string& where) {
  if (range.begin < 0 || range.end < range.begin || range.end > units)
    refuse(where, std::to_string(range.begin) + ":" + std::to_string(range.end),
           "a range within 0:" + std::to_string(units) + " of the teacher");
}

/// Ranges of what the teacher has.
void check_share(const Share& share, const model::ModelConfig& teacher, const std::string& where) {
  if (share.layers.size() != teacher.layers.size())
    refuse(where + ".layers", std::to_string(share.layers.size()),
           "one for each of the teacher's " + std::to_string(teacher.layers.size()) + " layers");
  for (std::size_t i = 0; i < share.layers.size(); ++i) {
    const std::string field = where + ".layers[" + std::to_string(i) + "].";
    check_range(share.layers[i].heads, teacher.layers[i].heads / teacher.group, field + "heads");
    check_range(share.layers[i].columns, teacher.layers[i].mlp_width, field + "columns");
  }
  check_range(share.vocabulary, teacher.vocabulary, where + ".vocabulary");
}

void check_part(const PlanPart& part, const model::ModelConfig& teacher, const std::string& where) {
  if (part.share()) return check_share(*part.share(), teacher, where + ".share");
  const SubModel& model = part.sub_model();
  check_config(model.config, where + ".config");
  check_likeness(model.config, teacher, where + ".config");
  expect_kept(where + ".config.width", model.config.width, teacher.width);
  check_layers(model, teacher, where);
}

void check_names(const Plan& plan) {
  if (!is_name(plan.name)) refuse("name", shown(plan.name), std::string(name_needs));
  if (!is_name(plan.aggregator))
    refuse("aggregator", shown(plan.aggregator), "a device: " + std::string(name_needs));
  std::set<std::string> seen;
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const std::string where = "parts[" + std::to_string(p) + "].device";
    const std::string& device = plan.parts[p].device;
    if (!is_name(device)) refuse(where, shown(device), std::string(name_needs));
    if (!seen.insert(device).second)
      refuse(where, shown(device) + " again", "another device for each part");
  }
}

/// Σ D_p ≤ D, and Σ H_p ≤ H in each of the teacher's layers.
void check_partition(const Plan& plan) {
  std::int64_t width = 0;
  std::vector<std::int64_t> heads(plan.teacher.layers.size(), 0);
  for (const PlanPart& part : plan.parts) {
    if (part.share()) continue;
    const SubModel& model = part.sub_model();
    width += model.config.width;
    for (std::size_t i = 0; i < model.layers.size(); ++i)
      heads[static_cast<std::size_t>(model.layers[i])] += model.config.layers[i].heads;
  }
  if (width > plan.teacher.width)
    refuse("partition", "widths that sum to " + std::to_string(width),
           "at most " + std::to_string(plan.teacher.width));
  for (std::size_t layer = 0; layer < heads.size(); ++layer)
    if (heads[layer] > plan.teacher.layers[layer].heads)
      refuse("partition", std::to_string(heads[layer]) + " heads of layer " + std::to_string(layer),
             "at most " + std::to_string(plan.teacher.layers[layer].heads));
}

/// Programs are compiled of the planned shape too.
void check_shape(const Plan& plan) {
  if (!plan.teacher.is_text()) return;
  const std::int64_t context = plan.teacher.context;
  const std::int64_t least = plan.shape.generate > 0 ? 1 : 0;
  const std::string up_to = std::to_string(context) + ", " + plan.teacher.context_name();
  if (plan.shape.tokens < least || plan.shape.tokens > context)
    refuse("shape.tokens", std::to_string(plan.shape.tokens), std::to_string(least) + ".." + up_to);
  if (plan.shape.generate < 0 || plan.shape.generate > context - plan.shape.tokens)
    refuse("shape.generate", std::to_string(plan.shape.generate),
           "at most " + std::to_string(context - plan.shape.tokens) + " behind " +
               std::to_string(plan.shape.tokens) + " tokens of " + up_to);
}

/// What says how rows are exchanged, where none are, and what is computed of them.
void check_exchange(const Plan& plan, const Strategy& strategy) {
  const bool exchanges_rows =
      !strategy.has_segments &&
      std::any_of(plan.parts.begin(), plan.parts.end(), [](const auto& part) {
        return part.share() != nullptr && part.share()->rows > 0;
      });
  if (plan.overlap && !exchanges_rows)
    refuse("overlap", "true", "false: devices exchange no rows here");
  if (plan.reordered && !strategy.reorders)
    refuse("reordered", "true", "false: the strategy '" + plan.strategy + "' has keys and values");
  if (plan.reordered && !reorders(plan.teacher))
    refuse("reordered", "true",
           plan.teacher.causal ? "false: what continues a text attends to its keys and values"
                               : "false: keys are turned by their positions");
  if (plan.gathered == Gathered::rows) return;
  const Share all = whole_share(plan.teacher);
  const bool have_all_heads =
      exchanges_rows && std::all_of(plan.parts.begin(), plan.parts.end(), [&](const auto& part) {
        return std::equal(
            all.layers.begin(), all.layers.end(), part.share()->layers.begin(),
            [](const LayerShare& a, const LayerShare& b) { return a.heads == b.heads; });
      });
  if (!have_all_heads)
    refuse(
        "gathered", "'" + std::string(name_of(plan.gathered)) + "'",
        "'" + std::string(name_of(Gathered::rows)) + "': not each device has rows and all heads");
}

void check_wire(const Plan& plan) {
  const auto& formats = wire_formats();
  if (std::find(formats.begin(), formats.end(), plan.wire) == formats.end())
    refuse("wire", std::string(base::name_of(plan.wire)), "one of " + base::joined(wire_names()));
  if (plan.wire != base::Element::f32 && !is_shared(plan))
    refuse("wire", std::string(base::name_of(plan.wire)),
           "f32: with the strategy '" + plan.strategy + "' devices exchange nothing");
}

/// Of every layer or one for each.
void check_layer_numbers(const std::vector<std::int64_t>& numbers,
                         const model::ModelConfig& teacher, const std::string& where,
                         std::int64_t least, const std::string& needs) {
  if (numbers.size() != 1 && numbers.size() != teacher.layers.size())
    refuse(where, std::to_string(numbers.size()) + " numbers",
           "one, or one for each of the teacher's " + std::to_string(teacher.layers.size()) +
               " layers");
  for (const std::int64_t number : numbers)
    if (number < least || number > 100 * max_share_rows) refuse(where, "one out of range", needs);
}

void check_segments(const Plan& plan, const Strategy& strategy) {
  const std::string name = "the strategy '" + std::string(strategy.name) + "'";
  if (!strategy.has_segments) {
    if (plan.segments) refuse("segments", "some", "none: " + name + " has none");
    return;
  }
  if (!plan.segments)
    refuse("segments", "none", "compression or count: " + name + " exchanges segments");
  const Segments& segments = *plan.segments;
  if (segments.compression.empty() == segments.count.empty())
    refuse("segments", segments.count.empty() ? "neither" : "both", "one of compression and count");
  if (segments.count.empty())
    check_layer_numbers(segments.compression, plan.teacher, "segments.compression", 100,
                        "numbers from 1");
  else
    check_layer_numbers(segments.count, plan.teacher, "segments.count", 1, "numbers from 1");
}

// --- reading ---

/// [begin, end].
model::Range read_range(const base::Reader& reader) {
  const std::vector<base::Reader> ends = reader.items();
  if (ends.size() != 2)
    throw reader.error("saw " + std::to_string(ends.size()) + " numbers, needs begin and end");
  return {ends[0].integer(0, max_integer), ends[1].integer(0, max_integer)};
}

Share read_share(const base::Reader& reader) {
  reader.allow({"layers", "vocabulary", "rows"});
  Share share;
  if (const auto rows = reader.find("rows")) share.rows = rows->integer(0, max_share_rows);
  for (const base::Reader& layer : reader.at("layers").items()) {
    layer.allow({"heads", "columns"});
    share.layers.push_back({read_range(layer.at("heads")), read_range(layer.at("columns"))});
  }
  share.vocabulary = read_range(reader.at("vocabulary"));
  return share;
}

/// One number, or one for each layer.
template <class Read>
std::vector<std::int64_t> read_layer_numbers(const base::Reader& reader, const Read& read) {
  if (!reader.json().is_array()) return {read(reader)};
  std::vector<std::int64_t> numbers;
  for (const base::Reader& number : reader.items()) numbers.push_back(read(number));
  return numbers;
}

/// 4.95 -> 495.
std::int64_t read_hundredths(const base::Reader& reader) {
  const double hundredths = 100 * reader.number(1, max_share_rows);
  if (std::abs(hundredths - std::round(hundredths)) > 1e-6)
    throw reader.error("saw " + reader.json().dump() + ", needs a number of two decimals");
  return std::llround(hundredths);
}

Segments read_segments(const base::Reader& reader) {
  reader.allow({"content", "compression", "count"});
  Segments segments;
  const std::string means(name_of(Segments::Content::means)),
      clusters(name_of(Segments::Content::clusters));
  if (const auto content = reader.find("content"))
    segments.content = content->one_of({means, clusters}) == means ? Segments::Content::means
                                                                   : Segments::Content::clusters;
  segments.compression.clear();
  if (const auto compression = reader.find("compression"))
    segments.compression = read_layer_numbers(*compression, read_hundredths);
  if (const auto count = reader.find("count"))
    segments.count = read_layer_numbers(
        *count, [](const base::Reader& number) { return number.integer(1, max_share_rows); });
  return segments;
}

PlanPart read_part(const base::Reader& reader) {
  if (reader.find("share"))
    reader.allow({"device", "share", "parameter_share", "compute_share"});
  else
    reader.allow({"device", "layers", "config", "parameter_share", "compute_share"});
  PlanPart part;
  part.device = reader.at("device").text();
  if (const auto share = reader.find("share")) {
    part.runs = read_share(*share);
  } else {
    SubModel model{model::config_from_json(reader.at("config")), {}};
    for (const base::Reader& layer : reader.at("layers").items())
      model.layers.push_back(layer.integer(0, max_integer));
    part.runs = std::move(model);
  }
  part.parameter_share = reader.number("parameter_share", 0, any_number, 0);
  part.compute_share = reader.number("compute_share", 0, any_number, 0);
  return part;
}

DevicePrediction read_device_prediction(const base::Reader& reader) {
  reader.allow({"device", "compute_s", "send_s", "receive_s", "runtime_bytes", "model_bytes",
                "limit_bytes", "sent_bytes", "received_bytes", "energy_j"});
  const auto number = [&reader](const char* key) { return reader.number(key, 0, any_number, 0); };
  DevicePrediction prediction;
  prediction.device = reader.at("device").text();
  prediction.compute_s = number("compute_s");
  prediction.send_s = number("send_s");
  prediction.receive_s = number("receive_s");
  prediction.runtime_bytes = number("runtime_bytes");
  prediction.model_bytes = number("model_bytes");
  prediction.limit_bytes = number("limit_bytes");
  prediction.sent_bytes = number("sent_bytes");
  prediction.received_bytes = number("received_bytes");
  prediction.energy_j = number("energy_j");
  return prediction;
}

Prediction read_prediction(const base::Reader& reader) {
  reader.allow({"latency_s", "kept_importance", "bottleneck", "devices"});
  Prediction prediction;
  prediction.latency_s = reader.number("latency_s", 0, any_number, 0);
  prediction.kept_importance = reader.number("kept_importance", 0, any_number, 0);
  prediction.bottleneck = reader.text("bottleneck", "");
  if (const auto devices = reader.find("devices"))
    for (const base::Reader& device : devices->items())
      prediction.devices.push_back(read_device_prediction(device));
  return prediction;
}

Candidate read_candidate(const base::Reader& reader) {
  reader.allow({"what", "latency_s", "reason"});
  return {reader.at("what").text(), reader.number("latency_s", 0, any_number, 0),
          reader.at("reason").text()};
}

Plan read_fields(const base::Reader& reader) {
  reader.expect_format(plan_format, "make the plan again with 'cleave plan'");
  reader.allow({"format",         "name",       "strategy",   "weight_format", "teacher",
                "teacher_digest", "shape",      "parts",      "aggregator",    "partition",
                "all_reduce",     "overlap",    "reordered",  "gathered",      "wire",
                "segments",       "prediction", "candidates", "seed",          "programs"});
  reader.at("weight_format").one_of({std::string(weight_format_f32)});
  Plan plan;
  plan.name = reader.text("name", plan.name);
  plan.strategy = reader.at("strategy").text();
  plan.teacher = model::config_from_json(reader.at("teacher"));
  plan.teacher_digest = reader.text("teacher_digest", "");
  if (const auto shape = reader.find("shape")) {
    shape->allow({"batch", "tokens", "generate"});
    plan.shape.batch = shape->at("batch").integer(1, max_integer);
    plan.shape.tokens = shape->integer("tokens", 0, max_integer, 0);
    plan.shape.generate = shape->integer("generate", 0, max_integer, 0);
  }
  for (const base::Reader& part : reader.at("parts").items()) plan.parts.push_back(read_part(part));
  plan.aggregator = reader.at("aggregator").text();
  plan.partition = reader.boolean("partition", false);
  if (const auto reduced = reader.find("all_reduce")) {
    std::vector<std::string> names;
    for (const AllReduce known : all_reduces()) names.emplace_back(name_of(known));
    const std::string name = reduced->one_of(names);
    for (const AllReduce known : all_reduces())
      if (name_of(known) == name) plan.all_reduce = known;
  }
  if (const auto wire = reader.find("wire")) plan.wire = wire_named(wire->one_of(wire_names()));
  plan.overlap = reader.boolean("overlap", false);
  plan.reordered = reader.boolean("reordered", false);
  if (const auto gathered = reader.find("gathered")) {
    const std::string rows(name_of(Gathered::rows)), both(name_of(Gathered::keys_and_values));
    plan.gathered =
        gathered->one_of({rows, both}) == rows ? Gathered::rows : Gathered::keys_and_values;
  }
  if (const auto segments = reader.find("segments")) plan.segments = read_segments(*segments);
  if (const auto prediction = reader.find("prediction"))
    plan.prediction = read_prediction(*prediction);
  if (const auto candidates = reader.find("candidates"))
    for (const base::Reader& candidate : candidates->items())
      plan.candidates.push_back(read_candidate(candidate));
  plan.seed = static_cast<std::uint64_t>(reader.integer("seed", 0, max_integer, 1));
  return plan;
}

/// A file's fault is told with the file: "[plan.json] parts[1].config.layers[2].heads: keeps 4, the
/// teacher has 3".
Plan read(const base::Reader& reader) {
  Plan plan = read_fields(reader);
  try {
    compile(plan, plan.shape);
  } catch (const std::invalid_argument& wrong) {
    const std::string text = wrong.what(), lead = "[check] plan.";
    throw std::runtime_error(
        "[" + reader.file() + "] " +
        (text.compare(0, lead.size(), lead) == 0 ? text.substr(lead.size()) : text));
  }
  return plan;
}

// --- writing ---

nlohmann::json range_to_json(const model::Range& range) { return {range.begin, range.end}; }

nlohmann::json share_to_json(const Share& share) {
  nlohmann::json json = {{"layers", nlohmann::json::array()},
                         {"vocabulary", range_to_json(share.vocabulary)}};
  if (share.rows > 0) json["rows"] = share.rows;
  for (const LayerShare& layer : share.layers)
    json["layers"].push_back(
        {{"heads", range_to_json(layer.heads)}, {"columns", range_to_json(layer.columns)}});
  return json;
}

nlohmann::json segments_to_json(const Segments& segments) {
  nlohmann::json json = {{"content", name_of(segments.content)}};
  const auto write = [&json](const char* key, const nlohmann::json& numbers) {
    if (!numbers.empty()) json[key] = numbers.size() == 1 ? numbers.front() : numbers;
  };
  std::vector<double> compression;
  for (const std::int64_t hundredths : segments.compression)
    compression.push_back(static_cast<double>(hundredths) / 100);
  write("compression", compression);
  write("count", segments.count);
  return json;
}

nlohmann::json part_to_json(const PlanPart& part) {
  nlohmann::json json = {{"device", part.device},
                         {"parameter_share", part.parameter_share},
                         {"compute_share", part.compute_share}};
  if (part.share()) {
    json["share"] = share_to_json(*part.share());
  } else {
    json["layers"] = part.sub_model().layers;
    json["config"] = model::config_to_json(part.sub_model().config);
  }
  return json;
}

nlohmann::json prediction_to_json(const Prediction& prediction) {
  nlohmann::json json = {{"latency_s", prediction.latency_s},
                         {"kept_importance", prediction.kept_importance},
                         {"bottleneck", prediction.bottleneck},
                         {"devices", nlohmann::json::array()}};
  for (const DevicePrediction& device : prediction.devices)
    json["devices"].push_back({{"device", device.device},
                               {"compute_s", device.compute_s},
                               {"send_s", device.send_s},
                               {"receive_s", device.receive_s},
                               {"runtime_bytes", device.runtime_bytes},
                               {"model_bytes", device.model_bytes},
                               {"limit_bytes", device.limit_bytes},
                               {"sent_bytes", device.sent_bytes},
                               {"received_bytes", device.received_bytes},
                               {"energy_j", device.energy_j}});
  return json;
}

nlohmann::json candidates_to_json(const std::vector<Candidate>& candidates) {
  nlohmann::json json = nlohmann::json::array();
  for (const Candidate& candidate : candidates)
    json.push_back({{"what", candidate.what},
                    {"latency_s", candidate.latency_s},
                    {"reason", candidate.reason}});
  return json;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// The programs of the planned shape, for people; agents compile their own.
nlohmann::json programs_to_json(const Plan& plan) {
  const std::vector<Program> programs = compile(plan, plan.shape);
  nlohmann::json json = {{"digest", programs.front().digest}, {"text", nlohmann::json::array()}};
  for (const Program& program : programs)
    for (const std::string& line : lines_of(to_text(program))) json["text"].push_back(line);
  return json;
}

/// All but the programs.
nlohmann::json plan_to_json(const Plan& plan) {
  nlohmann::json json = {{"format", plan_format},
                         {"name", plan.name},
                         {"strategy", plan.strategy},
                         {"weight_format", weight_format_f32},
                         {"teacher", model::config_to_json(plan.teacher)},
                         {"teacher_digest", plan.teacher_digest},
                         {"shape",
                          {{"batch", plan.shape.batch},
                           {"tokens", plan.shape.tokens},
                           {"generate", plan.shape.generate}}},
                         {"parts", nlohmann::json::array()},
                         {"aggregator", plan.aggregator},
                         {"partition", plan.partition},
                         {"prediction", prediction_to_json(plan.prediction)},
                         {"candidates", candidates_to_json(plan.candidates)},
                         {"seed", plan.seed}};
  for (const PlanPart& part : plan.parts) json["parts"].push_back(part_to_json(part));
  if (is_shared(plan)) json["all_reduce"] = name_of(plan.all_reduce);
  if (plan.wire != base::Element::f32) json["wire"] = base::name_of(plan.wire);
  if (plan.overlap) json["overlap"] = true;
  if (plan.reordered) json["reordered"] = true;
  if (plan.gathered != Gathered::rows) json["gathered"] = name_of(plan.gathered);
  if (plan.segments) json["segments"] = segments_to_json(*plan.segments);
  return json;
}

}  // namespace

Share whole_share(const model::ModelConfig& config) {
  Share share;
  for (const model::LayerShape& layer : config.layers)
    share.layers.push_back({{0, layer.heads / config.group}, {0, layer.mlp_width}});
  share.vocabulary = {0, config.vocabulary};
  return share;
}

std::vector<std::string> devices_of(const Plan& plan) {
  std::vector<std::string> devices;
  for (const PlanPart& part : plan.parts) devices.push_back(part.device);
  return devices;
}

bool is_shared(const Plan& plan) { return plan.parts.front().share() != nullptr; }

std::optional<std::size_t> rank_of(const Plan& plan, const std::string& device) {
  for (std::size_t rank = 0; rank < plan.parts.size(); ++rank)
    if (plan.parts[rank].device == device) return rank;
  return std::nullopt;
}

Expectation expectation(const Plan& plan, const std::string& device, std::int64_t batch,
                        std::int64_t tokens) {
  const DevicePrediction prediction = plan.prediction.of(device);
  const auto times = [](std::int64_t now, std::int64_t planned) {
    return static_cast<double>(now) / static_cast<double>(std::max<std::int64_t>(1, planned));
  };
  double more = times(batch, plan.shape.batch);
  if (plan.teacher.is_text() && tokens > 0)
    more *= std::max(1.0, times(tokens, plan.shape.generate > 0 ? 1 : plan.shape.tokens));
  const double whole_s = prediction.compute_s + prediction.send_s + prediction.receive_s;
  return {prediction.compute_s * more, whole_s * more};
}

std::string text_of(const Plan& plan) {
  nlohmann::json json = plan_to_json(plan);
  json["candidates"] = nlohmann::json::array();
  return json.dump();
}

std::string digest_of(const Plan& plan) {
  nlohmann::json json = plan_to_json(plan);
  for (const char* said : {"prediction", "candidates", "seed"}) json.erase(said);
  for (nlohmann::json& part : json["parts"]) {
    part.erase("parameter_share");
    part.erase("compute_share");
  }
  return base::sha256(json.dump());
}

Plan whole_plan(const model::ModelConfig& config, const std::string& device) {
  Plan plan;
  plan.strategy = strategy_of(PartKind::teacher).name;
  plan.teacher = config;
  plan.aggregator = device;
  PlanPart part;
  part.device = device;
  part.runs = SubModel{config, all_layers(config)};
  part.parameter_share = part.compute_share = 1;
  plan.parts = {std::move(part)};
  return plan;
}

std::string_view name_of(AllReduce all_reduce) {
  switch (all_reduce) {
    case AllReduce::ring:
      return "ring";
    case AllReduce::star:
      return "star";
    case AllReduce::direct:
      return "direct";
  }
  return "?";
}

std::string_view name_of(Gathered gathered) {
  return gathered == Gathered::rows ? "rows" : "keys and values";
}

const std::vector<AllReduce>& all_reduces() {
  static const std::vector<AllReduce> all = {AllReduce::ring, AllReduce::star, AllReduce::direct};
  return all;
}

const std::vector<base::Element>& wire_formats() {
  static const std::vector<base::Element> formats = {base::Element::f32, base::Element::f16,
                                                     base::Element::bf16, base::Element::scaled_i8};
  return formats;
}

std::vector<std::string> wire_names() {
  std::vector<std::string> names;
  for (const base::Element format : wire_formats()) names.emplace_back(base::name_of(format));
  return names;
}

base::Element wire_named(const std::string& name) {
  for (const base::Element format : wire_formats())
    if (base::name_of(format) == name) return format;
  throw std::invalid_argument("[wire] saw " + shown(name) + ", needs one of " +
                              base::joined(wire_names()));
}

std::int64_t Segments::of(std::size_t layer, std::int64_t rows) const {
  const std::vector<std::int64_t>& numbers = count.empty() ? compression : count;
  const std::int64_t number = numbers.at(numbers.size() == 1 ? 0 : layer);
  const std::int64_t wanted = count.empty() ? (200 * rows + number) / (2 * number) : number;
  return std::clamp<std::int64_t>(wanted, 1, rows);
}

std::string_view name_of(Segments::Content content) {
  return content == Segments::Content::means ? "means" : "clusters";
}

std::string aggregator_process(const std::string& device) { return "aggregator@" + device; }

DevicePrediction Prediction::of(const std::string& device) const {
  for (const DevicePrediction& row : devices)
    if (row.device == device) return row;
  return {};
}

void check(const Plan& plan) {
  const Strategy& strategy = find_strategy(plan.strategy);
  check_config(plan.teacher, "teacher");
  if (plan.parts.empty() || plan.parts.size() > max_parts)
    refuse("parts", std::to_string(plan.parts.size()), "1.." + std::to_string(max_parts));
  check_names(plan);
  if (plan.seed > static_cast<std::uint64_t>(max_integer))
    refuse("seed", std::to_string(plan.seed), "at most " + std::to_string(max_integer));
  for (std::size_t p = 0; p < plan.parts.size(); ++p)
    check_part(plan.parts[p], plan.teacher, "parts[" + std::to_string(p) + "]");
  if (plan.partition) check_partition(plan);
  check_shape(plan);
  check_wire(plan);
  check_exchange(plan, strategy);
  check_segments(plan, strategy);
  strategy.check(plan);
}

Plan read_plan(const std::filesystem::path& path) { return read(base::Reader::json_file(path)); }

Plan plan_from_json(const std::string& text, const std::string& name) {
  return read(base::Reader::json_text(text, name));
}

void write_plan(const Plan& plan, const std::filesystem::path& path) {
  base::write_whole(path, to_json(plan).dump(1) + "\n");
}

nlohmann::json to_json(const Plan& plan) {
  nlohmann::json json = plan_to_json(plan);
  json["programs"] = programs_to_json(plan);
  return json;
}

}  // namespace cleave::plan
