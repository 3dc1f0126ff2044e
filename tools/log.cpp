#include "tools/log.hpp"

#include <algorithm>
#include <climits>
#include <memory>
#include <mutex>
#include <poll.h>
#include <spdlog/async.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <string>
#include <unistd.h>

#include "base/text.hpp"

namespace cleave::tools {
namespace {

/// Lines that wait for the writing thread; beyond it the oldest are left out.
constexpr std::size_t most_waiting = 512;
/// How long a reader may leave the pipe full before lines are left out.
constexpr int patience_ms = 500;

/// Writes to standard error only what it takes at once: after poll() says so, a pipe takes PIPE_BUF
/// bytes without blocking.
class StandardError : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (!is_ready()) {
      ++left_out_;
      return;
    }
    if (left_out_ > 0)
      put("[log] " + std::to_string(left_out_) + " lines left out: nobody read them\n");
    left_out_ = 0;
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    put({line.data(), line.size()});
  }
  void flush_() override {}

 private:
  bool is_ready() {
    pollfd output{STDERR_FILENO, POLLOUT, 0};
    const bool ready =
        poll(&output, 1, stuck_ ? 0 : patience_ms) == 1 && (output.revents & POLLOUT) != 0;
    stuck_ = !ready;  // the next lines do not wait as long
    return ready;
  }
  static void put(const std::string& line) {
    // A line that cannot be written is lost; there is nowhere to say so.
    [[maybe_unused]] const auto written =
        write(STDERR_FILENO, line.data(), std::min<std::size_t>(line.size(), PIPE_BUF));
  }

  bool stuck_ = false;
  std::size_t left_out_ = 0;
};

std::shared_ptr<spdlog::logger> make_logger() {
  spdlog::init_thread_pool(most_waiting, 1);
  auto sink = std::make_shared<StandardError>();
  sink->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %v");
  return std::make_shared<spdlog::async_logger>("cleave", std::move(sink), spdlog::thread_pool(),
                                                spdlog::async_overflow_policy::overrun_oldest);
}

}  // namespace

base::Log stderr_log(bool verbose) {
  static const auto logger = make_logger();
  return [logger = logger, verbose](base::LogLevel level, const std::string& line) {
    if (level == base::LogLevel::detail && !verbose) return;
    constexpr std::size_t longest = 2000;
    std::string shown = base::printable(line);
    if (shown.size() > longest) shown = shown.substr(0, longest) + " …";
    logger->info(spdlog::string_view_t(shown.data(), shown.size()));
  };
}

}  // namespace cleave::tools
