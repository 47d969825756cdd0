"""Comment the verdict of an evaluation on its pull request. Run by .github/workflows/comment.yml; standard library only.

The artifact was made by code that nobody has reviewed. It is read in memory, up to a limit, and shown as plain text.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from html import escape
from zipfile import BadZipFile, ZipFile

ARTIFACT, MEMBER = "gate", "gate.md"
MAX_ARCHIVE_BYTES = 4_000_000
MAX_TEXT_BYTES = 12_000  # every character may become five, and GitHub's limit is 65,536


def gh(*arguments: str, text: str = "") -> bytes:
    """The output of GitHub's command line. Raises CalledProcessError."""
    return subprocess.run(["gh", *arguments], input=text.encode(), stdout=subprocess.PIPE, check=True).stdout


def pull_request(repository: str, head: str, sha: str) -> int | None:
    """The open pull request from this branch (`owner:branch`), if this commit is still its newest."""
    # The event of a fork's run does not name its pull request.
    listed = gh("api", "--method", "GET", f"repos/{repository}/pulls", "-f", "state=open", "-f", f"head={head}")
    return next((each["number"] for each in json.loads(listed) if each["head"]["sha"] == sha), None)


def download(repository: str, run: str) -> bytes | None:
    """The run's artifact; None if it has none, or one over the limit."""
    listed = json.loads(gh("api", f"repos/{repository}/actions/runs/{run}/artifacts"))["artifacts"]
    newest = max((each for each in listed if each["name"] == ARTIFACT), key=lambda each: each["id"], default=None)
    if newest is None or newest["size_in_bytes"] > MAX_ARCHIVE_BYTES:
        return None
    return gh("api", f"repos/{repository}/actions/artifacts/{newest['id']}/zip")


def verdict(archive: bytes | None) -> str:
    """The verdict in an artifact as HTML that shows plain text: no link, no mention, no markup, no control character."""
    try:
        with ZipFile(io.BytesIO(archive or b"")) as opened, opened.open(MEMBER) as member:
            raw = member.read(MAX_TEXT_BYTES + 1)
    except (BadZipFile, KeyError):
        return "The evaluation left no verdict."
    text = raw[:MAX_TEXT_BYTES].decode("utf-8", "replace") + (" ... (cut)" if len(raw) > MAX_TEXT_BYTES else "")
    plain = "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)
    return f"<pre>\n{escape(plain, quote=False)}\n</pre>"


def main() -> int:
    repository, run, sha = os.environ["GITHUB_REPOSITORY"], os.environ["RUN_ID"], os.environ["HEAD_SHA"]
    number = pull_request(repository, os.environ["HEAD"], sha)
    if number is None:
        print(f"no open pull request has {sha} as its newest commit")
        return 0
    url = f"{os.environ['GITHUB_SERVER_URL']}/{repository}/actions/runs/{run}"
    head = (
        f"**[Evaluation]({url}) of {sha[:12]}: {os.environ['CONCLUSION']}.** The text below was written by this pull "
    )
    head += "request's code, against a baseline on an empty registry. The gate judges again after the merge."
    body = f"{head}\n\n{verdict(download(repository, run))}\n"
    gh(
        "pr",
        "comment",
        str(number),
        "--repo",
        repository,
        "--edit-last",
        "--create-if-none",
        "--body-file",
        "-",
        text=body,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
