#include "net/mesh.hpp"

#include <algorithm>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace cleave::net {
namespace {

using asio::ip::tcp;
using namespace asio::experimental::awaitable_operators;
using namespace std::chrono_literals;

constexpr auto no_throw = asio::as_tuple(asio::use_awaitable);
/// Before the handshake a peer may send a greeting and nothing large.
constexpr Limits greeting_limits{0, 4096, 1024};

using Endpoints = std::vector<tcp::endpoint>;

/// A numeric host needs no resolver (which would start a thread).
asio::awaitable<std::pair<error_code, Endpoints>> resolve(asio::io_context& io, Address address) {
  error_code not_numeric;
  const auto numeric = asio::ip::make_address(address.host, not_numeric);
  if (!not_numeric) {
    const auto port = static_cast<std::uint16_t>(std::stoi(address.port));
    co_return std::pair(error_code(), Endpoints{tcp::endpoint(numeric, port)});
  }
  tcp::resolver resolver(io);
  auto resolving = resolver.async_resolve(address.host, address.port, no_throw);
  auto [error, found] = co_await std::move(resolving);
  Endpoints endpoints;
  for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  co_return std::pair(error, std::move(endpoints));
}

/// `from`: a numeric host, or empty.
asio::awaitable<std::pair<error_code, tcp::socket>> connect_now(asio::io_context& io,
                                                                Address address, std::string from) {
  auto resolving = resolve(io, std::move(address));
  auto [resolve_error, endpoints] = co_await std::move(resolving);
  tcp::socket socket(io);
  if (resolve_error) co_return std::pair(resolve_error, std::move(socket));
  if (!from.empty() && !endpoints.empty()) {
    error_code bound;
    const tcp::endpoint own(asio::ip::make_address(from, bound), 0);
    if (!bound) socket.open(own.protocol(), bound);
    if (!bound) socket.bind(own, bound);
    if (bound) co_return std::pair(bound, std::move(socket));
    auto connecting = socket.async_connect(endpoints.front(), no_throw);
    const auto [error] = co_await std::move(connecting);
    co_return std::pair(error, std::move(socket));
  }
  auto connecting = asio::async_connect(socket, endpoints, no_throw);
  auto [error, endpoint] = co_await std::move(connecting);
  co_return std::pair(error, std::move(socket));
}

asio::awaitable<void> sleep(asio::io_context& io, std::chrono::milliseconds time) {
  asio::steady_timer timer(io, time);
  auto waiting = timer.async_wait(no_throw);
  co_await std::move(waiting);
}

asio::awaitable<std::pair<error_code, tcp::socket>> connect(asio::io_context& io, Address address,
                                                            std::string from,
                                                            std::chrono::milliseconds timeout) {
  auto connecting = connect_now(io, std::move(address), std::move(from));
  auto waiting = sleep(io, timeout);
  auto first = std::move(connecting) || std::move(waiting);
  auto outcome = co_await std::move(first);
  if (auto* connected = std::get_if<0>(&outcome)) co_return std::move(*connected);
  co_return std::pair(error_code(asio::error::timed_out), tcp::socket(io));
}

std::string saw(const std::string& what, const std::string& seen, const std::string& needed) {
  return what + ": saw '" + seen + "', needs '" + needed + "'";
}

/// Empty where the listener is the one we meant.
std::string mistaken(const Hello& hello, const Welcome& welcome) {
  if (!hello.bundle.empty() && welcome.bundle != hello.bundle)
    return saw("bundle", welcome.bundle, hello.bundle);
  if (!hello.device.empty() && welcome.device != hello.device)
    return saw("device", welcome.device, hello.device);
  return {};
}

asio::awaitable<Joined> greet(std::shared_ptr<Connection> connection, const DialOptions& options) {
  connection->expire_after(options.handshake_timeout);
  connection->send(options.hello);
  auto receiving = connection->receive();
  auto received = co_await std::move(receiving);
  if (!received) co_return Joined{nullptr, {}, "handshake: " + received.error().message()};
  if (const auto* refused = std::get_if<Refused>(&received->message))
    co_return Joined{nullptr, {}, "refused: " + refused->text};
  auto* welcome = std::get_if<Welcome>(&received->message);
  if (!welcome)
    co_return Joined{nullptr, {}, "handshake: " + error_code(Errc::unexpected_message).message()};
  if (const auto wrong = mistaken(options.hello, *welcome); !wrong.empty())
    co_return Joined{nullptr, {}, "handshake: " + wrong};
  connection->expire_after(0ms);
  connection->set_limits(options.connection.limits);
  connection->start_heartbeat();
  co_return Joined{std::move(connection), std::move(*welcome), {}};
}

}  // namespace

Address Address::parse(const std::string& text) {
  const auto colon = text.rfind(':');
  const auto wrong = [&text] {
    return std::invalid_argument("[address] saw '" + text + "', needs host:port");
  };
  if (colon == std::string::npos) throw wrong();
  Address address{text.substr(0, colon), text.substr(colon + 1)};
  if (address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']')
    address.host = address.host.substr(1, address.host.size() - 2);
  else if (address.host.find(':') != std::string::npos)
    throw wrong();
  const bool digits = std::all_of(address.port.begin(), address.port.end(),
                                  [](char c) { return c >= '0' && c <= '9'; });
  if (address.host.empty() || address.port.empty() || address.port.size() > 5 || !digits ||
      std::stoi(address.port) > 65535)
    throw wrong();
  return address;
}

std::string host_of(const asio::ip::tcp::socket& socket) {
  error_code ignored;
  return socket.remote_endpoint(ignored).address().to_string();
}

std::string to_text(const tcp::endpoint& endpoint) {
  const auto host = endpoint.address().to_string();
  const auto port = std::to_string(endpoint.port());
  return endpoint.address().is_v6() ? "[" + host + "]:" + port : host + ":" + port;
}

Backoff::Backoff(std::uint64_t seed, std::chrono::milliseconds first, std::chrono::milliseconds cap)
    : first_(first), cap_(cap), current_(first), random_(static_cast<std::uint32_t>(seed)) {}

std::chrono::milliseconds Backoff::next() {
  const auto longest = current_;
  current_ = std::min(cap_, current_ * 2);
  std::uniform_int_distribution<std::int64_t> jitter(longest.count() / 2, longest.count());
  return std::chrono::milliseconds(jitter(random_));
}

Listener::Listener(asio::io_context& io, const std::string& address, bool insecure)
    : io_(io), acceptor_(io), pause_(io) {
  const auto parsed = Address::parse(address);
  const auto fail = [&address](const error_code& error) {
    throw std::system_error(error, "[listen] " + address);
  };
  error_code error;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(parsed.host, parsed.port, tcp::resolver::passive, error);
  if (error) fail(error);
  const tcp::endpoint endpoint = found.begin()->endpoint();
  exposed_ = !endpoint.address().is_loopback();
  if (exposed_ && !insecure)
    throw std::invalid_argument(
        "[listen] " + address +
        ": saw an address beyond loopback, needs --insecure, because nothing protects it yet");
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) fail(error);
  address_ = to_text(acceptor_.local_endpoint());
}

asio::awaitable<void> Listener::run(std::function<void(tcp::socket)> accepted,
                                    std::function<void(const std::string&)> failed) {
  bool failing = false;
  while (acceptor_.is_open()) {
    auto accepting = acceptor_.async_accept(no_throw);
    auto [error, socket] = co_await std::move(accepting);
    if (!acceptor_.is_open()) co_return;
    if (!error) {
      failing = false;
      accepted(std::move(socket));
      continue;
    }
    if (!std::exchange(failing, true) && failed) failed("cannot accept: " + error.message());
    pause_.expires_after(100ms);
    auto waiting = pause_.async_wait(no_throw);
    co_await std::move(waiting);
  }
}

void Listener::close() {
  error_code ignored;
  acceptor_.close(ignored);
  pause_.cancel();
}

asio::awaitable<Joined> dial(asio::io_context& io, DialOptions options) {
  auto connecting =
      connect(io, Address::parse(options.address), options.from, options.connect_timeout);
  auto [error, socket] = co_await std::move(connecting);
  if (error) co_return Joined{nullptr, {}, error.message()};
  const std::string host = host_of(socket);
  auto stream = tcp_stream(std::move(socket));
  if (options.wrap) stream = options.wrap(std::move(stream), host);
  auto settings = options.connection;
  settings.limits.max_payload = 0;  // until the handshake is done
  auto connection = std::make_shared<Connection>(io, std::move(stream), std::move(settings));
  auto greeting = greet(connection, options);
  auto joined = co_await std::move(greeting);
  if (!joined.connection) connection->close(Errc::refused);
  co_return joined;
}

Dialer::Dialer(asio::io_context& io, DialOptions options, Events events, std::uint64_t seed)
    : io_(io),
      options_(std::move(options)),
      events_(std::move(events)),
      backoff_(seed),
      pause_(io) {}

void Dialer::start() {
  spawn(io_, run(), [weak = weak_from_this()](const std::string& why) {
    const auto self = weak.lock();
    if (self && self->events_.failed) self->events_.failed(why);
  });
}

void Dialer::stop() {
  stopped_ = true;
  pause_.cancel();
  if (connection_) connection_->close(Errc::closed);
}

asio::awaitable<void> Dialer::run() {
  const auto self = shared_from_this();
  while (!stopped_) {
    auto dialling = dial(io_, options_);
    auto joined = co_await std::move(dialling);
    if (stopped_) {
      if (joined.connection) joined.connection->close(Errc::closed);
      co_return;
    }
    if (joined.connection) {
      backoff_.reset();
      auto attending = attend(std::move(joined));
      co_await std::move(attending);
    } else if (events_.failed) {
      events_.failed(joined.error);
    }
    if (stopped_) co_return;
    pause_.expires_after(backoff_.next());
    auto waiting = pause_.async_wait(no_throw);
    co_await std::move(waiting);
  }
}

asio::awaitable<void> Dialer::attend(Joined joined) {
  connection_ = joined.connection;
  if (events_.joined) events_.joined(joined.welcome);
  while (true) {
    auto receiving = connection_->receive();
    auto received = co_await std::move(receiving);
    if (!received) break;
    if (events_.message) events_.message(std::move(*received));
  }
  const auto why = connection_->why().message();
  connection_.reset();
  if (events_.lost) events_.lost(why);
}

}  // namespace cleave::net
