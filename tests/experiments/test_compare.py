"""The command writes the leaderboard, and answers a mistake in one line."""

from __future__ import annotations

import json

from experiments import compare


def test_command_line_writes_the_files_and_says_where(out, tmp_path, capsys):
    arguments = ["--dataset", "made", "--out", str(out), "--results", str(tmp_path / "r")]
    assert compare.main(arguments) == 0
    message = capsys.readouterr().out
    assert message.startswith("compared 3 models of made; written to ")
    assert json.loads((tmp_path / "r" / "made.json").read_text(encoding="utf-8"))["registered"] == "ours"
    assert (tmp_path / "r" / "made.md").exists()
    assert (out / "leaderboard.html").exists()


def test_command_line_answers_a_mistake_in_one_line(out, capsys):
    assert compare.main(["--dataset", "unknown", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "'unknown', only of ['made']" in message
