// Large batches: cut into pieces that others' requests come in between of, and joined.

#include "infer/batch.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "infer/aggregator.hpp"
#include "tests/infer/aggregator_fixture.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/infer/scripted_agent.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

float number_at(const net::Value& value, std::int64_t row) {
  const auto width = value.count() / value.dims.at(0);
  float number = 0;
  std::memcpy(&number, value.data.data() + static_cast<std::size_t>(row * width) * sizeof(float),
              sizeof number);
  return number;
}

Request batch_of(std::int64_t rows, std::chrono::milliseconds deadline = 1min) {
  Request request;
  request.input = pixels(1, rows);
  request.deadline = deadline;
  return request;
}

// ---- cutting and joining ----

TEST(Pieces, HaveSixtyFourImagesOrTwoThousandTokens) {
  EXPECT_EQ(rows_at_once(pixels(1, 500), false), 64);
  net::Value ids;
  for (const auto& [tokens, rows] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{32, 64}, {128, 16}, {4096, 1}}) {
    ids.dims = {500, tokens};
    EXPECT_EQ(rows_at_once(ids, true), rows) << tokens;
  }
}

TEST(Pieces, AreRowsInTheirOwnMemory) {
  const auto whole = pixels(1, 10);
  const auto piece = rows_of(whole, 3, 2);
  EXPECT_EQ(piece.dims, (std::vector<std::int64_t>{2, 1, 8, 8}));
  EXPECT_EQ(piece.data.data(), whole.data.data() + 3 * 64);
  EXPECT_EQ(piece.data.size(), 2u * 64);
}

Response piece_of(std::vector<float> numbers, bool present, const std::string& why) {
  Response response;
  response.output.dims = {static_cast<std::int64_t>(numbers.size()), 1};
  response.output.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
  response.queue_s = 1;
  response.fuse_s = 2;
  response.overhead_s = 3;
  DeviceReport report;
  report.device = "cam";
  report.present = present;
  report.why = why;
  report.queued_s = static_cast<double>(numbers.size());
  report.compute_s = report.round_trip_s = report.predicted_s = 4;
  report.sent_bytes = 5;
  report.received_bytes = 6;
  response.devices.push_back(report);
  return response;
}

TEST(Pieces, AreJoinedInOrderAndAddUp) {
  const auto whole = join_pieces({piece_of({1, 2}, true, ""), piece_of({3}, true, "")});
  EXPECT_EQ(whole.output.dims, (std::vector<std::int64_t>{3, 1}));
  for (std::int64_t row = 0; row < 3; ++row)
    EXPECT_EQ(number_at(whole.output, row), static_cast<float>(row + 1));
  EXPECT_EQ(whole.queue_s, 1);
  EXPECT_EQ(whole.fuse_s, 4);
  EXPECT_EQ(whole.overhead_s, 6);
  const auto& cam = whole.devices.at(0);
  EXPECT_TRUE(cam.present);
  EXPECT_EQ(cam.queued_s, 2) << "the longest";
  EXPECT_EQ(cam.compute_s, 8);
  EXPECT_EQ(cam.round_trip_s, 8);
  EXPECT_EQ(cam.predicted_s, 8);
  EXPECT_EQ(cam.sent_bytes, 10u);
  EXPECT_EQ(cam.received_bytes, 12u);
}

TEST(Pieces, ADeviceThatIsMissingInOneIsMissing) {
  const auto whole = join_pieces(
      {piece_of({1}, true, ""), piece_of({2}, false, "late"), piece_of({3}, false, "lost")});
  EXPECT_FALSE(whole.devices.at(0).present);
  EXPECT_EQ(whole.devices.at(0).why, "late");
}

TEST(Pieces, OutputsThatDoNotFitAreRefused) {
  auto wide = piece_of({1, 2}, true, "");
  wide.output.dims = {1, 2};
  EXPECT_THROW(join_pieces({piece_of({1}, true, ""), wide}), std::runtime_error);
}

// ---- over agents ----

class BatchTest : public AggregatorTest {};

TEST_F(BatchTest, IsAnsweredAsItsPiecesWouldBe) {
  start_agents(all, 1ms);
  const auto service = aggregator(options(), 3);
  const auto request = batch_of(150);
  const auto response = ask(*service, request);
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(response.output.dims, (std::vector<std::int64_t>{150, 5}));
  // What the engine of these tests makes of an input is the same number in every row.
  for (const auto& [first, rows] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 64}, {64, 64}, {128, 22}}) {
    const auto expected = expected_answer(rows_of(request.input, first, rows), {0, 1, 2});
    EXPECT_EQ(number_at(response.output, first), expected) << first;
    EXPECT_EQ(number_at(response.output, first + rows - 1), expected) << first;
  }
  EXPECT_EQ(present_devices(response), all);
  EXPECT_NEAR(response.devices[0].predicted_s, 1.5, 1e-9);
  EXPECT_GE(response.devices[0].compute_s, 0.003);
  EXPECT_GE(response.total_s, response.queue_s + response.fuse_s);
  EXPECT_LE(response.devices[0].round_trip_s, response.total_s);
  EXPECT_EQ(service->status()[0].answered, 3);
}

TEST_F(BatchTest, UpToSixtyFourIsOnePiece) {
  start_agents(all);
  const auto service = aggregator(options(), 3);
  const auto request = batch_of(64);
  EXPECT_EQ(first_number(ask(*service, request).output), expected_answer(request.input, {0, 1, 2}));
  EXPECT_EQ(service->status()[0].answered, 1);
}

TEST_F(BatchTest, OthersComeInBetween) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  auto wanted = options();
  wanted.max_in_flight = 1;
  Order order;
  const auto service = aggregator(std::move(wanted), 1);
  service->submit(batch_of(640), order.note("batch"));
  gate->wait_for_entry();
  for (int i = 0; i < 3; ++i)
    service->submit(request_of(1, 1min), order.note("small " + std::to_string(i)));
  gate->open();
  ASSERT_TRUE(eventually([&] { return order.names().size() == 4; }));
  EXPECT_EQ(order.names().back(), "batch");
  EXPECT_EQ(order.of("batch").output.dims.at(0), 640);
}

TEST_F(BatchTest, LeavesPlacesToOthers) {
  std::atomic<int> large{0}, small{0};
  const ScriptedAgent hub([&](const net::Admit& admit) -> std::vector<net::Message> {
    (admit.batch == 64 ? large : small)++;
    return {};
  });
  hosts["hub"] = hub.address();
  auto wanted = options();
  wanted.max_in_flight = 4;
  const auto service = aggregator(std::move(wanted), 1);
  service->submit(batch_of(640), [](Response) {});
  ASSERT_TRUE(eventually([&] { return large == 2; }));
  service->submit(request_of(1), [](Response) {});
  EXPECT_TRUE(eventually([&] { return small == 1; }));
  EXPECT_EQ(large, 2);
}

TEST_F(BatchTest, CancelAnswersOnceAndEndsEveryPiece) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  std::atomic<int> canceled{0}, other{0};
  const auto service = aggregator(options(), 1);
  const auto id = service->submit(batch_of(640), [&](Response response) {
    (response.status == Status::canceled ? canceled : other)++;
  });
  gate->wait_for_entry();
  service->cancel(id);
  service->cancel(id);
  ASSERT_TRUE(eventually([&] { return canceled == 1; }));
  gate->open();
  ASSERT_TRUE(eventually([&] { return service->status()[0].queued == 0; }));
  EXPECT_EQ(ask(*service, request_of(3)).status, Status::answered);
  EXPECT_EQ(service->status()[0].answered, 1) << "no piece was asked after it";
  EXPECT_EQ(canceled, 1);
  EXPECT_EQ(other, 0);
}

TEST_F(BatchTest, APieceWithoutAnAnswerEndsTheOthers) {
  std::atomic<std::uint64_t> first{0}, canceled{0};
  std::atomic<int> asked{0};
  const ScriptedAgent hub(
      [&](const net::Admit& admit) -> std::vector<net::Message> {
        if (++asked == 1) {
          first = admit.request;
          return {};
        }
        net::Failed failed;
        failed.request = admit.request;
        failed.text = "no more";
        return {failed};
      },
      [&](const net::Message& message) {
        if (const auto* cancel = std::get_if<net::Cancel>(&message)) canceled = cancel->request;
      });
  hosts["hub"] = hub.address();
  const auto service = aggregator(options(), 1);
  const auto response = ask(*service, batch_of(640));
  EXPECT_EQ(response.status, Status::failed);
  EXPECT_NE(response.message.find("no more"), std::string::npos) << response.message;
  EXPECT_TRUE(eventually([&] { return first != 0 && canceled == first; }));
  EXPECT_EQ(asked, 2);
}

TEST_F(BatchTest, TheDeadlineIsThatOfAllPieces) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  std::atomic<int> expired{0}, other{0};
  const auto service = aggregator(options(), 1);
  service->submit(batch_of(640, 200ms), [&](Response response) {
    (response.status == Status::deadline ? expired : other)++;
  });
  ASSERT_TRUE(eventually([&] { return expired + other > 0; }));
  gate->open();
  ASSERT_TRUE(eventually([&] { return service->status()[0].queued == 0; }));
  EXPECT_EQ(expired, 1);
  EXPECT_EQ(other, 0);
  EXPECT_EQ(service->status()[0].answered, 0);
}

TEST_F(BatchTest, ADeviceThatFailsInOnePieceIsMissing) {
  start_agents({"hub", "desk"});
  std::atomic<int> asked{0};
  const ScriptedAgent cam([&](const net::Admit& admit) -> std::vector<net::Message> {
    if (++asked == 2) {
      net::Failed failed;
      failed.request = admit.request;
      failed.text = "no more";
      return {failed};
    }
    auto value = value_for(admit, 1);
    const auto rows = admit.batch;
    value.tensor.dims = {rows, 1, 8};
    const std::vector<float> numbers(static_cast<std::size_t>(rows * 8), 1.0f);
    value.tensor.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
    return {value};
  });
  hosts["cam"] = cam.address();
  auto wanted = options();
  wanted.max_in_flight = 1;
  const auto service = aggregator(std::move(wanted), 3);
  const auto response = ask(*service, batch_of(192));
  ASSERT_EQ(response.status, Status::answered) << response.message;
  EXPECT_EQ(present_devices(response), (std::vector<std::string>{"hub", "desk"}));
  EXPECT_EQ(response.devices.at(2).why, "failed: no more");
  EXPECT_EQ(response.output.dims.at(0), 192);
  EXPECT_EQ(asked, 3);
}

TEST_F(BatchTest, DrainWaitsForAllPieces) {
  start_agents(all, 1ms);
  std::atomic<int> answered{0};
  const auto service = aggregator(options(), 3);
  service->submit(batch_of(640),
                  [&](Response response) { answered += response.status == Status::answered; });
  service->drain();
  EXPECT_EQ(answered, 1);
}

TEST_F(BatchTest, IsCanceledAsAWholeAtTheEnd) {
  start_agent("hub", std::make_unique<GatedEngine>(gate));
  std::atomic<int> canceled{0}, other{0};
  {
    const auto service = aggregator(options(), 1);
    service->submit(batch_of(640), [&](Response response) {
      (response.status == Status::canceled ? canceled : other)++;
    });
    gate->wait_for_entry();
    gate->open();
  }
  EXPECT_EQ(canceled + other, 1);
}

TEST_F(BatchTest, SaysOfTheWholeWhatDoesNotFit) {
  start_agents(all);
  const auto service = aggregator(options(), 3);
  auto request = batch_of(150);
  request.input.dims = {150, 1, 16, 4};
  EXPECT_EQ(ask(*service, request).message,
            "[submit] input: saw u8 [150, 1, 16, 4], needs u8 [150, 1, 8, 8]");
  request.input.dims = {300, 1, 8, 8};  // more than its bytes
  EXPECT_EQ(ask(*service, request).status, Status::failed);
  EXPECT_EQ(ask(*service, request_of(1)).status, Status::answered);
}

TEST_F(BatchTest, ATextThatIsGeneratedIsNeverCut) {
  plan = fake_text_plan();
  bundle = write_bundle(folder.path() / "text", plan);
  std::mutex mutex;
  std::vector<std::int64_t> rows;
  const ScriptedAgent hub([&](const net::Admit& admit) -> std::vector<net::Message> {
    const std::lock_guard lock(mutex);
    rows.push_back(admit.batch);
    return {};
  });
  hosts["hub"] = hub.address();
  const auto service = aggregator(options(), 1);
  Request texts;
  texts.input.element = base::Element::i32;
  texts.input.dims = {3, 1500};  // a text a piece
  const std::vector<std::int32_t> ids(3 * 1500, 7);
  texts.input.data = net::Buffer::copy_of(ids.data(), ids.size() * sizeof(std::int32_t));
  texts.deadline = 1min;
  const auto seen = [&](const std::vector<std::int64_t>& wanted) {
    return eventually([&] {
      const std::lock_guard lock(mutex);
      return rows == wanted;
    });
  };
  service->submit(texts, [](Response) {});
  EXPECT_TRUE(seen({1, 1})) << "the third waits for a place";
  texts.sequence = {service->new_sequence(), 0, 2000};
  service->submit(texts, [](Response) {});
  EXPECT_TRUE(seen({1, 1, 3}));
}

}  // namespace
}  // namespace cleave::infer
