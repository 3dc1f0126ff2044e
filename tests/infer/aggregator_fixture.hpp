#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include "infer/aggregator.hpp"
#include "net/mesh.hpp"
#include "tests/infer/fake_parts.hpp"

namespace cleave::infer {

const std::vector<std::string> all = {"hub", "desk", "cam"};

/// A port of loopback that nobody listens on.
inline std::string free_address() {
  boost::asio::io_context io;
  return net::Listener(io, "127.0.0.1:0", false).address();
}

class AggregatorTest : public ::testing::Test {
 protected:
  /// Agents of the given devices, with their addresses in `hosts`.
  void start_agents(const std::vector<std::string>& devices, std::chrono::microseconds time = {}) {
    for (const auto& device : devices) start_agent(device, std::make_unique<FakeEngine>(time));
  }
  void start_agent(const std::string& device, std::unique_ptr<Engine> engine) {
    agents[device] = std::make_unique<RunningAgent>(bundle, plan, RunningAgent::options_for(device),
                                                    std::move(engine));
    hosts[device] = agents[device]->address();
  }
  /// Every device has an address; those without an agent get one where nobody listens.
  AggregatorOptions options() {
    for (const auto& part : plan.parts)
      if (!hosts.count(part.device)) hosts[part.device] = free_address();
    AggregatorOptions wanted;
    wanted.hosts = hosts;
    // Machines that test are slow at times; the tests of lateness set their own.
    wanted.min_wait = std::chrono::seconds(3);
    return wanted;
  }
  std::unique_ptr<Aggregator> aggregator(AggregatorOptions wanted, int wait_for) {
    auto made = std::make_unique<Aggregator>(bundle, std::vector{plan},
                                             std::make_unique<FakeEngine>(), std::move(wanted));
    if (wait_for > 0) {
      EXPECT_EQ(made->wait_for_agents(wait_for, std::chrono::seconds(10)), wait_for);
    }
    return made;
  }

  ScratchFolder folder{"aggregator"};
  plan::Plan plan = fake_plan();
  plan::Bundle bundle = write_bundle(folder.path(), plan);
  std::map<std::string, std::unique_ptr<RunningAgent>> agents;
  std::map<std::string, std::string> hosts;
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
};

/// Who was answered, in order.
class Order {
 public:
  std::function<void(Response)> note(const std::string& name) {
    return [this, name](const Response& response) {
      const std::lock_guard lock(mutex_);
      names_.push_back(name);
      responses_[name] = response;
    };
  }
  std::vector<std::string> names() {
    const std::lock_guard lock(mutex_);
    return names_;
  }
  bool has(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return responses_.count(name) > 0;
  }
  Response of(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return responses_[name];
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> names_;
  std::map<std::string, Response> responses_;
};

}  // namespace cleave::infer
