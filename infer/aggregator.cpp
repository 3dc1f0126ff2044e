#include "infer/aggregator.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <future>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/text.hpp"
#include "infer/batch.hpp"
#include "infer/compute.hpp"
#include "infer/peers.hpp"
#include "infer/served_plan.hpp"
#include "infer/values.hpp"
#include "net/mesh.hpp"

namespace cleave::infer {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using namespace std::chrono_literals;
using Seconds = std::chrono::duration<double>;

/// Nobody waits longer for one answer.
constexpr std::chrono::milliseconds longest_deadline = 24h;

/// What is admitted by some of those who compute together, and not by all, is offered again after a
/// random part of this; it doubles.
constexpr std::chrono::milliseconds first_retry = 20ms, longest_retry = 320ms;
/// A moment after which nobody is the first any more.
constexpr std::chrono::milliseconds least_retry = 2ms;

constexpr char not_joined[] = "not joined";

/// Names the requests of this aggregator among those of others.
std::uint64_t random_origin() {
  std::random_device random;
  return (std::uint64_t{random()} << 32 | random()) | 1;
}

/// Time that is kept back for fusing and answering, so that the answer is there at the deadline.
std::chrono::milliseconds margin_of(std::chrono::milliseconds deadline) {
  return std::clamp(deadline / 10, std::chrono::milliseconds(1), std::chrono::milliseconds(20));
}

/// What a device says that it took, but no time that nobody waits for: sums of it stay numbers.
double credible_s(double said_s) {
  return std::clamp(said_s, 0.0, Seconds(longest_deadline).count());
}

plan::Expectation expected_of(const plan::Plan& plan, const std::string& device,
                              const std::vector<std::int64_t>& input) {
  return plan::expectation(plan, device, input.at(0), input.size() > 1 ? input[1] : 0);
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
  need(lateness > 0, "lateness", std::to_string(lateness), "a number above 0");
  need(min_wait.count() >= 0, "min_wait", std::to_string(min_wait.count()) + " ms", "0 ms or more");
  need(min_wait_in_text.count() >= 0, "min_wait_in_text",
       std::to_string(min_wait_in_text.count()) + " ms", "0 ms or more");
}

struct Aggregator::State {
  using Id = std::uint64_t;

  /// One agent's part in one request.
  struct Share {
    /// returned: the device does not have it, and the job is offered to all of them anew.
    enum class Stage { none, waiting, sent, received, lost, returned };
    bool open() const { return stage == Stage::waiting || stage == Stage::sent; }
    Stage stage = Stage::none;
    std::vector<std::uint32_t> tags;  // not yet received
    bool must_come = false;           // one of its values may not be absent
    bool late = false;                // see Patience
    bool refused = false;             // the device says that it cannot compute the request
    bool wrong = false;               // what came is no value of its
    double predicted_compute_s = 0;
    DeviceReport report;
    Clock::time_point sent_at, decided_at;
  };

  struct Job {
    explicit Job(asio::io_context& io) : timer(io), retry(io) {}
    Id id = 0;
    Request request;
    FleetPlan* plan = nullptr;
    std::function<void(Response)> on_done;
    Clock::time_point submitted, arrived, launched, deadline;  // arrived: on the I/O thread
    std::shared_ptr<const Programs::Ranks> programs;
    std::vector<Share> shares;     // by device
    std::shared_ptr<Batch> batch;  // where it is a piece of one
    bool running = false;
    bool returning = false;                         // one was busy: it is taken back from all
    std::chrono::milliseconds pause = first_retry;  // before it is offered again
    bool overdue = false;                           // all were late and nothing had come
    bool given_a_moment = false;                    // then the first came
    asio::steady_timer timer, retry;
  };

  State(const plan::Bundle& bundle, const std::vector<plan::Plan>& wanted_plans,
        std::unique_ptr<Engine> fusion, AggregatorOptions wanted)
      : options(std::move(wanted)),
        compute(std::move(fusion),
                [this](std::vector<Compute::Event> events) { post_events(std::move(events)); }) {
    if (wanted_plans.empty())
      throw std::invalid_argument("[aggregator] plans: saw none, needs one or more");
    std::vector<std::string> devices;
    for (const plan::Plan& plan : wanted_plans)
      for (const std::string& device : plan::devices_of(plan))
        if (std::find(devices.begin(), devices.end(), device) == devices.end())
          devices.push_back(device);
    for (const plan::Plan& plan : wanted_plans)
      plans.push_back(std::make_unique<FleetPlan>(plan, devices, bundle.largest_features(plan)));
    for (const std::string& device : devices) add_peer(device, bundle.identity());
  }

  /// The default one.
  const plan::Plan& plan() const { return plans.front()->plan(); }
  FleetPlan* find_plan(const std::string& name) const;
  void log(base::LogLevel level, const std::string& line) const {
    if (options.log) options.log(level, line);
  }

  // Agents.
  void add_peer(const std::string& name, const std::string& identity);
  void lost(std::size_t device, const std::string& why);
  void lose_open(std::size_t device, Share::Stage stage, const std::string& why);
  void give_up_ejected(std::size_t device);
  static bool is_last_hope(const Job& job, std::size_t device);
  void take_value(std::size_t device, net::ValueMessage message, std::uint64_t wire_bytes);
  bool take_busy(std::size_t device, Id id, const std::string& why, std::uint64_t wire_bytes);
  void take_done(std::size_t device, Id id, const net::Done& done);
  void take_back(Job& job);
  void offer_again_if_returned(Job& job);
  void offer_again(Id id);
  void send_admit(std::size_t device, Id id);
  net::Admit admission(const Job& job, Id id, std::size_t device) const;
  std::vector<net::ValueMessage> given(const Job& job, Id id, std::size_t device) const;
  void take_late(std::size_t device, const std::vector<Id>& ids);
  void count_late(const std::vector<std::size_t>& devices);
  const Peer* ejected_peer(const FleetPlan& plan) const;
  void keep_one_asked(const FleetPlan& plan);
  void probe_with(const Job& job);
  void count_joined();
  std::string who_is_missing(const FleetPlan& plan) const;
  std::string why_away(const FleetPlan& plan, std::size_t device) const;

  // Requests.
  void start(std::shared_ptr<Job> job);
  std::string objection(Job& job);
  void start_batch(Job& job, std::int64_t rows_at_once);
  void queue_piece(const std::shared_ptr<Batch>& batch);
  void end_batch(const std::shared_ptr<Batch>& batch, Response response);
  void answer(Id id, const std::function<void(Response)>& on_done, Response response) const;
  void launch_next();
  void launch(Job& job);
  std::chrono::milliseconds least_wait(const Job& job) const {
    return job.request.sequence.id != 0 ? options.min_wait_in_text : options.min_wait;
  }
  /// To give up who has not come and still answer by the deadline.
  static Clock::time_point last_moment(const Job& job) {
    return std::max(job.deadline - margin_of(job.request.deadline), job.launched);
  }
  bool may_launch(const Job& job) const;
  void set_timer(Job& job, Clock::time_point at);
  void timer_fired(Id id);
  void give_up_if_all_late(Id id);
  void give_up_open(Job& job, Clock::time_point now);
  std::vector<std::size_t> late_devices(const Job& job, Clock::time_point now) const;
  bool lose(Id id, std::size_t device, const std::string& why);
  bool ask_ejected(Job& job);
  static std::string need_of(const Peer& peer, const std::string& why);
  void received_share(Job& job, Share& share);
  void post_events(std::vector<Compute::Event> events);
  void take(std::vector<Compute::Event> events);
  void finish(Id id, Status status, const std::string& message,
              net::Value output = net::Value::absent(), double fuse_s = 0);
  Response response_of(const Job& job, Clock::time_point now) const;
  void tidy_up_after(Job& job, bool computed);
  Job* find_running(Id id);
  void cancel(Id id);
  void stop();
  std::vector<AgentStatus> status() const;

  // Sequences.
  std::string sequence_objection(const Job& job) const;
  void leave(std::uint64_t sequence, std::size_t device, const std::string& why);
  void leave_all(std::size_t device, const std::string& why);
  void end_sequence(std::uint64_t id);

  AggregatorOptions options;
  std::vector<std::unique_ptr<FleetPlan>> plans;  // the default one first
  const std::uint64_t origin = random_origin();
  std::minstd_rand random{static_cast<std::uint32_t>(origin >> 32)};
  asio::io_context io;  // outlives what its coroutines hold
  std::uint32_t epoch = 1;
  std::vector<std::unique_ptr<Peer>> peers;  // by device
  std::map<Id, std::shared_ptr<Job>> jobs;
  std::map<Id, std::shared_ptr<Batch>> batches;  // their pieces are jobs
  std::deque<Id> queue;
  /// A text that is being generated, and why which devices do not keep theirs any more.
  struct Text {
    const FleetPlan* plan = nullptr;
    std::map<std::size_t, std::string> left;
  };
  std::map<std::uint64_t, Text> sequences;
  std::set<std::uint64_t> ending;           // texts that end after their requests
  int in_flight = 0, in_flight_of_all = 0;  // the second: with require_all
  bool launching = false;
  bool draining = false, stopped = false;
  std::vector<std::promise<void>> drained;
  std::atomic<Id> next_id{1};
  std::atomic<std::uint64_t> next_sequence{1};

  mutable std::mutex joined_mutex;
  std::condition_variable joined_changed;
  int num_joined = 0, num_out_of_reach = 0;  // guarded

  Compute compute;  // before the I/O thread starts, after it has ended
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::thread thread;
};

/// Null where there is none of that name.
FleetPlan* Aggregator::State::find_plan(const std::string& name) const {
  for (const auto& plan : plans)
    if (name.empty() || plan->plan().name == name) return plan.get();
  return nullptr;
}

void Aggregator::State::add_peer(const std::string& name, const std::string& identity) {
  const std::size_t device = peers.size();
  const auto host = options.hosts.find(name);
  if (host == options.hosts.end())
    throw std::invalid_argument("[aggregator] hosts: saw no address of '" + name +
                                "', needs one for each device");
  net::DialOptions dial;
  dial.address = host->second;
  dial.hello.role = net::Role::aggregator;
  dial.hello.epoch = epoch;
  dial.hello.bundle = identity;
  dial.hello.device = name;
  dial.hello.name = "aggregator";
  dial.hello.origin = origin;
  dial.wrap = options.wrap_stream;
  dial.from = options.dial_from;
  Peer::Events events;
  events.changed = [this] { count_joined(); };
  events.lost = [this, device](const std::string& why) { lost(device, why); };
  events.draining = [this, device] { lose_open(device, Share::Stage::waiting, "draining"); };
  events.value = [this, device](net::ValueMessage message, std::uint64_t wire_bytes) {
    take_value(device, std::move(message), wire_bytes);
  };
  events.busy = [this, device](Id id, const std::string& why, std::uint64_t wire_bytes) {
    return take_busy(device, id, why, wire_bytes);
  };
  events.done = [this, device](Id id, const net::Done& done) { take_done(device, id, done); };
  events.ended = [this, device](Id id, const std::string& why, bool refused) {
    auto* job = find_running(id);
    if (!job || !job->shares[device].open()) return;
    job->shares[device].refused = refused;
    if (lose(id, device, why)) give_up_if_all_late(id);
  };
  events.offer = [this, device](Id id) { send_admit(device, id); };
  events.late = [this, device](const std::vector<Id>& ids) { take_late(device, ids); };
  events.log = [this](base::LogLevel level, const std::string& line) { log(level, line); };
  std::vector<net::PlanMessage> served;
  std::optional<net::Routes> routes;
  for (const auto& plan : plans) {
    if (!plan->has(device)) continue;
    net::PlanMessage message;
    message.digest = plan->digest();
    message.json = plan::text_of(plan->plan());
    served.push_back(std::move(message));
    if (!plan->is_coupled() || routes) continue;
    routes.emplace();
    for (const auto& [other, address] : options.hosts) routes->routes.push_back({other, address});
  }
  peers.push_back(std::make_unique<Peer>(io, std::move(dial), options.lateness, std::move(events),
                                         std::move(served), std::move(routes)));
}

void Aggregator::State::lost(std::size_t device, const std::string& why) {
  leave_all(device, why);
  lose_open(device, Share::Stage::waiting, "lost: " + why);
  lose_open(device, Share::Stage::sent, "lost: " + why);
  lose_open(device, Share::Stage::returned, "lost: " + why);
}

void Aggregator::State::lose_open(std::size_t device, Share::Stage stage, const std::string& why) {
  std::vector<Id> ids;
  for (const auto& [id, job] : jobs)
    if (job->running && job->shares[device].stage == stage) ids.push_back(id);
  // One loss may end its request, and start another.
  for (const auto id : ids)
    if (const auto* job = find_running(id); job && job->shares[device].stage == stage)
      if (lose(id, device, why)) give_up_if_all_late(id);
}

void Aggregator::State::take_value(std::size_t device, net::ValueMessage message,
                                   std::uint64_t wire_bytes) {
  auto* job = find_running(message.request);
  // Late: of a request that is answered, or of another epoch.
  if (!job || message.epoch != epoch) return;
  if (!job->plan->has(device)) return;
  const std::int32_t peer = job->plan->rank(device);
  auto& share = job->shares[device];
  share.report.received_bytes += wire_bytes;
  const auto tag = std::find(share.tags.begin(), share.tags.end(), message.tag);
  if (share.stage != Share::Stage::sent || tag == share.tags.end()) return;
  if (const auto wrong = job->plan->objection(*job->programs, device, message.tag, message.tensor);
      !wrong.empty()) {
    const auto id = job->id;
    share.wrong = true;
    if (lose(id, device, wrong)) give_up_if_all_late(id);
    return;
  }
  share.tags.erase(tag);
  share.report.queued_s = credible_s(message.queued_s);
  share.report.compute_s = credible_s(message.compute_s);
  compute.deliver(job->id, peer, message.tag, std::move(message.tensor));
  if (!share.tags.empty()) return;
  peers[device]->answered(job->id, share.report.compute_s, share.predicted_compute_s);
  received_share(*job, share);
}

/// True: the request still wants the device's part.
bool Aggregator::State::take_busy(std::size_t device, Id id, const std::string& why,
                                  std::uint64_t wire_bytes) {
  auto* job = find_running(id);
  if (!job) return false;
  auto& share = job->shares[device];
  share.report.received_bytes += wire_bytes;
  if (share.stage != Share::Stage::sent) return false;
  share.report.why = why;
  if (!job->plan->is_coupled()) {
    share.stage = Share::Stage::waiting;
    return true;
  }
  share.stage = Share::Stage::returned;
  peers[device]->withdraw(id);
  take_back(*job);
  return false;
}

/// The device has computed all that the request has there.
void Aggregator::State::take_done(std::size_t device, Id id, const net::Done& done) {
  auto* job = find_running(id);
  if (!job || !job->shares[device].open()) return;
  auto& share = job->shares[device];
  if (job->returning) {
    share.stage = Share::Stage::returned;
    return offer_again_if_returned(*job);
  }
  if (!share.tags.empty()) {
    if (lose(id, device, "ended without a value")) give_up_if_all_late(id);
    return;
  }
  share.report.queued_s = credible_s(done.queued_s);
  share.report.compute_s = credible_s(done.compute_s);
  peers[device]->answered(id, share.report.compute_s, share.predicted_compute_s);
  received_share(*job, share);
}

/// Some have not admitted it, so nobody is to wait for them: it is taken back from the others, and
/// offered again once nobody has anything of it.
void Aggregator::State::take_back(Job& job) {
  if (!std::exchange(job.returning, true))
    for (std::size_t device = 0; device < job.shares.size(); ++device) {
      auto& share = job.shares[device];
      peers[device]->withdraw(job.id);
      if (share.stage == Share::Stage::sent)
        peers[device]->cancel(job.id);
      else if (share.stage == Share::Stage::waiting)
        share.stage = Share::Stage::returned;
    }
  offer_again_if_returned(job);
}

void Aggregator::State::offer_again_if_returned(Job& job) {
  for (const auto& share : job.shares)
    if (share.stage == Share::Stage::sent) return;
  std::uniform_int_distribution<std::int64_t> moment(least_retry.count(), job.pause.count());
  job.pause = std::min(2 * job.pause, longest_retry);
  job.retry.expires_after(std::chrono::milliseconds(moment(random)));
  job.retry.async_wait([this, id = job.id](error_code error) {
    if (!error) offer_again(id);
  });
}

void Aggregator::State::offer_again(Id id) {
  auto* job = find_running(id);
  if (!job) return;
  job->returning = false;
  for (std::size_t device = 0; device < job->shares.size(); ++device) {
    auto& share = job->shares[device];
    if (share.stage == Share::Stage::none) continue;
    share.stage = Share::Stage::waiting;
    share.tags = job->plan->tags_from(*job->programs, device);
    const auto expected =
        expected_of(job->plan->plan(), share.report.device, job->request.input.dims);
    peers[device]->enqueue(id, {least_wait(*job), expected.whole_s});
  }
  for (std::size_t device = 0; device < job->shares.size(); ++device)
    if (job->shares[device].open())
      if (const auto why = why_away(*job->plan, device); !why.empty() && !lose(id, device, why))
        return;
  for (auto& peer : peers) peer->offer();
}

void Aggregator::State::send_admit(std::size_t device, Id id) {
  auto* job = find_running(id);
  if (!job || job->shares[device].stage != Share::Stage::waiting) return;
  auto admit = admission(*job, id, device);
  admit.sequence = job->request.sequence.id;
  admit.past = job->request.sequence.past;
  admit.capacity = job->request.sequence.capacity;
  auto& share = job->shares[device];
  share.stage = Share::Stage::sent;
  share.sent_at = Clock::now();
  share.report.sent_bytes += peers[device]->admit(admit, given(*job, id, device));
}

/// Of the job's input, as a request that stands for itself.
net::Admit Aggregator::State::admission(const Job& job, Id id, std::size_t device) const {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(job.deadline - Clock::now());
  net::Admit admit;
  admit.request = id;
  admit.epoch = epoch;
  const auto& program = job.plan->of(*job.programs, device);
  admit.plan = job.plan->digest();
  admit.digest = program->digest;
  admit.deadline_ms = static_cast<std::uint32_t>(std::max<std::int64_t>(1, left.count()));
  const auto& input = job.request.input;
  admit.batch = input.dims.at(0);
  admit.tokens = plan().teacher.is_text() ? input.dims.at(1) : 0;
  return admit;
}

/// What follows it: the job's input.
std::vector<net::ValueMessage> Aggregator::State::given(const Job& job, Id id,
                                                        std::size_t device) const {
  std::vector<net::ValueMessage> values;
  for (const auto tag : job.plan->tags_to(*job.programs, device)) {
    net::ValueMessage value;
    value.request = id;
    value.epoch = epoch;
    value.tag = tag;
    value.tensor = job.request.input;
    values.push_back(std::move(value));
  }
  return values;
}

void Aggregator::State::take_late(std::size_t device, const std::vector<Id>& ids) {
  for (const auto id : ids)
    if (auto* job = find_running(id)) job->shares[device].late = true;
  for (const auto id : ids) give_up_if_all_late(id);
}

/// A request went on without these. Who is late too often is ejected, unless nobody else is there,
/// and what it was asked is given up.
void Aggregator::State::count_late(const std::vector<std::size_t>& devices) {
  for (const auto device : devices) {
    auto& peer = *peers[device];
    if (!peer.count_late()) continue;
    const bool others = std::any_of(peers.begin(), peers.end(), [&](const auto& other) {
      return other.get() != &peer && other->joined() && !other->ejected();
    });
    if (!others) continue;
    peer.eject();
    give_up_ejected(device);
  }
}

/// Whoever has nobody else to wait for waits on, as for any that is late.
void Aggregator::State::give_up_ejected(std::size_t device) {
  std::vector<Id> ids;
  for (const auto& [id, job] : jobs)
    if (job->running && job->shares[device].open()) ids.push_back(id);
  for (const auto id : ids) {
    const auto* job = find_running(id);
    if (!job || !job->shares[device].open() || is_last_hope(*job, device)) continue;
    if (lose(id, device, ejected_late)) give_up_if_all_late(id);
  }
}

bool Aggregator::State::is_last_hope(const Job& job, std::size_t device) {
  if (job.request.require_all || job.shares[device].must_come) return false;
  for (std::size_t other = 0; other < job.shares.size(); ++other) {
    const auto& share = job.shares[other];
    if (other != device && (share.open() || share.stage == Share::Stage::received)) return false;
  }
  return true;
}

const Peer* Aggregator::State::ejected_peer(const FleetPlan& plan) const {
  for (std::size_t device = 0; device < peers.size(); ++device)
    if (plan.has(device) && peers[device]->joined() && peers[device]->ejected())
      return peers[device].get();
  return nullptr;
}

/// Where only ejected devices of the plan are left, they are asked again.
void Aggregator::State::keep_one_asked(const FleetPlan& plan) {
  std::vector<Peer*> joined;
  for (std::size_t device = 0; device < peers.size(); ++device)
    if (plan.has(device) && peers[device]->joined()) joined.push_back(peers[device].get());
  const bool any =
      std::any_of(joined.begin(), joined.end(), [](const Peer* peer) { return !peer->ejected(); });
  if (any) return;
  for (Peer* peer : joined) peer->reinstate();
}

/// Sends copies of the job to ejected devices whose turn it is.
void Aggregator::State::probe_with(const Job& job) {
  if (draining) return;
  for (std::size_t device = 0; device < peers.size(); ++device) {
    auto& peer = *peers[device];
    if (!peer.wants_probe() || !peer.serves(job.plan->digest()) ||
        !job.plan->computes(*job.programs, device))
      continue;
    const auto expected = expected_of(job.plan->plan(), peer.device(), job.request.input.dims);
    // Without a prediction the deadline decides, here too.
    const auto least = expected.whole_s > 0 ? least_wait(job) : job.request.deadline;
    const auto id = next_id++;
    peer.probe(admission(job, id, device), given(job, id, device),
               job.plan->tags_from(*job.programs, device), {least, expected.whole_s});
  }
}

void Aggregator::State::count_joined() {
  const auto count =
      std::count_if(peers.begin(), peers.end(), [](const auto& peer) { return peer->joined(); });
  const auto out_of_reach = std::count_if(peers.begin(), peers.end(),
                                          [](const auto& peer) { return peer->out_of_reach(); });
  const std::lock_guard lock(joined_mutex);
  num_joined = static_cast<int>(count);
  num_out_of_reach = static_cast<int>(out_of_reach);
  joined_changed.notify_all();
}

/// "cam at 127.0.0.1:7103 (Connection refused)" for each device of the plan that is not joined.
std::string Aggregator::State::who_is_missing(const FleetPlan& plan) const {
  std::vector<std::string> missing;
  for (std::size_t device = 0; device < peers.size(); ++device) {
    const Peer& peer = *peers[device];
    if (!plan.has(device) || peer.joined()) continue;
    const auto& why = peer.last_error().empty() ? "not reached yet" : peer.last_error();
    missing.push_back("'" + peer.device() + "' at " + peer.address() + " (" + why + ")");
  }
  return base::joined(missing, ", ");
}

/// Why the device cannot be asked for the plan; empty where it can.
std::string Aggregator::State::why_away(const FleetPlan& plan, std::size_t device) const {
  const Peer& peer = *peers[device];
  if (peer.serves(plan.digest())) return {};
  return peer.joined() ? "refused the plan: " + peer.refusal(plan.digest()) : not_joined;
}

void Aggregator::State::start(std::shared_ptr<Job> job) {
  const auto id = job->id;
  job->arrived = Clock::now();
  jobs[id] = job;
  if (draining || stopped)
    return finish(id, Status::overloaded, "[submit] draining, no new requests");
  if (const auto wrong = objection(*job); !wrong.empty())
    return finish(id, Status::failed, "[submit] " + wrong);
  if (const auto wrong = sequence_objection(*job); !wrong.empty())
    return finish(id, Status::failed, "[submit] " + wrong);
  keep_one_asked(*job->plan);
  const auto rows = job->request.sequence.id != 0
                        ? job->request.input.dims[0]
                        : rows_at_once(job->request.input, plan().teacher.is_text());
  if (const auto* peer = ejected_peer(*job->plan); peer && job->request.require_all) {
    auto& input = job->request.input;
    input = rows_of(input, 0, std::min(rows, input.dims[0]));
    probe_with(*job);
    return finish(id, Status::no_device, need_of(*peer, ejected_late));
  }
  if (job->request.sequence.id != 0 && job->request.sequence.past == 0)
    sequences[job->request.sequence.id] = {job->plan, {}};
  if (job->deadline <= Clock::now())
    return finish(id, Status::deadline, "[submit] deadline: has passed");
  if (in_flight >= options.max_in_flight &&
      queue.size() >= static_cast<std::size_t>(options.max_queue))
    return finish(id, Status::overloaded,
                  "[submit] queue: saw " + std::to_string(queue.size()) +
                      " requests waiting, takes at most " + std::to_string(options.max_queue));
  if (job->request.input.dims[0] > rows) return start_batch(*job, rows);
  queue.push_back(id);
  set_timer(*job, job->deadline);
  launch_next();
}

/// The job goes: its pieces take its place.
void Aggregator::State::start_batch(Job& job, std::int64_t rows_at_once) {
  const auto most = static_cast<std::size_t>(std::max(1, options.max_in_flight / 2));
  const auto id = job.id;
  const auto batch = std::make_shared<Batch>(id, std::move(job.request), std::move(job.on_done),
                                             job.submitted, job.deadline, rows_at_once, most);
  batches[id] = batch;
  jobs.erase(id);
  queue_piece(batch);
  launch_next();
}

void Aggregator::State::queue_piece(const std::shared_ptr<Batch>& batch) {
  auto piece = batch->next();
  if (!piece) return;
  const auto job = std::make_shared<Job>(io);
  job->id = next_id++;
  job->batch = batch;
  job->request = std::move(piece->request);
  job->submitted = job->arrived = Clock::now();
  job->deadline = batch->deadline();
  job->plan = find_plan(job->request.plan);
  try {
    job->programs = job->plan->programs().find(job->request.input);
  } catch (const std::exception& error) {
    Response failure;
    failure.status = Status::failed;
    failure.message = error.what();
    return end_batch(batch, std::move(failure));
  }
  job->on_done = [this, batch, index = piece->index, id = job->id](Response response) {
    if (auto whole = batch->take(index, id, std::move(response)))
      end_batch(batch, std::move(*whole));
    else
      queue_piece(batch);
  };
  batch->opened(job->id);
  jobs[job->id] = job;
  queue.push_back(job->id);
  set_timer(*job, job->deadline);
}

void Aggregator::State::end_batch(const std::shared_ptr<Batch>& batch, Response response) {
  batches.erase(batch->id());
  answer(batch->id(), batch->on_done(), batch->end(std::move(response)));
  for (const auto id : std::set(batch->open())) cancel(id);
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

/// Finds plan and programs. Returns what is wrong with the input, or empty.
std::string Aggregator::State::objection(Job& job) {
  job.plan = find_plan(job.request.plan);
  if (job.plan == nullptr) {
    std::vector<std::string> names;
    for (const auto& plan : plans) names.push_back(plan->plan().name);
    return "plan: saw '" + job.request.plan + "', needs one of " + base::joined(names, ", ");
  }
  const auto& input = job.request.input;
  if (input.dims.empty() || input.dims[0] < 1 ||
      input.dims[0] > std::numeric_limits<std::int32_t>::max())
    return "input: saw " + shape_text(input.element, input.dims) +
           ", needs a batch of 1 or more in front";
  // A large batch has a program for each of its pieces and none for the whole.
  auto piece = input;
  if (job.request.sequence.id == 0)
    piece.dims[0] = std::min(piece.dims[0], rows_at_once(input, plan().teacher.is_text()));
  try {
    job.programs = job.plan->programs().find(piece);
  } catch (const std::exception& error) {
    return error.what();
  }
  auto whole = input_of(*job.plan->own(*job.programs));
  whole.dims.at(0) = input.dims[0];
  const auto wrong = mismatch(input, whole);
  return wrong.empty() ? "" : "input: " + wrong;
}

void Aggregator::State::launch_next() {
  // A request that ends as it is launched calls this again: a long queue would be a deep stack.
  if (launching) return;
  launching = true;
  const struct Done {
    bool& launching;
    ~Done() {
      launching = false;
    }  // also where something throws: its handler's end, not the queue's
  } done{launching};
  while (in_flight < options.max_in_flight) {
    const auto next = std::find_if(queue.begin(), queue.end(),
                                   [this](Id id) { return may_launch(*jobs.at(id)); });
    if (next == queue.end()) return;
    const auto job = jobs.at(*next);
    queue.erase(next);
    if (job->deadline <= Clock::now())
      finish(job->id, Status::deadline, "[queue] the deadline passed before its turn");
    else
      launch(*job);
    if (job->batch) queue_piece(job->batch);
  }
}

/// Requests that wait for every device may not take every place: one device could stop them all.
bool Aggregator::State::may_launch(const Job& job) const {
  return !job.request.require_all || in_flight_of_all < std::max(1, options.max_in_flight / 2);
}

void Aggregator::State::launch(Job& job) {
  const auto id = job.id;
  const auto& own = job.plan->own(*job.programs);
  job.running = true;
  job.launched = Clock::now();
  ++in_flight;
  in_flight_of_all += job.request.require_all;
  job.shares.resize(peers.size());
  for (std::size_t device = 0; device < peers.size(); ++device) {
    auto& share = job.shares[device];
    share.report.device = peers[device]->device();
    const auto expected =
        expected_of(job.plan->plan(), peers[device]->device(), job.request.input.dims);
    share.report.predicted_s = expected.whole_s;
    share.predicted_compute_s = expected.compute_s;
    if (!job.plan->computes(*job.programs, device)) continue;
    share.stage = Share::Stage::waiting;
    share.sent_at = job.launched;
    share.tags = job.plan->tags_from(*job.programs, device);
    share.must_come = job.plan->must_come(*job.programs, device);
    peers[device]->enqueue(id, {least_wait(job), expected.whole_s});
  }
  compute.admit(id, own, {job.request.input}, job.deadline);
  set_timer(job, job.request.require_all ? job.deadline : last_moment(job));
  keep_one_asked(*job.plan);
  probe_with(job);
  // Those away first: where one of them is needed, nobody else is asked.
  const auto left = sequences.find(job.request.sequence.id);
  for (std::size_t device = 0; device < peers.size(); ++device) {
    std::string why;
    if (left != sequences.end() && left->second.left.count(device) != 0)
      why = left->second.left.at(device);
    else if (job.plan->has(device))
      why = why_away(*job.plan, device);
    if (why.empty() && peers[device]->ejected()) why = ejected_late;
    if (job.shares[device].open() && !why.empty() && !lose(id, device, why)) return;
  }
  for (auto& peer : peers) peer->offer();
}

void Aggregator::State::set_timer(Job& job, Clock::time_point at) {
  job.timer.expires_at(at);
  job.timer.async_wait([this, id = job.id](error_code error) {
    if (!error) timer_fired(id);
  });
}

void Aggregator::State::timer_fired(Id id) {
  const auto at = jobs.find(id);
  if (at == jobs.end()) return;
  auto& job = *at->second;
  const auto now = Clock::now();
  if (now < job.timer.expiry()) return;  // moved while this call was queued
  if (now < job.deadline) return give_up_open(job, now);
  if (!job.running)
    return finish(id, Status::deadline, "[queue] the deadline passed before its turn");
  const auto late = late_devices(job, now);
  std::vector<std::string> missing;
  for (const auto& share : job.shares)
    if (share.open() || share.stage == Share::Stage::returned)
      missing.push_back("'" + share.report.device + "'" +
                        (share.report.why.empty() ? "" : " (busy: " + share.report.why + ")"));
  finish(id, Status::deadline,
         "[deadline] " + std::to_string(job.request.deadline.count()) + " ms passed" +
             (missing.empty() ? "" : " without " + base::joined(missing, ", ")));
  count_late(late);
}

/// Nobody is left that is worth waiting for.
void Aggregator::State::give_up_if_all_late(Id id) {
  auto* job = find_running(id);
  if (!job || job->request.require_all || job->overdue) return;
  int open = 0;
  for (const auto& share : job->shares) {
    if (share.open() && !share.late) return;
    open += share.open();
  }
  if (open > 0) give_up_open(*job, Clock::now());
}

/// The answer comes from those who are there. Where nobody is, the first one is waited for.
void Aggregator::State::give_up_open(Job& job, Clock::time_point now) {
  const auto id = job.id;
  const bool any = std::any_of(job.shares.begin(), job.shares.end(), [](const Share& share) {
    return share.stage == Share::Stage::received;
  });
  if (!any) {
    job.overdue = true;
    return set_timer(job, now < last_moment(job) ? last_moment(job) : job.deadline);
  }
  set_timer(job, job.deadline);
  const auto late = late_devices(job, now);
  for (std::size_t device = 0; device < peers.size(); ++device) {
    const auto& share = job.shares[device];
    if (!share.open() || share.must_come) continue;
    const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(now - share.sent_at);
    log(base::LogLevel::detail, "[" + share.report.device + "] request " + std::to_string(id) +
                                    ": late after " + std::to_string(waited.count()) + " ms");
    if (!lose(id, device, "late")) break;
  }
  count_late(late);
}

/// Against whom it counts that the job goes on without it: those beyond their patience, not those
/// for whom the asker's deadline was too short; and nobody where nobody came.
std::vector<std::size_t> Aggregator::State::late_devices(const Job& job,
                                                         Clock::time_point now) const {
  std::vector<std::size_t> late;
  bool any = false;
  for (std::size_t device = 0; device < job.shares.size(); ++device) {
    const auto& share = job.shares[device];
    any = any || share.stage == Share::Stage::received;
    const bool waited = share.report.predicted_s <= 0 && now - share.sent_at >= least_wait(job);
    if (share.open() && !share.must_come && (share.late || waited)) late.push_back(device);
  }
  return any ? late : std::vector<std::size_t>{};
}

/// The device's part will not come. False: that ended the request.
bool Aggregator::State::lose(Id id, std::size_t device, const std::string& why) {
  auto& job = *jobs.at(id);
  auto& share = job.shares[device];
  peers[device]->withdraw(id);
  if (job.request.sequence.id != 0) leave(job.request.sequence.id, device, why);
  share.stage = Share::Stage::lost;
  share.decided_at = Clock::now();
  share.report.why = why;
  const bool any = std::any_of(job.shares.begin(), job.shares.end(), [](const Share& other) {
    return other.open() || other.stage == Share::Stage::received;
  });
  if (!any && !share.must_come && ask_ejected(job)) return true;
  if (!any) {
    std::vector<std::string> reasons;
    for (const auto& other : job.shares)
      if (other.stage == Share::Stage::lost && other.report.why != not_joined)
        reasons.push_back("'" + other.report.device + "' " + other.report.why);
    if (const auto away = who_is_missing(*job.plan); !away.empty())
      reasons.push_back("not joined: " + away);
    // They are there, and have nothing to say to it.
    const bool there = std::any_of(job.shares.begin(), job.shares.end(),
                                   [](const Share& other) { return other.refused || other.wrong; });
    finish(id, there ? Status::failed : Status::no_device,
           "[infer] no device answers: " + base::joined(reasons, "; "));
    return false;
  }
  if (share.must_come || job.request.require_all) {
    finish(id, share.refused ? Status::failed : Status::no_device, need_of(*peers[device], why));
    return false;
  }
  for (const auto tag : std::exchange(share.tags, {}))
    compute.deliver(id, job.plan->rank(device), tag, net::Value::absent());
  return true;
}

/// Devices that were left out of the job because they were ejected are there when all others have
/// gone. False: there is none.
bool Aggregator::State::ask_ejected(Job& job) {
  // A later step of a text is nothing for who missed the one before.
  if (job.request.require_all || job.request.sequence.past != 0) return false;
  std::vector<std::size_t> back;
  for (std::size_t device = 0; device < job.shares.size(); ++device)
    if (job.shares[device].report.why == ejected_late && peers[device]->joined())
      back.push_back(device);
  if (back.empty()) return false;
  // Their parts were given up; fusing begins anew, and hears again who is absent.
  const auto& own = job.plan->own(*job.programs);
  compute.cancel(job.id);
  compute.admit(job.id, own, {job.request.input}, job.deadline);
  job.overdue = job.given_a_moment = false;
  set_timer(job, last_moment(job));
  const auto left = sequences.find(job.request.sequence.id);
  for (std::size_t device = 0; device < job.shares.size(); ++device) {
    auto& share = job.shares[device];
    share.tags = job.plan->tags_from(*job.programs, device);
    if (std::find(back.begin(), back.end(), device) == back.end()) {
      for (const auto tag : std::exchange(share.tags, {}))
        compute.deliver(job.id, job.plan->rank(device), tag, net::Value::absent());
      continue;
    }
    if (left != sequences.end()) left->second.left.erase(device);
    share.report.why.clear();
    share.late = false;
    // One that was ejected while it had the request still answers it.
    const bool has_it = peers[device]->has(job.id);
    share.stage = has_it ? Share::Stage::sent : Share::Stage::waiting;
    share.sent_at = has_it ? share.sent_at : Clock::now();
    if (has_it) continue;
    const auto expected =
        expected_of(job.plan->plan(), share.report.device, job.request.input.dims);
    peers[device]->enqueue(job.id, {least_wait(job), expected.whole_s});
  }
  keep_one_asked(*job.plan);
  for (const auto device : back) peers[device]->offer();
  return true;
}

std::string Aggregator::State::need_of(const Peer& peer, const std::string& why) {
  const bool dialled = why == not_joined && !peer.last_error().empty();
  return "[infer] device '" + peer.device() + "' at " + peer.address() + " is needed: " + why +
         (dialled ? " (" + peer.last_error() + ")" : "");
}

void Aggregator::State::received_share(Job& job, Share& share) {
  share.stage = Share::Stage::received;
  share.decided_at = Clock::now();
  share.report.present = true;
  share.report.round_trip_s = Seconds(share.decided_at - share.sent_at).count();
  if (!job.overdue) return give_up_if_all_late(job.id);
  // The first of a late company: the others get a moment.
  if (std::exchange(job.given_a_moment, true)) return;
  set_timer(job, std::min(last_moment(job), share.decided_at + least_wait(job)));
}

/// Compute thread.
void Aggregator::State::post_events(std::vector<Compute::Event> events) {
  asio::post(io, [this, events = std::move(events)]() mutable { take(std::move(events)); });
}

void Aggregator::State::take(std::vector<Compute::Event> events) {
  using What = Compute::Event::What;
  for (auto& event : events) {
    // What is sent is the request's input, which went behind each `admit`.
    if (event.what == What::send || !find_running(event.id)) continue;
    if (event.what == What::output)
      finish(event.id, Status::answered, "", std::move(event.value), event.times.compute_s);
    else if (event.what == What::failed)
      finish(event.id, Status::failed, event.text);
  }
}

void Aggregator::State::finish(Id id, Status status, const std::string& message, net::Value output,
                               double fuse_s) {
  const auto job = jobs.at(id);
  jobs.erase(id);
  job->timer.cancel();
  job->retry.cancel();
  if (!job->running) {
    const auto at = std::find(queue.begin(), queue.end(), id);
    if (at != queue.end()) queue.erase(at);
  }
  // Who computes together has computed it together.
  if (job->plan != nullptr && job->plan->is_coupled() && status == Status::answered)
    for (auto& share : job->shares) share.report.present = true;
  auto response = response_of(*job, Clock::now());
  response.status = status;
  response.message = message;
  response.output = std::move(output);
  response.fuse_s = fuse_s;
  answer(id, job->on_done, std::move(response));
  if (job->running) {
    --in_flight;
    in_flight_of_all -= job->request.require_all;
    tidy_up_after(*job, status == Status::answered || status == Status::failed);
  }
  if (ending.count(job->request.sequence.id) != 0) end_sequence(job->request.sequence.id);
  if (jobs.empty() && draining)
    for (auto& waiter : std::exchange(drained, {})) waiter.set_value();
  launch_next();
}

Response Aggregator::State::response_of(const Job& job, Clock::time_point now) const {
  Response response;
  response.total_s = Seconds(now - job.submitted).count();
  response.queue_s = Seconds((job.running ? job.launched : now) - job.arrived).count();
  double slowest_s = 0;
  for (const auto& share : job.shares) {
    if (share.stage == Share::Stage::none) continue;
    response.devices.push_back(share.report);
    // Waiting for a device that is late is its time, not ours.
    const auto until = share.open() ? now : share.decided_at;
    slowest_s = std::max(slowest_s, Seconds(until - share.sent_at).count());
  }
  response.overhead_s = std::max(0.0, response.total_s - response.queue_s - slowest_s);
  return response;
}

/// Whoever still works on it need not.
void Aggregator::State::tidy_up_after(Job& job, bool computed) {
  if (!computed) compute.cancel(job.id);
  for (auto& peer : peers) {
    peer->withdraw(job.id);
    peer->cancel(job.id);
  }
}

std::string Aggregator::State::sequence_objection(const Job& job) const {
  const Sequence& sequence = job.request.sequence;
  if (sequence.id == 0 || sequence.past == 0) return {};
  const std::string name = "sequence " + std::to_string(sequence.id) + ": ";
  const auto text = sequences.find(sequence.id);
  if (text == sequences.end()) return name + "is not known, needs to begin with its first tokens";
  if (text->second.plan == job.plan) return {};
  return name + "saw plan '" + job.plan->plan().name + "', began with '" +
         text->second.plan->plan().name + "'";
}

/// The device has not seen every token of the text: it is left out until the next one.
void Aggregator::State::leave(std::uint64_t sequence, std::size_t device, const std::string& why) {
  const auto at = sequences.find(sequence);
  if (at == sequences.end() || !at->second.left.emplace(device, why).second) return;
  log(base::LogLevel::detail, "[" + peers[device]->device() + "] sequence " +
                                  std::to_string(sequence) + ": goes on without it (" + why + ")");
}

void Aggregator::State::leave_all(std::size_t device, const std::string& why) {
  for (auto& [id, text] : sequences)
    if (text.plan->has(device)) leave(id, device, why);
}

/// After the requests of the text: one that is sent later would begin it again.
void Aggregator::State::end_sequence(std::uint64_t id) {
  const bool open = std::any_of(jobs.begin(), jobs.end(), [id](const auto& job) {
    return job.second->request.sequence.id == id;
  });
  if (open) {
    ending.insert(id);
    return;
  }
  ending.erase(id);
  if (sequences.erase(id) == 0) return;
  for (const auto& peer : peers) peer->end_sequence(id);
}

Aggregator::State::Job* Aggregator::State::find_running(Id id) {
  const auto at = jobs.find(id);
  return at != jobs.end() && at->second->running ? at->second.get() : nullptr;
}

void Aggregator::State::cancel(Id id) {
  if (jobs.count(id)) finish(id, Status::canceled, "[infer] canceled");
  if (const auto at = batches.find(id); at != batches.end())
    for (const auto piece : std::set(at->second->open())) cancel(piece);
}

void Aggregator::State::stop() {
  stopped = draining = true;
  queue.clear();
  while (!jobs.empty())
    finish(jobs.begin()->first, Status::canceled, "[infer] the aggregator stops");
  for (auto& peer : peers) peer->stop();
  work.reset();
  io.stop();
}

std::vector<AgentStatus> Aggregator::State::status() const {
  std::vector<AgentStatus> list;
  for (const auto& peer : peers) list.push_back(peer->status());
  return list;
}

Aggregator::Aggregator(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans,
                       std::unique_ptr<Engine> fusion, AggregatorOptions options) {
  options.check();
  state_ = std::make_shared<State>(bundle, plans, std::move(fusion), std::move(options));
  for (auto& peer : state_->peers) peer->start();
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
  const int wanted = count > 0 ? count : static_cast<int>(state_->peers.size());
  std::unique_lock lock(state_->joined_mutex);
  state_->joined_changed.wait_for(lock, timeout, [&] { return state_->num_joined >= wanted; });
  return state_->num_joined;
}

int Aggregator::wait_for_those_in_reach(std::chrono::milliseconds timeout) {
  const int all = static_cast<int>(state_->peers.size());
  std::unique_lock lock(state_->joined_mutex);
  state_->joined_changed.wait_for(lock, timeout, [&] {
    return state_->num_joined > 0 && state_->num_joined + state_->num_out_of_reach >= all;
  });
  return state_->num_joined;
}

std::uint64_t Aggregator::submit(Request request, std::function<void(Response)> on_done) {
  const auto job = std::make_shared<State::Job>(state_->io);
  job->id = state_->next_id++;
  job->request = std::move(request);
  job->on_done = std::move(on_done);
  job->submitted = Clock::now();
  job->deadline = job->submitted + std::min(job->request.deadline, longest_deadline);
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
    state->draining = true;
    if (state->jobs.empty())
      promise.set_value();
    else
      state->drained.push_back(std::move(promise));
  });
  drained.get();
}

asio::io_context& Aggregator::io() { return state_->io; }
std::vector<const plan::Plan*> Aggregator::plans() const {
  std::vector<const plan::Plan*> list;
  for (const auto& served : state_->plans) list.push_back(&served->plan());
  return list;
}
std::size_t Aggregator::places() const {
  return static_cast<std::size_t>(state_->options.max_in_flight + state_->options.max_queue);
}

}  // namespace cleave::infer
