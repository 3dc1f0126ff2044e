#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/element.hpp"
#include "base/file.hpp"

namespace cleave::model {

/// Goals: read any well-formed file piecewise, never trust a byte of a header. Non-goals: writing
/// shards. Format: u64 little-endian header length, JSON header {name: {dtype, shape,
/// data_offsets}}, tensors row-major.
struct TensorEntry {
  std::string name;
  base::Element element = base::Element::f32;
  std::vector<std::int64_t> dims;
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t bytes = 0;
  /// The file's name of an element type that is none of ours ("F8_E4M3"): such a tensor has only
  /// its bytes, `element` is u8 and its shape is not compared with them. Empty: ours.
  std::string foreign = {};
  /// It holds real numbers, as weights have to: f32, f16, bf16 or f64.
  bool is_real() const;
  /// "f32", "F8_E4M3" …
  std::string element_name() const;
};

/// Header of one file, checked: tensors cover the data without overlap or hole, shape · size =
/// bytes, each name once, header at most 100 MB. Fields that are not known are passed over, as the
/// safetensors library does. Pure; for files and the fuzzer. Throws std::runtime_error
/// "[name] …: saw …, needs …".
std::vector<TensorEntry> parse_safetensors_header(const std::byte* data, std::uint64_t available,
                                                  std::uint64_t file_size, const std::string& name);

/// The tensors of a model folder (model.safetensors, or shards through
/// model.safetensors.index.json) or of one file; mapped.
class TensorFiles {
 public:
  /// `path`: a model folder or a .safetensors file. Throws std::runtime_error: missing, truncated,
  /// hostile.
  explicit TensorFiles(const std::filesystem::path& path);
  const std::map<std::string, TensorEntry>& entries() const { return entries_; }
  /// Throws std::runtime_error that names the folder and the nearest name.
  const TensorEntry& at(const std::string& name) const;
  /// Where the tensor's bytes lie in the mapping, valid while `owner` lives; need not be aligned.
  const std::byte* data(const TensorEntry& entry) const;
  std::shared_ptr<const void> owner(const TensorEntry& entry) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// The folder or file this was opened with.
  const std::filesystem::path& path() const { return path_; }
  /// Drops the file's pages of this tensor from memory (madvise), so that streaming a 6 GB file
  /// does not take 6 GB.
  void release(const TensorEntry& entry) const;

 private:
  void add_file(const std::filesystem::path& path);
  void add_shards(const std::filesystem::path& index);

  std::filesystem::path path_;
  std::vector<base::MappedFile> files_;
  std::vector<std::string> file_names_;
  std::map<std::string, std::size_t> file_of_;
  std::map<std::string, TensorEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// Writes one safetensors file tensor by tensor, whole or not at all. The entries (names, dims,
/// elements) are known first; write() follows their order; their `offset` and `bytes` are worked
/// out here. Tensor data starts 64-byte aligned in the file. The metadata says "format": "pt", as
/// Transformers wants it. Throws std::invalid_argument for a name given twice.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorEntry> entries,
                    const std::map<std::string, std::string>& metadata = {});
  /// The next tensor's bytes, or a piece of them.
  void write(const void* data, std::size_t bytes);
  /// Throws std::logic_error when bytes are missing.
  void commit();

 private:
  base::StagedFile file_;
  std::uint64_t expected_ = 0, written_ = 0;
};

/// Bytes of tensors in one file of a model folder, above which Transformers begins another.
constexpr std::uint64_t shard_bytes = 5'000'000'000;

/// Writes the tensors of a model folder: model.safetensors, or where they are more than `most`
/// bytes model-00001-of-00003.safetensors … and model.safetensors.index.json, each file with as
/// many tensors as it can take. write() as SafetensorsWriter's.
class ModelWriter {
 public:
  ModelWriter(const std::filesystem::path& folder, std::vector<TensorEntry> entries,
              const std::map<std::string, std::string>& metadata = {},
              std::uint64_t most = shard_bytes);
  void write(const void* data, std::size_t bytes);
  void commit();

 private:
  struct Shard {
    std::string file;
    std::vector<TensorEntry> entries;
    std::uint64_t bytes = 0;
  };
  void begin(std::size_t shard);

  std::filesystem::path folder_;
  std::map<std::string, std::string> metadata_;
  std::vector<Shard> shards_;
  std::size_t shard_ = 0;
  std::uint64_t written_ = 0;  // of this shard
  std::unique_ptr<SafetensorsWriter> writer_;
};

/// Removes weights from the model folder `old` that `fresh`, which takes its place, does not have:
/// what lies there in one file would hide shards.
void remove_other_weights(const std::filesystem::path& old, const std::filesystem::path& fresh);

/// Any element type -> fp32, elementwise, any alignment. `count` elements.
void convert_to_f32(base::Element from, const std::byte* source, std::int64_t count, float* target);

}  // namespace cleave::model
