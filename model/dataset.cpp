#include "model/dataset.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>

#include <ATen/ATen.h>
#include <zlib.h>

#include "base/file.hpp"
#include "model/draw.hpp"
#include "model/image.hpp"
#include "model/text_data.hpp"
#include "model/tokenizer/unicode.hpp"
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
  const auto chosen = stratified(raw.labels, limit);
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

RawImages read_idx(const DatasetSource& source, std::int64_t classes, fs::path& origin) {
  const auto images_path = find_idx(source.path, source.split, "images");
  const auto labels_path = find_idx(source.path, source.split, "labels");
  if (!images_path || !labels_path)
    fail(source.path,
         "idx: saw no " + std::string(images_path ? "labels" : "images") + " of the split '" +
             source.split +
             "', needs train-… or t10k-images-idx3-ubyte and -labels-idx1-ubyte, plain or .gz");
  origin = *images_path;
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

/// Names of classes, one a line.
std::vector<std::string> read_names(const fs::path& path) {
  std::vector<std::string> names;
  if (!fs::exists(path)) return names;
  std::istringstream lines{std::string(without_byte_order_mark(base::read_text(path)))};
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) names.push_back(line);
  }
  return names;
}

/// The model's number of the class that the data call `name`.
std::int64_t class_named(const std::string& name, const ModelConfig& config,
                         const fs::path& where) {
  const auto found = std::find(config.labels.begin(), config.labels.end(), name);
  if (found == config.labels.end())
    throw UnknownClass("[" + where.string() + "] class: saw '" + name +
                       "', which is none of the model's labels (" +
                       (config.labels.empty() ? "it names none" : base::some_of(config.labels)) +
                       ")");
  return found - config.labels.begin();
}

/// Numbers that a file of names explains become those of the model's classes.
void match_names(const std::vector<std::string>& names, const fs::path& file,
                 const ModelConfig& config, std::vector<std::int64_t>& labels) {
  if (names.empty() || config.labels.empty()) return;
  for (std::int64_t& label : labels) {
    if (label >= static_cast<std::int64_t>(names.size()))
      fail(file, "names: saw " + std::to_string(names.size()) + ", needs one for label " +
                     std::to_string(label));
    label = class_named(names[static_cast<std::size_t>(label)], config, file);
  }
}

Dataset read_cifar(const DatasetSource& source, const std::string& format,
                   const ModelConfig& config) {
  const CifarLayout layout = cifar_layout(format);
  const auto folder = find_cifar(source.path, layout);
  if (!folder) fail(source.path, format + ": saw none of its files, needs " + layout.test[0]);
  RawImages raw{0, 3, 32, 32, {}, {}};
  const auto& files = source.split == "train" ? layout.train : layout.test;
  for (const auto& name : files) read_cifar_file(*folder / name, layout, config.classes, raw);
  const auto names = read_names(*folder / layout.names);
  match_names(names, *folder / layout.names, config, raw.labels);
  Dataset data = fit(raw, source.limit, config);
  data.label_names = names;
  data.origin = files.size() == 1 ? *folder / files.front() : *folder;
  return data;
}

// ---- a folder of classes
// --------------------------------------------------------------------------------------------

/// What lies below folders of images, told apart.
struct Found {
  std::vector<fs::path> images;                // sorted within each folder
  std::int64_t nested = 0;                     // of them in folders of their own
  std::int64_t hidden = 0;                     // files, and folders with all that is in them
  std::map<std::string, std::int64_t> others;  // by extension
};

bool is_hidden(const fs::path& path) { return path.filename().string()[0] == '.'; }

void look_into(const fs::path& folder, Found& found) {
  const auto first = static_cast<std::ptrdiff_t>(found.images.size());
  for (auto at = fs::recursive_directory_iterator(folder); at != fs::recursive_directory_iterator();
       ++at) {
    const fs::path& path = at->path();
    if (is_hidden(path)) {
      ++found.hidden;
      if (at->is_directory()) at.disable_recursion_pending();
    } else if (at->is_regular_file() && is_image(path)) {
      found.images.push_back(path);
      if (at.depth() > 0) ++found.nested;
    } else if (!at->is_directory() || at->is_symlink()) {
      ++found.others[path.has_extension() ? path.extension().string() : path.filename().string()];
    }
  }
  std::sort(found.images.begin() + first, found.images.end());
}

/// "3 files", "1 file".
std::string counted(std::int64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

void remark(base::Remarks& remarks, const fs::path& where, const std::string& what,
            std::int64_t count, const std::string& text) {
  if (count > 0) remarks.push_back({what, count, "[" + where.string() + "] " + text});
}

void remark_on(const Found& found, const fs::path& folder, base::Remarks& remarks) {
  std::int64_t others = 0;
  std::vector<std::string> kinds;
  for (const auto& [kind, count] : found.others) {
    others += count;
    kinds.push_back(kind + ": " + std::to_string(count));
  }
  remark(remarks, folder, "other_files", others,
         counted(others, "file is", "files are") + " passed over: not of a kind that is read (" +
             base::some_of(kinds) + ")");
  remark(remarks, folder, "hidden_files", found.hidden,
         counted(found.hidden, "hidden file or folder is", "hidden files or folders are") +
             " passed over");
  remark(remarks, folder, "nested_images", found.nested,
         counted(found.nested, "image lies", "images lie") +
             " in folders within that of a class, and counts for it");
}

/// A split's class folders in order of their names, and what lies beside them.
std::vector<std::string> class_folders(const fs::path& folder, base::Remarks& remarks) {
  std::vector<std::string> names, beside;
  std::int64_t hidden = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_hidden(entry.path()))
      ++hidden;
    else
      (entry.is_directory() ? names : beside).push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  std::sort(beside.begin(), beside.end());
  const auto strays = static_cast<std::int64_t>(beside.size());
  remark(remarks, folder, "stray_files", strays,
         counted(strays, "file lies", "files lie") +
             " beside the class folders, of no class, and passed over: " + base::some_of(beside));
  remark(remarks, folder, "hidden_beside", hidden,
         counted(hidden, "hidden file or folder is", "hidden files or folders are") +
             " passed over beside the class folders");
  if (names.empty()) fail(folder, "folder: saw no sub-directory, needs one for each class");
  return names;
}

/// The number of each class folder: by name where the model has names, otherwise in their order.
std::vector<std::int64_t> numbers_of(const std::vector<std::string>& names, const fs::path& folder,
                                     const ModelConfig& config) {
  std::vector<std::int64_t> numbers;
  for (const auto& name : names)
    numbers.push_back(config.labels.empty() ? static_cast<std::int64_t>(numbers.size())
                                            : class_named(name, config, folder));
  if (config.labels.empty() && config.classes > 0 &&
      static_cast<std::int64_t>(names.size()) != config.classes)
    fail(folder, "classes: saw " + std::to_string(names.size()) + " sub-directories, needs " +
                     std::to_string(config.classes));
  return numbers;
}

/// The folder of a split; what else might be meant is said.
fs::path split_folder(const DatasetSource& source, base::Remarks& remarks) {
  std::vector<std::string> found;
  for (const auto& name : names_of_split(source.split))
    if (fs::is_directory(source.path / name)) found.push_back(name);
  if (found.empty())
    fail(source.path, "folder: saw no sub-directory '" + source.split +
                          "', needs train/ and test/ (or val/), each with one directory a class");
  const std::vector<std::string> rest(found.begin() + 1, found.end());
  remark(remarks, source.path, "other_splits", static_cast<std::int64_t>(rest.size()),
         found.front() + "/ is the " + source.split + " split; not read: " + base::some_of(rest));
  return source.path / found.front();
}

/// Classes that no image shows, of the folders and of the model's.
void remark_on_classes(const std::vector<std::string>& empty, const std::vector<std::string>& names,
                       const fs::path& folder, const ModelConfig& config, base::Remarks& remarks) {
  const auto num_empty = static_cast<std::int64_t>(empty.size());
  remark(remarks, folder, "empty_classes", num_empty,
         counted(num_empty, "class folder has", "class folders have") +
             " no image that is read: " + base::some_of(empty));
  std::vector<std::string> absent;
  for (const auto& label : config.labels)
    if (std::find(names.begin(), names.end(), label) == names.end()) absent.push_back(label);
  const auto num_absent = static_cast<std::int64_t>(absent.size());
  remark(remarks, folder, "absent_classes", num_absent,
         counted(num_absent, "class of the model has", "classes of the model have") +
             " no folder: " + base::some_of(absent));
}

Dataset read_folder(const DatasetSource& source, const ModelConfig& config) {
  Dataset data;
  data.origin = split_folder(source, data.remarks);
  data.label_names = class_folders(data.origin, data.remarks);
  const auto numbers = numbers_of(data.label_names, data.origin, config);
  Found found;
  std::vector<std::int64_t> labels;  // of found.images
  std::vector<std::string> empty;
  for (std::size_t c = 0; c < numbers.size(); ++c) {
    look_into(data.origin / data.label_names[c], found);
    if (labels.size() == found.images.size()) empty.push_back(data.label_names[c]);
    labels.resize(found.images.size(), numbers[c]);
  }
  if (found.images.empty()) fail(data.origin, "folder: saw no image file in its classes");
  remark_on(found, data.origin, data.remarks);
  remark_on_classes(empty, data.label_names, data.origin, config, data.remarks);
  if (config.labels.empty() && !source.names_classes)
    remark(data.remarks, data.origin, "unnamed_classes", config.classes,
           "the model has no names for its classes: the folders are taken in the order of theirs");
  ReadImageOptions options;
  options.exif_rotation = source.exif_rotation;
  std::map<std::string, std::int64_t> notes;
  const auto chosen = stratified(labels, source.limit);
  const auto count = static_cast<std::int64_t>(chosen.size());
  data.inputs = empty_images(count, config);
  data.labels = at::empty({count}, at::kLong);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto place = static_cast<std::size_t>(chosen[static_cast<std::size_t>(i)]);
    const Image image = read_image(found.images[place], config.channels, options);
    if (!image.note.empty()) ++notes[image.note];
    store(prepare(image, config.processing, config.channels), i, data.inputs);
    data.labels.data_ptr<std::int64_t>()[i] = labels[place];
  }
  for (const auto& [note, images] : notes)
    remark(data.remarks, data.origin, "image_note", images,
           counted(images, "image: ", "images: ") + note);
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
        "[model] config.json problem_type: saw a model whose outputs are no classes of which one "
        "is right, needs single_label_classification: others answer, but are not trained or "
        "judged");
  if (config.is_text()) return read_texts(source, config);
  if (is_text_format(source.format))
    throw std::runtime_error("[data] format: saw '" + source.format +
                             "', but the model reads images");
  if (!fs::is_directory(source.path)) fail(source.path, "data: saw a file, needs a folder");
  const std::string format = source.format == "auto" ? detect(source) : source.format;
  Dataset data;
  if (format == "idx") {
    fs::path origin;
    data = fit(read_idx(source, config.classes, origin), source.limit, config);
    data.origin = origin;
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

std::int64_t Dataset::size() const {
  if (chosen.defined()) return chosen.size(0);
  return inputs.defined() ? inputs.size(0) : 0;
}

at::Tensor Dataset::places_of(const at::Tensor& indices) const {
  return chosen.defined() ? chosen.index_select(0, indices) : indices;
}

at::Tensor Dataset::rows(const at::Tensor& indices) const {
  return inputs.index_select(0, places_of(indices));
}

at::Tensor Dataset::rows(std::int64_t begin, std::int64_t count) const {
  return chosen.defined() ? inputs.index_select(0, chosen.narrow(0, begin, count))
                          : inputs.narrow(0, begin, count);
}

std::vector<std::int64_t> Dataset::classes() const {
  if (!labels.defined() || labels.dim() != 1 || labels.scalar_type() != at::kLong)
    return std::vector<std::int64_t>(
        static_cast<std::size_t>(scores.defined() ? scores.size(0) : size()), 0);
  const at::Tensor whole = labels.contiguous();
  return {whole.data_ptr<std::int64_t>(), whole.data_ptr<std::int64_t>() + whole.numel()};
}

const std::vector<std::string>& names_of_split(const std::string& split) {
  static const std::vector<std::string> train = {"train"},
                                        test = {"test", "dev", "val", "valid", "validation"};
  return split == "train" ? train : test;
}

std::vector<fs::path> list_images(const fs::path& folder, base::Remarks& remarks) {
  if (fs::is_regular_file(folder)) return {folder};
  if (!fs::is_directory(folder)) fail(folder, "images: there is no such file or folder");
  Found found;
  look_into(folder, found);
  found.nested = 0;  // there are no classes here
  remark_on(found, folder, remarks);
  return found.images;
}

}  // namespace cleave::model
