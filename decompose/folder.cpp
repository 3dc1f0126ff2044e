#include "decompose/folder.hpp"

#include <stdexcept>
#include <utility>

#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::decompose {
namespace {

const char config_file[] = "config.json";

std::filesystem::path replaceable_model(const std::filesystem::path& out) {
  expect_replaceable(out, config_file, "model folder");
  return out;
}

}  // namespace

void expect_replaceable(const std::filesystem::path& out, const std::string& mark,
                        const std::string& kind) {
  if (!std::filesystem::exists(out)) return;
  if (std::filesystem::is_directory(out) &&
      (std::filesystem::is_empty(out) || std::filesystem::exists(out / mark))) {
    return;
  }
  throw std::invalid_argument("[" + out.string() + "] exists and is no " + kind + ": saw no " +
                              mark + ", needs a new, an empty or such a folder");
}

ModelFolder::ModelFolder(const std::filesystem::path& out)
    : out_(out), staged_(replaceable_model(out), config_file) {}

void ModelFolder::commit(const model::ModelConfig& config) {
  model::write_config(config, staged_.path());
  model::remove_other_weights(out_, staged_.path());
  staged_.commit();
}

Steps::Steps(std::string what, std::int64_t total, const base::ProgressCallback& progress)
    : progress_(progress) {
  now_.what = std::move(what);
  now_.total = total;
}

void Steps::next() {
  const auto time = std::chrono::steady_clock::now();
  if (progress_ && time - told_ >= std::chrono::milliseconds(100)) {
    told_ = time;
    if (!progress_(now_)) throw std::runtime_error("[" + now_.what + "] stopped on request");
  }
  ++now_.done;
}

}  // namespace cleave::decompose
