#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <vector>

#include "infer/executor.hpp"
#include "infer/service.hpp"
#include "net/buffer.hpp"

namespace cleave::infer {

// A large batch would hold every device for as long as it takes, and who asks for one image would
// wait for all of it. So it is cut into pieces that are jobs of their own, and the answers are
// joined.

/// Rows of one piece: 64 images, or texts of 2048 tokens together, at least one. Pieces are of this
/// size and the last is the rest, so that batches of any size share one program and need one more.
std::int64_t rows_at_once(const net::Value& input, bool is_text);

/// Rows `first` up to `first + count` of a value [B, …], in its own memory.
net::Value rows_of(const net::Value& value, std::int64_t first, std::int64_t count);

/// One response of those of all pieces in order, each of them answered. Outputs are concatenated; a
/// device is present where it is in every piece. Seconds of computing, fusing and overhead, bytes
/// and what was done are added; a device's queue is its longest, the request's is its first
/// piece's. total_s is the caller's. Throws std::runtime_error where outputs do not fit each other.
Response join_pieces(const std::vector<Response>& pieces);

/// What is answered where `last` answers what `first` left open: the output of the last one, the
/// devices of the first, and what both took together. As it is where the last is no answer.
Response joined_with_last(Response first, Response last);

/// A request of more rows than one job takes. Its pieces queue behind whoever came before them: the
/// next one when the one before has left the queue, and not too many at once.
class Batch {
 public:
  using Id = std::uint64_t;
  struct Piece {
    std::size_t index = 0;
    Request request;
  };
  Batch(Id id, Request whole, std::function<void(Response)> on_done, Clock::time_point submitted,
        Clock::time_point deadline, std::int64_t rows_at_once, std::size_t most_open);
  Id id() const { return id_; }
  const std::function<void(Response)>& on_done() const { return on_done_; }
  Clock::time_point deadline() const { return deadline_; }
  Clock::time_point submitted() const { return submitted_; }

  /// The next piece, where there is one and it may queue.
  std::optional<Piece> next();
  /// The piece is queued as the job `id`.
  void opened(Id id) { open_.insert(id); }
  /// What answers the whole: the first piece without an answer, or all of them joined.
  std::optional<Response> take(std::size_t piece, Id id, Response response);
  /// No piece is queued or taken after it. Returns the response with the times of the whole.
  Response end(Response response);
  /// Pieces queued or running.
  const std::set<Id>& open() const { return open_; }

 private:
  bool is_whole() const { return next_row_ >= whole_.input.dims.at(0); }

  Id id_;
  Request whole_;
  std::function<void(Response)> on_done_;
  Clock::time_point submitted_, deadline_;
  std::int64_t rows_at_once_, next_row_ = 0;
  std::size_t most_open_;
  std::set<Id> open_;
  std::vector<Response> answers_;  // by piece
  std::size_t num_answered_ = 0;
  bool ended_ = false;
};

}  // namespace cleave::infer
