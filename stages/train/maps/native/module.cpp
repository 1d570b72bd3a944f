// What Python sees of the kernels. Addresses and sizes are checked by the caller: they are of
// tensors that it holds, and this file is the only place that turns numbers into pointers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "../../native/pool.hpp"
#include "../../native/processor.hpp"
#include "batch_norm.hpp"
#include "weight_gradient.hpp"

namespace nb = nanobind;

namespace maps {

#if defined(MAPS_X86)
extern const Isa avx512_bf16, avx512, avx2;
#endif
extern const Isa plain;

namespace {

using Address = std::uintptr_t;

const std::vector<const Isa*>& isas() {
  static const std::vector<const Isa*> found = [] {
    std::vector<const Isa*> list;
#if defined(MAPS_X86)
    if (native::has_avx512_bf16()) list.push_back(&avx512_bf16);
    if (native::has_avx512()) list.push_back(&avx512);
    if (native::has_avx2()) list.push_back(&avx2);
#endif
    list.push_back(&plain);
    return list;
  }();
  return found;
}

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// The kernels with one instruction set and number format.
template <class T>
struct Maps {
  const Isa& isa;

  void norm_forward(Address x, std::size_t pixels, std::size_t channels, Address weight,
                    Address bias, bool relu, float eps, Address running_mean,
                    Address running_variance, float momentum, int threads, Address y, Address mean,
                    Address inverse) const {
    forward<T>(isa, at<T>(x), {pixels, channels}, {at<float>(weight), at<float>(bias), relu}, eps,
               {at<float>(running_mean), at<float>(running_variance), momentum}, threads,
               at<T>(y), {at<float>(mean), at<float>(inverse)});
  }

  void norm_backward(Address x, Address dy, std::size_t pixels, std::size_t channels,
                     Address weight, Address bias, bool relu, Address mean, Address inverse,
                     int threads, Address dx, Address d_weight, Address d_bias) const {
    backward<T>(isa, at<T>(x), at<T>(dy), {pixels, channels},
                {at<float>(weight), at<float>(bias), relu}, {at<float>(mean), at<float>(inverse)},
                threads, at<T>(dx), at<float>(d_weight), at<float>(d_bias));
  }

  void pool_forward(Address x, std::size_t num, const Windows& windows, int threads, Address y,
                    Address places) const {
    each(num, windows, threads, [&](std::size_t begin, std::size_t end) {
      of<T>(isa).pool(at<T>(x), windows, begin, end, at<T>(y), at<std::uint8_t>(places));
    });
  }

  void pool_backward(Address dy, Address places, std::size_t num, const Windows& windows,
                     int threads, Address dx) const {
    each(num, windows, threads, [&](std::size_t begin, std::size_t end) {
      of<T>(isa).unpool(at<T>(dy), at<std::uint8_t>(places), windows, begin, end, at<T>(dx));
    });
  }

 private:
  template <class Work>
  static void each(std::size_t num, const Windows& windows, int threads, const Work& work) {
    const std::size_t rows = num * windows.rows();
    const std::size_t values = num * windows.height * windows.width * windows.channels;
    const std::size_t parts = values < kAlone ? 1 : 8 * threads;
    native::Pool::of_process().run(threads, static_cast<int>(parts), [&](int part, int) {
      work(rows * part / parts, rows * (part + 1) / parts);
    });
  }
};

template <class T>
void offer(nb::module_& m, const char* name) {
  using Offered = Maps<T>;
  nb::class_<Offered>(m, name)
      .def("__init__", [](Offered* self, const std::string& isa) {
        for (const Isa* each : isas())
          if (isa == each->name) {
            new (self) Offered{*each};
            return;
          }
        throw nb::value_error("this processor does not have the instruction set");
      }, nb::arg("isa"))
      .def_prop_ro("products", [](const Offered& self) { return products_of<T>(self.isa); },
                   nb::rv_policy::reference)
      .def("norm_forward", &Offered::norm_forward, nb::call_guard<nb::gil_scoped_release>())
      .def("norm_backward", &Offered::norm_backward, nb::call_guard<nb::gil_scoped_release>())
      .def("pool_forward", &Offered::pool_forward, nb::call_guard<nb::gil_scoped_release>())
      .def("pool_backward", &Offered::pool_backward, nb::call_guard<nb::gil_scoped_release>());
}

void offer_products(nb::module_& m) {
  nb::class_<Convolved>(m, "Convolved")
      .def(nb::init<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
                    std::size_t>(),
           nb::arg("num"), nb::arg("height"), nb::arg("width"), nb::arg("inputs"),
           nb::arg("outputs"), nb::arg("stride"));
  nb::class_<Products>(m, "Products")
      .def("takes", [](const Products&, std::size_t inputs, std::size_t outputs) {
        return inputs % kInputs == 0 && outputs % kPaired == 0;
      }, nb::arg("inputs"), nb::arg("outputs"))
      .def("weight_gradient", [](const Products& products, Address x, Address dy,
                                 const Convolved& shape, int threads, Address dw) {
        weight_gradient(products, at<Bf16>(x), at<Bf16>(dy), shape, threads, at<Bf16>(dw));
      }, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace
}  // namespace maps

NB_MODULE(_kernels, m) {
  nb::set_leak_warnings(false);  // of kernels that are kept until the process ends
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const maps::Isa* each : maps::isas()) names.emplace_back(each->name);
    return names;
  });
  m.def("pixels_in_a_row", [](std::size_t pixels, std::size_t channels) {
    return maps::pixels_in_a_row({pixels, channels});
  }, nb::arg("pixels"), nb::arg("channels"));
  m.attr("POOLED_CHANNELS") = maps::kChannels;
  nb::class_<maps::Windows>(m, "Windows")
      .def(nb::init<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t>(),
           nb::arg("height"), nb::arg("width"), nb::arg("channels"), nb::arg("high"),
           nb::arg("wide"));
  maps::offer<float>(m, "Fp32");
  maps::offer<maps::Bf16>(m, "Bf16");
  maps::offer_products(m);
}
