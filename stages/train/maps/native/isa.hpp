// The kernels of one instruction set. Each isa_*.cpp defines LANES and ISA and includes this once.
#include "norm_kernels.hpp"
#include "pool_kernels.hpp"

namespace maps {
namespace {

template <class T>
constexpr Kernels<T> kKernels = {measure<T>, apply<T>, gather<T>, pull<T>, pool<T>, unpool<T>};

}  // namespace

extern const Isa ISA;
const Isa ISA = {NAME, &kKernels<float>, &kKernels<Bf16>};

}  // namespace maps
