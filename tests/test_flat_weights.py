"""Tensors that are put into the list `_flat_weights`, beside torch.nn: what counts, for how long, and its gradients."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrizations

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("LSTM", "GRU", "RNN")),
    *((name, {"num_layers": 2, "bidirectional": True}) for name in ("LSTM", "GRU", "RNN")),
    ("LSTM", {"proj_size": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": 2, "bias": False, "num_layers": 2}),
    ("RNN", {"nonlinearity": "relu", "bias": False, "batch_first": True}),
]
of_every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def pair(name: str = "LSTM", **options: Any) -> tuple[Any, Any]:
    """A layer of this package and one of torch.nn with the same parameters."""
    ours, theirs = (getattr(each, name)(3, 4, dtype=torch.float64, **options) for each in (fused_rnn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def tensors_like(layer: Any, seed: int = 1) -> list[torch.Tensor]:
    """Leaves with other values, of other strides where there are two dimensions."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(weight.shape[::-1], generator=generator, dtype=torch.float64) for weight in layer.parameters()]
    return [(tensor.t() if tensor.dim() == 2 else tensor).requires_grad_() for tensor in made]


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(flat(actual), flat(expected))


def computes_with(ours: Any, theirs: Any, x: torch.Tensor = X) -> bool:
    """Whether a call uses other tensors than the parameters; both layers agree on it and on the result."""
    used = []
    for layer in (ours, theirs):
        fresh = type(layer)(layer.input_size, layer.hidden_size, dtype=x.dtype)
        fresh.load_state_dict({key: value.detach() for key, value in layer.state_dict().items()})
        used.append(not torch.equal(layer(x)[0], fresh(x)[0]))
    assert_same(ours(x), theirs(x))
    assert used[0] == used[1]
    return used[0]


def assign_list(layer: Any) -> None:
    layer._flat_weights = [tensor.detach() for tensor in tensors_like(layer)]


def assign_item(layer: Any) -> None:
    layer._flat_weights[1] = tensors_like(layer)[1].detach()


of_both_ways = pytest.mark.parametrize("assign", [assign_list, assign_item])


@of_every_case
def test_an_assigned_list_is_used_and_gets_the_gradients(name: str, options: dict[str, Any]) -> None:
    found = []
    for layer in pair(name, **options):
        given = tensors_like(layer)
        layer._flat_weights = [2 * tensor for tensor in given]
        results = flat(layer(X))
        torch.stack([result.sin().sum() for result in results]).sum().backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is None for parameter in layer.parameters())
        found.append([*results, *(tensor.grad for tensor in given)])
    assert_same(*found)


@of_every_case
def test_an_assigned_item_is_used_beside_the_parameters(name: str, options: dict[str, Any]) -> None:
    for index in range(len(pair(name, **options)[0]._flat_weights_names)):
        found = []
        for layer in pair_like(name, options):
            given = tensors_like(layer)[index]
            layer._flat_weights[index] = given
            results = flat(layer(X))
            torch.stack([result.sin().sum() for result in results]).sum().backward()  # type: ignore[no-untyped-call]
            grads = [parameter.grad for parameter in layer.parameters()]
            assert [grad is None for grad in grads] == [place == index for place in range(len(grads))]
            found.append([*results, given.grad, *(grad for grad in grads if grad is not None)])
        assert_same(*found)


def pair_like(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    torch.manual_seed(3)
    return pair(name, **options)


@of_every_case
def test_a_restored_list_is_the_parameters_again(name: str, options: dict[str, Any]) -> None:
    for layer in pair(name, **options):
        before, kept = layer(X), layer._flat_weights
        layer._flat_weights = tensors_like(layer)
        assert not torch.equal(layer(X)[0], before[0])
        layer._flat_weights = kept
        assert_same(layer(X), before)


def test_drop_connect_draws_the_same_masks_as_in_torch() -> None:
    def drop_connect(base: Any) -> Any:
        class DropConnect(base):  # type: ignore[misc]
            def forward(self, x: torch.Tensor, hx: Any = None) -> Any:
                kept: list[Any] = self._flat_weights  # type: ignore[has-type]
                self._flat_weights = [
                    F.dropout(weight, 0.5) if "weight_hh" in name else weight
                    for name, weight in zip(self._flat_weights_names, kept, strict=True)
                ]
                result = super().forward(x, hx)
                self._flat_weights = kept
                return result

        return DropConnect(3, 4, num_layers=2, dtype=torch.float64)

    ours, theirs = drop_connect(fused_rnn.LSTM), drop_connect(torch.nn.LSTM)
    ours.load_state_dict(theirs.state_dict())
    found = []
    for layer in (ours, theirs):
        torch.manual_seed(0)
        results = [layer(X)[0], layer(X)[0]]
        assert not torch.equal(*results)
        sum(result.sum() for result in results).backward()
        found.append([*results, *(parameter.grad for parameter in layer.parameters())])
    assert_same(*found)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@of_both_ways
@pytest.mark.parametrize(
    ("after", "stays"),
    [
        (lambda _: None, True),
        (lambda layer: layer.load_state_dict(layer.state_dict()), True),
        (lambda layer: layer.eval(), True),
        (lambda layer: layer.flatten_parameters(), True),
        (copy.deepcopy, True),  # the copy is thrown away
        (lambda layer: layer.to(torch.float32).to(torch.float64), False),
        (lambda layer: layer._apply(lambda tensor: tensor.clone()), False),
        (lambda layer: setattr(layer, "weight_hh_l0", torch.nn.Parameter(torch.ones_like(layer.weight_hh_l0))), False),
        (lambda layer: setattr(layer, "_flat_weights", list(layer.parameters())), False),
        (lambda layer: torch.func.functional_call(layer, dict.fromkeys(["bias_ih_l0"], layer.bias_hh_l0), (X,)), False),
        (lambda layer: layer.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True), False),
    ],
    ids=["nothing", "load", "eval", "flatten", "copied", "to", "apply", "attribute", "parameters", "functional_call",
         "load by assigning"],
)  # fmt: skip
def test_what_is_assigned_counts_as_long_as_in_torch(
    name: str, assign: Callable[[Any], None], after: Callable[[Any], Any], stays: bool
) -> None:
    ours, theirs = pair(name)
    for layer in (ours, theirs):
        assign(layer)
        after(layer)
    assert computes_with(ours, theirs) == stays
    assert computes_with(ours, theirs) == stays  # also in the next call


def reloaded(layer: Any) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@of_both_ways
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, reloaded], ids=["deep", "copy", "file"])
def test_copies_compute_with_the_parameters(duplicate: Callable[[Any], Any], assign: Callable[[Any], None]) -> None:
    ours, theirs = pair()
    for layer in (ours, theirs):
        assign(layer)
    assert not computes_with(duplicate(ours), duplicate(theirs))
    assert computes_with(ours, theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_functional_call_uses_what_it_is_given() -> None:
    ours, theirs = pair()
    found = []
    for layer in (ours, theirs):
        assign_list(layer)
        names = [name for name, _ in layer.named_parameters()]
        found.append(torch.func.functional_call(layer, dict(zip(names, tensors_like(layer, 2), strict=True)), (X,)))
    assert_same(*found)


def test_a_parametrized_layer_computes_with_its_parametrization() -> None:
    ours, theirs = (parametrizations.weight_norm(layer, "weight_hh_l0") for layer in pair())
    ours.load_state_dict(theirs.state_dict())
    for layer in (ours, theirs):
        assign_list(layer)
    assert_same(ours(X), theirs(X))
    assert len(ours._flat_weights) == len(theirs._flat_weights)


class Counted(torch.nn.Module):
    """A parametrization that changes nothing; power iterations and random masks count their calls as well."""

    calls = 0

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return weight.clone()


@pytest.mark.parametrize("form", ["padded", "packed", "lengths"])
@pytest.mark.parametrize(
    ("name", "options"), [*CASES, ("GRU", {"layer_norm": True}), ("LSTM", {"recompute": True})], ids=str
)
def test_a_parametrization_computes_once_a_call(name: str, options: dict[str, Any], form: str) -> None:
    layer = getattr(fused_rnn, name)(3, 4, dtype=torch.float64, **options)
    counted = Counted()
    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", counted)
    counted.calls = 0  # one of the registration
    rows = torch.tensor([5, 3])
    x = X.transpose(0, 1) if layer.batch_first else X
    if form == "packed":
        layer(torch.nn.utils.rnn.pack_padded_sequence(x, rows, batch_first=layer.batch_first))
    else:
        layer(x, lengths=rows if form == "lengths" else None)
    assert counted.calls == 1


def test_a_list_that_somebody_holds_stays_that_of_the_layer() -> None:
    ours, theirs = pair()
    for layer in (ours, theirs):
        flat_weights = layer._flat_weights
        assert layer._flat_weights is flat_weights
        layer(X)
        flat_weights[1] = torch.zeros_like(flat_weights[1])
    assert computes_with(ours, theirs)


def test_the_list_is_that_of_the_parameters() -> None:
    for name, options in CASES:
        ours, _ = pair(name, **options)
        assert all(map(lambda a, b: a is b, ours._flat_weights, ours.parameters()))
        ours.weight_hh_l0 = torch.nn.Parameter(torch.zeros_like(ours.weight_hh_l0))
        assert ours._flat_weights[1] is ours.weight_hh_l0


@pytest.mark.parametrize(
    "change", [lambda flat: flat.pop(), lambda flat: flat.__setitem__(0, None)], ids=["short", "none"]
)
def test_a_list_that_does_not_fit_is_refused_with_the_error_type_of_torch(change: Callable[[Any], Any]) -> None:
    ours, theirs = pair()
    raised = []
    for layer in (ours, theirs):
        layer(X)
        change(layer._flat_weights)
        with pytest.raises((RuntimeError, TypeError, AttributeError)) as caught:
            layer(X)
        raised.append(caught.type)
    assert raised[0] in {raised[1], TypeError}
    with pytest.raises(raised[0], match="_flat_weights"):
        ours(X)


@of_both_ways
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_converted_layer_keeps_what_was_assigned(name: str, assign: Callable[[Any], None]) -> None:
    _, theirs = pair(name)
    assign(theirs)
    assert computes_with(fused_rnn.convert(theirs), theirs)


def test_a_converted_layer_has_no_list_of_its_own_otherwise() -> None:
    assert fused_rnn.convert(torch.nn.LSTM(3, 4))._flat is None  # so that a call does not look at it


def test_a_compiled_layer_uses_what_was_assigned() -> None:
    ours, theirs = pair()
    for layer in (ours, theirs):
        assign_list(layer)
    compiled: Any = torch.compile(ours, backend="eager", fullgraph=True)
    assert_same(compiled(X), theirs(X))


def test_a_stepper_packs_what_was_assigned() -> None:
    ours, theirs = pair()
    for layer in (ours, theirs):
        assign_list(layer)
    stepper = fused_rnn.Stepper(ours, batch_size=2)
    assert_same(torch.stack([stepper.step(x) for x in X]), theirs(X)[0].detach())


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_a_parameter_that_is_none_is_refused_by_its_name(name: str, grad: bool) -> None:
    """torch.nn refuses it too; it reads the biases of a cell as zeros."""
    cell = name.endswith("Cell")
    x = torch.randn(2, 3) if cell else torch.randn(4, 2, 3)
    for parameter in (
        ("weight_ih", "weight_hh") if cell else ("weight_ih_l1", "weight_hh_l0", "bias_ih_l1", "bias_hh_l0")
    ):
        for mode in (torch.nn, fused_rnn):
            module = getattr(mode, name)(3, 4) if cell else getattr(mode, name)(3, 4, 2)
            setattr(module, parameter, None)
            with torch.set_grad_enabled(grad), pytest.raises((TypeError, AttributeError)) as caught:
                module(x)
        assert str(caught.value) == f"{name}: parameter {parameter} must be a Tensor, got None"
