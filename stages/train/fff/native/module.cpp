// What Python sees of the kernels. Addresses are checked by the caller: they are of tensors that it
// holds, and this file is the only place that turns numbers into pointers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "run.hpp"
#include "tensors.hpp"

namespace nb = nanobind;

namespace {

struct Kernel {
  cmm::Forest forest;
  const cmm::Kernels* kernels;

  Kernel(std::uintptr_t records, std::uintptr_t b_out, int in, int out, int levels, int trees,
         int weights, int activation, const std::string& isa)
      : forest{reinterpret_cast<const std::byte*>(records), reinterpret_cast<const float*>(b_out),
               in, out, levels, trees, static_cast<cmm::Weights>(weights),
               static_cast<cmm::Activation>(activation)},
        kernels(nullptr) {
    if (levels < 1 || levels > cmm::kMaxLevels) throw nb::value_error("levels out of range");
    for (const cmm::Isa& each : cmm::isas())
      if (isa == each.name) kernels = each.kernels;
    if (!kernels) throw nb::value_error("this processor does not have the instruction set");
  }

  void run(std::uintptr_t x, std::size_t x_stride, std::uintptr_t out, int n, int threads) const {
    cmm::run(*kernels, forest, reinterpret_cast<const float*>(x), x_stride,
             reinterpret_cast<float*>(out), forest.out, n, threads);
  }

  void run_each(std::uintptr_t x, std::size_t x_stride, std::uintptr_t out, int n) const {
    for (int i = 0; i < n; ++i) run(x + i * x_stride * sizeof(float), x_stride, out, 1, 1);
  }
};

// Answers to tensors of torch: a call of a kernel that makes no call of Python beside itself.
class Answers {
 public:
  Answers(const Kernel& kernel, nb::type_object tensor, nb::callable threads,
          nb::callable otherwise)
      : kernel_(kernel),
        tensors_(tensor),
        threads_(std::move(threads)),
        otherwise_(std::move(otherwise)) {}

  nb::object of(nb::handle x) const {
    const cmm::Forest& forest = kernel_.forest;
    cmm::Rows rows;
    if (!tensors_.rows_of(x, forest.in, &rows)) return otherwise_(x);
    float* out;
    nb::object answers = tensors_.empty_for(rows, forest.out, &out);
    if (rows.num == 1) {  // done sooner than Python's lock is given away and taken back
      cmm::run(*kernel_.kernels, forest, rows.values, forest.in, out, forest.out, 1, 1);
      return answers;
    }
    const int threads = nb::cast<int>(threads_());
    nb::gil_scoped_release released;
    cmm::run(*kernel_.kernels, forest, rows.values, forest.in, out, forest.out, rows.num, threads);
    return answers;
  }

 private:
  const Kernel& kernel_;
  cmm::Tensors tensors_;
  nb::callable threads_;    // () -> int: how many to use for more than one token
  nb::callable otherwise_;  // answers to what does not lie as the kernels read it
};

// Drop what the caches hold of this memory; false: this processor has no instruction for it.
bool flush([[maybe_unused]] std::uintptr_t at, [[maybe_unused]] std::size_t bytes) {
#if defined(__x86_64__)
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_ia32_clflush(reinterpret_cast<void*>(at + i));
  __builtin_ia32_mfence();
  return true;
#else
  return false;
#endif
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const cmm::Isa& each : cmm::isas()) names.emplace_back(each.name);
    return names;
  });
  m.def("flush", flush, "Drop what the caches hold of some memory; false: it cannot be done here.");
  nb::class_<Kernel>(m, "Kernel")
      .def(nb::init<std::uintptr_t, std::uintptr_t, int, int, int, int, int, int,
                    const std::string&>(),
           nb::arg("records"), nb::arg("b_out"), nb::arg("inputs"), nb::arg("outputs"),
           nb::arg("levels"), nb::arg("trees"), nb::arg("weights"), nb::arg("activation"),
           nb::arg("isa"))
      .def("run", &Kernel::run, nb::call_guard<nb::gil_scoped_release>())
      .def("run_each", &Kernel::run_each, nb::call_guard<nb::gil_scoped_release>(),
           "One token at a time into the same outputs, as n calls of run: what a benchmark times.");
  nb::class_<Answers>(m, "Answers")
      .def(nb::init<const Kernel&, nb::type_object, nb::callable, nb::callable>(),
           nb::arg("kernel"), nb::arg("tensor"), nb::arg("threads"), nb::arg("otherwise"),
           nb::keep_alive<1, 2>())
      .def("of", &Answers::of);
}
