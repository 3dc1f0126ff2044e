#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>

#include "base/reader.hpp"
#include "base/units.hpp"
#include "model/tokenizer/segment.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/tokenizer/unicode.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/serving.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// One line of input as tokens; those of a pair with the text that each belongs to, 0 or 1.
void print_line(const Args& args, const model::Tokenizer& tokenizer,
                std::vector<model::TokenId> ids) {
  std::vector<int> types;
  for (model::TokenId& id : ids) {
    types.push_back(model::in_second_text(id) ? 1 : 0);
    id = static_cast<model::TokenId>(model::token_of(id));
  }
  if (args.json()) {
    nlohmann::json json = {{"ids", ids}, {"text", tokenizer.decode(ids)}};
    if (args.flag("pairs")) json["types"] = types;
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  std::string text;
  for (const model::TokenId id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  std::printf("%s\n", text.c_str());
}

/// The folder's tokenizer, which has to fit the model where there is one beside it. Of the model
/// nothing else is read: it may be of a kind that Cleave does not run.
model::Tokenizer tokenizer_in(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "config.json")) {
    const auto config = base::Reader::json_file(folder / "config.json");
    if (const auto vocabulary = config.find("vocab_size"))
      return model::read_tokenizer(folder, vocabulary->integer(1, std::int64_t{1} << 31));
  }
  return model::read_tokenizer(folder);
}

int tokenize(const Args& args) {
  say_notes(args.at(0));
  const auto tokenizer = tokenizer_in(args.at(0));
  const bool from_file = args.positionals().size() > 1;
  const std::string name = from_file ? args.at(1) : "standard input";
  std::ifstream file;
  if (from_file) {
    file.open(name, std::ios::binary);
    if (!file) throw std::runtime_error("[" + name + "] cannot read");
    if (std::filesystem::is_directory(name))
      throw std::runtime_error("[" + name + "] cannot read: is a folder, needs a text");
  }
  std::istream& input = from_file ? static_cast<std::istream&>(file) : std::cin;
  std::size_t offset = 0, tokens = 0, number = 0;
  double seconds = 0;
  const auto encoded = [&](std::string_view line) {
    if (!args.flag("pairs")) return tokenizer.encode(line);
    const GivenPair pair = pair_of({std::string(line), name + " line " + std::to_string(number)});
    return tokenizer.encode_pair(pair.first, pair.second, true);
  };
  for (std::string line; std::getline(input, line) && !stop_wanted(); offset += line.size() + 1) {
    ++number;
    if (!args.flag("lossy"))
      if (const std::string wrong = model::why_not_utf8(line, "--lossy replaces it", offset);
          !wrong.empty())
        throw std::runtime_error("[" + name + "] " + wrong);
    const std::string_view text =
        offset == 0 ? model::without_byte_order_mark(line) : std::string_view(line);
    const auto started = std::chrono::steady_clock::now();
    const auto ids = encoded(text);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    tokens += ids.size();
    print_line(args, tokenizer, ids);
  }
  if (input.bad()) throw std::runtime_error("[" + name + "] cannot read to its end");
  if (args.flag("times") && seconds > 0)
    std::fprintf(stderr, "%zu tokens of %s in %s: %s/s\n", tokens,
                 base::format_bytes(static_cast<double>(offset)).c_str(),
                 base::format_seconds(seconds).c_str(),
                 base::format_bytes(static_cast<double>(offset) / seconds).c_str());
  return exit_done;
}

}  // namespace

Command tokenize_command() {
  return {"tokenize",
          "a model's token numbers of each line of a text",
          {{"MODEL", "model folder with a tokenizer"},
           {"FILE", "text, UTF-8; standard input where none is given", false}},
          {"pairs", "lossy", "times", "format", "verbose"},
          "cleave tokenize MODEL text.txt",
          tokenize};
}

}  // namespace cleave::tools
