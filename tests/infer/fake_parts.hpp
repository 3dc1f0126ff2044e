#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "infer/agent.hpp"
#include "infer/aggregator.hpp"
#include "infer/server.hpp"
#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/weights.hpp"
#include "tests/infer/value_engine.hpp"

namespace cleave::infer {

// A bundle whose plan is real and whose parts are not: plain C++ engines stand in for libtorch, so
// that everything around them runs under ThreadSanitizer too.

/// A folder of the running test, removed at its end.
class ScratchFolder {
 public:
  explicit ScratchFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() /
              ("cleave_" + name + "_" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline model::ModelConfig fake_teacher() {
  model::ModelConfig config;
  config.width = 24;
  config.head_width = 8;
  config.layers.assign(3, model::LayerShape{3, 48});
  config.image_height = config.image_width = 8;
  config.patch = 4;
  config.channels = 1;
  config.classes = 5;
  config.processing.height = config.processing.width = 8;
  config.processing.mean = config.processing.std = {0.5};
  return config;
}

inline plan::PlanPart fake_part(const std::string& device, std::int64_t width) {
  plan::PlanPart part;
  part.device = device;
  part.sub_model().config = fake_teacher();
  part.sub_model().config.width = width;
  part.sub_model().config.classes = 0;
  part.sub_model().layers = {0, 1, 2};
  return part;
}

/// Three parts, hub (16), desk (12) and cam (8), each predicted to take `predicted_s`.
inline plan::Plan fake_plan(double predicted_s = 0.01) {
  plan::Plan plan;
  plan.teacher = fake_teacher();
  plan.teacher_digest = std::string(64, 'a');
  plan.parts = {fake_part("hub", 16), fake_part("desk", 12), fake_part("cam", 8)};
  plan.aggregator = "hub";
  for (const auto& part : plan.parts) {
    plan::DevicePrediction prediction;
    prediction.device = part.device;
    prediction.compute_s = predicted_s;
    plan.prediction.devices.push_back(prediction);
  }
  return plan;
}

/// The whole teacher on one device.
inline plan::Plan fake_local_plan() {
  plan::Plan plan = fake_plan();
  plan.strategy = "local";
  plan.parts.resize(1);
  plan.parts[0].sub_model().config = plan.teacher;
  plan.prediction.devices.resize(1);
  return plan;
}

/// A causal model whose keys and values are large: 805 MB for 4096 tokens.
inline plan::Plan fake_text_plan() {
  plan::Plan plan = fake_plan();
  model::ModelConfig config;
  config.family = model::Family::gpt2;
  config.task = model::Task::causal_lm;
  config.causal = config.tied_head = true;
  config.vocabulary = config.classes = 20;
  config.context = 4096;
  config.width = 24;
  config.head_width = 64;
  config.layers.assign(24, {16, 48});
  plan.teacher = config;
  plan.shape = {1, 1, 0};
  for (auto& part : plan.parts) {
    const std::int64_t width = part.sub_model().config.width;
    part.sub_model().config = config;
    part.sub_model().config.width = width;
    part.sub_model().config.classes = 0;
    part.sub_model().layers.resize(24);
    std::iota(part.sub_model().layers.begin(), part.sub_model().layers.end(), 0);
  }
  return plan;
}

/// The first plan is the default one. Holdings say what they hold, and have no weights.
inline plan::Bundle write_bundle(const std::filesystem::path& folder,
                                 const std::vector<plan::Plan>& plans) {
  std::filesystem::create_directories(folder / "plans");
  for (const plan::Plan& plan : plans) {
    plan::write_plan(plan, folder / "plans" / (plan.name + ".json"));
    for (const plan::PlanPart& part : plan.parts) {
      if (!part.share()) continue;
      const auto holding = folder / "holdings" / part.device;
      std::filesystem::create_directories(holding);
      model::write_holding({plan.teacher, plan::holding_of(plans, part.device)}, holding);
    }
  }
  plan::write_manifest(folder, plans.front().name, std::string(64, 'a'));
  return plan::Bundle(folder);
}
inline plan::Bundle write_bundle(const std::filesystem::path& folder, const plan::Plan& plan) {
  return write_bundle(folder, std::vector{plan});
}

/// What an aggregator tells a device of the plan.
inline net::PlanMessage told(const plan::Plan& plan) {
  net::PlanMessage message;
  message.epoch = 1;
  message.digest = plan::digest_of(plan);
  message.json = plan::text_of(plan);
  return message;
}

inline net::Value pixels(std::uint8_t seed, std::int64_t batch = 1) {
  net::Value value;
  value.element = base::Element::u8;
  value.dims = {batch, 1, 8, 8};
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(value.count()));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(seed + i);
  value.data = net::Buffer::copy_of(bytes.data(), bytes.size());
  return value;
}

/// What a part makes of pixels: a number that depends on each of them and on the part.
inline float feature_of(const net::Value& input, std::int32_t part) {
  float sum = static_cast<float>(part + 1);
  for (std::size_t i = 0; i < input.data.size(); ++i)
    sum += static_cast<float>(input.data.data()[i]) * static_cast<float>(i % 7 + 1);
  return sum;
}

inline float first_number(const net::Value& value) {
  float number = 0;
  std::memcpy(&number, value.data.data(), sizeof number);
  return number;
}

/// The answer of those present.
inline float expected_answer(const net::Value& input, const std::vector<std::int32_t>& present) {
  float sum = 0;
  for (const auto part : present) sum += feature_of(input, part);
  return sum;
}

/// Remembers where operands and results lay.
struct Seen {
  std::mutex mutex;
  std::set<const void*> operands, results;
  bool has_operand(const void* p) {
    const std::lock_guard lock(mutex);
    return operands.count(p) > 0;
  }
};

/// A request as an aggregator sends it to an agent.
struct Asked : net::Admit {
  net::Value tensor;  // the input
  /// What follows the admission.
  net::ValueMessage input() const {
    net::ValueMessage value;
    value.request = request;
    value.epoch = epoch;
    value.tensor = tensor;
    return value;
  }
};

/// Whether it is the first instruction of a forward pass, or the fusion: where fakes spend their
/// time.
inline bool begins(const plan::Instruction& instruction) {
  return std::holds_alternative<plan::Embed>(instruction) ||
         std::holds_alternative<plan::Fuse>(instruction);
}

/// A number in place of each tensor: embed gives `feature_of`, the halves of whole layers add
/// nothing, and where numbers meet they are added; so a part's feature is `feature_of`, and what is
/// fused the sum of those present. A value that leaves has the number everywhere.
class FakeEngine : public ValueEngine {
 public:
  explicit FakeEngine(std::chrono::microseconds time = {}, Seen* seen = nullptr)
      : time_(time), seen_(seen) {}
  net::Value compute(const plan::Instruction& instruction, const plan::Program&,
                     const std::vector<const net::Value*>& operands, const Sequence&) override {
    float number = 0;
    const auto* embed = std::get_if<plan::Embed>(&instruction);
    const auto* attention = std::get_if<plan::ProjectOut>(&instruction);
    const auto* mlp = std::get_if<plan::MlpDown>(&instruction);
    if (embed)
      number = feature_of(*operands.at(0), std::max<std::int32_t>(0, embed->part));
    else if (!(attention && attention->with_bias) && !(mlp && mlp->with_bias) &&
             !std::holds_alternative<plan::Lengths>(instruction))
      for (const auto* operand : operands) number += operand->present ? first_number(*operand) : 0;
    if (time_.count() > 0 && begins(instruction)) std::this_thread::sleep_for(time_);
    net::Value value;
    value.dims = {1};
    value.data = net::Buffer::copy_of(&number, sizeof number);
    if (seen_ && begins(instruction)) {
      const std::lock_guard lock(seen_->mutex);
      for (const auto* operand : operands) seen_->operands.insert(operand->data.data());
    }
    return value;
  }
  net::Value leaving(const net::Value& value, const plan::ValueInfo& info) override {
    net::Value whole = value;
    whole.element = info.element;
    whole.dims = info.dims;
    const std::vector<float> numbers(static_cast<std::size_t>(whole.count()), first_number(value));
    whole.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
    if (seen_) {
      const std::lock_guard lock(seen_->mutex);
      seen_->results.insert(whole.data.data());
    }
    return whole;
  }

 private:
  std::chrono::microseconds time_;
  Seen* seen_;
};

/// How many texts an engine was told to forget.
class Forgotten {
 public:
  void add() { ++count_; }
  int count() const { return count_; }

 private:
  std::atomic<int> count_{0};
};

class ForgettingEngine : public FakeEngine {
 public:
  explicit ForgettingEngine(std::shared_ptr<Forgotten> forgotten)
      : forgotten_(std::move(forgotten)) {}
  void forget(std::uint64_t) override { forgotten_->add(); }

 private:
  std::shared_ptr<Forgotten> forgotten_;
};

/// Holds computing up until the test lets it go on.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++entered_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void wait_for_entry(int count = 1) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(10), [&] {
      return entered_ >= count;
    })) << "nothing is computed";
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int entered_ = 0;
  bool open_ = false;
};

class GatedEngine : public FakeEngine {
 public:
  explicit GatedEngine(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    if (begins(instruction)) gate_->pass();
    return FakeEngine::compute(instruction, program, operands, sequence);
  }

 private:
  std::shared_ptr<Gate> gate_;
};

/// An agent with its thread.
class RunningAgent {
 public:
  RunningAgent(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans,
               AgentOptions options,
               std::unique_ptr<Engine> engine = std::make_unique<FakeEngine>()) {
    auto listening = std::make_shared<std::promise<std::string>>();
    auto bound = listening->get_future();
    options.on_listening = [listening](const std::string& text) { listening->set_value(text); };
    agent_ = std::make_unique<Agent>(bundle, plans, std::move(engine), std::move(options));
    thread_ = std::thread([this] {
      agent_->run();
      ended_ = true;
    });
    address_ = bound.get();
  }
  RunningAgent(const plan::Bundle& bundle, const plan::Plan& plan, AgentOptions options,
               std::unique_ptr<Engine> engine = std::make_unique<FakeEngine>())
      : RunningAgent(bundle, std::vector{plan}, std::move(options), std::move(engine)) {}
  RunningAgent(const plan::Bundle& bundle, const plan::Plan& plan, const std::string& device,
               std::chrono::microseconds time = {})
      : RunningAgent(bundle, plan, options_for(device), std::make_unique<FakeEngine>(time)) {}
  ~RunningAgent() { stop(); }
  void stop() {
    if (agent_) agent_->stop();
    if (thread_.joinable()) thread_.join();
    agent_.reset();
  }
  void drain() { agent_->drain(); }
  void join() { thread_.join(); }
  bool ended() const { return ended_; }
  const std::string& address() const { return address_; }
  static AgentOptions options_for(const std::string& device,
                                  const std::string& listen = "127.0.0.1:0") {
    AgentOptions options;
    options.device = device;
    options.listen = listen;
    return options;
  }

 private:
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
  std::atomic<bool> ended_{false};
  std::string address_;
};

/// Asks and waits; a lost answer fails the test.
inline Response ask(Service& service, Request request) {
  auto promise = std::make_shared<std::promise<Response>>();
  auto answer = promise->get_future();
  const auto longest = request.deadline + std::chrono::seconds(10);
  service.submit(std::move(request),
                 [promise](Response response) { promise->set_value(std::move(response)); });
  if (answer.wait_for(longest) == std::future_status::ready) return answer.get();
  ADD_FAILURE() << "no answer";
  Response none;
  none.status = Status::failed;
  return none;
}

inline Request request_of(std::uint8_t seed,
                          std::chrono::milliseconds deadline = std::chrono::seconds(5)) {
  Request request;
  request.input = pixels(seed);
  request.deadline = deadline;
  return request;
}

/// One token of a text.
inline Request token_request(std::chrono::milliseconds deadline) {
  Request request;
  request.input.element = base::Element::i32;
  request.input.dims = {1, 1};
  const std::int32_t id = 7;
  request.input.data = net::Buffer::copy_of(&id, sizeof id);
  request.deadline = deadline;
  return request;
}

/// A server with its thread.
class RunningServer {
 public:
  RunningServer(Aggregator& aggregator, const plan::Bundle& bundle, ServerOptions options = {}) {
    auto listening = std::make_shared<std::promise<std::string>>();
    auto bound = listening->get_future();
    options.on_listening = [listening](const std::string& text) { listening->set_value(text); };
    server_ = std::make_unique<Server>(aggregator, bundle, std::move(options));
    thread_ = std::thread([this] { server_->run(); });
    address_ = bound.get();
  }
  ~RunningServer() {
    server_->stop();
    join();
  }
  void drain() { server_->drain(); }
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  const std::string& address() const { return address_; }

 private:
  std::unique_ptr<Server> server_;
  std::thread thread_;
  std::string address_;
};

inline std::vector<std::string> present_devices(const Response& response) {
  std::vector<std::string> names;
  for (const auto& report : response.devices)
    if (report.present) names.push_back(report.device);
  return names;
}

template <class Condition>
bool eventually(Condition condition, std::chrono::milliseconds timeout = std::chrono::seconds(10)) {
  const auto end = Clock::now() + timeout;
  while (Clock::now() < end) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return condition();
}

}  // namespace cleave::infer
