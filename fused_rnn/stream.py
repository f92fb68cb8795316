"""Files of models for the C and C++ library, which makes steps in real time without Python (include/fused_rnn.h).

A file is a header, a record for each stage, and the parameters; docs/guides/realtime.md has the bytes.
"""

from __future__ import annotations

import ctypes
import os  # noqa: TC003 - annotations are looked up
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from fused_rnn._int8_layers import LARGEST_SIZE, quantize_rows
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._stream_cells import BUILT_IN, numbers
from fused_rnn._swap import make_weights, warn_of_own_code
from fused_rnn.quantized import QuantizedLayer
from fused_rnn.stepper import stepped_layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAGIC, _ALIGNMENT = b"\x89FRNN\r\n\x1a", 64
_HEADER, _RECORD = "<8sIIQIIII24x", "<8IQQII8x"
_CHECKSUM_AT = 24
_RECURRENT, _LINEAR, _ACTIVATION = 1, 2, 3
_STORAGES = {None: 0, torch.bfloat16: 1, torch.int8: 2}
_ACTIVATIONS: dict[type[nn.Module], int] = {
    nn.Tanh: 1,
    nn.ReLU: 2,
    nn.Sigmoid: 3,
    nn.Softmax: 4,
    nn.PReLU: 5,
    nn.LeakyReLU: 5,
}
_IN_TRAINING_ONLY = (nn.Identity, nn.Dropout)
_LARGEST = 1 << 24  # of a size, and of the outputs of all stages together
_MOST_STAGES = 4096


class Chain(nn.Sequential):
    """A sequence of modules that are called one after the other, as `save_stream` takes it.

    It is `torch.nn.Sequential`, but of what a recurrent layer returns only the output goes on, so that layers, `Linear`
    and activations may follow each other. Each call begins with a zero state.

    Args:
        modules: in the order of their calls.
        residual: whether the input is added to the output; of more inputs than outputs the first ones are.

    Example::

        effect = fused_rnn.Chain(fused_rnn.GRU(1, 16), torch.nn.Linear(16, 1), residual=True)
        y = effect(torch.randn(100, 1, 1))  # [T, B, I] to [T, B, O]
        fused_rnn.save_stream(effect, "effect.frnn")
    """

    def __init__(self, *modules: nn.Module, residual: bool = False) -> None:
        super().__init__(*modules)
        self.residual = residual

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch.nn.Sequential has
        """The output of the last module, [..., O], for `input` [..., I]."""
        y = input
        for module in self:
            result = module(y)
            y = result[0] if isinstance(result, tuple) else result
        return y + input[..., : y.shape[-1]] if self.residual else y

    def extra_repr(self) -> str:
        """What stands in `repr` beside the modules."""
        return "residual=True" if self.residual else ""


class _Stage(NamedTuple):
    """A stage of the file: what its record says, and the arrays of its parameters in the order of the file."""

    kind: int
    type: int  # of the cell, or of the activation
    input_size: int
    output_size: int
    arrays: list[bytes]
    storage: int = 0
    hidden_size: int = 0
    has_bias: bool = False
    projected: bool = False
    slopes: int = 0
    heads: int = 0  # 0: the units of the layer are one group

    @property
    def version(self) -> int:
        """The oldest version of the file that has such a stage."""
        is_newer = self.kind == _RECURRENT and self.type > len(BUILT_IN)
        return 2 if is_newer or self.heads else 1


def _bytes(tensor: Tensor) -> bytes:
    """The memory of a tensor."""
    plain = tensor.detach().resolve_neg().contiguous()
    return ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size())


def _matrix(matrix: Tensor, weights: torch.dtype | None) -> list[bytes]:
    """A matrix [N, K] float32 as the file keeps it: as it is, in bfloat16, or in int8 with the largest of each row."""
    if weights is None:
        return [_bytes(matrix)]
    if weights == torch.bfloat16:
        return [_bytes(matrix.to(torch.bfloat16))]
    if matrix.shape[1] > LARGEST_SIZE:
        raise ValueError(f"int8 matrices have at most {LARGEST_SIZE} columns, got {matrix.shape[1]}")
    if not matrix.isfinite().all():
        raise ValueError("module must have finite weights to keep them as int8")
    rows, scale = quantize_rows(matrix)
    return [_bytes(rows), _bytes(torch.where(scale > 0, matrix.abs().amax(1), 0.0))]


def _recurrent_stages(module: nn.Module, weights: torch.dtype | None) -> Iterator[_Stage]:
    """Those of a recurrent layer: one for each layer of its stack."""
    if isinstance(module, RecurrentLayer) and module.cell not in numbers():
        raise NotImplementedError(f"module has {module}, of a cell that files of streams have no number for")
    layer, parameters, dtype, weights = stepped_layer(module, weights, "module")
    if dtype != torch.float32:
        raise ValueError(f"module must be of type torch.float32, got {dtype}")
    width, heads = layer.proj_size or layer.hidden_size, layer._heads.number
    for index, (w_ih, w_hh, b_ih, b_hh, w_hr, unit_weights) in enumerate(parameters):
        arrays: list[bytes] = []
        for tensor, is_matrix in ((w_ih, True), (w_hh, True), (b_ih, False), (b_hh, False), (w_hr, True)):
            if tensor is not None:
                arrays += _matrix(tensor.detach(), weights) if is_matrix else [_bytes(tensor)]
        arrays += [] if unit_weights is None else [_bytes(unit_weights)]
        yield _Stage(
            *(_RECURRENT, numbers()[layer.cell], width if index else layer.input_size, width, arrays),
            storage=_STORAGES[weights],
            hidden_size=layer.hidden_size,
            has_bias=b_ih is not None,
            projected=w_hr is not None,
            heads=heads if heads > 1 else 0,
        )


def _linear_stage(module: nn.Linear) -> _Stage:
    make_weights(module)
    bias: Tensor | None = module.bias  # which torch annotates as if it were always there
    given = [module.weight] if bias is None else [module.weight, bias]
    for tensor in given:
        if tensor.dtype != torch.float32 or not tensor.is_cpu:
            raise ValueError(f"module must be float32 on the CPU, got {tensor.dtype} on {tensor.device} in {module}")
    rows, columns = module.weight.shape
    arrays = [_bytes(tensor) for tensor in given]
    return _Stage(_LINEAR, 0, columns, rows, arrays, has_bias=len(given) == 2)


def _activation_stage(module: nn.Module, width: int) -> _Stage:
    """That of an activation of `width` values."""
    slopes: list[float] = []
    if isinstance(module, nn.Softmax) and module.dim != -1:
        raise ValueError(f"module has a Softmax over dim={module.dim}: it must be -1, over the values of a row")
    if isinstance(module, nn.LeakyReLU):
        slopes = [module.negative_slope]
    if isinstance(module, nn.PReLU):
        slopes = module.weight.detach().tolist()
        if len(slopes) not in {1, width}:
            raise ValueError(f"module has a PReLU of {len(slopes)} parameters: it must have 1 or {width}")
    arrays = [struct.pack(f"<{len(slopes)}f", *slopes)] if slopes else []
    return _Stage(_ACTIVATION, _ACTIVATIONS[type(module)], width, width, arrays, slopes=len(slopes))


def _is_sequence(module: nn.Module) -> bool:
    return type(module) in {nn.Sequential, Chain}


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    """What a sequence calls, one after the other; one module may be called more than once."""
    if not _is_sequence(module):
        yield module
        return
    for each in cast("nn.Sequential", module):
        if isinstance(each, Chain) and each.residual:
            raise NotImplementedError("module has a Chain with a residual inside: only the outermost one may have it")
        yield from _modules(each)


def _stages(module: nn.Module, weights: torch.dtype | None) -> list[_Stage]:
    made: list[_Stage] = []
    leading: list[nn.Module] = []  # activations before anything that has a size
    for each in _modules(module):
        before = len(made)
        if isinstance(each, (nn.RNNBase, RecurrentLayer, QuantizedLayer)):
            made += _recurrent_stages(each, weights)
        elif type(each) is nn.Linear:
            made.append(_linear_stage(each))
        elif type(each) in _IN_TRAINING_ONLY:
            continue
        elif type(each) not in _ACTIVATIONS:
            raise NotImplementedError(
                f"module has a {type(each).__name__}, which a stream does not compute: it takes recurrent layers, "
                "Linear, Tanh, ReLU, LeakyReLU, PReLU, Sigmoid and Softmax"
            )
        elif made:
            made.append(_activation_stage(each, made[-1].output_size))
        else:
            leading.append(each)
            continue
        if leading:
            made[:0] = [_activation_stage(one, made[0].input_size) for one in leading]
            leading.clear()
        elif before and made[before].input_size != made[before - 1].output_size:
            given, wanted = made[before - 1].output_size, made[before].input_size
            raise ValueError(f"module must fit together, but {each} takes {wanted} values and gets {given}")
    if not made:
        raise ValueError("module must have a recurrent layer or a Linear")
    _check_sizes(made)
    return made


def _check_sizes(stages: Sequence[_Stage]) -> None:
    """An error where the library would refuse the file."""
    for stage in stages:
        sizes = (stage.input_size, stage.hidden_size or 1, stage.output_size)
        if not all(1 <= size <= _LARGEST for size in sizes):
            raise ValueError(f"module must have sizes from 1 to {_LARGEST}, got {sizes}")
    outputs = sum(stage.output_size for stage in stages)
    if len(stages) > _MOST_STAGES or outputs > _LARGEST:
        limits = f"at most {_MOST_STAGES} stages with {_LARGEST} outputs in all"
        raise ValueError(f"module must have {limits}, got {len(stages)} with {outputs}")


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _file(stages: Sequence[_Stage], residual: bool) -> bytes:
    """The bytes of a file."""
    offset = struct.calcsize(_HEADER) + len(stages) * struct.calcsize(_RECORD)
    records, parameters = b"", []
    for stage in stages:
        arrays = [array.ljust(_padded(len(array)), b"\0") for array in stage.arrays]
        size = sum(map(len, arrays))
        sizes = (stage.input_size, stage.hidden_size, stage.output_size)
        flags = (stage.has_bias, stage.projected)
        records += struct.pack(
            _RECORD, stage.kind, stage.type, stage.storage, *sizes, *flags, offset, size, stage.slopes, stage.heads
        )
        parameters += arrays
        offset += size
    fields = (len(stages), offset, 0, residual, stages[0].input_size, stages[-1].output_size)
    version = max(stage.version for stage in stages)
    data = bytearray(b"".join((struct.pack(_HEADER, _MAGIC, version, *fields), records, *parameters)))
    struct.pack_into("<I", data, _CHECKSUM_AT, zlib.crc32(data))
    return bytes(data)


def save_stream(module: nn.Module, path: str | os.PathLike[str], *, weights: torch.dtype | None = None) -> None:
    """Write a model to a file that the C and C++ library loads, which makes steps in real time without Python.

    The steps compute what the module does in evaluation mode. Those of a recurrent layer have the bits of a `Stepper`
    of the layer on the same instruction set, with exact weights where `weights` is None.

    Args:
        module: a `Chain`, a `torch.nn.Sequential`, or one layer, on CPU, of float32. It may hold LSTMs, GRUs and RNNs
            of fused_rnn and torch.nn as a `Stepper` takes them, int8 layers, CoupledLSTM, SLSTM, IndRNN, MinGRU and
            MinLSTM, an LSTM or GRU of `from_keras` with a hard sigmoid, Linear, Tanh, ReLU, LeakyReLU, PReLU, Sigmoid
            and Softmax(dim=-1). Identity and Dropout do nothing. A PReLU has one parameter, or one for each
            value of a row.
        path: of the file; one that exists is replaced.
        weights: how the matrices of recurrent layers are kept, in the file and in memory: None (exactly),
            torch.bfloat16 or torch.int8, as in a `Stepper`; None alone where a layer is none of LSTM, GRU and RNN.

    Raises:
        TypeError: `module` is no module, or `weights` not one of the above.
        ValueError: modules that do not fit together, another type or device, or what a `Stepper` refuses so.
        NotImplementedError: a module or a cell that a stream does not compute, a residual inside of the chain,
            layer_norm or zoneout.
        OSError: the file cannot be written.

    Warns:
        UserWarning: a module has forward hooks, or a forward of its own, which a stream does not run.

    Example::

        effect = torch.nn.Sequential(fused_rnn.LSTM(1, 32), torch.nn.Linear(32, 1))
        fused_rnn.save_stream(effect, "effect.frnn")
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if weights not in _STORAGES:
        raise TypeError(f"weights must be None, torch.bfloat16 or torch.int8, got {weights!r}")
    if sys.byteorder != "little":
        raise NotImplementedError("files of streams are written on little-endian machines only")
    stages = _stages(module, weights)
    residual = isinstance(module, Chain) and module.residual
    if residual and stages[-1].output_size > stages[0].input_size:
        outputs, inputs = stages[-1].output_size, stages[0].input_size
        raise ValueError(f"module must have as many inputs as outputs for its residual, got {inputs} and {outputs}")
    sequences = [each for each in module.modules() if _is_sequence(each)]
    warn_of_own_code("save_stream", dict.fromkeys((*sequences, *_modules(module))), 2)
    Path(path).write_bytes(_file(stages, residual))
