#include "infer/admission.hpp"

#include <algorithm>

#include "optimizer/plan/cost.hpp"

namespace cleave::infer {

Room room_of(const plan::Program& program, const plan::Plan& plan) {
  Room room;
  room.values_bytes = plan::values_bytes(program);
  room.computing_bytes = std::max(0.0, plan::running_bytes(program, plan) - room.values_bytes);
  return room;
}

bool Admission::could_fit(const Room& room) const {
  return options_.memory_bytes == 0 ||
         options_.resident_bytes + room.bytes() <= options_.memory_bytes;
}

/// `more` together with what the admitted requests hold.
Room Admission::beside_admitted(Room more) const {
  for (const auto& [id, request] : requests_) {
    more.values_bytes += request.room.values_bytes;
    more.computing_bytes = std::max(more.computing_bytes, request.room.computing_bytes);
  }
  return more;
}

Admission::Answer Admission::make_room(const Wanted& wanted, Clock::time_point now) {
  std::vector<Id> resting = unused_for(options_.rest, now);
  resting.erase(std::remove(resting.begin(), resting.end(), wanted.text), resting.end());
  std::stable_sort(resting.begin(), resting.end(),
                   [this](Id a, Id b) { return texts_.at(a).used_at < texts_.at(b).used_at; });
  const auto fits = [&](auto gone, bool beside_others) {
    double bytes = wanted.cache_bytes, step = wanted.step_bytes;
    for (const auto& [id, text] : texts_)
      if (std::find(resting.begin(), gone, id) == gone) {
        bytes += text.cache_bytes;
        step = std::max(step, text.step_bytes);
      }
    // Values stay beside each other, as keys and values do.
    const Room room{wanted.room.values_bytes + bytes, wanted.room.computing_bytes};
    return could_fit({bytes, step}) && could_fit(beside_others ? beside_admitted(room) : room);
  };
  auto gone = resting.begin();
  while (!fits(gone, true)) {
    if (gone == resting.end()) return {fits(gone, false) ? Fit::later : Fit::never, {}};
    ++gone;
  }
  resting.erase(gone, resting.end());
  for (const Id id : resting) forget(id);
  return {Fit::now, std::move(resting)};
}

void Admission::begin(Id request, const Room& room, Id text, Clock::time_point now) {
  requests_[request] = {room, text};
  if (const auto at = texts_.find(text); at != texts_.end()) {
    ++at->second.running;
    at->second.used_at = now;
  }
}

void Admission::end(Id request, Clock::time_point now) {
  const auto ended = requests_.find(request);
  if (ended == requests_.end()) return;
  if (const auto at = texts_.find(ended->second.text); at != texts_.end()) {
    --at->second.running;
    at->second.used_at = now;
  }
  requests_.erase(ended);
}

void Admission::keep(Id text, double cache_bytes, double step_bytes, Clock::time_point now) {
  texts_[text] = {cache_bytes, step_bytes, 0, now};
}

void Admission::use(Id text, Clock::time_point now) {
  if (const auto at = texts_.find(text); at != texts_.end()) at->second.used_at = now;
}

std::vector<Admission::Id> Admission::unused_for(std::chrono::milliseconds idle,
                                                 Clock::time_point now) const {
  std::vector<Id> unused;
  for (const auto& [id, text] : texts_)
    if (text.running == 0 && now - text.used_at >= idle) unused.push_back(id);
  return unused;
}

}  // namespace cleave::infer
