#include "infer/client.hpp"

#include <algorithm>
#include <atomic>
#include <future>
#include <map>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "net/mesh.hpp"

namespace cleave::infer {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;

/// The server answers at the deadline; an answer under way gets this much more.
constexpr auto grace = 1s;
constexpr auto status_timeout = 5s;
constexpr std::chrono::milliseconds longest_deadline = 24h;

Response response_of(net::InferAnswer answer) {
  Response response;
  response.status = answer.status <= static_cast<std::uint8_t>(Status::canceled)
                        ? static_cast<Status>(answer.status)
                        : Status::failed;
  response.message = std::move(answer.text);
  response.output = std::move(answer.tensor);
  response.queue_s = answer.queue_s;
  response.fuse_s = answer.fuse_s;
  response.total_s = answer.total_s;
  response.overhead_s = answer.overhead_s;
  response.devices = std::move(answer.devices);
  response.aggregator = std::move(answer.aggregator);
  if (response.status == Status::answered && !response.output.present) {
    response.status = Status::failed;
    response.message = "the server's answer holds no output";
  }
  return response;
}

Response failure(Status status, const std::string& text) {
  Response response;
  response.status = status;
  response.message = text;
  return response;
}

}  // namespace

struct Client::State {
  /// What there is, or why there is no answer: an exception would be shared by two threads.
  struct Told {
    ServiceStatus status;
    std::string error;
  };
  struct Waiting {
    explicit Waiting(asio::io_context& io) : timer(io) {}
    std::function<void(Response)> on_done;
    asio::steady_timer timer;
  };

  State(std::string to, std::string of) : address(std::move(to)), plan(std::move(of)) {}

  asio::awaitable<void> run(std::chrono::milliseconds timeout,
                            std::shared_ptr<std::promise<std::string>> joined);
  void submit(std::uint64_t id, net::InferRequest request, std::function<void(Response)> on_done);
  void ask_status(std::shared_ptr<std::promise<Told>> promise);
  void take(net::Message message);
  void finish(std::uint64_t id, Response response);
  void lost(const std::string& why);
  void stop();
  std::string said() const { return "[" + address + "] "; }

  std::string address, plan;
  asio::io_context io;
  std::shared_ptr<net::Connection> connection;
  net::Welcome welcome;
  std::map<std::uint64_t, std::shared_ptr<Waiting>> waiting;
  std::map<std::uint64_t, std::shared_ptr<std::promise<Told>>> asking;
  std::string why_lost;
  std::atomic<std::uint64_t> next_id{1};
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::thread thread;
};

/// Gives an empty text once joined, else why not; then listens until the connection ends.
asio::awaitable<void> Client::State::run(std::chrono::milliseconds timeout,
                                         std::shared_ptr<std::promise<std::string>> joined) {
  net::DialOptions options;
  options.address = address;
  options.hello.role = net::Role::client;
  options.hello.name = "client";
  options.connect_timeout = options.handshake_timeout = timeout;
  auto dialling = net::dial(io, std::move(options));
  auto outcome = co_await std::move(dialling);
  if (!outcome.connection) {
    joined->set_value(outcome.error);
    co_return;
  }
  connection = outcome.connection;
  welcome = std::move(outcome.welcome);
  joined->set_value("");
  while (true) {
    auto receiving = connection->receive();
    auto received = co_await std::move(receiving);
    if (!received) break;
    take(std::move(received->message));
  }
  lost("connection lost: " + connection->why().message());
}

void Client::State::submit(std::uint64_t id, net::InferRequest request,
                           std::function<void(Response)> on_done) {
  const auto deadline = std::chrono::milliseconds(request.deadline_ms);
  auto entry = std::make_shared<Waiting>(io);
  entry->on_done = std::move(on_done);
  waiting[id] = entry;
  if (!why_lost.empty()) return finish(id, failure(Status::failed, said() + why_lost));
  try {
    connection->send(request);
  } catch (const std::exception& error) {
    return finish(id, failure(Status::failed, said() + error.what()));
  }
  entry->timer.expires_after(deadline + grace);
  entry->timer.async_wait([this, id](boost::system::error_code error) {
    if (!error) finish(id, failure(Status::deadline, said() + "no answer by the deadline"));
  });
}

void Client::State::ask_status(std::shared_ptr<std::promise<Told>> promise) {
  if (!why_lost.empty()) {
    promise->set_value({{}, said() + why_lost});
    return;
  }
  net::StatusRequest request;
  request.request = next_id++;
  asking[request.request] = std::move(promise);
  connection->send(request);
}

void Client::State::take(net::Message message) {
  if (auto* answer = std::get_if<net::InferAnswer>(&message)) {
    const auto id = answer->request;
    finish(id, response_of(std::move(*answer)));
  } else if (auto* reply = std::get_if<net::StatusReply>(&message)) {
    const auto at = asking.find(reply->request);
    if (at == asking.end()) return;
    at->second->set_value({{std::move(reply->agents), std::move(reply->plans)}, {}});
    asking.erase(at);
  } else if (!std::holds_alternative<net::Drain>(message) &&
             !std::holds_alternative<net::Bye>(message)) {
    connection->close(net::Errc::unexpected_message);
  }
}

void Client::State::finish(std::uint64_t id, Response response) {
  const auto at = waiting.find(id);
  if (at == waiting.end()) return;
  const auto entry = at->second;
  waiting.erase(at);
  entry->timer.cancel();
  try {
    entry->on_done(std::move(response));
  } catch (const std::exception&) {
    // The caller's own; it must not end the thread that others wait on.
  }
}

void Client::State::lost(const std::string& why) {
  why_lost = why;
  while (!waiting.empty()) finish(waiting.begin()->first, failure(Status::failed, said() + why));
  for (auto& [id, promise] : std::exchange(asking, {})) promise->set_value({{}, said() + why});
}

void Client::State::stop() {
  if (connection) connection->close(net::Errc::closed);
  lost("the client stops");
  io.stop();
}

Client::Client(const std::string& address, std::string plan, std::chrono::milliseconds timeout)
    : state_(std::make_shared<State>(address, std::move(plan))) {
  net::Address::parse(address);
  const auto joined = std::make_shared<std::promise<std::string>>();
  auto outcome = joined->get_future();
  net::spawn(state_->io, state_->run(timeout, joined),
             [state = state_.get(), joined](const std::string& why) {
               state->lost("connection: " + why);
               if (!state->connection) joined->set_value(why);
             });
  state_->work.emplace(state_->io.get_executor());
  state_->thread = std::thread([state = state_.get()] {
    net::run(state->io, [state](const std::string& why) { state->lost("connection: " + why); });
  });
  const auto why = outcome.get();
  if (why.empty()) return;
  state_->io.stop();
  state_->thread.join();
  throw std::runtime_error("[" + address + "] cannot connect: " + why);
}

Client::~Client() {
  asio::post(state_->io, [state = state_.get()] { state->stop(); });
  state_->thread.join();
}

std::uint64_t Client::submit(Request request, std::function<void(Response)> on_done) {
  const auto id = state_->next_id++;
  net::InferRequest message;
  message.request = id;
  message.deadline_ms = static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(request.deadline.count(), 0, longest_deadline.count()));
  message.plan = request.plan.empty() ? state_->plan : std::move(request.plan);
  message.require_all = request.require_all;
  message.observe = request.observe;
  message.sequence = request.sequence.id;
  message.past = request.sequence.past;
  message.capacity = request.sequence.capacity;
  if (request.sampling) {
    const SamplingOptions& options = request.sampling->options;
    message.choosing = {true,
                        options.temperature,
                        options.top_k,
                        options.top_p,
                        options.repetition_penalty,
                        options.seed,
                        request.sampling->step,
                        request.sampling->vocabulary};
  }
  message.tensor = std::move(request.input);
  asio::post(state_->io, [state = state_.get(), id, message = std::move(message),
                          on_done = std::move(on_done)]() mutable {
    state->submit(id, std::move(message), std::move(on_done));
  });
  return id;
}

std::uint64_t Client::new_sequence() { return state_->next_id++; }

void Client::end_sequence(std::uint64_t id) {
  asio::post(state_->io, [state = state_.get(), id] {
    if (!state->why_lost.empty()) return;
    net::EndSequence end;
    end.sequence = id;
    state->connection->send(end);
  });
}

void Client::cancel(std::uint64_t id) {
  asio::post(state_->io, [state = state_.get(), id] {
    if (!state->waiting.count(id)) return;
    net::Cancel cancel;
    cancel.request = id;
    state->connection->send(cancel);
  });
}

ServiceStatus Client::status() {
  const auto promise = std::make_shared<std::promise<State::Told>>();
  auto told = promise->get_future();
  asio::post(state_->io, [state = state_.get(), promise] { state->ask_status(promise); });
  if (told.wait_for(status_timeout) != std::future_status::ready)
    throw std::runtime_error(state_->said() + "status: no answer");
  auto answer = told.get();
  if (!answer.error.empty()) throw std::runtime_error(answer.error);
  return std::move(answer.status);
}

const std::string& Client::model_json() const { return state_->welcome.model_json; }

}  // namespace cleave::infer
