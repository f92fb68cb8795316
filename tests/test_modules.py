"""The modules are drop-in: torch.nn's arguments, parameters and results, and how they live inside torch.

Its parts are construction, calls, and life inside torch. Errors are in test_errors.py.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations

import fused_rnn

LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    {"bias": False, "dtype": torch.float64},
    {"num_layers": 2, "bias": False, "bidirectional": True},
)


def make(namespace: Any, name: str, *arguments: Any, seed: int = 0, **options: Any) -> Any:
    """The class `name` of torch.nn or of fused_rnn."""
    torch.manual_seed(seed)
    return getattr(namespace, name)(*arguments, **options)


def state_of(name: str, *shape: int, **options: Any) -> Any:
    """A random state: a pair for an LSTM."""
    h_0 = torch.randn(shape, **options)
    return (h_0, torch.randn(shape, **options)) if name.startswith("LSTM") else h_0


def flat(result: Any) -> list[torch.Tensor]:
    """The tensors of a result, in order."""
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def assert_same(actual: Any, expected: Any) -> None:
    for one, other in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(one, other)


def total(result: Any) -> Any:
    """The sum of all squares in a result, something to differentiate."""
    return torch.stack([tensor.square().sum() for tensor in flat(result)]).sum()


# --- Construction ---


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_start_from_the_parameters_of_torch(name: str, options: dict[str, Any]) -> None:
    ours, theirs = make(fused_rnn, name, 3, 5, **options), make(torch.nn, name, 3, 5, **options)
    pairs = list(zip(ours.named_parameters(), theirs.named_parameters(), strict=True))
    assert [one for (one, _), _ in pairs] == [other for _, (other, _) in pairs]
    assert all(torch.equal(one, other) for (_, one), (_, other) in pairs)
    assert repr(ours) == repr(theirs)
    assert [len(weights) for weights in ours.all_weights] == [len(weights) for weights in theirs.all_weights]
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dtype": torch.bfloat16}], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_cells_start_from_the_parameters_of_torch(name: str, options: dict[str, Any]) -> None:
    ours, theirs = make(fused_rnn, name, 3, 5, **options), make(torch.nn, name, 3, 5, **options)
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


def test_projection_and_nonlinearity_look_like_torch() -> None:
    for name, options in (("LSTM", {"proj_size": 2, "bias": False}), ("RNN", {"nonlinearity": "relu"}),
                          ("RNNCell", {"nonlinearity": "relu", "bias": False})):  # fmt: skip
        ours, theirs = make(fused_rnn, name, 3, 5, **options), make(torch.nn, name, 3, 5, **options)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", CELLS)
def test_cell_signatures_are_those_of_torch(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(each, name).__init__).parameters for each in (fused_rnn, torch.nn))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_forward_arguments_have_the_names_of_torch(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(each, name).forward).parameters for each in (fused_rnn, torch.nn))
    positional = [(p.name, p.default) for p in ours.values() if p.kind is not p.KEYWORD_ONLY]
    assert positional == [(p.name, p.default) for p in theirs.values()]


def test_dropout_of_one_layer_warns_as_torch_does() -> None:
    for namespace in (fused_rnn, torch.nn):
        with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
            make(namespace, "LSTM", 3, 5, dropout=0.5)


def test_positional_arguments_have_the_order_of_torch() -> None:
    ours = fused_rnn.RNN(3, 5, 2, "relu", False, True, 0.25, True)
    theirs = torch.nn.RNN(3, 5, 2, "relu", False, True, 0.25, True)
    assert repr(ours) == repr(theirs)
    assert ours.nonlinearity == theirs.nonlinearity
    assert repr(fused_rnn.GRU(3, 5, 2, False, True, 0.25, True)) == repr(torch.nn.GRU(3, 5, 2, False, True, 0.25, True))
    assert repr(fused_rnn.LSTM(3, 5, 2, False, True, 0.25, True, 2)) == repr(
        torch.nn.LSTM(3, 5, 2, False, True, 0.25, True, 2)
    )


# --- Calls ---


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_return_what_torch_returns(name: str, options: dict[str, Any], batched: bool) -> None:
    ours, theirs = (make(each, name, 3, 5, **options).eval() for each in (fused_rnn, torch.nn))
    dtype = options.get("dtype", torch.float32)
    rows = ours.num_layers * (2 if ours.bidirectional else 1)
    x = torch.randn(*((4, 2, 3) if batched else (4, 3)), dtype=dtype)
    batch = ((4 if ours.batch_first else 2),) if batched else ()
    for hx in (None, state_of(name, rows, *batch, 5, dtype=dtype)):
        actual, expected = ours(x, hx), theirs(x, hx)
        assert_same(actual, expected)
        assert [t.shape for t in flat(actual)] == [t.shape for t in flat(expected)]
        assert flat(actual)[0].stride() == flat(expected)[0].stride()
        assert type(actual[1]) is type(expected[1])


@pytest.mark.parametrize("proj_options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projected_layers_return_what_torch_returns(proj_options: dict[str, Any]) -> None:
    ours, theirs = (make(each, "LSTM", 3, 5, proj_size=2, **proj_options) for each in (fused_rnn, torch.nn))
    x = torch.randn(4, 2, 3)
    assert_same(ours(x), theirs(x))
    rows = ours.num_layers * (2 if ours.bidirectional else 1)
    batch = 4 if ours.batch_first else 2
    hx = (torch.randn(rows, batch, 2), torch.randn(rows, batch, 5))
    assert_same(ours(x, hx), theirs(x, hx))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size"):
        ours(x, (hx[1], hx[1]))


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dtype": torch.float64}], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_cells_return_what_torch_returns(name: str, options: dict[str, Any], batched: bool) -> None:
    ours, theirs = (make(each, name, 3, 5, **options) for each in (fused_rnn, torch.nn))
    batch = (2,) if batched else ()
    dtype = options.get("dtype", torch.float32)
    x = torch.randn(*batch, 3, dtype=dtype, requires_grad=True)
    for hx in (None, state_of(name, *batch, 5, dtype=dtype)):
        actual, expected = ours(x, hx), theirs(x, hx)
        assert [t.shape for t in flat(actual)] == [t.shape for t in flat(expected)]
        assert_same(actual, expected)
        inputs = [x, *ours.parameters()], [x, *theirs.parameters()]
        gradients = [
            torch.autograd.grad(total(result), each) for result, each in zip((actual, expected), inputs, strict=True)
        ]
        assert_same(*gradients)


def test_a_relu_cell_returns_what_torch_returns() -> None:
    ours, theirs = (make(each, "RNNCell", 3, 5, nonlinearity="relu") for each in (fused_rnn, torch.nn))
    x = torch.randn(2, 3)
    assert_same(ours(x), theirs(x))
    with pytest.raises(RuntimeError, match="Unknown nonlinearity: sin"):
        make(fused_rnn, "RNNCell", 3, 5, nonlinearity="sin")(x)


@pytest.mark.parametrize("name", LAYERS)
def test_strides_of_input_state_and_weights_do_not_matter(name: str) -> None:
    ours = make(fused_rnn, name, 3, 5, num_layers=2, bidirectional=True, dtype=torch.float64)
    x, hx = torch.randn(4, 2, 3, dtype=torch.float64), state_of(name, 4, 2, 5, dtype=torch.float64)
    expected = ours(x, hx)

    def strided(tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor, tensor], -1)[..., 0]

    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.data = strided(parameter.data)
    states = tuple(strided(state) for state in flat(hx))
    assert not ours.weight_hh_l0.is_contiguous()
    assert_same(ours(strided(x), states if name == "LSTM" else states[0]), expected)


def test_a_list_is_as_good_as_a_tuple_for_the_state() -> None:
    layer, x = make(fused_rnn, "LSTM", 3, 5), torch.randn(4, 2, 3)
    hx = state_of("LSTM", 1, 2, 5)
    assert_same(layer(x, list(hx)), layer(x, hx))


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_sequence_returns_the_initial_state(name: str) -> None:
    layer, hx = make(fused_rnn, name, 3, 5, num_layers=2), state_of(name, 2, 4, 5)
    output, h_n = layer(torch.randn(0, 4, 3), hx)
    assert output.shape == (0, 4, 5)
    assert_same(h_n, hx)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch_returns_empty_tensors(name: str) -> None:
    ours, theirs = (make(each, name, 3, 5) for each in (fused_rnn, torch.nn))
    x = torch.randn(4, 0, 3)
    assert [t.shape for t in flat(ours(x))] == [t.shape for t in flat(theirs(x))]


# --- Life inside torch ---


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    module = make(fused_rnn, name, 3, 5)
    x = torch.randn(4, 2, 3) if name in LAYERS else torch.randn(2, 3)
    expected = module(x)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for other in (
        copy.deepcopy(module),
        copy.copy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
    ):
        assert type(other) is type(module)
        assert repr(other) == repr(module)
        assert_same(other(x), expected)
    assert next(copy.deepcopy(module).parameters()) is not next(module.parameters())


def test_a_copy_keeps_tied_parameters_tied() -> None:
    layer = fused_rnn.GRU(5, 5, num_layers=2)
    layer.weight_hh_l1 = layer.weight_hh_l0
    other = copy.deepcopy(layer)
    assert other.weight_hh_l1 is other.weight_hh_l0
    assert len(list(other.parameters())) == 7


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_the_meta_device_gives_shapes(name: str) -> None:
    module = make(fused_rnn, name, 3, 5, device="meta")
    real = make(fused_rnn, name, 3, 5)
    shape = (4, 2, 3) if name in LAYERS else (2, 3)
    result, expected = module(torch.empty(shape, device="meta")), real(torch.zeros(shape))
    assert [(t.shape, t.device.type) for t in flat(result)] == [(t.shape, "meta") for t in flat(expected)]
    total(result).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in module.parameters())
    loaded = module.to_empty(device="cpu")
    loaded.load_state_dict(real.state_dict())
    assert_same(loaded(torch.ones(shape)), real(torch.ones(shape)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_moving_to_another_type_moves_the_results(name: str, dtype: torch.dtype) -> None:
    module = make(fused_rnn, name, 3, 5).to(dtype)
    x = torch.randn(4, 2, 3) if name in LAYERS else torch.randn(2, 3)
    assert all(t.dtype == dtype for t in flat(module(x.to(dtype))))


def test_replaced_parameters_are_used() -> None:
    layer, x = fused_rnn.LSTM(3, 5), torch.randn(4, 2, 3)
    other = fused_rnn.LSTM(3, 5)
    expected = other(x)
    for name, parameter in other.named_parameters():
        setattr(layer, name, parameter)
    assert_same(layer(x), expected)
    assert layer.all_weights[0][1] is other.weight_hh_l0


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_functional_call_uses_and_differentiates_the_given_parameters(name: str) -> None:
    module, other = make(fused_rnn, name, 3, 5), make(fused_rnn, name, 3, 5, seed=1)
    x = torch.randn(4, 2, 3) if name in LAYERS else torch.randn(2, 3)
    parameters = {key: value.detach() for key, value in other.named_parameters()}
    assert_same(torch.func.functional_call(module, parameters, (x,)), other(x))

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        loss: torch.Tensor = total(torch.func.functional_call(module, values, (x,)))
        return loss

    found = torch.func.grad(loss)(parameters)
    total(other(x)).backward()
    assert_same([found[key] for key, _ in other.named_parameters()], [p.grad for p in other.parameters()])


@pytest.mark.parametrize("name", LAYERS)
def test_weight_norm_works_as_in_torch(name: str) -> None:
    ours, theirs = (
        parametrizations.weight_norm(make(each, name, 3, 5), "weight_hh_l0") for each in (fused_rnn, torch.nn)
    )
    x = torch.randn(4, 2, 3)
    for module in (ours, theirs):
        total(module(x)).backward()
    assert_same(ours(x), theirs(x))
    ours_names, theirs_names = (dict(each.named_parameters()) for each in (ours, theirs))
    assert list(ours_names) == list(theirs_names)
    assert_same([p.grad for p in ours_names.values()], [p.grad for p in theirs_names.values()])
    assert_same(copy.deepcopy(ours)(x), ours(x))
    ours.load_state_dict(theirs.state_dict())
    torch.nn.utils.parametrize.remove_parametrizations(ours, "weight_hh_l0")
    assert_same(ours(x), theirs(x))


def test_a_hook_that_sets_a_weight_before_each_call_works() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older weight_norm, which is deprecated, is such a hook
        ours, theirs = (
            torch.nn.utils.weight_norm(make(each, "LSTM", 3, 5), "weight_hh_l0") for each in (fused_rnn, torch.nn)
        )
    x = torch.randn(4, 2, 3)
    assert_same(ours(x), theirs(x))


def test_training_and_evaluation_differ_only_in_dropout() -> None:
    layer, x = fused_rnn.GRU(3, 5, num_layers=2, dropout=0.5), torch.randn(4, 2, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert layer(x)[0].requires_grad


def test_flatten_parameters_does_nothing() -> None:
    layer = fused_rnn.LSTM(3, 5)
    before = [p.data_ptr() for p in layer.parameters()]
    layer.flatten_parameters()
    assert [p.data_ptr() for p in layer.parameters()] == before


@pytest.mark.parametrize("name", LAYERS)
def test_training_follows_torch_step_by_step(name: str) -> None:
    losses = []
    for namespace in (fused_rnn, torch.nn):
        layer = make(namespace, name, 3, 8, num_layers=2, bidirectional=True, dtype=torch.float64)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
        x = torch.linspace(-1, 1, 60, dtype=torch.float64).view(10, 2, 3)
        of_namespace = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = (layer(x)[0].mean(2) - x.sum(2)).square().mean()
            loss.backward()
            optimizer.step()
            of_namespace.append(loss.item())
        losses.append(of_namespace)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize(
    ("name", "options"), [("LSTM", {"proj_size": 2}), ("GRU", {"num_layers": 2, "bidirectional": True}), ("RNN", {})]
)
def test_layers_take_tensors_on_a_gpu(name: str, options: dict[str, Any]) -> None:
    layer = make(fused_rnn, name, 3, 5, device="meta", **options)
    with FakeTensorMode(), torch.no_grad():  # tensors without values, so that no GPU is needed
        parameters = {key: torch.empty(p.shape, device="cuda") for key, p in layer.named_parameters()}
        x, lengths = torch.empty(4, 2, 3, device="cuda"), torch.empty(2, dtype=torch.int64, device="cuda")
        output = torch.func.functional_call(layer, parameters, (x,), {"lengths": lengths})[0]
    width = (options.get("proj_size") or 5) * (2 if layer.bidirectional else 1)
    assert output.device.type == "cuda"
    assert output.shape == (4, 2, width)
