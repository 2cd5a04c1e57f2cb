"""Threads side by side, one core each."""

from __future__ import annotations


def one_thread_each() -> None:
    """Each worker computes on its own core; nested thread pools would fight over them."""
    import torch

    torch.set_num_threads(1)
