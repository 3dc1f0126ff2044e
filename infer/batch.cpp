#include "infer/batch.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace cleave::infer {
namespace {

constexpr std::int64_t most_rows = 64;
constexpr std::int64_t most_tokens = 64 * 32;

void add(const net::Account& piece, net::Account* whole) {
  whole->told = whole->told && piece.told;
  whole->queued_s = std::max(whole->queued_s, piece.queued_s);
  whole->compute_s += piece.compute_s;
  whole->wait_s += piece.wait_s;
  whole->transfer_s += piece.transfer_s;
  whole->flops += piece.flops;
  whole->peak_memory_bytes = std::max(whole->peak_memory_bytes, piece.peak_memory_bytes);
  for (const net::LinkBytes& link : piece.links) {
    const auto same = std::find_if(whole->links.begin(), whole->links.end(),
                                   [&](const auto& other) { return other.peer == link.peer; });
    if (same == whole->links.end()) {
      whole->links.push_back(link);
      continue;
    }
    same->sent_bytes += link.sent_bytes;
    same->received_bytes += link.received_bytes;
  }
  whole->left_out += piece.left_out;
  for (const net::Happening& happening : piece.happenings) {
    if (whole->happenings.size() < net::most_happenings)
      whole->happenings.push_back(happening);
    else
      ++whole->left_out;
  }
}

void add(const DeviceReport& piece, DeviceReport* whole) {
  whole->queued_s = std::max(whole->queued_s, piece.queued_s);
  whole->compute_s += piece.compute_s;
  whole->round_trip_s += piece.round_trip_s;
  whole->predicted_s += piece.predicted_s;
  whole->sent_bytes += piece.sent_bytes;
  whole->received_bytes += piece.received_bytes;
  add(piece.account, &whole->account);
  if (!whole->present || piece.present) return;
  whole->present = false;
  whole->why = piece.why;
}

net::Value concatenated(const std::vector<Response>& pieces) {
  net::Value whole = pieces.front().output;
  std::int64_t rows = 0;
  std::size_t bytes = 0;
  for (const auto& piece : pieces) {
    auto dims = piece.output.dims;
    if (dims.empty() || piece.output.element != whole.element)
      throw std::runtime_error("[infer] batch: saw outputs of other kinds in its pieces");
    rows += dims[0];
    bytes += piece.output.data.size();
    dims[0] = whole.dims.at(0);
    if (dims != whole.dims)
      throw std::runtime_error("[infer] batch: saw outputs of other shapes in its pieces");
  }
  std::byte* next = nullptr;
  auto data = net::Buffer::allocate(bytes, &next);
  for (const auto& piece : pieces) {
    std::memcpy(next, piece.output.data.data(), piece.output.data.size());
    next += piece.output.data.size();
  }
  whole.dims[0] = rows;
  whole.data = std::move(data);
  return whole;
}

}  // namespace

std::int64_t rows_at_once(const net::Value& input, bool is_text) {
  if (!is_text) return most_rows;
  const std::int64_t tokens = input.dims.size() < 2 ? 1 : std::max<std::int64_t>(1, input.dims[1]);
  return std::max<std::int64_t>(1, most_tokens / tokens);
}

net::Value rows_of(const net::Value& value, std::int64_t first, std::int64_t count) {
  const auto row = value.data.size() / static_cast<std::size_t>(value.dims.at(0));
  net::Value piece = value;
  piece.dims[0] = count;
  piece.data =
      net::Buffer(value.data.owner(), value.data.data() + row * static_cast<std::size_t>(first),
                  row * static_cast<std::size_t>(count));
  return piece;
}

Response join_pieces(const std::vector<Response>& pieces) {
  Response whole = pieces.at(0);
  whole.output = concatenated(pieces);
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    whole.fuse_s += pieces[i].fuse_s;
    whole.overhead_s += pieces[i].overhead_s;
    add(pieces[i].aggregator, &whole.aggregator);
    for (std::size_t p = 0; p < whole.devices.size(); ++p)
      add(pieces[i].devices.at(p), &whole.devices[p]);
  }
  return whole;
}

Response joined_with_last(Response first, Response last) {
  if (last.status != Status::answered) return last;
  first.output = std::move(last.output);
  first.total_s = last.total_s;  // both are counted from where the first was submitted
  first.fuse_s += last.fuse_s;
  first.overhead_s += last.overhead_s;
  add(last.aggregator, &first.aggregator);
  for (const DeviceReport& device : last.devices)
    for (DeviceReport& known : first.devices)
      if (known.device == device.device) add(device, &known);
  return first;
}

Batch::Batch(Id id, Request whole, std::function<void(Response)> on_done,
             Clock::time_point submitted, Clock::time_point deadline, std::int64_t rows_at_once,
             std::size_t most_open)
    : id_(id),
      whole_(std::move(whole)),
      on_done_(std::move(on_done)),
      submitted_(submitted),
      deadline_(deadline),
      rows_at_once_(rows_at_once),
      most_open_(most_open) {}

std::optional<Batch::Piece> Batch::next() {
  if (ended_ || is_whole() || open_.size() >= most_open_) return std::nullopt;
  const auto rows = std::min(rows_at_once_, whole_.input.dims[0] - next_row_);
  Piece piece;
  piece.index = answers_.size();
  piece.request.plan = whole_.plan;
  piece.request.deadline = whole_.deadline;
  piece.request.require_all = whole_.require_all;
  piece.request.observe = whole_.observe;
  piece.request.input = rows_of(whole_.input, next_row_, rows);
  next_row_ += rows;
  answers_.emplace_back();
  return piece;
}

std::optional<Response> Batch::take(std::size_t piece, Id id, Response response) {
  open_.erase(id);
  if (ended_) return std::nullopt;
  if (response.status != Status::answered) return response;
  answers_[piece] = std::move(response);
  ++num_answered_;
  if (!is_whole() || num_answered_ < answers_.size()) return std::nullopt;
  try {
    return join_pieces(answers_);
  } catch (const std::exception& error) {
    Response failure;
    failure.status = Status::failed;
    failure.message = error.what();
    return failure;
  }
}

Response Batch::end(Response response) {
  using Seconds = std::chrono::duration<double>;
  ended_ = true;
  response.total_s = Seconds(Clock::now() - submitted_).count();
  response.overhead_s = std::clamp(response.total_s - response.queue_s, 0.0, response.overhead_s);
  // Pieces overlap.
  for (auto& device : response.devices)
    device.round_trip_s = std::min(device.round_trip_s, response.total_s);
  return response;
}

}  // namespace cleave::infer
