#include "infer/engine.hpp"

#include <fstream>
#include <stdexcept>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/infer/tiny_bundle.hpp"
#include "tests/infer/value_engine.hpp"

namespace cleave::infer {
namespace {

namespace fs = std::filesystem;

at::Tensor tensor_of(const net::Value& value) {
  void* data = const_cast<std::byte*>(value.data.data());
  const auto type = value.element == base::Element::u8 ? at::kByte : at::kFloat;
  return at::from_blob(data, value.dims, type).clone();
}

/// What the parts and the fusion head answer, put together by hand.
at::Tensor expected_answer(const TinyBundle& tiny, const fs::path& folder, const net::Value& pixels,
                           const std::vector<bool>& absent = {false, false, false}) {
  std::vector<at::Tensor> features;
  for (std::size_t p = 0; p < tiny.parts.size(); ++p) {
    const auto x = model::normalise_pixels(tiny.parts[p].config, tensor_of(pixels));
    features.push_back(absent[p] ? at::Tensor() : model::features(tiny.parts[p], x));
  }
  const auto head = model::load_fusion(folder / "fusion" / "default");
  return model::answer(head, model::fuse(head, features));
}

template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

/// What one rank computes of pixels, up to what it sends.
struct OneRank {
  OneRank(const plan::Plan& plan, std::size_t rank, std::int64_t batch = 1) {
    plan::RequestShape shape;
    shape.batch = batch;
    program = std::make_shared<const plan::Program>(plan::compile(plan, shape).at(rank));
  }
  net::Value run(Engine& engine, const net::Value& x) const {
    const auto slots = engine.begin(program, {});
    for (const auto& instruction : program->instructions) {
      if (const auto* input = std::get_if<plan::Receive>(&instruction))
        slots->set(input->result, x);
      if (plan::computes(instruction)) slots->run(instruction);
      if (const auto* send = std::get_if<plan::Send>(&instruction)) return slots->get(send->value);
    }
    throw std::logic_error("a rank that sends nothing");
  }
  std::shared_ptr<const plan::Program> program;
};

std::shared_ptr<const plan::Program> fusion_program(const plan::Plan& plan) {
  return std::make_shared<const plan::Program>(plan::compile(plan, plan.shape).back());
}

TEST(Engine, AnswersLocallyAsItsPartsDo) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  const auto engine = local_engine(bundle, bundle.plan());
  engine->prepare();
  for (const std::int64_t batch : {1, 3}) {
    const net::Value pixels = tiny_pixels(batch);
    const net::Value answer = run_locally(*engine, bundle.plan(), pixels);
    EXPECT_EQ(answer.dims, (std::vector<std::int64_t>{batch, 5}));
    EXPECT_TRUE(at::equal(tensor_of(answer), expected_answer(tiny, scratch.path(), pixels)));
  }
}

TEST(Engine, LeavesAbsentPartsOut) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  const auto engine = local_engine(bundle, tiny.plan);
  const net::Value pixels = tiny_pixels(1);
  const std::vector<bool> absent = {false, true, false};
  EXPECT_TRUE(at::equal(tensor_of(run_locally(*engine, tiny.plan, pixels, absent)),
                        expected_answer(tiny, scratch.path(), pixels, absent)));
  EXPECT_EQ(error_of([&] {
              run_locally(*engine, tiny.plan, pixels, {true, true, true});
            }),
            "[fuse] features: saw 0 of 3 present, needs at least 1");
}

TEST(Engine, GivesTheSameOnAgentsAsLocally) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  const net::Value pixels = tiny_pixels(1);
  const auto aggregator = fusion_engine(bundle, {tiny.plan});
  aggregator->prepare();
  std::vector<net::Value> features;
  for (std::size_t p = 0; p < 3; ++p) {
    const auto agent = device_engine(bundle, {tiny.plan}, tiny.plan.parts[p].device);
    agent->prepare();
    features.push_back(OneRank(tiny.plan, p).run(*agent, pixels));
  }
  const auto program = fusion_program(tiny.plan);
  const auto fuse = *plan::find_first<plan::Fuse>(*program);
  const auto answer = run_one(*aggregator, fuse, program, features);
  EXPECT_TRUE(at::equal(tensor_of(answer), expected_answer(tiny, scratch.path(), pixels)));
}

TEST(Engine, RunsAWholeModelWithItsHead) {
  const Scratch scratch;
  const auto teacher = model::random_model(tiny_config(), 1);
  model::save(teacher, scratch.path() / "teacher");
  plan::Plan plan;
  plan.strategy = "local";
  plan.teacher = teacher.config;
  plan.aggregator = "hub";
  plan.parts = {plan_part("hub", teacher.config)};
  const auto engine = model_engine(scratch.path() / "teacher");
  engine->prepare();
  const net::Value pixels = tiny_pixels(2);
  const auto x = model::normalise_pixels(teacher.config, tensor_of(pixels));
  EXPECT_TRUE(at::equal(tensor_of(run_locally(*engine, plan, pixels)), model::forward(teacher, x)));
}

TEST(Engine, NeedsNoFusionHeadWhereTheStrategyHasNone) {
  const Scratch scratch;
  TinyBundle tiny(scratch.path());
  fs::remove_all(scratch.path() / "fusion");
  fs::remove_all(scratch.path() / "parts");
  tiny.plan.strategy = "local";
  tiny.plan.parts = {plan_part("hub", tiny.teacher.config)};
  model::save(tiny.teacher, scratch.path() / "parts" / "default" / "hub");
  plan::write_plan(tiny.plan, scratch.path() / "plans" / "default.json");
  plan::write_manifest(scratch.path(), "default", "");
  const plan::Bundle bundle(scratch.path());
  fusion_engine(bundle, {tiny.plan})->prepare();
  const auto engine = local_engine(bundle, tiny.plan);
  const net::Value pixels = tiny_pixels(1);
  const auto x = model::normalise_pixels(tiny.teacher.config, tensor_of(pixels));
  EXPECT_TRUE(at::equal(tensor_of(run_locally(*engine, tiny.plan, pixels)),
                        model::forward(tiny.teacher, x)));
}

TEST(Engine, KeepsNeitherInputNorResultLongerThanNeeded) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const auto engine = device_engine(plan::Bundle(scratch.path()), {tiny.plan}, "cam");
  const OneRank cam(tiny.plan, 2);
  net::Value pixels = tiny_pixels(1);
  const std::weak_ptr<const void> input = pixels.data.owner();
  net::Value feature = cam.run(*engine, pixels);
  const std::weak_ptr<const void> result = feature.data.owner();
  pixels = {};
  EXPECT_TRUE(input.expired());
  std::thread([sent = std::move(feature)]() mutable { sent = net::Value(); }).join();
  feature = {};
  EXPECT_TRUE(result.expired()) << "freed on the thread that sent it";
}

TEST(Engine, AcceptsBytesThatAreNotAligned) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  const auto aggregator = fusion_engine(bundle, {tiny.plan});
  const auto program = fusion_program(tiny.plan);
  const auto fuse = *plan::find_first<plan::Fuse>(*program);
  const std::vector<float> numbers(16, 0.5f);
  net::Value aligned, shifted;
  aligned.dims = shifted.dims = {1, 1, 16};
  aligned.data = net::Buffer::copy_of(numbers.data(), 64);
  std::byte* room = nullptr;
  const net::Buffer buffer = net::Buffer::allocate(65, &room);
  std::memcpy(room + 1, numbers.data(), 64);
  shifted.data = net::Buffer(buffer.owner(), buffer.data() + 1, 64);
  const net::Value none = net::Value::absent();
  EXPECT_TRUE(at::equal(tensor_of(run_one(*aggregator, fuse, program, {aligned, none, none})),
                        tensor_of(run_one(*aggregator, fuse, program, {shifted, none, none}))));
}

TEST(Engine, HoldsOnlyItsPart) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  const auto engine = device_engine(bundle, {tiny.plan}, "desk");
  const net::Value pixels = tiny_pixels(1);
  EXPECT_EQ(error_of([&] { OneRank(tiny.plan, 0).run(*engine, pixels); }),
            "[engine] part 0 of plan 'default': not held by this process");
  const auto program = fusion_program(tiny.plan);
  const auto slots = engine->begin(program, {});
  EXPECT_EQ(error_of([&] { slots->run(*plan::find_first<plan::Fuse>(*program)); }),
            "[engine] fusion head of plan 'default': not held by this process");
  EXPECT_EQ(error_of([&] { slots->run(plan::Send()); }),
            "[engine] instruction: saw send, needs one that computes");
}

TEST(Engine, SaysWhatIsWrongWithAnInput) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  const auto engine = local_engine(bundle, tiny.plan);
  net::Value pixels = tiny_pixels(1);
  pixels.dims = {1, 1, 4, 16};
  EXPECT_EQ(error_of([&] { run_locally(*engine, tiny.plan, pixels); }),
            "[admit] value x as input: saw u8 [1, 1, 4, 16], needs u8 [1, 1, 8, 8]");
  EXPECT_EQ(error_of([&] { OneRank(tiny.plan, 0).run(*engine, pixels); }),
            "[pixels] saw [1, 1, 4, 16], needs [any, 1, 8, 8]");
}

TEST(Engine, RefusesADeviceThatThePlanHasNot) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  const std::string error = error_of([&] { device_engine(bundle, {tiny.plan}, "phone"); });
  EXPECT_NE(error.find("phone"), std::string::npos) << error;
  EXPECT_NE(error.find("hub, desk, cam"), std::string::npos) << error;
}

TEST(Engine, RefusesAPartThatIsNotHere) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  fs::remove_all(scratch.path() / "parts" / "default" / "cam");
  device_engine(bundle, {tiny.plan}, "hub");  // needs only its own part
  const std::string error = error_of([&] { device_engine(bundle, {tiny.plan}, "cam"); });
  EXPECT_NE(error.find("parts/default/cam"), std::string::npos) << error;
}

TEST(Engine, RefusesAPartThatWasTamperedWith) {
  const Scratch scratch;
  const TinyBundle tiny(scratch.path());
  const plan::Bundle bundle(scratch.path());
  std::fstream file(scratch.path() / "parts" / "default" / "cam" / "model.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-4, std::ios::end);
  file.write("evil", 4);
  file.close();
  const std::string error = error_of([&] { device_engine(bundle, {tiny.plan}, "cam"); });
  EXPECT_NE(error.find("parts/default/cam/model.safetensors"), std::string::npos) << error;
}

TEST(Engine, RefusesAPartThatIsNotThePlans) {
  const Scratch scratch;
  TinyBundle tiny(scratch.path());
  tiny.plan.parts[2].sub_model().config.layers[0].mlp_width = 8;
  const plan::Bundle bundle(scratch.path());
  EXPECT_EQ(error_of([&] { device_engine(bundle, {tiny.plan}, "cam"); }),
            "[" + (scratch.path() / "parts/default/cam").string() +
                "] config.json: its widths are not those of plan 'default'; cut the bundle again");
}

TEST(Threads, AreSetForLibtorch) {
  const int before = at::get_num_threads();
  set_threads(1);
  EXPECT_EQ(at::get_num_threads(), 1);
  set_threads(before);
}

TEST(Machine, KnowsItsMemoryAndItsBlas) {
  const double before = peak_memory_bytes();
  const std::vector<char> block(64 << 20, 'x');
  EXPECT_GE(peak_memory_bytes(), before + 32e6);
  EXPECT_GE(peak_memory_bytes(), resident_memory_bytes());
  EXPECT_FALSE(blas_info().name.empty());
  EXPECT_NE(machine_name().find("core"), std::string::npos);
}

TEST(Machine, WarnsOfForcedKernels) {
  if (blas_info().name.find("OpenBLAS") == std::string::npos) GTEST_SKIP() << "not OpenBLAS";
  const char* before = std::getenv("OPENBLAS_CORETYPE");
  const std::string kept = before ? before : "";
  setenv("OPENBLAS_CORETYPE", "Prescott", 1);
  EXPECT_NE(blas_info().warning.find("OPENBLAS_CORETYPE=Prescott"), std::string::npos);
  unsetenv("OPENBLAS_CORETYPE");
  EXPECT_EQ(blas_info().warning, "");
  if (before) setenv("OPENBLAS_CORETYPE", kept.c_str(), 1);
}

}  // namespace
}  // namespace cleave::infer
