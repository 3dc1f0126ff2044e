#include "infer/engine.hpp"

#include <algorithm>
#include <cmath>
#include <dlfcn.h>
#include <map>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "infer/cast.hpp"
#include "infer/draws.hpp"
#include "model/checkpoint.hpp"
#include "model/fusion.hpp"
#include "model/memory.hpp"
#include "model/segments.hpp"
#include "model/transformer.hpp"
#include "optimizer/plan/weights.hpp"

namespace cleave::infer {
namespace {

using at::Tensor;

at::ScalarType scalar_type(base::Element element) {
  switch (element) {
    case base::Element::f32:
      return at::kFloat;
    case base::Element::f16:
      return at::kHalf;
    case base::Element::bf16:
      return at::kBFloat16;
    case base::Element::i64:
      return at::kLong;
    case base::Element::i32:
      return at::kInt;
    case base::Element::u8:
    case base::Element::scaled_i8:  // as bytes
      return at::kByte;
    case base::Element::i8:
      return at::kChar;
    case base::Element::f64:
      return at::kDouble;
    case base::Element::boolean:
      return at::kBool;
  }
  throw std::invalid_argument("[engine] element: saw an unknown one, needs f32 or u8");
}

std::vector<std::int64_t> dims_in_memory(const net::Value& value) {
  if (value.element == base::Element::scaled_i8) return {value.bytes()};
  return value.dims;
}

/// A tensor over the value's bytes, which it keeps alive; of rows with scales [bytes]. Nobody
/// writes to operands, so const may go.
Tensor tensor_over(const net::Value& value) {
  auto* bytes = const_cast<std::byte*>(value.data.data());
  const auto options = at::TensorOptions(scalar_type(value.element));
  auto owner = value.data.owner();
  return at::from_blob(
      bytes, dims_in_memory(value), [owner](void*) {}, options);
}

base::Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return base::Element::f32;
    case at::kHalf:
      return base::Element::f16;
    case at::kBFloat16:
      return base::Element::bf16;
    case at::kDouble:
      return base::Element::f64;
    case at::kInt:
      return base::Element::i32;
    case at::kLong:
      return base::Element::i64;
    case at::kByte:
      return base::Element::u8;
    default:
      throw std::logic_error("[engine] saw a value of another element type");
  }
}

/// A value over the tensor's memory, which it keeps alive; `info` says what bytes are rows with
/// scales, and of what dims.
net::Value value_over(const Tensor& tensor, const plan::ValueInfo& info) {
  auto owner = std::make_shared<const Tensor>(tensor.contiguous());
  const bool scaled = info.element == base::Element::scaled_i8;
  net::Value value;
  value.element = scaled ? info.element : element_of(*owner);
  value.dims = scaled ? info.dims : owner->sizes().vec();
  const auto* bytes = static_cast<const std::byte*>(owner->data_ptr());
  value.data = net::Buffer(owner, bytes, owner->nbytes());
  return value;
}

/// What this process holds: sub-models and fusion heads by plan, and what it has of the teacher.
struct Held {
  std::map<std::pair<std::string, std::int32_t>, model::Transformer> parts;  // by plan and part
  std::map<std::string, model::FusionHead> fusions;                          // by plan
  std::optional<model::Transformer> teacher;          // for whatever rank it has
  std::map<std::int32_t, model::Transformer> shares;  // by rank, where one process has several
  bool is_every_part = false;                         // the teacher
  std::vector<std::shared_ptr<const plan::Program>> warm_ups;
};

class TorchEngine : public Engine {
 public:
  TorchEngine(Held held, const EngineOptions& options) : held_(std::move(held)), options_(options) {
    if (options.element == base::Element::f32) return;
    for (auto& [part, model] : held_.parts) widen(model);
    for (auto& [rank, model] : held_.shares) widen(model);
    if (held_.teacher) widen(*held_.teacher);
  }

  void prepare() override {
    set_threads(options_.threads);
    if (options_.warm_up) guarded([this] { return warm_up(); });
  }

  void forget(std::uint64_t sequence) override {
    for (auto at = caches_.begin(); at != caches_.end();)
      at = at->first.first == sequence ? caches_.erase(at) : std::next(at);
    for (auto at = texts_.begin(); at != texts_.end();)
      at = at->first.first == sequence ? texts_.erase(at) : std::next(at);
  }

  std::unique_ptr<Slots> begin(std::shared_ptr<const plan::Program> program,
                               const Sequence& sequence) override {
    return std::make_unique<Tensors>(*this, std::move(program), sequence);
  }

 private:
  static void widen(model::Transformer& model) {
    for (auto& [name, tensor] : model.tensors) tensor = tensor.to(at::kDouble);
  }

  /// Tensors in their slots; those of absent values are undefined.
  class Tensors : public Slots {
   public:
    Tensors(TorchEngine& engine, std::shared_ptr<const plan::Program> program,
            const Sequence& sequence)
        : engine_(engine),
          program_(std::move(program)),
          slots_(program_->values.size()),
          sequence_(sequence) {}

    void set(plan::ValueId value, net::Value is) override {
      tensor(value) = is.present ? tensor_over(is) : Tensor();
    }
    void run(const plan::Instruction& instruction) override {
      engine_.guarded([&] {
        std::visit([this](const auto& i) { run_one(i); }, instruction);
        return 0;
      });
    }
    net::Value get(plan::ValueId value) override { return value_over(tensor(value), info(value)); }
    void clear(plan::ValueId value) override { slot(value) = {}; }

   private:
    struct Slot {
      Tensor tensor;
      std::shared_ptr<const model::Sight> sight;  // of lengths, or of marks
    };
    const plan::ValueInfo& info(plan::ValueId value) const {
      return program_->values.at(static_cast<std::size_t>(value));
    }
    const model::Transformer& weights(std::int32_t part) const {
      return engine_.weights(*program_, part);
    }
    Slot& slot(plan::ValueId value) { return slots_.at(static_cast<std::size_t>(value)); }
    Tensor& tensor(plan::ValueId value) { return slot(value).tensor; }
    /// Where texts stand; of images nowhere.
    model::Sight sight(plan::ValueId lengths) {
      return lengths < 0 ? model::Sight() : *slot(lengths).sight;
    }
    /// The same for every layer that has the marks.
    const model::Sight& sight_of_marks(const model::Transformer& model, plan::ValueId marks) {
      auto& sight = slot(marks).sight;
      if (!sight)
        sight = std::make_shared<const model::Sight>(model::sight_of_marks(model, tensor(marks)));
      return *sight;
    }
    Tensor sampling(plan::ValueId value) { return tensor(value).contiguous(); }
    /// Of a request that stands for itself, its own.
    KeptTexts& kept_texts() {
      return sequence_.id == 0 ? own_texts_
                               : engine_.texts_[std::pair(sequence_.id, program_->rank)];
    }
    /// Undefined where there is none.
    Tensor optional_tensor(plan::ValueId value) { return value < 0 ? Tensor() : tensor(value); }
    model::Range of_queries(const model::Transformer& model, model::Range heads) {
      return {heads.begin * model.config.group, heads.end * model.config.group};
    }

    void run_one(const plan::Lengths& i) {
      const model::Transformer& model = weights(i.part);
      const Tensor ids = tensor(i.ids);
      model::KvCache* cache = engine_.cache_of(model, {program_->rank, i.part}, ids, sequence_);
      const model::Input input(ids, cache);
      model::check_input(model, input);
      slot(i.result).sight = std::make_shared<const model::Sight>(model::sight(model, input));
      tensor(i.result) = (ids >= 0).sum(1).to(at::kInt);
      if (cache != nullptr) cache->add(model::lengths_of(ids));
    }
    void run_one(const plan::Embed& i) {
      const model::Transformer& model = weights(i.part);
      Tensor given = tensor(i.given);
      if (!model.config.is_text()) {
        model::check_input(model, given);
        given = normalise(model, given);
      }
      tensor(i.result) = model::embed_tokens(model, given, sight(i.lengths).past, i.vocabulary,
                                             i.positions, i.rows);
    }
    void run_one(const plan::Norm& i) {
      tensor(i.result) =
          model::norm(weights(i.part), model::norm_prefix(i.layer, i.which), tensor(i.x));
    }
    void run_one(const plan::Project& i) {
      const model::Transformer& model = weights(i.part);
      const bool queries = i.which == model::Projection::query;
      tensor(i.result) = model::project(
          model, i.layer, i.which, queries ? of_queries(model, i.heads) : i.heads, tensor(i.x));
    }
    void run_one(const plan::Attend& i) {
      model::Sight seen = sight(i.lengths);
      if (i.lengths >= 0 && i.texts.size() < static_cast<std::int64_t>(seen.past.size()))
        seen = model::of_texts(seen, i.texts);
      if (i.marks >= 0) {
        tensor(i.result) = model::attend_rows(
            weights(i.part), i.layer, seen, sight_of_marks(weights(i.part), i.marks),
            tensor(i.marks), tensor(i.query), tensor(i.key), tensor(i.value), i.rows, i.kept);
        return;
      }
      if (i.rows.size() > 0) {
        tensor(i.result) = model::attend_rows(weights(i.part), i.layer, seen, tensor(i.query),
                                              tensor(i.key), tensor(i.value), i.rows, i.kept);
        return;
      }
      tensor(i.result) = model::attend(weights(i.part), i.layer, seen, tensor(i.query),
                                       tensor(i.key), tensor(i.value));
    }
    void run_one(const plan::AttendInputs& i) {
      tensor(i.result) = model::attend_inputs(weights(i.part), i.layer, sight(i.lengths), i.heads,
                                              tensor(i.query), tensor(i.x), i.rows);
    }
    void run_one(const plan::ProjectOut& i) {
      const model::Transformer& model = weights(i.part);
      tensor(i.result) = model::project_out(model, i.layer, of_queries(model, i.heads),
                                            tensor(i.context), i.with_bias);
    }
    void run_one(const plan::MlpUp& i) {
      tensor(i.result) = model::mlp_up(weights(i.part), i.layer, i.columns, tensor(i.x));
    }
    void run_one(const plan::MlpDown& i) {
      tensor(i.result) =
          model::mlp_down(weights(i.part), i.layer, i.columns, tensor(i.activations), i.with_bias);
    }
    void run_one(const plan::AddBias& i) {
      tensor(i.result) =
          tensor(i.x) + weights(i.part)[model::output_prefix(i.layer, i.half) + ".bias"];
    }
    void run_one(const plan::Add& i) { tensor(i.result) = tensor(i.a) + tensor(i.b); }
    void run_one(const plan::Slice& i) {
      tensor(i.result) = tensor(i.x).narrow(i.axis, i.range.begin, i.range.size());
    }
    void run_one(const plan::Concat& i) {
      std::vector<Tensor> pieces;
      for (const plan::ValueId piece : i.pieces) pieces.push_back(tensor(piece));
      tensor(i.result) = at::cat(pieces, i.axis);
    }
    void run_one(const plan::Cast& i) {
      tensor(i.result) = cast(tensor(i.x), info(i.x), info(i.result));
    }
    void run_one(const plan::ReadOut& i) {
      const model::Transformer& model = weights(i.part);
      if (i.rows.size() > 0) {
        tensor(i.result) =
            model::read_out_rows(model, tensor(i.x), optional_tensor(i.lengths), i.rows);
        return;
      }
      const bool last = model.config.task == model::Task::causal_lm;
      tensor(i.result) = model::read_out(
          model, last ? model::last_token(tensor(i.x), tensor(i.lengths)) : tensor(i.x),
          sight(i.lengths));
    }
    void run_one(const plan::Head& i) {
      const model::Transformer& model = weights(i.part);
      tensor(i.result) = model.config.reads_every_token()
                             ? model::language_logits(model, tensor(i.feature), i.vocabulary)
                             : model::classify(model, tensor(i.feature));
    }
    void run_one(const plan::Marks& i) {
      const plan::ValueInfo& info = program_->values.at(static_cast<std::size_t>(i.result));
      tensor(i.result) = model::segment_marks(info.dims.at(0), optional_tensor(i.lengths), i.rows,
                                              i.segments, scalar_type(info.element));
    }
    void run_one(const plan::SegmentMeans& i) {
      tensor(i.result) =
          model::segment_means(tensor(i.x), optional_tensor(i.lengths), i.rows, i.segments);
    }
    void run_one(const plan::Cluster& i) {
      std::tie(tensor(i.centres), tensor(i.marks)) = model::cluster(
          tensor(i.x), optional_tensor(i.lengths), i.rows, i.segments, plan::Cluster::steps);
    }
    void run_one(const plan::KeepIds& i) {
      const Tensor ids = tensor(i.ids).contiguous();
      KeptTexts& kept = kept_texts();
      kept.add(sequence_.past, ids.data_ptr<std::int32_t>(), static_cast<std::size_t>(ids.size(0)),
               static_cast<std::size_t>(ids.size(1)));
      tensor(i.result) = at::empty({ids.size(0)}, at::kInt);
      for (std::int64_t text = 0; text < ids.size(0); ++text)
        tensor(i.result)[text] =
            static_cast<std::int64_t>(kept.texts()[static_cast<std::size_t>(text)].size());
    }
    void run_one(const plan::Best& i) {
      const Tensor all = tensor(i.logits).flatten(1).to(at::kDouble).contiguous();
      std::vector<std::vector<double>> logits;
      for (std::int64_t text = 0; text < all.size(0); ++text) {
        const double* row = all.data_ptr<double>() + text * all.size(1);
        logits.emplace_back(row, row + all.size(1));
      }
      tensor(i.result) = at::empty(info(i.result).dims, at::kDouble);
      run_best(i, std::move(logits), sampling(i.sampling).data_ptr<std::int64_t>(),
               i.kept < 0 ? nullptr : &kept_texts(), tensor(i.result).data_ptr<double>());
    }
    void run_one(const plan::SampleToken& i) {
      std::vector<Tensor> rows;
      std::vector<ShardRows> shards;
      for (const plan::ValueId best : i.best) {
        rows.push_back(tensor(best).contiguous());
        shards.push_back(
            {rows.back().data_ptr<double>(), plan::candidates_in(rows.back().size(1))});
      }
      const Tensor options = sampling(i.sampling);
      tensor(i.result) = at::empty(info(i.result).dims, at::kDouble);
      run_sample(shards, options.data_ptr<std::int64_t>(),
                 static_cast<std::size_t>(options.size(0)), tensor(i.result).data_ptr<double>());
    }
    void run_one(const plan::KeptLogits& i) {
      const auto& logits = kept_texts().logits;
      const auto& dims = info(i.result).dims;
      // A program of another shape divides the vocabulary otherwise.
      const auto fits = [&](const std::vector<double>& of_text) {
        return of_text.empty() || static_cast<std::int64_t>(of_text.size()) == dims.at(2);
      };
      if (static_cast<std::int64_t>(logits.size()) != dims.at(0) ||
          !std::all_of(logits.begin(), logits.end(), fits))
        throw std::runtime_error("[engine] sequence " + std::to_string(sequence_.id) +
                                 ": saw no such logits kept of its last token");
      const Tensor kept = at::full(dims, std::nan(""), at::kDouble);
      for (std::size_t text = 0; text < logits.size(); ++text)
        std::copy(logits[text].begin(), logits[text].end(),
                  kept.data_ptr<double>() + static_cast<std::int64_t>(text) * dims.at(2));
      tensor(i.result) = kept.to(scalar_type(info(i.result).element));
    }
    void run_one(const plan::Fuse& i) {
      std::vector<Tensor> features;
      for (const plan::ValueId feature : i.features) features.push_back(tensor(feature));
      tensor(i.result) = engine_.run_fusion(program_->plan, features);
    }
    template <class Operation>
    void run_one(const Operation& i) {
      throw std::logic_error("[engine] instruction: saw " + std::string(i.name) +
                             ", needs one that computes");
    }

    TorchEngine& engine_;
    std::shared_ptr<const plan::Program> program_;
    std::vector<Slot> slots_;
    Sequence sequence_;
    KeptTexts own_texts_;
  };

  /// Runs without gradients, and with libtorch's errors as ours: one line, no backtrace.
  template <typename Work>
  auto guarded(const Work& work) -> decltype(work()) {
    const c10::InferenceMode no_gradients;
    try {
      return work();
    } catch (const c10::Error& error) {
      throw std::runtime_error(std::string("[engine] ") + error.what_without_backtrace());
    }
  }

  /// Those of a part of the program's plan, or of the teacher as its rank holds it.
  const model::Transformer& weights(const plan::Program& program, std::int32_t part) const {
    const bool teacher = part == plan::teacher_part;
    if (held_.teacher && (teacher || held_.is_every_part)) return *held_.teacher;
    if (teacher) {
      if (const auto share = held_.shares.find(program.rank); share != held_.shares.end())
        return share->second;
    } else if (const auto held = held_.parts.find({program.plan, part});
               held != held_.parts.end()) {
      return held->second;
    }
    throw std::runtime_error("[engine] " +
                             (teacher ? "the share of rank " + std::to_string(program.rank)
                                      : "part " + std::to_string(part)) +
                             " of plan '" + program.plan + "': not held by this process");
  }

  /// In what the model computes in.
  static Tensor normalise(const model::Transformer& model, const Tensor& pixels) {
    return model::normalise_pixels(model.config, pixels)
        .to(model["embedding.patch.bias"].scalar_type());
  }

  /// Who computes: the rank, and the part whose weights it takes.
  using Computing = std::pair<std::int32_t, std::int32_t>;

  /// What is kept of a sequence; null where the request stands for itself.
  model::KvCache* cache_of(const model::Transformer& model, Computing computing, const Tensor& ids,
                           const Sequence& sequence) {
    if (sequence.id == 0) return nullptr;
    const std::pair key(sequence.id, computing);
    if (sequence.past == 0)
      caches_[key] = {model::make_cache(model.config, ids.size(0), sequence.capacity), {}};
    const auto found = caches_.find(key);
    if (found == caches_.end() || !found->second.rewind_to(sequence.past) ||
        static_cast<std::int64_t>(found->second.cache.lengths.size()) != ids.size(0))
      throw std::runtime_error("[engine] sequence " + std::to_string(sequence.id) +
                               ": saw other tokens so far, needs " + std::to_string(sequence.past) +
                               " of " + std::to_string(ids.size(0)) + " texts");
    return &found->second.cache;
  }

  Tensor run_fusion(const std::string& plan, const std::vector<Tensor>& features) const {
    const auto head = held_.fusions.find(plan);
    if (head == held_.fusions.end())
      throw std::runtime_error("[engine] fusion head of plan '" + plan +
                               "': not held by this process");
    return model::answer(head->second, model::fuse(head->second, features));
  }

  void warm_up() {
    for (const auto& program : held_.warm_ups) warm_up(program);
  }

  /// Runs what a program computes; what would come from others is zero.
  void warm_up(const std::shared_ptr<const plan::Program>& program) {
    const auto slots = begin(program, {});
    std::vector<int> uses(program->values.size(), 0);
    const auto count = [&](plan::ValueId value, int more) {
      const auto i = static_cast<std::size_t>(value);
      if ((uses.at(i) += more) == 0) slots->clear(value);
    };
    for (const plan::Instruction& instruction : program->instructions)
      plan::for_operands(instruction, [&](plan::ValueId value) { count(value, 1); });
    const auto give = [&](plan::ValueId value) {
      const plan::ValueInfo& info = program->values.at(static_cast<std::size_t>(value));
      net::Value zeros;
      zeros.element = info.element;
      zeros.dims = info.dims;
      const auto bytes = std::make_shared<const Tensor>(at::zeros({zeros.bytes()}, at::kByte));
      zeros.data =
          net::Buffer(bytes, static_cast<const std::byte*>(bytes->data_ptr()), bytes->nbytes());
      slots->set(value, std::move(zeros));
    };
    for (const plan::Instruction& instruction : program->instructions) {
      if (const auto* input = std::get_if<plan::Input>(&instruction)) give(input->result);
      if (const auto* receive = std::get_if<plan::Receive>(&instruction)) give(receive->result);
      if (plan::computes(instruction)) slots->run(instruction);
      plan::for_operands(instruction, [&](plan::ValueId value) { count(value, -1); });
    }
  }

  /// What is kept of a text, and what it was before each of its steps: one that is asked again
  /// begins where it began.
  struct Kept {
    model::KvCache cache;
    std::map<std::int64_t, std::vector<std::int64_t>> lengths_at;  // by the longest of them
    /// False where the text was never that long at the beginning of a step.
    bool rewind_to(std::int64_t past) {
      if (past == cache.longest()) {
        lengths_at[past] = cache.lengths;
        return true;
      }
      const auto before = lengths_at.find(past);
      if (before == lengths_at.end()) return false;
      cache.lengths = before->second;
      lengths_at.erase(std::next(before), lengths_at.end());
      return true;
    }
  };

  std::map<std::pair<std::uint64_t, Computing>, Kept> caches_;         // by sequence
  std::map<std::pair<std::uint64_t, std::int32_t>, KeptTexts> texts_;  // and rank
  Held held_;
  EngineOptions options_;
};

/// Verifies a folder of the bundle and hands it to `load`; libtorch's errors become one line with
/// the folder.
template <typename Load>
auto load_verified(const plan::Bundle& bundle, const std::filesystem::path& folder,
                   const Load& load) {
  const std::string inside = folder.lexically_relative(bundle.folder()).generic_string();
  bundle.verify(inside);
  try {
    return load(folder);
  } catch (const c10::Error& error) {
    throw std::runtime_error("[" + inside + "] cannot load: " + error.what_without_backtrace());
  }
}

/// What a device keeps of the teacher: all that the plan's programs read has to be there.
model::Transformer load_share(const plan::Bundle& bundle, const plan::Plan& plan,
                              const std::string& device) {
  plan::expect_held(bundle, plan, device);
  return load_verified(bundle, bundle.part_path(plan, device),
                       [](const auto& path) { return model::load_holding(path); });
}

model::Transformer load_part(const plan::Bundle& bundle, const plan::Plan& plan, std::size_t p) {
  const plan::PlanPart& part = plan.parts[p];
  auto loaded = load_verified(bundle, bundle.part_path(plan, part.device),
                              [](const auto& folder) { return model::load(folder); });
  if (loaded.config.width != part.sub_model().config.width ||
      loaded.config.layers != part.sub_model().config.layers)
    throw std::runtime_error("[" + bundle.part_path(plan, part.device).string() +
                             "] config.json: its widths are not those of plan '" + plan.name +
                             "'; cut the bundle again");
  return loaded;
}

/// The fusion head, where the plan's strategy has one.
std::optional<model::FusionHead> load_head(const plan::Bundle& bundle, const plan::Plan& plan) {
  const auto programs = plan::compile(plan, plan.shape);
  if (!plan::find_first<plan::Fuse>(programs.back())) return std::nullopt;
  auto head = load_verified(bundle, bundle.fusion_path(plan),
                            [](const auto& folder) { return model::load_fusion(folder); });
  if (head.parts.size() != plan.parts.size())
    throw std::runtime_error("[" + bundle.fusion_path(plan).string() + "] parts: saw " +
                             std::to_string(head.parts.size()) + ", needs " +
                             std::to_string(plan.parts.size()) + " as in plan '" + plan.name + "'");
  return head;
}

/// The program of a rank for the planned request, or the prompt of a text that is generated.
std::shared_ptr<const plan::Program> warm_up_of(const plan::Plan& plan, std::size_t rank) {
  plan::RequestShape shape = plan.shape;
  if (plan.teacher.is_text()) shape.tokens = std::max<std::int64_t>(1, shape.tokens);
  shape.generate = 0;
  return std::make_shared<const plan::Program>(plan::compile(plan, shape).at(rank));
}

void hold_part(Held& held, const plan::Bundle& bundle, const plan::Plan& plan, std::size_t rank) {
  held.parts.emplace(std::pair(plan.name, static_cast<std::int32_t>(rank)),
                     load_part(bundle, plan, rank));
}

void hold_fusion(Held& held, const plan::Bundle& bundle, const plan::Plan& plan) {
  auto head = load_head(bundle, plan);
  if (!head) return;
  held.fusions.emplace(plan.name, std::move(*head));
  held.warm_ups.push_back(warm_up_of(plan, plan.parts.size()));
}

}  // namespace

std::unique_ptr<Engine> device_engine(const plan::Bundle& bundle,
                                      const std::vector<plan::Plan>& plans,
                                      const std::string& device, const EngineOptions& options) {
  model::keep_memory_compact();
  Held held;
  for (const plan::Plan& plan : plans) {
    bundle.part_path(plan, device);  // throws where the plan has no such device
    const std::size_t rank = *plan::rank_of(plan, device);
    if (!plan.parts[rank].share())
      hold_part(held, bundle, plan, rank);
    else if (!held.teacher)
      held.teacher = load_share(bundle, plan, device);
    else
      plan::expect_held(bundle, plan, device);
    held.warm_ups.push_back(warm_up_of(plan, rank));
  }
  return std::make_unique<TorchEngine>(std::move(held), options);
}

std::unique_ptr<Engine> fusion_engine(const plan::Bundle& bundle,
                                      const std::vector<plan::Plan>& plans,
                                      const EngineOptions& options) {
  model::keep_memory_compact();
  Held held;
  for (const plan::Plan& plan : plans) hold_fusion(held, bundle, plan);
  return std::make_unique<TorchEngine>(std::move(held), options);
}

std::unique_ptr<Engine> local_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                     const EngineOptions& options) {
  model::keep_memory_compact();
  Held held;
  for (std::size_t rank = 0; rank < plan.parts.size(); ++rank) {
    if (plan.parts[rank].share())
      held.shares.emplace(static_cast<std::int32_t>(rank),
                          load_share(bundle, plan, plan.parts[rank].device));
    else
      hold_part(held, bundle, plan, rank);
    held.warm_ups.push_back(warm_up_of(plan, rank));
  }
  hold_fusion(held, bundle, plan);
  return std::make_unique<TorchEngine>(std::move(held), options);
}

std::unique_ptr<Engine> model_engine(const std::filesystem::path& model,
                                     const EngineOptions& options) {
  model::keep_memory_compact();
  return model_engine(model::load(model), options);
}

std::unique_ptr<Engine> model_engine(model::Transformer model, const EngineOptions& options) {
  Held held;
  if (model.begins.empty())
    held.warm_ups.push_back(warm_up_of(plan::whole_plan(model.config, "here"), 0));
  held.teacher = std::move(model);
  held.is_every_part = true;
  return std::make_unique<TorchEngine>(std::move(held), options);
}

void set_threads(int threads) {
  // OpenBLAS built on pthreads has a pool of its own, which knows nothing of ATen's.
  using Setter = void(int);
  if (auto* set = reinterpret_cast<Setter*>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads")))
    set(threads);
  at::set_num_threads(threads);
}

}  // namespace cleave::infer
