#include "infer/engine.hpp"

#include <algorithm>
#include <dlfcn.h>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "model/checkpoint.hpp"
#include "model/fusion.hpp"
#include "model/memory.hpp"
#include "model/transformer.hpp"

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

/// A tensor over the value's bytes, which it keeps alive. Nobody writes to operands, so const may
/// go.
Tensor tensor_over(const net::Value& value) {
  auto* bytes = const_cast<std::byte*>(value.data.data());
  const auto options = at::TensorOptions(scalar_type(value.element));
  auto owner = value.data.owner();
  return at::from_blob(
      bytes, value.dims, [owner](void*) {}, options);
}

/// A value over the tensor's memory, which it keeps alive.
net::Value value_over(const Tensor& tensor) {
  auto owner = std::make_shared<const Tensor>(tensor.contiguous());
  net::Value value;
  value.dims = owner->sizes().vec();
  const auto* bytes = static_cast<const std::byte*>(owner->data_ptr());
  value.data = net::Buffer(owner, bytes, owner->nbytes());
  return value;
}

/// The models that this process holds, by part of the plan, and the fusion head where it
/// aggregates.
struct Held {
  std::vector<std::optional<model::Transformer>> parts;
  std::optional<model::FusionHead> fusion;
  plan::RequestShape shape;  // of the warm-up
};

class TorchEngine : public Engine {
 public:
  TorchEngine(Held held, const EngineOptions& options)
      : held_(std::move(held)), options_(options) {}

  void prepare() override {
    set_threads(options_.threads);
    if (options_.warm_up) guarded([this] { return warm_up(); });
  }

  void forget(std::uint64_t sequence) override {
    for (auto at = caches_.begin(); at != caches_.end();)
      at = at->first.first == sequence ? caches_.erase(at) : std::next(at);
  }

  std::unique_ptr<Slots> begin(std::shared_ptr<const plan::Program> program,
                               const Sequence& sequence) override {
    return std::make_unique<Tensors>(*this, program->values.size(), sequence);
  }

 private:
  /// Tensors in their slots; those of absent values are undefined.
  class Tensors : public Slots {
   public:
    Tensors(TorchEngine& engine, std::size_t values, const Sequence& sequence)
        : engine_(engine), slots_(values), sequence_(sequence) {}

    void set(plan::ValueId value, net::Value is) override {
      slot(value) = is.present ? tensor_over(is) : Tensor();
    }
    void run(const plan::Instruction& instruction) override {
      engine_.guarded([&] {
        std::visit([this](const auto& i) { run_one(i); }, instruction);
        return 0;
      });
    }
    net::Value get(plan::ValueId value) override { return value_over(slot(value)); }
    void clear(plan::ValueId value) override { slot(value) = Tensor(); }

   private:
    Tensor& slot(plan::ValueId value) { return slots_.at(static_cast<std::size_t>(value)); }

    void run_one(const plan::SubModel& i) {
      slot(i.result) = engine_.run_part(i, slot(i.given), sequence_);
    }
    void run_one(const plan::Fuse& i) {
      std::vector<Tensor> features;
      for (const plan::ValueId feature : i.features) features.push_back(slot(feature));
      slot(i.result) = engine_.run_fusion(features);
    }
    template <class Operation>
    void run_one(const Operation& i) {
      throw std::logic_error("[engine] instruction: saw " + std::string(i.name) +
                             ", needs one that computes");
    }

    TorchEngine& engine_;
    std::vector<Tensor> slots_;
    Sequence sequence_;
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

  const model::Transformer& part(std::int32_t index) const {
    const auto i = static_cast<std::size_t>(index);
    if (index < 0 || i >= held_.parts.size() || !held_.parts[i])
      throw std::runtime_error("[engine] part " + std::to_string(index) +
                               ": not held by this process");
    return *held_.parts[i];
  }

  static Tensor run_images(const model::Transformer& model, const Tensor& pixels, bool with_head) {
    model::check_input(model, pixels);
    const Tensor normalised = model::normalise_pixels(model.config, pixels);
    return with_head ? model::forward(model, normalised) : model::features(model, normalised);
  }

  static Tensor run_texts(const model::Transformer& model, const Tensor& ids, bool with_head,
                          model::KvCache* cache = nullptr) {
    const model::Input input(ids, cache);
    model::check_input(model, input);
    Tensor features = model::features(model, input);
    if (model.config.causal) features = model::last_token(features, ids);
    return with_head ? model::classify(model, features) : features;
  }

  /// What is kept of a sequence for one part; null where the request stands for itself.
  model::KvCache* cache_of(const model::Transformer& model, std::int32_t part, const Tensor& ids,
                           const Sequence& sequence) {
    if (sequence.id == 0) return nullptr;
    const std::pair key(sequence.id, part);
    if (sequence.past == 0)
      caches_[key] = {model::make_cache(model, ids.size(0), sequence.capacity), {}};
    const auto found = caches_.find(key);
    if (found == caches_.end() || !found->second.rewind_to(sequence.past) ||
        static_cast<std::int64_t>(found->second.cache.lengths.size()) != ids.size(0))
      throw std::runtime_error("[engine] sequence " + std::to_string(sequence.id) +
                               ": saw other tokens so far, needs " + std::to_string(sequence.past) +
                               " of " + std::to_string(ids.size(0)) + " texts");
    return &found->second.cache;
  }

  Tensor run_part(const plan::SubModel& instruction, const Tensor& given,
                  const Sequence& sequence) {
    const model::Transformer& model = part(instruction.part);
    if (!model.config.is_text()) return run_images(model, given, instruction.with_head);
    return run_texts(model, given, instruction.with_head,
                     cache_of(model, instruction.part, given, sequence));
  }

  Tensor run_fusion(const std::vector<Tensor>& features) const {
    if (!held_.fusion) throw std::runtime_error("[engine] fusion head: not held by this process");
    return model::answer(*held_.fusion, model::fuse(*held_.fusion, features));
  }

  void warm_up() const {
    for (const auto& held : held_.parts) {
      if (!held) continue;
      const model::ModelConfig& config = held->config;
      if (config.is_text()) {
        const std::int64_t tokens = std::max<std::int64_t>(1, held_.shape.tokens);
        run_texts(*held, at::zeros({held_.shape.batch, tokens}, at::kInt), config.classes > 0);
        continue;
      }
      const Tensor black = at::zeros(
          {held_.shape.batch, config.channels, config.image_height, config.image_width}, at::kByte);
      run_images(*held, black, config.classes > 0);
    }
    if (held_.fusion) warm_up_fusion(*held_.fusion);
  }

  void warm_up_fusion(const model::FusionHead& fusion) const {
    std::vector<Tensor> features;
    const std::int64_t rows = plan::feature_rows(fusion.teacher(), held_.shape.tokens);
    for (const auto& fused : fusion.parts)
      features.push_back(
          at::zeros({held_.shape.batch, std::max<std::int64_t>(1, rows), fused.width}));
    model::answer(fusion, model::fuse(fusion, features));
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

  std::map<std::pair<std::uint64_t, std::int32_t>, Kept> caches_;  // by sequence and part
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

model::Transformer load_part(const plan::Bundle& bundle, const plan::Plan& plan, std::size_t p) {
  const plan::PlanPart& part = plan.parts[p];
  auto loaded = load_verified(bundle, bundle.part_path(plan, part.device),
                              [](const auto& folder) { return model::load(folder); });
  if (loaded.config.width != part.config.width || loaded.config.layers != part.config.layers)
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

/// Nothing loaded yet; called before anything is.
Held held_for(const plan::Plan& plan) {
  model::keep_memory_compact();
  Held held;
  held.parts.resize(plan.parts.size());
  held.shape = plan.shape;
  return held;
}

std::size_t index_of(const plan::Plan& plan, const std::string& device) {
  const auto part = std::find_if(plan.parts.begin(), plan.parts.end(),
                                 [&](const auto& candidate) { return candidate.device == device; });
  return static_cast<std::size_t>(part - plan.parts.begin());
}

}  // namespace

std::unique_ptr<Engine> part_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                    const std::string& device, const EngineOptions& options) {
  bundle.part_path(plan, device);  // throws where the plan has no such device
  const std::size_t p = index_of(plan, device);
  Held held = held_for(plan);
  held.parts[p] = load_part(bundle, plan, p);
  return std::make_unique<TorchEngine>(std::move(held), options);
}

std::unique_ptr<Engine> fusion_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                      const EngineOptions& options) {
  Held held = held_for(plan);
  held.fusion = load_head(bundle, plan);
  return std::make_unique<TorchEngine>(std::move(held), options);
}

std::unique_ptr<Engine> local_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                     const EngineOptions& options) {
  Held held = held_for(plan);
  for (std::size_t p = 0; p < plan.parts.size(); ++p) held.parts[p] = load_part(bundle, plan, p);
  held.fusion = load_head(bundle, plan);
  return std::make_unique<TorchEngine>(std::move(held), options);
}

std::unique_ptr<Engine> model_engine(const std::filesystem::path& model,
                                     const EngineOptions& options) {
  model::keep_memory_compact();
  Held held;
  held.parts.push_back(model::load(model));
  return std::make_unique<TorchEngine>(std::move(held), options);
}

net::Value run_locally(Engine& engine, const plan::Plan& plan, const net::Value& input,
                       const std::vector<bool>& absent, const Sequence& sequence) {
  plan::RequestShape shape;
  shape.batch = input.dims.empty() ? 1 : input.dims[0];
  if (plan.teacher.is_text()) shape.tokens = input.dims.size() < 2 ? 1 : input.dims[1];
  const auto programs = plan::compile(plan, shape);
  net::Value answer;
  std::string failure;
  Executor* peers = nullptr;
  Executor::Hooks hooks;
  // A request for each rank, with the rank as its id: a send is a delivery to another request.
  hooks.send = [&](auto rank, auto peer, auto tag, const net::Value& value, const RunTimes&) {
    const auto to = static_cast<Executor::RequestId>(peer);
    const std::string wrong = peers->deliver(to, static_cast<std::int32_t>(rank), tag, value);
    if (failure.empty()) failure = wrong;
  };
  hooks.output = [&](auto, const net::Value& value, const RunTimes&) { answer = value; };
  hooks.failed = [&](auto, const std::string& error) {
    if (failure.empty()) failure = error;
  };
  Executor executor(engine, hooks);
  peers = &executor;
  const auto never = Clock::time_point::max();
  // The aggregator first: it must be there when the others send.
  for (auto program = programs.rbegin(); program != programs.rend(); ++program) {
    const auto rank = static_cast<std::size_t>(program->rank);
    if (rank < absent.size() && absent[rank]) continue;
    std::vector<net::Value> inputs(plan::find_first<plan::Input>(*program) ? 1 : 0, input);
    executor.admit(rank, std::make_shared<const plan::Program>(*program), std::move(inputs), never,
                   never, sequence);
  }
  for (std::size_t rank = 0; rank < absent.size(); ++rank)
    if (absent[rank]) executor.peer_lost(static_cast<std::int32_t>(rank));
  while (executor.step(Clock::now())) {
  }
  if (!failure.empty()) throw std::runtime_error(failure);
  return answer;
}

void set_threads(int threads) {
  // OpenBLAS built on pthreads has a pool of its own, which knows nothing of ATen's.
  using Setter = void(int);
  if (auto* set = reinterpret_cast<Setter*>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads")))
    set(threads);
  at::set_num_threads(threads);
}

}  // namespace cleave::infer
