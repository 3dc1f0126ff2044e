#include "optimizer/task_graph.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include <boost/graph/topological_sort.hpp>

#include "optimizer/plan/cost.hpp"

namespace cleave::optimizer {
namespace {

using plan::Instruction;
using plan::Program;
using plan::ValueId;

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }
std::int32_t count(std::size_t size) { return static_cast<std::int32_t>(size); }

std::string rank_text(const Program& program) { return "rank " + std::to_string(program.rank); }

/// The part whose feature `value` is, or none.
std::int32_t maker(const Program& program, ValueId value) {
  for (const Instruction& instruction : program.instructions) {
    const auto* read_out = std::get_if<plan::ReadOut>(&instruction);
    if (read_out && read_out->result == value && read_out->part != plan::teacher_part)
      return read_out->part;
  }
  return Message::none;
}

/// (from, to, tag): what pairs a send with its receive.
using Address = std::tuple<std::int32_t, std::int32_t, std::uint32_t>;

std::string text(const Address& address) {
  return "from rank " + std::to_string(std::get<0>(address)) + " to rank " +
         std::to_string(std::get<1>(address)) + " with tag " + std::to_string(std::get<2>(address));
}

class MessageList {
 public:
  explicit MessageList(const std::vector<Program>& programs) : programs_(programs) {
    for (const Program& program : programs) remember_receives(program);
    add_sends(programs.back());  // the aggregator's: the request's way out
    for (const Program& program : programs)
      if (program.rank != programs.back().rank) add_sends(program);
    if (!receives_.empty())
      throw std::invalid_argument("[programs] receive " + text(receives_.begin()->first) +
                                  ": saw no send, needs one");
  }
  std::vector<Message> take() { return std::move(messages_); }

 private:
  void remember_receives(const Program& program) {
    for (std::size_t i = 0; i < program.instructions.size(); ++i) {
      if (const auto* receive = std::get_if<plan::Receive>(&program.instructions[i]))
        receives_[{receive->peer, program.rank, receive->tag}] = count(i);
    }
  }

  void add_sends(const Program& program) {
    for (std::size_t i = 0; i < program.instructions.size(); ++i) {
      const auto* send = std::get_if<plan::Send>(&program.instructions[i]);
      if (!send) continue;
      const Address address{program.rank, send->peer, send->tag};
      const auto receive = receives_.find(address);
      if (receive == receives_.end())
        throw std::invalid_argument("[programs] send " + text(address) +
                                    ": saw no receive, needs one");
      Message message;
      message.from = program.rank;
      message.send = count(i);
      message.part = maker(program, send->value);
      add(message, programs_.at(at(send->peer)), receive->second);
      receives_.erase(receive);
    }
  }

  void add(Message message, const Program& receiver, std::int32_t receive) {
    message.to = receiver.rank;
    message.receive = receive;
    message.value = std::get<plan::Receive>(receiver.instructions[at(receive)]).result;
    message.bytes = receiver.values.at(at(message.value)).bytes();
    messages_.push_back(message);
  }

  const std::vector<Program>& programs_;
  std::map<Address, std::int32_t> receives_;
  std::vector<Message> messages_;
};

/// Turns programs into tasks. Vertices first, in an order that settles ties: the request's way out,
/// then rank by rank.
class Builder {
 public:
  Builder(TaskGraph& tasks, const plan::Plan& plan, const std::vector<Program>& programs,
          const plan::Fleet& fleet)
      : tasks_(tasks),
        plan_(plan),
        programs_(programs),
        fleet_(fleet),
        devices_(devices_of(plan, fleet)) {
    if (devices_.size() != programs.size())
      throw std::invalid_argument("[programs] saw " + std::to_string(programs.size()) +
                                  ", needs one for each of " + std::to_string(devices_.size()) +
                                  " ranks");
    for (const Program& program : programs) made_by_.emplace_back(program.values.size(), -1);
    tasks_.num_resources = count(3 * fleet.devices.size() + programs.size());
  }

  void build() {
    tasks_.messages = messages_of(programs_);
    for (const Program& program : programs_) add_computes(program);
    for (std::size_t m = 0; m < tasks_.messages.size(); ++m)
      add_message(tasks_.messages[m], count(m));
    for (const auto& [message, first] : firsts_) wait_for(tasks_.messages[at(message)], first);
    for (const auto& [task, instruction] : computes_) wait_for_operands(task, *instruction);
    refuse_cycles();
  }

 private:
  // Resources, by device or by rank.
  std::int32_t computing(std::int32_t rank) const { return count(devices_[at(rank)]); }
  std::int32_t outgoing(std::int32_t rank) const {
    return count(fleet_.devices.size() + devices_[at(rank)]);
  }
  std::int32_t incoming(std::int32_t rank) const {
    return count(2 * fleet_.devices.size() + devices_[at(rank)]);
  }
  std::int32_t io_thread(std::int32_t rank) const {
    return count(3 * fleet_.devices.size()) + rank;
  }
  const plan::Device& device(std::int32_t rank) const { return fleet_.devices[devices_[at(rank)]]; }

  std::int32_t add(const Task& task) { return count(boost::add_vertex(task, tasks_.graph)); }
  void add_edge(std::int32_t from, std::int32_t to) {
    boost::add_edge(at(from), at(to), tasks_.graph);
  }

  /// Or is what computing begins and ends with.
  static bool is_computed(const Instruction& instruction) {
    return plan::computes(instruction) || std::holds_alternative<plan::Input>(instruction) ||
           std::holds_alternative<plan::Output>(instruction);
  }

  /// A task for each stretch of instructions that nothing from outside comes between, and none of
  /// which could begin before the first does.
  void add_computes(const Program& program) {
    const std::vector<Start> starts = starts_of(program);
    std::int32_t vertex = -1;  // of the stretch
    // By value: which stretches of this rank are done where it is there, its own among them.
    std::vector<std::vector<bool>> done_by(program.values.size());
    std::vector<bool> done;  // where the stretch begins, and itself
    std::size_t stretches = 0;
    for (std::size_t i = 0; i < program.instructions.size(); ++i) {
      const Instruction& instruction = program.instructions[i];
      if (!is_computed(instruction)) {
        vertex = -1;
        continue;
      }
      const double seconds = compute_seconds(device(program.rank), starts[i],
                                             plan::kernels_of(instruction, program, plan_));
      std::vector<bool> before(stretches, false);
      plan::for_operands(instruction, [&](ValueId operand) {
        const std::vector<bool>& there = done_by[at(operand)];
        for (std::size_t s = 0; s < there.size(); ++s)
          if (there[s]) before[s] = true;
      });
      bool goes_on = vertex >= 0 && plan::computes(instruction) && starts[i] == Start::at_once;
      for (std::size_t s = 0; goes_on && s < stretches; ++s) goes_on = !before[s] || done[s];
      goes_on = goes_on && before.back();  // reads what the stretch makes
      if (!goes_on) {
        Task task;
        task.rank = program.rank;
        task.instruction = count(i);
        vertex = add(task);
        done = before;
        done.push_back(true);
        ++stretches;
      }
      Task& task = tasks_.graph[at(vertex)];
      task.seconds += seconds;
      task.last_instruction = count(i);
      if (task.seconds > 0) task.holds[0] = computing(program.rank);
      plan::for_results(instruction, [&](ValueId result) {
        made_by_[at(program.rank)].at(at(result)) = vertex;
        done_by[at(result)] = done;
      });
      computes_.emplace_back(vertex, &instruction);
      if (!plan::computes(instruction)) vertex = -1;
    }
  }

  /// Send, transfer, receive; between processes of one device nothing is transferred.
  void add_message(const Message& message, std::int32_t index) {
    const std::int32_t send = add(end_task(Task::Kind::send, message, index));
    std::int32_t last = send;
    if (devices_[at(message.from)] != devices_[at(message.to)]) {
      last = add(transfer_task(message, index));
      add_edge(send, last);
    }
    const std::int32_t receive = add(end_task(Task::Kind::receive, message, index));
    add_edge(last, receive);
    made_by_[at(message.to)].at(at(message.value)) = receive;
    firsts_.emplace_back(index, send);
  }

  Task end_task(Task::Kind kind, const Message& message, std::int32_t index) const {
    Task task;
    task.kind = kind;
    task.rank = kind == Task::Kind::send ? message.from : message.to;
    task.peer = kind == Task::Kind::send ? message.to : message.from;
    task.message = index;
    task.seconds = message_seconds(device(task.rank), message.bytes);
    task.holds[0] = io_thread(task.rank);
    return task;
  }

  Task transfer_task(const Message& message, std::int32_t index) const {
    const plan::Link& link = fleet_.link(devices_[at(message.from)], devices_[at(message.to)]);
    Task task;
    task.kind = Task::Kind::transfer;
    task.rank = message.from;
    task.peer = message.to;
    task.message = index;
    task.seconds = message.bytes / link.bytes_per_s;
    task.delay_s = link.latency_s;
    task.holds[0] = outgoing(message.from);
    task.holds[1] = incoming(message.to);
    return task;
  }

  void wait_for(const Message& message, std::int32_t first) {
    const Program& sender = programs_[at(message.from)];
    wait_for_operands(first, sender.instructions[at(message.send)], sender);
  }

  void wait_for_operands(std::int32_t task, const Instruction& instruction) {
    wait_for_operands(task, instruction, programs_[at(tasks_.graph[at(task)].rank)]);
  }

  void wait_for_operands(std::int32_t task, const Instruction& instruction,
                         const Program& program) {
    plan::for_operands(instruction, [&](ValueId operand) {
      const std::int32_t from = made_by_[at(program.rank)].at(at(operand));
      if (from < 0)
        throw std::invalid_argument("[programs] " + rank_text(program) + ": value '" +
                                    program.values[at(operand)].name + "' is never written");
      if (from != task) add_edge(from, task);
    });
  }

  void refuse_cycles() const {
    std::vector<std::size_t> order;
    try {
      boost::topological_sort(tasks_.graph, std::back_inserter(order));
    } catch (const boost::not_a_dag&) {
      throw std::invalid_argument(
          "[programs] saw instructions that wait for each other, needs an order");
    }
  }

  TaskGraph& tasks_;
  const plan::Plan& plan_;
  const std::vector<Program>& programs_;
  const plan::Fleet& fleet_;
  std::vector<std::size_t> devices_;
  std::vector<std::vector<std::int32_t>> made_by_;                     // by rank and value
  std::vector<std::pair<std::int32_t, const Instruction*>> computes_;  // task and what it runs
  std::vector<std::pair<std::int32_t, std::int32_t>> firsts_;          // message and its first task
};

std::size_t find_device(const plan::Fleet& fleet, const std::string& name,
                        const std::string& field) {
  if (const auto device = fleet.find(name)) return *device;
  std::string known;
  for (const plan::Device& device : fleet.devices)
    known += (known.empty() ? "" : ", ") + device.name;
  throw std::invalid_argument("[plan] " + field + ": saw '" + name +
                              "', needs a device of the fleet (" + known + ")");
}

}  // namespace

std::vector<Message> messages_of(const std::vector<Program>& programs) {
  return MessageList(programs).take();
}

std::vector<std::size_t> devices_of(const plan::Plan& plan, const plan::Fleet& fleet) {
  std::vector<std::size_t> devices;
  for (std::size_t p = 0; p < plan.parts.size(); ++p)
    devices.push_back(
        find_device(fleet, plan.parts[p].device, "parts[" + std::to_string(p) + "].device"));
  devices.push_back(find_device(fleet, plan.aggregator, "aggregator"));
  return devices;
}

std::vector<Start> starts_of(const Program& program) {
  std::vector<bool> sent(program.values.size(), false);  // and read by nobody yet
  std::vector<Start> starts(program.instructions.size(), Start::at_once);
  bool awake = false;
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& instruction = program.instructions[i];
    if (std::holds_alternative<plan::Input>(instruction) ||
        std::holds_alternative<plan::Receive>(instruction))
      plan::for_results(instruction, [&](ValueId result) { sent.at(at(result)) = true; });
    if (!plan::computes(instruction)) continue;
    plan::for_operands(instruction, [&](ValueId operand) {
      if (!sent.at(at(operand))) return;
      sent[at(operand)] = false;
      starts[i] = Start::handed_over;
    });
    const bool fuses = plan::accepts_absent(instruction);
    if (starts[i] == Start::handed_over && !fuses && !std::exchange(awake, true))
      starts[i] = Start::woken;
  }
  return starts;
}

double compute_seconds(const plan::Device& device, Start start,
                       const std::vector<plan::Kernel>& kernels) {
  const double seconds = kernels.empty() ? 0 : device.seconds(kernels);
  if (start == Start::at_once) return seconds;
  return (start == Start::woken ? device.wake_seconds() : 0) + device.instruction_seconds() +
         seconds;
}

double message_seconds(const plan::Device& device, double bytes) {
  return device.profile.cost.message_s + device.profile.cost.message_s_per_byte * bytes;
}

TaskGraph::TaskGraph(const plan::Plan& plan, const std::vector<Program>& programs,
                     const plan::Fleet& fleet) {
  Builder(*this, plan, programs, fleet).build();
}

const Schedule& Player::play(const TaskGraph& tasks) {
  reset(tasks);
  for (std::size_t task = 0; task < missing_.size(); ++task)
    if (missing_[task] == 0) push({0, count(task), -1});
  while (!events_.empty()) {
    std::pop_heap(events_.begin(), events_.end(), later);
    const Event event = events_.back();
    events_.pop_back();
    if (event.task < 0)
      start_waiting(tasks, event.resource, event.at_s);
    else if (is_free(tasks.graph[at(event.task)], event.at_s))
      run(tasks, event.task, event.at_s);
    else
      wait(tasks.graph[at(event.task)], event.task, event.at_s);
  }
  return schedule_;
}

bool Player::later(const Event& a, const Event& b) {
  // What is ready is known before anything that was held is given to somebody.
  const auto key = [](const Event& event) {
    return std::make_tuple(event.at_s, event.task < 0, event.task, event.resource);
  };
  return key(a) > key(b);
}

void Player::push(const Event& event) {
  events_.push_back(event);
  std::push_heap(events_.begin(), events_.end(), later);
}

bool Player::is_free(const Task& task, double now_s) const {
  return std::all_of(std::begin(task.holds), std::end(task.holds), [&](std::int32_t resource) {
    return resource < 0 || free_s_[at(resource)] <= now_s;
  });
}

/// Of what is ready to compute a device takes the first of its program; messages go in the order in
/// which they were ready.
void Player::wait(const Task& task, std::int32_t which, double now_s) {
  const double since_s = task.kind == Task::Kind::compute ? 0 : now_s;
  for (const std::int32_t resource : task.holds)
    if (resource >= 0) waiting_[at(resource)].emplace(since_s, which);
}

void Player::start_waiting(const TaskGraph& tasks, std::int32_t resource, double now_s) {
  if (free_s_[at(resource)] > now_s) return;
  const Waiting waiting = waiting_[at(resource)];
  for (const auto& first : waiting) {
    const Task& task = tasks.graph[at(first.second)];
    if (!is_free(task, now_s)) continue;
    for (const std::int32_t held : task.holds)
      if (held >= 0) waiting_[at(held)].erase(first);
    run(tasks, first.second, now_s);
    return;
  }
}

void Player::run(const TaskGraph& tasks, std::int32_t task, double now_s) {
  start(tasks, task, now_s);
  const double there_s = schedule_.end_s[at(task)] + tasks.graph[at(task)].delay_s;
  for (auto [edge, end] = boost::out_edges(at(task), tasks.graph); edge != end; ++edge) {
    const std::size_t next = boost::target(*edge, tasks.graph);
    if (deliverer_[next] < 0 || there_s >= ready_s_[next]) {
      ready_s_[next] = there_s;
      deliverer_[next] = task;
    }
    if (--missing_[next] == 0) push({ready_s_[next], count(next), -1});
  }
}

void Player::reset(const TaskGraph& tasks) {
  const std::size_t num_tasks = tasks.size();
  schedule_.start_s.assign(num_tasks, 0);
  schedule_.end_s.assign(num_tasks, 0);
  schedule_.because.assign(num_tasks, -1);
  schedule_.latency_s = 0;
  free_s_.assign(at(tasks.num_resources), 0);
  last_user_.assign(at(tasks.num_resources), -1);
  ready_s_.assign(num_tasks, 0);
  deliverer_.assign(num_tasks, -1);
  missing_.assign(num_tasks, 0);
  events_.clear();
  waiting_.assign(at(tasks.num_resources), {});
  for (std::size_t task = 0; task < num_tasks; ++task)
    for (auto [edge, end] = boost::out_edges(task, tasks.graph); edge != end; ++edge)
      ++missing_[boost::target(*edge, tasks.graph)];
}

void Player::start(const TaskGraph& tasks, std::int32_t which, double now_s) {
  const std::size_t index = at(which);
  const Task& task = tasks.graph[index];
  schedule_.because[index] = deliverer_[index];
  const double end_s = now_s + task.seconds;
  double freed_s = ready_s_[index];
  for (const std::int32_t resource : task.holds) {
    if (resource < 0) continue;
    // What held it last, where that is why it starts now.
    if (free_s_[at(resource)] > freed_s) {
      freed_s = free_s_[at(resource)];
      schedule_.because[index] = last_user_[at(resource)];
    }
    free_s_[at(resource)] = end_s;
    last_user_[at(resource)] = which;
    push({end_s, -1, resource});
  }
  schedule_.start_s[index] = now_s;
  schedule_.end_s[index] = end_s;
  schedule_.latency_s = std::max(schedule_.latency_s, end_s);
}

}  // namespace cleave::optimizer
