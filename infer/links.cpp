#include "infer/links.hpp"

#include <random>
#include <stdexcept>
#include <utility>

namespace cleave::infer {

Links::Links(boost::asio::io_context& io, const plan::Plan& plan, std::int32_t rank,
             std::set<std::int32_t> peers, std::string identity, net::StreamWrap wrap,
             Events events)
    : io_(io),
      plan_(plan.name),
      identity_(std::move(identity)),
      rank_(rank),
      wrap_(std::move(wrap)),
      events_(std::move(events)) {
  for (const plan::PlanPart& part : plan.parts) devices_.push_back(part.device);
  for (const std::int32_t peer : peers) links_[peer];
}

Links::~Links() { stop(); }

void Links::stop() {
  for (auto& [rank, link] : links_) {
    if (link.dialer) link.dialer->stop();
    link.dialer.reset();
    if (link.connection) link.connection->close(net::Errc::closed);
  }
}

void Links::dial(const net::Routes& routes) {
  for (const net::Routes::Route& route : routes.routes) {
    for (auto& [rank, link] : links_) {
      if (rank < rank_ || device(rank) != route.device) continue;
      if (link.dialer && (link.connection || link.address == route.address)) continue;
      if (link.dialer) link.dialer->stop();
      net::DialOptions options;
      options.address = link.address = route.address;
      options.hello.role = net::Role::agent;
      options.hello.bundle = identity_;
      options.hello.plan = plan_;
      options.hello.device = route.device;
      options.hello.name = device(rank_);
      options.wrap = wrap_;
      net::Dialer::Events heard;
      heard.joined = [this, peer = rank](const net::Welcome&) {
        Link& joined = links_.at(peer);
        joined.connection = joined.dialer->connection();
        joined.error.clear();
        notice(peer, "linked at " + joined.address);
      };
      heard.message = [this, peer = rank](net::Connection::Received received) {
        take(peer, std::move(received));
      };
      heard.lost = [this, peer = rank](const std::string& why) { lose(peer, why); };
      heard.failed = [this, peer = rank](const std::string& why) {
        Link& tried = links_.at(peer);
        if (tried.error != why) notice(peer, tried.address + ": " + why + "; dialling on");
        tried.error = why;
      };
      std::random_device seed;
      link.dialer =
          std::make_shared<net::Dialer>(io_, std::move(options), std::move(heard), seed());
      link.dialer->start();
    }
  }
}

std::int32_t Links::rank_of(const net::Hello& hello) const {
  for (const auto& [rank, link] : links_)
    if (device(rank) == hello.name && rank < rank_) return rank;
  throw std::invalid_argument("link: saw agent '" + hello.name + "', needs one of plan '" + plan_ +
                              "' that dials '" + device(rank_) + "'");
}

boost::asio::awaitable<std::string> Links::attend(std::int32_t rank,
                                                  std::shared_ptr<net::Connection> connection) {
  auto& link = links_.at(rank);
  if (link.connection) link.connection->close(net::Errc::closed);
  link.connection = connection;
  notice(rank, "linked");
  while (true) {
    auto receiving = connection->receive();
    auto received = co_await std::move(receiving);
    if (!received) break;
    take(rank, std::move(*received));
  }
  const std::string why = connection->why().message();
  // One that was replaced is not the link any more; but its peer begins anew.
  if (link.connection == connection) link.connection.reset();
  notice(rank, "link lost: " + why);
  events_.lost(rank, why);
  co_return why;
}

bool Links::send(std::int32_t rank, const net::ValueMessage& message) {
  const auto link = links_.find(rank);
  return link != links_.end() && link->second.connection &&
         link->second.connection->send(message) > 0;
}

bool Links::complete() const {
  for (const auto& [rank, link] : links_)
    if (!link.connection) return false;
  return true;
}

std::string Links::missing() const {
  std::string text;
  for (const auto& [rank, link] : links_) {
    if (link.connection) continue;
    text += (text.empty() ? "'" : ", '") + device(rank) + "'" +
            (link.error.empty() ? "" : " at " + link.address + " (" + link.error + ")");
  }
  return text;
}

void Links::take(std::int32_t rank, net::Connection::Received received) {
  if (auto* value = std::get_if<net::ValueMessage>(&received.message))
    return events_.value(rank, std::move(*value));
  if (std::holds_alternative<net::Bye>(received.message) ||
      std::holds_alternative<net::Drain>(received.message))
    return;
  if (const auto& connection = links_.at(rank).connection)
    connection->close(net::Errc::unexpected_message);
}

void Links::lose(std::int32_t rank, const std::string& why) {
  Link& link = links_.at(rank);
  link.connection.reset();
  link.error = why;
  notice(rank, "link lost: " + why);
  events_.lost(rank, why);
}

const std::string& Links::device(std::int32_t rank) const {
  return devices_.at(static_cast<std::size_t>(rank));
}

void Links::notice(std::int32_t rank, const std::string& text) const {
  if (events_.log) events_.log(base::LogLevel::notice, "[" + device(rank) + "] " + text);
}

}  // namespace cleave::infer
