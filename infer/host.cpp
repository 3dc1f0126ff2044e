#include "infer/host.hpp"

#include <utility>
#include <variant>

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

constexpr auto handshake_timeout = 5s;
/// A greeting is short, and nothing else is taken before it.
constexpr net::Limits greeting_limits{0, 4096, 1024};

}  // namespace

/// Counts while it lives.
class Host::Counted {
 public:
  explicit Counted(std::size_t& count) : count_(count) { ++count_; }
  ~Counted() { --count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::size_t& count_;
};

Host::Host(boost::asio::io_context& io, Options options, Hooks hooks)
    : io_(io),
      options_(std::move(options)),
      hooks_(std::move(hooks)),
      listener_(io, options_.listen, options_.insecure) {}

void Host::run() {
  if (listener_.is_exposed())
    notice("[listen] " + address() +
           ": reachable by everybody on the network, nothing protects it");
  const auto taken = [weak = weak_from_this()](boost::asio::ip::tcp::socket socket) {
    if (const auto self = weak.lock()) self->accept(std::move(socket));
  };
  const auto say = [weak = weak_from_this()](const std::string& why) {
    if (const auto self = weak.lock()) self->notice("[listen] " + why);
  };
  net::spawn(io_, listener_.run(taken, say), say);
}

void Host::accept(boost::asio::ip::tcp::socket socket) {
  boost::system::error_code ignored;
  const auto peer = net::to_text(socket.remote_endpoint(ignored));
  // The process may open only so many files, and has its own to open.
  if (options_.most_connections > 0 && connections_ >= options_.most_connections) {
    if (!std::exchange(crowded_, true))
      notice("[" + peer + "] refused: " + std::to_string(connections_) +
             " clients are connected already");
    return;
  }
  crowded_ = false;
  const auto host = net::host_of(socket);
  auto stream = net::tcp_stream(std::move(socket));
  if (options_.wrap_stream) stream = options_.wrap_stream(std::move(stream), host);
  net::ConnectionOptions settings = hooks_.settings();
  settings.limits = greeting_limits;
  auto connection = std::make_shared<net::Connection>(io_, std::move(stream), std::move(settings));
  net::spawn(io_, serve(std::move(connection), peer),
             [weak = weak_from_this(), peer](const std::string& why) {
               if (const auto self = weak.lock()) self->notice("[" + peer + "] connection: " + why);
             });
}

boost::asio::awaitable<void> Host::serve(std::shared_ptr<net::Connection> connection,
                                         std::string peer) {
  const auto self = shared_from_this();
  const Counted counted(connections_);
  connection->expire_after(handshake_timeout);
  auto receiving = connection->receive();
  auto received = co_await std::move(receiving);
  if (!received) {
    notice("[" + peer + "] handshake: " + received.error().message());
    co_return;
  }
  const auto* hello = std::get_if<net::Hello>(&received->message);
  const std::string wrong = hello ? hooks_.objection(*hello)
                                  : "handshake: saw '" +
                                        std::string(name_of(kind_of(received->message))) +
                                        "', needs 'hello'";
  if (!wrong.empty()) {
    auto refusing = refuse(connection, peer, wrong);
    co_await std::move(refusing);
    co_return;
  }
  auto attending = hooks_.attend(connection, peer, *hello);
  co_await std::move(attending);
}

boost::asio::awaitable<void> Host::refuse(std::shared_ptr<net::Connection> connection,
                                          std::string peer, std::string text) {
  notice("[" + peer + "] refused: " + text);
  net::Refused refused;
  refused.text = options_.name + text;
  connection->send(refused);
  auto finishing = connection->finish(1s);
  co_await std::move(finishing);
  // Closing with bytes unread would take the refusal back; the peer closes, or the deadline does.
  auto receiving = connection->receive();
  co_await std::move(receiving);
  connection->close(net::Errc::refused);
}

void Host::part_from(net::Connection& connection) {
  connection.send(net::Bye{});
  net::spawn(io_, connection.finish(longest_parting), {});
}

void Host::notice(const std::string& line) const {
  if (options_.log) options_.log(base::LogLevel::notice, line);
}

}  // namespace cleave::infer
