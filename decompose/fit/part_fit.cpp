#include "decompose/fit/part_fit.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

#include "base/text.hpp"
#include "decompose/fit/ridge.hpp"
#include "model/fusion.hpp"

namespace cleave::decompose {

namespace {

using at::Tensor;
using Batches = std::vector<Tensor>;
using model::block_prefix;
using model::Transformer;

Tensor index_of(const std::vector<std::int64_t>& list) { return at::tensor(list, at::kLong); }

/// Rows of the units of a matrix, `unit` each. -> int64.
Tensor rows_of(const std::vector<std::int64_t>& units, std::int64_t unit) {
  return (index_of(units).unsqueeze(1) * unit + at::arange(unit, at::kLong)).flatten();
}

/// An orthonormal basis of the vectors whose elements sum to 0. -> [size, size − 1].
Tensor plane_without_mean(std::int64_t size) {
  const Tensor ones = at::ones({size, 1}, at::kDouble);
  const Tensor others = at::eye(size, at::kDouble).narrow(1, 0, size - 1);
  return std::get<0>(at::linalg_qr(at::cat({ones, others}, 1))).narrow(1, 1, size - 1);
}

}  // namespace

PartFit::PartFit(const TeacherStream& teacher, const KeepList& keep, Transformer part,
                 const FitRows& rows, const FitOptions& options, Work& work)
    : teacher_(teacher),
      keep_(keep),
      part_(std::move(part)),
      rows_(rows),
      options_(options),
      work_(work),
      exact_(part_.config.width == teacher.config().width),
      rotated_(options.stream == Stream::components && !exact_) {
  if (options.stream == Stream::components) expect_rotatable(teacher.config(), part_.config);
}

FittedPart PartFit::as_it_is() {
  choose_basis({});
  Batches features(rows_.batches());
  work_.for_batches([&](std::size_t i) { features[i] = model::features(part_, rows_.inputs(i)); });
  return {std::move(part_), basis_, origin_, std::move(features), false, Stream::channels};
}

void PartFit::begin(const std::vector<Tensor>& covariances) {
  choose_basis(covariances);
  own_.assign(rows_.batches(), {});
  if (rotated_) rotate_embedding();
  const bool normed = part_.find("embedding.norm.weight") != nullptr;
  if (normed && !exact_) reset_norm("embedding.norm");
  const auto embed = [&](std::size_t i) { own_[i] = model::embed(part_, rows_.inputs(i)); };
  work_.for_batches(embed);
  if (!normed || exact_) return;
  fit_norm("embedding.norm", own_);
  work_.for_batches(embed);
}

void PartFit::before(const Transformer& block, int layer, Half half) {
  const int place = place_of(layer);
  if (place >= 0 && has(part_.config, place, half) && !exact_)
    fit_readers(block, layer, place, half);
}

void PartFit::after(int layer, Half half) {
  const int place = place_of(layer), computed = half == Half::mlp ? layer + 1 : layer;
  if (place >= 0 && has(part_.config, place, half)) {
    const bool is_last = half == Half::mlp || !has(part_.config, place, Half::mlp);
    waiting_ = Waiting{place, half, is_last ? layer + 1 : layer, false};
    waiting_->whole = exact_ && is_whole(layer, place, half) && waiting_->until <= computed;
  }
  if (waiting_ && waiting_->until <= computed) fit_writer();
}

FittedPart PartFit::end() {
  if (teacher_.norms_before() && !exact_) fit_last_norm();
  Batches features(own_.size());
  work_.for_batches(
      [&](std::size_t i) { features[i] = model::read_out(part_, own_[i], rows_.sight(i)); });
  if (rotated_ && part_.config.classes > 0) rotate_head();
  return {std::move(part_),    basis_, origin_,
          std::move(features), exact_, rotated_ ? Stream::components : Stream::channels};
}

int PartFit::place_of(int layer) const {
  const auto found = std::find(keep_.layers.begin(), keep_.layers.end(), layer);
  return found == keep_.layers.end() ? -1 : static_cast<int>(found - keep_.layers.begin());
}

int PartFit::next_layer(int place) const {
  const auto next = static_cast<std::size_t>(place) + 1;
  return next < keep_.layers.size() ? static_cast<int>(keep_.layers[next]) : teacher_.num_layers();
}

bool PartFit::is_whole(int layer, int place, Half half) const {
  const auto& whole = teacher_.config().layers[static_cast<std::size_t>(layer)];
  const auto& shape = part_.config.layers[static_cast<std::size_t>(place)];
  return half == Half::attention ? shape.heads == whole.heads : shape.mlp_width == whole.mlp_width;
}

void PartFit::choose_basis(const std::vector<Tensor>& covariances) {
  const std::int64_t width = teacher_.config().width, kept = part_.config.width;
  origin_ = at::zeros({width}, options_.element);
  if (!rotated_) {
    channels_ = index_of(keep_.channels);
    basis_ = model::channel_basis(keep_.channels, width, "part").to(options_.element);
    return;
  }
  Tensor covariance = covariances.front() + covariances.back();
  for (const std::int64_t layer : keep_.layers)
    if (layer > 0) covariance = covariance + covariances[static_cast<std::size_t>(layer)];
  const Tensor leading = std::get<1>(at::linalg_eigh(covariance)).flip({1});  // [D, D], columns
  Tensor back = leading.narrow(1, 0, kept);  // [D, D_p], orthonormal columns
  // The vector of ones stays free, so that every token's mean is zero and the part's LayerNorm is
  // the wanted one: components lie in the D_p − 1 directions orthogonal to it.
  if (teacher_.centres())
    back = at::matmul(leading.narrow(1, 0, kept - 1), plane_without_mean(kept).t());
  to_part_ = back.t();
  if (teacher_.centres()) to_part_ = to_part_ - to_part_.mean(1, true);
  const Transformer norm = teacher_.piece("norm.");
  // A norm over fewer channels divides by less.
  const double scale = std::sqrt(static_cast<double>(width) / static_cast<double>(kept));
  basis_ = (norm["norm.weight"].to(at::kDouble).unsqueeze(1) * back * scale).to(options_.element);
  if (const Tensor* bias = norm.find("norm.bias")) origin_ = *bias;
  to_part_ = to_part_.to(options_.element).contiguous();
  part_.config.norm_eps *= scale * scale;
}

void PartFit::rotate_embedding() {
  const Transformer embedding = teacher_.piece("embedding.");
  for (const auto& [name, tensor] : embedding.tensors) {
    if (part_.find(name) == nullptr) continue;
    part_.tensors[name] = base::starts_with(name, "embedding.patch.")
                              ? at::matmul(to_part_, tensor.reshape({tensor.size(0), -1}))
                                    .reshape(part_[name].sizes())
                              : at::matmul(tensor, to_part_.t());
  }
}

Tensor PartFit::as_part(const Tensor& x) const {
  return rotated_ ? at::matmul(x, to_part_.t()) : x.index_select(-1, channels_);
}

Tensor PartFit::read(const Transformer& model, const std::string& norm, const Tensor& x) const {
  return teacher_.norms_before() ? model::norm(model, norm, x) : x;
}

void PartFit::fit_readers(const Transformer& block, int layer, int place, Half half) {
  const std::string mine = block_prefix(place), its = block_prefix(layer);
  const std::string norm = norm_name(half);
  if (teacher_.norms_before()) reset_norm(mine + norm);
  const auto& config = teacher_.config();
  // From what the part reads to what the teacher reads: behind it each reader is the teacher's.
  const auto moments =
      work_.sum_of(Moments(part_.config.width, config.width), [&](Moments& sum, std::size_t i) {
        const auto rows = [&](const Tensor& x) {
          return rows_for(place, half == Half::mlp, part_.config.width, i, x);
        };
        sum.add(rows(read(part_, mine + norm, own_[i])),
                rows(read(block, its + norm, teacher_.stream(i))));
      });
  const bool with_bias = half == Half::attention ? config.qkv_bias : config.mlp_bias;
  const auto map =
      ridge(moments, with_bias, options_.reader_ridge,
            "fit, layer " + std::to_string(layer) + ", what " + words_of(half) + " reads");
  const auto set = [&](const std::string& name, const Tensor& rows) {
    const Tensor weight = block[its + name + ".weight"].to(at::kDouble).index_select(0, rows);
    part_.tensors[mine + name + ".weight"] = at::matmul(weight, map.weight).to(options_.element);
    const Tensor* bias = block.find(its + name + ".bias");
    if (bias == nullptr) return;
    part_.tensors[mine + name + ".bias"] =
        (bias->to(at::kDouble).index_select(0, rows) + at::matmul(weight, map.bias))
            .to(options_.element);
  };
  const auto kept = static_cast<std::size_t>(place);
  if (half == Half::attention) {
    set("attention.query", rows_of(keep_.heads[kept], config.group * config.head_width));
    set("attention.key", rows_of(keep_.heads[kept], config.head_width));
    set("attention.value", rows_of(keep_.heads[kept], config.head_width));
    return;
  }
  set("mlp.up", index_of(keep_.mlp[kept]));
  if (config.gated) set("mlp.gate", index_of(keep_.mlp[kept]));
}

void PartFit::fit_writer() {
  const Waiting waiting = *waiting_;
  waiting_.reset();
  const std::string block = block_prefix(waiting.place);
  const std::string writer = block + writer_name(waiting.half);
  const Transformer halved = only(part_, waiting.place, waiting.half);
  Batches units(own_.size());
  work_.for_batches(
      [&](std::size_t i) { units[i] = units_of(halved, waiting.place, own_[i], rows_.sight(i)); });
  if (!waiting.whole) {
    const bool with_bias = part_.find(writer + ".bias") != nullptr;
    const auto moments =
        work_.sum_of(Moments(part_[writer + ".weight"].size(1), part_.config.width),
                     [&](Moments& sum, std::size_t i) {
                       const auto rows = [&](const Tensor& x) {
                         return rows_for(waiting.place, true, units[i].size(2), i, x);
                       };
                       sum.add(rows(units[i]), rows(as_part(teacher_.sum(i)) - own_[i]));
                     });
    const auto map = ridge(moments, with_bias, options_.writer_ridge,
                           "fit, layer " + std::to_string(waiting.place) + " of the part, what " +
                               words_of(waiting.half) + " writes");
    part_.tensors[writer + ".weight"] = map.weight.to(options_.element);
    if (with_bias) part_.tensors[writer + ".bias"] = map.bias.to(options_.element);
    exact_ = false;
  }
  work_.for_batches([&](std::size_t i) {
    own_[i] =
        own_[i] + model::linear(units[i], part_[writer + ".weight"], part_.find(writer + ".bias"));
  });
  if (teacher_.norms_before()) return;
  const std::string norm = block + norm_name(waiting.half);
  if (!waiting.whole) {
    reset_norm(norm);
    fit_norm(norm, own_);
  }
  work_.for_batches([&](std::size_t i) { own_[i] = model::norm(part_, norm, own_[i]); });
}

Tensor PartFit::rows_for(int place, bool behind_attention, std::int64_t inputs, std::size_t batch,
                         const Tensor& x) const {
  const bool is_last = place + 1 == static_cast<int>(part_.config.num_layers());
  return is_last && behind_attention && rows_.num_read_tokens() >= 4 * inputs
             ? rows_.read_tokens(batch, x)
             : rows_.tokens(batch, x);
}

void PartFit::reset_norm(const std::string& name) {
  part_.tensors[name + ".weight"] = at::ones({part_.config.width}, options_.element);
  if (part_.find(name + ".bias") != nullptr)
    part_.tensors[name + ".bias"] = at::zeros({part_.config.width}, options_.element);
}

void PartFit::fit_norm(const std::string& name, const Batches& x) {
  set_norm(name, work_.sum_of(ChannelMoments(part_.config.width),
                              [&](ChannelMoments& sum, std::size_t i) {
                                sum.add(rows_.tokens(i, model::norm(part_, name, x[i])),
                                        rows_.tokens(i, as_part(teacher_.stream(i))));
                              }));
}

void PartFit::fit_last_norm() {
  reset_norm("norm");
  if (rotated_) return;
  const Transformer norm = teacher_.piece("norm.");
  set_norm("norm", work_.sum_of(ChannelMoments(part_.config.width), [&](ChannelMoments& sum,
                                                                        std::size_t i) {
    sum.add(rows_.read_tokens(i, model::norm(part_, "norm", own_[i])),
            as_part(rows_.read_tokens(i, model::norm(norm, "norm", teacher_.stream(i)))));
  }));
}

void PartFit::set_norm(const std::string& name, const ChannelMoments& moments) {
  const bool with_bias = part_.find(name + ".bias") != nullptr;
  const auto map = moments.solve(with_bias);
  part_.tensors[name + ".weight"] = map.weight.to(options_.element);
  if (with_bias) part_.tensors[name + ".bias"] = map.bias.to(options_.element);
}

void PartFit::rotate_head() {
  const Transformer head = teacher_.piece("head");
  for (const auto& [name, tensor] : head.tensors) {
    if (part_.find(name) == nullptr) continue;
    part_.tensors[name] =
        tensor.dim() == 2
            ? at::matmul(tensor, basis_)
            : tensor + at::matmul(head[name.substr(0, name.rfind('.')) + ".weight"], origin_);
  }
}

}  // namespace cleave::decompose
