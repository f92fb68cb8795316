"""The samples and error samples that torch tests its own recurrent modules with, run on ours.

They come from torch's ModuleInfo database, which is internal to torch: should it move, this file fails at its import.
The tests are those of torch's `TestModule` that concern a recurrent module on one device.
"""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Torch's test utilities forbid to set torch.backends' flags, for all tests of the process, where they are imported.
torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
INFOS: dict[str, Any] = {
    info.module_cls.__name__: info for info in module_db if info.name in {f"nn.{n}" for n in NAMES}
}
DTYPES = (torch.float32, torch.float64)

pytestmark = [
    pytest.mark.parametrize("name", NAMES),
    # Torch says where its own LSTM is slow.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
of_every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
of_every_type = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def samples(
    name: str, dtype: torch.dtype, *, training: bool = True, requires_grad: bool = False, packed: bool = False
) -> list[Any]:
    """Torch's samples for the module, with packed sequences where they have some and are wanted."""
    info = INFOS[name]
    options = {"with_packed_sequence": True} if packed and name in {"GRU", "RNN"} else {}
    return list(
        info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training, **options
        )
    )


def make(sample: Any, name: str, namespace: Any = fused_rnn, training: bool = True, **options: Any) -> Any:
    given = sample.constructor_input
    return getattr(namespace, name)(*given.args, **given.kwargs, **options).train(training)


def pairs(
    name: str, dtype: torch.dtype, training: bool, **options: Any
) -> Iterator[tuple[Any, torch.nn.Module, torch.nn.Module]]:
    """Each sample with our module and torch.nn's, whose parameters are the same."""
    for sample in samples(name, dtype, training=training, **options):
        ours, theirs = (make(sample, name, each, training).to(dtype) for each in (fused_rnn, torch.nn))
        ours.load_state_dict(theirs.state_dict())
        yield sample, ours, theirs


def called(module: torch.nn.Module, sample: Any) -> Any:
    return module(*sample.forward_input.args, **sample.forward_input.kwargs)


def flat(tree: Any) -> list[torch.Tensor]:
    """The tensors of a result or of arguments, in order; of a packed sequence the data."""
    if isinstance(tree, PackedSequence):
        return [tree.data]
    return [tree] if isinstance(tree, torch.Tensor) else [tensor for part in tree for tensor in flat(part)]


def assert_same(actual: Any, expected: Any, *, exactly: bool = False) -> None:
    tolerance = 0.0 if exactly else None
    torch.testing.assert_close(flat(actual), flat(expected), rtol=tolerance, atol=tolerance)


def test_torch_has_samples_and_errors_for_the_module(name: str) -> None:
    assert INFOS[name].module_cls is getattr(torch.nn, name)
    assert set(DTYPES) == set(INFOS[name].supported_dtypes("cpu"))
    assert len(samples(name, torch.float32)) >= 2
    assert len(error_samples(name, torch.float32)) >= 4


@of_every_mode
@of_every_type
def test_outputs_are_those_of_torch_and_of_the_reference(name: str, dtype: torch.dtype, training: bool) -> None:
    for sample, ours, theirs in pairs(name, dtype, training, packed=True):
        assert_same(called(ours, sample), called(theirs, sample))
        if sample.reference_fn is not None and not isinstance(sample.forward_input.args[0], PackedSequence):
            given = sample.forward_input
            assert_same(called(ours, sample), sample.reference_fn(ours, *given.args, **given.kwargs))


@of_every_mode
@of_every_type
def test_gradients_are_those_of_torch(name: str, dtype: torch.dtype, training: bool) -> None:
    for sample, ours, theirs in pairs(name, dtype, training, requires_grad=True, packed=True):
        inputs, found = flat(sample.forward_input.args), []
        for module in (theirs, ours):
            results = flat(called(module, sample))
            torch.manual_seed(1)
            arriving = [torch.randn_like(result) for result in results]
            found.append(torch.autograd.grad(results, [*inputs, *module.parameters()], arriving))
        assert_same(found[1], found[0])


def as_function(name: str, sample: Any, training: bool) -> tuple[Callable[..., tuple[torch.Tensor, ...]], list[Any]]:
    """The module as a function of its inputs and parameters, and those, in float64."""
    module = make(sample, name, training=training).double()
    names = [each for each, _ in module.named_parameters()]
    inputs = flat(sample.forward_input.args)
    nested = len(sample.forward_input.args) == 2 and not isinstance(sample.forward_input.args[1], torch.Tensor)

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments = (values[0], values[1:3]) if nested else values[: len(inputs)]
        parameters = dict(zip(names, values[len(inputs) :], strict=True))
        return tuple(flat(torch.func.functional_call(module, parameters, arguments)))

    return function, [*inputs, *module.parameters()]


@of_every_mode
def test_gradients_are_finite_differences(name: str, training: bool) -> None:
    for sample in samples(name, torch.float64, training=training, requires_grad=True):
        assert torch.autograd.gradcheck(*as_function(name, sample, training), fast_mode=True)


def test_second_gradients_are_finite_differences(name: str) -> None:
    for sample in samples(name, torch.float64, requires_grad=True):
        # batch_first, which only transposes, need not be told again what gradients that are not there do.
        undefined = not sample.constructor_input.kwargs.get("batch_first")
        function, inputs = as_function(name, sample, training=True)
        assert torch.autograd.gradgradcheck(function, inputs, check_undefined_grad=undefined, fast_mode=True)


@of_every_mode
def test_copies_and_pickles_compute_the_same(name: str, training: bool) -> None:
    for sample in samples(name, torch.float32, training=training):
        module, saved = make(sample, name, training=training), io.BytesIO()
        torch.save(module, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=False)
        for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), loaded):
            assert type(other) is type(module)
            assert other.training is training
            assert_same(called(other, sample), called(module, sample), exactly=True)


def test_a_saved_state_dict_loads_into_the_module_of_torch(name: str) -> None:
    for sample in samples(name, torch.float32):
        module, other, saved = make(sample, name), make(sample, name, torch.nn), io.BytesIO()
        torch.save(module.state_dict(), saved)
        saved.seek(0)
        other.load_state_dict(torch.load(saved, weights_only=True))
        assert_same(called(other, sample), called(module, sample))


def test_the_text_is_that_of_torch(name: str) -> None:
    for sample in samples(name, torch.float32):
        assert repr(make(sample, name)) == repr(make(sample, name, torch.nn))
        assert str(make(sample, name)) == str(make(sample, name, torch.nn))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16], ids=str)
def test_device_and_dtype_reach_every_parameter(name: str, dtype: torch.dtype, device: str) -> None:
    for sample in samples(name, torch.float32):
        parameters = list(make(sample, name, device=device, dtype=dtype).parameters())
        assert {(p.dtype, p.device.type) for p in parameters} == {(dtype, device)}


def test_the_device_of_a_context_reaches_every_parameter(name: str) -> None:
    for sample in samples(name, torch.float32):
        with torch.device("meta"):
            module = make(sample, name)
        assert all(p.is_meta for p in module.parameters())
        emptied = module.to_empty(device="cpu")
        emptied.load_state_dict(make(sample, name, torch.nn).state_dict())
        assert all(result.isfinite().all() for result in flat(called(emptied, sample)))


@pytest.fixture(params=[False, True], ids=["set", "swap"])
def _both_ways_to_move(request: pytest.FixtureRequest) -> Iterator[None]:
    """Module.to() sets the data of the parameters, or swaps them for new tensors."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(request.param)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.usefixtures("_both_ways_to_move")
@pytest.mark.parametrize(
    "move",
    [
        lambda module: module.double(),
        lambda module: module.half(),
        lambda module: module.bfloat16(),
        lambda module: module.to(torch.float64),
        lambda module: module.to(torch.empty(0, dtype=torch.float16)),
        lambda module: module.to("cpu", torch.float64),
    ],
    ids=["double", "half", "bfloat16", "dtype", "like", "device and dtype"],
)
def test_moved_modules_compute_in_their_new_type(name: str, move: Callable[[Any], Any]) -> None:
    for sample in samples(name, torch.float32):
        module = make(sample, name)
        called(module, sample)  # nothing of the first type may be remembered
        assert move(module) is module
        dtypes = {p.dtype for p in module.parameters()}
        assert len(dtypes) == 1
        dtype = dtypes.pop()
        twin = make(sample, name, dtype=dtype)
        twin.load_state_dict(module.state_dict())
        inputs = torch.utils._pytree.tree_map(partial(torch.Tensor.to, dtype=dtype), sample.forward_input.args)
        results = module(*inputs)
        assert all(result.dtype == dtype for result in flat(results))
        assert_same(results, twin(*inputs), exactly=True)
        assert all(p.grad is None and p.requires_grad and p.is_leaf for p in module.parameters())


@of_every_mode
@of_every_type
def test_strides_of_inputs_and_gradients_do_not_matter(name: str, dtype: torch.dtype, training: bool) -> None:
    def strided(tensor: torch.Tensor) -> torch.Tensor:
        apart = torch.stack([tensor.detach(), torch.full_like(tensor, float("nan"))], -1)[..., 0]
        assert apart.numel() < 2 or not apart.is_contiguous()
        return apart.requires_grad_(tensor.requires_grad)

    for sample in samples(name, dtype, training=training, requires_grad=True):
        module, found = make(sample, name, training=training).to(dtype), []
        for change in (torch.Tensor.contiguous, strided):
            arguments = torch.utils._pytree.tree_map(change, sample.forward_input.args)
            results = flat(module(*arguments))
            arriving = [change(torch.linspace(-1, 1, r.numel(), dtype=dtype).view_as(r)) for r in results]
            inputs = [*flat(arguments), *module.parameters()]
            found.append([*results, *torch.autograd.grad(results, inputs, arriving)])
        assert_same(found[1], found[0])


def test_the_training_flag_is_read_where_torch_says_that_modes_differ(name: str) -> None:
    for sample in samples(name, torch.float32):
        module = make(sample, name)
        del module.training
        if INFOS[name].train_and_eval_differ:
            with pytest.raises(AttributeError, match="training"):
                called(module, sample)
        else:
            called(module, sample)


def error_samples(name: str, dtype: torch.dtype) -> list[Any]:
    info = INFOS[name]
    return list(
        info.module_error_inputs_func(
            info, device=torch.device("cpu"), dtype=dtype, requires_grad=False, training=False
        )
    )


@of_every_type
def test_errors_are_those_of_torch(name: str, dtype: torch.dtype) -> None:
    for error in error_samples(name, dtype):
        sample = error.module_error_input
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                make(sample, name)
        else:
            module = make(sample, name).to(dtype)
            with pytest.raises(error.error_type, match=error.error_regex):
                called(module, sample)
