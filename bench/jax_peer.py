"""A problem in JAX: a jitted `lax.scan` over the steps, the input projection of all steps being one GEMM before it.

Training is `jax.vjp` of the output, forward and backward in one jitted function.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import torch

from .environment import environment_variable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from .case import Case, Results
    from .problems import Problem

    States = tuple[Array, ...]  # h and, of an LSTM, c

_started_with: list[int] = []  # XLA's threads, once they are there


def _start(threads: int) -> None:
    """Make XLA's threads, which then are there for good. RuntimeError where there already are others."""
    if not _started_with:
        jax.config.update("jax_platforms", "cpu")
        with environment_variable("NPROC", str(threads)):  # which is XLA's number; no flag or function sets it
            jax.devices()
        _started_with.append(threads)
    if _started_with != [threads]:
        raise RuntimeError(f"XLA was started with {_started_with[0]} threads, which cannot become {threads}")


def _update(cell: str, from_x: Array, from_h: Array, states: States) -> States:
    """The states after a step, from both pre-activations [B, G*H] and the states before."""
    if cell == "lstm":
        i, f, g, o = jnp.split(from_x + from_h, 4, -1)
        c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    if cell == "gru":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(from_x, 3, -1), jnp.split(from_h, 3, -1)
        z = jax.nn.sigmoid(x_z + h_z)
        return ((1.0 - z) * jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n) + z * states[0],)
    return (jax.nn.relu(from_x + from_h) if cell == "rnn_relu" else jnp.tanh(from_x + from_h),)


def _forward(problem: Problem, leaves: Mapping[str, Array]) -> dict[str, Array]:
    """Output [T, B, D*P] and final states [layers * D, B, ...], from x, the weights and perhaps h_0 and c_0."""
    below = leaves["x"]
    kinds = ("h", "c") if problem.cell == "lstm" else ("h",)
    shapes = {"h": problem.h_shape, "c": problem.c_shape}
    initial = [leaves.get(f"{kind}_0", jnp.zeros(shapes[kind], below.dtype)) for kind in kinds]
    last = []
    for layer in range(problem.layers):
        outputs = []
        for direction in range(problem.directions):
            suffix = f"_l{layer}" + "_reverse" * direction
            w_hh, b_hh, w_hr = (leaves.get(name + suffix) for name in ("weight_hh", "bias_hh", "weight_hr"))

            def step(states: States, from_x: Array, w_hh: Any = w_hh, b_hh: Any = b_hh, w_hr: Any = w_hr) -> Any:
                h, *c = _update(problem.cell, from_x, states[0] @ w_hh.T + b_hh, states)
                h = h if w_hr is None else h @ w_hr.T
                return (h, *c), h

            states = tuple(state[layer * problem.directions + direction] for state in initial)
            from_x = below @ leaves[f"weight_ih{suffix}"].T + leaves[f"bias_ih{suffix}"]
            states, output = jax.lax.scan(step, states, from_x, reverse=direction == 1)
            last.append(states)
            outputs.append(output)
        below = jnp.concatenate(outputs, -1)
    final = {f"{kind}_n": jnp.stack(of_kind) for kind, of_kind in zip(kinds, zip(*last, strict=True), strict=True)}
    return {"output": below, **final}


def _train(
    problem: Problem, leaves: Mapping[str, Array], d_results: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The results, and the gradients of all leaves given those of some results."""

    def chosen(of: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        results = _forward(problem, of)
        return {name: results[name] for name in d_results}, results

    _, pull_back, results = jax.vjp(chosen, dict(leaves), has_aux=True)
    (d_leaves,) = pull_back(dict(d_results))
    return results, d_leaves


class JaxRun:
    """A case by XLA on the CPU, on as many threads as torch has when the first case of the process is made."""

    def __init__(self, case: Case) -> None:
        _start(torch.get_num_threads())
        self._case = case
        self._leaves = {name: _to_jax(weight) for name, weight in case.weights.items()} | {"x": _to_jax(case.x)}
        self._infer = jax.jit(partial(_forward, case.problem))
        self._train = jax.jit(partial(_train, case.problem))
        self._d_output = {"output": _to_jax(case.d_output)}

    def step(self) -> None:
        """One timed call."""
        if self._case.problem.training:
            jax.block_until_ready(self._train(self._leaves, self._d_output))
        else:
            jax.block_until_ready(self._infer(self._leaves))

    def results(self, *, with_state: bool) -> Results:
        """All results by name."""
        case = self._case
        lstm = case.problem.cell == "lstm"
        leaves = dict(self._leaves)
        if with_state:
            leaves |= {"h_0": _to_jax(case.h_0)} | ({"c_0": _to_jax(case.c_0)} if lstm else {})
        if not case.problem.training:
            return _to_torch(self._infer(leaves))
        d_results = self._d_output | {"h_n": _to_jax(case.d_h_n)} | ({"c_n": _to_jax(case.d_c_n)} if lstm else {})
        results, d_leaves = self._train(leaves, d_results)
        return _to_torch(results) | {f"d_{name}": value for name, value in _to_torch(d_leaves).items()}


def _to_jax(tensor: torch.Tensor) -> Array:
    return jnp.asarray(tensor.numpy())


def _to_torch(arrays: Mapping[str, Array]) -> Results:
    return {name: torch.from_numpy(jax.device_get(array).copy()) for name, array in arrays.items()}
