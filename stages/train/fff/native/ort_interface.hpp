// The part of ONNX Runtime's C interface that an operator of ours calls, in our own words.
//
// Python's package of ONNX Runtime brings no headers, and little is needed: the interface is one
// table of functions that only grows at its end, so that a function's place in it, and its
// arguments, stay what they were in the version that it came with. All of these came by 1.17.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

constexpr std::uint32_t kVersion = 20;  // asked for; the table then has at least these places
constexpr int kFloat = 1;               // an element type
constexpr int kFail = 1, kInvalidArgument = 2;
constexpr int kRequired = 0, kOptional = 1;  // what an input can be

// Things of ONNX Runtime's own, known by address.
struct Status;
struct Value;
struct Shape;
struct KernelInfo;
struct KernelContext;
struct ShapeContext;
struct Domain;
struct SessionOptions;

struct Functions {  // the table
  const void* at[1];
};
struct Base {
  const Functions* (*functions)(std::uint32_t version);  // null: it is older than that
  const char* (*version)();
};

// A place in the table, and what stands there.
template <int Place, class Result, class... Arguments>
struct Function {
  using Pointer = Result (*)(Arguments...);
  static Result call(const Functions* table, Arguments... arguments) {
    return reinterpret_cast<Pointer>(const_cast<void*>(table->at[Place]))(arguments...);
  }
};
template <int Place, class... Arguments>
using Asking = Function<Place, Status*, Arguments...>;  // null: it went well

using CreateStatus = Function<0, Status*, int, const char*>;
using CreateDomain = Asking<26, const char*, Domain**>;
using AddOperator = Asking<27, Domain*, const struct Operator*>;
using AddDomain = Asking<28, SessionOptions*, Domain*>;
using DataOf = Asking<51, const Value*, void**>;
using NumDims = Asking<61, const Shape*, std::size_t*>;
using Dims = Asking<62, const Shape*, std::int64_t*, std::size_t>;
using ShapeOf = Asking<65, const Value*, Shape**>;
using IntAttribute = Asking<86, const KernelInfo*, const char*, std::int64_t*>;
using TextAttribute = Asking<87, const KernelInfo*, const char*, char*, std::size_t*>;
using Input = Asking<90, const KernelContext*, std::size_t, const Value**>;
using Output = Asking<91, KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**>;
using ReleaseStatus = Function<93, void, Status*>;
using ReleaseShape = Function<99, void, Shape*>;
using NumInputs = Asking<230, const KernelInfo*, std::size_t*>;
using ConstantInput = Asking<249, const KernelInfo*, std::size_t, int*, const Value**>;

// An operator, as ONNX Runtime asks about it; null where the default will do.
struct Operator {
  using Self = const Operator*;
  std::uint32_t version;
  void* (*create_old)(Self, const Functions*, const KernelInfo*);
  const char* (*name)(Self);
  const char* (*provider)(Self);  // null: the CPU's
  int (*input_type)(Self, std::size_t);
  std::size_t (*num_inputs)(Self);
  int (*output_type)(Self, std::size_t);
  std::size_t (*num_outputs)(Self);
  void (*compute_old)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  int (*input_kind)(Self, std::size_t);
  int (*output_kind)(Self, std::size_t);
  int (*input_memory)(Self, std::size_t);
  int (*least_variadic_inputs)(Self);
  int (*variadic_inputs_alike)(Self);
  int (*least_variadic_outputs)(Self);
  int (*variadic_outputs_alike)(Self);
  Status* (*create)(Self, const Functions*, const KernelInfo*, void** kernel);
  Status* (*compute)(void* kernel, KernelContext*);
  Status* (*infer_shapes)(Self, ShapeContext*);
  int (*first_version)(Self);
  int (*last_version)(Self);
  std::size_t (*may_be_in_place)(int**, int**);
  void (*release_in_place)(int*, int*);
  std::size_t (*aliases)(int**, int**);
  void (*release_aliases)(int*, int*);
};

}  // namespace ort
