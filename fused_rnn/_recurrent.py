"""Layers of cells that are written in Python."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from numbers import Number
from operator import index
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fused_rnn import _cell_compiler, _checks, _cuda_cells, _ops
from fused_rnn._flat_weights import held
from fused_rnn._heads import Heads
from fused_rnn._modes import constant_for_compilers
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._signatures import named_arguments, refuse_keywords, without_unknown
from fused_rnn._tensors import DirectionWeights, separated
from fused_rnn._variants import Variants
from fused_rnn.cells import SOURCES, Cell, cell_of, source_of

_OPTIONAL_KINDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_refused: set[tuple[str, torch.dtype, bool]] = set()  # what could not be compiled


@constant_for_compilers
def _load_kernels(name: str, dtype: torch.dtype, on_gpu: bool) -> None:
    """Load or compile the kernels of a cell for a type. Where there are none, a warning says why, once."""
    loaded, wanted = (_ops.LOADED_ON_CUDA if on_gpu else _ops.LOADED), (name, dtype, on_gpu)
    if dtype in loaded[name] or wanted in _refused or dtype not in _cell_compiler.CPP_TYPES:
        return
    try:
        (_cuda_cells if on_gpu else _cell_compiler).load(SOURCES[name], dtype)
    except (_cell_compiler.CompileError, OSError, ValueError) as error:
        _refused.add(wanted)
        warnings.warn(f"fused_rnn: a cell runs in plain torch, which is slow, since {error}", stacklevel=2)


class Recurrent(RecurrentLayer):
    """A stack of recurrent layers of any cell, as torch.nn's layers are of theirs.

    The cell says how its states follow from its gates; see `fused_rnn.Cell`. G are its gates, R those of them that read
    h, S its states and K its unit weights. D is 2 when bidirectional and 1 otherwise, L is `num_layers`, H is
    `hidden_size`. Parameters of layer k are `weight_ih_lk` [G*H, I], `weight_hh_lk` [R*H, H / heads], `bias_ih_lk`
    [G*H], `bias_hh_lk` [R*H], and `weight_NAME_lk` [H] for each unit weight; those of the second direction end with
    `_reverse`.

    Kernels are compiled for this processor, or for the GPUs of this machine, when the layer is first called. This takes
    some 10 seconds once, for GPUs a minute. They are kept in ~/.cache/fused_rnn, or where the environment variable
    FUSED_RNN_CACHE says. Without a C++ compiler, on a GPU without nvcc, the layer runs in plain torch:
    `fused_rnn.explain` says so and `fused_rnn.strict` makes it an error.

    Args:
        cell: a `fused_rnn.Cell`, or a class of them that needs no arguments.
        input_size: features I of the input.
        hidden_size: units H of the state.
        num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as of `LSTM`.
        num_heads: the units are this many groups of equal size, and W_hh has no entries between two of them (xLSTM).
        zoneout, recurrent_dropout, weight_dropout, recompute: as of `LSTM`; zoneout is one number for all states.

    Called with:
        input: [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence.
        hx: the initial state [L*D, B, H], or a tuple of S of them where the cell has several; None is zero.
        lengths, resets: as of `LSTM`.
        return_states: the states after each step of the last layer are returned too.

    Returns:
        output [T, B, D*H] and the final state, as hx, in the layout of the arguments; with `return_states` also a dict
        with the states after each step, [T, B, D*H] each.

    Raises:
        CellError: the cell is not what a cell must be.

    Raises the errors of `LSTM`, too.

    Example::

        layer = fused_rnn.Recurrent(MyCell, 16, 32, num_layers=2)  # with the states h and c
        output, (h_n, c_n) = layer(torch.randn(5, 3, 16))  # [5, 3, 32], [2, 3, 32], [2, 3, 32]
    """

    _definition: Cell
    _keyword = "return_states"

    @named_arguments
    def __init__(  # noqa: PLR0913 - torch.nn's arguments, and the variants
        self, cell: Cell | type[Cell], input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, num_heads: int = 1,
        device: torch.device | str | int | None = None, dtype: torch.dtype | None = None, *, zoneout: float = 0.0,
        recurrent_dropout: float = 0.0, weight_dropout: float = 0.0, recompute: bool = False,
    ) -> None:  # fmt: skip
        # The layer has a cell of its own, which stays as it is.
        definition = self.__dict__["_definition"] = copy.deepcopy(cell_of(cell))
        self.__dict__["_kernels"] = source_of(definition).name
        variants = Variants(False, zoneout, recurrent_dropout, weight_dropout, recompute=recompute)
        super().__init__(
            "RNN_TANH", variants, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            "meta", dtype,
        )  # fmt: skip
        self.mode, self.num_heads = "RECURRENT", _checked_heads(type(self).__name__, num_heads, hidden_size)
        self._take_structure()
        gates, recurrent = self._gate_counts()
        if recurrent == 0:
            self._leave_out_recurrent_parameters()
        for name, parameter in list(self.named_parameters()):
            rows = gates if "_ih_" in name else recurrent
            width = hidden_size // num_heads if "weight_hh" in name else parameter.shape[-1]
            shape = (rows * hidden_size, width) if name.startswith("weight") else (rows * hidden_size,)
            self._new_parameter(name, shape, device, dtype)
        for suffix in self._suffixes():
            for name in definition.unit_weights:
                self._new_parameter(f"weight_{name}{suffix}", (hidden_size,), device, dtype)
        self.reset_parameters()

    def _take_structure(self) -> None:
        """What a call asks of a layer."""
        self.__dict__["_state_count"] = len(self._definition.states)
        if self.num_heads > 1:
            self.__dict__["_heads"] = Heads(self.num_heads, self.hidden_size // self.num_heads)
        if not self._definition.gates:
            self.__dict__["_factors"] = 1

    def _leave_out_recurrent_parameters(self) -> None:
        """A cell whose gates read x alone has no W_hh and b_hh."""
        for name in ("recurrent_dropout", "weight_dropout"):
            self._checked_option(name, getattr(self, name))
        if self.num_heads > 1:
            raise ValueError(f"{type(self).__name__}: num_heads needs a W_hh, which this cell does not have")
        for name in [name for name in self._parameters if "_hh_" in name]:
            del self._parameters[name]
        self._all_weights = [[name for name in names if "_hh_" not in name] for names in self._all_weights]
        self._flat_weights_names = [name for name in self._flat_weights_names if "_hh_" not in name]

    def _checked_option(self, name: str, value: Any) -> Any:
        if value and name in {"recurrent_dropout", "weight_dropout"} and self._gate_counts()[1] == 0:
            raise ValueError(f"{type(self).__name__}: {name} needs a W_hh, which this cell does not have")
        return super()._checked_option(name, value)

    def _new_parameter(self, name: str, shape: tuple[int, ...], device: Any, dtype: torch.dtype | None) -> None:
        self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))

    def reset_parameters(self) -> None:
        """Draw weights and biases as torch.nn does; unit weights are 0. Then the cell may change them."""
        if "num_heads" not in self.__dict__:  # torch.nn's constructor has made parameters that are replaced
            return
        definition = self._definition
        super().reset_parameters()
        width, hidden_size = self.hidden_size // self.num_heads, self.hidden_size
        with torch.no_grad():
            for suffix, names in zip(self._suffixes(), self._all_weights, strict=True):
                views = {}
                for name in names:
                    parameter = getattr(self, name)
                    shape = (-1, hidden_size, width if "weight_hh" in name else parameter.shape[-1])
                    views[name.removesuffix(suffix)] = parameter.view(shape[: parameter.dim() + 1])
                for name in definition.unit_weights:
                    views[name] = getattr(self, f"weight_{name}{suffix}").zero_()
                definition.reset_parameters(views)

    def _gate_counts(self) -> tuple[int, int]:
        """G, and R of them that read h."""
        spec = _ops.CELLS[self._kernels]
        return spec.gates, spec.recurrent_gates

    def __getstate__(self) -> dict[str, Any]:
        """Without the name of the kernels, since the cell may be written otherwise where the layer is loaded."""
        return {name: value for name, value in super().__getstate__().items() if name != "_kernels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the cell known."""
        super().__setstate__(state)
        self.__dict__["_kernels"] = source_of(self._definition).name
        self._take_structure()

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the states."""
        return tuple(self._definition.states)

    def extra_repr(self) -> str:
        """The cell with its constants, and the arguments of the constructor, where they are not the defaults."""
        heads = f", num_heads={self.num_heads}" if self.num_heads > 1 else ""
        constants = ", ".join(f"{name}={value}" for name, value in _constants(self._definition).items())
        cell = type(self._definition).__name__ + (f"({constants})" if constants else "")
        return f"{cell}, {super().extra_repr()}{heads}"

    def _prepare_kernels(self) -> None:
        weight = held(self, self._all_weights[0][:1])[0]
        if weight.is_cpu or weight.is_cuda:
            _load_kernels(self._plain_cell, weight.dtype, weight.is_cuda)

    def _direction(self, tensors: list[Any], names: Sequence[str]) -> DirectionWeights:
        """The parameters of one direction as the kernels take them: W_hh of no rows where no gate reads h."""
        cell = self._definition
        if not cell.gates:
            w_ih, *b_ih = tensors
            w_hh = torch.empty(0, self.hidden_size, dtype=w_ih.dtype, device=w_ih.device)
            tensors = [w_ih, w_hh, *b_ih, *[None] * len(b_ih)]
        weights = super()._direction(tensors, names)
        if not cell.unit_weights:
            return weights
        suffix = names[0].removeprefix("weight_ih")
        units = self._units_of([f"weight_{name}{suffix}" for name in cell.unit_weights], weights.w_ih)
        return weights._replace(unit=units[0] if len(units) == 1 else torch.cat(list(units)))

    def _units_of(self, names: list[str], like: Tensor) -> Sequence[Tensor]:
        """The unit weights of one direction of a layer, which somebody may have replaced."""
        found = held(self, names)
        for name, weight in zip(names, found, strict=True):
            if weight.shape != (self.hidden_size,) or weight.dtype != like.dtype:
                raise RuntimeError(
                    f"{type(self).__name__}: {name} must have shape [{self.hidden_size}] and the type of the other "
                    f"parameters, {like.dtype}, got {list(weight.shape)} and {weight.dtype}"
                )
        return found

    def _check_structure(self) -> None:
        if self._sizes_changed:
            raise RuntimeError(
                f"{type(self).__name__}: input_size, hidden_size and num_heads cannot change: make another layer"
            )
        super()._check_structure()

    def _states(self, hx: Any) -> tuple[Tensor, ...]:
        names, owner = self.states, type(self).__name__
        if len(names) == 1:
            return _checks.one_state(self, hx)
        if not isinstance(hx, (tuple, list)) or len(hx) != len(names):
            given = f"{len(hx)} of them" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise _checks.ArgumentTypeError(
                f"{owner}: hx must be a tuple of {len(names)} Tensors, ({', '.join(names)}), got {given}"
            )
        return tuple(_checks.check_tensor(f"{owner}: hx[{k}]", state) for k, state in enumerate(hx))

    def _checked(
        self, x: Tensor, states: Sequence[Tensor], *, batch_first: bool | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """h_0 and the other states one after the other, [L*D, B, E*H]."""
        expected = (self.num_layers * (2 if self.bidirectional else 1), x.shape[1], self.hidden_size)
        for k, state in enumerate(states):
            name = "hx" if len(states) == 1 else f"hx[{k}]"
            _checks.check_layer_state(state, name, expected, "hidden_size", x, batch_first=batch_first)
        return states[0], torch.cat(list(states[1:]), 2) if len(states) > 1 else None

    def _run_checked(
        self, x: Tensor | PackedSequence, hx: Any, lengths: Any, resets: Any, return_cells: bool
    ) -> tuple[Any, Tensor, Tensor, Any]:
        self._prepare_kernels()
        return super()._run_checked(x, hx, lengths, resets, return_cells and self._state_count > 1)

    def _after_steps(self, output: Any, cells: Any) -> Any:
        packed, others = isinstance(output, PackedSequence), self._state_count - 1
        steps = cells.data if packed and others else cells
        found = [] if others == 0 else separated(steps, 2 if self.bidirectional else 1, others)
        found = [output._replace(data=each) for each in found] if packed else found
        return dict(zip(self.states, (output, *found), strict=True))

    @without_unknown
    def forward(
        self, input: Any, hx: Any = None, *, lengths: Any = None, resets: Any = None,  # noqa: A002
        return_states: bool = False, **unknown: NoReturn,
    ) -> Any:  # fmt: skip
        """Run the sequence; see the class for shapes."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        return self._run(input, hx, lengths, resets, return_states)


def _constants(cell: Cell) -> dict[str, Any]:
    """The numbers and words that a cell's constructor set otherwise than it does without arguments."""
    arguments = inspect.signature(type(cell)).parameters.values()
    needed = [each for each in arguments if each.default is each.empty and each.kind not in _OPTIONAL_KINDS]
    usual = {} if needed else vars(type(cell)())
    found = {name: value for name, value in vars(cell).items() if isinstance(value, (Number, str))}
    return {name: value for name, value in found.items() if usual.get(name) != value}


def _checked_heads(owner: str, num_heads: Any, hidden_size: int) -> int:
    if isinstance(num_heads, bool) or not hasattr(num_heads, "__index__"):
        raise TypeError(f"{owner}: num_heads should be of type int, got: {type(num_heads).__name__}")
    heads = index(num_heads)
    if heads < 1 or hidden_size % heads:
        raise ValueError(f"{owner}: num_heads must divide hidden_size ({hidden_size}) into equal groups, got {heads}")
    return heads
