"""What this machine has to work with."""

from __future__ import annotations

import os

import torch


def cores() -> int:
    """How many processor cores this process may use: in a container perhaps fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices_here(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ``ValueError`` where this machine has none, and lists what it has."""
    there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if "cuda:0" in there:
        there.append("cuda")
    if str(name) not in there:
        raise ValueError(f"no device {str(name)!r} on this machine; there is: {', '.join(there)}")
    return torch.device(name)
