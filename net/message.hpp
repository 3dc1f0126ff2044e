#pragma once

// Messages: what frames say.
//
// Goals: each message is a plain struct whose `fields` are its wire format, written once for both
// directions; decoding is pure and refuses every byte that does not belong; a tensor is passed on
// as the memory it was received into.
//
// Non-goals: optional fields (a new kind or a longer header is how the protocol grows).
//
//   kind  name            from → to               answer
//   1     hello           who dialled → listener  welcome or refused
//   2     welcome         listener → who dialled
//   3     refused         listener → who dialled  the connection ends
//   4     admit           aggregator → agent      values, then done; or busy; or failed
//   5     busy            agent → aggregator      the request may be offered again
//   6     value           between devices
//   7     done            agent → aggregator      the request holds nothing there any more
//   8     failed          agent → aggregator
//   9     cancel          to who works on it      done
//   10    abort           either                  to who works on it: done
//   11    ping            either                  pong
//   12    pong            either
//   13    status_request  client → server         status_reply
//   14    status_reply    server → client
//   15    infer_request   client → server         infer_answer
//   16    infer_answer    server → client
//   17    drain           listener → who dialled  no new requests, please
//   18    bye             either                  the connection ends, nothing was lost
//   19    end_sequence    to who keeps it         nobody goes on with the sequence
//   20    routes          aggregator → agent      where the other agents are
//   21    plan            aggregator → agent      plan_reply
//   22    plan_reply      agent → aggregator
//   32-39 reserved for pushing parts
//
// Integers and doubles are little-endian, 8 bytes for a double (IEEE 754); a text is its length (4
// bytes) and its bytes; a list is its length (4 bytes) and its items.

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "net/buffer.hpp"
#include "net/frame.hpp"

namespace cleave::net {

enum class Kind : std::uint16_t {
  hello = 1,
  welcome,
  refused,
  admit,
  busy,
  value,
  done,
  failed,
  cancel,
  abort,
  ping,
  pong,
  status_request,
  status_reply,
  infer_request,
  infer_answer,
  drain,
  bye,
  end_sequence,
  routes,
  plan,
  plan_reply,
  first_push = 32,
  last_push = 39,
};
/// "admit", "busy" …; "push" for the reserved kinds, "?" else.
std::string_view name_of(Kind kind);

/// What the header says of every message.
struct Envelope {
  std::uint64_t request = 0;
  std::uint32_t epoch = 0;
  std::uint32_t tag = 0;
  std::uint64_t sequence = 0;
  /// The sender's last frame of this request: it holds nothing of it any more.
  bool last = false;
};

enum class Role : std::uint8_t { aggregator = 1, agent = 2, client = 3 };

/// What those who work on a request are to tell of it beside its answer.
enum class Observe : std::uint8_t {
  nothing = 0,
  account = 1,  // what each device did: see Account
  trace = 2,    // and when it did what
};

/// One thing that a device did for a request.
struct Happening {
  enum class What : std::uint8_t {
    stretch = 0,  // instructions, until their values leave or nothing is ready
    compute = 1,  // one instruction of it
    send = 2,     // from when the link takes the value until it is written
    receive = 3,  // from the frame's header to its end
    wait = 4,     // nothing is ready
  };
  What what = What::compute;
  std::string name;  // of a stretch's first instruction, the instruction, or the value
  std::string peer;  // of a value: who has the other end
  /// By the device's own clock; in an answer since the request was submitted, by the aggregator's.
  double start_s = 0, end_s = 0;
  std::uint64_t bytes = 0;  // on the wire
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.what, m.name, m.peer, m.start_s, m.end_s, m.bytes);
  }
};

/// Of a request's values, frames' headers included.
struct LinkBytes {
  std::string peer;
  std::uint64_t sent_bytes = 0, received_bytes = 0;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.peer, m.sent_bytes, m.received_bytes);
  }
};

/// What a device did for a request, as it saw it itself.
struct Account {
  bool told = false;  // false: nobody has told it
  /// Ready but behind other requests; computing; nothing to run while the request was open.
  double queued_s = 0, compute_s = 0, wait_s = 0;
  /// Some value was under way: being written, or being read since its header came.
  double transfer_s = 0;
  double flops = 0;              // of the instructions that ran
  double peak_memory_bytes = 0;  // of an agent while it had this request, of an aggregator ever
  std::vector<LinkBytes> links;
  std::vector<Happening> happenings;  // of a trace, in no order
  std::uint64_t left_out = 0;         // happenings that there was no room for
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.told, m.queued_s, m.compute_s, m.wait_s, m.transfer_s, m.flops, m.peak_memory_bytes,
            m.links, m.happenings, m.left_out);
  }
};
/// Happenings of one device that are kept of a request.
constexpr std::size_t most_happenings = 2000;

/// Opens a connection. A client leaves bundle and device empty; the epoch is the one that the
/// sender is in. An aggregator names its requests by a random `origin`; an agent greets by
/// its device's name.
struct Hello : Envelope {
  static constexpr Kind kind = Kind::hello;
  Role role = Role::aggregator;
  std::string bundle;  // identity, 64 hex digits
  std::string device;  // whom the sender believes to have reached
  std::string name;    // of the sender
  std::uint64_t origin = 0;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.role, m.bundle, m.device, m.name, m.origin);
  }
};

struct Welcome : Envelope {
  static constexpr Kind kind = Kind::welcome;
  std::string bundle, device;
  std::uint32_t max_requests = 0;  // admitted at once (W)
  double memory_bytes = 0;         // what the device gives; 0: no limit
  std::string model_json;          // server → client
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.bundle, m.device, m.max_requests, m.memory_bytes, m.model_json);
  }
};

struct Refused : Envelope {
  static constexpr Kind kind = Kind::refused;
  std::string text;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.text);
  }
};

/// A plan in which the agent takes part, as plan.json says it. Requests name it by its digest, once
/// the agent has answered that it serves it.
struct PlanMessage : Envelope {
  static constexpr Kind kind = Kind::plan;
  std::string digest;  // 64 hex digits
  std::string json;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.digest, m.json);
  }
};

struct PlanReply : Envelope {
  static constexpr Kind kind = Kind::plan_reply;
  std::string digest;
  std::string refusal;  // empty: it is served
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.digest, m.refusal);
  }
};

/// Offers a request of B images, or texts of N tokens. What the aggregator's own program sends to
/// the agent follows at once: where the agent is busy, it is ignored. The deadline is relative,
/// because clocks differ.
struct Admit : Envelope {
  static constexpr Kind kind = Kind::admit;
  std::string plan;    // its digest
  std::string digest;  // of the programs, 64 hex digits
  std::uint32_t deadline_ms = 0;
  std::int64_t batch = 0, tokens = 0;
  /// The next token of each text is wanted, chosen from so many candidates of each device, or from
  /// the logits that were kept of the step before; 0: the model's answer.
  std::int64_t best = 0;
  bool from_kept = false;
  /// Of the envelope's sequence: tokens before this request, and those to make room for.
  std::int64_t past = 0, capacity = 0;
  Observe observe = Observe::nothing;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.plan, m.digest, m.deadline_ms, m.batch, m.tokens, m.best, m.from_kept, m.past,
            m.capacity, m.observe);
  }
};

struct Busy : Envelope {
  static constexpr Kind kind = Kind::busy;
  std::string text;  // why, where it is not that others fill the agent
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.text);
  }
};

/// A value of the program, with what it cost at the sender. Between agents the request is its
/// origin's; on an aggregator's connection it is that aggregator's.
struct ValueMessage : Envelope {
  static constexpr Kind kind = Kind::value;
  std::uint64_t origin = 0;
  double queued_s = 0, compute_s = 0, wait_s = 0;
  Value tensor;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.origin, m.queued_s, m.compute_s, m.wait_s);
  }
};

/// Of a request that is observed it comes when all its values are written, and says what was done.
struct Done : Envelope {
  static constexpr Kind kind = Kind::done;
  double queued_s = 0, compute_s = 0, wait_s = 0;
  Account account;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.queued_s, m.compute_s, m.wait_s, m.account);
  }
};

struct Failed : Envelope {
  static constexpr Kind kind = Kind::failed;
  std::string text;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.text);
  }
};

/// Nobody wants the answer any more.
struct Cancel : Envelope {
  static constexpr Kind kind = Kind::cancel;
  template <class Self, class Archive>
  static void fields(Self&, Archive&) {}
};

/// The request cannot be completed; whoever works on it stops.
struct Abort : Envelope {
  static constexpr Kind kind = Kind::abort;
  std::string text;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.text);
  }
};

struct Ping : Envelope {
  static constexpr Kind kind = Kind::ping;
  std::uint64_t stamp = 0;  // comes back in the pong
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.stamp);
  }
};

struct Pong : Envelope {
  static constexpr Kind kind = Kind::pong;
  std::uint64_t stamp = 0;
  double memory_bytes = 0;  // peak of the process so far; 0: not known
  std::int64_t queued = 0;  // requests admitted
  double clock_s = 0;       // what the sender's clock says: seconds since some moment of its own
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.stamp, m.memory_bytes, m.queued, m.clock_s);
  }
};

struct StatusRequest : Envelope {
  static constexpr Kind kind = Kind::status_request;
  template <class Self, class Archive>
  static void fields(Self&, Archive&) {}
};

/// One agent as an aggregator sees it.
struct AgentStatus {
  std::string device, address;
  bool connected = false;
  /// Why it is not connected; of one that is, why it is not asked: "ejected: late".
  std::string last_error;
  double memory_bytes = 0, round_trip_s = 0;
  std::int64_t queued = 0, answered = 0;
  /// Of the weights that it keeps for all plans, and what numbers they are.
  double held_bytes = 0;
  std::string weight_format;
  /// "joined", "ejected: late", "draining", or "away".
  std::string state() const {
    if (connected) return last_error.empty() ? "joined" : last_error;
    return last_error == "draining" ? last_error : "away";
  }
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.device, m.address, m.connected, m.last_error, m.memory_bytes, m.round_trip_s,
            m.queued, m.answered, m.held_bytes, m.weight_format);
  }
};

/// One plan of an aggregator.
struct PlanStatus {
  std::string name, strategy;
  std::string weights;  // what they are: "exact", "calibrated" …
  std::string devices;  // "hub, cam"
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.name, m.strategy, m.weights, m.devices);
  }
};

struct StatusReply : Envelope {
  static constexpr Kind kind = Kind::status_reply;
  std::vector<AgentStatus> agents;
  std::vector<PlanStatus> plans;  // the default one first
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.agents, m.plans);
  }
};

/// How the next token of each text is chosen (infer/sampler.hpp).
struct Choosing {
  bool wanted = false;  // else the answer is the model's
  double temperature = 0;
  std::int64_t top_k = 0;
  double top_p = 1, repetition_penalty = 1;
  std::uint64_t seed = 0;
  std::int64_t step = 0, vocabulary = 0;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.wanted, m.temperature, m.top_k, m.top_p, m.repetition_penalty, m.seed, m.step,
            m.vocabulary);
  }
};

struct InferRequest : Envelope {
  static constexpr Kind kind = Kind::infer_request;
  std::string plan;  // its name; empty: the default one
  std::uint32_t deadline_ms = 0;
  bool require_all = false;
  std::int64_t past = 0, capacity = 0;  // as in Admit
  Observe observe = Observe::nothing;
  Choosing choosing;
  Value tensor;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.plan, m.deadline_ms, m.require_all, m.past, m.capacity, m.observe, m.choosing);
  }
};

/// What one device did for a request.
struct DeviceReport {
  std::string device;
  bool present = false;
  double queued_s = 0, compute_s = 0;  // on the device
  double round_trip_s = 0;             // admit sent -> feature received, at the aggregator
  double predicted_s = 0;
  std::uint64_t sent_bytes = 0,
                received_bytes = 0;  // of this request, headers included, seen from the aggregator
  std::string why;                   // not present
  Account account;                   // where the request was observed
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.device, m.present, m.queued_s, m.compute_s, m.round_trip_s, m.predicted_s,
            m.sent_bytes, m.received_bytes, m.why, m.account);
  }
};

/// The tensor is absent where there is no answer.
struct InferAnswer : Envelope {
  static constexpr Kind kind = Kind::infer_answer;
  std::uint8_t status = 0;
  std::string text;
  double queue_s = 0, fuse_s = 0, total_s = 0, overhead_s = 0;
  std::vector<DeviceReport> devices;
  Account aggregator;  // its own, where the request was observed
  Value tensor = Value::absent();
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.status, m.text, m.queue_s, m.fuse_s, m.total_s, m.overhead_s, m.devices,
            m.aggregator);
  }
};

struct Drain : Envelope {
  static constexpr Kind kind = Kind::drain;
  template <class Self, class Archive>
  static void fields(Self&, Archive&) {}
};

struct Bye : Envelope {
  static constexpr Kind kind = Kind::bye;
  template <class Self, class Archive>
  static void fields(Self&, Archive&) {}
};

/// The envelope's sequence will not go on: what is kept of it can be freed.
struct EndSequence : Envelope {
  static constexpr Kind kind = Kind::end_sequence;
  template <class Self, class Archive>
  static void fields(Self&, Archive&) {}
};

/// Where the agents of a plan are reached whose programs exchange values.
struct Routes : Envelope {
  static constexpr Kind kind = Kind::routes;
  struct Route {
    std::string device, address;
    template <class Self, class Archive>
    static void fields(Self& m, Archive& archive) {
      archive(m.device, m.address);
    }
  };
  std::vector<Route> routes;
  template <class Self, class Archive>
  static void fields(Self& m, Archive& archive) {
    archive(m.routes);
  }
};

using Message = std::variant<Hello, Welcome, Refused, Admit, Busy, ValueMessage, Done, Failed,
                             Cancel, Abort, Ping, Pong, StatusRequest, StatusReply, InferRequest,
                             InferAnswer, Drain, Bye, EndSequence, Routes, PlanMessage, PlanReply>;

/// The frame of a message; its payload is the tensor's own memory. Throws std::invalid_argument
/// where a text or the whole is longer than a reader accepts, or the tensor's bytes do not match
/// its dims.
Frame encode(const Message& message);

/// `body` is descriptor and fields, `payload` what follows; sizes are those the header says.
Result<Message> decode(const Header& header, const std::byte* body, Buffer payload);

Kind kind_of(const Message& message);
const Envelope& envelope_of(const Message& message);

}  // namespace cleave::net
