#include "base/reader.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_set>

#include <nlohmann/json.hpp>
#include <toml++/toml.h>

#include "base/file.hpp"
#include "base/units.hpp"

namespace cleave::base {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t largest_file = 128u << 20;
/// What is nested deeper was made to exhaust the stack, not to describe a model.
constexpr int deepest = 64;

std::string dumped(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// One line of valid UTF-8 of at most `longest` bytes, whatever a hostile file put into it.
std::string one_line(const std::string& raw, std::size_t longest) {
  std::string text =
      Json::parse(dumped(raw)).get<std::string>();  // there and back: bad bytes are replaced
  for (char& letter : text) {
    if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f) letter = ' ';
  }
  if (text.size() <= longest) return text;
  std::size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // whole letters
  return text.substr(0, end) + "…";
}

/// "saw …": short, and never the whole of a large table.
std::string seen(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "a table";
    case Json::value_t::array:
      return "a list of " + std::to_string(value.size());
    case Json::value_t::string:
      return one_line(dumped(value.get_ref<const std::string&>().substr(0, 60)), 60);
    default:
      return one_line(dumped(value), 60);
  }
}

std::string written(double value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return error == std::errc{} ? std::string(text, end) : std::string("?");
}

/// "needs …" of a range; an end at the type's limit goes without saying.
template <class Number, class Text>
std::string range(const std::string& what, Number low, Number high, Text text) {
  using Limits = std::numeric_limits<Number>;
  const bool has_low = low > Limits::lowest(), has_high = high < Limits::max();
  if (has_low && has_high) return what + " from " + text(low) + " to " + text(high);
  if (has_low) return what + " of at least " + text(low);
  if (has_high) return what + " of at most " + text(high);
  return what;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

bool is_bare(const std::string& key) {
  const auto plain = [](char letter) {
    return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
           (letter >= '0' && letter <= '9') || letter == '_' || letter == '-';
  };
  return !key.empty() && std::all_of(key.begin(), key.end(), plain);
}

std::string path_of(const std::string& parent, const std::string& key) {
  const std::string name = is_bare(key) && key.size() <= 80 ? key : one_line(dumped(key), 80);
  return parent.empty() ? name : parent + "." + name;
}

std::string path_of(const std::string& parent, std::size_t index) {
  return parent + "[" + std::to_string(index) + "]";
}

std::runtime_error failure(const std::string& file, const std::string& path,
                           const std::string& what) {
  return std::runtime_error("[" + file + "] " + (path.empty() ? "" : path + ": ") + what);
}

std::runtime_error too_deep(const std::string& file) {
  return failure(
      file, "",
      "saw tables nested deeper than " + std::to_string(deepest) + " levels, needs fewer");
}

/// Watches a JSON text while it is parsed: depth, and keys that stand twice.
class Watch {
 public:
  explicit Watch(const std::string& file) : file_(file) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > deepest) throw too_deep(file_);
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key) note(parsed.get_ref<const std::string&>());
    return true;
  }

 private:
  void note(const std::string& key) {
    if (!keys_.back().insert(key).second) {
      throw failure(file_, "",
                    "saw the key " + one_line(dumped(key), 80) + " twice, needs it once");
    }
  }

  const std::string& file_;
  std::vector<std::unordered_set<std::string>> keys_;
};

/// "[json.exception.parse_error.101] parse error at line 1, column 9: …" without its first words.
std::string without_prefix(std::string message) {
  const std::size_t bracket = message.find("] ");
  if (bracket != std::string::npos) message.erase(0, bracket + 2);
  const std::string phrase = "parse error at ";
  if (message.compare(0, phrase.size(), phrase) == 0) message.erase(0, phrase.size());
  return message;
}

Json parse_json(std::string_view text, const std::string& name) {
  try {
    return Json::parse(text.begin(), text.end(), Watch(name));
  } catch (const Json::exception& error) {
    throw failure(name, "", one_line(without_prefix(error.what()), 300));
  }
}

/// toml++'s tree as JSON.
class Conversion {
 public:
  explicit Conversion(const std::string& file) : file_(file) {}

  Json operator()(const toml::node& node, const std::string& path, int depth = 0) const {
    if (depth > deepest) throw too_deep(file_);
    if (const auto* table = node.as_table()) return object(*table, path, depth);
    if (const auto* array = node.as_array()) return list(*array, path, depth);
    if (const auto* text = node.as_string()) return text->get();
    if (const auto* whole = node.as_integer()) return whole->get();
    if (const auto* flag = node.as_boolean()) return flag->get();
    if (const auto* real = node.as_floating_point()) {
      if (std::isfinite(real->get())) return real->get();
      throw failure(file_, path, "saw " + written(real->get()) + ", needs a finite number");
    }
    throw failure(file_, path, "saw a date or time, needs text or a number");
  }

 private:
  Json object(const toml::table& table, const std::string& path, int depth) const {
    Json object = Json::object();
    for (const auto& [key, value] : table) {
      const std::string name(key.str());
      object[name] = (*this)(value, path_of(path, name), depth + 1);
    }
    return object;
  }

  Json list(const toml::array& array, const std::string& path, int depth) const {
    Json list = Json::array();
    for (std::size_t i = 0; i < array.size(); ++i) {
      list.push_back((*this)(array[i], path_of(path, i), depth + 1));
    }
    return list;
  }

  const std::string& file_;
};

/// The place behind the TOML string that begins at `begin`; an open one ends with its line.
std::size_t behind_string(std::string_view text, std::size_t begin) {
  const char quote = text[begin];
  const std::string three(3, quote);
  const bool is_long = text.substr(begin, 3) == three;
  std::size_t at = begin + (is_long ? 3 : 1);
  for (; at < text.size(); ++at) {
    if (text[at] == '\\' && quote == '"') {
      ++at;
    } else if (is_long && text.substr(at, 3) == three) {
      // The last two letters of a long string may be quotes as well.
      return std::min({text.find_first_not_of(quote, at), at + 5, text.size()});
    } else if (!is_long && text[at] == quote) {
      return at + 1;
    } else if (!is_long && text[at] == '\n') {
      return at;
    }
  }
  return text.size();
}

/// toml++ bounds nested values, but a.b.c… makes as many tables as it has dots, and taking down a
/// deep tree exhausts the stack.
void refuse_long_keys(std::string_view text, const std::string& file) {
  constexpr std::string_view ends_a_key = "\n=,{}[]";
  int dots = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char letter = text[at];
    if (letter == '"' || letter == '\'') {
      at = behind_string(text, at) - 1;
    } else if (letter == '#') {
      at = std::min(text.find('\n', at), text.size()) - 1;
    } else if (letter == '.' && ++dots > deepest) {
      throw too_deep(file);
    } else if (ends_a_key.find(letter) != std::string_view::npos) {
      dots = 0;
    }
  }
}

std::string at_line(const toml::parse_error& error) {
  const auto& begin = error.source().begin;
  return "line " + std::to_string(begin.line) + ", column " + std::to_string(begin.column) + ": " +
         std::string(error.description());
}

Json parse_toml(std::string_view text, const std::string& name) {
  try {
    refuse_long_keys(text, name);
    return Conversion(name)(toml::parse(text), "");
  } catch (const toml::parse_error& error) {
    throw failure(name, "", one_line(at_line(error), 300));
  }
}

/// Levenshtein's distance: letters inserted, removed or exchanged.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t exchanged = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({exchanged, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::vector<std::string> strings(std::initializer_list<std::string_view> names) {
  return {names.begin(), names.end()};
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::numeric_limits<std::size_t>::max();
  for (const std::string& candidate : known) {
    const std::size_t longer = std::max(word.size(), candidate.size());
    const std::size_t shorter = std::min(word.size(), candidate.size());
    if (3 * (longer - shorter) > longer) continue;  // their lengths alone set them apart
    const std::size_t distance = edit_distance(word, candidate);
    if (3 * distance > longer || distance >= best_distance) continue;
    best_distance = distance;
    best = candidate;
  }
  return best;
}

Reader::Reader(std::shared_ptr<const Json> document, const Json* value, std::string file,
               std::string path)
    : document_(std::move(document)),
      value_(value),
      file_(std::move(file)),
      path_(std::move(path)) {}

Reader Reader::json_text(std::string_view text, std::string name) {
  auto document = std::make_shared<const Json>(parse_json(text, name));
  return Reader(document, document.get(), std::move(name), "");
}

Reader Reader::toml_text(std::string_view text, std::string name) {
  auto document = std::make_shared<const Json>(parse_toml(text, name));
  return Reader(document, document.get(), std::move(name), "");
}

Reader Reader::json_file(const std::filesystem::path& path) {
  return json_text(read_text(path, largest_file), path.string());
}

Reader Reader::toml_file(const std::filesystem::path& path) {
  return toml_text(read_text(path, largest_file), path.string());
}

std::runtime_error Reader::error(const std::string& what) const {
  return failure(file_, path_, what);
}

std::runtime_error Reader::mismatch(const std::string& needed) const {
  return error("saw " + seen(*value_) + ", needs " + needed);
}

std::optional<Reader> Reader::find(const std::string& key) const {
  if (!value_->is_object()) throw mismatch("a table");
  const auto field = value_->find(key);
  if (field == value_->end() || field->is_null()) return std::nullopt;
  return Reader(document_, &*field, file_, path_of(path_, key));
}

bool Reader::has(const std::string& key) const { return find(key).has_value(); }

Reader Reader::at(const std::string& key) const {
  if (auto field = find(key)) return *std::move(field);
  throw failure(file_, path_of(path_, key), "is missing");
}

std::vector<Reader> Reader::items() const {
  if (!value_->is_array()) throw mismatch("a list");
  std::vector<Reader> readers;
  readers.reserve(value_->size());
  for (std::size_t i = 0; i < value_->size(); ++i) {
    readers.push_back(Reader(document_, &(*value_)[i], file_, path_of(path_, i)));
  }
  return readers;
}

std::vector<std::string> Reader::keys() const {
  if (!value_->is_object()) throw mismatch("a table");
  std::vector<std::string> names;
  for (const auto& [key, value] : value_->items()) names.push_back(key);
  return names;
}

void Reader::allow(std::initializer_list<std::string_view> known) const {
  for (const std::string& key : keys()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::vector<std::string> names = strings(known);
    const std::string near = nearest(key, names);
    throw failure(file_, path_of(path_, key),
                  near.empty() ? "unknown key; known are " + joined(names)
                               : "unknown key; did you mean \"" + near + "\"?");
  }
}

bool Reader::boolean() const {
  if (!value_->is_boolean()) throw mismatch("true or false");
  return value_->get<bool>();
}

std::string Reader::text() const {
  if (!value_->is_string()) throw mismatch("text");
  return value_->get<std::string>();
}

std::int64_t Reader::integer(std::int64_t low, std::int64_t high) const {
  const auto needed = [&] {
    return range("a whole number", low, high, [](std::int64_t end) { return std::to_string(end); });
  };
  if (!value_->is_number_integer()) throw mismatch(needed());
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (value_->is_number_unsigned() && value_->get<std::uint64_t>() > most) throw mismatch(needed());
  const auto number = value_->get<std::int64_t>();
  if (number < low || number > high) throw mismatch(needed());
  return number;
}

double Reader::number(double low, double high) const {
  const auto needed = [&] { return range("a number", low, high, written); };
  if (!value_->is_number()) throw mismatch(needed());
  const auto number = value_->get<double>();
  if (!std::isfinite(number) || number < low || number > high) throw mismatch(needed());
  return number;
}

template <class Parse>
auto Reader::parsed(Parse parse) const {
  try {
    return parse(value_->get_ref<const std::string&>());
  } catch (const std::invalid_argument& wrong) {
    throw error(one_line(wrong.what(), 300));
  }
}

std::uint64_t Reader::bytes() const {
  if (value_->is_string()) return parsed(parse_bytes);
  // JSON's whole numbers are unsigned where they can be, TOML's are always signed.
  const bool fits = value_->is_number_unsigned() ||
                    (value_->is_number_integer() && value_->get<std::int64_t>() >= 0);
  if (!fits) throw mismatch("bytes, such as 268435456 or \"256 MB\"");
  return value_->get<std::uint64_t>();
}

double Reader::bytes_per_s() const {
  if (!value_->is_string()) throw mismatch("a rate such as \"100 Mbit/s\" or \"12.5 MB/s\"");
  return parsed(parse_bytes_per_s);
}

double Reader::seconds() const {
  if (value_->is_string()) return parsed(parse_seconds);
  const bool fits = value_->is_number() && value_->get<double>() >= 0;
  if (!fits) throw mismatch("seconds, such as 0.002 or \"2 ms\"");
  return value_->get<double>();
}

std::string Reader::one_of(const std::vector<std::string>& names) const {
  if (value_->is_string()) {
    const auto& text = value_->get_ref<const std::string&>();
    if (std::find(names.begin(), names.end(), text) != names.end()) return text;
  }
  throw mismatch("one of " + joined(names));
}

bool Reader::boolean(const std::string& key, bool fallback) const {
  const auto field = find(key);
  return field ? field->boolean() : fallback;
}

std::string Reader::text(const std::string& key, const std::string& fallback) const {
  const auto field = find(key);
  return field ? field->text() : fallback;
}

std::int64_t Reader::integer(const std::string& key, std::int64_t low, std::int64_t high,
                             std::int64_t fallback) const {
  const auto field = find(key);
  return field ? field->integer(low, high) : fallback;
}

double Reader::number(const std::string& key, double low, double high, double fallback) const {
  const auto field = find(key);
  return field ? field->number(low, high) : fallback;
}

void Reader::expect_format(std::int64_t version) const {
  const Reader format = at("format");
  const std::string only = std::to_string(version) + ", the one version this program knows";
  if (*format.value_ != Json(version)) throw format.mismatch(only);
}

void Reader::expect_format(std::int64_t version, std::string_view advice) const {
  const Reader format = at("format");
  for (std::int64_t older = 1; older < version; ++older)
    if (*format.value_ == Json(older))
      throw format.mismatch(std::to_string(version) + ": " + std::string(advice));
  expect_format(version);
}

std::int64_t Reader::expect_format(std::int64_t version, std::int64_t older) const {
  const Reader format = at("format");
  for (const std::int64_t known : {version, older})
    if (*format.value_ == Json(known)) return known;
  throw format.mismatch(std::to_string(version) + " or " + std::to_string(older) +
                        ", the versions this program knows");
}

}  // namespace cleave::base
