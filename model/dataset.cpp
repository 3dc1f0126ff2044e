#include "model/dataset.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>

#include <ATen/ATen.h>
#include <zlib.h>

#include "model/image.hpp"
#include "model/text_data.hpp"
#include "model/transformer.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;

/// No side of an image, and no data set in memory, is taken for real above these.
constexpr std::int64_t largest_side = 1 << 14;
constexpr std::int64_t largest_dataset_bytes = std::int64_t{1} << 36;

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw std::runtime_error("[" + file.string() + "] " + what);
}

/// Bytes of a plain or gzip-compressed file, front to back.
class ByteSource {
 public:
  explicit ByteSource(const fs::path& path) : path_(path), file_(gzopen(path.c_str(), "rb")) {
    if (!file_) fail(path, std::string("cannot read: ") + std::strerror(errno));
    gzbuffer(file_.get(), 1 << 18);
  }

  /// Grows the result as bytes come, so that a header cannot claim memory that the file does not
  /// back.
  std::vector<std::uint8_t> read(std::int64_t count, const std::string& what) {
    std::vector<std::uint8_t> bytes;
    while (static_cast<std::int64_t>(bytes.size()) < count) {
      const std::size_t begin = bytes.size();
      const auto piece = std::min<std::int64_t>(count - static_cast<std::int64_t>(begin), 16 << 20);
      bytes.resize(begin + static_cast<std::size_t>(piece));
      const int got = gzread(file_.get(), bytes.data() + begin, static_cast<unsigned>(piece));
      if (got < piece) complain(what, static_cast<std::int64_t>(begin) + std::max(got, 0), count);
    }
    return bytes;
  }

  bool at_end() {
    std::uint8_t next = 0;
    return gzread(file_.get(), &next, 1) == 0;
  }

  const fs::path& path() const { return path_; }

 private:
  void complain(const std::string& what, std::int64_t seen, std::int64_t needed) const {
    int code = Z_OK;
    const std::string reason = gzerror(file_.get(), &code);
    std::string text =
        what + ": saw " + std::to_string(seen) + " bytes, needs " + std::to_string(needed);
    if (code != Z_OK && code != Z_BUF_ERROR) text += " (" + reason + ")";
    fail(path_, text);
  }

  struct Close {
    void operator()(gzFile_s* file) const { gzclose(file); }
  };
  fs::path path_;
  std::unique_ptr<gzFile_s, Close> file_;
};

std::int64_t big_endian(const std::uint8_t* bytes) {
  return (std::int64_t{bytes[0]} << 24) | (std::int64_t{bytes[1]} << 16) |
         (std::int64_t{bytes[2]} << 8) | std::int64_t{bytes[3]};
}

/// What the readers gather: one stack of equal images in a layout of planes, before it is fitted to
/// the model.
struct RawImages {
  std::int64_t count = 0, channels = 0, height = 0, width = 0;
  std::vector<std::uint8_t> planes;  // [count, channels, height, width]
  std::vector<std::int64_t> labels;
};

/// Pillow's "L": the weights of ITU-R 601-2 in 16-bit fixed point.
std::uint8_t luma(std::uint32_t red, std::uint32_t green, std::uint32_t blue) {
  return static_cast<std::uint8_t>((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16);
}

Image interleave(const RawImages& raw, std::int64_t index, std::int64_t channels) {
  const std::int64_t area = raw.height * raw.width;
  const std::uint8_t* planes = raw.planes.data() + index * raw.channels * area;
  Image image{raw.height, raw.width, channels, {}};
  image.pixels.resize(static_cast<std::size_t>(channels * area));
  for (std::int64_t pixel = 0; pixel < area; ++pixel) {
    for (std::int64_t c = 0; c < channels; ++c) {
      std::uint8_t value = planes[(raw.channels == 1 ? 0 : c) * area + pixel];
      if (raw.channels == 3 && channels == 1)
        value = luma(planes[pixel], planes[area + pixel], planes[2 * area + pixel]);
      image.pixels[static_cast<std::size_t>(pixel * channels + c)] = value;
    }
  }
  return image;
}

bool fits(const RawImages& raw, const ModelConfig& config) {
  return raw.channels == config.channels && raw.height == config.image_height &&
         raw.width == config.image_width && config.processing.crop_from == 0;
}

at::Tensor empty_images(std::int64_t count, const ModelConfig& config) {
  return at::empty({count, config.channels, config.image_height, config.image_width}, at::kByte);
}

void store(const std::vector<std::uint8_t>& planes, std::int64_t index, at::Tensor& images) {
  const std::int64_t size = images[0].numel();
  if (static_cast<std::int64_t>(planes.size()) != size)
    throw std::invalid_argument("[data] image: processing gives " + std::to_string(planes.size()) +
                                " values, the model's input needs " + std::to_string(size));
  std::memcpy(images.data_ptr<std::uint8_t>() + index * size, planes.data(), planes.size());
}

Dataset fit(const RawImages& raw, std::int64_t limit, const ModelConfig& config) {
  const auto chosen = spread_over(raw.count, limit);
  const bool as_they_are = fits(raw, config);
  const std::int64_t size = raw.channels * raw.height * raw.width;
  Dataset data;
  data.inputs = empty_images(static_cast<std::int64_t>(chosen.size()), config);
  data.labels = at::empty({static_cast<std::int64_t>(chosen.size())}, at::kLong);
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    const auto begin = raw.planes.begin() + chosen[i] * size;
    store(as_they_are ? std::vector<std::uint8_t>(begin, begin + size)
                      : prepare(interleave(raw, chosen[i], config.channels), config.processing,
                                config.channels),
          row, data.inputs);
    data.labels.data_ptr<std::int64_t>()[row] = raw.labels[static_cast<std::size_t>(chosen[i])];
  }
  return data;
}

void check_label(std::int64_t label, std::int64_t index, std::int64_t classes,
                 const fs::path& file) {
  if (classes > 0 && label >= classes)
    fail(file, "label " + std::to_string(index) + ": saw " + std::to_string(label) + ", needs 0.." +
                   std::to_string(classes - 1));
}

// ---- IDX
// ----------------------------------------------------------------------------------------------------------

std::optional<fs::path> find_idx(const fs::path& folder, const std::string& split,
                                 const std::string& what) {
  const std::string stem = (split == "train" ? "train-" : "t10k-") + what;
  for (const char separator : {'-', '.'}) {
    const std::string name = stem + separator + (what == "images" ? "idx3-ubyte" : "idx1-ubyte");
    for (const char* suffix : {"", ".gz"})
      if (fs::exists(folder / (name + suffix))) return folder / (name + suffix);
  }
  return std::nullopt;
}

/// The dimensions in the header: 0, 0, element type (8: uint8), how many, then each as a big-endian
/// u32.
std::vector<std::int64_t> read_idx_header(ByteSource& source, int num_dims) {
  const auto magic = source.read(4, "magic");
  if (magic[0] != 0 || magic[1] != 0 || magic[2] != 8 || magic[3] != num_dims)
    fail(source.path(), "magic: saw " + std::to_string(big_endian(magic.data())) + ", needs " +
                            std::to_string(0x800 + num_dims) + " (IDX of uint8 with " +
                            std::to_string(num_dims) + " dimensions)");
  const auto bytes = source.read(4 * num_dims, "dimensions");
  std::vector<std::int64_t> dims;
  for (int i = 0; i < num_dims; ++i) dims.push_back(big_endian(bytes.data() + 4 * i));
  return dims;
}

void check_sides(const fs::path& file, std::int64_t count, std::int64_t height,
                 std::int64_t width) {
  if (height < 1 || width < 1 || height > largest_side || width > largest_side)
    fail(file, "image size: saw " + std::to_string(height) + " x " + std::to_string(width) +
                   ", needs sides from 1 to " + std::to_string(largest_side));
  if (count > largest_dataset_bytes / (height * width))
    fail(file, "count: saw " + std::to_string(count) + " images, more than 64 GiB");
}

void expect_end(ByteSource& source) {
  if (!source.at_end()) fail(source.path(), "size: goes on after the last entry of its header");
}

RawImages read_idx(const DatasetSource& source, std::int64_t classes) {
  const auto images_path = find_idx(source.path, source.split, "images");
  const auto labels_path = find_idx(source.path, source.split, "labels");
  if (!images_path || !labels_path)
    fail(source.path,
         "idx: saw no " + std::string(images_path ? "labels" : "images") + " of the split '" +
             source.split +
             "', needs train-… or t10k-images-idx3-ubyte and -labels-idx1-ubyte, plain or .gz");
  ByteSource images(*images_path), labels(*labels_path);
  const auto dims = read_idx_header(images, 3);
  const auto count = read_idx_header(labels, 1)[0];
  if (count != dims[0])
    fail(*labels_path, "count: saw " + std::to_string(count) + " labels, needs " +
                           std::to_string(dims[0]) + " as there are images");
  check_sides(*images_path, dims[0], dims[1], dims[2]);
  RawImages raw{count, 1, dims[1], dims[2], {}, {}};
  raw.planes = images.read(raw.count * dims[1] * dims[2], "pixels");
  const auto bytes = labels.read(raw.count, "labels");
  expect_end(images);
  expect_end(labels);
  raw.labels.assign(bytes.begin(), bytes.end());
  for (std::int64_t i = 0; i < raw.count; ++i)
    check_label(raw.labels[static_cast<std::size_t>(i)], i, classes, *labels_path);
  return raw;
}

// ---- CIFAR
// --------------------------------------------------------------------------------------------------------

/// What differs between CIFAR-10 and CIFAR-100 on disk.
struct CifarLayout {
  const char* folder;  // the archive's own directory
  std::vector<std::string> train, test;
  std::int64_t label_bytes;  // the last of them counts
  std::int64_t classes;
  const char* names;
};

CifarLayout cifar_layout(const std::string& format) {
  if (format == "cifar100")
    return {"cifar-100-binary", {"train.bin"}, {"test.bin"}, 2, 100, "fine_label_names.txt"};
  CifarLayout layout{"cifar-10-batches-bin", {}, {"test_batch.bin"}, 1, 10, "batches.meta.txt"};
  for (int i = 1; i <= 5; ++i) layout.train.push_back("data_batch_" + std::to_string(i) + ".bin");
  return layout;
}

/// The folder that holds the files: the one given, or the archive's own directory in it.
std::optional<fs::path> find_cifar(const fs::path& folder, const CifarLayout& layout) {
  for (const fs::path& candidate : {folder, folder / layout.folder})
    if (fs::exists(candidate / layout.test[0]) || fs::exists(candidate / layout.train[0]))
      return candidate;
  return std::nullopt;
}

void read_cifar_file(const fs::path& path, const CifarLayout& layout, std::int64_t classes,
                     RawImages& raw) {
  const std::int64_t pixels = 3 * 32 * 32, record = layout.label_bytes + pixels;
  const auto size = fs::exists(path) ? static_cast<std::int64_t>(fs::file_size(path)) : 0;
  if (size == 0 || size % record != 0)
    fail(path, "size: saw " + std::to_string(size) + " bytes, needs a multiple of " +
                   std::to_string(record));
  ByteSource source(path);
  for (std::int64_t i = 0; i < size / record; ++i) {
    const auto bytes = source.read(record, "image " + std::to_string(i));
    raw.labels.push_back(bytes[static_cast<std::size_t>(layout.label_bytes - 1)]);
    check_label(raw.labels.back(), i, classes > 0 ? classes : layout.classes, path);
    raw.planes.insert(raw.planes.end(), bytes.begin() + layout.label_bytes, bytes.end());
    ++raw.count;
  }
}

std::vector<std::string> read_lines(const fs::path& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

Dataset read_cifar(const DatasetSource& source, const std::string& format,
                   const ModelConfig& config) {
  const CifarLayout layout = cifar_layout(format);
  const auto folder = find_cifar(source.path, layout);
  if (!folder) fail(source.path, format + ": saw none of its files, needs " + layout.test[0]);
  RawImages raw{0, 3, 32, 32, {}, {}};
  for (const auto& name : source.split == "train" ? layout.train : layout.test)
    read_cifar_file(*folder / name, layout, config.classes, raw);
  Dataset data = fit(raw, source.limit, config);
  data.label_names = read_lines(*folder / layout.names);
  return data;
}

// ---- a folder of classes
// --------------------------------------------------------------------------------------------

std::vector<std::string> class_names(const fs::path& folder, const ModelConfig& config) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && entry.path().filename().string()[0] != '.')
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  if (names.empty()) fail(folder, "folder: saw no sub-directory, needs one for each class");
  const bool named = !config.labels.empty();
  for (const auto& name : names)
    if (named && std::find(config.labels.begin(), config.labels.end(), name) == config.labels.end())
      fail(folder, "class: saw '" + name + "', which is none of the model's labels");
  if (!named && config.classes > 0 && static_cast<std::int64_t>(names.size()) != config.classes)
    fail(folder, "classes: saw " + std::to_string(names.size()) + " sub-directories, needs " +
                     std::to_string(config.classes));
  return named ? config.labels : names;
}

Dataset read_folder(const DatasetSource& source, const ModelConfig& config) {
  const fs::path folder = source.path / source.split;
  if (!fs::is_directory(folder))
    fail(source.path, "folder: saw no sub-directory '" + source.split +
                          "', needs train/ and test/, each with one directory a class");
  Dataset data;
  data.label_names = class_names(folder, config);
  std::vector<std::pair<fs::path, std::int64_t>> files;
  for (std::size_t c = 0; c < data.label_names.size(); ++c) {
    if (!fs::is_directory(folder / data.label_names[c])) continue;
    for (const auto& path : list_images(folder / data.label_names[c]))
      files.emplace_back(path, static_cast<std::int64_t>(c));
  }
  if (files.empty()) fail(folder, "folder: saw no PNG or JPEG file in its classes");
  const auto chosen = spread_over(static_cast<std::int64_t>(files.size()), source.limit);
  const auto count = static_cast<std::int64_t>(chosen.size());
  data.inputs = empty_images(count, config);
  data.labels = at::empty({count}, at::kLong);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto& [path, label] =
        files[static_cast<std::size_t>(chosen[static_cast<std::size_t>(i)])];
    store(prepare(read_image(path, config.channels), config.processing, config.channels), i,
          data.inputs);
    data.labels.data_ptr<std::int64_t>()[i] = label;
  }
  return data;
}

std::string detect(const DatasetSource& source) {
  if (find_idx(source.path, "train", "images") || find_idx(source.path, "test", "images"))
    return "idx";
  // CIFAR-10 first: its file names are the more particular ones.
  for (const char* format : {"cifar10", "cifar100"})
    if (find_cifar(source.path, cifar_layout(format))) return format;
  return "folder";
}

bool is_text_format(const std::string& format) {
  return format == "tsv" || format == "jsonl" || format == "stsb" || format == "text";
}

void check_source(const DatasetSource& source, bool texts) {
  if (source.split != "train" && source.split != "test")
    throw std::runtime_error("[data] split: saw '" + source.split + "', needs train or test");
  if (source.path.empty()) throw std::runtime_error("[data] path: saw nothing, needs a folder");
  if (!fs::exists(source.path))
    fail(source.path, std::string("data: there is no such folder") +
                          (texts ? "" : " (Fashion-MNIST: apt install dataset-fashion-mnist)"));
}

}  // namespace

Dataset read_dataset(const DatasetSource& source, const ModelConfig& config) {
  check_source(source, config.is_text());
  if (config.problem != Problem::single_label)
    throw std::runtime_error(
        "[data] saw a model whose outputs are no classes of which one is right (problem_type), "
        "needs one of single_label_classification: others answer, but are not trained or judged");
  if (config.is_text()) return read_texts(source, config);
  if (is_text_format(source.format))
    throw std::runtime_error("[data] format: saw '" + source.format +
                             "', but the model reads images");
  if (!fs::is_directory(source.path)) fail(source.path, "data: saw a file, needs a folder");
  const std::string format = source.format == "auto" ? detect(source) : source.format;
  Dataset data;
  if (format == "idx") {
    data = fit(read_idx(source, config.classes), source.limit, config);
  } else if (format == "cifar10" || format == "cifar100") {
    data = read_cifar(source, format, config);
  } else if (format == "folder") {
    data = read_folder(source, config);
  } else {
    throw std::runtime_error("[data] format: saw '" + format +
                             "', needs idx, cifar10, cifar100, folder or auto");
  }
  if (!config.labels.empty()) data.label_names = config.labels;
  return data;
}

std::vector<std::int64_t> spread_over(std::int64_t count, std::int64_t limit) {
  const std::int64_t chosen = limit > 0 ? std::min(count, limit) : count;
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < chosen; ++i) rows.push_back(i * count / chosen);
  return rows;
}

at::Tensor inputs_of(const ModelConfig& config, const at::Tensor& rows) {
  if (!config.is_text()) return normalise_pixels(config, rows);
  if (config.task == Task::causal_lm) return rows.narrow(1, 0, rows.size(1) - 1);
  const std::vector<std::int64_t> lengths = lengths_of(rows);
  return rows.narrow(1, 0, *std::max_element(lengths.begin(), lengths.end()));
}

std::vector<fs::path> list_images(const fs::path& folder) {
  if (fs::is_regular_file(folder)) return {folder};
  if (!fs::is_directory(folder)) fail(folder, "images: there is no such file or folder");
  std::vector<fs::path> paths;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && is_image(entry.path())) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace cleave::model
