// fused_rnn._C.Stepper: addresses of contiguous arrays, which the Python class checks and keeps alive, in and out.
#include "python/stepper_class.h"

#include <pybind11/stl.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cpu/stepper.h"
#include "python/python_problem.h"
#include "python/tensor_exchange.h"

namespace py = pybind11;

namespace fused_rnn {

namespace {

using Address = uintptr_t;
using Addresses = std::vector<Address>;  // w_ih, w_hh, b_ih, b_hh, w_hr, unit_weights; 0: none

const void* input_at(Address address) { return reinterpret_cast<const void*>(address); }
void* output_at(Address address) { return reinterpret_cast<void*>(address); }

// A tensor without memory, such as one on the meta device, has the address 0.
void check_memory(std::initializer_list<Address> addresses) {
  for (const Address address : addresses) {
    if (address == 0) throw py::value_error("a Stepper needs tensors that have memory");
  }
}

StepStorage storage_by_name(const std::string& name) {
  if (name == "exact") return StepStorage::kExact;
  if (name == "bfloat16") return StepStorage::kBFloat16;
  if (name == "int8") return StepStorage::kInt8;
  throw py::value_error("storage must be exact, bfloat16 or int8, got \"" + name + "\"");
}

std::unique_ptr<Stepper> make_stepper(const py::object& named, const std::string& storage,
                                      const std::vector<Addresses>& layers, int threads) {
  const Problem p = problem_of(named);
  if (p.projected && p.heads > 1) throw py::value_error("heads have no projection");
  if (p.batch < 1 || p.input_size < 1 || layers.empty()) throw py::value_error("a stepper needs rows, inputs, layers");
  std::vector<Stepper::Layer> made;
  for (const Addresses& a : layers) {
    if (a.size() != 6) throw py::value_error("a layer has six addresses, got " + std::to_string(a.size()));
    check_memory({a[0]});
    if (p.cell.recurrent_gates > 0) check_memory({a[1]});
    const StepProblem problem{.cell = p.cell,
                              .type = p.type,
                              .storage = storage_by_name(storage),
                              .rounds_factors = p.rounds_factors,
                              .threads = std::max(threads, 1),
                              .batch = p.batch,
                              .input_size = made.empty() ? p.input_size : p.heads * p.output_size,
                              .hidden_size = p.heads * p.hidden_size,
                              .output_size = p.heads * p.output_size,
                              .projected = p.projected,
                              .heads = p.heads};
    made.push_back(
        {problem, {input_at(a[0]), input_at(a[1]), input_at(a[2]), input_at(a[3]), input_at(a[4]), input_at(a[5])}});
  }
  return std::make_unique<Stepper>(made, threads);
}

// Null where torch has none of this version.
const exchange::Api* exchange_api() {
  static const exchange::Api* const found = []() -> const exchange::Api* {
    constexpr const char* kName = "dlpack_exchange_api";
    const py::object tensor_type = py::module_::import("torch").attr("Tensor");
    const py::object capsule = py::getattr(tensor_type, "__dlpack_c_exchange_api__", py::none());
    if (PyCapsule_IsValid(capsule.ptr(), kName) == 0) return nullptr;
    const auto* api = static_cast<const exchange::Api*>(PyCapsule_GetPointer(capsule.ptr(), kName));
    return api->major_version == exchange::kMajorVersion && api->view != nullptr ? api : nullptr;
  }();
  return found;
}

// The memory of a tensor [B, size], or [size] where B is 1. Null: it is not contiguous memory on the CPU, or of another
// type or shape.
void* memory_of_step(const exchange::TensorInMemory& tensor, const Stepper& stepper, int64_t size) {
  const auto& [code, bits, lanes] = tensor.type;
  if (code != exchange::kFloatCode || bits != 8 * stepper.element_bytes() || lanes != 1) return nullptr;
  if (tensor.device.type != exchange::kCpu) return nullptr;
  const int last = tensor.dimensions - 1;
  if (last != 1 && !(last == 0 && stepper.batch() == 1)) return nullptr;
  if (tensor.shape[last] != size || (last == 1 && tensor.shape[0] != stepper.batch())) return nullptr;
  const bool strided = tensor.strides != nullptr && ((size != 1 && tensor.strides[last] != 1) ||
                                                     (stepper.batch() != 1 && tensor.strides[0] != size));
  return strided ? nullptr : static_cast<char*>(tensor.data) + tensor.byte_offset;
}

// Makes a step where x and out are plain; false says that they are not, or are wrong, and that nothing was done.
bool step_plain(Stepper& stepper, PyObject* x, PyObject* out) {
  if (exchange_api() == nullptr) return false;
  exchange::TensorInMemory from, to;
  if (exchange_api()->view(x, &from) != 0 || exchange_api()->view(out, &to) != 0) {
    PyErr_Clear();
    return false;
  }
  const void* const given = memory_of_step(from, stepper, stepper.input_size());
  void* const result = memory_of_step(to, stepper, stepper.output_size());
  if (given == nullptr || result == nullptr || from.dimensions != to.dimensions) return false;
  constexpr int64_t kLong = 1 << 18;  // bytes of weights times rows; to let other threads run takes 0.1 us
  std::optional<py::gil_scoped_release> without_lock;
  if (stepper.weight_bytes() * stepper.batch() >= kLong) without_lock.emplace();
  stepper.steps(given, result, 1);
  return true;
}

// `step_plain` of a stepper as a function of x and out: a method of a class takes 0.2 us longer.
py::object plain_step(const py::object& owner) {
  const auto step = [](PyObject* capsule, PyObject* const* given, Py_ssize_t count) -> PyObject* {
    if (count != 2) {
      PyErr_SetString(PyExc_TypeError, "a plain step takes x and out");
      return nullptr;
    }
    auto* const stepper = static_cast<Stepper*>(PyCapsule_GetPointer(capsule, nullptr));
    try {
      return PyBool_FromLong(step_plain(*stepper, given[0], given[1]) ? 1 : 0);
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return nullptr;
    }
  };
  PyObject* (*const function)(PyObject*, PyObject* const*, Py_ssize_t) = step;
  static PyMethodDef method{"step_plain", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function)),
                            METH_FASTCALL, nullptr};
  const auto release = [](PyObject* capsule) { Py_DECREF(static_cast<PyObject*>(PyCapsule_GetContext(capsule))); };
  const auto capsule = py::reinterpret_steal<py::object>(PyCapsule_New(owner.cast<Stepper*>(), nullptr, release));
  PyCapsule_SetContext(capsule.ptr(), py::object(owner).release().ptr());
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, capsule.ptr()));
}

}  // namespace

void define_stepper(py::module_& m) {
  using WithoutLock = py::call_guard<py::gil_scoped_release>;
  py::class_<Stepper>(m, "Stepper")
      .def(py::init(&make_stepper), py::arg("problem"), py::arg("storage"), py::arg("layers"), py::arg("threads"))
      .def("clone", &Stepper::clone, WithoutLock())
      .def_property_readonly("threads", &Stepper::threads)
      .def_property_readonly("weight_bytes", &Stepper::weight_bytes)
      .def(
          "steps",
          [](Stepper& self, Address x, Address y, int64_t count) {
            if (count > 0) check_memory({x, y});
            self.steps(input_at(x), output_at(y), count);
          },
          WithoutLock())
      .def("plain_step", &plain_step)
      .def(
          "get_state",
          [](Stepper& self, Address h, Address c) {
            check_memory({h, c});
            self.get_state(output_at(h), output_at(c));
          },
          WithoutLock())
      .def(
          "set_state",
          [](Stepper& self, Address h, Address c) {
            check_memory({h, c});
            self.set_state(input_at(h), input_at(c));
          },
          WithoutLock())
      .def(
          "reset", [](Stepper& self, Address rows) { self.reset(static_cast<const uint8_t*>(input_at(rows))); },
          WithoutLock());
}

}  // namespace fused_rnn
