#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "model/config/block.hpp"

namespace cleave::plan {

/// Index into Program::values; −1: none.
using ValueId = std::int32_t;

// The operations that programs are made of: one struct each. `fields` lists once what an operation
// reads, writes (its results first) and says; its text, the digest of programs and who uses which
// value follow from it.
// What it costs stands in cost.cpp.

/// What the request gives: pixels, uint8 [B, c, h, w], or token ids, int32 [B, N]; or how the next
/// token of each text is chosen, int64 [B, sampling_columns].
struct Input {
  static constexpr std::string_view name = "input";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId result = -1;
  bool is_sampling = false;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    if (i.is_sampling) fields.flag("sampling", i.is_sampling);
  }
};

// ---- pieces of a forward pass (model/config/block.hpp) ----
//
// `part` says whose weights: a sub-model's of the plan, or the teacher's. Heads count heads of keys
// and values, each with the `group` of query heads that share it. What a piece adds to the stream
// is a partial sum where it reads some of the heads or columns: its bias is then added behind the
// reduction, once, by add_bias.

/// `part` of the teacher's own weights.
constexpr std::int32_t teacher_part = -1;

/// How many tokens each text has: ids [B, N] -> int32 [B]. What is kept of their sequence counts
/// them from here on.
struct Lengths {
  static constexpr std::string_view name = "lengths";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, ids = -1;
  std::int32_t part = teacher_part;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.ids);
    fields.part(i.part);
  }
};

/// Pixels or ids -> tokens with positions [B, N, D], before the norm that some families have there.
/// Of ids, `lengths` says where their texts stand. Of some tokens of each sequence, `rows`: [B, n,
/// D]. Of some rows of the vocabulary: a partial sum, with what does not hang on the token where
/// `positions` is set.
struct Embed {
  static constexpr std::string_view name = "embed";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, given = -1, lengths = -1;
  std::int32_t part = teacher_part;
  model::Range vocabulary;
  model::Range rows;  // none: all
  bool positions = true;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.given);
    fields.optional_operand(i.lengths);
    fields.part(i.part);
    fields.range("vocabulary", i.vocabulary);
    fields.range("rows", i.rows);
    fields.flag("with positions", i.positions);
  }
};

/// x [B, n, D] -> the same, normalised.
struct Norm {
  static constexpr std::string_view name = "norm";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::NormOf which = model::NormOf::feature;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.name(i.which);
  }
};

/// Queries, keys or values of some heads: x [B, n, D] -> [B, n, h·K].
struct Project {
  static constexpr std::string_view name = "project";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::Projection which = model::Projection::query;
  model::Range heads;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.name(i.which);
    fields.range("heads", i.heads);
  }
};

/// softmax(q·kᵀ/√K)·v of some heads -> context [B, n, h·K]. Of texts, `lengths` says what each
/// token sees; of a causal model's sequence the keys and values go behind those that are kept of
/// it. Of `texts` of the batch alone, where it is cut. The queries may be those of some `rows` of
/// what the keys are of; then a sequence begins here, and of its keys and values those of the heads
/// `kept` are kept, for the steps that follow. Where keys are not the tokens one by one, `marks`
/// says what each key row stands for: it decides what is seen, how much it weighs and where it is.
struct Attend {
  static constexpr std::string_view name = "attend";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, query = -1, key = -1, value = -1, lengths = -1, marks = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::Range heads, texts;
  model::Range rows;  // none: all, and all heads are kept
  model::Range kept;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.query);
    fields.operand(i.key);
    fields.operand(i.value);
    fields.optional_operand(i.lengths);
    fields.optional_operand(i.marks);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.range("heads", i.heads);
    fields.range("texts", i.texts);
    fields.range("rows", i.rows);
    fields.range("kept", i.kept);
  }
};

/// Attention without keys and values (Hu and Li 2024): what they would be computed from, x [B, N,
/// D], and queries [B, n, h·K] of its `rows` -> context [B, n, h·K]. Scores are (q·Wk)·xᵀ/√K, as a
/// bias of keys adds as much to all scores of a row; the context is (softmax·x)·Wvᵀ with the bias
/// of values. Nothing is kept, and no key is turned by its position.
struct AttendInputs {
  static constexpr std::string_view name = "attend_inputs";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, query = -1, x = -1, lengths = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::Range heads, rows;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.query);
    fields.operand(i.x);
    fields.optional_operand(i.lengths);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.range("heads", i.heads);
    fields.range("rows", i.rows);
  }
};

/// Context of some heads [B, n, h·K] -> what attention adds [B, n, D].
struct ProjectOut {
  static constexpr std::string_view name = "project_out";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, context = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::Range heads;
  bool with_bias = false;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.context);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.range("heads", i.heads);
    fields.flag("with bias", i.with_bias);
  }
};

/// Activations of some columns of the MLP, behind the non-linearity and the gate: x [B, n, D] ->
/// [B, n, c].
struct MlpUp {
  static constexpr std::string_view name = "mlp_up";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::Range columns;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.range("columns", i.columns);
  }
};

/// Activations of some columns [B, n, c] -> what the MLP adds [B, n, D]. Not before the value
/// `after` is there, where there is one: what other devices wait for comes first.
struct MlpDown {
  static constexpr std::string_view name = "mlp_down";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, activations = -1, after = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::Range columns;
  bool with_bias = false;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.activations);
    fields.optional_operand(i.after);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.range("columns", i.columns);
    fields.flag("with bias", i.with_bias);
  }
};

/// The bias of what a half adds, to a sum that is whole: x [B, n, D] -> the same shape.
struct AddBias {
  static constexpr std::string_view name = "add_bias";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1;
  std::int32_t part = teacher_part, layer = -1;
  model::Half half = model::Half::attention;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
    fields.part(i.part);
    fields.layer(i.layer);
    fields.name(i.half);
  }
};

/// a + b.
struct Add {
  static constexpr std::string_view name = "add";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, a = -1, b = -1;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.a);
    fields.operand(i.b);
  }
};

/// What of a value lies in a range of one axis.
struct Slice {
  static constexpr std::string_view name = "slice";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1;
  std::int32_t axis = 0;
  model::Range range;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
    fields.number("axis ", i.axis);
    fields.range("", i.range);
  }
};

/// Values behind each other along one axis.
struct Concat {
  static constexpr std::string_view name = "concat";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1;
  std::vector<ValueId> pieces;
  std::int32_t axis = 0;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    for (auto& piece : i.pieces) fields.operand(piece);
    fields.number("axis ", i.axis);
  }
};

/// The same numbers as the result's element has them: from what is computed to a format that
/// travels (f16, bf16, or int8 with a scale for each row), or back. Numbers become the nearest one
/// that the format has, of int8 a multiple of max|row| / 127; a row of zeros has scale 0. Fails
/// where a number is not finite or too large for the format, and on the way back where a scale is
/// not finite or below 0.
struct Cast {
  static constexpr std::string_view name = "cast";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
  }
};

/// What the task reads of the last states, behind the last norm: x [B, N, D] -> feature [B, T, D]
/// (model/transformer.hpp); of a causal model each text's last token alone, [B, 1, D]. Of some
/// `rows` of each sequence, x [B, rows, D]: what they bring to the feature, a partial sum.
struct ReadOut {
  static constexpr std::string_view name = "read_out";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1, lengths = -1;
  std::int32_t part = teacher_part;
  model::Range rows;  // none: all
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
    fields.optional_operand(i.lengths);
    fields.part(i.part);
    fields.range("rows", i.rows);
  }
};

/// The head on the feature [B, T, D] -> what the model answers; of a language model for some rows
/// of its vocabulary [B, T, v].
struct Head {
  static constexpr std::string_view name = "head";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, feature = -1;
  std::int32_t part = teacher_part;
  model::Range vocabulary;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.feature);
    fields.part(i.part);
    fields.range("vocabulary", i.vocabulary);
  }
};

// ---- rows that stand for several (PRISM) ----
//
// Some `rows` of each sequence in `segments` consecutive segments that are equal up to one row, the
// larger ones first. `lengths` says which rows are padding: it is in no mean and counts nothing. Of
// images there is none.

/// What each segment stands for -> [B, S, 2]: how many rows, and their mean position (of a segment
/// that is all padding 0, and that of its rows).
struct Marks {
  static constexpr std::string_view name = "marks";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, lengths = -1;
  model::Range rows;
  std::int64_t segments = 0;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.optional_operand(i.lengths);
    fields.range("rows", i.rows);
    fields.number("segments ", i.segments);
  }
};

/// The mean of each segment: x [B, rows, D] -> [B, S, D].
struct SegmentMeans {
  static constexpr std::string_view name = "segment_means";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, x = -1, lengths = -1;
  model::Range rows;
  std::int64_t segments = 0;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.x);
    fields.optional_operand(i.lengths);
    fields.range("rows", i.rows);
    fields.number("segments ", i.segments);
  }
};

/// The same rows grouped by content, k-means from rows far from each other on: x [B, rows, D] ->
/// centres [B, S, D] and their marks [B, S, 2].
struct Cluster {
  static constexpr std::string_view name = "cluster";
  static constexpr int steps = 4;  // of Lloyd's
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId centres = -1, marks = -1, x = -1, lengths = -1;
  model::Range rows;
  std::int64_t segments = 0;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.centres);
    fields.result(i.marks);
    fields.operand(i.x);
    fields.optional_operand(i.lengths);
    fields.range("rows", i.rows);
    fields.number("segments ", i.segments);
  }
};

// ---- the next token of texts that are generated ----
//
// Each rank with logits of some tokens says in O(k) numbers what decides the choice among them, and
// one rank chooses. `sampling` is the request's: options, seed and step of each text. Numbers are
// laid out as infer/draws.hpp says.

/// Columns of what the request says of each text, and of what is chosen: token, margin, certain.
constexpr std::int64_t sampling_columns = 8, choice_columns = 3;
/// Of what best(k) says of a text: two numbers, and token and logit of k + 2 tokens.
constexpr std::int64_t best_columns(std::int64_t k) { return 2 * (k + 2) + 2; }

constexpr std::int64_t candidates_in(std::int64_t columns) { return (columns - 2) / 2 - 2; }

/// New ids [B, N] of texts that are generated are kept with their sequence, for penalties on what a
/// text has already -> how many tokens each text has, int32 [B].
struct KeepIds {
  static constexpr std::string_view name = "keep_ids";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, ids = -1;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.ids);
  }
};

/// Logits [B, 1, v] of some rows of the vocabulary -> what of them decides the next token, f64 [B,
/// best_columns(k)]: the k best behind the repetition penalty, the sum of their softmax's terms at
/// the temperature, and the two with the largest sum of logit and Gumbel noise. `kept`: of
/// keep_ids; where choosing may need more than k, the penalised logits are kept with the sequence.
/// Without it the logits are penalised.
struct Best {
  static constexpr std::string_view name = "best";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, logits = -1, sampling = -1, kept = -1;
  model::Range vocabulary;
  std::int64_t k = 0;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.logits);
    fields.operand(i.sampling);
    fields.optional_operand(i.kept);
    fields.range("vocabulary", i.vocabulary);
    fields.number("k ", i.k);
  }
};

/// What ranks say of the whole vocabulary together -> the next token of each text, how clear the
/// choice is, and whether it is certain (1) or needs all logits (0): f64 [B, choice_columns].
struct SampleToken {
  static constexpr std::string_view name = "sample";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, sampling = -1;
  std::vector<ValueId> best;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    for (auto& best : i.best) fields.operand(best);
    fields.operand(i.sampling);
  }
};

/// The logits that best(k) kept of the sequence's last step [B, 1, v]; NaN of a text that has none.
struct KeptLogits {
  static constexpr std::string_view name = "kept_logits";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1;
  model::Range vocabulary;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.range("vocabulary", i.vocabulary);
  }
};

// ---- between ranks, and at the end ----

/// Hands a value to a rank. The tag is unique in the request between two ranks.
struct Send {
  static constexpr std::string_view name = "send";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId value = -1;
  std::int32_t peer = -1;
  std::uint32_t tag = 0;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.operand(i.value);
    fields.to(i.peer);
    fields.number("tag ", i.tag);
  }
};

/// What a rank sends under a tag.
struct Receive {
  static constexpr std::string_view name = "receive";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId result = -1;
  std::int32_t peer = -1;
  std::uint32_t tag = 0;
  bool may_be_absent = false;  // "absent" at its deadline; else the request fails
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.number("<- ", i.peer);
    fields.number("tag ", i.tag);
    fields.flag("may be absent", i.may_be_absent);
  }
};

/// The fusion head on the features of all parts, of which some may be absent.
struct Fuse {
  static constexpr std::string_view name = "fuse";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = true;
  ValueId result = -1;
  std::vector<ValueId> features;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    for (auto& feature : i.features) fields.operand(feature);
  }
};

/// The program's answer.
struct Output {
  static constexpr std::string_view name = "output";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId value = -1;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.operand(i.value);
  }
};

using Instruction =
    std::variant<Input, Lengths, Embed, Norm, Project, Attend, ProjectOut, MlpUp, MlpDown, AddBias,
                 Add, Slice, Concat, ReadOut, Head, Send, Receive, Fuse, Output, Cast, Marks,
                 SegmentMeans, Cluster, KeepIds, Best, SampleToken, KeptLogits, AttendInputs>;

/// Fields that are looked through for those of one kind.
struct AnyField {
  void result(ValueId) {}
  void operand(ValueId) {}
  void optional_operand(ValueId) {}
  void to(std::int32_t) {}
  void part(std::int32_t) {}
  void layer(std::int32_t) {}
  void range(std::string_view, const model::Range&) {}
  template <class Name>
  void name(Name) {}
  template <class Number>
  void number(std::string_view, Number) {}
  void flag(std::string_view, bool) {}
};

/// Calls `visit(value)` for each value that the instruction reads, in order.
template <class Visit>
void for_operands(const Instruction& instruction, const Visit& visit) {
  struct Operands : AnyField {
    explicit Operands(const Visit& visit_) : visit(visit_) {}
    void operand(ValueId value) { visit(value); }
    void optional_operand(ValueId value) {
      if (value >= 0) visit(value);
    }
    const Visit& visit;
  } fields(visit);
  std::visit([&fields](const auto& i) { i.fields(i, fields); }, instruction);
}

/// Calls `visit(value)` for each value that it writes, in order.
template <class Visit>
void for_results(const Instruction& instruction, const Visit& visit) {
  struct Results : AnyField {
    explicit Results(const Visit& visit_) : visit(visit_) {}
    void result(ValueId value) { visit(value); }
    const Visit& visit;
  } fields(visit);
  std::visit([&fields](const auto& i) { i.fields(i, fields); }, instruction);
}

inline std::string_view name_of(const Instruction& instruction) {
  return std::visit([](const auto& i) { return i.name; }, instruction);
}

/// Whether an engine runs it; the others are the executor's.
inline bool computes(const Instruction& instruction) {
  return std::visit([](const auto& i) { return i.computes; }, instruction);
}

/// Whether it does without operands that are absent; for the others a value must be there.
inline bool accepts_absent(const Instruction& instruction) {
  return std::visit([](const auto& i) { return i.accepts_absent; }, instruction);
}

}  // namespace cleave::plan
