"""Let a forked child compute: with one thread, since the others stayed in its parent."""

import os

import torch

from fused_rnn import _ops


def _compute_with_one_thread() -> None:
    """Torch's own operators would wait for the threads forever, too; the native code finds out by itself."""
    if _ops.threads_are_lost():
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_compute_with_one_thread)
