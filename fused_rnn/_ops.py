"""Load the compiled library and call its operators with types.

Dimension order everywhere: time, batch, direction, gate, unit `[T, B, D, G, H]`; P is the width of the hidden state,
which is H without a projection. An operator returns an empty tensor of shape [0] for what a call does not have.
"""

from __future__ import annotations

import importlib
from collections import defaultdict, namedtuple
from typing import TYPE_CHECKING, Any, NamedTuple

import torch  # before the compiled module, whose symbols it provides
from torch import Tensor

from fused_rnn._modes import rounds_on_cpu, rounds_on_cuda

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fused_rnn._tensors import Arguments, Incoming, Kept, LayerArguments, QuantizedWeights

try:
    _C: Any = importlib.import_module("fused_rnn._C")
except ModuleNotFoundError as error:
    if error.name != "fused_rnn._C":
        raise
    from fused_rnn import _unbuilt

    raise ImportError(_unbuilt.explanation()) from None
except ImportError as error:
    raise ImportError(
        f"fused_rnn._C was built for another Python or torch than torch {torch.__version__}: "
        f"build it again with `pip install --no-build-isolation -e .` ({error})"
    ) from error


class CellSpec(NamedTuple):
    """A cell described by counts."""

    gates: int  # G, gates of one hidden unit (rows of W_ih per unit)
    states: int  # 1: hidden state only; 2: hidden and cell state
    saved: int  # values per hidden unit and step that the backward pass needs
    split: bool  # whether the gradients of the two pre-activations, W_ih x + b_ih and W_hh h + b_hh, differ
    gradients: int  # gradients of pre-activations of one hidden unit and step that differ
    unit_weights: int  # numbers of every unit that enter its update
    norm_groups: int  # sets of gates that a layer norm joins; 0: the cell has no normalized form
    recurrent_gates: int  # R, the first gates, which read h (rows of W_hh per unit)

    @property
    def cell_states(self) -> int:
        """E, the states besides h; they lie one after the other where an LSTM has c."""
        return self.states - 1

    @property
    def one_bias(self) -> bool:
        """Whether b_ih and b_hh have the same gradient."""
        return not self.split and self.recurrent_gates == self.gates

    @property
    def made_states(self) -> int:
        """States that zoneout keeps as the cell made them."""
        return max(1, self.states - 1)


CELLS: dict[str, CellSpec] = {name: CellSpec(**_C.cell_spec(name)) for name in _C.cell_names()}
"""The built-in cells, and those that `add_cell` was given."""

CELL_FLAGS: str = _C.cell_flags
"""JSON: the compiler's flags for a cell, "common" and of each instruction set that the library has code for."""

HEADERS_MARK: str = _C.headers_mark
"""That of the headers that the library was built from: see _cell_headers."""

LOADED: dict[str, set[torch.dtype]] = {}
"""Of each cell that is not built in, the types with kernels on CPU."""

LOADED_ON_CUDA: defaultdict[str, set[torch.dtype]] = defaultdict(set)
"""Likewise on the GPUs of this machine."""

HIDDEN: set[str] = set()
"""Cells that run in plain torch although they have kernels, to be compared with these."""


def add_cell(name: str, spec: CellSpec) -> None:
    """Make a cell known that is not built in, and has no kernels yet."""
    CELLS[name] = spec
    LOADED.setdefault(name, set())


def load_cell(path: str, sources: str, dtype: torch.dtype) -> None:
    """Load the kernels of a cell for a type from a library that was compiled from `sources`."""
    LOADED.setdefault(_known(path, _C.load_cell(path, sources)), set()).add(dtype)


def load_cuda_cell(path: str, sources: str, dtype: torch.dtype) -> None:
    """The same of its kernels for GPUs, which have libraries of their own."""
    name = _known(path, _C.load_cuda_cell(path, sources))
    LOADED.setdefault(name, set())
    LOADED_ON_CUDA[name].add(dtype)


def _known(path: str, name: str) -> str:
    """The name of a cell of a library, whose counts are those that Python knows."""
    spec = CellSpec(**_C.cell_spec(name))
    if CELLS.setdefault(name, spec) != spec:
        raise ImportError(f"the library {path} has another cell {name}")
    return name


def has_kernels(cell: str, tensor: Tensor) -> bool:
    """Whether there are kernels of a cell for the type and device of a tensor."""
    loaded = LOADED_ON_CUDA if tensor.is_cuda else LOADED
    return cell not in LOADED or (tensor.dtype in loaded[cell] and cell not in HIDDEN)


NORM_EPSILON: float = _C.norm_epsilon
"""Added to the variances of the layer norms."""

_forward = torch.ops.fused_rnn.forward.default
_layer = torch.ops.fused_rnn.layer.default
_step = torch.ops.fused_rnn.step.default
_backward = torch.ops.fused_rnn.backward.default
_layer_backward = torch.ops.fused_rnn.layer_backward.default
_layer_backward_in_place = torch.ops.fused_rnn.layer_backward_in_place.default
_backward_in_place = torch.ops.fused_rnn.backward_in_place.default
_quantized_layer = torch.ops.fused_rnn.quantized_layer.default
_product = torch.ops.fused_rnn.product.default
run_short, short_gradients = _C.run_short, _C.short_gradients  # see _short_calls.py


class ArgumentError(RuntimeError):
    """An operator refused its arguments, before it did anything."""


def refusal(error: RuntimeError) -> RuntimeError:
    """`error` as an ArgumentError where an operator or the dispatcher raised it; a call may raise anything else."""
    message = str(error)
    return ArgumentError(message) if message.startswith(("fused_rnn: ", "Could not run 'fused_rnn::")) else error


class ForwardResult(NamedTuple):
    """What `forward` returns; [0] stands for a tensor that the call does not have."""

    output: Tensor  # [T, B, D, P]
    h_n: Tensor  # [D, B, P]
    c_n: Tensor  # [D, B, E*H], cells with more states than h: see CellSpec.cell_states
    cells: Tensor  # [T, B, D, E*H], the same after each step; save
    saved: Tensor  # [T, B, D, S, H]; save: see saved_values in core/problem.h
    hidden: Tensor  # [T, B, D, H], the hidden state before its projection; projection and save


class LayerResult(NamedTuple):
    """What `layer` returns; [0] stands for a tensor that the call does not have."""

    output: Tensor  # as in ForwardResult, up to hidden; with hand_out only where the call saves
    h_n: Tensor
    c_n: Tensor
    cells: Tensor
    saved: Tensor
    hidden: Tensor
    handed_out: Tensor  # [T, B, D*P], the output, which the backward pass does not read and which is no view; hand_out


class BackwardResult(NamedTuple):
    """What `backward` returns; [0] stands for a tensor that the call does not have."""

    d_gates: Tensor  # [T, B, D, G, H]
    d_gates_h: Tensor  # [T, B, D, R, H], gradient of W_hh h; only where it differs from d_gates
    d_h_0: Tensor  # [D, B, P]
    d_c_0: Tensor  # [D, B, E*H], cells with more states than h
    d_projected: Tensor  # [T, B, D, P], total gradient of the projected hidden state; projection
    d_unit_weights: Tensor  # [D, B, K, H] of each row; cells with unit weights
    d_norm: Tensor  # [D, B, N, H] of each row; norm


class QuantizedResult(NamedTuple):
    """What `quantized_layer` returns."""

    output: Tensor  # [T, B, D*P]
    h_n: Tensor  # [D, B, P]
    c_n: Tensor  # [D, B, H], two-state cells; [0] for others


def named_arguments(operator: str) -> Any:
    """The type of an operator's arguments as a tuple with their names, which are those of its schema."""
    arguments = getattr(torch.ops.fused_rnn, operator).default._schema.arguments
    defaults = [argument.default_value for argument in arguments if argument.has_default_value()]  # torch may drop them
    return namedtuple(operator, [argument.name for argument in arguments], defaults=defaults)  # noqa: PYI024


# Whether this processor multiplies bfloat16.
MULTIPLIES_BFLOAT16 = not {"avx512_bf16", "neon_bf16"}.isdisjoint(_C.instruction_sets())


def rounds_factors(tensor: Tensor) -> bool:
    """Whether the factors of GEMMs of a tensor are rounded: torch lets them, and that is faster."""
    if tensor.dtype != torch.float32:
        return False
    if tensor.is_cpu:
        return MULTIPLIES_BFLOAT16 and rounds_on_cpu()
    return tensor.is_cuda and rounds_on_cuda()


def forward(cell: str, arguments: Arguments, save: bool, heads: int = 1) -> ForwardResult:
    """The recurrence of one layer over a whole sequence.

    In either direction a step t of row b is inactive from t = lengths[b] on: its results are zero and the state passes
    through. The state before step t is zero where resets[t, b]. D counts the heads of each direction.
    """
    return ForwardResult._make(_forward(cell, *arguments, save, rounds_factors(arguments.gates), heads))


def layer(
    cell: str, arguments: LayerArguments, directions: int, *, save: bool, hand_out: bool = False, heads: int = 1
) -> LayerResult:
    """The same on CPU without norms, from the input instead of the gates; `directions` are 1 or 2."""
    rounds = MULTIPLIES_BFLOAT16 and rounds_on_cpu()
    try:
        return LayerResult._make(_layer(cell, *arguments, directions, save, hand_out, rounds, heads))
    except RuntimeError as error:
        raise refusal(error) from None


def quantized_layer(
    cell: str, x: Tensor, weights: QuantizedWeights, rows: Sequence[Tensor | None], directions: int
) -> QuantizedResult:
    """The same on CPU for a plain cell with int8 weights, without gradients.

    Of x [T, B, I] float32 and the rows' h_0, c_0, lengths and resets. Each row of x and of h is rounded to int8 by
    itself where it enters a product; products are summed exactly, and all else is float32.
    """
    try:
        return QuantizedResult._make(_quantized_layer(cell, x, *weights, *rows, directions))
    except RuntimeError as error:
        raise refusal(error) from None


def step(cell: str, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
    """One step on CPU of a plain cell: h and c ([0] without one), of which no gradients can be had.

    From x [B, I], w_ih [G*H, I], b_ih [G*H], w_hh [R*H, H], b_hh [R*H], h [B, H] and c [B, H].
    """
    try:
        return _step(cell, *tensors)  # type: ignore[no-any-return]
    except RuntimeError as error:
        raise refusal(error) from None


def backward(
    cell: str, incoming: Sequence[Tensor | None], arguments: Arguments, output: Tensor, cells: Tensor, saved: Tensor,
    heads: int = 1,
) -> BackwardResult:  # fmt: skip
    """The gradients of `forward` with respect to everything but the weights.

    Incoming are d_output, d_h_n, d_c_n, d_cells; of the arguments gates and b_hh are not looked at.
    """
    _, w_hh, _, w_hr, *others = arguments
    rounds = rounds_factors(output)
    return BackwardResult._make(_backward(cell, *incoming, w_hh, w_hr, output, cells, saved, *others, rounds, heads))


def can_run_in_place(cell: str) -> bool:
    """Whether the gradients of the gates can take the place of what `layer` has saved."""
    spec = CELLS[cell]
    return spec.saved == spec.gradients


def backward_in_place(
    cell: str, incoming: Sequence[Tensor | None], arguments: Arguments, output: Tensor, cells: Tensor, saved: Tensor,
    heads: int = 1,
) -> BackwardResult:  # fmt: skip
    """The same on CPU without variants, for a cell that is not split.

    d_gates take the place of what is saved, and are [0] in the result.
    """
    _, w_hh, _, w_hr, h_0, c_0, _, _, lengths, resets, _, _ = arguments
    return BackwardResult._make(
        _backward_in_place(cell, *incoming, w_hh, w_hr, output, cells, saved, h_0, c_0, lengths, resets, heads)
    )


class LayerBackwardResult(NamedTuple):
    """What `layer_backward` returns; [0] stands for a tensor that was not asked for or the call does not have."""

    d_x: Tensor  # [T, B, I]
    d_w_ih: Tensor  # [D*G*H, I]
    d_w_hh: Tensor  # [D*R*H, P]
    d_b_ih: Tensor  # [D*G*H]
    d_b_hh: Tensor  # [D*R*H], a copy of d_b_ih where the cell has one_bias
    d_w_hr: Tensor  # [D*P, H]
    d_h_0: Tensor  # [D, B, P]
    d_c_0: Tensor  # [D, B, E*H], cells with more states than h
    d_unit_weights: Tensor  # [D, K, H], cells with unit weights


def layer_backward(
    cell: str, incoming: Incoming, arguments: LayerArguments, kept: Kept, need: Any, *, in_place: bool, heads: int = 1
) -> LayerBackwardResult:
    """The gradients of `layer` that are needed (by the names of `LayerArguments`), and those of the states.

    With `in_place` the gate gradients take the memory of what is saved.
    """
    x, w_ih, _, w_hh, _, w_hr, *others = arguments
    output, cells, saved, hidden = kept
    results = (output, cells, saved, None if w_hr is None else hidden)
    given = (*incoming, x, w_ih, w_hh, w_hr, *results, *others)
    needed = (need.x, need.w_ih, need.w_hh, need.b_ih or need.b_hh, need.w_hr)
    run = _layer_backward_in_place if in_place else _layer_backward
    found = LayerBackwardResult._make(run(cell, *given, *needed, MULTIPLIES_BFLOAT16 and rounds_on_cpu(), heads))
    if not need.unit_weights:
        return found
    return found._replace(d_unit_weights=found.d_unit_weights.sum(1))  # they are those of each row


def product(left: Tensor, right: Tensor, bias: Tensor | None = None, *, wide: bool = False) -> Tensor:
    """Left [M, K] times right [K, N] + bias [N], on CPU, of any strides; `wide`: half types give float32."""
    result: Tensor = _product(left, right, bias, wide, rounds_factors(left))
    return result


class Problem(NamedTuple):
    """What a plan is made for."""

    cell: str
    dtype: torch.dtype
    time_steps: int
    batch: int
    directions: int
    hidden_size: int
    proj_size: int
    normalized: bool = False
    zoneout: bool = False
    recurrent_mask: bool = False
    input_size: int = 0
    """Of a forward pass that makes the gates of its input itself; 0: they are given."""
    rounds_factors: bool = False  # of float32 GEMMs, by torch's switch
    heads: int = 1  # of each direction; hidden_size is that of one


def is_variant(problem: Problem) -> bool:
    """Whether the schedules of the plain recurrence cannot run it."""
    return problem.normalized or problem.zoneout or problem.recurrent_mask or CELLS[problem.cell].unit_weights > 0


def cpu_plan(problem: Problem, training: bool, threads: int) -> dict[str, Any]:
    """What would run: "schedule", "instruction_set", and a dict for "forward" and, when training, "backward".

    Each dict has "threads", "why", how the work is divided, and "others": the ways that seemed slower.
    """
    chosen: dict[str, Any] = _C.plan(problem, training, threads)
    return chosen


def cuda_options(problem: Problem, backward: bool, device: int | tuple[int, int, int]) -> list[dict[str, Any]]:
    """The CUDA schedules for one pass, the one that would run first: "schedule", "refused", "why" and more.

    `device` is an index, or (capability as 90 for 9.0, multiprocessors, bytes of shared memory of a block).
    """
    found: list[dict[str, Any]] = _C.cuda_options(problem, backward, device)
    return found


def make_stepper(cell: str, layers: Sequence[Sequence[Tensor | None]], *, storage: str, **sizes: Any) -> Any:
    """The native stepper of layers with w_ih, w_hh, b_ih, b_hh, w_hr and unit_weights each, which it copies.

    It reads them from their addresses: they are on the CPU, of one type, and of the shapes that the sizes (batch,
    input_size, hidden_size, proj_size and heads) say, head by head as the operators take them; hidden_size is that of
    one head.

    `storage` is exact, bfloat16 or int8. Its methods take addresses of contiguous memory: step(x, y),
    get_state(h, c), set_state(h, c), reset(rows, or 0 for all).
    """
    dense = [[None if t is None else t.detach().contiguous().resolve_neg() for t in layer] for layer in layers]
    dtype, rounds = next(t.dtype for t in dense[0] if t is not None), MULTIPLIES_BFLOAT16 and rounds_on_cpu()
    problem = Problem(cell=cell, dtype=dtype, time_steps=1, directions=1, rounds_factors=rounds, **sizes)
    addresses = [[0 if t is None else t.data_ptr() for t in layer] for layer in dense]
    return _C.Stepper(problem, storage, addresses, torch.get_num_threads())


kept_bytes: Callable[[], int] = _C.kept_bytes
"""What calls on CPU have left for the next ones: their memory, and weights as they were packed."""

threads_are_lost: Callable[[], bool] = _C.threads_are_lost
"""Whether this process was forked from one that had started threads, which stayed there."""

is_amd_processor: Callable[[], bool] = _C.is_amd_processor
"""Whether this machine's processor is one of AMD."""

build_info: Callable[[], dict[str, str]] = _C.build_info
"""How the compiled library was made."""

instruction_sets: Callable[[], list[str]] = _C.instruction_sets
"""The instruction sets that this machine can run and the library has code for, plainest first."""

active_isa: Callable[[], str] = _C.active_isa
"""The vectors of the instruction set in use, for which cells are compiled: avx512 of avx512_vnni."""

active_instruction_set: Callable[[], str] = _C.active_instruction_set
"""The instruction set in use; FUSED_RNN_CPU_ISA chooses another."""
