"""The list `_flat_weights` of torch.nn's layers: whoever assigns it, or an item of it, changes what a layer computes.

DropConnect and hypernetworks rely on it. torch.nn fills the list when a layer is made and compares it with the
parameters at every call. Here the list exists only once somebody has asked for it or has assigned it, so that all
other layers do without the comparison. The rules are those of torch.nn: an item that is assigned counts until a
parameter of the layer is another object than before (assigned, moved, swapped by functional_call, computed by a
parametrization). From then on all items are the parameters again. Copies and pickles of a layer have no list.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from typing import Any

import torch
from torch import Tensor


def held(module: torch.nn.Module, names: Sequence[str], *, needed: bool = True) -> list[Any]:
    """The module's parameters by name, whatever holds them now: a parametrization computes them, a hook may set them.

    One that is `needed` may not be None, as one is that somebody has set to it. The dictionary comes first because
    Module.__getattr__ costs five times as much.
    """
    parameters, found = module._parameters, []
    for name in names:
        tensor = parameters[name] if name in parameters else getattr(module, name)
        if tensor is None and needed:
            raise TypeError(f"{type(module).__name__}: parameter {name} must be a Tensor, got None")
        found.append(tensor)
    return found


class FlatWeights(torch.nn.RNNBase):
    """A layer of torch.nn whose list of weights is made when it is asked for."""

    _flat: list[Any] | None = None  # the list, where there is one

    @property
    def _flat_weights(self) -> list[Any]:
        """The tensors that a call uses, in the order of `_flat_weights_names`; it may be changed."""
        self._update_flat_weights()
        if self._flat is None:
            self._keep_list([getattr(self, name, None) for name in self._flat_weights_names])
        flat: list[Any] = self._flat  # type: ignore[assignment]
        return flat

    @_flat_weights.setter
    def _flat_weights(self, value: list[Any]) -> None:
        self._keep_list(value)

    def _keep_list(self, flat: list[Any]) -> None:
        """Use the tensors of `flat` until a parameter is another one than when the layer got its first list."""
        if self._flat is None:
            held_now = (getattr(self, name, None) for name in self._flat_weights_names)
            self._flat_weight_refs = [None if weight is None else weakref.ref(weight) for weight in held_now]
        self._flat = flat

    def _init_flat_weights(self) -> None:
        """Forget the list; torch.nn makes a new one here."""
        self._flat_weight_refs = []
        self.__dict__.pop("_flat", None)

    def _update_flat_weights(self) -> None:
        if self._flat is not None:
            super()._update_flat_weights()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the attribute, and the item of the list; the base class would make a list for it."""
        if self._flat is not None and name in self._flat_weights_names:
            self._flat[self._flat_weights_names.index(name)] = value
        super(torch.nn.RNNBase, self).__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        state.pop("_flat", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Leave out the list in the state of a layer of torch.nn, which may be loaded as one of ours."""
        super().__setstate__({name: value for name, value in state.items() if name != "_flat_weights"})  # type: ignore[no-untyped-call]
        self._init_flat_weights()

    def _replicate_for_data_parallel(self) -> FlatWeights:
        """A replica, which gets other parameters; it has no list."""
        replica: FlatWeights = super(torch.nn.RNNBase, self)._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._init_flat_weights()
        return replica

    def flatten_parameters(self) -> None:
        """Do nothing: the kernels read the parameters where they are. It is here for code that calls it."""

    def _weights(self, names: Sequence[str]) -> list[Any]:
        """The tensors of those names that a call uses."""
        if self._flat is not None:
            self._update_flat_weights()
        if self._flat is None:
            return held(self, names)
        flat, places = self._flat, self._flat_weights_names
        if len(flat) != len(places):
            raise RuntimeError(
                f"{type(self).__name__}: got an incorrect number of RNN parameters: "
                f"_flat_weights must hold {len(places)} tensors, got {len(flat)}"
            )
        found = [flat[places.index(name)] for name in names]
        for name, weight in zip(names, found, strict=True):
            if not isinstance(weight, Tensor):
                raise TypeError(f"{name} in _flat_weights must be a Tensor, got {type(weight).__name__}")
        return found
