#include "infer/sequences.hpp"

namespace cleave::infer {

std::string Sequences::objection(const Sequence& wanted, const FleetPlan& plan) const {
  if (wanted.id == 0 || wanted.past == 0) return {};
  const std::string name = "sequence " + std::to_string(wanted.id) + ": ";
  const auto text = texts_.find(wanted.id);
  if (text == texts_.end()) return name + "is not known, needs to begin with its first tokens";
  if (text->second.plan == &plan) return {};
  return name + "saw plan '" + plan.plan().name + "', began with '" +
         text->second.plan->plan().name + "'";
}

void Sequences::open(const Sequence& wanted, const FleetPlan& plan, RequestId request) {
  if (wanted.id == 0) return;
  if (wanted.past == 0) {
    Text& text = texts_[wanted.id];
    text.plan = &plan;
    text.left.clear();
  }
  if (const auto at = texts_.find(wanted.id); at != texts_.end()) at->second.open.insert(request);
}

bool Sequences::close(Id text, RequestId request) {
  const auto at = texts_.find(text);
  if (at == texts_.end()) return false;
  at->second.open.erase(request);
  return forget_if_over(at);
}

bool Sequences::end(Id text) {
  const auto at = texts_.find(text);
  if (at == texts_.end()) return false;
  at->second.ended = true;
  return forget_if_over(at);
}

bool Sequences::forget_if_over(std::map<Id, Text>::iterator text) {
  if (!text->second.ended || !text->second.open.empty()) return false;
  texts_.erase(text);
  return true;
}

bool Sequences::leave(Id text, std::size_t device, const std::string& why) {
  const auto at = texts_.find(text);
  return at != texts_.end() && at->second.left.emplace(device, why).second;
}

std::vector<Sequences::Id> Sequences::leave_all(std::size_t device, const std::string& why) {
  std::vector<Id> left;
  for (auto& [id, text] : texts_)
    if (text.plan->has(device) && text.left.emplace(device, why).second) left.push_back(id);
  return left;
}

void Sequences::rejoin(Id text, std::size_t device) {
  if (const auto at = texts_.find(text); at != texts_.end()) at->second.left.erase(device);
}

const std::string* Sequences::why_left(Id text, std::size_t device) const {
  const auto at = texts_.find(text);
  if (at == texts_.end()) return nullptr;
  const auto why = at->second.left.find(device);
  return why == at->second.left.end() ? nullptr : &why->second;
}

}  // namespace cleave::infer
