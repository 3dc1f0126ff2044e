#include "infer/machine.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <unistd.h>

namespace cleave::infer {
namespace {

/// The text after "key" and a colon in a /proc file, or empty.
std::string proc_field(const char* file, const std::string& key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? std::string() : line.substr(start);
  }
  return {};
}

/// Before the last reset.
std::atomic<double> earlier_peak{0};

double status_bytes(const std::string& key) {
  const std::string text = proc_field("/proc/self/status", key);
  return text.empty() ? 0 : std::strtod(text.c_str(), nullptr) * 1024;
}

template <typename Function>
Function* symbol(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

/// Path of the library that provides sgemm, symbolic links resolved; Debian's alternatives say
/// nothing in the link's name.
std::string blas_path() {
  void* product = dlsym(RTLD_DEFAULT, "sgemm_");
  Dl_info info{};
  if (!product || dladdr(product, &info) == 0 || !info.dli_fname) return {};
  std::error_code ignored;
  const auto real = std::filesystem::canonical(info.dli_fname, ignored);
  return ignored ? std::string(info.dli_fname) : real.string();
}

/// OpenBLAS may be loaded without being the one that multiplies.
bool openblas_multiplies() {
  const std::string path = blas_path();
  const bool multiplies = path.empty() || path.find("openblas") != std::string::npos;
  return multiplies && dlsym(RTLD_DEFAULT, "openblas_get_config");
}

/// "OpenBLAS 0.3.21 …" -> its first two words.
std::string first_words(const std::string& text, int count) {
  std::istringstream words(text);
  std::string joined;
  for (std::string word; count > 0 && words >> word; --count)
    joined += (joined.empty() ? "" : " ") + word;
  return joined;
}

constexpr const char* kernels_variable = "OPENBLAS_CORETYPE";

/// OpenBLAS' name for the best kernels that this CPU runs, or empty where OpenBLAS' own choice is
/// never a bad one.
std::string best_kernels() {
#if defined(__x86_64__)
  const bool avx512 =
      __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  if (avx512) return "SkylakeX";
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) return "Haswell";
#endif
  return {};
}

BlasInfo openblas_info() {
  BlasInfo info;
  const auto config = symbol<char*()>("openblas_get_config");
  const auto core = symbol<char*()>("openblas_get_corename");
  info.name = config ? first_words(config(), 2) : "OpenBLAS";
  if (core) info.name += std::string(" ") + core();
  if (const char* forced = std::getenv(kernels_variable); forced && forced != best_kernels())
    info.warning = std::string(kernels_variable) + "=" + forced +
                   " is set: OpenBLAS does not choose the kernels of this CPU itself; unset it "
                   "unless you know better";
  return info;
}

}  // namespace

double peak_memory_bytes() { return std::max(earlier_peak.load(), recent_peak_bytes()); }
double recent_peak_bytes() { return status_bytes("VmHWM"); }

void reset_recent_peak() {
  earlier_peak = peak_memory_bytes();
  std::ofstream("/proc/self/clear_refs") << '5';
}

double resident_memory_bytes() { return status_bytes("VmRSS"); }

void give_back_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

BlasInfo blas_info() {
  if (openblas_multiplies()) return openblas_info();
  const std::string path = blas_path();
  if (path.empty()) return {"built-in products", "no BLAS library found: matrix products are slow"};
  if (path.find("mkl") != std::string::npos) return {"MKL", {}};
  if (path.find("blis") != std::string::npos) return {"BLIS", {}};
  return {path, "a slow BLAS: install libopenblas-pthread-dev and build again"};
}

void take_best_blas_kernels(char** argv) {
  // The families that OpenBLAS knows with AVX2 or more.
  static const std::set<std::string> modern = {"Haswell",  "Excavator",  "Zen",
                                               "SkylakeX", "Cooperlake", "SapphireRapids"};
  const std::string best = best_kernels();
  const auto core = symbol<char*()>("openblas_get_corename");
  if (best.empty() || !openblas_multiplies() || !core || modern.count(core()) > 0 ||
      std::getenv(kernels_variable))
    return;
  setenv(kernels_variable, best.c_str(), 1);
  execv("/proc/self/exe", argv);  // returns where it fails: then with the kernels there are
}

std::string machine_name() {
  std::string cpu = proc_field("/proc/cpuinfo", "model name");
  if (cpu.empty()) cpu = proc_field("/proc/cpuinfo", "Model");
  if (cpu.empty()) cpu = "unknown CPU";
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  return cpu + ", " + std::to_string(cores) + (cores == 1 ? " core, " : " cores, ") +
         blas_info().name;
}

}  // namespace cleave::infer
