// ConditionalMatMul: fast feedforward layers as an operator of ONNX Runtime, domain `dlpipe`.
//
// ONNX Runtime loads the library and calls RegisterCustomOps. No exception leaves this file: each
// becomes a status with its message.
#include <mutex>

#include "onnx_kernel.hpp"

namespace {

using Self = ort::Operator::Self;

constexpr std::size_t kInputs = 5, kNeeded = 3;

template <class Work>
ort::Status* guarded(const ort::Functions* api, const Work& work) noexcept {
  const auto failed = [api](int code, const std::string& what) {
    return ort::CreateStatus::call(api, code, ("ConditionalMatMul: " + what).c_str());
  };
  try {
    work();
    return nullptr;
  } catch (const cmm::Refused& refused) {
    return refused.status;
  } catch (const std::invalid_argument& error) {
    return failed(ort::kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return failed(ort::kFail, error.what());
  }
}

struct Kernel {
  const ort::Functions* api;
  cmm::OnnxKernel kernel;
};

ort::Status* create(Self, const ort::Functions* api, const ort::KernelInfo* info, void** kernel) {
  return guarded(api, [&] {
    *kernel = new Kernel{api, cmm::OnnxKernel(api, cmm::Node(api, info))};
  });
}

ort::Status* compute(void* kernel, ort::KernelContext* context) {
  const auto* self = static_cast<const Kernel*>(kernel);
  return guarded(self->api, [&] { self->kernel.compute(context); });
}

ort::Operator described() {
  ort::Operator op{};
  op.version = ort::kVersion;
  op.name = [](Self) { return "ConditionalMatMul"; };
  op.provider = [](Self) -> const char* { return nullptr; };
  op.num_inputs = [](Self) { return kInputs; };
  op.num_outputs = [](Self) -> std::size_t { return 1; };
  op.input_type = op.output_type = [](Self, std::size_t) { return ort::kFloat; };
  op.input_kind = [](Self, std::size_t i) { return i < kNeeded ? ort::kRequired : ort::kOptional; };
  op.output_kind = [](Self, std::size_t) { return ort::kRequired; };
  op.input_memory = [](Self, std::size_t) { return 0; };
  op.create = create;
  op.compute = compute;
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(
    ort::SessionOptions* options, const ort::Base* base) {
  const ort::Functions* const api = base->functions(ort::kVersion);
  if (!api)  // creating a status is in every version
    return ort::CreateStatus::call(base->functions(1), ort::kFail,
                                   "ConditionalMatMul needs ONNX Runtime 1.20 or newer");
  return guarded(api, [&] {
    // Sessions keep its address, and may come and go on several threads.
    static const ort::Operator op = described();
    static std::mutex guard;
    static ort::Domain* domain = nullptr;
    const std::lock_guard<std::mutex> lock(guard);
    if (!domain) {
      ort::Domain* made;
      cmm::check(ort::CreateDomain::call(api, "dlpipe", &made));
      cmm::check(ort::AddOperator::call(api, made, &op));
      domain = made;
    }
    cmm::check(ort::AddDomain::call(api, options, domain));
  });
}
