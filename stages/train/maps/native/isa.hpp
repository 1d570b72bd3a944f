// The kernels of one instruction set. Each isa_*.cpp defines LANES and ISA and includes this once.
#include "norm_kernels.hpp"
#include "pool_kernels.hpp"
#if defined(__AVX512BF16__)
#include "product_kernels.hpp"
#endif

namespace maps {
namespace {

template <class T>
constexpr Kernels<T> kKernels = {measure<T>, apply<T>, gather<T>, pull<T>, pool<T>, unpool<T>};

#if !defined(__AVX512BF16__)
constexpr const Products* kProducts = nullptr;
#endif

}  // namespace

extern const Isa ISA;
const Isa ISA = {NAME, &kKernels<float>, &kKernels<Bf16>, kProducts};

}  // namespace maps
