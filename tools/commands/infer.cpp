#include <algorithm>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <set>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "infer/engine.hpp"
#include "infer/generate.hpp"
#include "model/config/hugging_face.hpp"
#include "model/dataset.hpp"
#include "model/image.hpp"
#include "model/text_data.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "tools/commands/answers.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/output.hpp"
#include "tools/commands/serving.hpp"
#include "tools/commands/trace.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

/// A picture as the model takes it; what its pixels do not show is said once for each kind.
net::Value to_pixels(const std::filesystem::path& path, const model::ModelConfig& config,
                     bool exif_rotation) {
  static std::set<std::string> said;
  model::ReadImageOptions options;
  options.exif_rotation = exif_rotation;
  const model::Image image = model::read_image(path, config.channels, options);
  if (!image.note.empty() && said.insert(image.note).second)
    std::fprintf(stderr, "note: [%s] %s\n", path.c_str(), image.note.c_str());
  const auto planes = model::prepare(image, config.processing, config.channels);
  net::Value value;
  value.element = base::Element::u8;
  value.dims = {1, config.channels, config.image_height, config.image_width};
  value.data = net::Buffer::copy_of(planes.data(), planes.size());
  return value;
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

/// An image's path or as much of a text as tells which.
std::string in_short(const std::string& what) {
  constexpr std::size_t most = 60;
  if (what.size() <= most) return what;
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(what[end]) & 0xc0) == 0x80) --end;
  return what.substr(0, end) + "…";
}

/// Prints one answer, as a line of text or of JSON.
void report(const Args& args, const Question& question, const infer::Response& response,
            const Source& source, Answers& answers, Counts& counts) {
  const plan::Plan& plan = source.plan;
  const auto missing = missing_of(response);
  if (response.status != infer::Status::answered) {
    ++counts.failed;
    counts.without_device += response.status == infer::Status::no_device ? 1 : 0;
    if (args.json()) {
      nlohmann::json json = question.named;
      json["error"] = response.message;
      json["missing"] = missing;
      std::printf("%s\n", json.dump(-1, ' ', false, replace_invalid).c_str());
    } else
      std::fprintf(stderr, "%s: no answer: %s\n", in_short(question.what).c_str(),
                   response.message.c_str());
    return;
  }
  if (++counts.answered == 1) warn_of_weights(source.weights, source.where);
  if (!missing.empty()) ++counts.partial;
  if (args.json()) {
    nlohmann::json json = answers.json(question, response.output);
    json.update(question.named);
    json["missing"] = missing;
    json["weights"] = plan::name_of(source.weights);
    json["seconds"] = response.total_s;
    if (args.flag("logits")) json["logits"] = floats_of(response.output);
    if (args.flag("times")) json["times"] = times_of(response, plan);
    std::printf("%s\n", json.dump(-1, ' ', false, replace_invalid).c_str());
    return;
  }
  std::string line = question.what + ": " + answers.line(question, response.output);
  if (!missing.empty()) line += " (without " + join(missing) + ")";
  std::printf("%s\n", line.c_str());
  if (args.flag("logits")) {
    for (float logit : floats_of(response.output)) std::printf(" %.6g", static_cast<double>(logit));
    std::printf("\n");
  }
}

/// A question that is read when its turn comes: an image that cannot be read, or a text that is too
/// long, fails alone.
struct Asked {
  Question question;  // without input and ids
  std::function<void(Question&)> read;
};

std::vector<Asked> images_of(const Args& args, const std::vector<std::string>& words,
                             const model::ModelConfig& config) {
  const bool upright = args.flag("exif-rotation");
  std::vector<Asked> asked;
  base::Remarks remarks;
  for (const auto& word : words)
    for (const auto& path : model::list_images(word, remarks))
      asked.push_back({{path.string(), {{"image", path.string()}}, {}, {}},
                       [path, &config, upright](Question& question) {
                         question.input = to_pixels(path, config, upright);
                       }});
  say(remarks);
  return asked;
}

/// Texts as tokens, cut to so many of them; 0: whole.
using Encode = std::function<std::vector<model::TokenId>(std::size_t most)>;

/// The tokens of `question`, which an error calls `where`.
void take_ids(const Encode& encode, const std::string& where, const model::ModelConfig& config,
              const model::Tokenizer& tokenizer, Question& question) {
  question.ids = encode(0);
  // As Sentence Transformers does.
  if (const auto most = static_cast<std::size_t>(config.text_length);
      most > 0 && question.ids.size() > most) {
    std::fprintf(stderr, "%s: cut from %zu to %zu tokens, the model's max_seq_length\n",
                 in_short(question.what).c_str(), question.ids.size(), most);
    question.ids = encode(most);
  }
  if (static_cast<std::int64_t>(question.ids.size()) > config.context)
    throw std::runtime_error("[infer] " + where + ": saw " + std::to_string(question.ids.size()) +
                             " tokens, needs at most " + std::to_string(config.context) + ", " +
                             config.context_name());
  if (config.task == model::Task::masked_lm) {
    const auto mask = Answers::mask_of(tokenizer);
    if (std::find(question.ids.begin(), question.ids.end(), mask) == question.ids.end())
      throw std::runtime_error("[infer] " + where + ": saw no " + tokenizer.decode({mask}, false) +
                               ", needs one to fill in");
  }
  question.input = infer::filled_up({{question.ids.begin(), question.ids.end()}});
}

std::vector<Asked> asked_of(const std::vector<GivenText>& texts, const model::ModelConfig& config,
                            const model::Tokenizer& tokenizer) {
  std::vector<Asked> asked;
  for (const auto& text : texts)
    asked.push_back(
        {{text.words, {{"text", text.words}}, {}, {}},
         [text, &config, &tokenizer](Question& question) {
           take_ids([&](std::size_t most) { return tokenizer.encode(text.words, true, most); },
                    text.where, config, tokenizer, question);
         }});
  return asked;
}

/// The same of pairs, for a model that classifies two texts.
std::vector<Asked> asked_of_pairs(const std::vector<GivenPair>& pairs,
                                  const model::ModelConfig& config,
                                  const model::Tokenizer& tokenizer) {
  std::vector<Asked> asked;
  for (const auto& pair : pairs)
    asked.push_back({{pair.first + " | " + pair.second,
                      {{"text_a", pair.first}, {"text_b", pair.second}},
                      {},
                      {}},
                     [pair, &config, &tokenizer](Question& question) {
                       const bool marked = config.token_types > 1;
                       const auto encode = [&](std::size_t most) {
                         return tokenizer.encode_pair(pair.first, pair.second, marked, most);
                       };
                       take_ids(encode, pair.where, config, tokenizer, question);
                     }});
  return asked;
}

/// Asks every question, several in flight, and reports in order.
int ask_all(const Args& args, infer::Service& service, const Source& source,
            const model::Tokenizer* tokenizer, const std::vector<Asked>& asked) {
  const plan::Plan& plan = source.plan;
  Counts counts;
  Answers answers(plan.teacher, tokenizer, static_cast<std::size_t>(args.integer("top")));
  struct Pending {
    Question question;
    std::future<infer::Response> answer;
  };
  std::deque<Pending> pending;
  infer::Response last;
  plan::RequestShape shape;  // of the last
  // Lines that scroll by are progress enough.
  std::unique_ptr<ProgressBar> bar;
  if (isatty(STDOUT_FILENO) == 0) bar = std::make_unique<ProgressBar>();
  const auto progress = bar ? bar->callback() : [](const base::Progress&) { return true; };
  std::int64_t done = 0;
  const auto finish = [&] {
    last = pending.front().answer.get();
    report(args, pending.front().question, last, source, answers, counts);
    pending.pop_front();
    progress({"infer", ++done, static_cast<std::int64_t>(asked.size()), ""});
  };
  for (const auto& one : asked) {
    const bool traced = args.has("trace") && &one == &asked.back();
    infer::Request request;
    Question question = one.question;
    try {
      one.read(question);
    } catch (const std::runtime_error& error) {  // this one's alone
      std::promise<infer::Response> unread;
      pending.push_back({one.question, unread.get_future()});
      infer::Response response;
      response.status = infer::Status::failed;
      response.message = error.what();
      unread.set_value(std::move(response));
      continue;
    }
    request.input = question.input;
    request.deadline = args.milliseconds("deadline");
    request.require_all = args.flag("require-all");
    if (traced) {
      request.observe = net::Observe::trace;
      shape.batch = request.input.dims.at(0);
      shape.tokens = plan.teacher.is_text() ? request.input.dims.at(1) : 0;
    }
    auto answer = std::make_shared<std::promise<infer::Response>>();
    pending.push_back({std::move(question), answer->get_future()});
    service.submit(std::move(request),
                   [answer](infer::Response response) { answer->set_value(std::move(response)); });
    if (pending.size() >= static_cast<std::size_t>(args.integer("concurrency"))) finish();
  }
  while (!pending.empty()) finish();
  bar.reset();
  if (args.flag("times") && !args.json()) std::printf("\n%s", times_table(last, plan).c_str());
  if (counts.partial > 0 && !args.json())
    std::fprintf(stderr, "%zu of %zu answers are without some device\n", counts.partial,
                 asked.size());
  if (args.has("trace") && last.status == infer::Status::answered)
    write_trace(args, {{last, plan, shape}});
  if (counts.failed == 0) return exit_done;
  const bool only_devices = counts.failed == counts.without_device;
  return args.flag("require-all") && only_devices ? exit_negative : exit_failed;
}

int open_and_ask(const Args& args, const Source& source, const model::Tokenizer* tokenizer,
                 const std::vector<Asked>& asked) {
  return with_every_device(args, [&] {
    const auto service = source.open();
    return ask_all(args, *service, source, tokenizer, asked);
  });
}

int infer(const Args& args) {
  infer::set_threads(1);
  check_way(args);
  std::vector<std::string> words = args.positionals();
  std::filesystem::path folder;
  if (args.has("via")) {
    if (args.has("tokenizer")) folder = args.text("tokenizer");
  } else if (!words.empty()) {
    folder = words.front();
    words.erase(words.begin());
  }
  if (words.empty() && !args.has("texts"))
    throw UsageError(
        std::string("[infer] needs ") +
        (args.has("via") ? "IMAGE… or TEXT…" : "MODEL and IMAGE… or TEXT…, or --via HOST:PORT") +
        "; see --help");
  expect_output(args, "trace", OutputKind::trace);
  check_trace(args, args.has("via") || plan::is_bundle(folder));
  const Source source = source_of(args, folder);
  const model::ModelConfig& config = source.plan.teacher;
  const bool pairs = args.flag("pairs");
  if (pairs && (!config.is_text() || config.task != model::Task::classification))
    throw UsageError("[--pairs] saw a model that takes no two texts, needs a classifier of text");
  if (!config.is_text()) {
    const auto images = images_of(args, words, config);
    if (images.empty()) throw UsageError("[infer] no image to look at");
    return open_and_ask(args, source, nullptr, images);
  }
  if (config.task == model::Task::causal_lm)
    throw std::runtime_error("[infer] saw a model that generates, needs `cleave generate`");
  if (source.tokenizer.empty())
    throw UsageError("[--tokenizer] is needed with --via: a server does not cut texts");
  const auto tokenizer = model::read_tokenizer(source.tokenizer, config.vocabulary);
  const auto texts = texts_of(args, words, "text", "texts");
  if (const std::string other = model::other_texts(config, pairs ? 2 : 1); !other.empty())
    std::fprintf(stderr, "warning: [%s] %s\n", source.where.c_str(), other.c_str());
  return open_and_ask(args, source, &tokenizer,
                      pairs ? asked_of_pairs(pairs_of(texts, words.size()), config, tokenizer)
                            : asked_of(texts, config, tokenizer));
}

}  // namespace

Command infer_command() {
  return {"infer",
          "answer for images or texts: a model alone, or a bundle as aggregator, --local or --via",
          {{"MODEL", "model or bundle folder (not with --via)", false},
           {"INPUT", "images or folders of images; of models of text, texts", false, true}},
          {"texts",    "pairs",        "tokenizer",   "lossy",  "exif-rotation", "local",
           "via",      "fleet",        "hosts",       "plan",   "without",       "require-all",
           "deadline", "join-timeout", "concurrency", "top",    "logits",        "times",
           "trace",    "max-queue",    "format",      "verbose"},
          "cleave infer bundle/ cat.png --top 3",
          infer};
}

}  // namespace cleave::tools
