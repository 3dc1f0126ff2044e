#include "calibrate/group.hpp"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <stdexcept>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "calibrate/environment.hpp"

/// glog's, where libtorch logs through it.
namespace fLI {
extern __attribute__((weak)) int FLAGS_minloglevel;
}

namespace cleave::calibrate {
namespace {

constexpr std::chrono::minutes patience_at_start{5};
constexpr std::chrono::minutes patience{30};
constexpr std::int64_t least_pieces = 4;

std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
  text = text.substr(0, text.find('\n'));
  // gloo begins with a place in its source.
  if (text.rfind("[", 0) == 0 && text.find(".cc:") < text.find("] "))
    text.erase(0, text.find("] ") + 2);
  return text;
}

std::shared_ptr<gloo::transport::Device> device_for(const std::string& leader) {
  using c10d::ProcessGroupGloo;
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME"))
    return ProcessGroupGloo::createDeviceForInterface(interface);
  const bool loopback = leader == "localhost" || leader == "::1" || leader.rfind("127.", 0) == 0;
  if (loopback) return ProcessGroupGloo::createDeviceForHostname(leader);
  return ProcessGroupGloo::createDefaultDevice();
}

}  // namespace

struct Group::Engine {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
  std::string who;  // "process 1 of 2"

  /// Waits for what `begin` began.
  void run(const std::function<c10::intrusive_ptr<c10d::Work>()>& begin) const {
    try {
      begin()->wait();
    } catch (const std::exception& error) {
      throw std::runtime_error("[" + who + "] data-parallel: another process is gone or silent (" +
                               first_line(error) +
                               "), needs all; started again they go on from the checkpoint");
    }
  }
};

Group Group::from_environment() {
  Group group;
  if (std::getenv("WORLD_SIZE") == nullptr) return group;
  group.size_ = static_cast<int>(environment_number("WORLD_SIZE", 1, 4096));
  group.rank_ = static_cast<int>(environment_number("RANK", 0, group.size_ - 1));
  if (group.size_ == 1) return group;
  const char* leader = std::getenv("MASTER_ADDR");
  if (leader == nullptr)
    throw std::invalid_argument(
        "[environment] MASTER_ADDR: is not set, needs the address of process 0");
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(environment_number("MASTER_PORT", 1, 65535));
  options.isServer = group.leads();
  options.numWorkers = static_cast<std::size_t>(group.size_);
  options.timeout = patience_at_start;
  auto engine = std::make_shared<Engine>();
  engine->who = "process " + std::to_string(group.rank_) + " of " + std::to_string(group.size_);
  // What c10d says of a socket comes once more as an exception.
  if (&fLI::FLAGS_minloglevel != nullptr) fLI::FLAGS_minloglevel = 3;
  try {
    engine->store = c10::make_intrusive<c10d::TCPStore>(leader, options);
    auto how = c10d::ProcessGroupGloo::Options::create(patience_at_start);
    how->devices.push_back(device_for(leader));
    engine->gloo =
        c10::make_intrusive<c10d::ProcessGroupGloo>(engine->store, group.rank_, group.size_, how);
    how->timeout = patience;
  } catch (const std::exception& error) {
    throw std::runtime_error("[" + engine->who + "] " + leader + ":" +
                             std::to_string(options.port) +
                             ": the processes did not meet: " + first_line(error));
  }
  group.engine_ = std::move(engine);
  return group;
}

std::int64_t Group::pieces() const { return std::max<std::int64_t>(least_pieces, size_); }

std::filesystem::path Group::work_path(const std::filesystem::path& folder) const {
  return leads() ? folder : folder / ("process-" + std::to_string(rank_));
}

std::unique_ptr<base::WorkLock> Group::lock(const std::filesystem::path& folder) const {
  std::unique_ptr<base::WorkLock> lock;
  std::string why;
  try {
    if (leads()) lock = std::make_unique<base::WorkLock>(folder);
  } catch (const std::runtime_error& error) {
    why = error.what();
  }
  why = text_from_leader(why);
  if (!why.empty()) throw std::runtime_error(why);
  return lock;
}

void Group::sum(at::Tensor& values) const {
  if (!engine_) return;
  std::vector<at::Tensor> carried = {values.to(at::kCPU)};
  engine_->run([&] { return engine_->gloo->allreduce(carried); });
  if (!values.is_cpu()) values.copy_(carried[0]);
}

bool Group::any(bool mine) const {
  if (!engine_) return mine;
  at::Tensor count = at::full({1}, mine ? 1.0 : 0.0);
  sum(count);
  return count.item<double>() > 0;
}

void Group::copy_from(int rank, const std::vector<at::Tensor>& tensors) const {
  if (!engine_) return;
  c10d::BroadcastOptions options;
  options.rootRank = rank;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.numel() == 0) continue;
    std::vector<at::Tensor> carried = {tensor.to(at::kCPU)};
    engine_->run([&] { return engine_->gloo->broadcast(carried, options); });
    if (!tensor.is_cpu()) tensor.copy_(carried[0]);
  }
}

std::string Group::text_from_leader(const std::string& mine) const {
  if (!engine_) return mine;
  at::Tensor length = at::full({1}, static_cast<std::int64_t>(mine.size()), at::kLong);
  copy_from(0, {length});
  at::Tensor bytes = at::zeros({length.item<std::int64_t>()}, at::kByte);
  if (leads()) std::copy(mine.begin(), mine.end(), bytes.data_ptr<std::uint8_t>());
  copy_from(0, {bytes});
  const auto* begin = reinterpret_cast<const char*>(bytes.data_ptr<std::uint8_t>());
  return std::string(begin, begin + bytes.numel());
}

}  // namespace cleave::calibrate
