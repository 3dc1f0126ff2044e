#include "model/config/safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"

namespace cleave::model {
namespace {

using base::Element;

constexpr std::uint64_t length_bytes = 8;  // of the header's length at the start of the file
constexpr std::uint64_t max_header_bytes = 100'000'000;
constexpr std::uint64_t data_alignment = 64;
constexpr std::string_view metadata_key = "__metadata__";
constexpr const char* index_file = "model.safetensors.index.json";

constexpr std::array<std::pair<std::string_view, Element>, 9> dtypes = {
    {{"F32", Element::f32},
     {"F16", Element::f16},
     {"BF16", Element::bf16},
     {"F64", Element::f64},
     {"I64", Element::i64},
     {"I32", Element::i32},
     {"U8", Element::u8},
     {"I8", Element::i8},
     {"BOOL", Element::boolean}}};

std::optional<Element> element_of(std::string_view dtype) {
  for (const auto& [name, element] : dtypes)
    if (name == dtype) return element;
  return std::nullopt;
}

std::string_view dtype_of(Element element) {
  for (const auto& [name, known] : dtypes)
    if (known == element) return name;
  throw std::logic_error("element type without a safetensors name");
}

/// Text of a hostile file for a message: short and printable.
std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 80)) out += c >= ' ' && c <= '~' ? c : '?';
  return out + (text.size() > 80 ? "…'" : "'");
}

/// Bytes of a tensor, or nothing where they do not fit 63 bits.
std::optional<std::uint64_t> byte_count(Element element, const std::vector<std::int64_t>& dims) {
  constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  auto bytes = static_cast<std::uint64_t>(base::size_of(element));
  // An empty axis makes the tensor empty, but the product of the others must fit all the same.
  bool empty = false;
  for (const std::int64_t dim : dims) {
    if (dim == 0) {
      empty = true;
    } else if (bytes > limit / static_cast<std::uint64_t>(dim)) {
      return std::nullopt;
    } else {
      bytes *= static_cast<std::uint64_t>(dim);
    }
  }
  return empty ? 0 : bytes;
}

/// Reads the header as a stream of JSON events, so that no byte of it costs more memory than the
/// entry it stands for.
class HeaderEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderEvents(std::string file) : file_(std::move(file)) {}

  std::vector<TensorEntry> entries;
  std::map<std::string, std::string> metadata;

  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error("[" + file_ + "] " + (name_.empty() ? "header" : in_quotes(name_)) +
                             ": " + what);
  }

  bool start_object(std::size_t) override {
    if (passing_over()) return deeper();
    if (depth_ == 1) {
      fields_.clear();
      entry_ = {};
      has_dtype_ = false;
      shape_.reset();
      offsets_.reset();
    } else if (depth_ != 0) {
      refuse("saw an object as the value of a field, needs dtype, shape and data_offsets");
    }
    ++depth_;
    return true;
  }

  bool key(std::string& key) override {
    if (passing_over()) return true;
    if (depth_ == 1) {
      if (!names_.insert(key).second)
        refuse("saw the name " + in_quotes(key) + " twice, needs each name once");
      name_ = key;
    } else if (name_ != metadata_key && !fields_.insert(key).second) {
      refuse("saw the field " + in_quotes(key) + " twice, needs each field once");
    } else {
      field_ = key;
      unknown_ = name_ != metadata_key && key != "dtype" && key != "shape" && key != "data_offsets";
    }
    return true;
  }

  bool end_object() override {
    if (passing_over()) return shallower();
    --depth_;
    if (depth_ == 1 && name_ != metadata_key) finish_entry();
    name_.clear();
    return true;
  }

  bool string(std::string& value) override {
    if (passes_over()) return true;
    if (depth_ == 2 && name_ == metadata_key) {
      metadata[field_] = value;
    } else if (depth_ == 2 && !in_array_ && field_ == "dtype") {
      has_dtype_ = true;
      const auto element = element_of(value);
      entry_.element = element.value_or(Element::u8);
      if (!element) entry_.foreign = value;
    } else {
      refuse_value("a text");
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (passing_over()) return deeper();
    if (depth_ != 2 || in_array_ || name_ == metadata_key) refuse_value("a list");
    in_array_ = true;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    if (passing_over()) return shallower();
    in_array_ = false;
    if (field_ == "shape") {
      shape_ = numbers_;
    } else if (field_ == "data_offsets") {
      offsets_ = numbers_;
    } else {
      refuse_value("a list");
    }
    return true;
  }

  bool number_unsigned(std::uint64_t value) override {
    if (passes_over()) return true;
    if (!in_array_) refuse_value("a number");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      refuse(field_ + ": saw " + std::to_string(value) + ", needs a number below 2^63");
    if (numbers_.size() == max_dims)
      refuse(field_ + ": saw more than " + std::to_string(max_dims) + " numbers");
    numbers_.push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool null() override {
    if (depth_ == 1 && name_ == metadata_key) return true;  // none: as the safetensors library does
    return refuse_unless_passed_over("null");
  }
  bool boolean(bool) override { return refuse_unless_passed_over("a truth value"); }
  bool number_integer(std::int64_t) override {
    return refuse_unless_passed_over("a negative number");
  }
  bool number_float(double, const std::string& text) override {
    return refuse_unless_passed_over("the number " + in_quotes(text));
  }
  bool binary(nlohmann::json::binary_t&) override { refuse_value("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    name_.clear();
    refuse("saw no valid JSON at byte " + std::to_string(position) + ", needs a JSON object");
  }

 private:
  static constexpr std::size_t max_dims = 64;

  /// Within the value of a field that is not known, which is passed over whole.
  bool passing_over() const { return unknown_; }
  bool deeper() { return ++depth_passed_over_ > 0; }
  bool shallower() {
    unknown_ = --depth_passed_over_ > 0;
    return true;
  }
  /// The same at a value without parts.
  bool passes_over() {
    if (!unknown_) return false;
    unknown_ = depth_passed_over_ > 0;
    return true;
  }
  bool refuse_unless_passed_over(const std::string& saw) {
    if (!passes_over()) refuse_value(saw);
    return true;
  }

  [[noreturn]] void refuse_value(const std::string& saw) const {
    if (depth_ == 0) refuse("saw " + saw + ", needs a JSON object");
    if (depth_ == 1) refuse("saw " + saw + ", needs an object with dtype, shape and data_offsets");
    if (name_ == metadata_key) refuse(in_quotes(field_) + ": saw " + saw + ", needs a text");
    refuse(field_ + ": saw " + saw + ", needs " +
           (field_ == "dtype" ? "a text" : "a list of whole numbers from 0"));
  }

  void finish_entry() {
    if (!has_dtype_ || !shape_ || !offsets_)
      refuse("saw no " +
             std::string(!has_dtype_ ? "dtype"
                         : !shape_   ? "shape"
                                     : "data_offsets") +
             ", needs it");
    if (offsets_->size() != 2)
      refuse("data_offsets: saw " + std::to_string(offsets_->size()) +
             " numbers, needs begin and end");
    const std::int64_t begin = (*offsets_)[0], end = (*offsets_)[1];
    if (end < begin)
      refuse("data_offsets: saw [" + std::to_string(begin) + ", " + std::to_string(end) +
             "], needs begin <= end");
    entry_.name = name_;
    entry_.dims = *shape_;
    entry_.offset = static_cast<std::uint64_t>(begin);
    entry_.bytes = static_cast<std::uint64_t>(end - begin);
    if (entry_.foreign.empty()) check_bytes();
    entries.push_back(std::move(entry_));
  }

  void check_bytes() const {
    const auto bytes = byte_count(entry_.element, entry_.dims);
    if (!bytes) refuse("shape: saw one of 2^63 bytes or more, needs one that fits the file");
    if (entry_.bytes != *bytes)
      refuse("data_offsets: saw " + std::to_string(entry_.bytes) + " bytes, needs the " +
             std::to_string(*bytes) + " of the shape");
  }

  std::string file_;
  int depth_ = 0;
  bool in_array_ = false;
  std::string name_, field_;
  std::set<std::string> names_, fields_;
  TensorEntry entry_;
  bool has_dtype_ = false;
  bool unknown_ = false;  // the field at hand
  int depth_passed_over_ = 0;
  std::optional<std::vector<std::int64_t>> shape_, offsets_;
  std::vector<std::int64_t> numbers_;
};

std::uint64_t little_endian(const std::byte* data) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < length_bytes; ++i)
    value |= std::to_integer<std::uint64_t>(data[i]) << (8 * i);
  return value;
}

/// Length of the JSON text, checked against the file and the format's limit.
std::uint64_t header_length(const std::byte* data, std::uint64_t available, std::uint64_t file_size,
                            const std::string& name) {
  const auto refuse = [&](const std::string& what) {
    throw std::runtime_error("[" + name + "] header: " + what);
  };
  if (available < length_bytes || file_size < length_bytes)
    refuse("saw a file of " + std::to_string(file_size) +
           " bytes, needs at least 8 (is the file truncated?)");
  const std::uint64_t length = little_endian(data);
  constexpr std::string_view pointer = "version https://git-lfs";
  if (available >= pointer.size() && std::memcmp(data, pointer.data(), pointer.size()) == 0)
    refuse("saw a pointer of Git LFS, needs the file that it stands for (git lfs pull)");
  if (length > max_header_bytes)
    refuse("saw a length of " + std::to_string(length) + " bytes, needs at most " +
           std::to_string(max_header_bytes));
  if (length > file_size - length_bytes || length > available - length_bytes)
    refuse("saw a length of " + std::to_string(length) + " bytes, needs at most the " +
           std::to_string(std::min(available, file_size) - length_bytes) +
           " that follow (is the file truncated?)");
  return length;
}

/// The tensors must cover the data part: each begins where the one before ends, the last ends with
/// the file.
void check_layout(const std::vector<TensorEntry>& entries, std::uint64_t data_size,
                  const std::string& name) {
  std::vector<const TensorEntry*> sorted;
  for (const TensorEntry& entry : entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return std::tie(a->offset, a->bytes) < std::tie(b->offset, b->bytes);
  });
  std::uint64_t expected = 0;
  for (const TensorEntry* entry : sorted) {
    const std::string where = "[" + name + "] " + in_quotes(entry->name) + ": ";
    if (entry->offset != expected)
      throw std::runtime_error(where + "saw it begin at byte " + std::to_string(entry->offset) +
                               ", needs " + std::to_string(expected) +
                               ", where the tensor before ends");
    if (entry->bytes > data_size - expected)
      throw std::runtime_error(where + "saw it end at byte " +
                               std::to_string(expected + entry->bytes) + ", needs at most " +
                               std::to_string(data_size) + " (is the file truncated?)");
    expected += entry->bytes;
  }
  if (expected != data_size)
    throw std::runtime_error("[" + name + "] saw " + std::to_string(data_size - expected) +
                             " bytes after the last tensor, needs none");
}

HeaderEvents parse_header(const std::byte* data, std::uint64_t available, std::uint64_t file_size,
                          const std::string& name) {
  const std::uint64_t length = header_length(data, available, file_size, name);
  const auto* text = reinterpret_cast<const char*>(data + length_bytes);
  HeaderEvents events(name);
  nlohmann::json::sax_parse(text, text + length, &events);
  check_layout(events.entries, file_size - length_bytes - length, name);
  for (TensorEntry& entry : events.entries) entry.offset += length_bytes + length;
  return events;
}

/// Shards by tensor name, from model.safetensors.index.json.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  std::map<std::string, std::string> shard_of;
  const auto weights = base::Reader::json_file(path).at("weight_map");
  if (weights.keys().empty()) throw weights.error("saw no tensor, needs the file of each");
  for (const std::string& name : weights.keys()) {
    const auto entry = weights.at(name);
    const std::string shard = entry.text();
    // A name with a folder in it could point anywhere on the machine.
    if (shard.empty() || shard == ".." || std::filesystem::path(shard).filename() != shard)
      throw entry.error("saw '" + shard + "', needs the plain name of a file in this folder");
    shard_of[name] = shard;
  }
  return shard_of;
}

/// Weights in other formats, as Hugging Face's folders have them, and what is to be done.
constexpr std::pair<std::string_view, std::string_view> other_weights[] = {
    {"pytorch_model.bin",
     "Python's pickle, which can run code and is not read: save it with "
     "Transformers' save_pretrained(…, safe_serialization=True)"},
    {"pytorch_model.bin.index.json",
     "Python's pickle in shards, which can run code and is not "
     "read: save it with Transformers' save_pretrained(…, "
     "safe_serialization=True)"},
    {"tf_model.h5", "TensorFlow's: load it in Transformers with from_tf=True and save it"},
    {"flax_model.msgpack", "Flax's: load it in Transformers with from_flax=True and save it"},
    {"adapter_model.safetensors", "an adapter's (LoRA): merge it into its base model"},
};

[[noreturn]] void refuse_folder(const std::filesystem::path& folder) {
  std::string saw = "no weights", remedy;
  if (!std::filesystem::exists(folder))
    throw std::runtime_error("[" + folder.string() + "] saw nothing there, needs a model folder");
  if (std::filesystem::is_directory(folder))
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (entry.path().extension() == ".gguf") {
        saw = "only " + entry.path().filename().string();
        remedy = " (GGUF is not read)";
      }
  for (const auto& [name, why] : other_weights)
    if (std::filesystem::exists(folder / name)) {
      saw = "only " + std::string(name);
      remedy = " (it is " + std::string(why) + ")";
      break;
    }
  throw std::runtime_error("[" + folder.string() + "] saw " + saw + ", needs model.safetensors" +
                           remedy);
}

std::string header_text(std::vector<TensorEntry>& entries,
                        const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  auto& notes = header[std::string(metadata_key)] = nlohmann::ordered_json::object();
  notes["format"] = "pt";  // Transformers refuses a file that does not say so
  for (const auto& [key, value] : metadata) notes[key] = value;
  std::uint64_t offset = 0;
  for (TensorEntry& entry : entries) {
    const auto bytes = byte_count(entry.element, entry.dims);
    if (!bytes || header.contains(entry.name))
      throw std::invalid_argument("[safetensors] " + entry.name + ": saw " +
                                  (bytes ? "the name twice" : "an absurd shape") + ", needs " +
                                  (bytes ? "each name once" : "one below 2^63 bytes"));
    entry.offset = offset;
    entry.bytes = *bytes;
    offset += entry.bytes;
    header[entry.name] = {{"dtype", dtype_of(entry.element)},
                          {"shape", entry.dims},
                          {"data_offsets", {entry.offset, offset}}};
  }
  std::string text = header.dump();
  const std::uint64_t used = (length_bytes + text.size()) % data_alignment;
  if (used != 0) text.append(data_alignment - used, ' ');
  return text;
}

float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
  if (exponent == 0x1f)
    return from_bits(sign | 0x7f800000u | mantissa << 13);  // infinite or not a number
  if (exponent != 0) return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude =
      static_cast<float>(mantissa) * 0x1p-24f;  // subnormal: the exponent stays at its lowest
  return sign != 0 ? -magnitude : magnitude;
}

float bfloat_to_float(std::uint16_t value) {
  return from_bits(static_cast<std::uint32_t>(value) << 16);
}

/// target[i] = convert(i-th T of source), which need not be aligned.
template <typename T, typename Convert>
void convert_each(const std::byte* source, std::int64_t count, float* target, Convert convert) {
  for (std::int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, source + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    target[i] = convert(value);
  }
}

}  // namespace

bool TensorEntry::is_real() const {
  return foreign.empty() && (element == Element::f32 || element == Element::f16 ||
                             element == Element::bf16 || element == Element::f64);
}

std::string TensorEntry::element_name() const {
  return foreign.empty() ? std::string(base::name_of(element)) : in_quotes(foreign);
}

std::vector<TensorEntry> parse_safetensors_header(const std::byte* data, std::uint64_t available,
                                                  std::uint64_t file_size,
                                                  const std::string& name) {
  return parse_header(data, available, file_size, name).entries;
}

TensorFiles::TensorFiles(const std::filesystem::path& path) : path_(path) {
  const bool folder = std::filesystem::is_directory(path);
  const auto single = folder ? path / "model.safetensors" : path;
  const auto index = path / index_file;
  if (std::filesystem::is_regular_file(single)) {
    add_file(single);
  } else if (folder && std::filesystem::exists(index)) {
    add_shards(index);
  } else {
    refuse_folder(path);
  }
}

void TensorFiles::add_file(const std::filesystem::path& path) {
  files_.emplace_back(path);
  file_names_.push_back(path.filename().string());
  const auto& file = files_.back();
  auto header = parse_header(file.data(), file.size(), file.size(), path.string());
  for (auto& [key, value] : header.metadata) metadata_.emplace(key, value);
  for (TensorEntry& entry : header.entries) {
    const auto [place, fresh] = file_of_.emplace(entry.name, files_.size() - 1);
    if (!fresh)
      throw std::runtime_error("[" + path.string() + "] " + in_quotes(entry.name) + ": saw it in " +
                               file_names_[place->second] + " too, needs each tensor in one shard");
    auto name = entry.name;
    entries_[std::move(name)] = std::move(entry);
  }
}

void TensorFiles::add_shards(const std::filesystem::path& index) {
  const auto shard_of = read_index(index);
  std::map<std::string, std::size_t> file_of_shard;
  for (const auto& [name, shard] : shard_of) {
    if (file_of_shard.count(shard) != 0) continue;
    if (!std::filesystem::exists(index.parent_path() / shard))
      throw std::runtime_error("[" + index.string() + "] weight_map." + name + ": names " + shard +
                               ", which is not in the folder (is the download complete?)");
    file_of_shard[shard] = files_.size();
    add_file(index.parent_path() / shard);
  }
  for (const auto& [name, shard] : shard_of) {
    const auto file = file_of_.find(name);
    const bool nowhere = file == file_of_.end();
    if (!nowhere && file->second == file_of_shard[shard]) continue;
    throw std::runtime_error("[" + index.string() + "] weight_map." + name + ": names " + shard +
                             ", but the tensor is " +
                             (nowhere ? "in no shard" : "in " + file_names_[file->second]));
  }
}

const TensorEntry& TensorFiles::at(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& entry : entries_) names.push_back(entry.first);
  const std::string near = base::nearest(name, names);
  throw std::runtime_error("[" + path_.string() + "] " + name + ": saw no such tensor" +
                           (near.empty() ? std::string() : " (the nearest name is " + near + ")") +
                           ", needs it");
}

const std::byte* TensorFiles::data(const TensorEntry& entry) const {
  return files_[file_of_.at(entry.name)].data() + entry.offset;
}

std::shared_ptr<const void> TensorFiles::owner(const TensorEntry& entry) const {
  return files_[file_of_.at(entry.name)].owner();
}

void TensorFiles::release(const TensorEntry& entry) const {
  if (entry.bytes == 0) return;
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data(entry));
  const auto first = begin / page * page;
  // A neighbour on the same page is read again from the file when it is wanted. Advice may fail;
  // nothing depends on it.
  (void)::madvise(reinterpret_cast<void*>(first), begin + entry.bytes - first, MADV_DONTNEED);
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorEntry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  const std::string header = header_text(entries, metadata);
  std::array<std::uint8_t, length_bytes> length{};
  for (std::size_t i = 0; i < length_bytes; ++i)
    length[i] = static_cast<std::uint8_t>(header.size() >> (8 * i));
  file_.write(length.data(), length.size());
  file_.write(header.data(), header.size());
  for (const TensorEntry& entry : entries) expected_ += entry.bytes;
}

void SafetensorsWriter::write(const void* data, std::size_t bytes) {
  if (bytes > expected_ - written_)
    throw std::logic_error("[safetensors] saw " + std::to_string(written_ + bytes) +
                           " bytes of tensors, needs " + std::to_string(expected_));
  file_.write(data, bytes);
  written_ += bytes;
}

void SafetensorsWriter::commit() {
  if (written_ != expected_)
    throw std::logic_error("[safetensors] saw " + std::to_string(written_) +
                           " bytes of tensors, needs " + std::to_string(expected_));
  file_.commit();
}

ModelWriter::ModelWriter(const std::filesystem::path& folder, std::vector<TensorEntry> entries,
                         const std::map<std::string, std::string>& metadata, std::uint64_t most)
    : folder_(folder), metadata_(metadata), shards_(1) {
  for (TensorEntry& entry : entries) {
    const std::uint64_t bytes = byte_count(entry.element, entry.dims).value_or(0);
    if (shards_.back().bytes > 0 && shards_.back().bytes + bytes > most) shards_.emplace_back();
    shards_.back().bytes += bytes;
    shards_.back().entries.push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards_.size());
    shards_[i].file = shards_.size() == 1 ? "model.safetensors" : name;
  }
  begin(0);
}

void ModelWriter::begin(std::size_t shard) {
  shard_ = shard;
  written_ = 0;
  writer_ = std::make_unique<SafetensorsWriter>(folder_ / shards_[shard].file,
                                                shards_[shard].entries, metadata_);
}

void ModelWriter::write(const void* data, std::size_t bytes) {
  const auto* next = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    if (written_ == shards_[shard_].bytes && shard_ + 1 < shards_.size()) {
      writer_->commit();
      begin(shard_ + 1);
    }
    const bool last = shard_ + 1 == shards_.size();
    const std::uint64_t room = shards_[shard_].bytes - written_;
    const auto count =
        last ? bytes : static_cast<std::size_t>(std::min<std::uint64_t>(bytes, room));
    writer_->write(next, count);
    next += count;
    written_ += count;
    bytes -= count;
  }
}

void ModelWriter::commit() {
  writer_->commit();
  if (shard_ + 1 != shards_.size())
    throw std::logic_error("[safetensors] saw " + std::to_string(shard_ + 1) + " shards, needs " +
                           std::to_string(shards_.size()));
  if (shards_.size() == 1) return;
  nlohmann::json index = {{"metadata", {{"total_size", 0}}},
                          {"weight_map", nlohmann::json::object()}};
  std::uint64_t total = 0;
  for (const Shard& shard : shards_) {
    total += shard.bytes;
    for (const TensorEntry& entry : shard.entries) index["weight_map"][entry.name] = shard.file;
  }
  index["metadata"]["total_size"] = total;
  base::write_whole(folder_ / index_file, index.dump(2) + "\n");
}

void remove_other_weights(const std::filesystem::path& old, const std::filesystem::path& fresh) {
  if (!std::filesystem::is_directory(old)) return;
  std::vector<std::filesystem::path> stale;
  for (const auto& entry : std::filesystem::directory_iterator(old)) {
    const std::string name = entry.path().filename().string();
    const bool weights = entry.path().extension() == ".safetensors" || name == index_file;
    if (weights && name.rfind("model", 0) == 0 && !std::filesystem::exists(fresh / name))
      stale.push_back(entry.path());
  }
  for (const auto& path : stale) std::filesystem::remove(path);
}

void convert_to_f32(Element from, const std::byte* source, std::int64_t count, float* target) {
  const auto cast = [](auto value) { return static_cast<float>(value); };
  switch (from) {
    case Element::f32:
      if (count > 0) std::memcpy(target, source, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case Element::f16:
      return convert_each<std::uint16_t>(source, count, target, half_to_float);
    case Element::bf16:
      return convert_each<std::uint16_t>(source, count, target, bfloat_to_float);
    case Element::f64:
      return convert_each<double>(source, count, target, cast);
    case Element::i64:
      return convert_each<std::int64_t>(source, count, target, cast);
    case Element::i32:
      return convert_each<std::int32_t>(source, count, target, cast);
    case Element::i8:
      return convert_each<std::int8_t>(source, count, target, cast);
    case Element::u8:
    case Element::boolean:
    case Element::scaled_i8:  // no file has it
      return convert_each<std::uint8_t>(source, count, target, cast);
  }
}

}  // namespace cleave::model
