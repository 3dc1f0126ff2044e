#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace cleave::base {

/// A place in a JSON or TOML document that is read with checks.
///
/// Every getter throws std::runtime_error with one line: "[file] devices[1].memory: saw -3, needs a
/// number above 0". A Reader is a cheap value; it keeps the document alive. A null counts as
/// missing.
class Reader {
 public:
  /// Parses a file. Syntax errors carry line and column; infinities, dates, keys that stand twice
  /// and hostile nesting are refused.
  static Reader json_file(const std::filesystem::path& path);
  static Reader toml_file(const std::filesystem::path& path);
  /// Parses text; `name` stands for the file in messages.
  static Reader json_text(std::string_view text, std::string name);
  static Reader toml_text(std::string_view text, std::string name);

  /// "[file] path.in.file: <what>", ready to throw.
  std::runtime_error error(const std::string& what) const;

  /// Throws when this is no table, as find() does.
  bool has(const std::string& key) const;
  /// The field; throws when it is missing.
  Reader at(const std::string& key) const;
  std::optional<Reader> find(const std::string& key) const;
  /// The elements of an array; throws when it is none.
  std::vector<Reader> items() const;
  /// The keys of a table.
  std::vector<std::string> keys() const;
  /// Throws where a key is none of `known`, naming the nearest one (edit distance).
  void allow(std::initializer_list<std::string_view> known) const;

  bool boolean() const;
  std::string text() const;
  std::int64_t integer(std::int64_t low, std::int64_t high) const;
  /// Finite, within [low, high].
  double number(double low, double high) const;
  /// A number of bytes: 268435456, "256 MB" (10^6), "256 MiB".
  std::uint64_t bytes() const;
  /// Bytes a second: "100 Mbit/s", "12.5 MB/s".
  double bytes_per_s() const;
  /// Seconds: 0.002, "2 ms", "150 us".
  double seconds() const;
  /// One of the names, else throws listing them.
  std::string one_of(const std::vector<std::string>& names) const;

  /// Field or default.
  bool boolean(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  std::int64_t integer(const std::string& key, std::int64_t low, std::int64_t high,
                       std::int64_t fallback) const;
  double number(const std::string& key, double low, double high, double fallback) const;

  /// "format": must be `version`, else throws saying which versions are known.
  void expect_format(std::int64_t version) const;
  /// The same; of an older version it says what to do (`advice`: "cut the bundle again").
  void expect_format(std::int64_t version, std::string_view advice) const;
  /// One of two versions, else throws saying both. Returns it.
  std::int64_t expect_format(std::int64_t version, std::int64_t older) const;

  const nlohmann::json& json() const { return *value_; }
  const std::string& path() const { return path_; }
  const std::string& file() const { return file_; }

 private:
  Reader(std::shared_ptr<const nlohmann::json> document, const nlohmann::json* value,
         std::string file, std::string path);

  /// "saw <this value>, needs <needed>".
  std::runtime_error mismatch(const std::string& needed) const;
  /// This text through `parse`, whose std::invalid_argument becomes an error of this place.
  template <class Parse>
  auto parsed(Parse parse) const;

  std::shared_ptr<const nlohmann::json> document_;
  const nlohmann::json* value_;
  std::string file_, path_;
};

/// The nearest of `known` to `word` by edit distance, or empty when none is near (more than a third
/// of its letters differ).
std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace cleave::base
