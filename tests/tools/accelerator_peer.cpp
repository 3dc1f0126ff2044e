// One of the processes that train together, each on an accelerator that is pretended.
//   accelerator_peer RECIPE OUT
#include <cstdio>
#include <exception>

#include "calibrate/train.hpp"
#include "tests/calibrate/pretend_accelerator.hpp"

int main(int count, char** arguments) try {
  using namespace cleave;
  if (count != 3) return 2;
  calibrate::TrainRecipe recipe = calibrate::read_train_recipe(arguments[1]);
  recipe.threads = 1;
  const auto group = calibrate::Group::from_environment();
  const bool finished =
      calibrate::train(recipe, arguments[2], {}, group, testing::pretend_accelerator()).finished;
  return finished && testing::operators_on_accelerator() > 100 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
