"""Start, stop or show the one TorchServe of this project, on loopback."""

from __future__ import annotations

import argparse
import sys

from config.command import exits_cleanly
from serving import settings
from serving.deployment.archive_signature import verified_archives
from serving.torchserve import server


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__)
    parser.add_argument("action", choices=("start", "stop", "status"))
    action = parser.parse_args(argv).action
    environment = settings.load()
    if action == "start":
        started = server.start(environment, lambda: verified_archives(environment))
        print(f"{'started' if started else 'was running already'}: {server.describe(environment)}")
    elif action == "stop":
        print("stopped TorchServe" if server.stop(environment) else "TorchServe was not running")
    else:
        print(server.describe(environment))
        return 0 if server.find(environment) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
