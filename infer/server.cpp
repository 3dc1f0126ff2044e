#include "infer/server.hpp"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "base/units.hpp"
#include "infer/host.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/image_config.hpp"
#include "net/mesh.hpp"

namespace cleave::infer {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using net::Connection;

Request request_of(net::InferRequest message) {
  Request request;
  request.deadline = std::chrono::milliseconds(message.deadline_ms);
  request.require_all = message.require_all;
  request.observe = message.observe;
  request.plan = std::move(message.plan);
  request.sequence = {message.sequence, message.past, message.capacity};
  if (const net::Choosing& choosing = message.choosing; choosing.wanted)
    request.sampling = {{choosing.temperature, choosing.top_k, choosing.top_p,
                         choosing.repetition_penalty, choosing.seed},
                        choosing.step,
                        choosing.vocabulary};
  request.input = std::move(message.tensor);
  return request;
}

constexpr std::size_t most_happenings_of_an_answer = 5000;

void keep_happenings(net::Account& account, std::size_t most) {
  if (account.happenings.size() <= most) return;
  account.left_out += account.happenings.size() - most;
  account.happenings.resize(most);
}

net::InferAnswer answer_of(std::uint64_t request, Response response) {
  net::InferAnswer answer;
  answer.request = request;
  answer.last = true;
  answer.status = static_cast<std::uint8_t>(response.status);
  answer.text = response.message.substr(0, 4000);
  answer.queue_s = response.queue_s;
  answer.fuse_s = response.fuse_s;
  answer.total_s = response.total_s;
  answer.overhead_s = response.overhead_s;
  answer.devices = std::move(response.devices);
  for (DeviceReport& report : answer.devices) report.why = report.why.substr(0, 400);
  answer.aggregator = std::move(response.aggregator);
  // A frame holds so many.
  const std::size_t most = most_happenings_of_an_answer / (answer.devices.size() + 1);
  for (DeviceReport& report : answer.devices) keep_happenings(report.account, most);
  keep_happenings(answer.aggregator, most);
  if (response.status == Status::answered) answer.tensor = std::move(response.output);
  return answer;
}

net::StatusReply reply_of(std::vector<AgentStatus> agents, std::vector<PlanStatus> plans) {
  net::StatusReply reply;
  reply.agents = std::move(agents);
  for (AgentStatus& agent : reply.agents)
    agent.last_error = agent.last_error.substr(0, 400);  // a peer's words, perhaps
  reply.plans = std::move(plans);
  return reply;
}

}  // namespace

/// Lives on the aggregator's I/O thread; its coroutines keep it alive.
struct Server::State : std::enable_shared_from_this<Server::State> {
  struct Session {
    std::shared_ptr<Connection> connection;
    std::string name;
    std::map<std::uint64_t, std::uint64_t> open;       // client's request -> ours
    std::map<std::uint64_t, std::uint64_t> sequences;  // client's -> ours
  };

  State(Aggregator& to, const plan::Bundle& bundle, ServerOptions wanted)
      : aggregator(to),
        io(to.io()),
        options(std::move(wanted)),
        budget(std::make_shared<net::PayloadBudget>(options.request_bytes)),
        leaving_timer(io),
        draining_timer(io) {
    welcome.bundle = bundle.identity();
    const model::ModelConfig& teacher = to.plans().front()->teacher;
    auto config = model::config_to_json(teacher);
    if (!teacher.is_text()) config["processing"] = model::processing_to_json(teacher.processing);
    config[plans_key] = nlohmann::json::object();
    for (const plan::Plan* plan : to.plans()) {
      PlanStatus status;
      status.name = plan->name;
      status.strategy = plan->strategy;
      status.weights = plan::name_of(plan::weights_state(bundle, *plan));
      status.devices = base::joined(plan::devices_of(*plan));
      config[plans_key][status.name] = status.weights;
      plans.push_back(std::move(status));
    }
    config[default_plan_key] = plans.front().name;
    welcome.model_json = config.dump();
  }

  void notice(const std::string& line) const {
    if (options.log) options.log(base::LogLevel::notice, line);
  }
  void listen();
  void start();
  asio::awaitable<void> serve(std::shared_ptr<Connection> connection, std::string peer);
  void refuse(Connection& connection, const net::Header& header) const;
  asio::awaitable<std::string> attend(std::shared_ptr<Session> session);
  bool handle(const std::shared_ptr<Session>& session, net::Message message);
  void infer(const std::shared_ptr<Session>& session, net::InferRequest message);
  void end_text(Session& session, std::uint64_t theirs);
  std::size_t fair_share(const Session& session) const;
  void answer(const std::shared_ptr<Session>& session, std::uint64_t request,
              std::uint64_t begun_text, Response response);
  void cancel(Session& session, std::uint64_t request);
  void end(const std::shared_ptr<Session>& session, const std::string& why);
  void drain();
  void leave_when_idle();
  void give_up();
  void leave();
  void stop();
  void wait_until_ended();

  Aggregator& aggregator;
  asio::io_context& io;
  ServerOptions options;
  std::shared_ptr<net::PayloadBudget> budget;
  net::Welcome welcome;
  std::vector<PlanStatus> plans;
  std::shared_ptr<Host> host;
  asio::steady_timer leaving_timer, draining_timer;
  std::set<std::shared_ptr<Session>> sessions;
  std::size_t num_open = 0;
  bool draining = false, leaving = false;

  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;  // guarded
};

/// Once this value is shared: connections may outlive the server.
void Server::State::listen() {
  Host::Options wanted;
  wanted.listen = options.listen;
  wanted.insecure = options.insecure;
  wanted.most_connections = options.max_clients;
  wanted.log = options.log;
  Host::Hooks hooks;
  hooks.settings = [this, weak = weak_from_this()] {
    net::ConnectionOptions settings;
    if (weak.expired()) return settings;
    settings.budget = budget;
    settings.no_room = [this](Connection& to, const net::Header& header) { refuse(to, header); };
    return settings;
  };
  hooks.objection = [weak = weak_from_this()](const net::Hello& hello) -> std::string {
    const auto self = weak.lock();
    if (!self || self->draining) return "draining, no new clients";
    return hello.role == net::Role::client
               ? ""
               : "handshake: this is a server, needs the hello of a client";
  };
  // Whoever was not objected to meets a server that is there.
  hooks.attend = [this](std::shared_ptr<Connection> connection, std::string peer, net::Hello) {
    return serve(std::move(connection), std::move(peer));
  };
  host = std::make_shared<Host>(io, std::move(wanted), std::move(hooks));
}

void Server::State::start() {
  if (!draining) host->run();
}

asio::awaitable<void> Server::State::serve(std::shared_ptr<Connection> connection,
                                           std::string peer) {
  const auto self = shared_from_this();
  const auto session = std::make_shared<Session>();
  session->connection = connection;
  session->name = peer;
  connection->send(welcome);
  connection->expire_after(0ms);
  connection->set_limits({});
  connection->start_heartbeat();
  sessions.insert(session);
  notice("[" + peer + "] client joined");
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

/// There was no memory for its payload.
void Server::State::refuse(Connection& connection, const net::Header& header) const {
  if (header.kind != static_cast<std::uint16_t>(net::Kind::infer_request))
    return connection.close(net::Errc::unexpected_message);
  const auto size = base::format_bytes(static_cast<double>(header.payload_length));
  const auto all = base::format_bytes(static_cast<double>(budget->bytes()));
  Response refusal;
  refusal.status = Status::overloaded;
  refusal.message = header.payload_length > budget->bytes()
                        ? "[serve] memory: saw a request of " + size + ", takes at most " + all
                        : "[serve] memory: saw no room for a request of " + size +
                              " beside those of others, gives " + all + " to all";
  connection.send(answer_of(header.request, std::move(refusal)));
}

/// Returns why the connection ended.
asio::awaitable<std::string> Server::State::attend(std::shared_ptr<Session> session) {
  while (true) {
    auto receiving = session->connection->receive();
    auto received = co_await std::move(receiving);
    if (!received) co_return received.error().message();
    if (!handle(session, std::move(received->message)))
      session->connection->close(net::Errc::unexpected_message);
  }
}

/// False: the message does not belong here.
bool Server::State::handle(const std::shared_ptr<Session>& session, net::Message message) {
  if (auto* request = std::get_if<net::InferRequest>(&message)) {
    infer(session, std::move(*request));
  } else if (const auto* wish = std::get_if<net::Cancel>(&message)) {
    cancel(*session, wish->request);
  } else if (const auto* over = std::get_if<net::EndSequence>(&message)) {
    end_text(*session, over->sequence);
    if (draining) leave_when_idle();
  } else if (const auto* status = std::get_if<net::StatusRequest>(&message)) {
    auto reply = reply_of(aggregator.status(), plans);
    reply.request = status->request;
    session->connection->send(reply);
  } else {
    return std::holds_alternative<net::Bye>(message);
  }
  return true;
}

void Server::State::infer(const std::shared_ptr<Session>& session, net::InferRequest message) {
  const auto request = message.request;
  Response refusal;
  refusal.status = Status::overloaded;
  refusal.message = "[serve] draining, no new requests";
  const bool goes_on = session->sequences.count(message.sequence) > 0;
  if (leaving || (draining && !goes_on)) {
    session->connection->send(answer_of(request, std::move(refusal)));
    return;
  }
  if (session->open.count(request)) {
    refusal.status = Status::failed;
    refusal.message = "[serve] request " + std::to_string(request) + ": is in flight already";
    session->connection->send(answer_of(request, std::move(refusal)));
    return;
  }
  if (const auto most = fair_share(*session); session->open.size() >= most) {
    refusal.message = "[serve] saw " + std::to_string(session->open.size()) +
                      " requests of this client waiting, takes at most " + std::to_string(most) +
                      " of one beside others";
    session->connection->send(answer_of(request, std::move(refusal)));
    return;
  }
  Request wanted = request_of(std::move(message));
  std::uint64_t begun_text = 0;
  if (wanted.sequence.id != 0) {
    const auto [known, fresh] = session->sequences.try_emplace(wanted.sequence.id, 0);
    if (fresh) {
      known->second = aggregator.new_sequence();
      begun_text = wanted.sequence.id;
    }
    wanted.sequence.id = known->second;
  }
  ++num_open;
  session->open[request] = aggregator.submit(
      std::move(wanted),
      [self = shared_from_this(), session, request, begun_text](Response response) {
        self->answer(session, request, begun_text, std::move(response));
      });
}

/// A text that its client ended, or that was refused and never began.
void Server::State::end_text(Session& session, std::uint64_t theirs) {
  const auto at = session.sequences.find(theirs);
  if (at == session.sequences.end()) return;
  aggregator.end_sequence(at->second);
  session.sequences.erase(at);
}

/// How many requests of a client are open at most: its part of the places, shared with those who
/// have some, and never all of them, so that whoever comes next finds one.
std::size_t Server::State::fair_share(const Session& session) const {
  const auto asking = std::count_if(sessions.begin(), sessions.end(), [&](const auto& other) {
    return other.get() == &session || !other->open.empty();
  });
  const std::size_t places = aggregator.places();
  return std::max<std::size_t>(
      1, std::min(places - places / 4, places / static_cast<std::size_t>(asking)));
}

void Server::State::answer(const std::shared_ptr<Session>& session, std::uint64_t request,
                           std::uint64_t begun_text, Response response) {
  --num_open;
  if (begun_text != 0 && response.status != Status::answered) end_text(*session, begun_text);
  if (session->open.erase(request) == 0) return;  // given up
  session->connection->send(answer_of(request, std::move(response)));
  if (draining) leave_when_idle();
}

void Server::State::cancel(Session& session, std::uint64_t request) {
  const auto at = session.open.find(request);
  if (at != session.open.end()) aggregator.cancel(at->second);
}

/// The client has gone: nobody waits for its answers.
void Server::State::end(const std::shared_ptr<Session>& session, const std::string& why) {
  for (const auto& [request, id] : session->open) aggregator.cancel(id);
  for (const auto& [theirs, ours] : session->sequences) aggregator.end_sequence(ours);
  notice("[" + session->name + "] client lost: " + why +
         (session->open.empty() ? ""
                                : ", " + std::to_string(session->open.size()) + " requests open"));
  sessions.erase(session);
  if (leaving && sessions.empty()) stop();
  if (draining) leave_when_idle();
}

void Server::State::drain() {
  if (draining) return;
  draining = true;
  notice("[serve] draining: " + std::to_string(num_open) + " requests left");
  host->close();
  for (const auto& session : sessions) session->connection->send(net::Drain{});
  draining_timer.expires_after(options.drain_patience);
  draining_timer.async_wait([self = shared_from_this()](boost::system::error_code error) {
    if (!error && !self->leaving) self->give_up();
  });
  leave_when_idle();
}

/// Draining took too long: whoever still waits is told, and hears nothing after it.
void Server::State::give_up() {
  notice("[serve] drained no longer: " + std::to_string(num_open) + " requests given up");
  for (const auto& session : sessions) {
    for (const auto& [request, id] : std::exchange(session->open, {})) {
      Response refusal;
      refusal.status = Status::overloaded;
      refusal.message = "[serve] draining, no time is left";
      session->connection->send(answer_of(request, std::move(refusal)));
      aggregator.cancel(id);
    }
  }
  leave();
}

/// Texts go on to their end, as long as their clients ask for more.
void Server::State::leave_when_idle() {
  if (leaving || num_open > 0) return;
  const bool any_text = std::any_of(sessions.begin(), sessions.end(), [](const auto& session) {
    return !session->sequences.empty();
  });
  if (!any_text) return leave();
  leaving_timer.expires_after(std::min(options.text_patience, options.drain_patience));
  leaving_timer.async_wait([self = shared_from_this()](boost::system::error_code error) {
    if (!error && self->num_open == 0) self->leave();
  });
}

void Server::State::leave() {
  if (std::exchange(leaving, true)) return;
  if (sessions.empty()) return stop();
  for (const auto& session : sessions) host->part_from(*session->connection);
  leaving_timer.expires_after(Host::longest_parting);
  leaving_timer.async_wait([self = shared_from_this()](boost::system::error_code error) {
    if (!error) self->stop();
  });
}

void Server::State::stop() {
  draining = leaving = true;
  host->close();
  leaving_timer.cancel();
  draining_timer.cancel();
  for (const auto& session : sessions) session->connection->close(net::Errc::closed);
  const std::lock_guard lock(mutex);
  ended = true;
  changed.notify_all();
}

void Server::State::wait_until_ended() {
  std::unique_lock lock(mutex);
  changed.wait(lock, [this] { return ended; });
}

Server::Server(Aggregator& aggregator, const plan::Bundle& bundle, ServerOptions options)
    : state_(std::make_shared<State>(aggregator, bundle, std::move(options))) {
  state_->listen();
}

Server::~Server() {
  stop();
  state_->wait_until_ended();
}

void Server::run() {
  asio::post(state_->io, [state = state_] { state->start(); });
  if (state_->options.on_listening) state_->options.on_listening(state_->host->address());
  state_->wait_until_ended();
}

void Server::drain() {
  asio::post(state_->io, [state = state_] { state->drain(); });
}

void Server::stop() {
  asio::post(state_->io, [state = state_] { state->stop(); });
}

}  // namespace cleave::infer
