#include "infer/links.hpp"

#include <random>
#include <stdexcept>
#include <utility>

namespace cleave::infer {

Links::Links(boost::asio::io_context& io, std::string device, std::string identity,
             net::StreamWrap wrap, std::string from, Events events)
    : io_(io),
      device_(std::move(device)),
      identity_(std::move(identity)),
      wrap_(std::move(wrap)),
      from_(std::move(from)),
      events_(std::move(events)) {}

Links::~Links() { stop(); }

void Links::stop() {
  for (auto& [device, link] : links_) {
    if (link.dialer) link.dialer->stop();
    link.dialer.reset();
    if (link.connection) link.connection->close(net::Errc::closed);
  }
}

void Links::know(const std::vector<std::string>& devices) {
  for (const std::string& device : devices)
    if (device != device_) links_[device];
}

void Links::dial(const net::Routes& routes) {
  for (const net::Routes::Route& route : routes.routes)
    if (device_ < route.device && links_.count(route.device) != 0)
      dial(route.device, route.address);
}

void Links::dial(const std::string& device, const std::string& address) {
  Link& link = links_.at(device);
  if (link.dialer && (link.connection || link.address == address)) return;
  if (link.dialer) link.dialer->stop();
  net::DialOptions options;
  options.address = link.address = address;
  options.hello.role = net::Role::agent;
  options.hello.bundle = identity_;
  options.hello.device = device;
  options.hello.name = device_;
  options.wrap = wrap_;
  options.from = from_;
  net::Dialer::Events heard;
  heard.joined = [this, device](const net::Welcome&) {
    Link& joined = links_.at(device);
    joined.connection = joined.dialer->connection();
    joined.error.clear();
    notice(device, "linked at " + joined.address);
  };
  heard.message = [this, device](net::Connection::Received received) {
    take(device, std::move(received));
  };
  heard.lost = [this, device](const std::string& why) { lose(device, why); };
  heard.failed = [this, device](const std::string& why) {
    Link& tried = links_.at(device);
    if (tried.error != why) notice(device, tried.address + ": " + why + "; dialling on");
    tried.error = why;
  };
  std::random_device seed;
  link.dialer = std::make_shared<net::Dialer>(io_, std::move(options), std::move(heard), seed());
  link.dialer->start();
}

std::string Links::greeted(const net::Hello& hello) const {
  if (links_.count(hello.name) != 0 && hello.name < device_) return hello.name;
  throw std::invalid_argument("link: saw agent '" + hello.name +
                              "', needs a device of the bundle that dials '" + device_ + "'");
}

boost::asio::awaitable<std::string> Links::attend(std::string device,
                                                  std::shared_ptr<net::Connection> connection) {
  Link& link = links_.at(device);
  if (link.connection) link.connection->close(net::Errc::closed);
  link.connection = connection;
  notice(device, "linked");
  while (true) {
    auto receiving = connection->receive();
    auto received = co_await std::move(receiving);
    if (!received) break;
    take(device, std::move(*received));
  }
  const std::string why = connection->why().message();
  // One that was replaced is not the link any more; but its peer begins anew.
  if (link.connection == connection) link.connection.reset();
  notice(device, "link lost: " + why);
  events_.lost(device, why);
  co_return why;
}

std::uint64_t Links::send(const std::string& device, const net::ValueMessage& message,
                          std::shared_ptr<const void> until_written) {
  const auto link = links_.find(device);
  if (link == links_.end() || !link->second.connection) return 0;
  return link->second.connection->send(message, std::move(until_written));
}

std::string Links::missing(const std::set<std::string>& devices) const {
  std::string text;
  for (const std::string& device : devices) {
    const auto link = links_.find(device);
    if (link != links_.end() && link->second.connection) continue;
    text += (text.empty() ? "'" : ", '") + device + "'";
    if (link != links_.end() && !link->second.error.empty())
      text += " at " + link->second.address + " (" + link->second.error + ")";
  }
  return text;
}

void Links::take(const std::string& device, net::Connection::Received received) {
  if (auto* value = std::get_if<net::ValueMessage>(&received.message))
    return events_.value(device, std::move(*value), arrival_of(received));
  if (std::holds_alternative<net::Bye>(received.message) ||
      std::holds_alternative<net::Drain>(received.message))
    return;
  if (const auto& connection = links_.at(device).connection)
    connection->close(net::Errc::unexpected_message);
}

void Links::lose(const std::string& device, const std::string& why) {
  Link& link = links_.at(device);
  link.connection.reset();
  link.error = why;
  notice(device, "link lost: " + why);
  events_.lost(device, why);
}

void Links::notice(const std::string& device, const std::string& text) const {
  if (events_.log) events_.log(base::LogLevel::notice, "[" + device + "] " + text);
}

}  // namespace cleave::infer
