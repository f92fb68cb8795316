// fused_rnn._C.run_short and short_gradients: the two passes of a small layer in training, from the tensors of Python
// to those of Python. Torch's dispatcher and steps of Python around an op would take longer than such a layer.
//
// Both return None where they have done nothing: a tensor is not plain memory on the CPU, or the layer is not small.
// The caller sees to it that no mode of torch wants to see the ops.
#include "python/short_calls.h"

#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>

#include "binding/allocator.h"
#include "binding/layer_ops.h"

namespace py = pybind11;

namespace fused_rnn {

namespace {

// Multiplications by one matrix in a call. Own kernels make all GEMMs below, whatever the type and the processor: see
// use_own_gemm in fused_rnn/_products.py.
constexpr int64_t kShort = 1 << 20;

// What torch has for code that takes and gives tensors of Python by handle, as inductor's C++ wrapper does. (Its
// function for a single result loses a reference.)
struct TorchPython {
  PyObject *tensor_type, *parameter_type, *is_negative, *take_handle, *give_handles;
};

const TorchPython& torch_python() {
  static const TorchPython found = [] {
    const py::module_ torch = py::module_::import("torch");
    const py::object handles = torch.attr("_C").attr("_aoti");
    const auto kept = [](py::object object) { return object.release().ptr(); };
    return TorchPython{kept(torch.attr("Tensor")), kept(torch.attr("nn").attr("Parameter")),
                       kept(torch.attr("Tensor").attr("is_neg")),
                       kept(handles.attr("unsafe_alloc_void_ptr_from_tensor")),
                       kept(handles.attr("alloc_tensors_by_stealing_from_void_ptrs"))};
  }();
  return found;
}

py::object called(PyObject* function, PyObject* argument) {
  PyObject* const result = PyObject_CallOneArg(function, argument);
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// Thrown where somebody else has to look at an argument.
struct NotPlain {};

OptionalTensor plain_tensor(const py::handle& given) {
  if (given.is_none()) return std::nullopt;
  const TorchPython& torch = torch_python();
  const py::handle type = py::type::handle_of(given);
  if (type.ptr() != torch.tensor_type && type.ptr() != torch.parameter_type) throw NotPlain();
  const py::object capsule = called(torch.take_handle, given.ptr());
  Tensor tensor(static_cast<AtenTensorHandle>(PyCapsule_GetPointer(capsule.ptr(), nullptr)));
  int32_t layout = 0, dtype = 0;
  const void* memory = nullptr;  // an error, or null, of a tensor that stands for others
  if (!tensor.is_cpu() || aoti_torch_get_dtype(tensor.get(), &dtype) != 0 ||
      torch::headeronly::isQIntType(static_cast<torch::headeronly::ScalarType>(dtype)) ||
      aoti_torch_get_layout(tensor.get(), &layout) != 0 || layout != aoti_torch_layout_strided() ||
      torch_get_const_data_ptr(tensor.get(), &memory) != 0 || (memory == nullptr && tensor.numel() > 0) ||
      called(torch.is_negative, given.ptr()).ptr() != Py_False) {
    throw NotPlain();
  }
  return tensor;
}

const Tensor& needed(const OptionalTensor& tensor) {
  if (!tensor.has_value()) throw NotPlain();
  return *tensor;
}

// The fields of LayerArguments (fused_rnn/_tensors.py), or of StepArguments, which have neither w_hr nor what is behind
// c_0.
enum Field { kX, kWIh, kBIh, kWHh, kBHh, kWHr, kH0, kC0, kLengths, kResets, kUnitWeights, kZoneout, kMask, kFields };
constexpr size_t kStepFields = 7;

constexpr size_t field_at(size_t place, bool is_step) { return is_step && place >= kWHr ? place + 1 : place; }

struct GivenTensors {
  std::array<OptionalTensor, kFields> tensors;

  const OptionalTensor& operator[](Field field) const { return tensors[field]; }

  bool are_short() const {
    const Tensor& x = needed(tensors[kX]);
    if (x.dim() != 3) return false;
    const int64_t rows = x.size(0) * x.size(1);
    for (const Field each : {kWIh, kWHh, kWHr}) {
      if (tensors[each].has_value() && rows * tensors[each]->numel() >= kShort) return false;
    }
    return true;
  }
};

// Rows of a cell, x [B, I] and states [B, H], as those of a layer for one step; and its results as those of a cell.
OptionalTensor as_step(const OptionalTensor& rows) {
  if (!rows.has_value()) return rows;
  if (rows->dim() != 2) throw NotPlain();
  return strided(*rows, {1, rows->size(0), rows->size(1)}, {0, rows->stride(0), rows->stride(1)});
}
void make_rows(Tensor& step) {
  if (!is_absent(step)) step = reshaped(step, {step.size(1), step.size(2)});
}

CellName cell_name(const std::string& name) {  // which the op deletes
  CellName made{};
  TORCH_ERROR_CODE_CHECK(torch_new_string_handle(name.data(), name.size(), &made.handle));
  return made;
}

// Some results of a call as tensors of Python; None for what it does not have.
template <size_t N>
std::array<py::object, N> to_python(const std::array<const Tensor*, N>& results) {
  std::array<py::object, N> made;
  py::list capsules;
  std::array<bool, N> there{};
  for (size_t i = 0; i < N; ++i) {
    made[i] = py::none();
    there[i] = results[i] != nullptr && !is_absent(*results[i]);
    if (!there[i]) continue;
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(results[i]->get(), &handle));
    capsules.append(py::capsule(handle));
  }
  const py::list tensors = called(torch_python().give_handles, capsules.ptr());
  for (size_t i = 0, next = 0; i < N; ++i) {
    if (there[i]) made[i] = tensors[next++];
  }
  return made;
}

// The layer on LayerArguments and the places of a packed sequence, or on StepArguments. Returns the results that the
// caller is given, the tensors to be saved (what was given, and Kept), and which of these there are.
py::object run_short(const std::string& cell, const py::tuple& given, int64_t directions, bool hand_out,
                     bool round_factors, int64_t heads) try {
  const bool is_step = given.size() == kStepFields;
  GivenTensors t;
  for (size_t i = 0; i < given.size() && i < kFields; ++i) t.tensors[field_at(i, is_step)] = plain_tensor(given[i]);
  for (const Field each : {kX, kH0, kC0}) {
    if (is_step) t.tensors[each] = as_step(t[each]);
  }
  if (!t.are_short()) return py::none();
  const Tensor &x = needed(t[kX]), &w_ih = needed(t[kWIh]), &w_hh = needed(t[kWHh]);
  std::optional<LayerResult> result;
  {
    const py::gil_scoped_release without_lock;
    result = layer_ops().layer(cell_name(cell), x, w_ih, t[kBIh], w_hh, t[kBHh], t[kWHr], t[kH0], t[kC0], t[kLengths],
                               t[kResets], t[kUnitWeights], t[kZoneout], t[kMask], directions, true, hand_out,
                               round_factors, heads);
  }
  if (is_step) {
    make_rows(std::get<1>(*result));
    make_rows(std::get<2>(*result));
  }
  const auto& [made_output, made_h_n, made_c_n, made_cells, made_saved, made_hidden, made_copy] = *result;
  const auto [output, h_n, c_n, cells, saved, hidden, copy] = to_python<7>(
      {&made_output, &made_h_n, &made_c_n, &made_cells, &made_saved, &made_hidden, hand_out ? &made_copy : nullptr});
  py::list present;
  py::list to_save;
  const auto save = [&](const py::handle& tensor) {
    present.append(!tensor.is_none());
    if (!tensor.is_none()) to_save.append(tensor);
  };
  for (const py::handle tensor : given) save(tensor);
  for (const py::handle tensor : {output, cells, saved, hidden}) save(tensor);
  py::tuple results = py::make_tuple(hand_out ? copy : output, h_n, c_n, cells);
  if (is_step) results = c_n.is_none() ? py::tuple(py::make_tuple(h_n)) : py::tuple(py::make_tuple(h_n, c_n));
  return py::make_tuple(results, to_save, present);
} catch (const NotPlain&) {
  return py::none();
}

// [T, B, D*P] as [T, B, D, P].
OptionalTensor by_direction(const OptionalTensor& steps, int64_t directions) {
  if (!steps.has_value() || steps->dim() != 3) return steps;
  const int64_t width = steps->size(2) / directions;
  return strided(*steps, {steps->size(0), steps->size(1), directions, width},
                 {steps->stride(0), steps->stride(1), width * steps->stride(2), steps->stride(2)});
}

// The gradients of what `needs` says, which has one more in front, in its order; None elsewhere. From the tensors that
// were saved, which of them there are, and the gradients of the results.
py::object short_gradients(const std::string& cell, const py::tuple& saved, const py::list& present,
                           const py::tuple& needs, const py::tuple& incoming, bool round_factors, int64_t heads) try {
  constexpr size_t kKept = 4;  // the fields of Kept
  const size_t given = needs.size() - 1, first_kept = present.size() - kKept;
  const bool is_step = given == kStepFields;
  GivenTensors t;
  std::array<OptionalTensor, kKept> kept;
  for (size_t i = 0, next = 0; i < present.size(); ++i) {
    if (!present[i].cast<bool>()) continue;
    const py::handle tensor = saved[next++];
    if (i >= first_kept) {
      kept[i - first_kept] = plain_tensor(tensor);
    } else if (i < given) {
      t.tensors[field_at(i, is_step)] = plain_tensor(tensor);
    }
  }
  const auto& [output, cells, values, hidden] = kept;
  std::array<OptionalTensor, 4> d;  // of the output, h_n, c_n and cells
  bool any = false;
  for (size_t i = 0; i < incoming.size(); ++i) {
    d[i + (is_step ? 1 : 0)] = plain_tensor(incoming[i]);
    any = any || !incoming[i].is_none();
  }
  if (!any) return py::none();
  if (is_step) {
    for (const Field each : {kX, kH0, kC0}) t.tensors[each] = as_step(t[each]);
    for (const size_t each : {1, 2}) d[each] = as_step(d[each]);
  }
  d[0] = by_direction(d[0], needed(output).size(2));
  std::array<bool, kFields> need{};
  for (size_t i = 0; i < given; ++i) need[field_at(i, is_step)] = needs[i + 1].ptr() == Py_True;

  std::optional<LayerGradientsResult> result;
  {
    const py::gil_scoped_release without_lock;
    result = layer_ops().layer_backward(
        cell_name(cell), d[0], d[1], d[2], d[3], needed(t[kX]), needed(t[kWIh]), needed(t[kWHh]), t[kWHr],
        needed(output), cells.has_value() ? *cells : needed(output), needed(values), hidden, t[kH0], t[kC0],
        t[kLengths], t[kResets], t[kUnitWeights], t[kZoneout], t[kMask], need[kX], need[kWIh], need[kWHh],
        need[kBIh] || need[kBHh], need[kWHr], round_factors, heads);
  }
  if (is_step) {
    make_rows(std::get<0>(*result));
    make_rows(std::get<6>(*result));
    make_rows(std::get<7>(*result));
  }
  const auto& [d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_w_hr, d_h_0, d_c_0, d_unit_weights] = *result;
  std::array<const Tensor*, kFields> gradients{&d_x,   &d_w_ih, &d_b_ih, &d_w_hh, &d_b_hh,        &d_w_hr,
                                               &d_h_0, &d_c_0,  nullptr, nullptr, &d_unit_weights};
  for (size_t i = 0; i < kFields; ++i) gradients[i] = need[i] ? gradients[i] : nullptr;
  const std::array<py::object, kFields> found = to_python(gradients);
  py::tuple all(given + 1);
  all[0] = py::none();
  for (size_t i = 0; i < given; ++i) all[i + 1] = found[field_at(i, is_step)];
  return all;
} catch (const NotPlain&) {
  return py::none();
}

}  // namespace

void define_short_calls(py::module_& m) {
  m.def("run_short", &run_short);
  m.def("short_gradients", &short_gradients);
}

}  // namespace fused_rnn
