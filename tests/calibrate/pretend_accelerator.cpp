#include "tests/calibrate/pretend_accelerator.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/NativeFunctions.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace cleave::testing {
namespace {

constexpr auto device_type = at::DeviceType::PrivateUse1;

std::atomic<std::int64_t> num_operators{0};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr at::DeviceType static_type = device_type;
  at::DeviceType type() const override { return device_type; }
  at::Device exchangeDevice(at::Device) const override { return getDevice(); }
  at::Device getDevice() const override { return pretend_accelerator(); }
  void setDevice(at::Device) const override {}
  void uncheckedSetDevice(at::Device) const noexcept override {}
  c10::Stream getStream(at::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

/// Where the accelerator's tensors are said to lie: addresses that nobody can read.
constexpr std::uintptr_t shift = std::uintptr_t{1} << 62;

void* at_shift(void* address, std::uintptr_t by) {
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(address) + by);
}

/// Memory of the CPU that is said to be the accelerator's.
c10::Storage memory(std::size_t bytes) {
  auto* owner = new at::Tensor(at::zeros({static_cast<std::int64_t>(bytes)}, at::kByte));
  const auto free = [](void* context) { delete static_cast<at::Tensor*>(context); };
  return c10::Storage(
      c10::Storage::use_byte_size_t{}, bytes,
      c10::DataPtr(at_shift(owner->data_ptr(), shift), owner, free, pretend_accelerator()),
      /*allocator=*/nullptr, /*resizable=*/false);
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                         c10::optional<at::ScalarType> dtype, c10::optional<at::Layout>,
                         c10::optional<at::Device>, c10::optional<bool>) {
  const caffe2::TypeMeta type = c10::scalarTypeToTypeMeta(dtype.value_or(at::kFloat));
  std::size_t elements = 1;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) elements = 0;
    if (elements > 0) elements += static_cast<std::size_t>((sizes[i] - 1) * strides[i]);
  }
  at::Tensor made = at::detail::make_tensor<c10::TensorImpl>(
      memory(elements * type.itemsize()), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
  made.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return made;
}

at::Tensor empty(at::IntArrayRef sizes, c10::optional<at::ScalarType> dtype,
                 c10::optional<at::Layout> layout, c10::optional<at::Device> device,
                 c10::optional<bool> pinned, c10::optional<at::MemoryFormat>) {
  std::vector<std::int64_t> strides(sizes.size(), 1);
  for (std::size_t i = sizes.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<std::int64_t>(1, sizes[i]);
  return empty_strided(sizes, strides, dtype, layout, device, pinned);
}

/// The same memory as a tensor of the CPU.
at::Tensor seen_by_cpu(const at::Tensor& x) {
  if (x.is_cpu()) return x;
  const at::TensorOptions options = x.options().device(at::kCPU);
  if (x.numel() == 0) return at::empty(x.sizes(), options);
  return at::from_blob(at_shift(x.data_ptr(), 0 - shift), x.sizes(), x.strides(), options);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  seen_by_cpu(to).copy_(seen_by_cpu(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (to.sizes() != from.sizes()) {
    const at::Tensor fresh = at::empty(from.sizes(), to.options());
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
    to.unsafeGetTensorImpl()->set_sizes_contiguous(from.sizes());
  }
  return copy_from(from, to, false);
}

/// As a GPU's, operators take numbers ([] tensors) of the CPU and tensors that index; all else has
/// to be the accelerator's.
void refuse_mixtures(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const std::string& name = op.schema().name();
  const bool indexes = name == "aten::index" || name.find("index_put") != std::string::npos;
  const auto check = [&name](const at::Tensor& x) {
    TORCH_CHECK(!x.defined() || x.dim() == 0 || x.device().type() == device_type, name,
                ": a tensor ", x.sizes(), " of the CPU meets the accelerator's");
  };
  const auto& arguments = op.schema().arguments();
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (indexes && arguments[i].name() == "indices") continue;
    const c10::IValue& value = stack[stack.size() - arguments.size() + i];
    if (value.isTensor()) check(value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& x : value.toTensorVector()) check(x);
  }
}

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  refuse_mixtures(op, *stack);
  ++num_operators;
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  // Views cannot be computed elsewhere.
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

}  // namespace

at::Device pretend_accelerator() { return {device_type, 0}; }

std::int64_t operators_on_accelerator() { return num_operators; }

}  // namespace cleave::testing
