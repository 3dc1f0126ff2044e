#include "infer/observation.hpp"

#include <algorithm>
#include <map>
#include <utility>
#include <variant>

namespace cleave::infer {
namespace {

using net::Happening;
using Time = Observation::Time;

/// Bytes of a name; what is longer is cut.
constexpr std::size_t longest_name = 64;
/// A day; more than any clock says; and more than anything computes, sends or holds in one.
constexpr double longest_s = 86400, longest_clock_s = 1e12, most_of_anything = 1e24;
constexpr std::size_t most_links = 256;
/// Values of a request that are kept count of by themselves.
constexpr std::size_t most_transfers = 100'000;

std::string shortened(const std::string& name) { return name.substr(0, longest_name); }

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

Happening::What what_of(Ran::What what) {
  switch (what) {
    case Ran::What::instruction:
      return Happening::What::compute;
    case Ran::What::stretch:
      return Happening::What::stretch;
    case Ran::What::idle:
      break;
  }
  return Happening::What::wait;
}

/// Of moments that any of the spans covers.
double covered_s(std::vector<std::pair<Time, Time>> spans) {
  std::sort(spans.begin(), spans.end());
  double sum = 0;
  Time until = Time::min();
  for (const auto& [start, end] : spans) {
    if (end <= until) continue;
    sum += seconds(end - std::max(start, until));
    until = end;
  }
  return sum;
}

}  // namespace

double seconds_of(Clock::time_point time) { return seconds(time.time_since_epoch()); }

Observation::Sending::~Sending() {
  if (const auto observation = of.lock()) observation->end(*this, Clock::now());
}

Observation::Observation(net::Observe observe, std::shared_ptr<const plan::Program> program,
                         std::function<void()> on_complete)
    : observe_(observe), program_(std::move(program)), on_complete_(std::move(on_complete)) {}

std::size_t Observation::most_recorded() const {
  return observe_ == net::Observe::trace ? net::most_happenings : 0;
}

std::shared_ptr<Observation::Sending> Observation::send(const std::shared_ptr<Observation>& of,
                                                        std::int32_t rank, const std::string& peer,
                                                        std::uint32_t tag, Time now) {
  auto sending = std::make_shared<Sending>();
  sending->of = of;
  sending->rank = rank;
  sending->peer = peer;
  sending->tag = tag;
  sending->queued_at = now;
  ++of->under_way_;
  return sending;
}

void Observation::end(const Sending& sending, Time now) {
  // One link writes one value after the other.
  Time start = sending.queued_at;
  for (const Transfer& before : transfers_)
    if (before.out && before.rank == sending.rank) start = std::max(start, before.end);
  add({true, sending.rank, sending.peer, sending.tag, sending.bytes, std::min(start, now), now});
  --under_way_;
  look();
}

void Observation::received(std::int32_t rank, const std::string& peer, std::uint32_t tag,
                           const Arrival& arrival) {
  add({false, rank, peer, tag, arrival.wire_bytes, arrival.began, arrival.ended});
}

void Observation::add(Transfer transfer) {
  if (transfers_.size() < most_transfers)
    transfers_.push_back(std::move(transfer));
  else
    ++left_out_;
}

void Observation::finished(const RunTimes& times, std::vector<Ran> ran) {
  times_ = times;
  ran_ = std::move(ran);
  finished_ = true;
  look();
}

void Observation::look() {
  if (!is_complete() || !on_complete_) return;
  const auto told = std::exchange(on_complete_, nullptr);
  told();
}

std::string Observation::value_name(const Transfer& transfer) const {
  for (const plan::Instruction& instruction : program_->instructions) {
    plan::ValueId value = -1;
    if (const auto* send = std::get_if<plan::Send>(&instruction);
        transfer.out && send && send->peer == transfer.rank && send->tag == transfer.tag)
      value = send->value;
    if (const auto* receive = std::get_if<plan::Receive>(&instruction);
        !transfer.out && receive && receive->peer == transfer.rank && receive->tag == transfer.tag)
      value = receive->result;
    if (value >= 0) return program_->values.at(static_cast<std::size_t>(value)).name;
  }
  return "tag " + std::to_string(transfer.tag);
}

net::Account Observation::account() const {
  net::Account account;
  account.told = true;
  account.queued_s = times_.queued_s;
  account.compute_s = times_.compute_s;
  account.wait_s = times_.wait_s;
  std::vector<std::pair<Time, Time>> spans;
  std::map<std::string, net::LinkBytes> links;
  for (const Transfer& transfer : transfers_) {
    spans.emplace_back(transfer.start, transfer.end);
    net::LinkBytes& link = links[transfer.peer];
    (transfer.out ? link.sent_bytes : link.received_bytes) += transfer.bytes;
  }
  account.transfer_s = covered_s(std::move(spans));
  for (auto& [peer, link] : links) {
    link.peer = peer;
    account.links.push_back(link);
  }
  account.left_out = left_out_;
  if (observe_ != net::Observe::trace) return account;
  const auto add = [&](Happening happening) {
    if (account.happenings.size() < net::most_happenings)
      account.happenings.push_back(std::move(happening));
    else
      ++account.left_out;
  };
  // What shows the overlap goes first, where there is not room for all.
  for (const Transfer& transfer : transfers_)
    add({transfer.out ? Happening::What::send : Happening::What::receive,
         shortened(value_name(transfer)), transfer.peer, seconds_of(transfer.start),
         seconds_of(transfer.end), transfer.bytes});
  for (const bool whole : {true, false})
    for (const Ran& ran : ran_) {
      if ((ran.what != Ran::What::instruction) != whole) continue;
      std::string name = "waits";
      if (ran.what == Ran::What::stretch)
        name = plan::stretch_name(*program_, ran.instruction, ran.last);
      if (ran.what == Ran::What::instruction)
        name = shortened(plan::to_text(program_->instructions.at(ran.instruction), *program_));
      add({what_of(ran.what), name, "", seconds_of(ran.start), seconds_of(ran.end), 0});
    }
  return account;
}

void move_clock(net::Account& account, double by_s) {
  for (Happening& happening : account.happenings) {
    happening.start_s += by_s;
    happening.end_s += by_s;
  }
}

net::Account credible(net::Account account) {
  for (double* time : {&account.queued_s, &account.compute_s, &account.wait_s, &account.transfer_s})
    *time = std::clamp(*time, 0.0, longest_s);
  account.flops = std::clamp(account.flops, 0.0, most_of_anything);
  account.peak_memory_bytes = std::clamp(account.peak_memory_bytes, 0.0, most_of_anything);
  if (account.links.size() > most_links) account.links.resize(most_links);
  for (net::LinkBytes& link : account.links) link.peer = shortened(link.peer);
  if (account.happenings.size() > net::most_happenings) {
    account.left_out += account.happenings.size() - net::most_happenings;
    account.happenings.resize(net::most_happenings);
  }
  for (Happening& happening : account.happenings) {
    happening.start_s = std::clamp(happening.start_s, -longest_clock_s, longest_clock_s);
    happening.end_s = std::clamp(happening.end_s, happening.start_s, longest_clock_s);
    happening.name = shortened(happening.name);
    happening.peer = shortened(happening.peer);
  }
  return account;
}

}  // namespace cleave::infer
