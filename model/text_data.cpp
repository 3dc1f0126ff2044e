#include "model/text_data.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "model/draw.hpp"
#include "model/tokenizer/unicode.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;

/// The share of a running text, at its end, that is the test split where one file is all there is.
constexpr double test_share = 0.1;

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw std::runtime_error("[" + file.string() + "] " + what);
}

[[noreturn]] void fail_at(const fs::path& file, std::size_t line, const std::string& what) {
  fail(file, "line " + std::to_string(line) + ": " + what);
}

/// What one line of a file says.
struct Line {
  std::size_t number = 0;
  std::vector<std::string> texts;  // one, or the two of a pair
  std::string answer;              // label or score, as written; empty: none
};

std::string read_valid(const fs::path& path, bool lossy) {
  std::string text = base::read_text(path);
  const std::string wrong = why_not_utf8(text, "--lossy replaces it");
  if (!wrong.empty() && !lossy) fail(path, wrong);
  if (!wrong.empty()) text = repaired_utf8(text);
  return std::string(without_byte_order_mark(text));
}

std::vector<std::string> split(const std::string& line, char by) {
  std::vector<std::string> fields(1);
  for (const char c : line)
    if (c == by)
      fields.emplace_back();
    else
      fields.back() += c;
  return fields;
}

template <typename Take>
void for_lines(const fs::path& path, bool lossy, const Take& take) {
  const std::string text = read_valid(path, lossy);
  std::size_t number = 0, begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    ++number;
    if (!line.empty()) take(number, line);
    begin = end + 1;
  }
}

/// Which columns of a file are read, and how many there are.
struct Columns {
  std::vector<std::size_t> texts;  // one, or the two of a pair
  std::size_t answer = 0, count = 0;
};

using Names = std::vector<std::string>;

/// What GLUE and others call the two texts of a pair, in order, a text by itself, and a second text
/// that is not read under this name.
constexpr std::array<std::array<const char*, 2>, 8> pair_names = {{{"text_a", "text_b"},
                                                                   {"sentence1", "sentence2"},
                                                                   {"sentence_A", "sentence_B"},
                                                                   {"question", "sentence"},
                                                                   {"question", "passage"},
                                                                   {"question1", "question2"},
                                                                   {"#1 String", "#2 String"},
                                                                   {"premise", "hypothesis"}}};
constexpr std::array single_names = {"text", "sentence", "question"};
constexpr std::array other_names = {"text_pair"};
constexpr std::array label_names = {"label", "Quality", "gold_label", "is_duplicate"};
constexpr const char* score_name = "score";

template <typename All, typename One>
bool is_among(const All& all, const One& name) {
  return std::find(all.begin(), all.end(), name) != all.end();
}

bool names_a_text(const std::string& name) {
  return is_among(single_names, name) || is_among(other_names, name) ||
         std::any_of(pair_names.begin(), pair_names.end(),
                     [&](const auto& pair) { return is_among(pair, name); });
}

/// Which texts are read where these are named: both of a pair, first and second, or one.
Names texts_among(const Names& named) {
  const auto has = [&](const char* name) { return is_among(named, name); };
  for (const auto& pair : pair_names)
    if (has(pair[0]) && has(pair[1])) return {pair[0], pair[1]};
  for (const char* name : single_names)
    if (has(name)) return {name};
  for (const auto& pair : pair_names)  // half of it
    if (has(pair[0]) || has(pair[1])) return {pair[0], pair[1]};
  return {single_names.front()};
}

/// Refuses texts that are named and would not be read.
void expect_no_more(const fs::path& path, std::size_t line, const Names& named,
                    const Names& texts) {
  for (const auto& name : named)
    if (!is_among(texts, name) || std::count(named.begin(), named.end(), name) > 1)
      fail_at(path, line,
              name + ": saw a " + (texts.size() == 1 ? "second" : "third") + " text beside '" +
                  texts.front() + "', needs text_a and text_b");
}

/// Where the answer stands: the score, or the label; the other of them where it stands alone.
/// Nothing where there is neither.
std::optional<std::size_t> answer_column(const fs::path& path, std::size_t line,
                                         const Names& fields, bool scored) {
  std::vector<std::size_t> labels, scores;
  for (std::size_t column = 0; column < fields.size(); ++column) {
    if (is_among(label_names, fields[column])) labels.push_back(column);
    if (fields[column] == score_name) scores.push_back(column);
  }
  const auto& found = (scored && !scores.empty()) || labels.empty() ? scores : labels;
  if (found.size() > 1)
    fail_at(path, line,
            fields[found[1]] + ": saw it beside '" + fields[found[0]] + "', needs one of them");
  return found.empty() ? std::nullopt : std::optional(found.front());
}

/// As a header line names them, in whatever order; nothing where the line is none.
std::optional<Columns> named_columns(const fs::path& path, std::size_t line, const Names& fields,
                                     bool scored) {
  Names named;
  for (const auto& field : fields)
    if (names_a_text(field)) named.push_back(field);
  if (named.empty()) return std::nullopt;
  const auto answer = answer_column(path, line, fields, scored);
  if (!answer) return std::nullopt;
  Columns columns{{}, *answer, fields.size()};
  const Names texts = texts_among(named);
  expect_no_more(path, line, named, texts);
  for (const auto& name : texts) {
    const auto found = std::find(fields.begin(), fields.end(), name);
    if (found == fields.end()) fail_at(path, line, name + ": saw no column, needs one");
    columns.texts.push_back(static_cast<std::size_t>(found - fields.begin()));
  }
  return columns;
}

/// Of a file without a header: the answer stands behind one text or two.
Columns usual_columns(std::size_t count) {
  return count == 2 ? Columns{{0}, 1, 2} : Columns{{0, 1}, 2, 3};
}

std::optional<std::int64_t> number_of(const std::string& answer) {
  std::int64_t number = -1;
  const char* end = answer.data() + answer.size();
  const auto read = std::from_chars(answer.data(), end, number);
  if (answer.empty() || read.ec != std::errc() || read.ptr != end) return std::nullopt;
  return number;
}

/// 17, id-17, 31193n, 550e8400-e29b-41d4: one word of ASCII with a digit.
bool looks_like_id(const std::string& text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return std::any_of(text.begin(), text.end(), is_digit) &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
}

/// Lines without a header that begin with an id each hardly begin with a text.
void expect_no_ids(const fs::path& path, const std::vector<Line>& lines, const std::string& needs) {
  const auto begins_with_id = [](const Line& line) {
    return line.texts.size() == 2 && looks_like_id(line.texts.front());
  };
  if (!lines.empty() && std::all_of(lines.begin(), lines.end(), begins_with_id))
    fail_at(path, lines.front().number,
            "saw '" + lines.front().texts.front() +
                "' in the first column, which looks like an id, as in all lines; needs " + needs +
                ", or a header that names the columns");
}

/// What a header or the keys of objects name that is not read and holds more than integers: a text,
/// it may be.
using Unread = std::set<std::string>;

/// A score is that of two texts; of a classifier one text has a label, or two have, in all lines.
std::vector<Line> read_tsv(const fs::path& path, bool scored, bool lossy, Unread& unread) {
  const std::string needs =
      scored ? "text, text and score" : "text and label, or text, text and label";
  std::vector<Line> lines;
  std::optional<Columns> columns;
  std::size_t first = 0;
  Names header;
  for_lines(path, lossy, [&](std::size_t number, const std::string& line) {
    auto fields = split(line, '\t');
    const std::string saw = "saw " + std::to_string(fields.size()) + " columns, needs ";
    if (!columns) {
      first = number;
      columns = named_columns(path, number, fields, scored);
      if (columns) header = fields;
      if (columns) return;
      if (fields.size() != 3 && (scored || fields.size() != 2)) fail_at(path, number, saw + needs);
      columns = usual_columns(fields.size());
    }
    if (fields.size() != columns->count)
      fail_at(path, number,
              saw + std::to_string(columns->count) + " as in line " + std::to_string(first));
    for (std::size_t column = 0; column < header.size(); ++column)
      if (column != columns->answer && !is_among(columns->texts, column) &&
          !fields[column].empty() && !number_of(fields[column]))
        unread.insert(header[column]);
    Line read{number, {}, std::move(fields[columns->answer])};
    for (const std::size_t column : columns->texts) read.texts.push_back(std::move(fields[column]));
    lines.push_back(std::move(read));
  });
  if (scored && !lines.empty() && lines.front().texts.size() != 2)
    fail_at(path, first, "saw one text a line, needs " + needs);
  if (header.empty()) expect_no_ids(path, lines, needs);
  return lines;
}

/// The STS benchmark: genre, file, year, number, score, text, text, and at times two sources more.
std::vector<Line> read_stsb(const fs::path& path, bool lossy) {
  std::vector<Line> lines;
  for_lines(path, lossy, [&](std::size_t number, const std::string& line) {
    const auto fields = split(line, '\t');
    if (fields.size() < 7)
      fail_at(path, number, "saw " + std::to_string(fields.size()) + " columns, needs at least 7");
    lines.push_back({number, {fields[5], fields[6]}, fields[4]});
  });
  return lines;
}

std::string text_or_number(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// The keys of an object that name texts; what is null is none.
Names texts_named_in(const nlohmann::json& object) {
  Names named;
  for (const auto& [key, value] : object.items())
    if (!value.is_null() && names_a_text(key)) named.push_back(key);
  return named;
}

/// Texts under text, or text_a and text_b, or as GLUE names them; all lines as the first.
std::vector<Line> read_jsonl(const fs::path& path, bool scored, bool lossy, Unread& unread) {
  std::vector<Line> lines;
  Names texts;
  for_lines(path, lossy, [&](std::size_t number, const std::string& line) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object()) fail_at(path, number, "saw no JSON object, needs one a line");
    Line read{number, {}, {}};
    const Names named = texts_named_in(object);
    if (lines.empty()) texts = texts_among(named);
    if (scored && texts.size() == 1) texts = {"text_a", "text_b"};
    for (const auto& key : texts) {
      if (!object.contains(key) || !object[key].is_string())
        fail_at(path, number,
                key + ": saw no text, needs one" +
                    (lines.empty() ? "" : " as in line " + std::to_string(lines[0].number)));
      read.texts.push_back(object[key].get<std::string>());
    }
    expect_no_more(path, number, named, texts);
    const char* answer = scored ? "score" : "label";
    if (object.contains(answer)) read.answer = text_or_number(object[answer]);
    for (const auto& [key, value] : object.items())
      if (key != answer && !is_among(texts, key) &&
          (value.is_string() || value.is_array() || value.is_object()))
        unread.insert(key);
    lines.push_back(std::move(read));
  });
  return lines;
}

/// The files that may be a split's, by patterns such as sts-*.tsv; the first is meant.
std::vector<fs::path> candidates(const DatasetSource& source,
                                 const std::vector<std::string>& patterns) {
  if (fs::is_regular_file(source.path)) return {source.path};
  std::vector<fs::path> found;
  for (const auto& name : names_of_split(source.split))
    for (std::string file : patterns) {
      file.replace(file.find('*'), 1, name);
      if (fs::is_regular_file(source.path / file)) found.push_back(source.path / file);
    }
  return found;
}

std::optional<fs::path> find_file(const DatasetSource& source,
                                  const std::vector<std::string>& patterns) {
  const auto found = candidates(source, patterns);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

/// Files that hold rows with answers, by precedence.
const std::vector<std::string> labelled_files = {"sts-*.tsv", "*.jsonl", "*.tsv"};

/// The file of a split, noted in `data` with what else might be meant: files of `patterns`, or of
/// `others`.
fs::path file_of(const DatasetSource& source, const std::vector<std::string>& patterns,
                 Dataset& data, const std::vector<std::string>& others = {}) {
  if (source.split == "train" && fs::is_regular_file(source.path))
    fail(source.path,
         "data: saw one file, needs a folder with the files of both splits: what learns from it "
         "would be judged by the same lines");
  const auto found = candidates(source, patterns);
  if (found.empty()) {
    std::string file = patterns.front();
    file.replace(file.find('*'), 1, names_of_split(source.split).front());
    fail(source.path, "data: saw no file of the " + source.split + " split, needs " + file);
  }
  std::vector<std::string> rest;
  for (std::size_t i = 1; i < found.size(); ++i) rest.push_back(found[i].filename().string());
  for (const auto& other : candidates(source, others))
    if (!is_among(found, other)) rest.push_back(other.filename().string());
  if (!rest.empty())
    data.remarks.push_back({"other_splits", static_cast<std::int64_t>(rest.size()),
                            "[" + source.path.string() + "] " + found.front().filename().string() +
                                " is the " + source.split +
                                " split; not read: " + base::some_of(rest)});
  return data.origin = found.front();
}

std::string detect(const DatasetSource& source, const ModelConfig& config) {
  if (config.reads_every_token()) return "text";
  const auto has = [&](const std::string& pattern) {
    return find_file(source, {pattern}).has_value();
  };
  if (fs::is_regular_file(source.path))
    return source.path.extension() == ".jsonl" ? "jsonl" : "tsv";
  if (has("sts-*.tsv")) return "stsb";
  return has("*.jsonl") ? "jsonl" : "tsv";
}

std::vector<Line> read_lines(const DatasetSource& source, const std::string& format, bool scored,
                             Dataset& data) {
  if (format == "stsb") {
    if (!scored)
      fail(source.path, "format: saw stsb, which has no labels, but the model classifies");
    return read_stsb(file_of(source, {"sts-*.tsv", "*.tsv"}, data, labelled_files), source.lossy);
  }
  const bool objects = format == "jsonl";
  const fs::path file = file_of(source, {objects ? "*.jsonl" : "*.tsv"}, data, labelled_files);
  Unread unread;
  auto lines = objects ? read_jsonl(file, scored, source.lossy, unread)
                       : read_tsv(file, scored, source.lossy, unread);
  if (!unread.empty())
    data.remarks.push_back(
        {"unread_fields", static_cast<std::int64_t>(unread.size()),
         "[" + file.string() + "] not read: " + base::some_of({unread.begin(), unread.end()})});
  return lines;
}

/// The names that lines have for their classes, in order; none where they number them.
std::vector<std::string> names_in(const std::vector<Line>& lines, std::int64_t classes,
                                  const fs::path& file) {
  std::set<std::string> names;
  bool numbered = true;
  for (const Line& line : lines) {
    if (line.answer.empty()) continue;  // which is refused with its line
    numbered = numbered && number_of(line.answer);
    names.insert(line.answer);
  }
  if (numbered) return {};
  std::vector<std::string> all(names.begin(), names.end());
  if (static_cast<std::int64_t>(all.size()) != classes)
    fail(file, "labels: saw " + std::to_string(all.size()) + " names (" + base::some_of(all) +
                   "), needs " + std::to_string(classes) + ", as the model has classes");
  return all;
}

std::int64_t label_of(const Line& line, const std::vector<std::string>& names, std::int64_t classes,
                      const fs::path& file) {
  const auto named = std::find(names.begin(), names.end(), line.answer);
  if (named != names.end()) return named - names.begin();
  const auto number = number_of(line.answer);
  if (number && *number >= 0 && *number < classes) return *number;
  const std::string text = "line " + std::to_string(line.number) + ": label: saw " +
                           (line.answer.empty() ? "nothing" : "'" + line.answer + "'") +
                           ", needs 0.." + std::to_string(classes - 1) +
                           (names.empty() ? "" : " or one of the model's labels");
  if (!names.empty() && !number && !line.answer.empty())
    throw UnknownClass("[" + file.string() + "] " + text);
  fail(file, text);
}

float score_of(const Line& line, const fs::path& file) {
  try {
    std::size_t used = 0;
    const float score = std::stof(line.answer, &used);
    if (used == line.answer.size() && std::isfinite(score)) return score;
  } catch (const std::exception&) {
  }
  fail_at(file, line.number,
          "score: saw " + (line.answer.empty() ? "nothing" : "'" + line.answer + "'") +
              ", needs a number");
}

at::Tensor filled_up(const std::vector<std::vector<TokenId>>& rows) {
  std::size_t longest = 1;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  const at::Tensor ids = at::full(
      {static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(longest)}, -1, at::kInt);
  for (std::size_t r = 0; r < rows.size(); ++r)
    std::copy(rows[r].begin(), rows[r].end(), ids.data_ptr<std::int32_t>() + r * longest);
  return ids;
}

std::int64_t length_of(const DatasetSource& source, const ModelConfig& config) {
  return source.length > 0 ? source.length : config.usual_length();
}

void check_length(const DatasetSource& source, const ModelConfig& config) {
  if (source.length > config.context)
    throw std::runtime_error("[data] length: saw " + std::to_string(source.length) +
                             ", needs at most " + config.context_name() + " of " +
                             std::to_string(config.context) + " tokens");
}

Dataset read_labelled(const DatasetSource& source, const std::string& format,
                      const ModelConfig& config) {
  const bool scored = config.task == Task::embedding;
  if (source.stride > 0)
    throw std::runtime_error("[data] stride: saw " + std::to_string(source.stride) +
                             ", needs 0: only running text has windows");
  Dataset data;
  const auto lines = read_lines(source, format, scored, data);
  const fs::path& file = data.origin;
  if (lines.empty()) fail(file, "data: saw no line, needs at least 1");
  data.label_names = config.labels;
  if (!scored && source.names_classes && config.labels.empty())
    data.label_names = names_in(lines, config.classes, file);
  std::vector<std::int64_t> labels(lines.size(), 0);
  for (std::size_t i = 0; !scored && i < lines.size(); ++i)
    labels[i] = label_of(lines[i], data.label_names, config.classes, file);
  const auto chosen = stratified(labels, source.limit);
  const auto length = static_cast<std::size_t>(length_of(source, config));
  const auto count = static_cast<std::int64_t>(chosen.size());
  scored ? data.scores = at::empty({count}, at::kFloat)
         : data.labels = at::empty({count}, at::kLong);
  std::vector<std::vector<TokenId>> rows;
  const auto add = [&](const Line& line, const auto& encode) {
    rows.push_back(encode(length));
    if (rows.back().empty()) fail_at(file, line.number, "text: saw none, needs some");
    if (rows.back().size() == length && encode(0).size() > length) ++data.shortened;
  };
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const auto place = static_cast<std::size_t>(chosen[i]);
    const auto& line = lines[place];
    if (!scored && line.texts.size() == 2)
      add(line, [&](std::size_t most) {
        return source.tokenizer->encode_pair(line.texts[0], line.texts[1], config.token_types > 1,
                                             most);
      });
    else
      for (const auto& text : line.texts)
        add(line, [&](std::size_t most) { return source.tokenizer->encode(text, true, most); });
    if (scored)
      data.scores.data_ptr<float>()[i] = score_of(line, file);
    else
      data.labels.data_ptr<std::int64_t>()[i] = labels[place];
  }
  data.inputs = filled_up(rows);
  if (scored) return data;
  data.texts_per_row = static_cast<std::int64_t>(lines.front().texts.size());
  if (const std::string other = other_texts(config, data.texts_per_row);
      !other.empty() && !source.names_classes)
    data.remarks.push_back({"other_texts", count, "[" + file.string() + "] " + other, true});
  return data;
}

/// The running text of a split.
std::string read_running(const DatasetSource& source, Dataset& data) {
  fs::path only = source.path;
  if (fs::is_directory(source.path)) {
    if (find_file(source, {"*.txt"}))
      return read_valid(file_of(source, {"*.txt"}, data), source.lossy);
    DatasetSource other = source;
    other.split = source.split == "train" ? "test" : "train";
    if (find_file(other, {"*.txt"})) file_of(source, {"*.txt"}, data);  // says what is missing
    std::vector<fs::path> texts;
    for (const auto& entry : fs::directory_iterator(source.path))
      if (entry.is_regular_file() && entry.path().extension() == ".txt")
        texts.push_back(entry.path());
    if (texts.size() != 1) file_of(source, {"*.txt"}, data);  // says what is missing
    only = texts.front();
  }
  data.origin = only;
  const std::string text = read_valid(only, source.lossy);
  auto cut = static_cast<std::size_t>(static_cast<double>(text.size()) * (1 - test_share));
  while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) ++cut;
  return source.split == "train" ? text.substr(0, cut) : text.substr(cut);
}

/// Windows that overlap: each judges the tokens that none before it has, the first one all of its
/// own, the last one ends with the text.
void slide(std::int64_t stride, std::int64_t length, Dataset& data) {
  const std::int64_t last = data.stream.size(0) - 1 - length;
  std::vector<at::Tensor> rows;
  std::vector<std::int64_t> judged;
  std::int64_t seen = 0;  // tokens judged, the first of the text is not
  for (std::int64_t begin = 0; seen < length + last; begin += stride) {
    begin = std::min(begin, last);
    rows.push_back(data.stream.narrow(0, begin, length + 1));
    judged.push_back(begin + length - seen);
    seen = begin + length;
  }
  data.inputs = at::stack(rows);
  data.judged = at::tensor(judged, at::kLong);
}

Dataset read_windows(const DatasetSource& source, const ModelConfig& config) {
  Dataset data;
  const std::vector<TokenId> ids = source.tokenizer->encode(read_running(source, data), false);
  const std::int64_t length = length_of(source, config);
  const auto count = static_cast<std::int64_t>(ids.size());
  if (source.stride > length)
    throw std::runtime_error("[data] stride: saw " + std::to_string(source.stride) +
                             ", needs at most the length of " + std::to_string(length) +
                             " tokens: those between two windows would be left out");
  if (count <= length)
    fail(source.path, "data: saw " + std::to_string(count) + " tokens in the " + source.split +
                          " split, needs more than one window of " + std::to_string(length));
  data.stream = at::empty({count}, at::kInt);
  std::copy(ids.begin(), ids.end(), data.stream.data_ptr<std::int32_t>());
  if (source.stride > 0 && source.stride < length)
    slide(source.stride, length, data);
  else
    data.inputs = data.stream.unfold(0, length + 1, length);
  if (source.limit > 0 && data.size() > source.limit) {
    const at::Tensor chosen = at::tensor(spread_over(data.size(), source.limit), at::kLong);
    data.inputs = data.inputs.index_select(0, chosen);
    if (data.judged.defined()) data.judged = data.judged.index_select(0, chosen);
  }
  return data;
}

/// Windows of a running text, each between the tokenizer's special tokens, with tokens masked that
/// are to be told from the rest (Devlin and others 2019, section 3.1; all that are chosen become
/// the mask). The same tokens each time.
Dataset read_masked(const DatasetSource& source, const ModelConfig& config) {
  constexpr double share = 0.15;
  const auto mask = source.tokenizer->mask();
  if (!mask) throw std::runtime_error("[data] tokenizer: saw no mask ([MASK], <mask>), needs one");
  if (source.stride > 0)
    throw std::runtime_error("[data] stride: saw " + std::to_string(source.stride) +
                             ", needs 0: a masked language model reads both ways");
  Dataset data;
  const std::vector<TokenId> around = source.tokenizer->encode(""),
                             ids = source.tokenizer->encode(read_running(source, data), false);
  const auto size = static_cast<std::size_t>(length_of(source, config));
  const std::size_t before = around.size() / 2, room = size - std::min(size, around.size());
  if (room == 0 || ids.size() < room)
    fail(source.path, "data: saw " + std::to_string(ids.size()) + " tokens in the " + source.split +
                          " split, needs a window of " + std::to_string(size));
  const auto windows = static_cast<std::int64_t>(ids.size() / room);
  const auto chosen = spread_over(windows, source.limit);
  std::mt19937_64 draw(1);
  std::vector<std::vector<TokenId>> rows;
  data.labels =
      at::full({static_cast<std::int64_t>(chosen.size()), static_cast<std::int64_t>(size)},
               Dataset::no_label, at::kLong);
  auto* label = data.labels.data_ptr<std::int64_t>();
  for (const std::int64_t window : chosen) {
    std::vector<TokenId> row(around.begin(), around.begin() + static_cast<std::ptrdiff_t>(before));
    const auto begin = ids.begin() + window * static_cast<std::ptrdiff_t>(room);
    row.insert(row.end(), begin, begin + static_cast<std::ptrdiff_t>(room));
    row.insert(row.end(), around.begin() + static_cast<std::ptrdiff_t>(before), around.end());
    const std::size_t always = before + draw() % room;  // every window asks for something
    for (std::size_t i = before; i < before + room; ++i)
      if (static_cast<double>(draw() >> 11) * 0x1.0p-53 < share || i == always)
        label[i] = std::exchange(row[i], *mask);
    label += size;
    rows.push_back(std::move(row));
  }
  data.inputs = filled_up(rows);
  return data;
}

}  // namespace

std::string other_texts(const ModelConfig& config, std::int64_t texts_per_row) {
  if (config.texts_per_row == 0 || config.texts_per_row == texts_per_row) return {};
  return config.texts_per_row == 2
             ? "the model learned from pairs of texts, and is asked about single ones"
             : "the model learned from single texts, and is asked about pairs";
}

Dataset read_texts(const DatasetSource& source, const ModelConfig& config) {
  if (source.tokenizer == nullptr)
    throw std::runtime_error("[data] tokenizer: saw none, needs the model's");
  expect_fits(*source.tokenizer, config.vocabulary, "data");
  check_length(source, config);
  const std::string format = source.format == "auto" ? detect(source, config) : source.format;
  if (format == "text" && config.task == Task::masked_lm) return read_masked(source, config);
  if (format == "text" && config.task == Task::causal_lm) return read_windows(source, config);
  if (format != "tsv" && format != "jsonl" && format != "stsb")
    throw std::runtime_error("[data] format: saw '" + format +
                             "', needs tsv, jsonl, stsb, text or auto");
  if (config.reads_every_token())
    throw std::runtime_error("[data] format: saw '" + format +
                             "', needs text: a language model learns from running text");
  return read_labelled(source, format, config);
}

}  // namespace cleave::model
