#include "decompose/slice.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "decompose/coupling.hpp"
#include "decompose/folder.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::decompose {
namespace {

using model::Axis;
using Indices = std::vector<std::int64_t>;

// ---- what is kept ----

Indices count_to(std::int64_t size) {
  Indices all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

/// "[keep] heads[3]: keeps head 12, the model has heads 0..11".
void check_list(const Indices& list, std::int64_t size, const std::string& where,
                const std::string& unit) {
  const auto error = [&](const std::string& what) {
    return std::invalid_argument("[keep] " + where + ": " + what);
  };
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i] < 0 || list[i] >= size) {
      throw error("keeps " + unit + " " + std::to_string(list[i]) + ", the model has " +
                  (size == 0 ? "none" : unit + "s 0.." + std::to_string(size - 1)));
    }
    if (i > 0 && list[i] <= list[i - 1]) {
      throw error("saw " + unit + " " + std::to_string(list[i]) + " after " +
                  std::to_string(list[i - 1]) + ", needs an ascending list");
    }
  }
}

void check_some(const Indices& list, const std::string& where) {
  if (list.empty()) throw std::invalid_argument("[keep] " + where + ": saw none, needs at least 1");
}

void check_layer_count(std::size_t lists, std::size_t layers, const std::string& where) {
  if (lists == layers) return;
  throw std::invalid_argument("[keep] " + where + ": saw " + std::to_string(lists) +
                              " lists, needs one for each of " + std::to_string(layers) +
                              " layers");
}

void check(const model::ModelConfig& teacher, const KeepList& keep) {
  check_some(keep.layers, "layers");
  check_list(keep.layers, teacher.num_layers(), "layers", "layer");
  check_some(keep.channels, "channels");
  check_list(keep.channels, teacher.width, "channels", "channel");
  check_layer_count(keep.heads.size(), keep.layers.size(), "heads");
  check_layer_count(keep.mlp.size(), keep.layers.size(), "mlp");
  for (std::size_t i = 0; i < keep.layers.size(); ++i) {
    const auto& layer = teacher.layers[static_cast<std::size_t>(keep.layers[i])];
    const std::string at = "[" + std::to_string(i) + "]";
    check_list(keep.heads[i], layer.heads / teacher.group, "heads" + at, "head");
    check_list(keep.mlp[i], layer.mlp_width, "mlp" + at, "unit");
  }
}

// ---- which bytes that is ----

/// Consecutive elements of an axis.
struct Run {
  std::int64_t begin = 0, size = 0;
};

/// Elements of the kept units, as few runs as possible.
std::vector<Run> runs_of(const Indices& units, std::int64_t unit) {
  std::vector<Run> runs;
  for (const auto u : units) {
    if (!runs.empty() && runs.back().begin + runs.back().size == u * unit) {
      runs.back().size += unit;
    } else {
      runs.push_back({u * unit, unit});
    }
  }
  return runs;
}

/// The runs that every axis of every teacher parameter keeps.
class Cuts {
 public:
  Cuts(const model::ModelConfig& teacher, const KeepList& keep) {
    for (const auto& group : width_groups(teacher)) {
      const Indices* units = kept_units(group, keep);
      if (units == nullptr) continue;  // a dropped layer's own
      for (const auto& member : group.members) {
        cuts_[{member.parameter, member.axis}] = runs_of(*units, member.unit);
      }
    }
  }

  /// By axis as stored.
  std::vector<std::vector<Run>> of(const model::StoredTensor& stored) const {
    const model::Parameter& first = stored.parts.front();
    std::vector<std::vector<Run>> runs;
    for (std::size_t axis = 0; axis < first.axes.size(); ++axis) runs.push_back(of(first, axis));
    std::int64_t begin = first.axes.front().size;
    for (std::size_t part = 1; part < stored.parts.size(); ++part) {
      for (const Run& run : of(stored.parts[part], 0))
        runs.front().push_back({begin + run.begin, run.size});
      begin += stored.parts[part].axes.front().size;
    }
    if (stored.transposed) std::swap(runs.at(0), runs.at(1));
    return runs;
  }

 private:
  std::vector<Run> of(const model::Parameter& parameter, std::size_t axis) const {
    const auto cut = cuts_.find({parameter.name, static_cast<int>(axis)});
    return cut == cuts_.end() ? std::vector<Run>{{0, parameter.axes[axis].size}} : cut->second;
  }

  static const Indices* kept_units(const WidthGroup& group, const KeepList& keep) {
    if (group.kind == Axis::Kind::residual) return &keep.channels;
    const auto layer = std::find(keep.layers.begin(), keep.layers.end(), group.layer);
    if (layer == keep.layers.end()) return nullptr;
    const auto i = static_cast<std::size_t>(layer - keep.layers.begin());
    return group.kind == Axis::Kind::heads ? &keep.heads[i] : &keep.mlp[i];
  }

  std::map<std::pair<std::string, int>, std::vector<Run>> cuts_;
};

/// Copies the kept elements of one row-major tensor to the writer, in order, through a small
/// buffer.
class Gather {
 public:
  Gather(const std::vector<std::int64_t>& dims, std::vector<std::vector<Run>> runs,
         std::int64_t element_bytes, model::ModelWriter& writer)
      : runs_(std::move(runs)), strides_(dims.size()), writer_(writer) {
    std::int64_t stride = element_bytes;
    for (std::size_t axis = dims.size(); axis-- > 0;) {
      strides_[axis] = stride;
      stride *= dims[axis];
    }
    // Axes kept whole at the end move with the axis before them.
    while (runs_.size() > 1 && runs_.back().size() == 1 && runs_.back()[0].begin == 0 &&
           runs_.back()[0].size == dims[runs_.size() - 1]) {
      runs_.pop_back();
    }
  }

  void copy(const std::byte* source) {
    copy_axis(0, source);
    flush();
  }

 private:
  static constexpr std::size_t buffer_bytes = 1 << 20;

  void copy_axis(std::size_t axis, const std::byte* source) {
    const bool last = axis + 1 == runs_.size();
    for (const Run& run : runs_[axis]) {
      const std::byte* begin = source + run.begin * strides_[axis];
      if (last) {
        append(begin, static_cast<std::size_t>(run.size * strides_[axis]));
        continue;
      }
      for (std::int64_t i = 0; i < run.size; ++i) copy_axis(axis + 1, begin + i * strides_[axis]);
    }
  }

  void append(const std::byte* bytes, std::size_t size) {
    if (buffer_.size() + size > buffer_bytes) flush();
    if (size >= buffer_bytes) {
      writer_.write(bytes, size);
    } else {
      buffer_.insert(buffer_.end(), bytes, bytes + size);
    }
  }

  void flush() {
    if (!buffer_.empty()) writer_.write(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  std::vector<std::vector<Run>> runs_;  // by axis
  std::vector<std::int64_t> strides_;   // bytes
  model::ModelWriter& writer_;
  std::vector<std::byte> buffer_;
};

// ---- where it comes from ----

/// "blocks.1.mlp.up.bias" of a part that keeps layers {0, 4} is the teacher's
/// "blocks.4.mlp.up.bias".
std::string name_in_teacher(const std::string& name, const Indices& layers) {
  const std::string blocks = "blocks.";
  if (name.compare(0, blocks.size(), blocks) != 0) return name;
  std::size_t digits = 0;
  const auto layer = std::stoul(name.substr(blocks.size()), &digits);
  return blocks + std::to_string(layers.at(layer)) + name.substr(blocks.size() + digits);
}

/// One tensor of the part and the teacher's that it is cut from.
struct Piece {
  model::StoredTensor part;
  const model::TensorEntry* source = nullptr;
  model::StoredTensor teacher;
};

std::vector<Piece> pieces_of(const model::ModelConfig& teacher, const model::ModelConfig& part,
                             const KeepList& keep, const model::TensorFiles& files) {
  std::map<std::string, model::StoredTensor> by_name;
  for (auto& stored : model::stored_tensors(teacher)) by_name[stored.parts.front().name] = stored;
  std::vector<Piece> pieces;
  for (auto& stored : model::stored_tensors(part)) {
    const auto& whole = by_name.at(name_in_teacher(stored.parts.front().name, keep.layers));
    pieces.push_back({stored, &model::find_stored(teacher, files, whole.key), whole});
  }
  return pieces;
}

std::vector<model::TensorEntry> entries_of(const std::vector<Piece>& pieces) {
  std::vector<model::TensorEntry> entries;
  for (const auto& piece : pieces) {
    model::TensorEntry entry;
    entry.name = piece.part.key;
    entry.element = piece.source->element;
    entry.dims = piece.part.dims();
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// Replacing the teacher by its part would be done without a fault, and is never meant.
void expect_elsewhere(const std::filesystem::path& teacher, const std::filesystem::path& out) {
  if (!std::filesystem::exists(out) || !std::filesystem::equivalent(teacher, out)) return;
  throw std::invalid_argument("[" + out.string() +
                              "] is the teacher itself: needs another folder for the part");
}

nlohmann::json lists_of(const KeepList& keep) {
  return {{"format", 1},
          {"layers", keep.layers},
          {"channels", keep.channels},
          {"heads", keep.heads},
          {"mlp", keep.mlp},
          {"classifier", keep.classifier},
          {"stream", keep.stream == Stream::channels ? "channels" : "components"}};
}

Indices read_list(const base::Reader& list) {
  Indices values;
  for (const auto& item : list.items()) {
    values.push_back(item.integer(0, std::numeric_limits<std::int32_t>::max()));
  }
  return values;
}

std::vector<Indices> read_lists(const base::Reader& lists) {
  std::vector<Indices> values;
  for (const auto& list : lists.items()) values.push_back(read_list(list));
  return values;
}

KeepList keep_from(const base::Reader& reader) {
  reader.expect_format(1);
  reader.allow({"format", "layers", "channels", "heads", "mlp", "classifier", "stream"});
  KeepList keep;
  keep.layers = read_list(reader.at("layers"));
  keep.channels = read_list(reader.at("channels"));
  keep.heads = read_lists(reader.at("heads"));
  keep.mlp = read_lists(reader.at("mlp"));
  keep.classifier = reader.boolean("classifier", true);
  if (const auto stream = reader.find("stream"))
    keep.stream = stream->one_of({"channels", "components"}) == "channels" ? Stream::channels
                                                                           : Stream::components;
  return keep;
}

}  // namespace

bool KeepList::operator==(const KeepList& other) const {
  return layers == other.layers && channels == other.channels && heads == other.heads &&
         mlp == other.mlp && classifier == other.classifier && stream == other.stream;
}

KeepList keep_all(const model::ModelConfig& teacher) {
  KeepList keep;
  keep.layers = count_to(teacher.num_layers());
  keep.channels = count_to(teacher.width);
  for (const auto& layer : teacher.layers) {
    keep.heads.push_back(count_to(layer.heads / teacher.group));
    keep.mlp.push_back(count_to(layer.mlp_width));
  }
  return keep;
}

model::ModelConfig kept_config(const model::ModelConfig& teacher, const KeepList& keep) {
  check(teacher, keep);
  model::ModelConfig part = teacher;
  part.width = static_cast<std::int64_t>(keep.channels.size());
  if (!keep.classifier) {
    part.classes = 0;
    part.labels.clear();
  }
  part.layers.clear();
  for (std::size_t i = 0; i < keep.layers.size(); ++i) {
    part.layers.push_back({static_cast<std::int64_t>(keep.heads[i].size()) * teacher.group,
                           static_cast<std::int64_t>(keep.mlp[i].size())});
  }
  return part;
}

void slice(const std::filesystem::path& teacher, const KeepList& keep,
           const std::filesystem::path& out, const base::ProgressCallback& progress) {
  const auto config = model::read_config(teacher);
  const auto part = kept_config(config, keep);
  const model::TensorFiles files(teacher);
  model::check_tensors(config, files);
  expect_elsewhere(teacher, out);
  const Cuts cuts(config, keep);
  const auto pieces = pieces_of(config, part, keep, files);

  ModelFolder folder(out);
  model::ModelWriter writer(folder.path(), entries_of(pieces), files.metadata());
  Steps steps("cut " + out.filename().string(), static_cast<std::int64_t>(pieces.size()), progress);
  for (const auto& piece : pieces) {
    steps.next();
    const auto element_bytes = base::size_of(piece.source->element);
    Gather(piece.source->dims, cuts.of(piece.teacher), element_bytes, writer)
        .copy(files.data(*piece.source));
    files.release(*piece.source);
  }
  writer.commit();
  folder.commit(part);
}

void write_keep(const KeepList& keep, const std::filesystem::path& path) {
  base::write_whole(path, lists_of(keep).dump() + "\n");
}

KeepList read_keep(const std::filesystem::path& path) {
  return keep_from(base::Reader::json_file(path));
}

KeepList keep_from_json(const std::string& text, const std::string& name) {
  return keep_from(base::Reader::json_text(text, name));
}

}  // namespace cleave::decompose
