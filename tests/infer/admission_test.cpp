#include "infer/admission.hpp"

#include <gtest/gtest.h>

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using Fit = Admission::Fit;
using Ids = std::vector<Admission::Id>;

const Clock::time_point start{};

/// A device of 1000 bytes, of which 100 are taken.
Admission device(std::size_t max_requests = 8) { return Admission({1000, 100, max_requests, 10s}); }

Admission::Wanted request(double values, double computing) {
  return {{values, computing}, 0, 0, 0};
}
Admission::Wanted text(double cache, double step) { return {{0, 0}, cache, step, 0}; }

TEST(Admission, RequestsShareTheRoomForComputingAndNotThatOfTheirValues) {
  auto admission = device();
  admission.begin(1, {100, 500}, 0, start);
  admission.begin(2, {100, 400}, 0, start);
  EXPECT_EQ(admission.make_room(request(200, 500), start).fit, Fit::now);  // 100 + 400 + 500
  EXPECT_EQ(admission.make_room(request(201, 500), start).fit, Fit::later);
  EXPECT_EQ(admission.make_room(request(200, 501), start).fit, Fit::later);
  admission.end(1, start);
  EXPECT_EQ(admission.make_room(request(201, 500), start).fit, Fit::now);
  EXPECT_EQ(admission.make_room(request(400, 501), start).fit, Fit::never);
  EXPECT_TRUE(admission.could_fit({400, 500}));
  EXPECT_FALSE(admission.could_fit({400, 501}));
}

TEST(Admission, WithoutALimitEverythingFits) {
  Admission admission({0, 100, 8, 10s});
  EXPECT_TRUE(admission.could_fit({1e12, 1e12}));
  EXPECT_EQ(admission.make_room(request(1e12, 1e12), start).fit, Fit::now);
}

TEST(Admission, IsFullAtItsNumberOfRequests) {
  auto admission = device(2);
  admission.begin(1, {}, 0, start);
  EXPECT_FALSE(admission.is_full());
  admission.begin(2, {}, 0, start);
  EXPECT_TRUE(admission.is_full());
  admission.end(1, start);
  admission.end(1, start);  // ended already
  EXPECT_EQ(admission.admitted(), 1u);
}

TEST(Admission, ForgetsRestingTextsTheLongestUnusedFirstAndNoMoreThanNeeded) {
  auto admission = device();
  admission.keep(1, 200, 0, start);
  admission.keep(2, 200, 0, start + 1s);
  admission.keep(3, 200, 0, start + 2s);
  admission.use(1, start + 5s);
  const auto made = admission.make_room(text(500, 0), start + 20s);
  EXPECT_EQ(made.fit, Fit::now);
  EXPECT_EQ(made.gone, (Ids{2}));
  EXPECT_EQ(admission.unused_for(0ms, start + 20s), (Ids{1, 3}));
}

TEST(Admission, ForgetsNoneWhereThatWouldNotDo) {
  auto admission = device();
  admission.keep(1, 200, 0, start);
  admission.begin(7, {300, 0}, 0, start);
  EXPECT_EQ(admission.make_room(text(700, 0), start + 20s).fit, Fit::later);
  EXPECT_EQ(admission.make_room(text(901, 0), start + 20s).fit, Fit::never);
  EXPECT_TRUE(admission.keeps_texts());
}

TEST(Admission, KeepsTextsThatRunThatWereJustUsedOrThatGoOn) {
  auto admission = device();
  admission.keep(1, 300, 0, start);
  admission.begin(7, {}, 1, start);  // runs
  admission.keep(2, 300, 0, start + 15s);
  EXPECT_EQ(admission.make_room(text(400, 0), start + 20s).fit, Fit::never);
  admission.end(7, start + 16s);
  EXPECT_EQ(admission.make_room(text(400, 0), start + 20s).fit, Fit::never);
  // The one that goes on is not forgotten for its own step.
  Admission::Wanted step = request(0, 400);
  step.text = 2;
  const auto made = admission.make_room(step, start + 60s);
  EXPECT_EQ(made.fit, Fit::now);
  EXPECT_EQ(made.gone, (Ids{1}));
}

TEST(Admission, LeavesEachTextTheRoomOfItsNextStep) {
  auto admission = device();
  admission.keep(1, 300, 400, start);
  EXPECT_EQ(admission.make_room(text(200, 100), start + 1s).fit, Fit::now);  // 500 + 400
  EXPECT_EQ(admission.make_room(text(201, 100), start + 1s).fit, Fit::never);
  EXPECT_EQ(admission.make_room(text(100, 501), start + 1s).fit, Fit::never);
  admission.forget(1);
  EXPECT_EQ(admission.make_room(text(201, 100), start + 1s).fit, Fit::now);
}

TEST(Admission, CountsATextAsUsedUntilItsRequestEnds) {
  auto admission = device();
  admission.keep(1, 300, 0, start);
  admission.begin(7, {}, 1, start);
  EXPECT_EQ(admission.unused_for(5s, start + 60s), Ids());
  admission.end(7, start + 60s);
  EXPECT_EQ(admission.unused_for(5s, start + 64s), Ids());
  EXPECT_EQ(admission.unused_for(5s, start + 65s), (Ids{1}));
}

}  // namespace
}  // namespace cleave::infer
