#pragma once

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "model/image.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tools/testbed/process.hpp"

namespace cleave::tools {

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// What a program said and how it ended.
struct Ran {
  int code = -1;
  std::string out, error;
};

/// A folder of one test, removed at its end.
class Scratch {
 public:
  Scratch() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cleave-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    path_ = pattern;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// Runs `cleave WORDS…` to its end.
inline Ran run_cleave(const Scratch& scratch, std::vector<std::string> words) {
  words.insert(words.begin(), CLEAVE_PROGRAM);
  Process::Options options;
  options.words = words;
  options.log = scratch / "stderr.txt";
  std::filesystem::remove(options.log);
  Ran ran;
  Process process(options);
  ran.out = process.read_all();
  ran.code = process.wait();
  if (std::filesystem::exists(options.log)) ran.error = base::read_text(options.log);
  return ran;
}

/// Until the process has a handler of its own for SIGINT: `cleave bench` begins to ask.
inline void wait_until_it_heeds_signals(const Process& process) {
  for (int i = 0; i < 600; ++i) {
    std::istringstream status(base::read_text("/proc/" + std::to_string(process.id()) + "/status"));
    for (std::string word; status >> word;)
      if (word == "SigCgt:" && status >> word)
        if ((std::stoull(word, nullptr, 16) >> (SIGINT - 1) & 1) != 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

/// A ViT so small that every step takes a moment: 8x8 grey images, 5 tokens, D 32, 2 layers, 2
/// heads, 3 classes.
inline std::string tiny_config() {
  return R"({"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 64, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 8, "patch_size": 4,
    "num_channels": 1, "qkv_bias": true, "id2label": {"0": "low", "1": "middle", "2": "high"}})";
}

/// Writes a tiny model with random weights to `folder`.
inline void make_tiny_model(const Scratch& scratch, const std::string& folder, int seed = 1) {
  write_text(scratch / "tiny/config.json", tiny_config());
  const auto ran = run_cleave(scratch, {"init", "--config", scratch / "tiny", "--out", folder,
                                        "--seed", std::to_string(seed)});
  ASSERT_EQ(ran.code, 0) << ran.error;
}

/// Grey images whose brightness is their class: one directory a class.
inline void make_images(const std::string& folder, int count, unsigned seed) {
  std::mt19937 random(seed);
  const char* names[] = {"low", "middle", "high"};
  for (int i = 0; i < count; ++i) {
    model::Image image;
    image.height = image.width = 8;
    image.channels = 1;
    const int level = 40 + 85 * (i % 3);
    for (int p = 0; p < 64; ++p)
      image.pixels.push_back(
          static_cast<std::uint8_t>(level + static_cast<int>(random() % 60) - 30));
    const std::filesystem::path path =
        std::filesystem::path(folder) / names[i % 3] / (std::to_string(i) + ".png");
    std::filesystem::create_directories(path.parent_path());
    model::write_png(image, path);
  }
}

/// Three devices on loopback with hand-written figures. A process under a sanitizer fits too.
inline std::string tiny_fleet(const std::string& memory = "1 GB") {
  std::string text = "format = 1\n[links]\nbandwidth = \"100 Mbit/s\"\nlatency = \"0.2 ms\"\n";
  const char* names[] = {"hub", "cam", "door"};
  const char* speeds[] = {"1.0", "0.6", "0.35"};
  for (int i = 0; i < 3; ++i)
    text += std::string("[[device]]\nname = \"") + names[i] +
            "\"\naddress = \"127.0.0.1:" + std::to_string(7101 + i) + "\"\nmemory = \"" + memory +
            "\"\nspeed = " + speeds[i] + "\npreset = \"pi5\"\n";
  return text;
}

/// model/, fleet.toml and plan.json: a tiny model planned for three devices.
inline void make_tiny_plan(const Scratch& s) {
  make_tiny_model(s, s / "model");
  write_text(s / "fleet.toml", tiny_fleet());
  const auto ran = run_cleave(
      s, {"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "decomposed",
          "--max-part-share", "0.8", "--accuracy-weight", "1000", "--out", s / "plan.json"});
  ASSERT_EQ(ran.code, 0) << ran.error;
}

/// The same, cut: bundle/.
inline void make_tiny_bundle(const Scratch& s) {
  make_tiny_plan(s);
  const auto ran =
      run_cleave(s, {"decompose", s / "model", "--plan", s / "plan.json", "--out", s / "bundle"});
  ASSERT_EQ(ran.code, 0) << ran.error;
}

/// The devices of tiny_fleet().
inline const std::vector<std::string> tiny_devices = {"hub", "cam", "door"};

/// An agent of the bundle for each device, listening; where, is in hosts.toml of `own`, with nobody
/// at the address of a device that is left out. `more` goes to every one.
inline std::map<std::string, std::unique_ptr<Process>> start_agents(
    const std::string& bundle, const Scratch& own,
    const std::vector<std::string>& devices = tiny_devices,
    const std::vector<std::string>& more = {}) {
  std::map<std::string, std::unique_ptr<Process>> agents;
  std::map<std::string, std::string> hosts;
  for (const auto& device : tiny_devices) hosts[device] = "127.0.0.1:1";
  for (const auto& device : devices) {
    Process::Options options;
    options.words = {CLEAVE_PROGRAM, "agent", bundle, "--device", device};
    options.words.insert(options.words.end(), more.begin(), more.end());
    options.log = own / (device + ".log");
    agents[device] = std::make_unique<Process>(options);
  }
  for (auto& [device, agent] : agents) {
    const std::string line = agent->read_line(std::chrono::seconds(30));
    hosts[device] = line.substr(line.rfind(' ') + 1);
  }
  plan::write_hosts(hosts, own / "hosts.toml");
  return agents;
}

/// `cleave serve` in front of the agents in hosts.toml of `own`, all joined, and where it listens.
inline std::pair<std::unique_ptr<Process>, std::string> start_server(const std::string& bundle,
                                                                     const Scratch& own) {
  Process::Options options;
  options.words = {CLEAVE_PROGRAM, "serve", bundle, "--hosts", own / "hosts.toml"};
  options.log = own / "serve.log";
  auto server = std::make_unique<Process>(options);
  const std::string line = server->read_line(std::chrono::seconds(30));
  const std::string address = line.substr(line.rfind(' ') + 1);
  for (int i = 0; i < 100 && run_cleave(own, {"status", address}).code != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return {std::move(server), address};
}

}  // namespace cleave::tools
