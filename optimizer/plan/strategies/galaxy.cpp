#include "optimizer/plan/strategies/shared_pass.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

// Galaxy-style (Ye and others, INFOCOM 2024): heads and columns of each layer by speed and memory,
// norms and the residual stream by rows. Each half of a layer gathers the rows and scatters what it
// adds to them, 2(P-1)/P·N·D numbers; the products go piece by piece beside these transfers.

namespace cleave::plan {

std::vector<Division> divisions_galaxy() { return {{true, true, true, true}}; }

void check_galaxy(const Plan& plan) {
  expect_shares(plan);
  expect_division(plan, divisions_galaxy().front());
}

}  // namespace cleave::plan
