#include "infer/peers.hpp"

#include <algorithm>
#include <cstdio>
#include <random>
#include <utility>
#include <variant>

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

/// When an agent that was busy is asked again though nothing of ours has ended there.
constexpr auto busy_pause = 10ms;
/// Requests that end on an agent that was busy before it is offered one more at a time.
constexpr std::size_t ended_before_one_more = 16;

/// When a device is ejected, and when it is back: see Standing.
constexpr int late_in_a_row_to_eject = 3;
constexpr std::ptrdiff_t late_of_recent_to_eject = 5;
constexpr std::size_t recent_answers = 10;
constexpr int probes_in_time_to_return = 3;
constexpr int answers_to_be_calm = 10;
constexpr std::chrono::milliseconds first_pause = 1s, longest_pause = 30s;

/// Answers that tell a device's pace, and how many times the prediction is worth a line.
constexpr std::size_t answers_for_pace = 20;
constexpr double pace_worth_a_line = 3;

/// A timer that fires so much later than it should: this thread was held up, and what came
/// meanwhile is read first.
constexpr auto held_up = 10ms;
/// An agent that is about to start is dialled in vain a few times.
constexpr auto dialled_in_vain = 500ms;
/// Nobody waits longer for one answer; a prediction of years must not overflow the clock.
constexpr std::chrono::duration<double> longest_patience = 24h;

}  // namespace

void Window::open(std::size_t offered) {
  offered_ = size_ = std::max<std::size_t>(1, offered);
  ended_ = 0;
  outstanding_.clear();
}

void Window::busy(Id id) {
  outstanding_.erase(id);
  size_ = std::max<std::size_t>(1, outstanding_.size());
  ended_ = 0;
}

void Window::ended(Id id, bool others_wait) {
  outstanding_.erase(id);
  if (outstanding_.empty() && !others_wait) size_ = offered_;
  if (size_ < offered_ && ++ended_ >= ended_before_one_more) {
    ++size_;
    ended_ = 0;
  }
}

Patience::Seconds Patience::alone(const Expected& expected) const {
  return std::min(longest_patience, std::max(Seconds(expected.least_wait),
                                             Seconds(lateness_ * expected.predicted_s)));
}

void Patience::add(Id id, Time now, const Expected& expected) {
  entries_.push_back({id, now, expected, false, false});
}

void Patience::sent(Id id, Time now) {
  auto* entry = find(id);
  if (entry && !std::exchange(entry->sent, true)) entry->since = now;
}

void Patience::answered(Id id, Time now) {
  const auto* entry = find(id);
  if (!entry) return;
  const auto behind = entries_.begin() + (entry - entries_.data());
  const bool in_time = !entry->late;
  for (auto at = entries_.erase(behind); in_time && at != entries_.end(); ++at) at->since = now;
}

void Patience::remove(Id id) {
  std::erase_if(entries_, [id](const Entry& entry) { return entry.id == id; });
}

std::vector<Patience::Id> Patience::take_late(Time now) {
  std::vector<Id> late;
  double ahead_s = 0;
  for (auto& entry : entries_) {
    double with_it_s = ahead_s;
    const auto at = late_at(entry, &with_it_s);
    if (at && *at <= now) {
      entry.late = true;
      late.push_back(entry.id);
    } else {
      ahead_s = with_it_s;
    }
  }
  return late;
}

std::optional<Patience::Time> Patience::next() const {
  std::optional<Time> next;
  double ahead_s = 0;
  for (const auto& entry : entries_)
    if (const auto at = late_at(entry, &ahead_s)) next = next ? std::min(*next, *at) : *at;
  return next;
}

std::optional<Patience::Time> Patience::late_at(const Entry& entry, double* ahead_s) const {
  if (entry.late || entry.expected.predicted_s <= 0) return std::nullopt;
  *ahead_s += entry.expected.predicted_s;
  const auto patience = alone({entry.expected.least_wait, *ahead_s});
  return entry.since + std::chrono::duration_cast<Clock::duration>(patience);
}

Patience::Entry* Patience::find(Id id) {
  const auto at = std::find_if(entries_.begin(), entries_.end(),
                               [id](const Entry& entry) { return entry.id == id; });
  return at == entries_.end() ? nullptr : &*at;
}

void Standing::in_time() {
  if (ejected_) return;
  late_in_a_row_ = 0;
  ++in_time_since_back_;
  recent_.push_back(false);
  if (recent_.size() > recent_answers) recent_.pop_front();
}

bool Standing::late() {
  if (ejected_) return false;
  ++late_in_a_row_;
  recent_.push_back(true);
  if (recent_.size() > recent_answers) recent_.pop_front();
  return late_in_a_row_ >= late_in_a_row_to_eject ||
         std::count(recent_.begin(), recent_.end(), true) >= late_of_recent_to_eject;
}

void Standing::eject(Time now) {
  const bool again = pause_ > 0ms && in_time_since_back_ < answers_to_be_calm;
  pause_ = again ? std::min(2 * pause_, longest_pause) : first_pause;
  ejected_ = true;
  probing_ = false;
  probes_in_time_ = 0;
  probe_at_ = now + pause_;
}

void Standing::reinstate() {
  ejected_ = probing_ = false;
  late_in_a_row_ = in_time_since_back_ = 0;
  recent_.clear();
}

bool Standing::probe_in_time() {
  probing_ = false;
  if (++probes_in_time_ < probes_in_time_to_return) return false;
  reinstate();
  return true;
}

void Standing::probe_failed(Time now) {
  probing_ = false;
  probes_in_time_ = 0;
  pause_ = std::min(2 * pause_, longest_pause);
  probe_at_ = now + pause_;
}

std::optional<double> Pace::add(double compute_s, double predicted_s) {
  if (told_ || predicted_s <= 0) return std::nullopt;
  ratios_.push_back(compute_s / predicted_s);
  if (ratios_.size() > answers_for_pace) ratios_.pop_front();
  if (ratios_.size() < answers_for_pace) return std::nullopt;
  std::vector<double> sorted(ratios_.begin(), ratios_.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  if (*middle <= pace_worth_a_line) return std::nullopt;
  told_ = true;
  return *middle;
}

Peer::Peer(boost::asio::io_context& io, net::DialOptions dial, double lateness, Events events,
           std::vector<net::PlanMessage> plans, std::optional<net::Routes> routes)
    : device_(dial.hello.device),
      address_(dial.address),
      epoch_(dial.hello.epoch),
      events_(std::move(events)),
      patience_(lateness),
      pause_(io),
      lateness_timer_(io),
      plans_(std::move(plans)),
      routes_(std::move(routes)) {
  net::Address::parse(address_);  // throws here, not on the I/O thread
  net::Dialer::Events heard;
  heard.joined = [this](const net::Welcome& welcome) { join(welcome); };
  heard.message = [this](net::Connection::Received received) { receive(std::move(received)); };
  heard.lost = [this](const std::string& why) { lose(why); };
  heard.failed = [this](const std::string& why) { fail_to_dial(why); };
  std::random_device seed;
  dialer_ = std::make_shared<net::Dialer>(io, std::move(dial), std::move(heard), seed());
}

void Peer::start() {
  dialling_since_ = Clock::now();
  dialer_->start();
}

void Peer::stop() {
  stopped_ = true;
  dialer_->stop();
}

AgentStatus Peer::status() const {
  AgentStatus agent;
  agent.device = device_;
  agent.address = address_;
  agent.connected = joined();
  agent.last_error = agent.connected && ejected() ? ejected_late : last_error_;
  agent.answered = answered_;
  if (const auto& connection = dialer_->connection()) {
    agent.memory_bytes = connection->last_pong().memory_bytes;
    agent.round_trip_s = connection->round_trip().count();
  }
  agent.queued = static_cast<std::int64_t>(queued());
  return agent;
}

void Peer::enqueue(Id id, const Expected& expected) {
  waiting_.push_back(id);
  patience_.add(id, Clock::now(), expected);
  watch();
}

void Peer::withdraw(Id id) {
  std::erase(waiting_, id);
  patience_.remove(id);
  watch();
}

void Peer::offer() {
  while (joined() && !waiting_.empty() && window_.has_room()) {
    const auto id = waiting_.front();
    waiting_.pop_front();
    events_.offer(id);
  }
}

std::uint64_t Peer::send(const Offer& offer) {
  net::Connection& connection = *dialer_->connection();
  if (offer.admit.observe == net::Observe::trace) connection.ping();
  std::uint64_t bytes = connection.send(offer.admit);
  for (const net::ValueMessage& value : offer.values) {
    std::shared_ptr<Observation::Sending> sending;
    if (offer.observation)
      sending = Observation::send(offer.observation, offer.rank, device_, value.tag, Clock::now());
    const std::uint64_t sent = connection.send(value, sending);
    if (sending) sending->bytes = sent;
    bytes += sent;
  }
  return bytes;
}

double Peer::clock_ahead_s() const {
  const auto& connection = dialer_->connection();
  const auto ahead = connection ? connection->clock_ahead() : std::nullopt;
  return ahead ? ahead->count() : 0;
}

std::uint64_t Peer::admit(const Offer& offer) {
  const auto bytes = send(offer);
  window_.sent(offer.admit.request);
  patience_.sent(offer.admit.request, Clock::now());
  watch();
  return bytes;
}

void Peer::cancel(Id id) {
  if (!window_.holds(id) || !dialer_->connection()) return;
  net::Cancel cancel;
  cancel.request = id;
  cancel.epoch = epoch_;
  dialer_->connection()->send(cancel);
}

void Peer::end_sequence(std::uint64_t sequence) {
  if (!dialer_->connection()) return;
  net::EndSequence end;
  end.sequence = sequence;
  end.epoch = epoch_;
  dialer_->connection()->send(end);
}

void Peer::answered(Id id, double compute_s, double predicted_compute_s) {
  ++answered_;
  patience_.answered(id, Clock::now());
  standing_.in_time();
  watch();
  if (const auto times = pace_.add(compute_s, predicted_compute_s)) {
    char number[32];
    std::snprintf(number, sizeof number, "%.1f", *times);
    notice("needs " + std::string(number) +
           " times the predicted time: run 'cleave profile' on it again, and 'cleave plan'");
  }
}

void Peer::eject() {
  standing_.eject(Clock::now());
  notice(std::string(ejected_late) + "; probed in " + std::to_string(standing_.pause() / 1s) +
         " s, when there are requests");
}

void Peer::reinstate() {
  if (!ejected()) return;
  notice("asked again: nobody else is there");
  standing_.reinstate();
  come_back();
}

/// What it was sent before and canceled counts no more: it has answered later ones, or nobody
/// else is there.
void Peer::come_back() {
  probe_.reset();
  window_.open(window_.offered());
}

void Peer::probe(const Offer& offer, std::vector<std::uint32_t> tags, const Expected& expected) {
  const auto patience = std::chrono::duration_cast<Clock::duration>(patience_.alone(expected));
  probe_ = Probe{offer.admit.request, std::move(tags), Clock::now() + patience};
  standing_.probe_sent();
  send(offer);
  watch();
}

void Peer::take_probe(const net::Message& message) {
  if (const auto* value = std::get_if<net::ValueMessage>(&message)) {
    std::erase(probe_->tags, value->tag);
    if (!probe_->tags.empty()) return;
    probe_.reset();
    if (!standing_.probe_in_time()) return;
    notice("back: its probes were answered in time");
    come_back();
  } else if (std::holds_alternative<net::Busy>(message)) {
    fail_probe("busy");
  } else {
    fail_probe("ended without a value");
  }
}

void Peer::fail_probe(const std::string& why) {
  probe_.reset();
  standing_.probe_failed(Clock::now());
  detail("probe: " + why + "; the next in " + std::to_string(standing_.pause() / 1s) + " s");
}

/// Sets the timer to what is late first; one that would fire earlier anyway stays.
void Peer::watch() {
  auto next = patience_.next();
  if (probe_) next = next ? std::min(*next, probe_->late_at) : probe_->late_at;
  if (!next || (watched_ && *watched_ <= *next)) return;
  watched_ = next;
  lateness_timer_.expires_at(*next);
  lateness_timer_.async_wait([this](boost::system::error_code error) {
    if (!error) look_at_clock();
  });
}

void Peer::look_at_clock() {
  const auto now = Clock::now();
  if (watched_ && now - *watched_ > held_up && !std::exchange(excused_, true)) {
    watched_ = now + held_up;
    lateness_timer_.expires_at(*watched_);
    lateness_timer_.async_wait([this](boost::system::error_code error) {
      if (!error) look_at_clock();
    });
    return;
  }
  excused_ = false;
  watched_.reset();
  if (probe_ && probe_->late_at <= now) {
    net::Cancel cancel;
    cancel.request = probe_->id;
    cancel.epoch = epoch_;
    if (dialer_->connection()) dialer_->connection()->send(cancel);
    fail_probe("late");
  }
  const auto late = patience_.take_late(now);
  if (!late.empty()) events_.late(late);
  watch();
}

void Peer::join(const net::Welcome& welcome) {
  draining_ = out_of_reach_ = false;
  standing_ = {};
  pace_ = {};
  last_error_.clear();
  window_.open(welcome.max_requests);
  unanswered_.clear();
  served_.clear();
  refusals_.clear();
  for (net::PlanMessage& plan : plans_) {
    plan.epoch = epoch_;
    unanswered_.insert(plan.digest);
    dialer_->connection()->send(plan);
  }
  if (routes_) dialer_->connection()->send(*routes_);
}

void Peer::take_reply(const net::PlanReply& reply) {
  if (unanswered_.erase(reply.digest) == 0)
    return dialer_->connection()->close(net::Errc::unexpected_message);
  if (reply.refusal.empty()) {
    served_.insert(reply.digest);
  } else {
    refusals_[reply.digest] = reply.refusal;
    notice("does not serve a plan: " + reply.refusal);
  }
  if (!unanswered_.empty()) return;
  out_of_reach_ = served_.empty();
  if (served_.empty()) last_error_ = refusals_.begin()->second;
  if (joined()) notice("joined at " + address_);
  events_.changed();
}

void Peer::lose(const std::string& why) {
  last_error_ = why;
  dialling_since_ = Clock::now();
  window_.clear();
  waiting_.clear();
  patience_.clear();
  probe_.reset();
  pause_.cancel();
  if (!stopped_) notice("lost: " + why);
  events_.changed();
  events_.lost(why);
}

void Peer::fail_to_dial(const std::string& why) {
  out_of_reach_ = Clock::now() - dialling_since_ >= dialled_in_vain;
  if (last_error_ != why) notice(address_ + ": " + why + "; dialling on");
  last_error_ = why;
  events_.changed();
}

void Peer::receive(net::Connection::Received received) {
  auto& message = received.message;
  const auto id = net::envelope_of(message).request;
  const bool of_request =
      std::holds_alternative<net::ValueMessage>(message) ||
      std::holds_alternative<net::Busy>(message) || std::holds_alternative<net::Done>(message) ||
      std::holds_alternative<net::Failed>(message) || std::holds_alternative<net::Abort>(message);
  if (probe_ && probe_->id == id && of_request) return take_probe(message);
  const auto end = [&](const std::string& why, bool refused = false) {
    release(id);
    events_.ended(id, why, refused);
  };
  if (auto* value = std::get_if<net::ValueMessage>(&message)) {
    if (value->last) release(id);
    events_.value(std::move(*value), arrival_of(received));
  } else if (const auto* busy = std::get_if<net::Busy>(&message)) {
    take_busy(id, busy->text, received.wire_bytes);
  } else if (const auto* done = std::get_if<net::Done>(&message)) {
    release(id);
    events_.done(id, *done);
  } else if (const auto* failed = std::get_if<net::Failed>(&message)) {
    end("failed: " + failed->text, true);
  } else if (const auto* abort = std::get_if<net::Abort>(&message)) {
    end("aborted: " + abort->text);
  } else if (const auto* reply = std::get_if<net::PlanReply>(&message)) {
    take_reply(*reply);
  } else if (std::holds_alternative<net::Drain>(message)) {
    draining_ = true;
    last_error_ = "draining";
    notice("draining");
    events_.changed();
    events_.draining();
  } else if (!std::holds_alternative<net::Bye>(message)) {
    dialer_->connection()->close(net::Errc::unexpected_message);
  }
}

void Peer::take_busy(Id id, const std::string& why, std::uint64_t wire_bytes) {
  window_.busy(id);
  if (events_.busy(id, why, wire_bytes)) waiting_.push_front(id);
  if (!joined()) return events_.draining();
  if (window_.outstanding() > 0 || waiting_.empty()) return;
  // Somebody else's requests fill the agent: nothing of ours will end there and tell.
  pause_.expires_after(busy_pause);
  pause_.async_wait([this](boost::system::error_code error) {
    if (!error) offer();
  });
}

/// The agent holds nothing of the request any more.
void Peer::release(Id id) {
  window_.ended(id, !waiting_.empty());
  offer();
}

}  // namespace cleave::infer
