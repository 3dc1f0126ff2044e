#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "decompose/fit/fit.hpp"
#include "decompose/fit/teacher_stream.hpp"

namespace cleave::decompose {

class ChannelMoments;

/// Fits one part beside the teacher's pass: before and after each half of each layer.
class PartFit {
 public:
  PartFit(const TeacherStream& teacher, const KeepList& keep, model::Transformer part,
          const FitRows& rows, const FitOptions& options, Work& work);

  bool is_rotated() const { return rotated_; }

  /// Nothing is fitted: the part as it was cut.
  FittedPart as_it_is();

  /// `covariances` of the teacher's stream, where it is rotated.
  void begin(const std::vector<at::Tensor>& covariances);

  /// While the teacher's stream stands before a half: what reads.
  void before(const model::Transformer& block, int layer, Half half);

  /// While it stands behind it: what writes.
  void after(int layer, Half half);

  FittedPart end();

 private:
  /// A half whose writer waits for the teacher's stream to come where it aims at.
  struct Waiting {
    int place = 0;  // in the part
    Half half = Half::attention;
    int until = 0;       // teacher layers computed
    bool whole = false;  // every unit is there, and the stream behind it is aimed at: it stays
  };

  /// The part's place of a teacher's layer, or −1.
  int place_of(int layer) const;

  /// The teacher's layer before which the part's next one reads; all of them behind the last.
  int next_layer(int place) const;

  bool is_whole(int layer, int place, Half half) const;

  // ---- the stream ----

  /// The way from the teacher's stream to the part's, and from its features back.
  void choose_basis(const std::vector<at::Tensor>& covariances);

  /// Tokens, positions and patches write to the stream.
  void rotate_embedding();

  /// The teacher's stream as the part would have it. [.., D] -> [.., D_p].
  at::Tensor as_part(const at::Tensor& x) const;

  // ---- readers and writers ----

  /// What a half's readers multiply: the stream, normed where norms come before.
  at::Tensor read(const model::Transformer& model, const std::string& norm,
                  const at::Tensor& x) const;

  void fit_readers(const model::Transformer& block, int layer, int place, Half half);

  void fit_writer();

  /// Rows for a fit in a half: behind the last attention nothing counts but what the answer is read
  /// from, where that is enough.
  at::Tensor rows_for(int place, bool behind_attention, std::int64_t inputs, std::size_t batch,
                      const at::Tensor& x) const;

  // ---- norms ----

  void reset_norm(const std::string& name);

  /// A norm that was reset: its weight and bias bring each channel of norm(x) nearest to the
  /// teacher's stream. (Normed twice is normed once.)
  void fit_norm(const std::string& name, const std::vector<at::Tensor>& x);

  /// Rotated, the norm is plain, and the basis does the rest; channels come nearest to the
  /// teacher's where they are read.
  void fit_last_norm();

  void set_norm(const std::string& name, const ChannelMoments& moments);

  /// A classifier of a part's own: the teacher's, where the part's features lie among its own.
  void rotate_head();

  const TeacherStream& teacher_;
  const KeepList& keep_;
  model::Transformer part_;
  const FitRows& rows_;
  const FitOptions& options_;
  Work& work_;
  bool exact_, rotated_;
  std::optional<Waiting> waiting_;
  at::Tensor channels_, to_part_;  // kept channels, or [D_p, D]
  at::Tensor basis_, origin_;
  std::vector<at::Tensor> own_;  // its stream
};

}  // namespace cleave::decompose
