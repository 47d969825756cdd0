"""How finely TorchServe's frontend measures the time that it waits to fill a batch.

TorchServe 0.12 waits in whole milliseconds: at least one, which a request that comes alone waits for nobody, or none, and
then no batch holds more than two. The unit stands in one place, a constant of its class `Model` which serves for nothing
but waiting for requests. A copy of the class with microseconds there lies in front of the jar, which stays as it is. A
build of the class that is not known to be so is left alone: then delays are whole milliseconds. TorchServe was archived
with 0.12, so no newer one comes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from serving import whole

CLASS = "org/pytorch/serve/wlm/Model.class"
KNOWN = "7c5523f1fe77fe79aa32665469e17725e70518692abcf4987989ef72f10d4cff"  # of torchserve 0.12.0
COARSE, FINE = b"MILLISECONDS", b"MICROSECONDS"  # of java.util.concurrent.TimeUnit; as long as each other
FOLDER = "frontend"
SHORT_US = 50  # a batch costs a millisecond or two: who comes alone should not wait
LONG_US = 1000  # with an index a batch costs many, whatever it holds: a full one is worth waiting for


def class_path(package: Path, home: Path) -> str:
    """Where Java finds TorchServe's frontend: our copy of the class before the rest.

    Args:
        package: the folder of the installed `ts`.
        home: of the server; the copy is written to its folder `frontend`.
    """
    jars = str(package / "frontend" / "*")
    fine = _made_fine(package / "frontend" / "model-server.jar")
    if fine is None:
        return jars
    whole.write(home / FOLDER / CLASS, fine)  # a server that starts at the same time may read it
    return os.pathsep.join((str(home / FOLDER), jars))


def is_fine(command_line: Sequence[str]) -> bool:
    """Whether a frontend that was started so waits in microseconds."""
    given = dict(pairwise(command_line)).get("-cp", "")
    return Path(given.split(os.pathsep)[0]).name == FOLDER and os.pathsep in given


def chosen_us(delay_us: int | None, indexed: bool) -> int:
    """A delay in microseconds; where none is given, the one that fits the cost of a batch.

    Args:
        indexed: whether the artifact has an index of a large catalogue.
    """
    if delay_us is None:
        return LONG_US if indexed else SHORT_US
    return delay_us


def stated(delay_us: int | None, indexed: bool, command_line: Sequence[str]) -> int:
    """The same in the unit of the frontend that was started so: what TorchServe calls `max_batch_delay`."""
    delay = chosen_us(delay_us, indexed)
    return delay if is_fine(command_line) else -(-delay // 1000)


def _made_fine(jar: Path) -> bytes | None:
    """The class with the other unit; None where it is not the one that is known."""
    try:
        with ZipFile(jar) as archive:
            own = archive.read(CLASS)
    except (OSError, KeyError, BadZipFile):
        return None
    return own.replace(COARSE, FINE) if sha256(own).hexdigest() == KNOWN else None
