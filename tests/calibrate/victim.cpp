// Trains or calibrates and kills itself after some milliseconds, as a power cut would: for the
// tests that resume.
//   victim train DATA OUT MS | victim calibrate DATA BUNDLE TEACHER MS
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>
#include <unistd.h>

#include "calibrate/calibrate.hpp"
#include "tests/calibrate/task.hpp"

namespace {

void die_after(int milliseconds) {
  std::thread([milliseconds] {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    ::kill(::getpid(), SIGKILL);
  }).detach();
}

}  // namespace

int main(int count, char** arguments) try {
  using namespace cleave;
  const std::string what = count > 1 ? arguments[1] : "";
  if (what == "train" && count == 5) {
    die_after(std::stoi(arguments[4]));
    return calibrate::train(testing::bars_recipe(arguments[2]), arguments[3]).finished ? 0 : 1;
  }
  if (what == "calibrate" && count == 6) {
    die_after(std::stoi(arguments[5]));
    return calibrate::calibrate(arguments[3], arguments[4], testing::bars_calibration(arguments[2]))
                   .finished
               ? 0
               : 1;
  }
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
