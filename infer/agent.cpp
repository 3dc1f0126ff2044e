#include "infer/agent.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/units.hpp"
#include "infer/admission.hpp"
#include "infer/compute.hpp"
#include "infer/host.hpp"
#include "infer/links.hpp"
#include "infer/lot.hpp"
#include "infer/machine.hpp"
#include "infer/observation.hpp"
#include "infer/served_plan.hpp"
#include "net/mesh.hpp"
#include "optimizer/plan/cost.hpp"

namespace cleave::infer {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using net::Connection;

/// What came for a request that is not admitted here waits so long.
constexpr auto lot_patience = 10s;

/// Plans of one connection.
constexpr std::size_t most_plans = 64;

std::string saw(const std::string& what, const std::string& seen, const std::string& needed) {
  return what + ": saw '" + seen + "', needs '" + needed + "'";
}

}  // namespace

void AgentOptions::check() const {
  if (max_requests < 1 || max_requests > 1024)
    throw std::invalid_argument("[agent] max_requests: saw " + std::to_string(max_requests) +
                                ", needs 1..1024");
  if (!(memory_bytes >= 0))
    throw std::invalid_argument("[agent] memory_bytes: saw " + std::to_string(memory_bytes) +
                                ", needs 0 (no limit) or more");
}

struct Agent::State {
  /// One connection whose handshake is done.
  struct Session {
    std::shared_ptr<Connection> connection;
    std::string name;
    std::uint32_t epoch = 0;
    std::uint64_t origin = 0;
    std::map<std::uint64_t, std::uint64_t> sequences;          // the aggregator's -> ours
    std::map<std::uint64_t, std::string> forgotten;            // and why, until they end
    std::map<std::string, std::shared_ptr<DevicePlan>> plans;  // by digest
  };
  /// A text that is being generated, whose keys and values are kept here.
  struct Text {
    std::weak_ptr<Session> session;
    std::uint64_t theirs = 0;
    std::shared_ptr<DevicePlan> plan;
  };
  /// One admitted request.
  struct Task {
    std::weak_ptr<Session> session;
    std::shared_ptr<DevicePlan> plan;
    net::Envelope envelope;  // as the aggregator knows it
    Clock::time_point received_at;
    RequestName name;  // to the other agents
    bool dropping = false;
  };
  /// One that is observed, until the aggregator has been told of it: its last values may be under
  /// way when it is no task any more.
  struct Observed {
    std::weak_ptr<Session> session;
    std::shared_ptr<DevicePlan> plan;
    net::Envelope envelope;
    std::int64_t past = 0;
    Clock::time_point received_at;
    std::shared_ptr<Observation> observation;
  };

  State(const plan::Bundle& of, const std::vector<plan::Plan>& held, std::unique_ptr<Engine> engine,
        AgentOptions wanted)
      : options(std::move(wanted)),
        identity(of.identity()),
        plans(of, held, options.device),
        resident_bytes(resident_memory_bytes()),
        admission({options.memory_bytes, resident_bytes,
                   static_cast<std::size_t>(options.max_requests), options.sequence_rest}),
        host(std::make_shared<Host>(io, host_options(), host_hooks())),
        links(io, options.device, identity, options.wrap_stream, options.dial_from, link_events()),
        lot({options.waiting_bytes, lot_patience}),
        leaving_timer(io),
        resting_timer(io),
        lot_timer(io),
        compute(std::move(engine),
                [this](std::vector<Compute::Event> events) { post_events(std::move(events)); }) {
    for (const std::string& name : of.manifest().plans()) know_devices(of.plan(name));
  }

  void notice(const std::string& line) const {
    if (options.log) options.log(base::LogLevel::notice, line);
  }
  void detail(const std::string& line) const {
    if (options.log) options.log(base::LogLevel::detail, line);
  }

  // Connections.
  Host::Options host_options() const;
  Host::Hooks host_hooks();
  asio::awaitable<void> serve(std::shared_ptr<Connection> connection, std::string peer,
                              net::Hello hello);
  asio::awaitable<std::string> attend(std::shared_ptr<Session> session);
  asio::awaitable<void> serve_link(std::shared_ptr<Connection> connection, std::string peer,
                                   net::Hello hello);
  void open(Connection& connection) const;
  std::string objection(const net::Hello& hello) const;
  net::Welcome welcome(const net::Hello& hello) const;
  void end(const std::shared_ptr<Session>& session, const std::string& why);
  bool handle(const std::shared_ptr<Session>& session, Connection::Received received);

  // Plans.
  void know_devices(const plan::Plan& plan);
  void take_plan(Session& session, const net::PlanMessage& message);

  // Other agents.
  Links::Events link_events();
  void take_input(const Session& session, net::ValueMessage message, const Arrival& arrival);
  void take_value(const std::string& from, net::ValueMessage message, const Arrival& arrival);
  void deliver(std::uint64_t id, std::int32_t rank, const std::string& from,
               net::ValueMessage message, const Arrival& arrival);
  void lose_link(const std::string& from);
  void expire_lot();

  // Requests.
  void admit(const std::shared_ptr<Session>& session, const net::Admit& admit);
  void refuse_for_now(const Session& session, const net::Envelope& envelope,
                      const std::string& why = {});
  void drop(const std::shared_ptr<Session>& session, std::uint64_t request);
  void drop(std::uint64_t id);
  void post_events(std::vector<Compute::Event> events);
  void take(std::vector<Compute::Event> events);
  void forward(const Task& task, Compute::Event event, bool last);
  bool forward_to_agent(std::uint64_t id, Compute::Event event);
  void finish(std::uint64_t id);
  std::shared_ptr<Observation> observe(std::uint64_t id, const net::Admit& admit,
                                       std::shared_ptr<const plan::Program> program);
  std::shared_ptr<Observation::Sending> sending(std::uint64_t id, std::int32_t to,
                                                std::uint32_t tag);
  void tell(std::uint64_t id);
  void fail(const std::shared_ptr<Session>& session, const net::Envelope& envelope,
            const std::string& text);
  void abort(const std::shared_ptr<Session>& session, const net::Envelope& envelope,
             const std::string& lost);

  // Sequences.
  std::string objection(const Session& session, const DevicePlan& plan,
                        const net::Admit& admit) const;
  Sequence enter(const std::shared_ptr<Session>& session, const std::shared_ptr<DevicePlan>& plan,
                 const net::Admit& admit, const Admission::Wanted& wanted);
  static double step_bytes(DevicePlan& plan, const plan::RequestShape& step);
  void forget(std::uint64_t sequence, const std::string& why);
  void end_sequence(Session& session, std::uint64_t theirs);
  void forget_resting();

  // The end.
  void drain();
  void give_up();
  void leave_when_idle();
  void leave();

  AgentOptions options;
  std::string identity;
  DevicePlans plans;
  double resident_bytes;  // with the weights, before computing
  Admission admission;
  asio::io_context io;  // outlives what its coroutines hold
  std::shared_ptr<Host> host;
  Links links;
  Lot lot;
  asio::steady_timer leaving_timer, resting_timer, lot_timer;
  std::set<std::shared_ptr<Session>> sessions;
  std::map<std::uint64_t, Task> tasks;
  std::map<std::uint64_t, Observed> observed;
  std::map<RequestName, std::uint64_t> named;  // those of `tasks` that are not being dropped
  std::map<std::uint64_t, Text> texts;
  std::uint64_t next_task = 1, next_sequence = 1;
  bool draining = false, leaving = false;
  Compute compute;  // last: its thread ends first
};

Host::Options Agent::State::host_options() const {
  Host::Options wanted;
  wanted.listen = options.listen;
  wanted.insecure = options.insecure;
  wanted.name = "agent '" + options.device + "': ";
  wanted.wrap_stream = options.wrap_stream;
  wanted.log = options.log;
  return wanted;
}

Host::Hooks Agent::State::host_hooks() {
  Host::Hooks hooks;
  hooks.settings = [this] {
    net::ConnectionOptions settings;
    settings.describe = [this](net::Pong& pong) {
      pong.memory_bytes = peak_memory_bytes();
      pong.queued = static_cast<std::int64_t>(tasks.size());
    };
    return settings;
  };
  hooks.objection = [this](const net::Hello& hello) { return objection(hello); };
  hooks.attend = [this](std::shared_ptr<Connection> connection, std::string peer,
                        net::Hello hello) {
    return hello.role == net::Role::agent
               ? serve_link(std::move(connection), std::move(peer), std::move(hello))
               : serve(std::move(connection), std::move(peer), std::move(hello));
  };
  return hooks;
}

/// An aggregator's connection.
asio::awaitable<void> Agent::State::serve(std::shared_ptr<Connection> connection, std::string peer,
                                          net::Hello hello) {
  const auto session = std::make_shared<Session>();
  session->connection = connection;
  session->name = hello.name + " at " + peer;
  session->epoch = hello.epoch;
  session->origin = hello.origin;
  connection->send(welcome(hello));
  open(*connection);
  sessions.insert(session);
  notice("[" + session->name + "] joined");
  std::string why;
  try {
    auto attending = attend(session);
    why = co_await std::move(attending);
  } catch (const std::exception& error) {
    why = error.what();
    connection->close(net::Errc::closed);
  }
  end(session, why);
}

/// What comes after the handshake.
void Agent::State::open(Connection& connection) const {
  connection.expire_after(0ms);
  net::Limits limits;
  if (options.memory_bytes > 0)
    limits.max_payload =
        std::min(limits.max_payload, static_cast<std::uint64_t>(options.memory_bytes));
  connection.set_limits(limits);
  connection.start_heartbeat();
}

asio::awaitable<void> Agent::State::serve_link(std::shared_ptr<Connection> connection,
                                               std::string peer, net::Hello hello) {
  std::string from, wrong;
  try {
    from = links.greeted(hello);
  } catch (const std::invalid_argument& error) {
    wrong = error.what();
  }
  if (!wrong.empty()) {
    auto refusing = host->refuse(connection, peer, wrong);
    co_await std::move(refusing);
    co_return;
  }
  connection->send(welcome(hello));
  open(*connection);
  auto attending = links.attend(from, connection);
  co_await std::move(attending);
}

/// Empty where an aggregator, or another agent of the plan, means this agent.
std::string Agent::State::objection(const net::Hello& hello) const {
  if (hello.role == net::Role::client) return saw("role", "client", "aggregator");
  if (hello.role == net::Role::aggregator && hello.origin == 0)
    return "origin: saw 0, needs a number that names the aggregator";
  if (hello.bundle != identity) return saw("bundle", hello.bundle, identity);
  if (hello.device != options.device) return saw("device", hello.device, options.device);
  if (draining) return "draining, no new work";
  return {};
}

net::Welcome Agent::State::welcome(const net::Hello& hello) const {
  net::Welcome welcome;
  welcome.epoch = hello.epoch;
  welcome.bundle = identity;
  welcome.device = options.device;
  welcome.max_requests = static_cast<std::uint32_t>(options.max_requests);
  welcome.memory_bytes = options.memory_bytes;
  return welcome;
}

/// Returns why the connection ended.
asio::awaitable<std::string> Agent::State::attend(std::shared_ptr<Session> session) {
  while (true) {
    auto receiving = session->connection->receive();
    auto received = co_await std::move(receiving);
    if (!received) co_return received.error().message();
    if (!handle(session, std::move(*received))) {
      session->connection->close(net::Errc::unexpected_message);
      co_return session->connection->why().message();
    }
  }
}

void Agent::State::end(const std::shared_ptr<Session>& session, const std::string& why) {
  notice("[" + session->name + "] lost: " + why);
  sessions.erase(session);
  for (auto& [id, task] : tasks) {
    if (task.session.lock() == session && !task.dropping) drop(id);
  }
  while (!session->sequences.empty()) end_sequence(*session, session->sequences.begin()->first);
  if (leaving && sessions.empty()) io.stop();
}

/// False: the message does not belong here.
bool Agent::State::handle(const std::shared_ptr<Session>& session, Connection::Received received) {
  net::Message& message = received.message;
  if (const auto* offered = std::get_if<net::Admit>(&message)) {
    // A stale plan: whoever sent it has learnt of a newer one by now.
    if (offered->epoch == session->epoch) admit(session, *offered);
    return true;
  }
  if (auto* value = std::get_if<net::ValueMessage>(&message)) {
    take_input(*session, std::move(*value), arrival_of(received));
    return true;
  }
  if (const auto* cancel = std::get_if<net::Cancel>(&message)) {
    drop(session, cancel->request);
    return true;
  }
  if (const auto* abort = std::get_if<net::Abort>(&message)) {
    drop(session, abort->request);
    return true;
  }
  if (const auto* routes = std::get_if<net::Routes>(&message)) {
    links.dial(*routes);
    return true;
  }
  if (const auto* plan = std::get_if<net::PlanMessage>(&message)) {
    take_plan(*session, *plan);
    return true;
  }
  if (const auto* ended = std::get_if<net::EndSequence>(&message)) {
    end_sequence(*session, ended->sequence);
    return true;
  }
  return std::holds_alternative<net::Bye>(message) || std::holds_alternative<net::Drain>(message);
}

/// Of all plans that the bundle has or that are sent, so that whoever serves one of them first
/// finds the others waiting for its link.
void Agent::State::know_devices(const plan::Plan& plan) { links.know(plan::devices_of(plan)); }

void Agent::State::take_plan(Session& session, const net::PlanMessage& message) {
  net::PlanReply reply;
  reply.epoch = session.epoch;
  reply.digest = message.digest;
  try {
    if (session.plans.size() >= most_plans && session.plans.count(message.digest) == 0)
      throw std::invalid_argument("plans: saw " + std::to_string(most_plans) +
                                  " on this connection, takes no more");
    auto plan = plans.take(message);
    know_devices(plan->plan());
    session.plans[message.digest] = std::move(plan);
  } catch (const std::exception& error) {
    reply.refusal = std::string(error.what()).substr(0, 2000);
    notice("[" + session.name + "] refused: " + reply.refusal);
  }
  session.connection->send(reply);
}

void Agent::State::admit(const std::shared_ptr<Session>& session, const net::Admit& admit) {
  const auto received_at = Clock::now();
  const net::Envelope& envelope = admit;
  const auto known = session->plans.find(admit.plan);
  if (known == session->plans.end())
    return fail(
        session, envelope,
        "plan: saw " + admit.plan.substr(0, 12) + ", which was not sent on this connection");
  const std::shared_ptr<DevicePlan> served = known->second;
  std::shared_ptr<const plan::Program> program;
  try {
    // What was kept is of the step before, with as many tokens.
    const std::int64_t past = admit.past - (admit.from_kept ? admit.tokens : 0);
    program =
        served->program({admit.batch, admit.tokens, 0, admit.best, admit.from_kept, past > 0});
  } catch (const std::exception& error) {
    return fail(session, envelope, error.what());
  }
  if (admit.digest != program->digest)
    return fail(session, envelope, saw("program digest", admit.digest, program->digest));
  const RequestName request{session->origin, admit.request};
  if (named.count(request) != 0)
    return fail(session, envelope,
                "request " + std::to_string(admit.request) + ": is admitted already");
  if (const std::string missing = links.missing(served->peers()); !missing.empty())
    return refuse_for_now(*session, envelope, "no link to " + missing);
  if (lot.overflowed(request)) {
    lot.take(request);
    return fail(session, envelope,
                "values of it came before it was admitted, and all that wait take more than " +
                    base::format_bytes(static_cast<double>(lot.most_bytes())));
  }

  const auto room = room_of(*program, served->plan());
  if (!admission.could_fit(room))
    return fail(session, envelope,
                "memory: saw a program whose peak is " +
                    base::format_bytes(resident_bytes + room.bytes()) + ", needs at most " +
                    base::format_bytes(options.memory_bytes));
  const std::string name =
      admit.sequence == 0 ? "" : "sequence " + std::to_string(admit.sequence) + ": ";
  Admission::Wanted wanted{room, 0, 0, 0};
  if (admit.sequence != 0) {
    if (admit.past == 0) end_sequence(*session, admit.sequence);
    if (const auto wrong = objection(*session, *served, admit); !wrong.empty())
      return fail(session, envelope, name + wrong);
    if (admit.past == 0) {
      wanted.cache_bytes = plan::cache_bytes(*program, served->plan(), admit.batch, admit.capacity);
      wanted.step_bytes = step_bytes(*served, {admit.batch, 1, 0, admit.best, false, true});
    } else {
      wanted.text = session->sequences.at(admit.sequence);
      admission.use(wanted.text, received_at);  // also where it has to wait
    }
  }
  if (draining || admission.is_full()) return refuse_for_now(*session, envelope);
  const auto made = admission.make_room(wanted, Clock::now());
  for (const auto text : made.gone) forget(text, "forgotten to make room for another text");
  switch (made.fit) {
    case Admission::Fit::now:
      break;
    case Admission::Fit::later:
      return refuse_for_now(*session, envelope);
    case Admission::Fit::never:
      return fail(session, envelope,
                  name + "memory: saw no room for " + base::format_bytes(wanted.cache_bytes) +
                      " of keys and values and " + base::format_bytes(room.bytes()) +
                      " to compute in, gives " + base::format_bytes(options.memory_bytes));
  }
  const Sequence sequence = enter(session, served, admit, wanted);
  const auto id = next_task++;
  tasks[id] = Task{session, served, envelope, received_at, request};
  named[request] = id;
  admission.begin(id, room, sequence.id, Clock::now());
  const auto observation =
      admit.observe == net::Observe::nothing ? nullptr : observe(id, admit, program);
  compute.admit(id, std::move(program), {},
                received_at + std::chrono::milliseconds(admit.deadline_ms), sequence,
                observation ? observation->most_recorded() : 0);
  for (Lot::Waiting& value : lot.take(request))
    if (const auto from = served->rank_of(value.from))
      deliver(id, *from, value.from, std::move(value.message), value.arrival);
}

/// Of a task that has just begun.
std::shared_ptr<Observation> Agent::State::observe(std::uint64_t id, const net::Admit& admit,
                                                   std::shared_ptr<const plan::Program> program) {
  if (tasks.size() == 1) reset_recent_peak();
  const Task& task = tasks.at(id);
  const auto observation =
      std::make_shared<Observation>(admit.observe, std::move(program), [this, id] { tell(id); });
  observed[id] = {task.session, task.plan,        task.envelope,
                  admit.past,   task.received_at, observation};
  return observation;
}

/// What a value of an observed request holds while it is sent; of any other null.
std::shared_ptr<Observation::Sending> Agent::State::sending(std::uint64_t id, std::int32_t to,
                                                            std::uint32_t tag) {
  const auto at = observed.find(id);
  if (at == observed.end()) return nullptr;
  const DevicePlan& plan = *at->second.plan;
  const std::string peer = to == plan.aggregator_rank()
                               ? plan::aggregator_process(plan.plan().aggregator)
                               : plan.device(to);
  return Observation::send(at->second.observation, to, peer, tag, Clock::now());
}

/// All that there is to tell of an observed request is known.
void Agent::State::tell(std::uint64_t id) {
  const auto at = observed.find(id);
  if (at == observed.end()) return;
  const Observed request = std::move(at->second);
  observed.erase(at);
  const auto session = request.session.lock();
  if (!session) return;
  net::Done done;
  static_cast<net::Envelope&>(done) = request.envelope;
  done.last = true;
  done.account = request.observation->account();
  done.account.flops =
      plan::flops_of(request.observation->program(), request.plan->plan(), request.past);
  done.account.peak_memory_bytes = recent_peak_bytes();
  done.queued_s = done.account.queued_s;
  done.compute_s = done.account.compute_s;
  done.wait_s = done.account.wait_s;
  session->connection->send(done);
}

void Agent::State::refuse_for_now(const Session& session, const net::Envelope& envelope,
                                  const std::string& why) {
  net::Busy busy;
  static_cast<net::Envelope&>(busy) = envelope;
  busy.last = true;
  busy.text = why;
  session.connection->send(busy);
}

/// Why the request's sequence can neither begin nor go on here; empty where it can.
std::string Agent::State::objection(const Session& session, const DevicePlan& plan,
                                    const net::Admit& admit) const {
  if (admit.past == 0) {
    const model::ModelConfig& model = plan.plan().teacher;
    if (!model.causal) return "saw a model that does not generate";
    if (admit.capacity < admit.tokens || admit.capacity > model.context)
      return saw("capacity", std::to_string(admit.capacity),
                 std::to_string(admit.tokens) + ".." + std::to_string(model.context));
    return {};
  }
  if (const auto at = session.sequences.find(admit.sequence); at != session.sequences.end())
    return texts.at(at->second).plan.get() == &plan ? "" : "saw another plan than its first tokens";
  if (const auto why = session.forgotten.find(admit.sequence); why != session.forgotten.end())
    return why->second;
  return "saw none of its tokens, needs the " + std::to_string(admit.past) +
         " before (was this agent restarted?)";
}

/// The request's sequence, whose room was made, begins or goes on.
Sequence Agent::State::enter(const std::shared_ptr<Session>& session,
                             const std::shared_ptr<DevicePlan>& plan, const net::Admit& admit,
                             const Admission::Wanted& wanted) {
  if (admit.sequence == 0) return {};
  if (admit.past == 0) {
    const auto ours = next_sequence++;
    session->sequences[admit.sequence] = ours;
    texts[ours] = Text{session, admit.sequence, plan};
    admission.keep(ours, wanted.cache_bytes, wanted.step_bytes, Clock::now());
    if (texts.size() == 1) forget_resting();
  }
  return {session->sequences.at(admit.sequence), admit.past, admit.capacity};
}

/// What a further token computes in.
double Agent::State::step_bytes(DevicePlan& plan, const plan::RequestShape& step) {
  return room_of(*plan.program(step), plan.plan()).bytes();
}

void Agent::State::forget(std::uint64_t sequence, const std::string& why) {
  const auto text = texts.at(sequence);
  texts.erase(sequence);
  admission.forget(sequence);
  compute.forget(sequence);
  const auto session = text.session.lock();
  if (!session) return;
  session->sequences.erase(text.theirs);
  session->forgotten[text.theirs] = why;
  detail("[" + session->name + "] sequence " + std::to_string(text.theirs) + ": " + why);
}

/// Nobody goes on with it.
void Agent::State::end_sequence(Session& session, std::uint64_t theirs) {
  session.forgotten.erase(theirs);
  const auto at = session.sequences.find(theirs);
  if (at == session.sequences.end()) return;
  texts.erase(at->second);
  admission.forget(at->second);
  compute.forget(at->second);
  session.sequences.erase(at);
}

/// Looks for sequences that rested too long, as long as there are any.
void Agent::State::forget_resting() {
  for (const auto id : admission.unused_for(options.sequence_idle, Clock::now()))
    forget(id,
           "forgotten after " +
               base::format_seconds(std::chrono::duration<double>(options.sequence_idle).count()) +
               " without a token");
  if (texts.empty()) return;
  resting_timer.expires_after(
      std::clamp<std::chrono::milliseconds>(options.sequence_idle / 4, 10ms, 10s));
  resting_timer.async_wait([this](boost::system::error_code error) {
    if (!error) forget_resting();
  });
}

void Agent::State::drop(const std::shared_ptr<Session>& session, std::uint64_t request) {
  for (auto& [id, task] : tasks) {
    if (task.envelope.request == request && task.session.lock() == session && !task.dropping)
      drop(id);
  }
}

void Agent::State::drop(std::uint64_t id) {
  Task& task = tasks.at(id);
  task.dropping = true;
  named.erase(task.name);
  compute.cancel(id);
}

Links::Events Agent::State::link_events() {
  Links::Events events;
  events.value = [this](const std::string& from, net::ValueMessage message,
                        const Arrival& arrival) { take_value(from, std::move(message), arrival); };
  events.lost = [this](const std::string& from, const std::string&) { lose_link(from); };
  events.log = [this](base::LogLevel level, const std::string& line) {
    if (options.log) options.log(level, line);
  };
  return events;
}

/// Behind a request that is admitted; one that was refused has no use for it.
void Agent::State::take_input(const Session& session, net::ValueMessage message,
                              const Arrival& arrival) {
  const auto at = named.find({session.origin, message.request});
  if (at == named.end() || message.epoch != session.epoch) return;
  const DevicePlan& plan = *tasks.at(at->second).plan;
  deliver(at->second, plan.aggregator_rank(), plan::aggregator_process(plan.plan().aggregator),
          std::move(message), arrival);
}

void Agent::State::deliver(std::uint64_t id, std::int32_t rank, const std::string& from,
                           net::ValueMessage message, const Arrival& arrival) {
  if (const auto at = observed.find(id); at != observed.end())
    at->second.observation->received(rank, from, message.tag, arrival);
  compute.deliver(id, rank, message.tag, std::move(message.tensor));
}

/// For a request that is admitted, or for one that may be.
void Agent::State::take_value(const std::string& from, net::ValueMessage message,
                              const Arrival& arrival) {
  const RequestName request{message.origin, message.request};
  if (const auto at = named.find(request); at != named.end()) {
    if (const auto rank = tasks.at(at->second).plan->rank_of(from))
      deliver(at->second, *rank, from, std::move(message), arrival);
    return;
  }
  lot.add(request, from, std::move(message), Clock::now(), arrival);
  if (lot_timer.expiry() <= Clock::now()) expire_lot();
}

/// Ends what waits for a value of that agent.
void Agent::State::lose_link(const std::string& from) {
  for (const auto& [id, task] : tasks)
    if (const auto rank = task.plan->rank_of(from)) compute.peer_lost(id, *rank);
}

void Agent::State::expire_lot() {
  lot.expire(Clock::now());
  const auto next = lot.next();
  if (!next) return;
  lot_timer.expires_at(*next);
  lot_timer.async_wait([this](boost::system::error_code error) {
    if (!error) expire_lot();
  });
}

/// Compute thread.
void Agent::State::post_events(std::vector<Compute::Event> events) {
  asio::post(io, [this, events = std::move(events)]() mutable { take(std::move(events)); });
}

void Agent::State::take(std::vector<Compute::Event> events) {
  using What = Compute::Event::What;
  for (std::size_t i = 0; i < events.size(); ++i) {
    auto& event = events[i];
    const auto id = event.id;
    const auto at = tasks.find(id);
    if (at == tasks.end()) continue;
    const auto& task = at->second;
    const auto session = task.session.lock();
    // Nobody waits for it; `dropped` comes when nothing is held any more.
    if (task.dropping && event.what != What::dropped) continue;
    if (event.what == What::send && event.peer != task.plan->aggregator_rank()) {
      const std::int32_t to = event.peer;
      if (forward_to_agent(id, std::move(event))) continue;
      if (session) abort(session, task.envelope, task.plan->device(to));
      drop(id);
      continue;
    }
    if (event.what == What::send) {
      // The last value says so itself and saves a frame, where nobody is to be told more.
      const bool last = i + 1 < events.size() && events[i + 1].id == id &&
                        events[i + 1].what == What::finished && observed.count(id) == 0;
      forward(task, std::move(event), last);
      if (!last) continue;
      ++i;
    } else if (event.what == What::failed) {
      if (session && event.peer >= 0)
        abort(session, task.envelope, task.plan->device(event.peer));
      else if (session)
        fail(session, task.envelope, event.text);
    } else if (event.what == What::output) {
      continue;
    } else if (const auto watched = observed.find(id);
               watched != observed.end() && event.what == What::finished) {
      const auto observation = watched->second.observation;  // the last word may end it
      const std::chrono::duration<double> total = Clock::now() - task.received_at;
      event.times.queued_s =
          std::max(0.0, total.count() - event.times.compute_s - event.times.wait_s);
      observation->finished(event.times, std::move(event.ran));
    } else if (session) {
      net::Done done;
      static_cast<net::Envelope&>(done) = task.envelope;
      done.last = true;
      done.compute_s = event.times.compute_s;
      done.wait_s = event.times.wait_s;
      done.queued_s = event.times.queued_s;
      session->connection->send(done);
    }
    if (event.what != What::finished) observed.erase(id);
    finish(id);
  }
}

void Agent::State::forward(const Task& task, Compute::Event event, bool last) {
  const auto session = task.session.lock();
  if (!session) return;
  const std::chrono::duration<double> total = Clock::now() - task.received_at;
  net::ValueMessage message;
  static_cast<net::Envelope&>(message) = task.envelope;
  message.tag = event.tag;
  message.last = last;
  message.compute_s = event.times.compute_s;
  message.wait_s = event.times.wait_s;
  // Everything else is waiting for its turn, also before the executor saw it.
  message.queued_s = std::max(0.0, total.count() - message.compute_s - message.wait_s);
  message.tensor = std::move(event.value);
  const auto until_written = sending(event.id, event.peer, event.tag);
  const auto bytes = session->connection->send(message, until_written);
  if (until_written) until_written->bytes = bytes;
}

/// False: there is no link.
bool Agent::State::forward_to_agent(std::uint64_t id, Compute::Event event) {
  const Task& task = tasks.at(id);
  net::ValueMessage message;
  message.request = task.name.request;
  message.origin = task.name.origin;
  message.tag = event.tag;
  message.compute_s = event.times.compute_s;
  message.wait_s = event.times.wait_s;
  message.queued_s = event.times.queued_s;
  message.tensor = std::move(event.value);
  const auto until_written = sending(id, event.peer, event.tag);
  const auto bytes = links.send(task.plan->device(event.peer), message, until_written);
  if (until_written) until_written->bytes = bytes;
  return bytes > 0;
}

void Agent::State::finish(std::uint64_t id) {
  admission.end(id, Clock::now());
  const auto at = tasks.find(id);
  if (!at->second.dropping) named.erase(at->second.name);
  tasks.erase(at);
  if (draining) leave_when_idle();
}

void Agent::State::fail(const std::shared_ptr<Session>& session, const net::Envelope& envelope,
                        const std::string& text) {
  net::Failed failed;
  static_cast<net::Envelope&>(failed) = envelope;
  failed.last = true;
  failed.text = text.substr(0, 2000);
  session->connection->send(failed);
  detail("[" + session->name + "] request " + std::to_string(envelope.request) + ": " + text);
}

/// Another device is gone without which the request cannot be completed here.
void Agent::State::abort(const std::shared_ptr<Session>& session, const net::Envelope& envelope,
                         const std::string& lost) {
  net::Abort message;
  static_cast<net::Envelope&>(message) = envelope;
  message.last = true;
  message.text = "lost '" + lost + "'";
  session->connection->send(message);
  detail("[" + session->name + "] request " + std::to_string(envelope.request) + ": " +
         message.text);
}

void Agent::State::drain() {
  if (draining) return;
  draining = true;
  notice("[agent " + options.device + "] draining: " + std::to_string(tasks.size()) +
         " requests left");
  host->close();
  for (const auto& session : sessions) session->connection->send(net::Drain{});
  leaving_timer.expires_after(options.drain_patience);
  leaving_timer.async_wait([this](boost::system::error_code error) {
    if (!error && !leaving) give_up();
  });
  leave_when_idle();
}

/// Draining took too long: whoever still waits is told, and hears nothing after it.
void Agent::State::give_up() {
  notice("[agent " + options.device + "] drained no longer: " + std::to_string(tasks.size()) +
         " requests given up");
  for (auto& [id, task] : tasks) {
    if (const auto session = task.session.lock(); session && !task.dropping)
      fail(session, task.envelope, "draining, no time is left");
    if (!task.dropping) drop(id);
  }
  leave();
}

void Agent::State::leave_when_idle() {
  if (!leaving && tasks.empty()) leave();
}

void Agent::State::leave() {
  leaving = true;
  links.stop();
  if (sessions.empty()) return io.stop();
  for (const auto& session : sessions) host->part_from(*session->connection);
  leaving_timer.expires_after(Host::longest_parting);
  leaving_timer.async_wait([this](boost::system::error_code error) {
    if (!error) io.stop();
  });
}

Agent::Agent(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans,
             std::unique_ptr<Engine> engine, AgentOptions options) {
  options.check();
  state_ = std::make_unique<State>(bundle, plans, std::move(engine), std::move(options));
}

Agent::~Agent() = default;

void Agent::run() {
  auto& state = *state_;
  state.host->run();
  if (state.options.on_listening) state.options.on_listening(state.host->address());
  const auto work = asio::make_work_guard(state.io);
  net::run(state.io, [&state](const std::string& why) { state.notice("[agent] " + why); });
}

void Agent::drain() {
  asio::post(state_->io, [state = state_.get()] { state->drain(); });
}

void Agent::stop() { state_->io.stop(); }

}  // namespace cleave::infer
