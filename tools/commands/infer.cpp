#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <filesystem>
#include <future>
#include <memory>
#include <numeric>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "infer/engine.hpp"
#include "model/config/hugging_face.hpp"
#include "model/dataset.hpp"
#include "model/image.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/serving.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

net::Value to_pixels(const std::filesystem::path& path, const model::ModelConfig& config) {
  const auto planes =
      model::prepare(model::read_image(path, config.channels), config.processing, config.channels);
  net::Value value;
  value.element = base::Element::u8;
  value.dims = {1, config.channels, config.image_height, config.image_width};
  value.data = net::Buffer::copy_of(planes.data(), planes.size());
  return value;
}

std::vector<float> logits_of(const net::Value& value) {
  std::vector<float> logits(static_cast<std::size_t>(value.count()));
  std::memcpy(logits.data(), value.data.data(), logits.size() * sizeof(float));
  return logits;
}

std::vector<float> softmax(const std::vector<float>& logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  std::vector<float> shares(logits.size());
  std::transform(logits.begin(), logits.end(), shares.begin(),
                 [highest](float x) { return std::exp(x - highest); });
  const float sum = std::accumulate(shares.begin(), shares.end(), 0.0F);
  for (float& share : shares) share /= sum;
  return shares;
}

std::vector<std::string> missing_of(const infer::Response& response) {
  std::vector<std::string> missing;
  for (const auto& device : response.devices)
    if (!device.present) missing.push_back(device.device);
  return missing;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

struct Counts {
  std::size_t answered = 0, partial = 0, failed = 0, without_device = 0;
};

/// Where the time of an answer went; a prediction that is not known is 0.
nlohmann::json times_of(const infer::Response& response, const plan::Plan& plan) {
  nlohmann::json devices = nlohmann::json::array();
  for (const auto& device : response.devices)
    devices.push_back({{"device", device.device},
                       {"present", device.present},
                       {"queued_s", device.queued_s},
                       {"compute_s", device.compute_s},
                       {"predicted_compute_s", plan.prediction.of(device.device).compute_s},
                       {"round_trip_s", device.round_trip_s},
                       {"sent_bytes", device.sent_bytes},
                       {"received_bytes", device.received_bytes}});
  return {{"queue_s", response.queue_s},
          {"fuse_s", response.fuse_s},
          {"predicted_fuse_s", predicted_fuse_s(plan)},
          {"overhead_s", response.overhead_s},
          {"predicted_latency_s", plan.prediction.latency_s},
          {"devices", devices}};
}

/// Prints one answer, as a line of text or of JSON.
void report(const Args& args, const std::string& image, const infer::Response& response,
            const plan::Plan& plan, Counts& counts) {
  const auto missing = missing_of(response);
  if (response.status != infer::Status::answered) {
    ++counts.failed;
    counts.without_device += response.status == infer::Status::no_device ? 1 : 0;
    if (args.json())
      std::printf(
          "%s\n",
          nlohmann::json{{"image", image}, {"error", response.message}, {"missing", missing}}
              .dump(-1, ' ', false, replace_invalid)
              .c_str());
    else
      std::fprintf(stderr, "%s: no answer: %s\n", image.c_str(), response.message.c_str());
    return;
  }
  ++counts.answered;
  if (!missing.empty()) ++counts.partial;
  const auto logits = logits_of(response.output);
  const auto shares = softmax(logits);
  std::vector<std::size_t> order(shares.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return shares[a] > shares[b]; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(args.integer("top"))));
  const auto label = [&](std::size_t c) {
    const auto& labels = plan.teacher.labels;
    return c < labels.size() ? labels[c] : "class " + std::to_string(c);
  };
  if (args.json()) {
    nlohmann::json json{{"image", image},
                        {"missing", missing},
                        {"seconds", response.total_s},
                        {"classes", nlohmann::json::array()}};
    for (auto c : order)
      json["classes"].push_back({{"class", c}, {"label", label(c)}, {"share", shares[c]}});
    if (args.flag("logits")) json["logits"] = logits;
    if (args.flag("times")) json["times"] = times_of(response, plan);
    std::printf("%s\n", json.dump(-1, ' ', false, replace_invalid).c_str());
    return;
  }
  std::string line = image + ": ";
  for (auto c : order) line += label(c) + " " + percent(shares[c], 1) + "  ";
  if (!missing.empty()) line += "(without " + join(missing) + ")";
  std::printf("%s\n", line.c_str());
  if (args.flag("logits")) {
    for (float logit : logits) std::printf(" %.6g", static_cast<double>(logit));
    std::printf("\n");
  }
}

using Images = std::vector<std::filesystem::path>;

/// What is asked about. Throws UsageError where there is nothing.
Images images_of(const Args& args) {
  const bool via = args.has("via");
  const std::size_t first = via ? 0 : 1;
  if (args.positionals().size() <= first)
    throw UsageError(std::string("[infer] needs ") +
                     (via ? "IMAGE…" : "BUNDLE IMAGE…, or IMAGE… and --via HOST:PORT") +
                     "; see --help");
  Images images;
  for (std::size_t i = first; i < args.positionals().size(); ++i)
    for (auto& path : model::list_images(args.at(i))) images.push_back(std::move(path));
  if (images.empty()) throw UsageError("[infer] no image to look at");
  return images;
}

/// Asks for every image, several in flight, and reports in order.
int ask_all(const Args& args, infer::Service& service, const plan::Plan& plan,
            const Images& images) {
  Counts counts;
  struct Pending {
    std::string image;
    std::future<infer::Response> answer;
  };
  std::deque<Pending> pending;
  infer::Response last;
  // Lines that scroll by are progress enough.
  std::unique_ptr<ProgressBar> bar;
  if (isatty(STDOUT_FILENO) == 0) bar = std::make_unique<ProgressBar>();
  const auto progress = bar ? bar->callback() : [](const base::Progress&) { return true; };
  std::int64_t done = 0;
  const auto finish = [&] {
    last = pending.front().answer.get();
    report(args, pending.front().image, last, plan, counts);
    pending.pop_front();
    progress({"infer", ++done, static_cast<std::int64_t>(images.size()), ""});
  };
  for (const auto& path : images) {
    infer::Request request;
    try {
      request.input = to_pixels(path, plan.teacher);
    } catch (const std::runtime_error& error) {  // this image's alone
      std::promise<infer::Response> unread;
      pending.push_back({path.string(), unread.get_future()});
      infer::Response response;
      response.status = infer::Status::failed;
      response.message = error.what();
      unread.set_value(std::move(response));
      continue;
    }
    request.deadline = milliseconds_of(args, "deadline");
    request.require_all = args.flag("require-all");
    auto answer = std::make_shared<std::promise<infer::Response>>();
    pending.push_back({path.string(), answer->get_future()});
    service.submit(std::move(request),
                   [answer](infer::Response response) { answer->set_value(std::move(response)); });
    if (pending.size() >= static_cast<std::size_t>(args.integer("concurrency"))) finish();
  }
  while (!pending.empty()) finish();
  bar.reset();
  if (args.flag("times") && !args.json()) std::printf("\n%s", times_table(last, plan).c_str());
  if (counts.partial > 0 && !args.json())
    std::fprintf(stderr, "%zu of %zu answers are without some device\n", counts.partial,
                 images.size());
  if (counts.failed == 0) return exit_done;
  const bool only_devices = counts.failed == counts.without_device;
  return args.flag("require-all") && only_devices ? exit_negative : exit_failed;
}

int infer(const Args& args) {
  infer::set_threads(1);
  check_way(args);
  const auto images = images_of(args);
  if (args.has("via")) {
    infer::Client client(args.text("via"));
    plan::Plan known;  // of a server's plan: what it takes, no prediction
    known.teacher =
        model::config_from_json(base::Reader::json_text(client.model_json(), args.text("via")));
    return ask_all(args, client, known, images);
  }
  const plan::Bundle bundle(args.at(0));
  const auto plan = bundle.plan(args.text_or("plan"));
  if (args.flag("local")) return ask_all(args, *make_local(args, bundle, plan), plan, images);
  auto aggregator = make_aggregator(args, bundle, plan);
  try {
    join_agents(args, *aggregator);
  } catch (const std::runtime_error& nobody) {
    if (!args.flag("require-all")) throw;
    std::fprintf(stderr, "cleave: %s\n", nobody.what());
    return exit_negative;
  }
  return ask_all(args, *aggregator, plan, images);
}

}  // namespace

Command infer_command() {
  return {
      "infer",
      "answer for images: as aggregator, --local, or --via a running one",
      {{"BUNDLE", "bundle folder (not with --via)", false},
       {"IMAGE", "images or folders of images", false, true}},
      {"local", "via", "fleet", "hosts", "plan", "without", "require-all", "deadline",
       "join-timeout", "concurrency", "top", "logits", "times", "max-queue", "format", "verbose"},
      "cleave infer bundle/ cat.png --top 3",
      infer};
}

}  // namespace cleave::tools
