#pragma once

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include <boost/graph/adjacency_list.hpp>

#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::optimizer {

/// A value that travels between two ranks: a send and its receive, or the request's pixels on their
/// way from the aggregator to an agent whose program has an `input`.
struct Message {
  static constexpr std::int32_t none = -1;
  std::int32_t from = 0, to = 0;  // ranks
  std::int32_t send = none;       // instruction of the sender
  std::int32_t receive = 0;       // instruction of the receiver (receive or input)
  std::int32_t part = none;       // whose features the value is; none: any other value
  plan::ValueId value = 0;        // in the receiver's program
  double bytes = 0;
};

/// Everything that travels for one request, the request itself first. Throws std::invalid_argument
/// where a send has no receive or a receive no send.
std::vector<Message> messages_of(const std::vector<plan::Program>& programs);

/// Where each rank runs: index in the fleet; the aggregator's last. Throws std::invalid_argument
/// with the name that is unknown.
std::vector<std::size_t> devices_of(const plan::Plan& plan, const plan::Fleet& fleet);

/// What an instruction waits for beside its operands: nothing; its thread, which is handed a value
/// that was sent; or a device that was idle and wakes up.
enum class Start { at_once, handed_over, woken };
/// Of each instruction. A device wakes up for the first that reads what was sent to it; who fuses
/// is awake.
std::vector<Start> starts_of(const plan::Program& program);
/// Seconds of one compute instruction: its kernels, and what it waits for.
double compute_seconds(const plan::Device& device, Start start,
                       const std::vector<plan::Kernel>& kernels);
/// Seconds that one end of a message costs the device. Not slowed by its speed: only computing is.
double message_seconds(const plan::Device& device, double bytes);

/// One thing that is done for a request, once.
struct Task {
  enum class Kind { compute, send, transfer, receive };
  Kind kind = Kind::compute;
  std::int32_t rank = 0;          // who does it; the sender of a transfer
  std::int32_t peer = -1;         // the other end of a message
  std::int32_t instruction = -1;  // compute: the first of a stretch of the rank's program
  std::int32_t last_instruction = -1;
  std::int32_t message = -1;  // the others: index in messages_of()
  double seconds = 0;
  /// Passes after the end before anyone may use the result, and occupies nothing: a link's latency.
  double delay_s = 0;
  /// What it holds while it runs, as indices below TaskGraph::num_resources; −1: nothing.
  std::int32_t holds[2] = {-1, -1};
};

/// The tasks of one request and what waits for what (Boost.Graph). Resources: the computing of each
/// device, the I/O thread of each process, and of each device the network's outgoing and incoming
/// direction, which all its links share.
struct TaskGraph {
  using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::directedS, Task>;
  /// Throws std::invalid_argument: a device that the fleet does not have, a message without its
  /// other end, programs that wait for each other.
  TaskGraph(const plan::Plan& plan, const std::vector<plan::Program>& programs,
            const plan::Fleet& fleet);
  TaskGraph(const TaskGraph&) = delete;
  TaskGraph& operator=(const TaskGraph&) = delete;

  std::size_t size() const { return boost::num_vertices(graph); }

  Graph graph;
  std::vector<Message> messages;
  std::int32_t num_resources = 0;
};

/// When each task of a graph runs.
struct Schedule {
  std::vector<double> start_s, end_s;
  /// The task whose end let this one start: it delivered the last operand, or held what this one
  /// needs. −1: nothing.
  std::vector<std::int32_t> because;
  double latency_s = 0;
};

/// List scheduling: a task starts when its operands are there and what it holds is free. Messages
/// go in the order in which they are ready; of what is ready to compute a device takes the first of
/// its program, as the executor does. Cheap (microseconds for three devices); keeps its memory
/// between calls, for the search.
class Player {
 public:
  const Schedule& play(const TaskGraph& tasks);

 private:
  /// A task's operands are there, or (task −1) something that was held is free.
  struct Event {
    double at_s;
    std::int32_t task, resource;
  };
  using Waiting = std::set<std::pair<double, std::int32_t>>;  // since when, task

  static bool later(const Event& a, const Event& b);
  void reset(const TaskGraph& tasks);
  void push(const Event& event);
  bool is_free(const Task& task, double now_s) const;
  void wait(const Task& task, std::int32_t which, double now_s);
  /// Starts the first task that waits for the resource and can.
  void start_waiting(const TaskGraph& tasks, std::int32_t resource, double now_s);
  void run(const TaskGraph& tasks, std::int32_t task, double now_s);
  void start(const TaskGraph& tasks, std::int32_t task, double now_s);

  Schedule schedule_;
  std::vector<Event> events_;            // a heap, the earliest on top
  std::vector<Waiting> waiting_;         // by resource: tasks that are ready
  std::vector<double> free_s_;           // by resource
  std::vector<std::int32_t> last_user_;  // by resource
  std::vector<double> ready_s_;          // by task: its operands are there
  std::vector<std::int32_t> deliverer_;  // by task: who brought the last of them
  std::vector<std::int32_t> missing_;    // by task: operands still to come
};

}  // namespace cleave::optimizer
