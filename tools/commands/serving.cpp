#include "tools/commands/serving.hpp"

#include <algorithm>
#include <chrono>
#include <future>
#include <set>
#include <sstream>

#include "base/file.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "infer/client.hpp"
#include "infer/engine.hpp"
#include "infer/paced.hpp"
#include "infer/server.hpp"
#include "model/config/hugging_face.hpp"
#include "model/tokenizer/unicode.hpp"
#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/fleet.hpp"
#include "tools/commands/commands.hpp"
#include "tools/link_file.hpp"
#include "tools/log.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

/// An engine that keeps how long the parts and the fusion of a request took.
class TimedEngine : public infer::EngineAround {
 public:
  TimedEngine(std::unique_ptr<infer::Engine> engine, std::size_t parts)
      : EngineAround(std::move(engine)), compute_s(parts) {}

  void settle() override {
    const auto started = infer::Clock::now();
    EngineAround::settle();
    if (last_) *last_ += std::chrono::duration<double>(infer::Clock::now() - started).count();
    last_ = nullptr;
  }
  void start() {
    compute_s.assign(compute_s.size(), 0);
    fuse_s = 0;
  }

  std::vector<double> compute_s;  // by part
  double fuse_s = 0;

 protected:
  void around(std::int32_t rank, const plan::Instruction&, const Run& run) override {
    const auto started = infer::Clock::now();
    run();
    const double spent_s = std::chrono::duration<double>(infer::Clock::now() - started).count();
    const auto device = static_cast<std::size_t>(rank);
    last_ = device < compute_s.size() ? &compute_s[device] : &fuse_s;
    *last_ += spent_s;
  }

 private:
  double* last_ = nullptr;  // whose instruction was the last
};

/// Every part in this process, one request at a time, on the caller's thread.
class LocalService : public infer::Service {
 public:
  LocalService(std::unique_ptr<infer::Engine> engine, plan::Plan plan, std::vector<bool> absent)
      : engine_(std::move(engine), plan.parts.size()),
        plan_(std::move(plan)),
        absent_(std::move(absent)) {
    engine_.prepare();
  }

  std::uint64_t submit(infer::Request request,
                       std::function<void(infer::Response)> on_done) override {
    const auto started = infer::Clock::now();
    const auto missing = std::find(absent_.begin(), absent_.end(), true);
    infer::Response response;
    engine_.start();
    if (request.require_all && missing != absent_.end()) {
      const auto& part = plan_.parts.at(static_cast<std::size_t>(missing - absent_.begin()));
      response.status = infer::Status::no_device;
      response.message = "[infer] device '" + part.device + "' is needed: left out";
    } else {
      response.output = infer::run_locally(engine_, plan_, request.input, absent_, request.sequence,
                                           request.sampling);
    }
    response.total_s = std::chrono::duration<double>(infer::Clock::now() - started).count();
    for (std::size_t p = 0; p < plan_.parts.size(); ++p) {
      infer::DeviceReport report;
      report.device = plan_.parts[p].device;
      report.present = absent_.empty() || !absent_[p];
      report.compute_s = engine_.compute_s[p];
      response.devices.push_back(report);
    }
    response.fuse_s = engine_.fuse_s;
    on_done(std::move(response));
    return ++last_;
  }
  void cancel(std::uint64_t) override {}
  std::uint64_t new_sequence() override { return ++last_; }
  void end_sequence(std::uint64_t id) override { engine_.forget(id); }

 private:
  TimedEngine engine_;
  plan::Plan plan_;
  std::vector<bool> absent_;
  std::uint64_t last_ = 0;
};

std::vector<bool> absent_of(const Args& args, const plan::Plan& plan) {
  std::vector<bool> absent(plan.parts.size(), false);
  if (!args.has("without")) return absent;
  if (plan::is_shared(plan))
    throw UsageError("[--without] plan '" + plan.name + "': strategy " + plan.strategy +
                     " needs every device");
  std::istringstream names(args.text("without"));
  for (std::string name; std::getline(names, name, ',');) {
    bool found = false;
    for (std::size_t p = 0; p < plan.parts.size(); ++p)
      if (plan.parts[p].device == name) absent[p] = found = true;
    if (!found) throw UsageError("[--without] the plan has no device '" + name + "'");
  }
  if (std::find(absent.begin(), absent.end(), false) == absent.end())
    throw UsageError("[--without] saw every device of the plan, needs one that answers");
  return absent;
}

/// A model alone as a plan: one part, here.
plan::Plan whole_model(const std::string& folder) {
  const auto config = model::read_config(folder);
  if (!config.answers() && config.is_text())
    throw std::runtime_error("[" + folder + "] saw a model of text without a head, needs one");
  return plan::whole_plan(config, "here");
}

/// A text cut for one model would be asked of another.
void expect_same_model(const model::ModelConfig& config, const base::Reader& served,
                       const std::filesystem::path& folder) {
  const nlohmann::json needed = model::config_to_json(config);
  for (const auto& [key, value] : needed.items())
    if (const auto field = served.find(key); field && field->json() != value)
      throw std::runtime_error("[--via] " + key + ": the server's model has " +
                               field->json().dump() + ", that of " + folder.string() + " " +
                               value.dump());
}

/// What the weights are of the first of the server's plans that are asked; a name that is empty is
/// its default one. Throws UsageError where it has no such plan.
plan::WeightsState weights_of(const std::vector<std::string>& names, const base::Reader& served) {
  const auto plans = served.find(infer::plans_key);
  if (!plans) return plan::WeightsState::unknown;
  auto state = plan::WeightsState::unknown;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string name = names[i].empty() ? served.text(infer::default_plan_key, "") : names[i];
    const auto weights = plans->find(name);
    if (!weights)
      throw UsageError("[--plan] saw '" + name + "', the server needs one of " +
                       base::joined(plans->keys()));
    if (i == 0)
      state = plan::weights_state_named(weights->text()).value_or(plan::WeightsState::unknown);
  }
  return state;
}

/// Of each plan the parts in this process; a request names its plan.
class LocalPlans : public infer::Service {
 public:
  void add(const std::string& plan, std::unique_ptr<infer::Service> service) {
    if (services_.empty()) default_ = plan;
    services_[plan] = std::move(service);
  }
  std::uint64_t submit(infer::Request request,
                       std::function<void(infer::Response)> on_done) override {
    const std::string plan = request.plan.empty() ? default_ : request.plan;
    return services_.at(plan)->submit(std::move(request), std::move(on_done));
  }
  void cancel(std::uint64_t) override {}
  std::uint64_t new_sequence() override { return ++last_sequence_; }
  void end_sequence(std::uint64_t id) override {
    for (const auto& [plan, service] : services_) service->end_sequence(id);
  }

 private:
  std::map<std::string, std::unique_ptr<infer::Service>> services_;
  std::string default_;
  std::uint64_t last_sequence_ = 0;
};

/// --plan; an empty name is the default one.
std::vector<std::string> names_of(const Args& args, bool several) {
  if (args.text_or("plan").empty()) return {""};
  const auto names = args.list("plan");
  if (names.size() > 1 && !several)
    throw UsageError("[--plan] saw " + std::to_string(names.size()) + " plans, needs one here");
  if (std::set(names.begin(), names.end()).size() < names.size())
    throw UsageError("[--plan] saw one twice, needs each once");
  return names;
}

}  // namespace

Source source_of(const Args& args, const std::filesystem::path& folder, bool several) {
  const std::vector<std::string> names = names_of(args, several);
  Source source;
  source.where = folder.string();
  const bool bundled = !folder.empty() && plan::is_bundle(folder);
  std::shared_ptr<const plan::Bundle> bundle;
  if (bundled) {
    bundle = std::make_shared<plan::Bundle>(folder);
    for (const std::string& name : names) source.plans.push_back(bundle->plan(name));
    source.plan = source.plans.front();
    source.tokenizer = bundle->tokenizer_path(source.plan);
    source.weights = plan::weights_state(*bundle, source.plan);
  } else {
    source.tokenizer = folder;
  }
  if (args.has("via")) {
    const std::string address = args.text("via");
    const auto client = std::make_shared<std::unique_ptr<infer::Service>>();
    auto dialled = std::make_unique<infer::Client>(address, names.front());
    const auto served = base::Reader::json_text(dialled->model_json(), address);
    source.weights = weights_of(names, served);
    if (bundled) {
      expect_same_model(source.plan.teacher, served, folder);
    } else {
      source.plan.teacher = model::config_from_json(served);
      for (const std::string& name : names) {
        source.plan.name = name.empty() ? served.text(infer::default_plan_key, "") : name;
        source.plan.strategy = "–";  // the server's business
        source.plans.push_back(source.plan);
      }
      source.plan = source.plans.front();
    }
    source.where = address;
    *client = std::move(dialled);
    source.open = [client] { return std::move(*client); };
  } else if (!bundled) {
    say_notes(folder);
    source.plan = whole_model(folder.string());
    source.plans = {source.plan};
    source.weights =
        source.plan.teacher.random_weights ? plan::WeightsState::random : plan::WeightsState::exact;
    source.open = [folder] { return make_original(folder.string()); };
  } else if (args.flag("local")) {
    source.open = [&args, bundle, plans = source.plans] {
      auto all = std::make_unique<LocalPlans>();
      for (const plan::Plan& plan : plans) all->add(plan.name, make_local(args, *bundle, plan));
      return all;
    };
  } else {
    source.open = [&args, bundle, plans = source.plans]() -> std::unique_ptr<infer::Service> {
      const base::Log log = args.flag("verbose") ? stderr_log(true) : nullptr;
      auto aggregator = make_aggregator(args, *bundle, plans, log);
      join_agents(args, *aggregator);
      return aggregator;
    };
  }
  return source;
}

std::string checked_text(const Args& args, const std::string& text, const std::string& where) {
  const std::string wrong = model::why_not_utf8(text, "--lossy replaces it");
  if (wrong.empty()) return std::string(model::without_byte_order_mark(text));
  if (!args.flag("lossy")) throw std::runtime_error("[" + where + "] " + wrong);
  return std::string(model::without_byte_order_mark(model::repaired_utf8(text)));
}

std::vector<GivenText> texts_of(const Args& args, const std::vector<std::string>& words,
                                const std::string& what, const std::string& option) {
  std::vector<GivenText> texts;
  for (const auto& word : words) {
    const std::string where = what + " " + std::to_string(texts.size());
    texts.push_back({checked_text(args, word, where), where});
  }
  if (!args.has(option)) return texts;
  const std::string file = args.text(option);
  std::istringstream lines(checked_text(args, base::read_text(file), file));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) texts.push_back({line, file + " line " + std::to_string(number)});
  }
  return texts;
}

GivenPair pair_of(const GivenText& line) {
  const auto tabs = std::count(line.words.begin(), line.words.end(), '\t');
  if (tabs != 1)
    throw std::runtime_error("[" + line.where + "] saw " + std::to_string(tabs + 1) +
                             " texts, needs two with a tab between" +
                             (tabs > 1 ? " (`cut -f 1,2` takes the first two columns)" : ""));
  const std::size_t tab = line.words.find('\t');
  return {line.words.substr(0, tab), line.words.substr(tab + 1), line.where};
}

std::vector<GivenPair> pairs_of(const std::vector<GivenText>& texts, std::size_t words) {
  if (words % 2 != 0)
    throw UsageError("[--pairs] saw " + std::to_string(words) + " texts, needs two for each pair");
  std::vector<GivenPair> pairs;
  for (std::size_t i = 0; i < words; i += 2)
    pairs.push_back({texts[i].words, texts[i + 1].words, "pair " + std::to_string(pairs.size())});
  for (std::size_t i = words; i < texts.size(); ++i) pairs.push_back(pair_of(texts[i]));
  return pairs;
}

void check_way(const Args& args) {
  if (args.has("via") && args.flag("local"))
    throw UsageError("[--via] saw --local too, needs one of them");
  if (args.has("without") && !args.flag("local"))
    throw UsageError("[--without] needs --local: only there devices can be left out");
}

std::map<std::string, std::string> hosts_of(const Args& args, const plan::Bundle& bundle,
                                            const plan::Plan& plan) {
  std::map<std::string, std::string> hosts;
  std::string source;
  if (args.has("fleet") && !args.has("hosts")) {
    source = args.text("fleet");
    for (const auto& device : plan::read_fleet(source).devices) hosts[device.name] = device.address;
  } else {
    source = args.text_or("hosts", (bundle.folder() / "hosts.toml").string());
    hosts = plan::read_hosts(source);
  }
  for (const auto& part : plan.parts)
    if (hosts.count(part.device) == 0 || hosts[part.device].empty())
      throw std::runtime_error("[" + source + "] no address for device '" + part.device +
                               "' of plan " + plan.name);
  return hosts;
}

std::unique_ptr<infer::Aggregator> make_aggregator(const Args& args, const plan::Bundle& bundle,
                                                   const std::vector<plan::Plan>& plans,
                                                   const base::Log& log) {
  infer::AggregatorOptions options;
  for (const plan::Plan& plan : plans) options.hosts.merge(hosts_of(args, bundle, plan));
  if (args.has("max-queue")) options.max_queue = static_cast<int>(args.integer("max-queue"));
  // Who asks that much at once means it.
  if (args.has("concurrency"))
    options.max_queue = std::max(options.max_queue, static_cast<int>(args.integer("concurrency")));
  options.log = log;
  options.wrap_stream = link_of(args);
  options.dial_from = dial_from(args);
  auto engine = infer::fusion_engine(bundle, plans);
  if (args.has("pace") && args.number("pace") < 1)
    engine = infer::paced(std::move(engine), 1 / args.number("pace"), args.text_or("pace-turns"));
  return std::make_unique<infer::Aggregator>(bundle, plans, std::move(engine), std::move(options));
}

std::unique_ptr<infer::Service> make_local(const Args& args, const plan::Bundle& bundle,
                                           const plan::Plan& plan) {
  return std::make_unique<LocalService>(infer::local_engine(bundle, plan), plan,
                                        absent_of(args, plan));
}

std::unique_ptr<infer::Service> make_original(const std::string& model_folder) {
  return std::make_unique<LocalService>(infer::model_engine(model_folder),
                                        whole_model(model_folder), std::vector<bool>{});
}

int with_every_device(const Args& args, const std::function<int()>& work) {
  try {
    return work();
  } catch (const NobodyAnswers& nobody) {
    if (!args.flag("require-all")) throw;
    std::fprintf(stderr, "cleave: %s\n", nobody.what());
    return exit_negative;
  }
}

void join_agents(const Args& args, infer::Aggregator& aggregator) {
  const auto timeout = args.milliseconds("join-timeout");
  if (args.flag("require-all") ? aggregator.wait_for_agents(0, timeout) > 0
                               : aggregator.wait_for_those_in_reach(timeout) > 0)
    return;
  std::string text;
  for (const auto& agent : aggregator.status())
    text += (text.empty() ? "" : "; ") + agent.device + " at " + agent.address + ": " +
            (agent.last_error.empty() ? "no answer" : agent.last_error);
  throw NobodyAnswers("[fleet] no agent is joined: " + text);
}

infer::Response ask(infer::Service& service, infer::Request request) {
  auto answer = std::make_shared<std::promise<infer::Response>>();
  auto result = answer->get_future();
  service.submit(std::move(request),
                 [answer](infer::Response response) { answer->set_value(std::move(response)); });
  return result.get();
}

double predicted_fuse_s(const plan::Plan& plan) {
  return plan.prediction.of(plan::aggregator_process(plan.aggregator)).compute_s;
}

std::string times_table(const infer::Response& response, const plan::Plan& plan) {
  Table table(
      {"device", "answered", "queued", "compute", "predicted", "round trip", "sent", "received"});
  for (const auto& device : response.devices) {
    const double predicted_s = plan.prediction.of(device.device).compute_s;
    table.row({device.device, device.present ? "yes" : "no", base::format_seconds(device.queued_s),
               base::format_seconds(device.compute_s),
               predicted_s > 0 ? base::format_seconds(predicted_s) : "–",
               base::format_seconds(device.round_trip_s),
               base::format_bytes(static_cast<double>(device.sent_bytes)),
               base::format_bytes(static_cast<double>(device.received_bytes))});
  }
  return table.text() +
         format(
             "total %s (predicted %s): queue %s, fuse %s (predicted %s), aggregator's own share "
             "%s\n",
             base::format_seconds(response.total_s).c_str(),
             plan.prediction.latency_s > 0 ? base::format_seconds(plan.prediction.latency_s).c_str()
                                           : "–",
             base::format_seconds(response.queue_s).c_str(),
             base::format_seconds(response.fuse_s).c_str(),
             predicted_fuse_s(plan) > 0 ? base::format_seconds(predicted_fuse_s(plan)).c_str()
                                        : "–",
             base::format_seconds(response.overhead_s).c_str());
}

}  // namespace cleave::tools
