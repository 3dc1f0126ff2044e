#pragma once

#include <chrono>
#include <functional>

namespace cleave::tools {

/// SIGINT and SIGTERM set a flag from now on; a second one ends the process.
void catch_signals();
bool stop_wanted();
/// Blocks until stop_wanted(); returns the signal's number.
int wait_for_signal();
/// Of the time that a process gets to end, what its work gets: the rest is for saying goodbye.
std::chrono::milliseconds drain_patience(std::chrono::milliseconds whole);
/// Returns at once. At the signal calls `drain` on a thread of its own; a process that still runs
/// `patience` later is ended.
void drain_on_signal(std::function<void()> drain, std::chrono::milliseconds patience);

}  // namespace cleave::tools
