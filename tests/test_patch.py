"""patch() makes torch.nn's names mean ours inside of the block, and nothing else, anywhere, ever."""

from __future__ import annotations

import copy
import io
import threading
from typing import Any, cast

import pytest
import torch

import fused_rnn
from build_support.native import PATIENCE

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
PLACES = (torch.nn, torch.nn.modules, torch.nn.modules.rnn)
OF_TORCH = {name: getattr(torch.nn, name) for name in NAMES}
BoundBefore: Any = torch.nn.LSTM
nn: Any = torch.nn  # to mypy its names mean torch.nn's own classes, always


def names_mean(namespace: Any) -> bool:
    """Whether every name in every place means the class of torch.nn's own, or of fused_rnn."""
    expected = {name: getattr(fused_rnn, name) for name in NAMES} if namespace is fused_rnn else OF_TORCH
    return all(getattr(place, name) is expected[name] for place in PLACES for name in NAMES)


class Model(torch.nn.Module):
    """A model that is written for torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
        self.decoder = nn.modules.rnn.GRUCell(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.decoder(self.encoder(x)[0][-1])
        return result


def test_a_model_built_inside_is_made_of_ours_and_computes_the_same() -> None:
    theirs = Model()
    with fused_rnn.patch():
        ours = Model()
    assert (type(ours.encoder), type(ours.decoder)) == (fused_rnn.LSTM, fused_rnn.GRUCell)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    assert type(Model().encoder) is OF_TORCH["LSTM"]


def test_the_names_change_in_all_places_and_come_back() -> None:
    assert names_mean(torch.nn)
    with fused_rnn.patch():
        assert names_mean(fused_rnn)
        from torch.nn import LSTM

        assert cast("Any", LSTM) is fused_rnn.LSTM
    assert names_mean(torch.nn)


def test_the_names_come_back_after_an_error() -> None:
    def fail() -> None:
        with fused_rnn.patch():
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert names_mean(torch.nn)


def test_blocks_nest() -> None:
    with fused_rnn.patch():
        with fused_rnn.patch():
            assert names_mean(fused_rnn)
        assert names_mean(fused_rnn)
    assert names_mean(torch.nn)


def test_blocks_of_two_threads_may_overlap() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with fused_rnn.patch():
            entered.set()
            leave.wait(timeout=PATIENCE)

    thread = threading.Thread(target=other)
    with fused_rnn.patch():
        thread.start()
        assert entered.wait(timeout=PATIENCE)
    assert names_mean(fused_rnn)  # the block that began last is still open
    leave.set()
    thread.join()
    assert names_mean(torch.nn)


def test_it_is_a_decorator() -> None:
    build = fused_rnn.patch()(Model)
    for _ in range(2):
        assert type(build().encoder) is fused_rnn.LSTM
        assert names_mean(torch.nn)


def test_a_class_derived_inside_derives_from_ours() -> None:
    with fused_rnn.patch():

        class Doubled(nn.GRU):  # type: ignore[misc]
            def forward(self, input: torch.Tensor, hx: Any = None) -> Any:  # noqa: A002
                return super().forward(2 * input, hx)

    assert issubclass(Doubled, fused_rnn.GRU)
    layer, plain, x = Doubled(3, 5), fused_rnn.GRU(3, 5), torch.randn(4, 2, 3)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(2 * x))
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))


def test_what_was_bound_before_is_out_of_reach() -> None:
    with fused_rnn.patch():
        layer = BoundBefore(3, 5)
        assert not isinstance(layer, nn.LSTM)  # the name means ours
        assert isinstance(fused_rnn.LSTM(3, 5), nn.LSTM)
    assert type(layer) is nn.LSTM
    assert type(fused_rnn.convert(layer)) is fused_rnn.LSTM


def test_converting_works_inside() -> None:
    theirs = Model()
    with fused_rnn.patch():
        assert type(fused_rnn.convert(theirs).encoder) is fused_rnn.LSTM


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_layer_of_torch_loads_as_ours(name: str) -> None:
    theirs, saved = OF_TORCH[name](3, 5), io.BytesIO()
    torch.save(theirs, saved)
    saved.seek(0)
    with fused_rnn.patch():
        ours = torch.load(saved, weights_only=False)
    assert type(ours) is getattr(fused_rnn, name)
    x = torch.randn(4, 2, 3) if hasattr(ours, "num_layers") else torch.randn(2, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.double()(x.double()), theirs.double()(x.double()))
    assert set(vars(ours)) == set(vars(getattr(fused_rnn, name)(3, 5)))  # no list holds the first parameters
