#include "calibrate/weights.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace cleave::calibrate {
namespace {

bool all_move(const std::string&) { return true; }

/// A matrix and a vector that learn to be 3 everywhere.
struct Small {
  at::Tensor matrix = at::ones({2, 2}), vector = at::ones({2});
  Weights weights{{{"matrix", &matrix}, {"vector", &vector}}};
  const std::int64_t num_pieces = Group().pieces();
  std::vector<std::pair<at::Tensor, at::Tensor>> copies{static_cast<std::size_t>(num_pieces)};
  model::Lanes lanes{2};

  Small() {
    for (std::int64_t piece = 0; piece < num_pieces; ++piece) {
      auto& [m, v] = copies[static_cast<std::size_t>(piece)];
      weights.bind(piece, {&m, &v});
    }
  }
  /// One step along the gradient of Σ (x − 3)² / 2, a quarter of it from each piece.
  double step(double rate) {
    lanes.run(num_pieces, [&](std::int64_t piece) {
      auto& [m, v] = copies[static_cast<std::size_t>(piece)];
      (((m - 3).square().sum() + (v - 3).square().sum()) / (2 * num_pieces)).backward();
    });
    return weights.step(lanes, rate);
  }
};

TEST(Weights, StepIsAdamWs) {
  Small small;
  StepOptions options;
  options.weight_decay = 0.1;
  options.clip_norm = 0;
  small.weights.start(options, all_move);
  double x = 1, y = 1, mx = 0, vx = 0, my = 0, vy = 0;
  for (int t = 1; t <= 5; ++t) {
    small.step(0.01);
    const auto adam = [&](double value, double gradient, double& m, double& v, double decay) {
      m = 0.9 * m + 0.1 * gradient;
      v = 0.999 * v + 0.001 * gradient * gradient;
      const double step =
          m / (1 - std::pow(0.9, t)) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
      return value * (1 - 0.01 * decay) - 0.01 * step;
    };
    x = adam(x, x - 3, mx, vx, 0.1);
    y = adam(y, y - 3, my, vy, 0);  // vectors do not decay
    EXPECT_NEAR(small.matrix[1][0].item<double>(), x, 1e-5);
    EXPECT_NEAR(small.vector[1].item<double>(), y, 1e-5);
  }
}

TEST(Weights, StepTellsTheNormAndClipsIt) {
  Small clipped, free;
  StepOptions options;
  options.weight_decay = 0;
  options.epsilon = 10;  // so large that Adam does not undo the scale
  options.clip_norm = 1;
  clipped.weights.start(options, all_move);
  options.clip_norm = 0;
  free.weights.start(options, all_move);
  EXPECT_NEAR(clipped.step(1), std::sqrt(6 * 4.0), 1e-5);
  EXPECT_NEAR(free.step(1), std::sqrt(6 * 4.0), 1e-5);
  const double small_step = clipped.vector[0].item<double>() - 1,
               large_step = free.vector[0].item<double>() - 1;
  EXPECT_GT(large_step, 2 * small_step);
}

TEST(Weights, OnlyThoseThatMoveMove) {
  Small small;
  small.weights.start({}, [](const std::string& name) { return name == "vector"; });
  small.step(0.1);
  EXPECT_TRUE(small.matrix.equal(at::ones({2, 2})));
  EXPECT_FALSE(small.vector.equal(at::ones({2})));
  EXPECT_EQ(small.weights.state().count("first.matrix"), 0U);
  EXPECT_EQ(small.weights.state().count("first.vector"), 1U);
}

TEST(Weights, CopiesSeeEveryStep) {
  Small small;
  small.weights.start({}, all_move);
  small.step(0.1);
  EXPECT_TRUE(small.copies.back().first.equal(small.matrix));
}

TEST(Weights, AverageTrailsBehind) {
  Small small;
  StepOptions options;
  options.ema = 0.9;
  small.weights.start(options, all_move);
  for (int i = 0; i < 20; ++i) small.step(0.05);
  const double now = small.vector[0].item<double>();
  small.weights.swap_average();
  const double average = small.vector[0].item<double>();
  EXPECT_GT(average, 1.0);
  EXPECT_LT(average, now);
  small.weights.swap_average();
  EXPECT_EQ(small.vector[0].item<double>(), now);
}

TEST(Weights, RefusesToBindOtherTensors) {
  Small small;
  at::Tensor one;
  EXPECT_THROW(small.weights.bind(0, {&one}), std::logic_error);
}

/// What a matrix's singular values become; its singular vectors stay.
void expect_orthogonalised(const at::Tensor& x, model::Compute compute, double tolerance) {
  const auto [u, s, v] = at::linalg_svd(x, /*full_matrices=*/false);
  const at::Tensor y = orthogonalised(x, compute);
  ASSERT_EQ(y.sizes(), x.sizes());
  const at::Tensor core = u.t().matmul(y).matmul(v.t());
  const at::Tensor values = core.diagonal();
  EXPECT_GT(values.min().item<double>(), 0.5);
  EXPECT_LT(values.max().item<double>(), 1.3);
  EXPECT_LT((core - values.diag()).abs().max().item<double>(), tolerance);
}

TEST(Orthogonalised, KeepsDirectionsAndEvensTheirLengths) {
  at::manual_seed(1);
  for (const std::vector<std::int64_t>& dims :
       std::vector<std::vector<std::int64_t>>{{24, 24}, {8, 40}, {40, 8}}) {
    const at::Tensor x = at::randn(dims) + 0.5;
    expect_orthogonalised(x, model::Compute::f32, 1e-3);
    expect_orthogonalised(x * 1e-5, model::Compute::f32, 1e-3);
    expect_orthogonalised(x, model::Compute::bf16, 0.1);
  }
  EXPECT_TRUE(orthogonalised(at::zeros({3, 4}), model::Compute::f32).equal(at::zeros({3, 4})));
}

TEST(Weights, MuonMovesMatricesOfBlocksAndAdamWTheRest) {
  at::Tensor hidden = at::ones({4, 2}), head = at::ones({4, 2});
  Weights weights{{{"blocks.0.mlp.up.weight", &hidden}, {"head.weight", &head}}};
  std::vector<at::Tensor> copies(2), others(2);
  for (std::int64_t piece = 1; piece < Group().pieces(); ++piece)
    weights.bind(piece, {&others[0], &others[1]});
  weights.bind(0, {&copies[0], &copies[1]});
  StepOptions options;
  options.optimizer = Optimizer::muon;
  options.weight_decay = 0.1;
  options.clip_norm = 0;
  weights.start(options, all_move);
  at::manual_seed(2);
  const at::Tensor constant = at::randn({4, 2});
  at::Tensor momentum = at::zeros({4, 2}), expected = at::ones({4, 2});
  model::Lanes lanes(2);
  for (int step = 0; step < 3; ++step) {
    // Of a constant gradient the momentum would have its direction.
    const at::Tensor gradient = at::randn({4, 2});
    (copies[0] * gradient + copies[1] * constant).sum().backward();
    weights.step(lanes, 0.01);
    momentum = 0.95 * momentum + 0.05 * gradient;
    const at::Tensor ahead = 0.05 * gradient + 0.95 * momentum;
    expected = expected * (1 - 0.01 * 0.1) -
               0.01 * 0.2 * std::sqrt(4.0) * orthogonalised(ahead, model::Compute::f32);
  }
  EXPECT_LT((hidden - expected).abs().max().item<double>(), 1e-5);
  // A constant gradient moves everything by the learning rate in AdamW.
  const at::Tensor moved = (std::pow(1 - 0.01 * 0.1, 3) - head).abs();
  EXPECT_LT((moved - 0.03).abs().max().item<double>(), 1e-3);
  EXPECT_EQ(weights.state().count("second.blocks.0.mlp.up.weight"), 0U);
  EXPECT_EQ(weights.state().count("second.head.weight"), 1U);
}

TEST(LearningRate, WarmsUpAndFallsToZero) {
  EXPECT_NEAR(learning_rate_at(0.5, 2, 1, 5), 1, 1e-12);
  EXPECT_NEAR(learning_rate_at(1, 2, 1, 5), 2, 1e-12);
  EXPECT_NEAR(learning_rate_at(3, 2, 1, 5), 1, 1e-12);
  EXPECT_NEAR(learning_rate_at(5, 2, 1, 5), 0, 1e-12);
  EXPECT_NEAR(learning_rate_at(0.5, 2, 0, 1), 1, 1e-12);
}

TEST(Lanes, RunEveryPieceOnceAndHandOnExceptions) {
  model::Lanes lanes(3);
  std::vector<std::atomic<int>> seen(50);
  lanes.run(50, [&](std::int64_t piece) { ++seen[static_cast<std::size_t>(piece)]; });
  for (const auto& count : seen) EXPECT_EQ(count, 1);
  EXPECT_THROW(lanes.run(5,
                         [](std::int64_t piece) {
                           if (piece == 3) throw std::runtime_error("three");
                         }),
               std::runtime_error);
  int after = 0;
  lanes.run(1, [&](std::int64_t) { ++after; });
  EXPECT_EQ(after, 1);
}

TEST(SliceOf, CoversEverythingOnce) {
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < 4; ++i) {
    const model::Slice slice = model::slice_of(10, i, 4);
    EXPECT_EQ(slice.begin, end);
    end = slice.end;
  }
  EXPECT_EQ(end, 10);
}

}  // namespace
}  // namespace cleave::calibrate
