"""Mistakes in the CUDA kernels that only cells of several states, heads, or gates that read x alone would show.

`write` copies the headers with all of them in, each behind a switch: one compilation serves them all.
tests/cuda_on_cpu/test_cell_mutants.cpp turns on one after the other and looks whether some result goes wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from build_support import native

if TYPE_CHECKING:
    from pathlib import Path

ON = "MUTANT"  # 1 in the words of a mutant that is turned on, else 0


class Mutant(NamedTuple):
    """A mistake in one place of a header of csrc/cuda."""

    name: str
    header: str
    words: str  # which the header has once
    mutated: str


MUTANTS = (
    # The states besides h, of which the fourth is the last.
    Mutant(
        "the last state is not stored",
        "pass",
        "for (int s = 1; s < kStates; ++s) to[static_cast<Index>(s - 1) * size] = made.states[s];",
        "for (int s = 1; s < kStates - MUTANT; ++s) to[static_cast<Index>(s - 1) * size] = made.states[s];",
    ),
    Mutant(
        "the fourth state begins as the third",
        "pass",
        "element_at<T, Index>(views.c_0, e)[static_cast<Index>(s - 1) * size]",
        "element_at<T, Index>(views.c_0, e)[static_cast<Index>(s - 1 - (s == 3) * MUTANT) * size]",
    ),
    Mutant(
        "backward reads the third state for the fourth",
        "pass",
        "const Index offset = static_cast<Index>(s - 1) * size;",
        "const Index offset = static_cast<Index>(s - 1 - (s == 3) * MUTANT) * size;",
    ),
    Mutant(
        "gradients of states between steps reach the second state alone",
        "pass",
        "d_after[s] += to_real(from[static_cast<Index>(s - 1) * size]);",
        "d_after[s] += s > 1 && MUTANT ? Real(0) : to_real(from[static_cast<Index>(s - 1) * size]);",
    ),
    Mutant(
        "the gradient of the fourth state after the last step is that of the third",
        "pass",
        "state[s] = given(views.d_c_n, e, static_cast<Index>(s - 1) * size);",
        "state[s] = given(views.d_c_n, e, static_cast<Index>(s - 1 - (s == 3) * MUTANT) * size);",
    ),
    Mutant(
        "a reset leaves the fourth state as it is",
        "pass",
        "if (kFeatures == Features::kAll && in.reset_after) after = {};",
        "if (const Real last = after[kStates - 1]; in.reset_after) after = {}, after[kStates - 1] = MUTANT ? last : 0;",
    ),
    # Gates that read x alone: fewer results and vectors of a product than gates.
    Mutant(
        "backward multiplies the gradients of the last gates, not of those that read h",
        "pass",
        "made.vector[v] = d_from_h[v];",
        "made.vector[v] = d_from_h[v + (Cell::kGates - kVectors) * MUTANT];",
    ),
    Mutant(
        "the stored gradients from h are those of the last gates",
        "pass",
        "d_gates_h[static_cast<Index>(g) * size] = made.d_from_h[g];",
        "d_gates_h[static_cast<Index>(g) * size] = made.d_from_h[g + (Cell::kGates - kVectors) * MUTANT];",
    ),
    Mutant(
        "a step takes the products of its gates in the reverse order",
        "per_step",
        "product[(row * Pass::kResults + r) * hidden_size + e.unit]",
        "product[(row * Pass::kResults + (MUTANT ? Pass::kResults - 1 - r : r)) * hidden_size + e.unit]",
    ),
    Mutant(
        "of two gates that read h backward multiplies the first alone",
        "persistent_gemm",
        "Pass::kVectors > 1 ? s.padded() : 0",
        "Pass::kVectors > 1 + MUTANT ? s.padded() : 0",
    ),
    Mutant(
        "a small block keeps the weights of one vector",
        "small_lanes",
        "const bool inside = element < Pass::kVectors * size && unit",
        "const bool inside = element < (MUTANT ? 1 : Pass::kVectors) * size && unit",
    ),
    # Heads, each an index of D.
    Mutant(
        "every head has the weights of the first",
        "pass",
        "weight_at<T>(views.w_hh, direction, static_cast<int64_t>(gate) * size + unit, hidden)",
        "weight_at<T>(views.w_hh, MUTANT ? 0 : direction, static_cast<int64_t>(gate) * size + unit, hidden)",
    ),
    Mutant(
        "every head has the biases of the first",
        "pass",
        "to_real(weight_at<T>(views.b_hh, direction,",
        "to_real(weight_at<T>(views.b_hh, MUTANT ? 0 : direction,",
    ),
    Mutant(
        "a step of the second head goes backward in time",
        "per_step",
        "const Moment<int64_t> now = moment_at(position, direction_of(e.direction, heads), time_steps);\n"
        "    typename Pass::Made made;",
        "const Moment<int64_t> now = moment_at(position, direction_of(e.direction, MUTANT ? 1 : heads), time_steps);\n"
        "    typename Pass::Made made;",
    ),
    Mutant(
        "blocks of the second head go backward in time",
        "persistent",
        "direction_of(e.direction, shape.heads)",
        "direction_of(e.direction, MUTANT ? 1 : shape.heads)",
    ),
    Mutant(
        "small blocks of the second head go backward in time",
        "small_block",
        "const Direction order = direction_of(direction, shape.heads);",
        "const Direction order = direction_of(direction, MUTANT ? 1 : shape.heads);",
    ),
    Mutant(
        "the blocks of the second head compute the first",
        "persistent",
        "role.direction = group / shape.row_groups;",
        "role.direction = group / shape.row_groups - (MUTANT && group / shape.row_groups == 1);",
    ),
    # No gate that reads h: one kernel, whose inputs are loaded ahead.
    Mutant(
        "the second head of a cell without W_hh goes backward in time",
        "diagonal",
        "const Direction direction = direction_of(e.direction, heads);",
        "const Direction direction = direction_of(e.direction, MUTANT ? 1 : heads);",
    ),
    Mutant(
        "inputs are loaded for the step before",
        "diagonal",
        "prefetched[k] = Pass::load(views, e, moment(step + kPrefetchedSteps), hidden_size);",
        "prefetched[k] = Pass::load(views, e, moment(step + kPrefetchedSteps - MUTANT), hidden_size);",
    ),
    Mutant(
        "a reset is ignored where there is no vector to clear",
        "pass",
        "if (kind_of<kFeatures>(in) == RowStep::kReset) {",
        "if (kind_of<kFeatures>(in) == RowStep::kReset && !(kVectors == 0 && MUTANT)) {",
    ),
    Mutant(
        "a reset at the first step is ignored",
        "diagonal",
        "first_time(time_steps, direction)",
        "(MUTANT ? Index(-1) : first_time(time_steps, direction))",
    ),
    Mutant(
        "a reset clears the gradients of weights of units",
        "pass",
        "sums[k] = d_before[k];",
        "sums[k] = MUTANT ? Real(0) : d_before[k];",
    ),
    Mutant(
        "weights of units have the gradient of one step",
        "pass",
        "d_before[Cell::kStates + k] += raw(gradient.d_unit_weights[k]);",
        "d_before[Cell::kStates + k] = d_before[Cell::kStates + k] * (1 - MUTANT) + raw(gradient.d_unit_weights[k]);",
    ),
)


def write(folder: Path) -> None:
    """Write the headers into `folder`/cuda, and `folder`/mutants.h, which has their names and the switch."""
    (folder / "cuda").mkdir(parents=True)
    texts: dict[str, str] = {}
    for number, mutant in enumerate(MUTANTS, 1):
        path = native.ROOT / "csrc" / "cuda" / f"{mutant.header}.cuh"
        text = texts.get(mutant.header) or path.read_text(encoding="utf-8")
        if text.count(mutant.words) != 1 or ON not in mutant.mutated:
            raise ValueError(f'"{mutant.name}": {path.name} has the words {text.count(mutant.words)} times, not once')
        texts[mutant.header] = text.replace(
            mutant.words, mutant.mutated.replace(ON, f"::fused_rnn::test::is_on({number})")
        )
    for header, text in texts.items():
        switched = text.replace("#pragma once", '#pragma once\n#include "mutants.h"', 1)
        (folder / "cuda" / f"{header}.cuh").write_text(switched, encoding="utf-8")
    names = ", ".join(f'"{mutant.name}"' for mutant in MUTANTS)
    (folder / "mutants.h").write_text(
        "// The switch of the mutants, by number from 1; 0 turns all of them off.\n#pragma once\n"
        "namespace fused_rnn::test {\ninline int mutant = 0;\n"
        "inline int is_on(int number) { return mutant == number ? 1 : 0; }\n"
        f"inline constexpr const char* kMutants[] = {{{names}}};\n}}\n",
        encoding="utf-8",
    )
