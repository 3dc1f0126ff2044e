#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include "infer/aggregator.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tools/options.hpp"

namespace cleave::tools {

/// Where answers come from.
struct Source {
  /// Of a server or a model alone: what it takes, and no prediction.
  plan::Plan plan;
  /// All that --plan names, `plan` first; of a model alone that one.
  std::vector<plan::Plan> plans;
  /// The folder with a text model's tokenizer; empty where it is not known (--via).
  std::filesystem::path tokenizer;
  /// What the weights are that answer; `unknown` of an older server.
  plan::WeightsState weights = plan::WeightsState::unknown;
  /// The folder or the server that has them.
  std::string where;
  /// Loads or joins what answers, once. Throws NobodyAnswers where no agent does.
  std::function<std::unique_ptr<infer::Service>()> open;
};

/// The server of --via, or what is in `folder`: a bundle's agents (its parts in this process with
/// --local), or a model alone, whole. With --via a folder is asked for its tokenizer only, and may
/// be empty. `several`: --plan may name more than one. Throws std::runtime_error where the server
/// of --via runs another model than that of the folder's bundle.
Source source_of(const Args& args, const std::filesystem::path& folder, bool several = false);

/// No agent could be reached, or not one that is needed.
struct NobodyAnswers : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What `work` returns. Where it throws NobodyAnswers and --require-all asks for every device, that
/// is a result: it is said, and the exit code is exit_negative.
int with_every_device(const Args& args, const std::function<int()>& work);

/// `text` where it is valid UTF-8, or repaired with --lossy. Throws std::runtime_error "[prompt 0]
/// byte 1: is no valid UTF-8; --lossy replaces it".
std::string checked_text(const Args& args, const std::string& text, const std::string& where);

/// What somebody asks about, and what an error calls it: "prompt 0", "prompts.txt line 3".
struct GivenText {
  std::string words, where;
};

/// `words`, and the lines of the file that `option` names, all checked; `what` is one of `words`.
std::vector<GivenText> texts_of(const Args& args, const std::vector<std::string>& words,
                                const std::string& what, const std::string& option);

/// Two texts of one question.
struct GivenPair {
  std::string first, second, where;
};

/// Of texts_of(): the first `words` of them two by two, and each line behind them as two texts with
/// a tab between. Throws UsageError, or of a line std::runtime_error "[pairs.tsv line 3] saw 1
/// texts, needs two with a tab between".
std::vector<GivenPair> pairs_of(const std::vector<GivenText>& texts, std::size_t words);
/// The two texts of a line.
GivenPair pair_of(const GivenText& line);

/// Throws UsageError where --via, --local and --without contradict each other.
void check_way(const Args& args);

/// Where the agents are: --hosts, or --fleet, or the bundle's hosts.toml. Throws std::runtime_error
/// where a device of the plan has none.
std::map<std::string, std::string> hosts_of(const Args& args, const plan::Bundle& bundle,
                                            const plan::Plan& plan);

/// An aggregator over plans of the bundle, the first of them the default one, dialling.
std::unique_ptr<infer::Aggregator> make_aggregator(const Args& args, const plan::Bundle& bundle,
                                                   const std::vector<plan::Plan>& plans,
                                                   const base::Log& log);

/// A service that runs every part in this process (--local); devices in --without are left out.
std::unique_ptr<infer::Service> make_local(const Args& args, const plan::Bundle& bundle,
                                           const plan::Plan& plan);

/// The whole model of a folder in this process: the original that a fleet is compared with.
std::unique_ptr<infer::Service> make_original(const std::string& model_folder);

/// Waits for the agents at most --join-timeout; throws NobodyAnswers with each one's error where
/// none answers.
void join_agents(const Args& args, infer::Aggregator& aggregator);

/// Waits for one answer.
infer::Response ask(infer::Service& service, infer::Request request);

/// What the plan says of fusing, 0 where nothing is predicted.
double predicted_fuse_s(const plan::Plan& plan);

/// Where the time of a response went, a line for each device, predicted beside measured.
std::string times_table(const infer::Response& response, const plan::Plan& plan);

}  // namespace cleave::tools
