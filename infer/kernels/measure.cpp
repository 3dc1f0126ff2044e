#include "infer/kernels/measure.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <new>
#include <utility>

#include "infer/kernels/attention.hpp"
#include "infer/kernels/packed.hpp"

namespace cleave::kernels {
namespace {

using Clock = std::chrono::steady_clock;

/// Long enough to time, short enough for many rounds.
constexpr double enough_s = 0.02;

double seconds_of(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Of one call, from as many as take long enough.
double seconds_each(const std::function<void()>& work) {
  double total = 0;
  std::int64_t calls = 0;
  for (std::int64_t more = 1; total < enough_s; more *= 2) {
    total += seconds_of([&] {
      for (std::int64_t i = 0; i < more; ++i) work();
    });
    calls += more;
  }
  return total / static_cast<double>(calls);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

struct Free {
  void operator()(std::byte* memory) const {
    ::operator delete (memory, std::align_val_t{alignment});
  }
};
using Memory = std::unique_ptr<std::byte, Free>;
/// Filled with small numbers, whatever they are read as.
Memory memory_of(std::size_t bytes) {
  Memory memory(static_cast<std::byte*>(::operator new (bytes + 1, std::align_val_t{alignment})));
  std::fill_n(memory.get(), bytes, std::byte{0x11});
  return memory;
}

struct Matrix {
  std::int64_t outputs = 0, unit = 0, inner = 0, inner_unit = 0;
};
/// A layer of ViT-B, BERT-base and GPT-2: queries, keys, values and what attention adds in heads,
/// the MLP in blocks of 64 columns.
constexpr Matrix layer[] = {{768, 64, 768, 768}, {768, 64, 768, 768},  {768, 64, 768, 768},
                            {768, 768, 768, 64}, {3072, 64, 768, 768}, {768, 768, 3072, 64}};

/// Several matrices' panels behind each other, too many for a cache where they are a whole model's.
class Chain {
 public:
  Chain(const Table& table, Format format, const std::vector<Matrix>& matrices) {
    std::size_t bytes = 0;
    const auto shape_of = [&](const Matrix& m) {
      const bool by_unit = format == Format::int8;
      // One scale a unit: of int8 the inner axis is always in units.
      const std::int64_t inner_unit = by_unit ? std::min<std::int64_t>(64, m.inner) : m.inner_unit;
      return shape_in_units(format, m.outputs, m.unit, m.inner, inner_unit);
    };
    for (const Matrix& m : matrices)
      bytes += (packed_bytes(table, shape_of(m)) + alignment - 1) / alignment * alignment;
    memory_ = memory_of(bytes);
    std::byte* at = memory_.get();
    for (const Matrix& m : matrices) {
      const Shape shape = shape_of(m);
      weights_.push_back({shape, &table, at});
      bytes_ += static_cast<double>(packed_bytes(table, shape));
      flops_ += 2.0 * static_cast<double>(m.outputs) * static_cast<double>(m.inner);
      at += (packed_bytes(table, shape) + alignment - 1) / alignment * alignment;
      widest_ = std::max({widest_, m.outputs, m.inner});
    }
  }
  /// Each matrix once, with so many rows.
  std::function<void()> work(std::int64_t rows) {
    rows_ = std::vector<float>(static_cast<std::size_t>(rows * widest_), 0.01F);
    out_ = rows_;
    std::size_t bytes = 0;
    for (const Packed& w : weights_)
      bytes = std::max(bytes, workspace_bytes(w, w.all_inner(), rows));
    workspace_ = memory_of(bytes);
    return [this, rows] {
      for (const Packed& w : weights_) {
        Product p;
        p.units = w.all();
        p.inner = w.all_inner();
        p.rows = rows;
        p.x = rows_.data();
        p.x_stride = w.shape.inner();
        p.out = out_.data();
        p.out_stride = w.shape.outputs();
        product(w, p, workspace_.get(), nullptr);
      }
    };
  }
  double bytes() const { return bytes_; }
  double flops() const { return flops_; }

 private:
  Memory memory_, workspace_;
  std::vector<Packed> weights_;
  std::vector<float> rows_, out_;
  double bytes_ = 0, flops_ = 0;
  std::int64_t widest_ = 0;
};

/// What is measured in turn.
struct Job {
  MeasuredKernel kernel;
  std::function<std::function<void()>()> begin;  // makes what it needs
};

std::vector<Job> product_jobs(const Table& table, Format format) {
  std::vector<Job> jobs;
  const std::vector<Matrix> one(std::begin(layer), std::end(layer));
  const auto add = [&](const std::string& shape, const std::vector<Matrix>& matrices,
                       std::int64_t rows) {
    const Chain sizes(table, format, matrices);
    Job job;
    job.kernel = {"product",     shape, format, format, static_cast<double>(rows) * sizes.flops(),
                  sizes.bytes(), {},    {}};
    job.begin = [&table, format, matrices, rows] {
      const auto chain = std::make_shared<Chain>(table, format, matrices);
      return [chain, work = chain->work(rows)] { work(); };
    };
    jobs.push_back(std::move(job));
  };
  for (const std::int64_t rows : {8, 16, 32, 48, 128, 197})
    add(std::to_string(rows) + " rows, a layer of 768", one, rows);
  std::vector<Matrix> all;
  for (int l = 0; l < 12; ++l) all.insert(all.end(), std::begin(layer), std::end(layer));
  all.push_back({50304, 64, 768, 768});
  add("1 row, GPT-2's layers and head", all, 1);
  return jobs;
}

struct AttentionMemory {
  AttentionMemory(const Table& table, Format format, std::int64_t rows_, std::int64_t keys_,
                  bool causal)
      : memory(memory_of(key_value_bytes(table, {format, 12, 64, keys_}))),
        rows(rows_),
        keys(keys_) {
    kept = key_values(table, {format, 12, 64, keys}, memory.get());
    query = std::vector<float>(static_cast<std::size_t>(keys * 768), 0.01F);
    out = query;
    store(kept, {0, 12}, 0, keys, query.data(), 768, query.data(), 768);
    for (std::int64_t i = 0; causal && i < keys; ++i)
      places.push_back(static_cast<std::int32_t>(i));
  }
  void attend_all() {
    Attention a;
    a.heads = {0, 12};
    a.rows = rows;
    a.keys = keys;
    a.query = query.data();
    a.query_stride = 768;
    if (!places.empty()) {
      a.seen_from = places.data();
      a.positions = places.data() + keys - rows;
    }
    a.out = out.data();
    a.out_stride = 768;
    attend(kept, a, nullptr);
  }
  Memory memory;
  std::int64_t rows, keys;
  KeyValues kept;
  std::vector<float> query, out;
  std::vector<std::int32_t> places;
};

Job attention_job(const Table& table, Format format, std::int64_t rows, std::int64_t keys,
                  bool causal) {
  Job job;
  const auto n = static_cast<double>(rows), m = static_cast<double>(keys);
  // Of a causal block of rows the last sees all keys.
  const double seen = causal && rows > 1 ? n * (m - (n - 1) / 2) : n * m;
  const std::string shape = std::to_string(rows) + " x 12 x 64 on " + std::to_string(keys) +
                            (causal && rows > 1 ? ", causal" : "");
  const double kept = 2 * m * 768 * (format == Format::f32 ? 4 : format == Format::bf16 ? 2 : 1);
  job.kernel = {"attention", shape, format, Format::f32, 4 * seen * 768, kept, {}, {}};
  job.begin = [&table, format, rows, keys, causal] {
    const auto memory = std::make_shared<AttentionMemory>(table, format, rows, keys, causal);
    return [memory] { memory->attend_all(); };
  };
  return job;
}

Job norm_job(const Table& table) {
  Job job;
  // Read twice, written twice; of a norm's arithmetic nobody asks.
  job.kernel = {"norm with residual", "197 x 768", Format::f32, Format::f32, 0,
                4.0 * 4 * 197 * 768,  {},          {}};
  job.begin = [&table] {
    const auto rows = std::make_shared<std::vector<float>>(std::size_t{4} * 197 * 768, 0.5F);
    return [&table, rows] {
      constexpr std::int64_t size = 197 * 768;
      NormRows n;
      n.rows = 197;
      n.width = 768;
      n.x = rows->data();
      n.residual = rows->data() + size;
      n.weight = n.bias = rows->data();
      n.eps = 1e-5F;
      n.stream = rows->data() + 2 * size;
      n.out = rows->data() + 3 * size;
      table.norm(n);
    };
  };
  return job;
}

double limit_of(const ProductKernels& kernels) {
  std::int64_t repeats = 1 << 12;
  double seconds = 0, terms = 0;
  do {
    repeats *= 2;
    seconds = seconds_of([&] { terms = kernels.limit(repeats); });
  } while (seconds < enough_s / 2);
  return 2 * terms / seconds;
}

}  // namespace

const char* name_of(Format format) {
  return format == Format::f32 ? "f32" : format == Format::bf16 ? "bf16" : "int8";
}

KernelReport measure_kernels(const Table& table, int rounds,
                             const std::function<bool(std::int64_t, std::int64_t)>& progress) {
  std::vector<Job> jobs;
  for (const auto format : {Format::f32, Format::bf16, Format::int8})
    for (Job& job : product_jobs(table, format)) jobs.push_back(std::move(job));
  for (const auto format : {Format::f32, Format::bf16, Format::int8}) {
    jobs.push_back(attention_job(table, format, 197, 197, false));
    jobs.push_back(attention_job(table, format, 512, 512, true));
    jobs.push_back(attention_job(table, format, 1, 1024, true));
  }
  jobs.push_back(norm_job(table));

  constexpr std::size_t read_bytes = std::size_t{256} << 20;
  const Memory large = memory_of(read_bytes);
  std::vector<double> f32, bf16, int8, read;
  const auto of = [&](Format format) -> std::vector<double>& {
    return format == Format::f32 ? f32 : format == Format::bf16 ? bf16 : int8;
  };
  const auto all = static_cast<std::int64_t>(jobs.size());
  std::int64_t done = 0;
  for (Job& job : jobs) {
    const auto work = job.begin();
    work();  // memory comes, caches fill
    for (int round = 0; round < rounds; ++round) {
      // The limit of the same moment, on both sides of it: machines are not always alike.
      const auto of_registers = [&] { return limit_of(table.product(job.kernel.computed_in)); };
      const auto of_memory = [&] {
        return static_cast<double>(read_bytes) /
               seconds_of([&] { table.read(large.get(), read_bytes); });
      };
      double flops_s = of_registers(), bytes_s = of_memory();
      const double seconds = seconds_each(work);
      flops_s = std::max(flops_s, of_registers());
      bytes_s = std::max(bytes_s, of_memory());
      of(job.kernel.computed_in).push_back(flops_s);
      read.push_back(bytes_s);
      job.kernel.seconds.push_back(seconds);
      job.kernel.shares.push_back(std::max(job.kernel.flops / flops_s, job.kernel.bytes / bytes_s) /
                                  seconds);
    }
    if (progress && !progress(++done, all)) break;
  }

  KernelReport report;
  report.target = table.target;
  report.limits = {median(f32), median(bf16), median(int8), median(read)};
  for (Job& job : jobs)
    if (!job.kernel.seconds.empty()) report.kernels.push_back(std::move(job.kernel));
  return report;
}

}  // namespace cleave::kernels
