#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/element.hpp"
#include "model/config/config.hpp"

namespace cleave::plan {

/// Shape of a request: what programs are compiled for.
struct RequestShape {
  std::int64_t batch = 1;
  /// N, of texts; images have their model's own.
  std::int64_t tokens = 0;
  /// Of a plan whose texts are generated: tokens that follow the prompt of `tokens`. What is
  /// planned and priced is then one step, half-way through; memory holds prompt and cache. 0: a
  /// request is all there is.
  std::int64_t generate = 0;
  /// The answer is the next token of each text, chosen from so many candidates of each device; 0:
  /// the model's answer.
  std::int64_t best = 0;
  /// The token of the step before, from all logits that the devices kept of it.
  bool from_kept = false;
  /// The texts have tokens already: keys and values of them lie where a step looks for them.
  bool continues = false;
  /// Of a causal language model: it answers for every token, not for the last one alone. Programs
  /// of evaluation; agents are never asked so.
  bool every_token = false;
  bool operator==(const RequestShape& other) const {
    return batch == other.batch && tokens == other.tokens && generate == other.generate &&
           best == other.best && from_kept == other.from_kept && continues == other.continues &&
           every_token == other.every_token;
  }
};
/// Candidates of each device for the next token: as many as samplers usually allow.
constexpr std::int64_t usual_best = 64;

/// What one device computes of one layer: heads of keys and values, each with the `group` of query
/// heads that share it, and columns of the MLP.
struct LayerShare {
  model::Range heads, columns;
  bool operator==(const LayerShare& other) const {
    return heads == other.heads && columns == other.columns;
  }
};

/// What one device does in an exact strategy, in the teacher's own coordinates.
struct Share {
  std::vector<LayerShare> layers;  // of every layer of the teacher
  model::Range vocabulary;         // of a text model's tokens, as it reads and as it answers
  /// Where a strategy divides the rows of a sequence: how many it takes for those of the others.
  std::int64_t rows = 0;
  bool operator==(const Share& other) const {
    return layers == other.layers && vocabulary == other.vocabulary && rows == other.rows;
  }
};
/// All of a model.
Share whole_share(const model::ModelConfig& config);

/// A model cut from the teacher, or the teacher itself.
struct SubModel {
  model::ModelConfig config;
  /// Which teacher layers it keeps, ascending: its layer i is teacher layer layers[i].
  std::vector<std::int64_t> layers;
};

/// What one device of a plan runs: a sub-model, or in an exact strategy of several devices its
/// share of the teacher.
struct PlanPart {
  std::string device;
  std::variant<SubModel, Share> runs;
  /// For reading: share of the teacher's parameters and multiply-adds.
  double parameter_share = 0, compute_share = 0;

  /// Throws std::bad_variant_access where it runs a share.
  const SubModel& sub_model() const { return std::get<SubModel>(runs); }
  SubModel& sub_model() { return std::get<SubModel>(runs); }
  /// Null where it runs a sub-model.
  const Share* share() const { return std::get_if<Share>(&runs); }
  Share* share() { return std::get_if<Share>(&runs); }
};

/// Predicted figures of one device for one request of the planned shape.
struct DevicePrediction {
  std::string device;
  double compute_s = 0;
  double send_s = 0, receive_s = 0;
  /// Peak of the whole process = runtime_bytes + model_bytes (weights, activations, buffers).
  double runtime_bytes = 0, model_bytes = 0;
  double limit_bytes = 0;
  double sent_bytes = 0, received_bytes = 0;
  double energy_j = 0;
};

/// The aggregator's process, apart from an agent on the same device: "aggregator@hub".
std::string aggregator_process(const std::string& device);

struct Prediction {
  double latency_s = 0;
  /// Share of the teacher's importance kept, 0..1: a proxy that ranks, always printed as an
  /// estimate.
  double kept_importance = 0;
  /// Parts in order, then the aggregator ("aggregator@<device>").
  std::vector<DevicePrediction> devices;
  /// All zero for a device of which nothing is predicted.
  DevicePrediction of(const std::string& device) const;
  /// From the critical path: "compute on cam", "link hub -> cam".
  std::string bottleneck;
};

/// A plan that was considered and why it was not taken.
struct Candidate {
  std::string what;
  double latency_s = 0;
  std::string reason;
};

/// How n rows of partial sums become whole ones on P devices. star: the first device adds up all of
/// them and sends them back, n rows from each other one and (P−1)·n from it. ring, direct: each
/// adds up some of them and sends 2(P−1)/P·n; in a ring from neighbour to neighbour in 2(P−1)
/// steps, else straight to who adds, and to everybody, in two.
enum class AllReduce { ring, star, direct };
std::string_view name_of(AllReduce all_reduce);
const std::vector<AllReduce>& all_reduces();

/// Of all rows each device computes keys and values itself, which costs (P−1)·2·N·D² multiply-adds
/// a block more in all; or it gets those of the others, twice as many numbers (2/G where G queries
/// share them).
enum class Gathered { rows, keys_and_values };
std::string_view name_of(Gathered gathered);

/// What Plan::wire may be, f32 first.
const std::vector<base::Element>& wire_formats();
/// Their names.
std::vector<std::string> wire_names();
/// Throws std::invalid_argument that lists the known names.
base::Element wire_named(const std::string& name);

/// What the rows of one device are for the others, where a strategy exchanges less than the rows
/// themselves (PRISM): segments, each of them one row.
struct Segments {
  enum class Content {
    means,     // of consecutive rows
    clusters,  // of rows that are alike
  };
  Content content = Content::means;
  /// Rows that a segment stands for (the compression rate CR = N/(S·P)), in hundredths; or how many
  /// there are of a device's rows, S. Of every layer, or one for each; one of both lists is empty.
  std::vector<std::int64_t> compression = {400};
  std::vector<std::int64_t> count;

  /// S of so many rows in a layer: rows/CR, rounded, at least 1, at most the rows themselves.
  std::int64_t of(std::size_t layer, std::int64_t rows) const;
};
std::string_view name_of(Segments::Content content);

/// The one that cuts sub-models (CoFormer).
std::string usual_strategy();

/// plan.json, format 2: strategy + shares + prediction + losers. Goals: everything an agent needs
/// besides weights.
struct Plan {
  std::string name = "default";
  std::string strategy = usual_strategy();  // a row of the table of strategies
  model::ModelConfig teacher;
  std::string teacher_digest;  // SHA-256 of config.json and weights, or empty before decompose
  RequestShape shape;
  std::vector<PlanPart> parts;  // rank p is parts[p]
  std::string aggregator;       // the device it runs on; rank P
  bool partition = false;       // Σ D_p ≤ D and Σ H_p ≤ H was enforced
  /// How partial sums become whole ones where devices share layers; of fewer rows than devices
  /// always by a star.
  AllReduce all_reduce = AllReduce::ring;
  /// How values travel between agents that share the teacher, one of wire_formats(): partial sums,
  /// gathered rows, a stage's states. Whoever receives casts back, and sums are in what is computed
  /// in; f32 is no cast at all. The request's input and what the aggregator gets travel as they
  /// are.
  base::Element wire = base::Element::f32;
  /// Where devices have rows of the stream and exchange them: products go piece by piece, beside
  /// the transfers; else each waits for all rows.
  bool overlap = false;
  /// What of the others' rows attention needs, where each device has all heads.
  Gathered gathered = Gathered::rows;
  /// Devices with few of the rows attend to the rows themselves, where that takes fewer products
  /// than keys and values of all of them (AttendInputs).
  bool reordered = false;
  std::optional<Segments> segments;  // where the strategy exchanges them
  Prediction prediction;
  std::vector<Candidate> candidates;
  std::uint64_t seed = 1;
};

/// What is predicted of one device for a request, in seconds.
struct Expectation {
  double compute_s = 0, whole_s = 0;
};
/// Of a request of `batch` images, or texts of `tokens`: what the plan predicts of the planned
/// request, scaled. What a plan of generated texts predicts is a step of one token; prompts bring
/// many. Zero where nothing is predicted.
Expectation expectation(const Plan& plan, const std::string& device, std::int64_t batch,
                        std::int64_t tokens);

/// By rank.
std::vector<std::string> devices_of(const Plan& plan);
/// Its parts are shares of the teacher.
bool is_shared(const Plan& plan);

/// The rank of a device's part, where it has one.
std::optional<std::size_t> rank_of(const Plan& plan, const std::string& device);

/// The plan as agents are told it: without the candidates and the programs.
std::string text_of(const Plan& plan);

/// SHA-256 of all that its programs follow from: what is predicted and considered aside.
std::string digest_of(const Plan& plan);

/// A model whole on one device.
Plan whole_plan(const model::ModelConfig& config, const std::string& device);

/// Throws std::runtime_error with file and field, also where parts contradict the teacher
/// ("[plan.json] parts[1].config.layers[2].heads: keeps 4, the teacher has 3").
Plan read_plan(const std::filesystem::path& path);
Plan plan_from_json(const std::string& text, const std::string& name);
void write_plan(const Plan& plan, const std::filesystem::path& path);
nlohmann::json to_json(const Plan& plan);
/// Throws std::invalid_argument.
void check(const Plan& plan);

}  // namespace cleave::plan
