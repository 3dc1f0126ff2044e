#pragma once

#include <cstdint>
#include <vector>

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
/// device is present where it is in every piece. Seconds of computing, fusing and overhead, and
/// bytes, are added; a device's queue is its longest, the request's is its first piece's. total_s
/// is the caller's. Throws std::runtime_error where outputs do not fit each other.
Response join_pieces(const std::vector<Response>& pieces);

}  // namespace cleave::infer
