#include "infer/lot.hpp"

#include <algorithm>

namespace cleave::infer {

void Lot::add(const RequestName& name, const std::string& from, net::ValueMessage message, Time now,
              const Arrival& arrival) {
  const auto [at, begins] = entries_.try_emplace(name);
  Entry& entry = at->second;
  if (begins) entry.since = now;
  if (entry.overflowed) return;
  // What is kept beside the numbers counts too: many empty values are not free.
  const std::uint64_t bytes = message.tensor.data.size() + sizeof(Waiting);
  if (bytes_ + bytes > options_.most_bytes) {
    bytes_ -= entry.bytes;
    entry.bytes = 0;
    entry.values.clear();
    entry.overflowed = true;
    return;
  }
  entry.bytes += bytes;
  bytes_ += bytes;
  entry.values.push_back({from, std::move(message), arrival});
}

std::vector<Lot::Waiting> Lot::take(const RequestName& name) {
  const auto at = entries_.find(name);
  if (at == entries_.end()) return {};
  std::vector<Waiting> values = std::move(at->second.values);
  erase(at);
  return values;
}

bool Lot::overflowed(const RequestName& name) const {
  const auto at = entries_.find(name);
  return at != entries_.end() && at->second.overflowed;
}

void Lot::expire(Time now) {
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto entry = at++;
    if (entry->second.since + options_.most_time <= now) erase(entry);
  }
}

std::optional<Lot::Time> Lot::next() const {
  std::optional<Time> next;
  for (const auto& [name, entry] : entries_) {
    const Time end = entry.since + options_.most_time;
    next = next ? std::min(*next, end) : end;
  }
  return next;
}

void Lot::erase(std::map<RequestName, Entry>::iterator at) {
  bytes_ -= at->second.bytes;
  entries_.erase(at);
}

}  // namespace cleave::infer
