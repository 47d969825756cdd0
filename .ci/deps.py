"""Write the code that each stage of dvc.yaml depends on anew, from what its verb imports; all else stays as it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = re.compile(r"^  ([a-z-]+):$")


def main() -> int:
    """Edit dvc.yaml as text: its comments and anchors are for people, and a parser would lose them."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import test_doors as doors

    lines = iter([*(ROOT / "dvc.yaml").read_text().splitlines(), ""])
    written, stage = [], ""
    for line in lines:
        if match := STAGE.match(line):
            stage = match[1]
        written.append(line)
        if line == "    deps:":
            listed = []
            while (line := next(lines)).startswith("    - "):
                listed.append(line)
            kept = [one for one in listed if not one.endswith(".py")]
            products = [one for one in kept if not one.endswith(".py")]
            code = {one for one in kept if one.endswith(".py")} | set(_code_of(doors, stage))
            written += [*products, *sorted(code), line]
    (ROOT / "dvc.yaml").write_text("\n".join(written[:-1]) + "\n")
    return 0


def _code_of(doors, stage: str) -> list[str]:
    """The lines of a stage's code, sorted."""
    return [f"    - {file}" for file in sorted(doors.code_of(stage))]


if __name__ == "__main__":
    sys.exit(main())
