#include "infer/kernels/pool.hpp"

#include <atomic>
#include <vector>

#include <gtest/gtest.h>

namespace cleave::kernels {
namespace {

TEST(Pool, DoesEachTaskOnce) {
  for (const int threads : {2, 3, 5}) {
    Pool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int round = 0; round < 2000; ++round) {
      const std::int64_t count = round % 37;
      std::vector<std::atomic<int>> done(static_cast<std::size_t>(count));
      parallel_for(&pool, count, [&](std::int64_t i) { ++done[static_cast<std::size_t>(i)]; });
      for (const auto& times : done) ASSERT_EQ(times, 1);
    }
  }
}

TEST(Pool, OneThreadHasNoneAndKeepsTheOrder) {
  EXPECT_EQ(make_pool(1), nullptr);
  std::vector<std::int64_t> order;
  parallel_for(nullptr, 4, [&](std::int64_t i) { order.push_back(i); });
  EXPECT_EQ(order, (std::vector<std::int64_t>{0, 1, 2, 3}));
}

TEST(Pool, IsLeftIdle) {
  for (int i = 0; i < 50; ++i) Pool pool(3);
}

}  // namespace
}  // namespace cleave::kernels
