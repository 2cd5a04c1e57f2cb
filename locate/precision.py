"""The numbers in which the convolutions of extractors compute.

bfloat16 has the range of float32 and 8 of its 24 binary digits. Where the processor has arithmetic
for it convolutions take .6 to .7 of the time, elsewhere they would take more. Descriptors hardly
change (`docs/experiments.md`, 24): an index made in one precision can be asked in the other, so it is
no part of an extractor's fingerprint."""

from __future__ import annotations

import os

import torch

from locate.errors import UnknownNameError

VARIABLE = "LOCATE_PRECISION"  # of the environment; the fastest if it is not set
_KNOWN = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NATIVE = ("avx512_bf16", "amx_bf16")  # measured with the first; the second is made for it


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 on processors with arithmetic for it, else float32; or what `VARIABLE` says,
    `UnknownNameError` if that is something else."""
    wanted = os.environ.get(VARIABLE)
    if wanted:
        if wanted not in _KNOWN:
            raise UnknownNameError(VARIABLE, wanted, _KNOWN)
        return _KNOWN[wanted]
    # An older torch does not tell.
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = any(able.get(name) for name in _NATIVE)
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32
