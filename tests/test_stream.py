"""Tests fused_rnn.save_stream and the values of the C library that makes its steps, which is built once with CMake."""

from __future__ import annotations

import ctypes
import re
import shutil
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import fused_rnn
from fused_rnn import _stream_cells
from fused_rnn import stream as stream_file
from tests import own_cells
from tests.stream import make_model
from tests.test_stepper import LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")

WEIGHTS = (None, torch.bfloat16, torch.int8)
# Of each cell of _stream_cells.WRITTEN a layer; two of Keras' four have both of its functions and both of its layers.
WRITTEN: dict[str, Any] = {
    "coupled_lstm": lambda **options: fused_rnn.CoupledLSTM(7, 21, **options),
    "slstm": lambda **options: fused_rnn.SLSTM(7, 21, **options),
    "ind_rnn": lambda **options: fused_rnn.IndRNN(7, 21, **options),
    "min_gru": lambda **options: fused_rnn.MinGRU(7, 21, **options),
    "min_lstm": lambda **options: fused_rnn.MinLSTM(7, 21, **options),
    "hard_sigmoid_lstm": lambda **options: fused_rnn.Recurrent(
        _stream_cells.WRITTEN["hard_sigmoid_lstm"], 7, 21, **options
    ),
    "keras2_gru": lambda **options: fused_rnn.Recurrent(_stream_cells.WRITTEN["keras2_gru"], 7, 21, **options),
}


class Error(ctypes.Structure):
    """fused_rnn_error."""

    _fields_ = (("status", ctypes.c_int), ("text", ctypes.c_char * 252))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def library(built: Path) -> ctypes.CDLL:
    (path,) = (path for path in built.glob("libfused_rnn.*") if path.suffix in {".so", ".dylib"})
    loaded = ctypes.CDLL(str(path))
    for name in ("input", "output", "state"):
        getattr(loaded, f"fused_rnn_model_{name}_size").restype = ctypes.c_int64
    loaded.fused_rnn_model_instruction_set.restype = ctypes.c_char_p
    return loaded


class Stream:
    """A stream of the C library."""

    def __init__(self, library: ctypes.CDLL, path: Path, batch: int) -> None:
        self.library, self.batch, self.stream, error = library, batch, ctypes.c_void_p(), Error()
        model, size = ctypes.c_void_p(), ctypes.c_int64(batch)
        status = library.fused_rnn_load_file(str(path).encode(), ctypes.byref(model), ctypes.byref(error))
        assert status == 0, error.text
        sizes = (getattr(library, f"fused_rnn_model_{name}_size")(model) for name in ("input", "output", "state"))
        self.inputs, self.outputs, self.state_size = sizes
        status = library.fused_rnn_stream_create(model, size, ctypes.byref(self.stream), ctypes.byref(error))
        assert status == 0, error.text
        library.fused_rnn_model_free(model)

    def __del__(self) -> None:
        self.library.fused_rnn_stream_free(self.stream)

    def steps(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (self.batch, self.inputs)
        y, x = torch.empty(x.shape[0], self.batch, self.outputs), x.contiguous()
        pointers = (ctypes.c_void_p(each.data_ptr()) for each in (x, y))
        self.library.fused_rnn_steps(self.stream, *pointers, ctypes.c_int64(x.shape[0]))
        return y

    @property
    def state(self) -> Tensor:
        state = torch.empty(self.batch * self.state_size)
        self.library.fused_rnn_get_state(self.stream, ctypes.c_void_p(state.data_ptr()))
        return state


def saved(library: ctypes.CDLL, folder: Path, module: nn.Module, batch: int = 1, weights: Any = None) -> Stream:
    fused_rnn.save_stream(module, folder / "model.frnn", weights=weights)
    return Stream(library, folder / "model.frnn", batch)


def flat_state(state: Any) -> Tensor:
    """A Stepper's state in the order of the C library: h and the other states of each layer."""
    parts = zip(*state, strict=True) if isinstance(state, tuple) else ((h,) for h in state)
    return torch.cat([tensor.flatten() for layer in parts for tensor in layer])


# --- Values ---


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "dropout": 0.5}, {"bias": False}], ids=str)
def test_steps_have_the_bits_of_a_stepper(
    name: str, options: dict[str, Any], weights: Any, library: ctypes.CDLL, tmp_path: Path
) -> None:
    layer = LAYERS[name](**options)
    for batch in (1, 2, 19):
        stream = saved(library, tmp_path, layer, batch, weights)
        stepper, x = fused_rnn.Stepper(layer, batch, weights=weights), torch.randn(6, batch, 7)
        assert torch.equal(stream.steps(x), stepper.steps(x))
        assert torch.equal(stream.state, flat_state(stepper.state))


def assert_bits_of_a_stepper(layer: nn.Module, library: ctypes.CDLL, tmp_path: Path) -> None:
    """Steps and states from zero and from another state; steps of small batches are multiplied ahead."""
    for batch in (1, 2, 19):
        stream, stepper = saved(library, tmp_path, layer, batch), fused_rnn.Stepper(layer, batch)
        for _ in range(2):  # the second time from the state that the first one left
            x = torch.randn(6, batch, 7)
            assert torch.equal(stream.steps(x), stepper.steps(x))
            assert torch.equal(stream.state, flat_state(stepper.state))


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "dropout": 0.5}, {"bias": False}], ids=str)
def test_cells_of_version_2_have_the_bits_of_a_stepper(
    name: str, options: dict[str, Any], library: ctypes.CDLL, tmp_path: Path
) -> None:
    layer = WRITTEN[name](**options)
    for parameter in layer.parameters():  # unit weights begin as zeros
        nn.init.uniform_(parameter, -0.7, 0.7)
    assert_bits_of_a_stepper(layer, library, tmp_path)


@pytest.mark.parametrize("heads", [3, 7, 21])
@pytest.mark.parametrize("name", ["slstm", "coupled_lstm"])
def test_heads_have_the_bits_of_a_stepper(name: str, heads: int, library: ctypes.CDLL, tmp_path: Path) -> None:
    assert_bits_of_a_stepper(WRITTEN[name](num_heads=heads, num_layers=2), library, tmp_path)


@pytest.mark.parametrize("name", _stream_cells.WRITTEN)
def test_every_cell_of_version_2_is_the_layer_of_python(
    name: str, library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_rnn.Recurrent, "_prepare_kernels", lambda _: None)  # which would take longer to compile
    layer = fused_rnn.Recurrent(_stream_cells.WRITTEN[name], 7, 21, num_layers=2)
    x = 3 * torch.randn(40, 3, 7)
    y, states = layer.double()(x.double())
    stream = saved(library, tmp_path, layer.float(), 3)
    torch.testing.assert_close(stream.steps(x).double(), y, rtol=1e-5, atol=5e-6)
    torch.testing.assert_close(stream.state.double(), flat_state(states), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 8), (33, 65), (130, 64)], ids=str)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_edges_of_vectors_have_the_bits_of_a_stepper(
    sizes: tuple[int, int], weights: Any, library: ctypes.CDLL, tmp_path: Path
) -> None:
    layer, x = fused_rnn.GRU(*sizes), torch.randn(9, 3, sizes[0])
    stream, stepper = saved(library, tmp_path, layer, 3, weights), fused_rnn.Stepper(layer, 3, weights=weights)
    assert torch.equal(stream.steps(x), stepper.steps(x))


@pytest.mark.parametrize("seed", range(20))
def test_int8_rows_have_the_scales_of_a_stepper(seed: int, library: ctypes.CDLL, tmp_path: Path) -> None:
    # Of 480 rows each, some are such that 127 (largest / 127) is not the largest again.
    torch.manual_seed(seed)
    layer, x = fused_rnn.LSTM(3, 120), torch.randn(4, 1, 3)
    stream, stepper = saved(library, tmp_path, layer, 1, torch.int8), fused_rnn.Stepper(layer, weights=torch.int8)
    assert torch.equal(stream.steps(x), stepper.steps(x))


def test_an_int8_layer_has_the_bits_of_a_stepper(library: ctypes.CDLL, tmp_path: Path) -> None:
    layer, x = fused_rnn.quantize(nn.Sequential(fused_rnn.LSTM(5, 30)))[0], torch.randn(4, 2, 5)
    assert torch.equal(saved(library, tmp_path, layer, 2).steps(x), fused_rnn.Stepper(layer, 2).steps(x))


ACTIVATIONS = [
    *(nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Softmax(dim=-1), nn.PReLU(init=0.3), nn.LeakyReLU(0.1)),
    *(nn.Identity(), nn.Dropout()),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 70])
def test_an_activation_is_that_of_torch(activation: nn.Module, size: int, library: ctypes.CDLL, tmp_path: Path) -> None:
    model, x = fused_rnn.Chain(nn.Linear(9, size), activation).eval(), 4 * torch.randn(5, 3, 9)
    torch.testing.assert_close(saved(library, tmp_path, model, 3).steps(x), model(x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_an_activation_of_what_is_not_finite_is_that_of_torch(
    activation: nn.Module, library: ctypes.CDLL, tmp_path: Path
) -> None:
    linear, x = nn.Linear(1, 3, bias=False), torch.tensor((torch.inf, -torch.inf, torch.nan)).view(1, 3, 1)
    linear.weight.copy_(torch.tensor([[1.0], [-1.0], [0.5]]))
    model = fused_rnn.Chain(linear, activation).eval()
    torch.testing.assert_close(saved(library, tmp_path, model, 3).steps(x), model(x), equal_nan=True)


def test_a_prelu_may_have_a_slope_for_each_value(library: ctypes.CDLL, tmp_path: Path) -> None:
    activation = nn.PReLU(20)
    activation.weight.copy_(torch.rand(20))
    model, x = nn.Sequential(nn.Linear(9, 20), activation), torch.randn(5, 3, 9)
    expected = model(x.flatten(0, 1)).view(5, 3, 20)
    torch.testing.assert_close(saved(library, tmp_path, model, 3).steps(x), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("inputs", [2, 3])
def test_a_chain_is_what_torch_computes(residual: bool, inputs: int, library: ctypes.CDLL, tmp_path: Path) -> None:
    layers = (fused_rnn.LSTM(24, 30, num_layers=2), nn.Tanh(), fused_rnn.GRU(30, 12))
    model = fused_rnn.Chain(
        nn.Tanh(), nn.Linear(inputs, 24), fused_rnn.Chain(*layers), nn.Linear(12, 2, bias=False), residual=residual
    ).eval()
    x = torch.randn(30, 4, inputs)
    torch.testing.assert_close(saved(library, tmp_path, model, 4).steps(x), model(x), rtol=1e-5, atol=2e-6)


def test_a_module_that_is_called_twice_is_two_stages(library: ctypes.CDLL, tmp_path: Path) -> None:
    activation, linear, x = nn.Sigmoid(), nn.Linear(5, 5), torch.randn(4, 2, 5)
    model = fused_rnn.Chain(activation, linear, activation, nn.Sequential(linear, activation))
    torch.testing.assert_close(saved(library, tmp_path, model, 2).steps(x), model(x), rtol=2e-6, atol=2e-6)


def test_values_that_are_not_finite_reach_their_row_alone(library: ctypes.CDLL, tmp_path: Path) -> None:
    model, x = fused_rnn.Chain(fused_rnn.GRU(3, 5), nn.Linear(5, 4), nn.Softmax(dim=-1)), torch.randn(2, 3, 3)
    x[0, 1, 2] = torch.nan
    y = saved(library, tmp_path, model, 3).steps(x)
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()


def test_values_are_the_same_beside_streams_of_other_batches(library: ctypes.CDLL, tmp_path: Path) -> None:
    model, x = fused_rnn.Chain(fused_rnn.LSTM(4, 40), nn.Linear(40, 3)), torch.randn(5, 6, 4)
    whole = saved(library, tmp_path, model, 6).steps(x)
    rows = [saved(library, tmp_path, model).steps(x[:, row : row + 1]) for row in range(6)]
    assert torch.equal(torch.cat(rows, 1), whole)


# --- What is refused ---

REFUSED: list[tuple[Any, type[Exception], str]] = [
    ("model", TypeError, "module must be a torch.nn.Module, got str"),
    (nn.Sequential(), ValueError, "module must have a recurrent layer or a Linear"),
    (nn.Tanh(), ValueError, "module must have a recurrent layer or a Linear"),
    (nn.Sequential(nn.Conv1d(1, 1, 1)), NotImplementedError, "module has a Conv1d, which a stream does not compute"),
    (nn.LSTM(2, 3, bidirectional=True), ValueError, "module must have one direction"),
    (fused_rnn.GRU(2, 3, layer_norm=True), NotImplementedError, "module has layer_norm"),
    (fused_rnn.Recurrent(own_cells.OwnGRU, 2, 3), NotImplementedError, "module has Recurrent(OwnGRU, 2, 3), of a cell"),
    (nn.GRU(2, 3, dtype=torch.float64), ValueError, "must be of type torch.float32, got torch.float64"),
    (nn.Linear(2, 3, dtype=torch.float64), ValueError, "must be float32 on the CPU, got torch.float64"),
    (nn.Linear(2, 3, device="meta"), ValueError, "on meta"),
    (nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3)), ValueError, "takes 2 values and gets 3"),
    (nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=0)), ValueError, "Softmax over dim=0"),
    (nn.Sequential(nn.Linear(2, 3), nn.PReLU(2)), ValueError, "PReLU of 2 parameters: it must have 1 or 3"),
    (fused_rnn.Chain(nn.Linear(2, 3), residual=True), ValueError, "for its residual, got 2 and 3"),
    (
        nn.Sequential(fused_rnn.Chain(nn.Linear(2, 2), residual=True)),
        NotImplementedError,
        "only the outermost one may have it",
    ),
]


@pytest.mark.parametrize(("module", "error", "words"), REFUSED, ids=lambda each: str(each)[:40])
def test_a_module_is_refused_in_words(module: Any, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=re.escape(words)):
        fused_rnn.save_stream(module, tmp_path / "model.frnn")
    assert not (tmp_path / "model.frnn").exists()


def test_weights_are_refused_in_words(tmp_path: Path) -> None:
    layer = nn.GRU(2, 3)
    with pytest.raises(NotImplementedError, match="needs exact weights, weights=None"):
        fused_rnn.save_stream(fused_rnn.MinGRU(2, 3), tmp_path / "model.frnn", weights=torch.int8)
    with pytest.raises(TypeError, match=r"weights must be None, torch\.bfloat16 or torch\.int8"):
        fused_rnn.save_stream(layer, tmp_path / "model.frnn", weights=torch.float16)
    nn.init.constant_(next(layer.parameters()), torch.inf)
    with pytest.raises(ValueError, match="finite weights"):
        fused_rnn.save_stream(layer, tmp_path / "model.frnn", weights=torch.int8)


# --- The file ---


@pytest.mark.parametrize(
    ("model", "path", "version"),
    [(make_model.small_model, make_model.MODEL, 1), (make_model.cells_model, make_model.CELLS, 2)],
)
def test_a_file_has_the_bytes_of_the_oldest_version_that_has_its_stages(
    model: Any, path: Path, version: int, tmp_path: Path
) -> None:
    fused_rnn.save_stream(model(), tmp_path / "model.frnn")
    assert (tmp_path / "model.frnn").read_bytes() == path.read_bytes()
    assert path.read_bytes()[8:12] == version.to_bytes(4, "little")


def load(library: ctypes.CDLL, data: bytes) -> tuple[int, bytes]:
    """What the library says of a file in memory: a status and its words."""
    model, error = ctypes.c_void_p(), Error()
    arguments = (ctypes.c_size_t(len(data)), ctypes.byref(model), ctypes.byref(error))
    status: int = library.fused_rnn_load_memory(data, *arguments)
    assert (model.value is None) == (status != 0)
    library.fused_rnn_model_free(model)
    return status, error.text


def signed(data: bytearray) -> bytes:
    """With the right checksum."""
    data[24:28] = bytes(4)
    data[24:28] = zlib.crc32(data).to_bytes(4, "little")
    return bytes(data)


def test_a_newer_version_is_unsupported(library: ctypes.CDLL) -> None:
    data = bytearray(make_model.MODEL.read_bytes())
    data[8] = 3
    assert load(library, bytes(data)) == (4, b"the file has version 3, and this library reads versions up to 2")


def test_version_1_has_neither_the_cells_nor_the_heads_of_version_2(library: ctypes.CDLL) -> None:
    data = bytearray(make_model.CELLS.read_bytes())
    data[8] = 1
    assert load(library, signed(data)) == (3, b"the file is damaged: a stage has a cell that its version does not know")
    data = bytearray(make_model.MODEL.read_bytes())
    data[64 + 52] = 2  # heads of an LSTM
    assert load(library, signed(data)) == (3, b"the file is damaged: a stage has wrong heads")


def test_what_is_not_finite_stays_in_its_head(library: ctypes.CDLL, tmp_path: Path) -> None:
    layer, x = fused_rnn.SLSTM(7, 24, num_heads=3), torch.randn(6, 2, 7)
    expected = saved(library, tmp_path, layer, 2).steps(x)
    layer.get_parameter("weight_hh_l0")[:8].fill_(float("nan"))  # of the first gate of the first head
    found = saved(library, tmp_path, layer, 2).steps(x)
    assert found[..., :8].isnan().all()
    assert torch.equal(found[..., 8:], expected[..., 8:])


@pytest.mark.parametrize("heads", [1, 3, 5, 1 << 31])
def test_heads_that_are_no_parts_of_the_units_are_damage(heads: int, library: ctypes.CDLL) -> None:
    data = bytearray(make_model.CELLS.read_bytes())
    data[64 + 52 : 64 + 56] = heads.to_bytes(4, "little")
    assert load(library, signed(data)) == (3, b"the file is damaged: a stage has wrong heads")


def test_weights_take_the_bytes_of_their_type(tmp_path: Path) -> None:
    sizes = {}
    for weights in WEIGHTS:
        fused_rnn.save_stream(fused_rnn.LSTM(64, 256, bias=False), tmp_path / "model.frnn", weights=weights)
        sizes[weights] = (tmp_path / "model.frnn").stat().st_size
    matrices = 4 * 256 * (64 + 256)
    assert sizes == {None: 128 + 4 * matrices, torch.bfloat16: 128 + 2 * matrices, torch.int8: 128 + matrices + 8192}


def test_results_of_all_stages_have_a_limit(library: ctypes.CDLL) -> None:
    # Activations have no parameters: a file of some bytes would make streams of gigabytes.
    wide = stream_file._Stage(stream_file._ACTIVATION, 1, 1 << 23, 1 << 23, [])
    for count, expected in ((2, 0), (3, 3)):
        assert load(library, stream_file._file([wide] * count, False))[0] == expected
    with pytest.raises(ValueError, match="at most 4096 stages with 16777216 outputs in all, got 4097"):
        fused_rnn.save_stream(nn.Sequential(nn.Linear(1, 1), *[nn.Tanh()] * 4096), "model.frnn")
