// Two running servers, asked request by request in turn: what one costs more than the other.
//
//   ninja -C build/release in_turn_bench
//   build/release/tests/infer/in_turn_bench HOST:PORT HOST:PORT DIMS [PAIRS]
//
// DIMS is one image, "1x1x28x28". recipes/in-turn starts two systems, of two builds, for it.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "tests/infer/asking.hpp"

namespace cleave::infer {
namespace {

double milliseconds_of(Client& client, const net::Value& image) {
  const auto start = Clock::now();
  const auto response = ask(client, image, true);
  const std::chrono::duration<double, std::milli> took = Clock::now() - start;
  if (response.status != Status::answered) throw std::runtime_error(response.message);
  return took.count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

int run(const std::string& first, const std::string& second, const net::Value& image, int pairs) {
  constexpr int blocks = 10, warm_up = 100;
  Client one(first), other(second);
  std::vector<double> all_one, all_other, ratios;
  for (int i = 0; i < warm_up; ++i) {
    milliseconds_of(one, image);
    milliseconds_of(other, image);
  }
  for (int block = 0; block < blocks; ++block) {
    std::vector<double> of_one, of_other;
    for (int i = 0; i < std::max(1, pairs / blocks); ++i) {
      const bool begins = i % 2 == 0;  // each is the first of a pair in half of them
      if (begins) of_one.push_back(milliseconds_of(one, image));
      of_other.push_back(milliseconds_of(other, image));
      if (!begins) of_one.push_back(milliseconds_of(one, image));
    }
    ratios.push_back(median(of_one) / median(of_other));
    all_one.insert(all_one.end(), of_one.begin(), of_one.end());
    all_other.insert(all_other.end(), of_other.begin(), of_other.end());
  }
  std::sort(ratios.begin(), ratios.end());
  std::printf("medians of %zu pairs: %.4f ms and %.4f ms, ratio %.4f; of ten blocks %.4f to %.4f\n",
              all_one.size(), median(all_one), median(all_other),
              median(all_one) / median(all_other), ratios.front(), ratios.back());
  return 0;
}

}  // namespace
}  // namespace cleave::infer

int main(int argc, char** argv) {
  const int pairs = argc > 4 ? std::atoi(argv[4]) : 5000;
  if (argc < 4 || pairs < 1) {
    std::fprintf(stderr, "usage: in_turn_bench HOST:PORT HOST:PORT DIMS [PAIRS]\n");
    return 2;
  }
  try {
    return cleave::infer::run(argv[1], argv[2], cleave::infer::image_of(argv[3]), pairs);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "in_turn_bench: %s\n", error.what());
    return 1;
  }
}
