"""The layers and cells: torch.nn's parameters, arguments, errors and results, with fused kernels behind them.

Type checkers read `__call__` where torch.nn.Module has its own, which says nothing of the arguments; pyright takes no
alias of `forward` for it. The file is over 400 lines because it is the reference for users: most of it is
documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fused_rnn._checks import Lengths, Resets, two_states
from fused_rnn._recurrent_cell import RecurrentCell
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._signatures import named_arguments, refuse_keywords, without_unknown
from fused_rnn._variants import Variants

Device: TypeAlias = torch.device | str | int | None
DType: TypeAlias = torch.dtype | None
Nonlinearity: TypeAlias = Literal["tanh", "relu"]
State: TypeAlias = tuple[Tensor, Tensor]

Steps = TypeVar("Steps", Tensor, PackedSequence)  # the output is packed where the input is

CELL_OF_NONLINEARITY = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


def _refuse_projection(proj_size: object) -> None:
    if proj_size != 0:  # which torch.nn takes by its place among the arguments
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class LSTM(RecurrentLayer):
    """A stack of long short-term memory layers over a whole sequence, as torch.nn.LSTM.

    Every layer computes, with the gates stacked in the order i, f, g, o in its parameters::

        i, f, o = sigmoid(W_i x + b_i + U_i h + d_i), ...
        g = tanh(W_g x + b_g + U_g h + d_g)
        c' = f * c + i * g
        h' = o * tanh(c')

    With `proj_size` > 0 the state is W_hr h' instead of h'. P is `proj_size` or else `hidden_size` (H), D is 2 when
    bidirectional and 1 otherwise, L is `num_layers`. The arguments from `layer_norm` on are keywords that torch.nn does
    not have; their formulas are in docs/design.md, their parameters are called as all others (`gain_ih_l0_reverse`).

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state.
        num_layers: layers on top of each other.
        bias: whether there are biases.
        batch_first: input and output are [B, T, features] instead of [T, B, features]; states are not affected.
        dropout: probability of dropping an output of any layer but the last, in training mode.
        bidirectional: a second direction reads the sequence from its end; outputs are concatenated.
        proj_size: width of the projected hidden state, smaller than `hidden_size`; 0 for none.
        device: where the parameters are.
        dtype: type of the parameters: float32, float64, bfloat16 or float16.
        layer_norm: norms of W_ih x, of W_hh h and of c' where h' is made of it (Ba et al., 2016), each over all units
            of a row and step, with parameters `gain_ih`, `gain_hh` [4*H] (the biases follow the norms), `gain_c` and
            `bias_c` [H]. Not beside `peephole` and `cell_clip`.
        zoneout: probability with which a unit of h and of c keeps its value at a step (Krueger et al., 2017), or one
            for h and one for c; in evaluation mode the state is the mean. Not beside `proj_size`.
        recurrent_dropout: probability of dropping a unit of h where it enters W_hh, the same ones at all steps of a
            sequence (Gal and Ghahramani, 2016); in training mode.
        weight_dropout: probability of dropping an entry of W_hh, for all steps and rows of a call (Merity et al.,
            2018); in training mode.
        peephole: i and f also see c, and o sees c' (Gers et al., 2002), each unit its own, with the parameter
            `weight_peephole` [3*H] in the order i, f, o.
        cell_clip: c' is clipped to [-cell_clip, cell_clip] before o and h' see it; None for no limit.
        recompute: keep little for the backward pass, which runs the sequence again, in segments of the square root of T
            (at least 32 steps) where there is one direction. Not under the gradients of torch.func. A compiled function
            must not change the weights between the call and its gradients, which torch's checkpoint does not notice.

    Called with:
        input: [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence.
        hx: (h_0 [L*D, B, P], c_0 [L*D, B, H]) or without B where the input has no batch; None is zero.
        lengths: integers [B], a tensor on any device, a list or a numpy array; a 0-d tensor or a number for unbatched
            input. Row b ends before step lengths[b], where the reverse direction starts and whose state is final.
            Output beyond it is zero; the input there may be anything.
        resets: [T, B] bool ([B, T] with `batch_first`, [T] without a batch), a tensor on the input's device, lists or a
            numpy array: the state of a row is zero before the step, in either direction, and no gradient goes further
            back. Padding is not reset.
        return_cells: the cell state after each step of the last layer is returned too.

    Returns:
        output [T, B, D*P], (h_n, c_n), in the layout of the arguments; with `return_cells` also cells [T, B, D*H].

    Raises:
        ValueError, TypeError: an argument of the constructor, or the type or number of dimensions of the input.
        RuntimeError: sizes, devices and states that do not fit.
        NotImplementedError: a device, layout or dtype without kernels.

    Differences from torch.nn.LSTM: T = 0 works (the output is empty, the final state is the initial one), it is not an
    instance of torch.nn.LSTM, and it is not scriptable by torch.jit.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997; the variant of torch.nn.LSTM's documentation;
    the projection is that of Sak et al., 2014.

    Example::

        layer = fused_rnn.LSTM(16, 32, num_layers=2)
        output, (h_n, c_n) = layer(torch.randn(5, 3, 16))  # [5, 3, 32], [2, 3, 32], [2, 3, 32]
    """

    @named_arguments
    def __init__(  # noqa: PLR0913 - torch.nn's arguments, and the variants
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Device = None,
        dtype: DType = None, *, layer_norm: bool = False, zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0, weight_dropout: float = 0.0, peephole: bool = False,
        cell_clip: float | None = None, recompute: bool = False,
    ) -> None:  # fmt: skip
        variants = Variants(
            layer_norm, zoneout, recurrent_dropout, weight_dropout, peephole, cell_clip, recompute=recompute
        )
        super().__init__(
            "LSTM", variants, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype,
        )  # fmt: skip

    # What torch.nn.LSTM has of its own, for code that checks arguments or permutes states itself.
    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    check_forward_args = torch.nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = torch.nn.LSTM.permute_hidden  # type: ignore[assignment]

    _states = two_states
    _state_count = 2

    @overload
    def forward(
        self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None, resets: Resets | None = None,
        return_cells: Literal[False] = False,
    ) -> tuple[Steps, State]: ...  # fmt: skip

    @overload
    def forward(
        self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None, resets: Resets | None = None,
        return_cells: Literal[True],
    ) -> tuple[Steps, State, Steps]: ...  # fmt: skip

    @overload
    def forward(
        self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None, resets: Resets | None = None,
        return_cells: bool,
    ) -> tuple[Steps, State] | tuple[Steps, State, Steps]: ...  # fmt: skip

    @without_unknown
    def forward(
        self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None, resets: Resets | None = None,  # noqa: A002
        return_cells: bool = False, **unknown: NoReturn,
    ) -> tuple[Steps, State] | tuple[Steps, State, Steps]:  # fmt: skip
        """Run the sequence; see the class for shapes."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        found: tuple[Steps, State] | tuple[Steps, State, Steps] = self._run(input, hx, lengths, resets, return_cells)
        return found

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None,
            resets: Resets | None = None, return_cells: Literal[False] = False,
        ) -> tuple[Steps, State]: ...  # fmt: skip

        @overload
        def __call__(
            self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None,
            resets: Resets | None = None, return_cells: Literal[True],
        ) -> tuple[Steps, State, Steps]: ...  # fmt: skip

        @overload
        def __call__(
            self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None,
            resets: Resets | None = None, return_cells: bool,
        ) -> tuple[Steps, State] | tuple[Steps, State, Steps]: ...  # fmt: skip

        def __call__(
            self, input: Steps, hx: State | None = None, *, lengths: Lengths | None = None,  # noqa: A002
            resets: Resets | None = None, return_cells: bool = False,
        ) -> tuple[Steps, State] | tuple[Steps, State, Steps]:  # fmt: skip
            """As `forward`."""


class GRU(RecurrentLayer):
    """A stack of gated recurrent unit layers over a whole sequence, as torch.nn.GRU.

    Every layer computes, with the gates stacked in the order r, z, n in its parameters::

        r, z = sigmoid(W_r x + b_r + U_r h + d_r), ...
        n = tanh(W_n x + b_n + r * (U_n h + d_n))
        h' = (1 - z) * n + z * h

    D is 2 when bidirectional and 1 otherwise, L is `num_layers`, H is `hidden_size`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state.
        num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as of `LSTM`.
        proj_size: 0; it is here because torch.nn has this place in its order of arguments.
        layer_norm: as of `LSTM`, with `gain_ih` and `gain_hh` [3*H]; r and z are normalized together, n alone.
        zoneout: as of `LSTM`, one probability.
        recurrent_dropout, weight_dropout, recompute: as of `LSTM`; they are keywords, too.

    Called with:
        input: [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence.
        hx: h_0 [L*D, B, H], without B where the input has no batch; None is zero.
        lengths, resets: as of `LSTM`.

    Returns:
        output [T, B, D*H], h_n [L*D, B, H], in the layout of the arguments.

    Raises the errors of `LSTM`.

    Differences from torch.nn.GRU: as those of `LSTM` from torch.nn.LSTM.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, in the variant of cuDNN and
    of torch.nn.GRU's documentation, where the reset gate applies after the product.

    Example::

        layer = fused_rnn.GRU(16, 32, bidirectional=True)
        output, h_n = layer(torch.randn(5, 3, 16))  # [5, 3, 64], [2, 3, 32]
    """

    @named_arguments
    def __init__(  # noqa: PLR0913 - torch.nn's arguments, and the variants
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: Literal[0] = 0, device: Device = None,
        dtype: DType = None, *, layer_norm: bool = False, zoneout: float = 0.0, recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0, recompute: bool = False,
    ) -> None:  # fmt: skip
        _refuse_projection(proj_size)
        variants = Variants(layer_norm, zoneout, recurrent_dropout, weight_dropout, recompute=recompute)
        super().__init__(
            "GRU", variants, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device,
            dtype,
        )  # fmt: skip

    @without_unknown
    def forward(
        self, input: Steps, hx: Tensor | None = None, *, lengths: Lengths | None = None, resets: Resets | None = None,  # noqa: A002
        return_cells: Literal[False] = False, **unknown: NoReturn,
    ) -> tuple[Steps, Tensor]:  # fmt: skip
        """Run the sequence; see the class for shapes."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        found: tuple[Steps, Tensor] = self._run(input, hx, lengths, resets, return_cells)
        return found

    if TYPE_CHECKING:

        def __call__(
            self, input: Steps, hx: Tensor | None = None, *, lengths: Lengths | None = None,  # noqa: A002
            resets: Resets | None = None, return_cells: Literal[False] = False,
        ) -> tuple[Steps, Tensor]:  # fmt: skip
            """As `forward`."""


class RNN(RecurrentLayer):
    """A stack of Elman layers over a whole sequence, as torch.nn.RNN.

    Every layer computes ``h' = tanh(W x + b + U h + d)``, or relu in place of tanh. D is 2 when bidirectional and 1
    otherwise, L is `num_layers`, H is `hidden_size`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state.
        nonlinearity: "tanh" or "relu".
        num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as of `LSTM`.
        proj_size: as of `GRU`.
        layer_norm: as of `LSTM`, with `gain_ih` and `gain_hh` [H].
        zoneout: as of `LSTM`, one probability.
        recurrent_dropout, weight_dropout, recompute: as of `LSTM`; they are keywords, too.

    Called with:
        input: [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence.
        hx: h_0 [L*D, B, H], without B where the input has no batch; None is zero.
        lengths, resets: as of `LSTM`.

    Returns:
        output [T, B, D*H], h_n [L*D, B, H], in the layout of the arguments.

    Raises the errors of `LSTM`.

    Differences from torch.nn.RNN: as those of `LSTM` from torch.nn.LSTM.

    Source: Elman, "Finding structure in time", 1990; torch.nn.RNN's documentation.

    Example::

        layer = fused_rnn.RNN(16, 32, nonlinearity="relu", batch_first=True)
        output, h_n = layer(torch.randn(3, 5, 16))  # [3, 5, 32], [1, 3, 32]
    """

    @named_arguments
    def __init__(  # noqa: PLR0913 - torch.nn's arguments, and the variants
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: Nonlinearity = "tanh",
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        proj_size: Literal[0] = 0, device: Device = None, dtype: DType = None, *, layer_norm: bool = False,
        zoneout: float = 0.0, recurrent_dropout: float = 0.0, weight_dropout: float = 0.0, recompute: bool = False,
    ) -> None:  # fmt: skip
        _refuse_projection(proj_size)
        if nonlinearity not in CELL_OF_NONLINEARITY:
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        variants = Variants(layer_norm, zoneout, recurrent_dropout, weight_dropout, recompute=recompute)
        super().__init__(
            f"RNN_{nonlinearity.upper()}", variants, input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.nonlinearity: str = nonlinearity  # not in the class: torch.jit reads annotations there, and stops at them

    @without_unknown
    def forward(
        self, input: Steps, hx: Tensor | None = None, *, lengths: Lengths | None = None, resets: Resets | None = None,  # noqa: A002
        return_cells: Literal[False] = False, **unknown: NoReturn,
    ) -> tuple[Steps, Tensor]:  # fmt: skip
        """Run the sequence; see the class for shapes."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        found: tuple[Steps, Tensor] = self._run(input, hx, lengths, resets, return_cells)
        return found

    if TYPE_CHECKING:

        def __call__(
            self, input: Steps, hx: Tensor | None = None, *, lengths: Lengths | None = None,  # noqa: A002
            resets: Resets | None = None, return_cells: Literal[False] = False,
        ) -> tuple[Steps, Tensor]:  # fmt: skip
            """As `forward`."""


class LSTMCell(RecurrentCell):
    """One step of a long short-term memory, as torch.nn.LSTMCell; the formulas are in `LSTM`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state; 0 gives empty states.
        bias: whether there are biases.
        device: where the parameters are.
        dtype: type of the parameters: float32, float64, bfloat16 or float16.

    Called with:
        input: [B, I], or [I] without a batch.
        hx: (h_0 [B, H], c_0 [B, H]), or each [H] without a batch; None is zero.

    Returns:
        (h_1, c_1), each [B, H], or [H] without a batch. One node of autograd's graph makes both, so that h_1 does not
        depend on the returned c_1, as in torch.nn's cell on a GPU; on a CPU torch's h_1 does.

    Raises:
        ValueError, TypeError: wrong numbers of dimensions, or a state that is not a pair of tensors.
        RuntimeError: sizes, types, devices and states that do not fit.
        NotImplementedError: a device, layout or dtype without kernels.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997; torch.nn.LSTMCell's documentation.

    Example::

        cell = fused_rnn.LSTMCell(16, 32)
        h, c = cell(torch.randn(3, 16))
        h, c = cell(torch.randn(3, 16), (h, c))  # [3, 32], [3, 32]
    """

    _names = _labels = ("hx[0]", "hx[1]")
    _states = two_states

    @named_arguments
    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Device = None, dtype: DType = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    @without_unknown
    def forward(self, input: Tensor, hx: State | None = None, **unknown: NoReturn) -> State:  # noqa: A002
        """Make one step; see the class for shapes."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        found: State = self._step("lstm", input, hx)  # h and c, in a tuple
        return found

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, hx: State | None = None) -> State:  # noqa: A002
            """As `forward`."""


class GRUCell(RecurrentCell):
    """One step of a gated recurrent unit, as torch.nn.GRUCell; the formulas are in `GRU`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state; 0 gives empty states.
        bias, device, dtype: as of `LSTMCell`.

    Called with:
        input: [B, I], or [I] without a batch.
        hx: h_0 [B, H], or [H] without a batch; None is zero.

    Returns:
        h_1 [B, H], or [H] without a batch.

    Raises the errors of `LSTMCell`.

    Source: Cho et al., 2014, in the variant of cuDNN and of torch.nn.GRUCell's documentation.

    Example::

        cell = fused_rnn.GRUCell(16, 32)
        h = cell(torch.randn(3, 16))
        h = cell(torch.randn(3, 16), h)  # [3, 32]
    """

    @named_arguments
    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Device = None, dtype: DType = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)

    @without_unknown
    def forward(self, input: Tensor, hx: Tensor | None = None, **unknown: NoReturn) -> Tensor:  # noqa: A002
        """Make one step; see the class for shapes."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        found: Tensor = self._step("gru", input, hx)
        return found

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
            """As `forward`."""


class RNNCell(RecurrentCell):
    """One step of an Elman recurrence, as torch.nn.RNNCell: ``h' = tanh(W x + b + U h + d)``, or relu.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state; 0 gives empty states.
        nonlinearity: "tanh" or "relu".
        bias, device, dtype: as of `LSTMCell`.

    Called with:
        input: [B, I], or [I] without a batch.
        hx: h_0 [B, H], or [H] without a batch; None is zero.

    Returns:
        h_1 [B, H], or [H] without a batch.

    Raises the errors of `LSTMCell`, and RuntimeError for an unknown nonlinearity.

    Source: Elman, "Finding structure in time", 1990; torch.nn.RNNCell's documentation.

    Example::

        cell = fused_rnn.RNNCell(16, 32, nonlinearity="relu")
        h = cell(torch.randn(3, 16))
        h = cell(torch.randn(3, 16), h)  # [3, 32]
    """

    @named_arguments
    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: Nonlinearity = "tanh",
        device: Device = None, dtype: DType = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity: str = nonlinearity  # not in the class: torch.jit reads annotations there, and stops at them

    @without_unknown
    def forward(self, input: Tensor, hx: Tensor | None = None, **unknown: NoReturn) -> Tensor:  # noqa: A002
        """Make one step; see the class for shapes."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        if self.nonlinearity not in CELL_OF_NONLINEARITY:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        found: Tensor = self._step(CELL_OF_NONLINEARITY[self.nonlinearity], input, hx)
        return found

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
            """As `forward`."""
