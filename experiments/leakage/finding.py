"""What a check tells of the rows that it looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

Row = dict[str, str]  # column -> text, as a person would look for it


@dataclass(frozen=True)
class Finding:
    """A promise that does not hold; or, where it does not fail the audit, something that a reader should know."""

    what: str
    rows: int  # that offend
    examples: list[Row]  # the first of them
    meaning: str
    remedy: str
    fails: bool = True


@dataclass(frozen=True)
class Outcome:
    """How much a check looked at, what it found, and what it measured besides."""

    rows: int
    unit: str  # what a row is
    findings: list[Finding]
    measured: list[Row] = field(default_factory=list)
