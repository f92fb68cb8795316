"""Wrong arguments: torch.nn's own errors, one by one, and a message that names the argument, its shape and what fits.

Each case is a call made with torch.nn and with fused_rnn. Where torch.nn raises, ours raises the same type or a
subclass of it, and where torch.nn's source states the error in words, the same type and words. DIFFERENCES lists the
rest. Errors of lengths and resets are in test_lengths.py.

The file is over 400 lines because most of it is the list of cases.
"""

from __future__ import annotations

import ast
import inspect
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch.nn.modules import rnn as torch_source
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[Any, str], Any]

LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")

pytestmark = [
    # Torch warns of what the cases do to make it fail.
    pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, .* are deprecated"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage"),
]

CONSTRUCTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "nothing": ((), {}),
    "no hidden size": ((3,), {}),
    "input size twice": ((3, 5), {"input_size": 3}),
    "too many": ((3, 5, *(1,) * 12), {}),
    "unknown name": ((3, 5), {"unknown": 1}),
    "input size float": ((3.0, 5), {}),
    "input size text": (("3", 5), {}),
    "input size 0": ((0, 5), {}),
    "input size negative": ((-1, 5), {}),
    "hidden size float": ((3, 5.0), {}),
    "hidden size text": ((3, "5"), {}),
    "hidden size 0": ((3, 0), {}),
    "hidden size negative": ((3, -1), {}),
    "layers 0": ((3, 5, 0), {}),
    "layers negative": ((3, 5), {"num_layers": -1}),
    "layers float": ((3, 5), {"num_layers": 1.5}),
    "layers none": ((3, 5), {"num_layers": None}),
    "dropout above 1": ((3, 5), {"dropout": 1.5}),
    "dropout below 0": ((3, 5), {"dropout": -0.1}),
    "dropout nan": ((3, 5), {"dropout": float("nan")}),
    "dropout bool": ((3, 5), {"dropout": True}),
    "dropout text": ((3, 5), {"dropout": "much"}),
    "dropout text of a number": ((3, 5), {"dropout": "0.5"}),
    "dropout none": ((3, 5), {"dropout": None}),
    "dropout complex": ((3, 5), {"dropout": 1j}),
    "bias number": ((3, 5), {"bias": 1}),
    "bias none": ((3, 5), {"bias": None}),
    "batch_first number": ((3, 5), {"batch_first": 1}),
    "projection as wide": ((3, 5), {"proj_size": 5}),
    "projection wider": ((3, 5), {"proj_size": 6}),
    "projection negative": ((3, 5), {"proj_size": -1}),
    "projection float": ((3, 5), {"proj_size": 1.5}),
    "projection none": ((3, 5), {"proj_size": None}),
    "nonlinearity": ((3, 5), {"nonlinearity": "sin"}),
    "nonlinearity by place": ((3, 5, 1, "sin"), {}),
    "dtype of integers": ((3, 5), {"dtype": torch.int32}),
    "dtype text": ((3, 5), {"dtype": "float32"}),
    "device": ((3, 5), {"device": "nowhere"}),
}
X = torch.linspace(-1, 1, 24).view(4, 2, 3)  # [T, B, I]


def state(name: str, *shape: int, **options: Any) -> Any:
    """A state of zeros: a pair for an LSTM."""
    h_0 = torch.zeros(shape, **options)
    return (h_0, h_0.clone()) if name.startswith("LSTM") else h_0


def changed(name: str, change: Callable[[torch.Tensor], Any], *shape: int) -> Any:
    """A state whose last tensor is another."""
    h_0 = torch.zeros(shape)
    return (h_0, change(h_0)) if name.startswith("LSTM") else change(h_0)


def with_input(change: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Call:
    return lambda module, _: module(change(x))


def with_last_state(change: Callable[[torch.Tensor], Any], x: torch.Tensor, *shape: int) -> Call:
    return lambda module, name: module(x, changed(name, change, *shape))


def quantized(x: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


def packed(*rows: torch.Tensor) -> PackedSequence:
    return pack_sequence(list(rows), enforce_sorted=False)


# What is no dense tensor of floating-point numbers, made from one that would fit.
ODD_TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "float64": torch.Tensor.double,
    "float16": torch.Tensor.half,
    "integers": torch.Tensor.int,
    "bools": torch.Tensor.bool,
    "complex": lambda x: x.to(torch.complex64),
    "device": lambda x: x.to("meta"),
    "sparse": torch.Tensor.to_sparse,
    "quantized": quantized,
    "mkldnn": torch.Tensor.to_mkldnn,
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "jagged": lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
    "array": torch.Tensor.numpy,
    "list": torch.Tensor.tolist,
    "none": lambda _: None,
    "text": lambda _: "zero",
    "number": lambda _: 0.0,
}
# Calls of a layer of input size 3 and hidden size 5, by what is wrong with them.
LAYER_CALLS: dict[str, Call] = {
    "no input": lambda layer, _: layer(),
    "three arguments": lambda layer, _: layer(X, None, None),
    "unknown argument": lambda layer, _: layer(X, h_0=None),
    **{f"input {kind}": with_input(odd, X) for kind, odd in ODD_TENSORS.items()},
    "input csr": lambda layer, _: layer(X[:, 0].to_sparse_csr()),
    "input 0D": lambda layer, _: layer(X[0, 0, 0]),
    "input 1D": lambda layer, _: layer(X[0, 0]),
    "input 4D": lambda layer, _: layer(X[None]),
    "input 1D, state": lambda layer, name: layer(X[0, 0], state(name, 1, 2, 5)),
    "features": lambda layer, _: layer(torch.zeros(4, 2, 7)),
    "features, no batch": lambda layer, _: layer(torch.zeros(4, 7)),
    "features 0": lambda layer, _: layer(torch.zeros(4, 2, 0)),
    "no steps": lambda layer, _: layer(torch.zeros(0, 2, 3)),
    "float64, state": lambda layer, name: layer(X.double(), state(name, 1, 2, 5)),
    "state layers": lambda layer, name: layer(X, state(name, 2, 2, 5)),
    "state batch": lambda layer, name: layer(X, state(name, 1, 3, 5)),
    "state batch of 1": lambda layer, name: layer(X, state(name, 1, 1, 5)),
    "state units": lambda layer, name: layer(X, state(name, 1, 2, 4)),
    "state batch first": lambda layer, name: layer(X, state(name, 2, 1, 5)),
    "state 2D": lambda layer, name: layer(X, state(name, 1, 5)),
    "state 4D": lambda layer, name: layer(X, state(name, 1, 1, 2, 5)),
    "state 1D, no batch": lambda layer, name: layer(X[:, 0], state(name, 5)),
    "state 3D, no batch": lambda layer, name: layer(X[:, 0], state(name, 1, 1, 5)),
    "state units, no batch": lambda layer, name: layer(X[:, 0], state(name, 1, 4)),
    "last state units": lambda layer, name: layer(X, changed(name, lambda s: s[..., :4], 1, 2, 5)),
    **{f"last state {kind}": with_last_state(odd, X, 1, 2, 5) for kind, odd in ODD_TENSORS.items() if kind != "none"},
    "state of the other kind": lambda layer, name: layer(X, state("GRU" if name == "LSTM" else "LSTM", 1, 2, 5)),
    "state stacked": lambda layer, _: layer(X, torch.zeros(2, 1, 2, 5)),
    "state of one": lambda layer, _: layer(X, (torch.zeros(1, 2, 5),)),
    "state of three": lambda layer, _: layer(X, (torch.zeros(1, 2, 5),) * 3),
    "state of none": lambda layer, _: layer(X, ()),
    "state with none": lambda layer, _: layer(X, (torch.zeros(1, 2, 5), None)),
    "state by name": lambda layer, _: layer(X, {"h": torch.zeros(1, 2, 5)}),
    "packed tuple": lambda layer, _: layer(tuple(packed(X[:, 0]))),
    "packed features": lambda layer, _: layer(packed(torch.zeros(4, 7))),
    "packed float64": lambda layer, _: layer(packed(X[:, 0].double())),
    "packed steps 0D": lambda layer, _: layer(packed(X[0, 0])),
    "packed steps 2D": lambda layer, _: layer(packed(X)),
    "packed device": lambda layer, _: layer(PackedSequence(X[:, 0].to("meta"), torch.ones(4, dtype=torch.int64))),
    "packed state batch": lambda layer, name: layer(packed(X[:, 0], X[:1, 0]), state(name, 1, 3, 5)),
    "packed state units": lambda layer, name: layer(packed(X[:, 0]), state(name, 1, 1, 4)),
    "packed state 2D": lambda layer, name: layer(pack_sequence([X[:, 0]]), state(name, 1, 5)),
    "packed state float64": lambda layer, name: layer(packed(X[:, 0]), state(name, 1, 1, 5, dtype=torch.float64)),
}
# The same for a cell.
CELL_CALLS: dict[str, Call] = {
    "no input": lambda cell, _: cell(),
    "three arguments": lambda cell, _: cell(X[0], None, None),
    **{f"input {kind}": with_input(odd, X[0]) for kind, odd in ODD_TENSORS.items()},
    "input 0D": lambda cell, _: cell(X[0, 0, 0]),
    "input 3D": lambda cell, _: cell(X),
    "input packed": lambda cell, _: cell(packed(X[:, 0])),
    "features": lambda cell, _: cell(torch.zeros(2, 7)),
    "features, no batch": lambda cell, _: cell(torch.zeros(7)),
    "features 0": lambda cell, _: cell(torch.zeros(2, 0)),
    "state batch": lambda cell, name: cell(X[0], state(name, 3, 5)),
    "state batch of 1": lambda cell, name: cell(X[0], state(name, 1, 5)),
    "state units": lambda cell, name: cell(X[0], state(name, 2, 4)),
    "state 0D": lambda cell, name: cell(X[0], changed(name, torch.Tensor.sum, 2, 5)),
    "state 1D": lambda cell, name: cell(X[0], state(name, 5)),
    "state 3D": lambda cell, name: cell(X[0], state(name, 1, 2, 5)),
    "state 2D, no batch": lambda cell, name: cell(X[0, 0], state(name, 1, 5)),
    "state units, no batch": lambda cell, name: cell(X[0, 0], state(name, 4)),
    "last state units": lambda cell, name: cell(X[0], changed(name, lambda s: s[..., :4], 2, 5)),
    "last state batch": lambda cell, name: cell(X[0], changed(name, lambda s: s[:1], 2, 5)),
    **{f"last state {kind}": with_last_state(odd, X[0], 2, 5) for kind, odd in ODD_TENSORS.items() if kind != "none"},
    "state of the other kind": lambda cell, name: cell(X[0], state("GRU" if name == "LSTMCell" else "LSTM", 2, 5)),
    "state of one": lambda cell, _: cell(X[0], (torch.zeros(2, 5),)),
    "state of three": lambda cell, _: cell(X[0], (torch.zeros(2, 5),) * 3),
    "state of none": lambda cell, _: cell(X[0], ()),
    "state with none": lambda cell, _: cell(X[0], (torch.zeros(2, 5), None)),
}


class Difference(NamedTuple):
    """Where ours is not torch.nn's error."""

    names: tuple[str, ...]
    case: str
    ours: type[Exception]
    why: str


DIFFERENCES = (
    Difference(("RNN",), "too many", TypeError, "torch.nn looks at the nonlinearity before it counts arguments"),
    Difference(CELLS, "input packed", NotImplementedError, "torch.nn asks the PackedSequence for its dim"),
    Difference(CELLS, "input sparse", NotImplementedError, "torch.nn multiplies sparse matrices here, not in layers"),
    Difference(("RNN", "RNNCell"), "last state sparse", NotImplementedError, "torch.nn can add it; no kernel reads it"),
    Difference(("GRU", "RNN"), "input nested", NotImplementedError, "torch.nn happens to work; lengths do the same"),
    Difference(LAYERS, "last state jagged", NotImplementedError, "torch.nn compares its size with j1 first"),
    Difference(("LSTM",), "state of the other kind", TypeError, "torch.nn takes the layers of h_0 for h_0 and c_0"),
    Difference(("LSTM",), "state by name", TypeError, "torch.nn looks for the key 0"),
    Difference(("LSTM",), "state of one", RuntimeError, "torch.nn looks for c_0 before it counts, as it does three"),
    Difference(("LSTM",), "state of none", RuntimeError, "as for one"),
    Difference(("LSTM",), "packed float64", ValueError, "as in the other layers, and without packing"),
    Difference(("LSTM",), "packed features", RuntimeError, "torch.nn checks nothing here"),
    Difference(("LSTM",), "packed state units", RuntimeError, "torch.nn checks nothing here"),
    Difference(("LSTM",), "packed state 2D", RuntimeError, "torch.nn checks nothing here"),
    Difference(LAYERS, "packed state batch", RuntimeError, "torch.nn sorts the rows first, which drops what is over"),
    *(
        Difference(("LSTMCell",), f"last state {kind}", RuntimeError, "torch.nn's h and c then have two types")
        for kind in ("float64", "float16", "integers", "bools", "complex")
    ),
)
DIFFERENT = {(name, each.case): each for each in DIFFERENCES for name in each.names}
# What torch.nn has no words for and we do not refuse, since the answer is clear.
ALLOWED = {(name, "no steps") for name in LAYERS}


def error_of(call: Callable[[], Any]) -> Exception | None:
    """What a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the error is the result
        return error
    return None


CASES = [
    (name, case)
    for names, calls in ((LAYERS, LAYER_CALLS), (CELLS, CELL_CALLS))
    for name in names
    for case in (*CONSTRUCTIONS, *calls)
]


def error(namespace: Any, name: str, case: str) -> Exception | None:
    """What the case raises with the module of torch.nn or of fused_rnn."""
    kind = getattr(namespace, name)
    if case in CONSTRUCTIONS:
        arguments, options = CONSTRUCTIONS[case]
        return error_of(lambda: kind(*arguments, **options))
    module = kind(3, 5)
    call = (LAYER_CALLS if name in LAYERS else CELL_CALLS)[case]
    return error_of(lambda: call(module, name))


def place_in_words(error: Exception) -> int | None:
    """The line of the raise statement in torch.nn's source that the error comes from; None for any other error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    stated = frame.filename == torch_source.__file__ and (frame.line or "").startswith("raise ")
    return frame.lineno if stated else None


@pytest.mark.parametrize(("name", "case"), CASES)
def test_errors_are_those_of_torch(name: str, case: str) -> None:
    ours, theirs = error(fused_rnn, name, case), error(torch.nn, name, case)
    if (name, case) in ALLOWED:
        assert (ours, theirs is None) == (None, False)
    elif (name, case) in DIFFERENT:
        assert isinstance(ours, DIFFERENT[name, case].ours)
        assert type(ours) is not type(theirs), "is not different"
    elif theirs is None:
        assert ours is None
    else:
        assert isinstance(ours, type(theirs)), f"{ours!r} for {theirs!r}"
        if place_in_words(theirs) is not None:
            assert type(ours) is type(theirs)
            words = str(theirs).replace("D tensor instead", "D instead")  # only the RNN says tensor
            assert str(ours).startswith(words)


def test_every_raise_statement_of_torch_has_a_case() -> None:
    source = inspect.getsource(torch_source)
    statements = {node.lineno: ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)}
    raised = [error(torch.nn, name, case) for name, case in CASES]
    raised.append(error_of(lambda: torch.nn.RNNCell(3, 5, nonlinearity="sin")(X[0])))
    reached = {place_in_words(each) for each in raised if each is not None}
    missing = {text for line, text in statements.items() if line not in reached and "AssertionError" not in text}
    assert missing == {"raise ValueError('Unrecognized RNN mode: ' + mode)"}  # needs a class of one's own
    assert len(statements) > 20


def test_a_difference_is_of_a_case() -> None:
    assert set(DIFFERENT) | ALLOWED <= set(CASES)


# --- What the messages say ---

T_B = r"input must have shape \(T, input_size\) or \(T, B, input_size\), got \[3\]$"
B_T = r"input must have shape \(T, input_size\) or \(B, T, input_size\), got \[3\]$"
STATE = r"\(num_layers \* num_directions, B, hidden_size\)"
# Options of a GRU, the arguments of its call, and what the message must say.
MESSAGES: tuple[tuple[dict[str, Any], tuple[Any, ...], str], ...] = (
    ({}, (X[0, 0],), T_B),
    ({"batch_first": True}, (X[0, 0],), B_T),
    ({}, (torch.zeros(4, 2, 7),), r"input must have shape \(T, B, input_size\), got \[4, 2, 7\]$"),
    ({"batch_first": True}, (torch.zeros(4, 2, 7),), r"must have shape \(B, T, input_size\), got \[4, 2, 7\]$"),
    ({}, (torch.zeros(4, 7),), r"input must have shape \(T, input_size\), got \[4, 7\]$"),
    ({}, (packed(torch.zeros(4, 7)),), r"must have shape \(sum of lengths, input_size\), got \[4, 7\]$"),
    ({}, (packed(X),), r"input.data must have shape \(sum of lengths, input_size\), got \[4, 2, 3\]$"),
    ({}, (X.to_sparse(),), r"GRU: input must be a dense tensor, got one that is torch.sparse_coo"),
    ({}, ([1.0],), "GRU: input must be a Tensor or a PackedSequence, got list"),
    ({}, (X, torch.zeros(2, 2, 5)), f"Expected hidden size .*: hx must have shape {STATE}$"),
    ({}, (X, torch.zeros(2, 5)), rf"hx should also be 3-D but got 2-D tensor: as in {STATE}, got \[2, 5\]$"),
    ({}, (X[0], torch.zeros(1, 1, 5)), r"as in \(num_layers \* num_directions, hidden_size\), got \[1, 1, 5\]$"),
    ({}, (X, torch.zeros(1, 4, 5)), r"The batch of hx is 4 and .* \(T, B, input_size\): did you mean batch_first=True"),
    ({"batch_first": True}, (X, torch.zeros(1, 2, 5)), r"\(B, T, input_size\): did you mean batch_first=False\?$"),
    ({}, (X, torch.zeros(1, 2, 5).double()), r"hx has dtype torch.float64 .*: give hx.to\(torch.float32\)"),
    ({}, (X, torch.zeros(1, 2, 5, device="meta")), "hidden tensor at meta: hx must be on cpu$"),
    ({}, (X, torch.zeros(1, 2, 5).to_sparse()), "GRU: hx must be a dense tensor, got one that is torch.sparse_coo"),
    ({}, (X, [torch.zeros(1, 2, 5)]), "GRU: hx must be a Tensor, got list"),
)


@pytest.mark.parametrize(("options", "arguments", "message"), MESSAGES)
def test_a_layer_says_what_shape_it_wants(options: dict[str, Any], arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        fused_rnn.GRU(3, 5, **options)(*arguments)


def test_an_lstm_says_which_of_its_states_is_wrong() -> None:
    layer: Any = fused_rnn.LSTM(3, 5, proj_size=2)
    h_0 = torch.zeros(1, 2, 2)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] .*: hx\[0\] must have shape .*, B, proj_size\)$"):
        layer(X, (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] .*: hx\[1\] must have shape .*, B, hidden_size\)$"):
        layer(X, (h_0, h_0))
    with pytest.raises(RuntimeError, match=r"got \(3-D, 2-D\) tensors: as in .*, got \[1, 2, 2\] and \[2, 5\]$"):
        layer(X, (h_0, torch.zeros(2, 5)))
    with pytest.raises(RuntimeError, match=r"hx\[1\] has dtype torch.float16 but input has torch.float32"):
        layer(X, (h_0, torch.zeros(1, 2, 5).half()))
    with pytest.raises(TypeError, match=r"LSTM: hx must be a tuple \(h_0, c_0\) of two Tensors, got Tensor"):
        layer(X, h_0)
    with pytest.raises(RuntimeError, match=r"expects two hidden states, hx = \(h_0, c_0\), got 3"):
        layer(X, (h_0, h_0, h_0))
    with pytest.raises(TypeError, match=r"LSTM: hx\[1\] must be a Tensor, got NoneType"):
        layer(X, (h_0, None))


CELL_MESSAGES: tuple[tuple[tuple[Any, ...], str], ...] = (
    ((X,), r"input must have shape \(input_size\) or \(B, input_size\), got \[4, 2, 3\]$"),
    ((torch.zeros(2, 7),), r"input must have shape \(B, input_size\), got \[2, 7\]$"),
    (([1.0],), r"GRUCell: input must be a Tensor, got list$"),
    ((X[0], torch.zeros(3, 5)), r"hx must have shape \(B, hidden_size\) = \[2, 5\], got \[3, 5\]\. input has 2 rows"),
    ((X[0], torch.zeros(2, 4)), r"hx must have shape \(B, hidden_size\) = \[2, 5\], got \[2, 4\]$"),
    ((X[0], torch.zeros(5)), r"hx must have shape \(B, hidden_size\) for a 2D input, got \[5\]$"),
    ((X[0, 0], torch.zeros(1, 5)), r"hx must have shape \(hidden_size\) for a 1D input, got \[1, 5\]$"),
    ((X[0], torch.zeros(1, 2, 5)), r"must have shape \(hidden_size\) or \(B, hidden_size\), got \[1, 2, 5\]$"),
)


@pytest.mark.parametrize(("arguments", "message"), CELL_MESSAGES)
def test_a_cell_says_what_shape_it_wants(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        fused_rnn.GRUCell(3, 5)(*arguments)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_refuses_a_packed_sequence_in_words(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{name}: input is a PackedSequence, which the layers take"):
        getattr(fused_rnn, name)(3, 5)(packed(X[:, 0]))


def test_types_without_kernels_are_refused_in_words() -> None:
    layer = fused_rnn.GRU(3, 5)
    for parameter in layer.parameters():
        parameter.data = parameter.data.to(torch.complex64)
    with pytest.raises(NotImplementedError, match="complex64"):
        layer(X.to(torch.complex64))
    with pytest.raises(NotImplementedError, match=r"GRU: input must be a dense tensor, got one that is torch.qint8"):
        layer(quantized(X))


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_nan_in_goes_where_it_goes_in_torch(name: str) -> None:
    found = []
    for namespace in (fused_rnn, torch.nn):
        torch.manual_seed(0)
        module = getattr(namespace, name)(3, 5)
        x = (X if name in LAYERS else X[0]).clone()
        x[..., 0, :] = float("nan")  # of the first row
        result = module(x.requires_grad_(), changed(name, torch.Tensor.clone, *((1, 2, 5) if x.dim() == 3 else (2, 5))))
        first = result[0] if isinstance(result, tuple) else result
        (d_x,) = torch.autograd.grad(first[..., 1, :].sum(), x)
        found.append((first.isnan(), d_x))
    (ours, d_ours), (theirs, d_theirs) = found
    assert torch.equal(ours, theirs)
    assert ours[..., 0, :].all()
    assert not ours[..., 1, :].any()
    torch.testing.assert_close(d_ours, d_theirs, equal_nan=True)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_may_have_no_features(name: str) -> None:
    ours, theirs = (getattr(each, name)(0, 5) for each in (fused_rnn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(torch.zeros(2, 0)), theirs(torch.zeros(2, 0)))
