"""What computes: answers are equal to the bit where this text is equal, and up to rounding elsewhere. Worker side."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import torch

VENDOR = re.compile(r"^(?:vendor_id|CPU implementer)\s*:\s*(.+)$", re.MULTILINE)


def described() -> str:
    """Processor class and what was locked that computes: `x86_64 GenuineIntel AVX512, torch 2.13.0, numpy 2.4.6`."""
    cpu = " ".join(filter(None, (platform.machine(), _vendor(), torch.backends.cpu.get_cpu_capability())))
    return f"{cpu}, torch {torch.__version__}, numpy {np.__version__}"


def _vendor() -> str:
    """The maker of the processor, by which a matrix library chooses its way; empty where the system does not tell."""
    try:
        found = VENDOR.search(Path("/proc/cpuinfo").read_text())
    except OSError:
        return ""
    return found[1].strip() if found else ""
