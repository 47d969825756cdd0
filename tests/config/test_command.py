"""How a command ends: a user's mistake, an interrupt and a closed pipe are no tracebacks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.command import UserError, exits_cleanly

ROOT = Path(__file__).resolve().parents[2]
# Modules in which models are fitted, tuned, measured or timed.
COMPUTING = (
    "training.train", "experiments.tune", "experiments.evaluate", "experiments.gate", "experiments.refit_full",
    "serving.export", "benchmarks.ncf_paper", "benchmarks.training",
)  # fmt: skip
SEEN = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("KMP_BLOCKTIME"))
            os._exit(0)
sys.meta_path.insert(0, Watch())
import {module}
print("no torch")
"""
WRITER = """
import sys
from config.command import exits_cleanly

@exits_cleanly
def main(argv=None):
    {body}
    return 0

sys.exit(main())
"""


def piped_into_head(body: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose output's reader stops after one line."""
    command = [sys.executable, "-c", WRITER.format(body=body)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    return process.wait(timeout=60), process.stderr.read()


def test_a_file_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(number: int):
        @exits_cleanly
        def main(argv: list[str] | None = None) -> int:
            raise OSError(number, os.strerror(number), "out/data")

        return main

    assert fails(errno.EROFS)() == 2
    assert capsys.readouterr().err == "error: Read-only file system: out/data\n"
    with pytest.raises(FileNotFoundError):
        fails(errno.ENOENT)()


def test_a_character_that_stdout_lacks_is_printed_as_an_escape() -> None:
    command = [sys.executable, "-c", WRITER.format(body="print('Аня – 1')")]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == rb"\u0410\u043d\u044f \u2013 1" + b"\n"


@pytest.mark.parametrize(
    "body",
    [
        'for number in range(100_000): print("a line", number)',
        # What fits the buffer is written when the command has ended.
        'import time; print("first", flush=True); time.sleep(1); print("second")',
        'import time; print("first", flush=True); time.sleep(1); print("second"); raise SystemExit(0)',
    ],
)
def test_a_closed_pipe_ends_a_command_without_a_traceback(body: str) -> None:
    assert piped_into_head(body) == (141, "")


def test_a_broken_pipe_elsewhere_is_not_hidden() -> None:
    @exits_cleanly
    def main(argv: list[str] | None = None) -> int:
        raise BrokenPipeError("of a socket")

    with pytest.raises(BrokenPipeError, match="of a socket"):
        main()


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    @exits_cleanly
    def main(argv: list[str] | None = None) -> int:
        raise UserError("split.test_fraction is 1.2; expected less than 1")

    assert main() == 2
    assert capsys.readouterr().err == "error: split.test_fraction is 1.2; expected less than 1\n"


def test_an_interrupt_is_exit_code_130() -> None:
    @exits_cleanly
    def main(argv: list[str] | None = None) -> int:
        raise KeyboardInterrupt

    assert main() == 130


@pytest.mark.slow
@pytest.mark.parametrize("module", COMPUTING)
def test_waiting_threads_sleep_in_every_command_that_computes(module: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_"))}
    code = SEEN.replace("os._exit(0)", "sys.stdout.flush(); os._exit(0)").format(module=module)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=own, capture_output=True, encoding="utf-8")

    assert ended.stdout.strip() == "1000 0", ended.stderr
