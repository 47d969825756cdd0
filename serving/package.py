"""Package artifact folders and worker code as one .mar per model, the archive that TorchServe loads."""

from __future__ import annotations

import argparse
import sys
import time

from config import params
from config.command import exits_cleanly
from config.paths import ARCHIVES, ARTIFACTS, ROOT
from serving.artifact.archive import PackageError, build_archive


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.package", description=__doc__)
    parser.add_argument(
        "--model", nargs="+", action="extend", required=True, metavar="LABEL", help="a key of params.yaml: train.models"
    )
    settings = params.load(ROOT / "params.yaml")
    for label in parser.parse_args(argv).model:
        if label not in settings.train.models:
            known = ", ".join(settings.train.models)
            raise PackageError(f"--model is {label!r}; params.train.models holds {known}")
        begun, target = time.monotonic(), ARCHIVES / f"{label}.mar"
        build_archive(ROOT / ARTIFACTS / label, ROOT / target, settings.dataset)
        seconds, megabytes = time.monotonic() - begun, (ROOT / target).stat().st_size / 1e6
        print(f"packaged {label} in {seconds:.1f} s: {target} ({megabytes:.1f} MB)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
