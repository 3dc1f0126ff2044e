#include "calibrate/teacher_cache.hpp"

#include <cstring>
#include <utility>

#include <ATen/ATen.h>

#include "calibrate/forward.hpp"
#include "calibrate/fused.hpp"
#include "calibrate/sealed.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::calibrate {
namespace {

constexpr std::int64_t images_a_piece = 64;

TeacherView empty_view(const model::ModelConfig& teacher, std::int64_t images) {
  const std::int64_t answer =
      teacher.task == model::Task::embedding ? teacher.width : teacher.classes;
  return {at::empty({images, answer}, at::kHalf),
          at::empty({images, teacher.summary_tokens, teacher.width}, at::kHalf)};
}

bool fill(const model::TensorFiles& files, const std::string& name, at::Tensor& target) {
  const auto found = files.entries().find(name);
  if (found == files.entries().end() || found->second.element != base::Element::f16 ||
      found->second.dims != target.sizes().vec())
    return false;
  std::memcpy(target.data_ptr(), files.data(found->second), target.nbytes());
  return true;
}

}  // namespace

TeacherCache::TeacherCache(std::filesystem::path folder, std::string key, Group group)
    : folder_(std::move(folder)), key_(std::move(key)), group_(std::move(group)) {
  std::filesystem::create_directories(folder_);
}

std::filesystem::path TeacherCache::path_of(int view) const {
  return folder_ / ("teacher-view-" + std::to_string(view) + ".safetensors");
}

std::optional<TeacherView> TeacherCache::kept(const model::ModelConfig& teacher, std::int64_t rows,
                                              int view) const {
  auto cached = read(view, teacher, rows);
  return group_.any(!cached) ? std::nullopt : std::move(cached);
}

std::optional<TeacherView> TeacherCache::make(
    const model::Transformer& teacher, const model::Dataset& data, const Augmentation& how,
    std::uint64_t seed, int view, model::Lanes& lanes,
    const std::function<bool(std::int64_t)>& report) const {
  const std::int64_t count = data.size();
  TeacherView outputs = empty_view(teacher.config, count);
  const model::Slice own = model::slice_of(count, group_.rank(), group_.size());
  const auto work = [&](std::int64_t first, std::int64_t last) {
    const std::int64_t begin = own.begin + first, end = own.begin + last;
    const at::Tensor indices = at::arange(begin, end, at::kLong);
    const at::Tensor batch = take_view(data, indices, how, seed, static_cast<std::uint64_t>(view));
    const at::Tensor features =
        summary_features(teacher, model::inputs_of(teacher.config, batch.to(teacher.device())));
    outputs.features.narrow(0, begin, end - begin).copy_(features);
    outputs.logits.narrow(0, begin, end - begin).copy_(model::classify(teacher, features));
  };
  const auto done = [&](std::int64_t rows) { return !report || report(rows * group_.size()); };
  if (group_.any(!for_pieces(own.size(), images_a_piece, lanes, work, done))) return std::nullopt;
  for (int rank = 0; rank < group_.size(); ++rank) {
    const model::Slice share = model::slice_of(count, rank, group_.size());
    group_.copy_from(rank, {outputs.logits.narrow(0, share.begin, share.size()),
                            outputs.features.narrow(0, share.begin, share.size())});
  }
  write(view, outputs);
  return outputs;
}

std::optional<TeacherView> TeacherCache::read(int view, const model::ModelConfig& teacher,
                                              std::int64_t images) const {
  if (!std::filesystem::exists(path_of(view))) return std::nullopt;
  const model::TensorFiles files =
      open_sealed(path_of(view), "the teacher's answers", "compute them again");
  const auto key = files.metadata().find("key");
  if (key == files.metadata().end() || key->second != key_) return std::nullopt;
  TeacherView outputs = empty_view(teacher, images);
  if (!fill(files, "logits", outputs.logits) || !fill(files, "features", outputs.features))
    return std::nullopt;
  return outputs;
}

void TeacherCache::write(int view, const TeacherView& outputs) const {
  write_sealed(path_of(view), {{"logits", outputs.logits}, {"features", outputs.features}},
               {{"key", key_}});
}

}  // namespace cleave::calibrate
