// What it costs that agents exchange values, and what becomes of requests when one of them is
// killed. Agents are processes of their own over a plain C++ engine that computes nothing.
//
//   routes_bench hop [REQUESTS]     a value from one agent to another, at the median
//   routes_bench reduce [REQUESTS]  an all-reduce of one row, each way, over two and three agents
//   routes_bench kill [TIMES]       kill -9 of an agent inside a request
//   routes_bench share [REQUESTS]   two aggregators, each that many requests, on agents with one
//   place

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/infer/fake_parts.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

/// Zeros, which are there at once.
class NullEngine : public ValueEngine {
 public:
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>&, const Sequence&) override {
    const auto& info = program.values.at(static_cast<std::size_t>(result_of(instruction)));
    auto& kept = zeros_[info.dims];
    if (!kept.data.owner()) {
      kept.element = info.element;
      kept.dims = info.dims;
      std::byte* bytes = nullptr;
      kept.data = net::Buffer::allocate(static_cast<std::size_t>(kept.bytes()), &bytes);
      std::memset(bytes, 0, kept.data.size());
    }
    return kept;
  }

 private:
  std::map<std::vector<std::int64_t>, net::Value> zeros_;
};

/// `devices` that reduce twice a layer; by a star of two, each reduction is a value there and one
/// back.
plan::Plan plan_of(std::size_t devices, std::int64_t layers,
                   plan::AllReduce all_reduce = plan::AllReduce::star) {
  model::ModelConfig teacher = fake_teacher();
  teacher.layers.assign(static_cast<std::size_t>(layers), teacher.layers.front());
  auto plan = examples::tensor_plan(teacher, devices);
  plan.all_reduce = all_reduce;
  return plan;
}

/// An agent that ends with this process, or when it is killed.
class AgentProcess {
 public:
  AgentProcess(const std::string& self, const std::string& bundle, const std::string& device,
               const std::string& listen, const std::string& places) {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("pipe");
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(ends[1], 1);
      ::close(ends[0]);
      ::execl(self.c_str(), self.c_str(), "agent", bundle.c_str(), device.c_str(), listen.c_str(),
              places.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
    for (char c = 0; ::read(ends[0], &c, 1) == 1 && c != '\n';) address_ += c;
    ::close(ends[0]);
  }
  ~AgentProcess() { kill(); }
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;
  void kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = 0;
  }
  const std::string& address() const { return address_; }

 private:
  pid_t child_ = 0;
  std::string address_;
};

int be_agent(const std::string& folder, const std::string& device, const std::string& listen,
             int places) {
  const plan::Bundle bundle(folder);
  AgentOptions options;
  options.device = device;
  options.listen = listen;
  options.max_requests = places;
  options.on_listening = [](const std::string& address) {
    std::printf("%s\n", address.c_str());
    std::fflush(stdout);
  };
  Agent(bundle, {bundle.plan()}, std::make_unique<NullEngine>(), options).run();
  return 0;
}

/// With the teacher of write_bundle().
plan::Plan of_the_bundle(plan::Plan plan) {
  plan.teacher_digest = std::string(64, 'a');
  return plan;
}

/// A plan's agents, each a process.
struct Fleet {
  Fleet(std::string self_, plan::Plan plan_, int places_ = 4)
      : self(std::move(self_)),
        plan(of_the_bundle(std::move(plan_))),
        bundle(write_bundle(folder.path(), plan)),
        places(std::to_string(places_)) {
    for (const auto& part : plan.parts) start(part.device);
  }
  void start(const std::string& device) {
    const std::string listen = hosts.count(device) ? hosts.at(device) : "127.0.0.1:0";
    agents[device] =
        std::make_unique<AgentProcess>(self, folder.path().string(), device, listen, places);
    hosts[device] = agents.at(device)->address();
  }
  std::unique_ptr<Aggregator> aggregator() const {
    AggregatorOptions options;
    options.hosts = hosts;
    auto made = std::make_unique<Aggregator>(bundle, std::vector{plan},
                                             std::make_unique<NullEngine>(), options);
    made->wait_for_agents(0, 10s);
    return made;
  }

  std::string self;
  ScratchFolder folder{"routes_bench"};
  plan::Plan plan;
  plan::Bundle bundle;
  std::string places;
  std::map<std::string, std::string> hosts;
  std::map<std::string, std::unique_ptr<AgentProcess>> agents;
};

std::future<Response> submit(Aggregator& asked, std::chrono::milliseconds deadline) {
  const auto promise = std::make_shared<std::promise<Response>>();
  asked.submit(request_of(1, deadline),
               [promise](Response response) { promise->set_value(std::move(response)); });
  return promise->get_future();
}

/// What one reduction takes, in seconds: half of what a layer more does to a request. From pairs of
/// requests of few and many layers, sorted.
std::vector<double> reductions(const std::string& self, int requests, std::size_t devices,
                               plan::AllReduce all_reduce) {
  constexpr std::int64_t few = 4, many = 104;
  std::map<std::int64_t, std::vector<double>> times;
  const Fleet small(self, plan_of(devices, few, all_reduce)),
      large(self, plan_of(devices, many, all_reduce));
  const auto of_small = small.aggregator(), of_large = large.aggregator();
  for (int i = -20; i < requests; ++i)
    for (const auto& [layers, asked] :
         {std::pair(few, of_small.get()), std::pair(many, of_large.get())}) {
      const auto start = Clock::now();
      if (const Response response = submit(*asked, 10s).get(); response.status != Status::answered)
        throw std::runtime_error(response.message);
      if (i >= 0) times[layers].push_back(seconds(Clock::now() - start));
    }
  std::vector<double> each;
  for (std::size_t i = 0; i < times[few].size(); ++i)
    each.push_back((times[many][i] - times[few][i]) / (2 * (many - few)));
  std::sort(each.begin(), each.end());
  return each;
}

void print(const char* what, const std::vector<double>& sorted, double parts = 1) {
  const auto us = [&](std::size_t tenth) {
    return sorted[sorted.size() * tenth / 10] / parts * 1e6;
  };
  std::printf("%s: median %.1f us, p10 %.1f, p90 %.1f (%zu pairs of requests)\n", what, us(5),
              us(1), us(9), sorted.size());
}

int hop(const std::string& self, int requests) {
  print("a value between two agents, with its instructions",
        reductions(self, requests, 2, plan::AllReduce::star), 2);
  return 0;
}

int reduce(const std::string& self, int requests) {
  for (const std::size_t devices : {2, 3})
    for (const auto way : {plan::AllReduce::star, plan::AllReduce::direct}) {
      const std::string what = "an all-reduce of one row over " + std::to_string(devices) +
                               " agents, " + (way == plan::AllReduce::star ? "star" : "direct");
      print(what.c_str(), reductions(self, requests, devices, way));
    }
  return 0;
}

int kill_some(const std::string& self, int times) {
  Fleet fleet(self, plan_of(3, 40));
  const auto asked = fleet.aggregator();
  std::minstd_rand random(1);
  int answered = 0, ended = 0, late = 0, next_answered = 0;
  double longest_s = 0;
  for (int i = 0; i < times; ++i) {
    const auto& victim = fleet.plan.parts[random() % 3].device;
    const auto start = Clock::now();
    auto answer = submit(*asked, 5s);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 8000));
    fleet.agents.at(victim)->kill();
    if (answer.wait_for(10s) != std::future_status::ready) {
      ++late;
      break;
    }
    const Status status = answer.get().status;
    longest_s = std::max(longest_s, seconds(Clock::now() - start));
    ++(status == Status::answered ? answered : ended);
    fleet.start(victim);
    asked->wait_for_agents(3, 10s);
    next_answered += submit(*asked, 10s).get().status == Status::answered;
  }
  std::printf(
      "%d killed: %d requests answered, %d ended without an answer, %d hung; the longest took %.0f "
      "ms; the next request was answered %d times\n",
      answered + ended + late, answered, ended, late, longest_s * 1e3, next_answered);
  return late == 0 && next_answered == times ? 0 : 1;
}

int share(const std::string& self, int requests) {
  const Fleet fleet(self, plan_of(3, 4), 1);
  const auto one = fleet.aggregator(), other = fleet.aggregator();
  const auto ask_all = [requests](Aggregator& asked) {
    const auto start = Clock::now();
    int answered = 0;
    for (int i = 0; i < requests; i += 4) {
      std::vector<std::future<Response>> answers;
      for (int k = 0; k < 4; ++k) answers.push_back(submit(asked, 30s));
      for (auto& answer : answers) answered += answer.get().status == Status::answered;
    }
    return std::pair(answered, seconds(Clock::now() - start));
  };
  auto second = std::async(std::launch::async, [&] { return ask_all(*other); });
  const auto first = ask_all(*one);
  const auto last = second.get();
  std::printf("answered: %d of %d in %.1f s, and %d of %d in %.1f s\n", first.first, requests,
              first.second, last.first, requests, last.second);
  return first.first == requests && last.first == requests ? 0 : 1;
}

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "agent" && argc == 6) return be_agent(argv[2], argv[3], argv[4], std::atoi(argv[5]));
  const int count = argc > 2 ? std::atoi(argv[2]) : 0;
  if (mode == "hop") return hop(argv[0], count > 0 ? count : 200);
  if (mode == "reduce") return reduce(argv[0], count > 0 ? count : 200);
  if (mode == "kill") return kill_some(argv[0], count > 0 ? count : 1000);
  if (mode == "share") return share(argv[0], count > 0 ? count : 1000);
  std::fprintf(stderr, "usage: routes_bench hop|reduce|kill|share [COUNT]\n");
  return 2;
}

}  // namespace
}  // namespace cleave::infer

int main(int argc, char** argv) { return cleave::infer::main(argc, argv); }
