#include "optimizer/simulate.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "optimizer/task_graph.hpp"

namespace cleave::optimizer {
namespace {

using plan::Program;

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

/// Names what tasks do and where, for people.
class Namer {
 public:
  Namer(const plan::Plan& plan, const std::vector<Program>& programs, const plan::Fleet& fleet,
        const std::vector<Message>& messages)
      : programs_(programs), messages_(messages) {
    for (const std::size_t device : devices_of(plan, fleet))
      devices_.push_back(fleet.devices[device].name);
  }

  /// "hub", "aggregator@hub", "hub network", "hub -> cam".
  std::string lane(const Task& task) const {
    if (task.kind == Task::Kind::transfer) return device(task.rank) + " -> " + device(task.peer);
    const bool is_aggregator = at(task.rank) + 1 == devices_.size();
    const std::string process =
        is_aggregator ? plan::aggregator_process(device(task.rank)) : device(task.rank);
    return task.kind == Task::Kind::compute ? process : process + " network";
  }

  /// "compute on hub", "link hub -> cam", "messages on aggregator@hub".
  std::string place(const Task& task) const {
    if (task.kind == Task::Kind::compute) return "compute on " + device(task.rank);
    if (task.kind == Task::Kind::transfer) return "link " + lane(task);
    return "messages on " + device(task.rank);
  }

  /// "layers 0-5", "fuse", "send x -> cam", "f_1".
  std::string what(const Task& task) const {
    if (task.kind == Task::Kind::compute)
      return plan::stretch_name(programs_[at(task.rank)], at(task.instruction),
                                at(task.last_instruction));
    const Message& message = messages_[at(task.message)];
    const std::string& value = programs_[at(message.to)].values[at(message.value)].name;
    if (task.kind == Task::Kind::send) return "send " + value + " -> " + device(message.to);
    if (task.kind == Task::Kind::receive) return "receive " + value + " <- " + device(message.from);
    return value;
  }

 private:
  const std::string& device(std::int32_t rank) const { return devices_[at(rank)]; }

  const std::vector<Program>& programs_;
  const std::vector<Message>& messages_;
  std::vector<std::string> devices_;  // by rank
};

/// Back from what ends last, to whatever let each task start.
std::vector<bool> critical_tasks(const Schedule& schedule) {
  std::vector<bool> critical(schedule.end_s.size(), false);
  const auto last = std::max_element(schedule.end_s.rbegin(), schedule.end_s.rend());
  if (last == schedule.end_s.rend()) return critical;
  auto task = static_cast<std::int32_t>(schedule.end_s.rend() - last) - 1;
  for (; task >= 0; task = schedule.because[at(task)]) critical[at(task)] = true;
  return critical;
}

std::string longest(const std::map<std::string, double>& seconds_at) {
  const auto most =
      std::max_element(seconds_at.begin(), seconds_at.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == seconds_at.end() ? "" : most->first;
}

/// Lanes in the order of their first event.
std::vector<std::string> lanes_of(const Timeline& timeline) {
  std::vector<std::string> lanes;
  for (const Event& event : timeline.events)
    if (std::find(lanes.begin(), lanes.end(), event.lane) == lanes.end())
      lanes.push_back(event.lane);
  return lanes;
}

/// Draws an event over [begin, end) of a row: its name where there is room, '#' on the critical
/// path, '-' elsewhere.
void draw(const Event& event, std::string& row, std::size_t begin, std::size_t end) {
  row.replace(begin, end - begin, end - begin, event.critical ? '#' : '-');
  if (end - begin >= event.what.size() + 2)
    row.replace(begin + (end - begin - event.what.size()) / 2, event.what.size(), event.what);
}

/// A process of the trace, its lanes as threads.
void add_trace(const TraceGroup& group, std::size_t pid, nlohmann::json& events) {
  constexpr double microseconds = 1e6;
  const std::vector<std::string> lanes = lanes_of(group.timeline);
  const auto name = [&](const char* what, std::size_t lane, const nlohmann::json& args) {
    events.push_back({{"ph", "M"}, {"pid", pid}, {"tid", lane}, {"name", what}, {"args", args}});
  };
  name("process_name", 0, {{"name", group.name}});
  name("process_sort_index", 0, {{"sort_index", pid}});
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    name("thread_name", lane + 1, {{"name", lanes[lane]}});
    name("thread_sort_index", lane + 1, {{"sort_index", lane}});
  }
  for (const Event& event : group.timeline.events) {
    const auto lane = std::find(lanes.begin(), lanes.end(), event.lane) - lanes.begin();
    events.push_back({{"ph", "X"},
                      {"pid", pid},
                      {"tid", lane + 1},
                      {"name", event.what},
                      {"cat", event.critical ? "critical" : "other"},
                      {"ts", event.start_s * microseconds},
                      {"dur", (event.end_s - event.start_s) * microseconds},
                      {"args", {{"critical", event.critical}}}});
  }
}

}  // namespace

Timeline simulate(const plan::Plan& plan, const std::vector<Program>& programs,
                  const plan::Fleet& fleet) {
  const TaskGraph tasks(plan, programs, fleet);
  const Namer namer(plan, programs, fleet, tasks.messages);
  Player player;
  const Schedule& schedule = player.play(tasks);
  const std::vector<bool> critical = critical_tasks(schedule);

  Timeline timeline;
  timeline.latency_s = schedule.latency_s;
  std::map<std::string, double> critical_s;
  for (std::size_t i = 0; i < critical.size(); ++i) {
    const Task& task = tasks.graph[i];
    if (critical[i]) critical_s[namer.place(task)] += task.seconds + task.delay_s;
    if (task.seconds <= 0) continue;
    timeline.events.push_back(
        {namer.lane(task), namer.what(task), schedule.start_s[i], schedule.end_s[i], critical[i]});
  }
  std::stable_sort(timeline.events.begin(), timeline.events.end(),
                   [](const Event& a, const Event& b) { return a.start_s < b.start_s; });
  timeline.bottleneck = longest(critical_s);
  return timeline;
}

std::string to_trace(const Timeline& timeline) { return to_trace({{"simulated", timeline}}); }

std::string to_trace(const std::vector<TraceGroup>& groups) {
  nlohmann::json events = nlohmann::json::array(), other = nlohmann::json::object();
  for (std::size_t group = 0; group < groups.size(); ++group) {
    add_trace(groups[group], group + 1, events);
    // The first group's, where programs have always looked for them.
    const Timeline& timeline = groups[group].timeline;
    const std::string of = group == 0 ? "" : groups[group].name + ": ";
    other[of + "latency_s"] = timeline.latency_s;
    other[of + "bottleneck"] = timeline.bottleneck;
  }
  const nlohmann::json trace = {
      {"displayTimeUnit", "ms"}, {"otherData", other}, {"traceEvents", events}};
  return trace.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string to_gantt(const Timeline& timeline, int columns) {
  constexpr std::size_t narrowest = 20;
  const std::vector<std::string> lanes = lanes_of(timeline);
  std::size_t margin = 0;
  for (const std::string& lane : lanes) margin = std::max(margin, lane.size());
  const std::size_t wanted = columns > 0 ? static_cast<std::size_t>(columns) : 0;
  const std::size_t width =
      std::max(wanted, margin + 3 + narrowest) - margin - 3;  // " |" and "|" around the bars
  double end_s = timeline.latency_s;
  for (const Event& event : timeline.events) end_s = std::max(end_s, event.end_s);
  const auto column = [&](double seconds) {
    return end_s > 0
               ? static_cast<std::size_t>(std::lround(seconds / end_s * static_cast<double>(width)))
               : 0;
  };

  std::string text;
  for (const std::string& lane : lanes) {
    std::string row(width, ' ');
    for (const Event& event : timeline.events) {
      if (event.lane != lane) continue;
      const std::size_t begin = std::min(column(event.start_s), width - 1);
      draw(event, row, begin, std::max(column(event.end_s), begin + 1));
    }
    text += lane + std::string(margin - lane.size(), ' ') + " |" + row + "|\n";
  }
  const std::string until = base::format_seconds(end_s);
  const std::size_t gap = width > until.size() + 1 ? width - until.size() - 1 : 1;
  text += std::string(margin, ' ') + " |0" + std::string(gap, ' ') + until + "|\n";
  text += "# critical path, - elsewhere; bottleneck: " + timeline.bottleneck + "\n";
  return text;
}

}  // namespace cleave::optimizer
