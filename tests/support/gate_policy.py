"""The shipped settings, and the gate's policy at round numbers, so that tests of verdicts do not move with params.yaml."""

from __future__ import annotations

from config import params
from config.paths import ROOT

SHIPPED = params.load(ROOT / "params.yaml")
POLICY = SHIPPED.gate.model_copy(update={"alpha": 0.05, "margin": 0.02, "segment_margin": 0.02, "min_users": 100})
