#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "infer/aggregator.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tools/options.hpp"

namespace cleave::tools {

/// Throws UsageError where --via, --local and --without contradict each other.
void check_way(const Args& args);

/// Where the agents are: --fleet, or --hosts, or the bundle's hosts.toml. Throws std::runtime_error
/// where a device of the plan has none.
std::map<std::string, std::string> hosts_of(const Args& args, const plan::Bundle& bundle,
                                            const plan::Plan& plan);

/// An aggregator over the bundle's plan, dialling.
std::unique_ptr<infer::Aggregator> make_aggregator(const Args& args, const plan::Bundle& bundle,
                                                   const plan::Plan& plan);

/// A service that runs every part in this process (--local); devices in --without are left out.
std::unique_ptr<infer::Service> make_local(const Args& args, const plan::Bundle& bundle,
                                           const plan::Plan& plan);

/// The whole model of a folder in this process: the original that a fleet is compared with.
std::unique_ptr<infer::Service> make_original(const std::string& model_folder);

/// Waits for the agents at most --join-timeout; throws std::runtime_error with each one's error
/// where none answers.
void join_agents(const Args& args, infer::Aggregator& aggregator);

/// A time option for the service.
std::chrono::milliseconds milliseconds_of(const Args& args, std::string_view option);

/// Pixels for measuring: compute does not depend on what is in an image. uint8 [batch, c, h, w].
net::Value noise_images(const model::ModelConfig& config, std::int64_t batch, std::uint64_t seed);

/// Waits for one answer.
infer::Response ask(infer::Service& service, infer::Request request);

/// What the plan says of fusing, 0 where nothing is predicted.
double predicted_fuse_s(const plan::Plan& plan);

/// Where the time of a response went, a line for each device, predicted beside measured.
std::string times_table(const infer::Response& response, const plan::Plan& plan);

}  // namespace cleave::tools
