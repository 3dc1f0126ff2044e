#include "decompose/fit/teacher_stream.hpp"

#include <stdexcept>

#include <ATen/ATen.h>

#include "base/text.hpp"
#include "decompose/fit/ridge.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::decompose {

namespace fs = std::filesystem;
using at::Tensor;
using Batches = std::vector<Tensor>;
using model::block_prefix;
using model::Transformer;

const char* norm_name(Half half) { return half == Half::attention ? "norm_attention" : "norm_mlp"; }
const char* writer_name(Half half) {
  return half == Half::attention ? "attention.output" : "mlp.down";
}
const char* words_of(Half half) { return half == Half::attention ? "attention" : "MLP"; }

bool has(const model::ModelConfig& config, int layer, Half half) {
  const auto& shape = config.layers[static_cast<std::size_t>(layer)];
  return half == Half::attention ? shape.heads > 0 : shape.mlp_width > 0;
}

Transformer only(const Transformer& model, int layer, Half half) {
  Transformer halved = model;
  auto& shape = halved.config.layers[static_cast<std::size_t>(layer)];
  (half == Half::attention ? shape.mlp_width : shape.heads) = 0;
  return halved;
}

Tensor units_of(const Transformer& halved, int layer, const Tensor& x, const model::Sight& sight) {
  Tensor units;
  model::Observer observer;
  observer.on_context = [&](int, const Tensor& context) { units = context; };
  observer.on_mlp = [&](int, const Tensor& activations) { units = activations; };
  model::block(halved, layer, x, sight, &observer);
  return units;
}

TeacherStream::TeacherStream(const fs::path& folder, const FitRows& rows, Work& work,
                             at::ScalarType element)
    : config_(model::read_config(folder)),
      files_(folder),
      rows_(rows),
      work_(work),
      element_(element) {
  restart();
}

Transformer TeacherStream::piece(const std::string& prefix) const {
  Transformer found;
  found.config = config_;
  for (const auto& stored : model::stored_tensors(config_)) {
    if (!base::starts_with(stored.parts.front().name, prefix)) continue;
    const auto tensors = model::read_stored(config_, files_, stored);
    for (std::size_t i = 0; i < tensors.size(); ++i)
      found.tensors[stored.parts[i].name] = tensors[i].to(element_);
    files_.release(model::find_stored(config_, files_, stored.key));
  }
  return found;
}

void TeacherStream::restart() {
  const Transformer embedding = piece("embedding.");
  stream_.assign(rows_.batches(), {});
  work_.for_batches([&](std::size_t i) { stream_[i] = model::embed(embedding, rows_.inputs(i)); });
  sums_ = stream_;
}

void TeacherStream::advance(const Transformer& block, int layer, Half half) {
  if (!has(config_, layer, half)) return;
  const Transformer halved = only(block, layer, half);
  work_.for_batches([&](std::size_t i) {
    model::Observer observer;
    const Tensor x = stream_[i];
    if (!norms_before())
      observer.change_addition = [&](const Tensor& added) {
        sums_[i] = x + added;
        return added;
      };
    stream_[i] = model::block(halved, layer, x, rows_.sight(i), &observer);
    if (norms_before()) sums_[i] = stream_[i];
  });
}

Batches TeacherStream::features() const {
  const Transformer norm = piece("norm.");
  Batches features(stream_.size());
  work_.for_batches(
      [&](std::size_t i) { features[i] = model::read_out(norm, stream_[i], rows_.sight(i)); });
  return features;
}

std::vector<Tensor> covariances_of(TeacherStream& teacher, const FitRows& rows, Work& work) {
  const std::int64_t width = teacher.config().width;
  std::vector<Tensor> covariances;
  const auto add = [&] {
    const auto moments = work.sum_of(Moments(width, 0), [&](Moments& sum, std::size_t i) {
      Tensor tokens = rows.tokens(i, teacher.stream(i));
      if (teacher.centres()) tokens = tokens - tokens.mean(1, true);
      tokens = tokens / tokens.norm(2, {1}, true).clamp_min(1e-12);
      sum.add(tokens, tokens.narrow(1, 0, 0));
    });
    covariances.push_back(moments.xx());
    if (!at::isfinite(covariances.back()).all().item<bool>())
      throw std::runtime_error("[fit] covariance of the teacher's stream: not finite");
  };
  for (int layer = 0; layer < teacher.num_layers(); ++layer) {
    add();
    const Transformer block = teacher.piece(block_prefix(layer));
    for (const Half half : {Half::attention, Half::mlp}) teacher.advance(block, layer, half);
  }
  add();
  teacher.restart();
  return covariances;
}

}  // namespace cleave::decompose
