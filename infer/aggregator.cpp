#include "infer/aggregator.hpp"

#include <algorithm>
#include <atomic>
#include <future>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "infer/batch.hpp"
#include "infer/compute.hpp"
#include "infer/dispatcher.hpp"
#include "infer/draws.hpp"
#include "infer/fleet_plans.hpp"
#include "infer/jobs.hpp"
#include "infer/machine.hpp"
#include "infer/roster.hpp"
#include "infer/sequences.hpp"
#include "net/mesh.hpp"
#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/names.hpp"
#include "optimizer/plan/weights.hpp"

namespace cleave::infer {
namespace {

namespace asio = boost::asio;

/// Names the requests of this aggregator among those of others.
std::uint64_t random_origin() {
  std::random_device random;
  return (std::uint64_t{random()} << 32 | random()) | 1;
}

}  // namespace

void AggregatorOptions::check() const {
  const auto need = [](bool good, const std::string& what, const std::string& seen,
                       const std::string& needed) {
    if (!good)
      throw std::invalid_argument("[aggregator] " + what + ": saw " + seen + ", needs " + needed);
  };
  need(max_queue >= 0, "max_queue", std::to_string(max_queue), "0 or more");
  need(max_in_flight >= 1, "max_in_flight", std::to_string(max_in_flight), "1 or more");
  need(candidates >= 2, "candidates", std::to_string(candidates), "2 or more");
  need(lateness > 0, "lateness", std::to_string(lateness), "a number above 0");
  need(min_wait.count() >= 0, "min_wait", std::to_string(min_wait.count()) + " ms", "0 ms or more");
  need(min_wait_in_text.count() >= 0, "min_wait_in_text",
       std::to_string(min_wait_in_text.count()) + " ms", "0 ms or more");
}

struct Aggregator::State {
  using Id = Job::Id;

  State(const plan::Bundle& bundle, const std::vector<plan::Plan>& wanted_plans,
        std::unique_ptr<Engine> fusion, AggregatorOptions wanted);

  void log(base::LogLevel level, const std::string& line) const {
    if (options.log) options.log(level, line);
  }
  Dispatcher::Options dispatcher_options() const;
  Dispatcher::Hooks dispatcher_hooks();
  net::DialOptions dial_to(const std::string& device, const std::string& bundle) const;
  std::vector<net::PlanMessage> plans_of(std::size_t device) const;
  std::optional<net::Routes> routes_of(std::size_t device) const;

  void start(const std::shared_ptr<Job>& job);
  void queue(const std::shared_ptr<Job>& job);
  void start_batch(Job& job, std::int64_t rows_at_once);
  void queue_piece(const std::shared_ptr<Batch>& batch);
  void end_batch(const std::shared_ptr<Batch>& batch, Response response);
  void launch_next();
  bool ask_for_kept(const Job& job, const Response& response);
  void finish_if_told(Id id);
  void post_events(std::vector<Compute::Event> events);
  void take(std::vector<Compute::Event> events);
  void finish(Id id, Status status, const std::string& message,
              net::Value output = net::Value::absent(), double fuse_s = 0);
  void answer(Id id, const std::function<void(Response)>& on_done, Response response) const;
  void cancel(Id id);
  void end_sequence(Sequences::Id id);
  void tell_ended(Sequences::Id id);
  std::vector<AgentStatus> status() const;
  void drain(std::promise<void> waiter);
  void stop();

  AggregatorOptions options;
  FleetPlans plans;
  const std::uint64_t origin = random_origin();
  asio::io_context io;  // outlives what its coroutines hold
  const std::uint32_t epoch = 1;
  Jobs jobs;
  std::map<Id, std::shared_ptr<Batch>> batches;  // their pieces are jobs
  std::map<Id, Id> asked_for_kept;               // request -> the job that has taken its place
  Sequences sequences;
  Roster roster;
  std::map<std::string, double> held_bytes;  // of weights, by device
  Dispatcher dispatcher;
  bool launching = false;
  bool draining = false, stopped = false;
  std::vector<std::promise<void>> drained;
  std::atomic<Id> next_id{1};
  std::atomic<Sequences::Id> next_sequence{1};
  Compute compute;  // before the I/O thread starts, after it has ended
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::thread thread;
};

Aggregator::State::State(const plan::Bundle& bundle, const std::vector<plan::Plan>& wanted_plans,
                         std::unique_ptr<Engine> fusion, AggregatorOptions wanted)
    : options(std::move(wanted)),
      plans(bundle, wanted_plans),
      jobs({options.max_in_flight, options.max_queue}),
      dispatcher({io, jobs, sequences, roster, compute}, dispatcher_options(), dispatcher_hooks()),
      compute(std::move(fusion),
              [this](std::vector<Compute::Event> events) { post_events(std::move(events)); }) {
  for (std::size_t device = 0; device < plans.devices().size(); ++device) {
    const std::string& name = plans.devices()[device];
    held_bytes[name] = plan::held_bytes(wanted_plans, name);
    roster.add(std::make_unique<Peer>(io, dial_to(name, bundle.identity()), options.lateness,
                                      dispatcher.events_of(device), plans_of(device),
                                      routes_of(device)));
  }
}

Dispatcher::Options Aggregator::State::dispatcher_options() const {
  Dispatcher::Options wanted;
  wanted.min_wait = options.min_wait;
  wanted.min_wait_in_text = options.min_wait_in_text;
  wanted.epoch = epoch;
  wanted.seed = static_cast<std::uint32_t>(origin >> 32);
  return wanted;
}

Dispatcher::Hooks Aggregator::State::dispatcher_hooks() {
  Dispatcher::Hooks hooks;
  hooks.end = [this](Id id, Status status, const std::string& message) {
    finish(id, status, message);
  };
  hooks.told = [this](Id id) { finish_if_told(id); };
  hooks.new_id = [this] { return next_id++; };
  hooks.log = [this](base::LogLevel level, const std::string& line) { log(level, line); };
  return hooks;
}

net::DialOptions Aggregator::State::dial_to(const std::string& device,
                                            const std::string& bundle) const {
  const auto host = options.hosts.find(device);
  if (host == options.hosts.end())
    throw std::invalid_argument("[aggregator] hosts: saw no address of '" + device +
                                "', needs one for each device");
  net::DialOptions dial;
  dial.address = host->second;
  dial.hello.role = net::Role::aggregator;
  dial.hello.epoch = epoch;
  dial.hello.bundle = bundle;
  dial.hello.device = device;
  dial.hello.name = "aggregator";
  dial.hello.origin = origin;
  dial.wrap = options.wrap_stream;
  dial.from = options.dial_from;
  return dial;
}

std::vector<net::PlanMessage> Aggregator::State::plans_of(std::size_t device) const {
  std::vector<net::PlanMessage> served;
  for (const auto& plan : plans.all()) {
    if (!plan->has(device)) continue;
    net::PlanMessage message;
    message.digest = plan->digest();
    message.json = plan::text_of(plan->plan());
    served.push_back(std::move(message));
  }
  return served;
}

/// Where the others are, for a device that exchanges values with them.
std::optional<net::Routes> Aggregator::State::routes_of(std::size_t device) const {
  const bool coupled = std::any_of(plans.all().begin(), plans.all().end(), [&](const auto& plan) {
    return plan->has(device) && plan->is_coupled();
  });
  if (!coupled) return std::nullopt;
  net::Routes routes;
  for (const auto& [other, address] : options.hosts) routes.routes.push_back({other, address});
  return routes;
}

void Aggregator::State::start(const std::shared_ptr<Job>& job) {
  const auto id = job->id;
  Request& request = job->request;
  job->arrived = Clock::now();
  jobs.add(job);
  if (draining) return finish(id, Status::overloaded, "[submit] draining, no new requests");
  auto found = plans.find_for(request, options.candidates);
  if (!found.wrong.empty()) return finish(id, Status::failed, "[submit] " + found.wrong);
  job->plan = found.plan;
  if (request.sampling) job->best = options.candidates;
  job->programs = std::move(found.programs);
  if (const auto wrong = sequences.objection(request.sequence, *job->plan); !wrong.empty())
    return finish(id, Status::failed, "[submit] " + wrong);
  roster.keep_one_asked(*job->plan);
  const auto rows = plans.rows_at_once(request);
  if (const auto device = roster.ejected(*job->plan); device && request.require_all) {
    request.input = rows_of(request.input, 0, std::min(rows, request.input.dims[0]));
    dispatcher.probe_with(*job);
    return finish(id, Status::no_device, roster.need_of(*device, ejected_late));
  }
  sequences.open(request.sequence, *job->plan, id);
  if (job->deadline <= Clock::now())
    return finish(id, Status::deadline, "[submit] deadline: has passed");
  if (jobs.is_full())
    return finish(id, Status::overloaded,
                  "[submit] queue: saw " + std::to_string(jobs.num_queued()) +
                      " requests waiting, takes at most " + std::to_string(options.max_queue));
  if (request.input.dims[0] > rows) return start_batch(*job, rows);
  queue(job);
  launch_next();
}

void Aggregator::State::queue(const std::shared_ptr<Job>& job) {
  jobs.queue(job->id);
  dispatcher.watch(*job);
}

/// The job goes: its pieces take its place.
void Aggregator::State::start_batch(Job& job, std::int64_t rows_at_once) {
  const auto most = static_cast<std::size_t>(std::max(1, options.max_in_flight / 2));
  const auto batch = std::make_shared<Batch>(job.id, std::move(job.request), std::move(job.on_done),
                                             job.submitted, job.deadline, rows_at_once, most);
  batches[batch->id()] = batch;
  jobs.remove(batch->id());
  queue_piece(batch);
  launch_next();
}

void Aggregator::State::queue_piece(const std::shared_ptr<Batch>& batch) {
  auto piece = batch->next();
  if (!piece) return;
  const Id id = next_id++;
  const auto on_done = [this, batch, index = piece->index, id](Response response) {
    if (auto whole = batch->take(index, id, std::move(response)))
      end_batch(batch, std::move(*whole));
    else
      queue_piece(batch);
  };
  const auto now = Clock::now();
  const auto job =
      std::make_shared<Job>(id, std::move(piece->request), on_done, now, batch->deadline());
  job->arrived = now;
  job->batch = batch;
  job->plan = plans.find(job->request.plan);
  try {
    job->programs = job->plan->programs().find(job->request.input, job->request.sequence.past);
  } catch (const std::exception& error) {
    Response failure;
    failure.status = Status::failed;
    failure.message = error.what();
    return end_batch(batch, std::move(failure));
  }
  batch->opened(id);
  jobs.add(job);
  queue(job);
}

void Aggregator::State::end_batch(const std::shared_ptr<Batch>& batch, Response response) {
  batches.erase(batch->id());
  answer(batch->id(), batch->on_done(), batch->end(std::move(response)));
  for (const auto id : std::set(batch->open())) cancel(id);
}

void Aggregator::State::launch_next() {
  // A request that ends as it is launched calls this again: a long queue would be a deep stack.
  if (launching || stopped) return;
  launching = true;
  const struct Done {
    bool& launching;
    ~Done() {
      launching = false;
    }  // also where something throws: its handler's end, not the queue's
  } done{launching};
  while (const auto job = jobs.take_next()) {
    if (job->deadline <= Clock::now())
      finish(job->id, Status::deadline, job->text_of_deadline());
    else
      dispatcher.launch(*job);
    if (job->batch) queue_piece(job->batch);
  }
}

/// Compute thread.
void Aggregator::State::post_events(std::vector<Compute::Event> events) {
  asio::post(io, [this, events = std::move(events)]() mutable { take(std::move(events)); });
}

void Aggregator::State::take(std::vector<Compute::Event> events) {
  using What = Compute::Event::What;
  for (auto& event : events) {
    // What is sent is the request's input, which went behind each 'admit'.
    Job* job = jobs.find_running(event.id);
    if (event.what == What::send || !job) continue;
    const auto observation = job->observation;  // outlives the job
    if (event.what == What::output && observation)
      job->hold(std::move(event.value), event.times.compute_s, Clock::now());
    else if (event.what == What::finished && observation)
      observation->finished(event.times, std::move(event.ran));
    else if (event.what == What::output)
      finish(event.id, Status::answered, "", std::move(event.value), event.times.compute_s);
    else if (event.what == What::failed)
      finish(event.id, Status::failed, event.text);
  }
}

void Aggregator::State::finish_if_told(Id id) {
  if (const Job* job = jobs.find_running(id); job && job->is_told())
    finish(id, Status::answered, "");
}

void Aggregator::State::finish(Id id, Status status, const std::string& message, net::Value output,
                               double fuse_s) {
  const auto job = jobs.remove(id);
  auto response = job->response(status, Clock::now());
  if (job->is_held()) {
    response.aggregator.flops =
        plan::flops_of(job->observation->program(), job->plan->plan(), job->request.sequence.past);
    response.aggregator.peak_memory_bytes = peak_memory_bytes();
  } else {
    response.message = message;
    response.output = std::move(output);
    response.fuse_s = fuse_s;
  }
  const bool goes_on = response.status == Status::answered && ask_for_kept(*job, response);
  if (!goes_on) answer(id, job->on_done, std::move(response));
  if (job->is_running()) jobs.free_place(*job);
  dispatcher.forget(*job, job->is_held() || status == Status::answered || status == Status::failed);
  if (const auto text = job->request.sequence.id; sequences.close(text, id)) tell_ended(text);
  if (jobs.empty() && draining)
    for (auto& waiter : std::exchange(drained, {})) waiter.set_value();
  launch_next();
}

/// Where a token is not certain, the devices are asked for the logits that they kept. True: the
/// answer comes from them.
bool Aggregator::State::ask_for_kept(const Job& job, const Response& response) {
  if (job.best == 0 || job.from_kept || !needs_logits(response.output)) return false;
  Request request = job.request;
  // Behind the step whose token it is, so that nothing begins anew.
  request.sequence.past += request.input.dims.at(1);
  const Id id = next_id++;
  const auto on_done = [this, whole = job.id, then = job.on_done, response](Response last) {
    asked_for_kept.erase(whole);
    then(joined_with_last(response, std::move(last)));
  };
  const auto kept =
      std::make_shared<Job>(id, std::move(request), on_done, job.submitted, job.deadline);
  kept->arrived = job.arrived;
  kept->plan = job.plan;
  kept->best = job.best;
  kept->from_kept = true;
  // Of the step before.
  kept->programs = job.plan->programs().find(kept->request.input, job.request.sequence.past,
                                             kept->best, kept->from_kept);
  asked_for_kept[job.id] = id;
  jobs.add(kept);
  sequences.open(kept->request.sequence, *kept->plan, id);
  queue(kept);
  return true;
}

void Aggregator::State::answer(Id id, const std::function<void(Response)>& on_done,
                               Response response) const {
  try {
    on_done(std::move(response));
  } catch (const std::exception& error) {
    log(base::LogLevel::notice,
        "[infer] request " + std::to_string(id) + ": the callback threw: " + error.what());
  }
}

void Aggregator::State::cancel(Id id) {
  if (jobs.find(id)) finish(id, Status::canceled, "[infer] canceled");
  if (const auto at = batches.find(id); at != batches.end())
    for (const auto piece : std::set(at->second->open())) cancel(piece);
  if (const auto at = asked_for_kept.find(id); at != asked_for_kept.end()) cancel(Id{at->second});
}

void Aggregator::State::end_sequence(Sequences::Id id) {
  if (sequences.end(id)) tell_ended(id);
}

void Aggregator::State::tell_ended(Sequences::Id id) {
  compute.forget(id);
  for (std::size_t device = 0; device < roster.size(); ++device) roster[device].end_sequence(id);
}

void Aggregator::State::drain(std::promise<void> waiter) {
  draining = true;
  dispatcher.drain();
  if (jobs.empty())
    waiter.set_value();
  else
    drained.push_back(std::move(waiter));
}

void Aggregator::State::stop() {
  stopped = draining = true;
  while (!jobs.empty()) finish(jobs.first(), Status::canceled, "[infer] the aggregator stops");
  roster.stop();
  work.reset();
  io.stop();
}

Aggregator::Aggregator(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans,
                       std::unique_ptr<Engine> fusion, AggregatorOptions options) {
  options.check();
  state_ = std::make_shared<State>(bundle, plans, std::move(fusion), std::move(options));
  state_->roster.start();
  state_->work.emplace(state_->io.get_executor());
  state_->thread = std::thread([state = state_.get()] {
    net::run(state->io, [state](const std::string& why) {
      state->log(base::LogLevel::notice, "[aggregator] " + why);
    });
  });
}

Aggregator::~Aggregator() {
  asio::post(state_->io, [state = state_.get()] { state->stop(); });
  state_->thread.join();
}

int Aggregator::wait_for_agents(int count, std::chrono::milliseconds timeout) {
  return state_->roster.wait_for(count, timeout);
}

int Aggregator::wait_for_those_in_reach(std::chrono::milliseconds timeout) {
  return state_->roster.wait_for_those_in_reach(timeout);
}

std::uint64_t Aggregator::submit(Request request, std::function<void(Response)> on_done) {
  const auto submitted = Clock::now();
  const auto deadline = submitted + std::min(request.deadline, longest_deadline);
  const auto job = std::make_shared<Job>(state_->next_id++, std::move(request), std::move(on_done),
                                         submitted, deadline);
  asio::post(state_->io, [state = state_.get(), job] { state->start(job); });
  return job->id;
}

void Aggregator::cancel(std::uint64_t id) {
  asio::post(state_->io, [state = state_.get(), id] { state->cancel(id); });
}

std::uint64_t Aggregator::new_sequence() { return state_->next_sequence++; }

void Aggregator::end_sequence(std::uint64_t id) {
  asio::post(state_->io, [state = state_.get(), id] { state->end_sequence(id); });
}

std::vector<AgentStatus> Aggregator::State::status() const {
  std::vector<AgentStatus> agents = roster.status();
  for (AgentStatus& agent : agents) {
    agent.held_bytes = held_bytes.at(agent.device);
    agent.weight_format = plan::weight_format_f32;
  }
  return agents;
}

std::vector<AgentStatus> Aggregator::status() const {
  if (state_->io.get_executor().running_in_this_thread()) return state_->status();
  const auto promise = std::make_shared<std::promise<std::vector<AgentStatus>>>();
  asio::post(state_->io, [state = state_.get(), promise] { promise->set_value(state->status()); });
  return promise->get_future().get();
}

void Aggregator::drain() {
  std::promise<void> promise;
  auto drained = promise.get_future();
  asio::post(state_->io, [state = state_.get(), promise = std::move(promise)]() mutable {
    state->drain(std::move(promise));
  });
  drained.get();
}

asio::io_context& Aggregator::io() { return state_->io; }
std::vector<const plan::Plan*> Aggregator::plans() const {
  std::vector<const plan::Plan*> list;
  for (const auto& served : state_->plans.all()) list.push_back(&served->plan());
  return list;
}
std::size_t Aggregator::places() const {
  return static_cast<std::size_t>(state_->options.max_in_flight + state_->options.max_queue);
}

}  // namespace cleave::infer
