#include "decompose/fit.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "base/text.hpp"
#include "decompose/folder.hpp"
#include "decompose/ridge.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"
#include "model/lanes.hpp"

namespace cleave::decompose {
namespace {

namespace fs = std::filesystem;
using at::Tensor;
using Batches = std::vector<Tensor>;
using model::Transformer;

std::string block_prefix(std::int64_t layer) { return "blocks." + std::to_string(layer) + "."; }

Tensor index_of(const std::vector<std::int64_t>& list) { return at::tensor(list, at::kLong); }

/// Rows of the units of a matrix, `unit` each. -> int64.
Tensor rows_of(const std::vector<std::int64_t>& units, std::int64_t unit) {
  return (index_of(units).unsqueeze(1) * unit + at::arange(unit, at::kLong)).flatten();
}

/// The work on batches, shared out to lanes so that sums come out the same on any number of them.
class Work {
 public:
  Work(std::size_t batches, int threads) : batches_(batches), lanes_(threads) {}

  void for_batches(const std::function<void(std::size_t)>& work) {
    lanes_.run(static_cast<std::int64_t>(batches_), [&](std::int64_t batch) {
      const c10::NoGradGuard no_grad;
      work(static_cast<std::size_t>(batch));
    });
  }

  /// The sum over all batches: each of a few pieces begins with a copy of `zero` and takes its
  /// batches in order.
  template <typename Sum, typename Add>
  Sum sum_of(const Sum& zero, const Add& add) {
    constexpr std::size_t pieces = 4;
    std::vector<Sum> sums(pieces, zero);
    lanes_.run(pieces, [&](std::int64_t piece) {
      const c10::NoGradGuard no_grad;
      for (auto batch = static_cast<std::size_t>(piece); batch < batches_; batch += pieces)
        add(sums[static_cast<std::size_t>(piece)], batch);
    });
    for (std::size_t piece = 1; piece < pieces; ++piece) sums[0].add(sums[piece]);
    return sums[0];
  }

 private:
  std::size_t batches_;
  model::Lanes lanes_;
};

enum class Half { attention, mlp };

const char* norm_name(Half half) { return half == Half::attention ? "norm_attention" : "norm_mlp"; }
const char* writer_name(Half half) {
  return half == Half::attention ? "attention.output" : "mlp.down";
}
const char* words_of(Half half) { return half == Half::attention ? "attention" : "MLP"; }

bool has(const model::ModelConfig& config, int layer, Half half) {
  const auto& shape = config.layers[static_cast<std::size_t>(layer)];
  return half == Half::attention ? shape.heads > 0 : shape.mlp_width > 0;
}

/// A model of which block() computes one half of a layer.
Transformer only(const Transformer& model, int layer, Half half) {
  Transformer halved = model;
  auto& shape = halved.config.layers[static_cast<std::size_t>(layer)];
  (half == Half::attention ? shape.mlp_width : shape.heads) = 0;
  return halved;
}

// ---- the teacher ----

/// The teacher's residual stream over all rows, half a block at a time. Only a piece of the teacher
/// is in memory.
class Teacher {
 public:
  Teacher(const fs::path& folder, const FitRows& rows, Work& work)
      : config_(model::read_config(folder)), files_(folder), rows_(rows), work_(work) {
    restart();
  }

  const model::ModelConfig& config() const { return config_; }
  int num_layers() const { return static_cast<int>(config_.num_layers()); }
  bool norms_before() const { return config_.norm_placement == model::NormPlacement::before; }
  /// LayerNorm takes the mean of a token out, RMSNorm does not.
  bool centres() const { return config_.norm_kind == model::NormKind::layer; }

  /// The tensors whose names begin so.
  Transformer piece(const std::string& prefix) const {
    Transformer found;
    found.config = config_;
    for (const auto& stored : model::stored_tensors(config_)) {
      if (!base::starts_with(stored.parts.front().name, prefix)) continue;
      const auto tensors = model::read_stored(config_, files_, stored);
      for (std::size_t i = 0; i < tensors.size(); ++i)
        found.tensors[stored.parts[i].name] = tensors[i];
      files_.release(model::find_stored(config_, files_, stored.key));
    }
    return found;
  }

  void restart() {
    const Transformer embedding = piece("embedding.");
    stream_.assign(rows_.batches(), {});
    work_.for_batches(
        [&](std::size_t i) { stream_[i] = model::embed(embedding, rows_.inputs(i)); });
    sums_ = stream_;
  }

  /// Half a layer's way on, where the layer has that half.
  void advance(const Transformer& block, int layer, Half half) {
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

  /// The stream of a batch [B, N, D], and the sum that a norm after the last half was taken of (the
  /// stream itself where norms come before).
  const Tensor& stream(std::size_t batch) const { return stream_[batch]; }
  const Tensor& sum(std::size_t batch) const { return sums_[batch]; }

  /// At the end.
  Batches features() const {
    const Transformer norm = piece("norm.");
    Batches features(stream_.size());
    work_.for_batches(
        [&](std::size_t i) { features[i] = model::read_out(norm, stream_[i], rows_.sight(i)); });
    return features;
  }

 private:
  model::ModelConfig config_;
  model::TensorFiles files_;
  const FitRows& rows_;
  Work& work_;
  Batches stream_, sums_;
};

/// Covariances of the teacher's stream before each layer and behind the last, each token at length
/// 1, as norms make it: L + 1 of [D, D], fp64.
std::vector<Tensor> covariances_of(Teacher& teacher, const FitRows& rows, Work& work) {
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

/// An orthonormal basis of the vectors whose elements sum to 0. -> [size, size − 1].
Tensor plane_without_mean(std::int64_t size) {
  const Tensor ones = at::ones({size, 1}, at::kDouble);
  const Tensor others = at::eye(size, at::kDouble).narrow(1, 0, size - 1);
  return std::get<0>(at::linalg_qr(at::cat({ones, others}, 1))).narrow(1, 1, size - 1);
}

// ---- a part ----

/// Fits one part beside the teacher's pass: before and after each half of each layer.
class PartFit {
 public:
  PartFit(const Teacher& teacher, const KeepList& keep, Transformer part, const FitRows& rows,
          const FitOptions& options, Work& work)
      : teacher_(teacher),
        keep_(keep),
        part_(std::move(part)),
        rows_(rows),
        options_(options),
        work_(work),
        exact_(part_.config.width == teacher.config().width),
        rotated_(options.stream == Stream::components && !exact_) {
    if (rotated_ && !teacher.norms_before())
      throw std::invalid_argument(
          "[fit] stream: saw components of a model whose norms come after each half, which cannot "
          "be rotated; needs channels");
    if (rotated_ && part_.config.classes > 0 && part_.config.is_text())
      throw std::invalid_argument(
          "[fit] stream: saw components of a part with a head of its own over texts, which is not "
          "rotated; needs channels");
  }

  bool is_rotated() const { return rotated_; }

  /// Nothing is fitted: the part as it was cut.
  FittedPart as_it_is() {
    choose_basis({});
    Batches features(rows_.batches());
    work_.for_batches(
        [&](std::size_t i) { features[i] = model::features(part_, rows_.inputs(i)); });
    return {std::move(part_), basis_, origin_, std::move(features), false, Stream::channels};
  }

  /// `covariances` of the teacher's stream, where it is rotated.
  void begin(const std::vector<Tensor>& covariances) {
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

  /// While the teacher's stream stands before a half: what reads.
  void before(const Transformer& block, int layer, Half half) {
    const int place = place_of(layer);
    if (place >= 0 && has(part_.config, place, half) && !exact_)
      fit_readers(block, layer, place, half);
  }

  /// While it stands behind it: what writes.
  void after(int layer, Half half) {
    const int place = place_of(layer), computed = half == Half::mlp ? layer + 1 : layer;
    if (place >= 0 && has(part_.config, place, half)) {
      const bool is_last = half == Half::mlp || !has(part_.config, place, Half::mlp);
      waiting_ = Waiting{place, half, is_last ? next_layer(place) : layer, false};
      waiting_->whole = exact_ && is_whole(layer, place, half) && waiting_->until <= computed;
    }
    if (waiting_ && waiting_->until <= computed) fit_writer();
  }

  FittedPart end() {
    if (teacher_.norms_before() && !exact_) fit_last_norm();
    Batches features(own_.size());
    work_.for_batches(
        [&](std::size_t i) { features[i] = model::read_out(part_, own_[i], rows_.sight(i)); });
    if (rotated_ && part_.config.classes > 0) rotate_head();
    return {std::move(part_),    basis_, origin_,
            std::move(features), exact_, rotated_ ? Stream::components : Stream::channels};
  }

 private:
  /// A half whose writer waits for the teacher's stream to come where it aims at.
  struct Waiting {
    int place = 0;  // in the part
    Half half = Half::attention;
    int until = 0;       // teacher layers computed
    bool whole = false;  // every unit is there, and the stream behind it is aimed at: it stays
  };

  /// The part's place of a teacher's layer, or −1.
  int place_of(int layer) const {
    const auto found = std::find(keep_.layers.begin(), keep_.layers.end(), layer);
    return found == keep_.layers.end() ? -1 : static_cast<int>(found - keep_.layers.begin());
  }

  /// The teacher's layer before which the part's next one reads; all of them behind the last.
  int next_layer(int place) const {
    const auto next = static_cast<std::size_t>(place) + 1;
    return next < keep_.layers.size() ? static_cast<int>(keep_.layers[next])
                                      : teacher_.num_layers();
  }

  bool is_whole(int layer, int place, Half half) const {
    const auto& whole = teacher_.config().layers[static_cast<std::size_t>(layer)];
    const auto& shape = part_.config.layers[static_cast<std::size_t>(place)];
    return half == Half::attention ? shape.heads == whole.heads
                                   : shape.mlp_width == whole.mlp_width;
  }

  // ---- the stream ----

  /// The way from the teacher's stream to the part's, and from its features back.
  void choose_basis(const std::vector<Tensor>& covariances) {
    const std::int64_t width = teacher_.config().width, kept = part_.config.width;
    origin_ = at::zeros({width});
    if (!rotated_) {
      channels_ = index_of(keep_.channels);
      basis_ = model::channel_basis(keep_.channels, width, "part");
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
    basis_ = (norm["norm.weight"].to(at::kDouble).unsqueeze(1) * back * scale).to(at::kFloat);
    if (const Tensor* bias = norm.find("norm.bias")) origin_ = *bias;
    to_part_ = to_part_.to(at::kFloat).contiguous();
    part_.config.norm_eps /= scale * scale;
  }

  /// Tokens, positions and patches write to the stream.
  void rotate_embedding() {
    const Transformer embedding = teacher_.piece("embedding.");
    for (const auto& [name, tensor] : embedding.tensors) {
      if (part_.find(name) == nullptr) continue;
      part_.tensors[name] = base::starts_with(name, "embedding.patch.")
                                ? at::matmul(to_part_, tensor.reshape({tensor.size(0), -1}))
                                      .reshape(part_[name].sizes())
                                : at::matmul(tensor, to_part_.t());
    }
  }

  /// The teacher's stream as the part would have it. [.., D] -> [.., D_p].
  Tensor as_part(const Tensor& x) const {
    return rotated_ ? at::matmul(x, to_part_.t()) : x.index_select(-1, channels_);
  }

  // ---- readers and writers ----

  /// What a half's readers multiply: the stream, normed where norms come before.
  Tensor read(const Transformer& model, const std::string& norm, const Tensor& x) const {
    return teacher_.norms_before() ? model::norm(model, norm, x) : x;
  }

  void fit_readers(const Transformer& block, int layer, int place, Half half) {
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
      part_.tensors[mine + name + ".weight"] = at::matmul(weight, map.weight).to(at::kFloat);
      const Tensor* bias = block.find(its + name + ".bias");
      if (bias == nullptr) return;
      part_.tensors[mine + name + ".bias"] =
          (bias->to(at::kDouble).index_select(0, rows) + at::matmul(weight, map.bias))
              .to(at::kFloat);
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

  void fit_writer() {
    const Waiting waiting = *waiting_;
    waiting_.reset();
    const std::string block = block_prefix(waiting.place);
    const std::string writer = block + writer_name(waiting.half);
    const Transformer halved = only(part_, waiting.place, waiting.half);
    Batches units(own_.size());
    work_.for_batches([&](std::size_t i) {
      units[i] = units_of(halved, waiting.place, own_[i], rows_.sight(i));
    });
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
      part_.tensors[writer + ".weight"] = map.weight.to(at::kFloat);
      if (with_bias) part_.tensors[writer + ".bias"] = map.bias.to(at::kFloat);
      exact_ = false;
    }
    work_.for_batches([&](std::size_t i) {
      own_[i] = own_[i] +
                model::linear(units[i], part_[writer + ".weight"], part_.find(writer + ".bias"));
    });
    if (teacher_.norms_before()) return;
    const std::string norm = block + norm_name(waiting.half);
    if (!waiting.whole) {
      reset_norm(norm);
      fit_norm(norm, own_);
    }
    work_.for_batches([&](std::size_t i) { own_[i] = model::norm(part_, norm, own_[i]); });
  }

  /// What a half's writer multiplies: contexts [B, N, H·K] or activations [B, N, F].
  static Tensor units_of(const Transformer& halved, int layer, const Tensor& x,
                         const model::Sight& sight) {
    Tensor units;
    model::Observer observer;
    observer.on_context = [&](int, const Tensor& context) { units = context; };
    observer.on_mlp = [&](int, const Tensor& activations) { units = activations; };
    model::block(halved, layer, x, sight, &observer);
    return units;
  }

  /// Rows for a fit in a half: behind the last attention nothing counts but what the answer is read
  /// from, where that is enough.
  Tensor rows_for(int place, bool behind_attention, std::int64_t inputs, std::size_t batch,
                  const Tensor& x) const {
    const bool is_last = place + 1 == static_cast<int>(part_.config.num_layers());
    return is_last && behind_attention && rows_.num_read_tokens() >= 4 * inputs
               ? rows_.read_tokens(batch, x)
               : rows_.tokens(batch, x);
  }

  // ---- norms ----

  void reset_norm(const std::string& name) {
    part_.tensors[name + ".weight"] = at::ones({part_.config.width});
    if (part_.find(name + ".bias") != nullptr)
      part_.tensors[name + ".bias"] = at::zeros({part_.config.width});
  }

  /// A norm that was reset: its weight and bias bring each channel of norm(x) nearest to the
  /// teacher's stream. (Normed twice is normed once.)
  void fit_norm(const std::string& name, const Batches& x) {
    set_norm(name, work_.sum_of(ChannelMoments(part_.config.width),
                                [&](ChannelMoments& sum, std::size_t i) {
                                  sum.add(rows_.tokens(i, model::norm(part_, name, x[i])),
                                          rows_.tokens(i, as_part(teacher_.stream(i))));
                                }));
  }

  /// Rotated, the norm is plain, and the basis does the rest; channels come nearest to the
  /// teacher's where they are read.
  void fit_last_norm() {
    reset_norm("norm");
    if (rotated_) return;
    const Transformer norm = teacher_.piece("norm.");
    set_norm("norm", work_.sum_of(ChannelMoments(part_.config.width), [&](ChannelMoments& sum,
                                                                          std::size_t i) {
      sum.add(rows_.read_tokens(i, model::norm(part_, "norm", own_[i])),
              as_part(rows_.read_tokens(i, model::norm(norm, "norm", teacher_.stream(i)))));
    }));
  }

  void set_norm(const std::string& name, const ChannelMoments& moments) {
    const bool with_bias = part_.find(name + ".bias") != nullptr;
    const auto map = moments.solve(with_bias);
    part_.tensors[name + ".weight"] = map.weight.to(at::kFloat);
    if (with_bias) part_.tensors[name + ".bias"] = map.bias.to(at::kFloat);
  }

  /// A classifier of a part's own: the teacher's, where the part's features lie among its own.
  void rotate_head() {
    const Transformer head = teacher_.piece("head");
    for (const auto& [name, tensor] : head.tensors) {
      if (part_.find(name) == nullptr) continue;
      part_.tensors[name] =
          tensor.dim() == 2
              ? at::matmul(tensor, basis_)
              : tensor + at::matmul(head[name.substr(0, name.rfind('.')) + ".weight"], origin_);
    }
  }

  const Teacher& teacher_;
  const KeepList& keep_;
  Transformer part_;
  const FitRows& rows_;
  const FitOptions& options_;
  Work& work_;
  bool exact_, rotated_;
  std::optional<Waiting> waiting_;
  Tensor channels_, to_part_;  // kept channels, or [D_p, D]
  Tensor basis_, origin_;
  Batches own_;  // its stream
};

/// Features of all parts side by side. -> [B·T, Σ D_p].
Tensor side_by_side(const std::vector<FittedPart>& parts, std::size_t batch) {
  std::vector<Tensor> features;
  for (const auto& part : parts) features.push_back(part.features[batch].flatten(0, 1));
  return at::cat(features, 1);
}

/// The columns of each part, in that order. -> int64.
std::vector<Tensor> columns_of(const std::vector<FittedPart>& parts) {
  std::vector<Tensor> columns;
  std::int64_t begin = 0;
  for (const auto& part : parts) {
    const std::int64_t width = part.features.front().size(2);
    columns.push_back(at::arange(begin, begin + width, at::kLong));
    begin += width;
  }
  return columns;
}

constexpr const char* head_words = "fit, fusion head";

void fit_subsets(model::FusionHead& fusion, const std::vector<FittedPart>& parts,
                 const Moments& moments, double lambda) {
  const auto columns = columns_of(parts);
  const Tensor x = moments.x(), y = moments.y();
  const Tensor gram = moments.xx() - at::outer(x, x), cross = moments.yx() - at::outer(y, x);
  for (std::size_t set = 1; set <= fusion.subsets.size(); ++set) {
    std::vector<bool> present(parts.size());
    Batches chosen;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      present[p] = (set >> p & 1) != 0;
      if (present[p]) chosen.push_back(columns[p]);
    }
    const Tensor inputs = at::cat(chosen);
    const Tensor weight = ridge_weight(gram.index_select(0, inputs).index_select(1, inputs),
                                       cross.index_select(1, inputs),
                                       static_cast<double>(moments.rows()), lambda, head_words);
    auto& subset = fusion.subset(present);
    subset.weight = weight.to(at::kFloat);
    subset.bias = (y - at::matmul(weight, x.index_select(0, inputs))).to(at::kFloat);
  }
}

/// One head for all sets: the regression on inputs δ_p f_p and δ_p, with δ_p = 1 where part p is
/// present, in expectation over δ. What is constant, fused, is shared out evenly to the parts,
/// there or not.
void fit_shared(model::FusionHead& fusion, const std::vector<FittedPart>& parts,
                const Moments& moments, double lambda) {
  constexpr double presence = 2.0 / 3;
  const auto columns = columns_of(parts);
  const auto count = static_cast<std::int64_t>(parts.size());
  const std::int64_t together = moments.x().size(0);
  // Inputs: the features of all parts, then each part's δ; `owner` is the part of each.
  Tensor owner = at::empty({together + count}, at::kLong);
  for (std::int64_t p = 0; p < count; ++p) {
    owner.index_put_({columns[static_cast<std::size_t>(p)]}, at::tensor(p, at::kLong));
    owner[together + p] = p;
  }
  const Tensor ones = at::ones({count}, at::kDouble);
  const Tensor mean = at::cat({moments.x(), ones}), y = moments.y();
  const Tensor xx = at::cat({at::cat({moments.xx(), at::outer(moments.x(), ones)}, 1),
                             at::cat({at::outer(ones, moments.x()), at::outer(ones, ones)}, 1)});
  const Tensor yx = at::cat({moments.yx(), at::outer(y, ones)}, 1);
  const Tensor together_present =
      at::where(owner.unsqueeze(0) == owner.unsqueeze(1), at::full({}, presence, at::kDouble),
                at::full({}, presence * presence, at::kDouble));
  const Tensor seen = mean * presence;
  const Tensor weight = ridge_weight(xx * together_present - at::outer(seen, seen),
                                     yx * presence - at::outer(y, seen),
                                     static_cast<double>(moments.rows()), lambda, head_words);
  const Tensor rest = ((y - at::matmul(weight, seen)) / static_cast<double>(count)).to(at::kFloat);
  for (std::int64_t p = 0; p < count; ++p) {
    auto& column = fusion.shared[static_cast<std::size_t>(p)];
    column.weight = weight.index_select(1, columns[static_cast<std::size_t>(p)]).to(at::kFloat);
    column.bias = weight.select(1, together + p).to(at::kFloat) + rest;
    column.absent = rest.clone();
    column.cover = at::zeros_like(rest);
  }
}

}  // namespace

void FitOptions::check() const {
  const auto expect = [](bool fits, const std::string& field, const std::string& needs) {
    if (!fits) throw std::invalid_argument("[fit] options." + field + ": needs " + needs);
  };
  expect(reader_ridge > 0, "reader_ridge", "a number above 0");
  expect(writer_ridge > 0, "writer_ridge", "a number above 0");
  expect(head_ridge > 0, "head_ridge", "a number above 0");
  expect(batch > 0, "batch", "at least 1");
  expect(what != What::heads || stream == Stream::channels, "stream",
         "channels where only heads are fitted");
}

FitRows::FitRows(const model::ModelConfig& teacher, const model::Dataset& data,
                 std::int64_t batch) {
  if (data.size() == 0) throw std::invalid_argument("[fit] data: saw no rows, needs at least 1");
  rows_ = data.size();
  if (teacher.task == model::Task::classification) first_ = teacher.summary_tokens;
  if (teacher.task == model::Task::embedding && teacher.pooling == model::Pooling::first)
    first_ = 1;
  Transformer shape;
  shape.config = teacher;
  for (std::int64_t begin = 0; begin < data.size(); begin += batch) {
    const auto rows = data.rows(begin, std::min(batch, data.size() - begin));
    inputs_.push_back(model::inputs_of(teacher, rows));
    const Tensor& inputs = inputs_.back();
    sights_.push_back(model::sight(shape, inputs));
    const Tensor& real = sights_.back().real;
    places_.push_back(real.defined() ? real.flatten().nonzero().flatten() : Tensor());
    tokens_ += places_.back().defined()
                   ? places_.back().size(0)
                   : inputs.size(0) * (teacher.is_text() ? inputs.size(1) : teacher.num_tokens());
  }
}

Tensor FitRows::tokens(std::size_t batch, const Tensor& x) const {
  const Tensor flat = x.flatten(0, 1);
  return places_[batch].defined() ? flat.index_select(0, places_[batch]) : flat;
}

Tensor FitRows::read_tokens(std::size_t batch, const Tensor& x) const {
  return first_ > 0 ? x.narrow(1, 0, first_).flatten(0, 1) : tokens(batch, x);
}

base::Remarks too_few_tokens(const std::vector<model::ModelConfig>& parts, const FitRows& rows) {
  std::int64_t inputs = 0;
  for (const auto& part : parts) {
    inputs = std::max(inputs, part.width);
    for (const auto& layer : part.layers)
      inputs = std::max({inputs, layer.heads * part.head_width, layer.mlp_width});
  }
  if (rows.num_tokens() >= 2 * inputs) return {};
  return {{"few_rows", 1,
           "[fit] data: saw " + std::to_string(rows.num_tokens()) +
               " tokens, where a regression has up to " + std::to_string(inputs) +
               " inputs and wants twice as many; fitted with larger ridges, give it more rows",
           true}};
}

Fit fit_parts(const fs::path& folder, const std::vector<KeepList>& keeps,
              std::vector<Transformer> parts, const FitRows& rows, const FitOptions& options,
              const base::ProgressCallback& progress) {
  options.check();
  const c10::NoGradGuard no_grad;
  Work work(rows.batches(), options.threads);
  Teacher teacher(folder, rows, work);
  std::vector<std::unique_ptr<PartFit>> fits;
  bool any_rotated = false;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    fits.push_back(
        std::make_unique<PartFit>(teacher, keeps[p], std::move(parts[p]), rows, options, work));
    any_rotated = any_rotated || fits.back()->is_rotated();
  }
  Steps steps("fit", teacher.num_layers() + 1, progress);
  steps.next();
  std::vector<Tensor> covariances;
  if (any_rotated) covariances = covariances_of(teacher, rows, work);
  const bool fits_parts = options.what != FitOptions::What::heads;
  if (fits_parts)
    for (auto& fit : fits) fit->begin(covariances);
  for (int layer = 0; layer < teacher.num_layers(); ++layer) {
    steps.next();
    const Transformer block = teacher.piece(block_prefix(layer));
    for (const Half half : {Half::attention, Half::mlp}) {
      if (fits_parts)
        for (auto& fit : fits) fit->before(block, layer, half);
      teacher.advance(block, layer, half);
      if (fits_parts)
        for (auto& fit : fits) fit->after(layer, half);
    }
  }
  Fit result;
  for (auto& fit : fits) result.parts.push_back(fits_parts ? fit->end() : fit->as_it_is());
  result.teacher_features = teacher.features();
  return result;
}

void fit_heads(model::FusionHead& fusion, const Fit& fit, double lambda) {
  if (fit.parts.size() == 1 && fit.parts.front().exact) return;
  const c10::NoGradGuard no_grad;
  std::int64_t together = 0;
  for (const auto& part : fusion.parts) together += part.width;
  Moments moments(together, fusion.teacher().width);
  for (std::size_t i = 0; i < fit.teacher_features.size(); ++i)
    moments.add(side_by_side(fit.parts, i), fit.teacher_features[i].flatten(0, 1));
  if (fusion.shared.empty())
    fit_subsets(fusion, fit.parts, moments, lambda);
  else
    fit_shared(fusion, fit.parts, moments, lambda);
}

}  // namespace cleave::decompose
