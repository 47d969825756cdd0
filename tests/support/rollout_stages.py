"""Rollout stages of the dataset `tiny`, for tests."""

from __future__ import annotations

from config import params
from config.paths import ROOT
from serving.deployment import rollout_stage
from serving.deployment.rollout_stage import Phase, RolloutStage

PLAN = params.load(ROOT / "params.yaml").rollout


def make_stage(phase: Phase, version: str = "2.0", previous: str | None = "1.0", **fields) -> RolloutStage:
    fields = {"since": rollout_stage.utc_now(), "reason": "a test", "by": "me@host"} | fields
    return RolloutStage(dataset="tiny", phase=phase, version=version, previous=previous, **fields)
