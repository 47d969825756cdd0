"""Find the metrics and labels in a PromQL expression."""

from __future__ import annotations

import re

STRING = re.compile(r'"(?:\\.|[^"\\])*"')
METRIC = re.compile(r"\b([A-Za-z_:][A-Za-z0-9_:]*)\b(?!\s*\()")
NO_METRICS = {"and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool", "vector", "inf", "nan"}


def metrics(expression: str) -> set[str]:
    """`sum by (source) (rate(a_total{source="x"}[5m])) / b` has the metrics a_total and b."""
    bare = STRING.sub("", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    return {name for name in METRIC.findall(bare) if name not in NO_METRICS}


def labels(expression: str) -> dict[str, set[str]]:
    """Metric -> the labels in its selectors."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"([A-Za-z_:]\w*)\{([^}]*)\}", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", STRING.sub("", selector)))
    return found


def grouped(expression: str) -> set[str]:
    """The labels of `by` and `on`, without `le`."""
    lists = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    return {label.strip() for each in lists for label in each.split(",")} - {"le", ""}


def exposed(page: str) -> set[str]:
    """The sample names of a metrics page, including those without samples yet."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        names |= {name} if kind != "histogram" else {f"{name}_{end}" for end in ("bucket", "sum", "count")}
    return names
