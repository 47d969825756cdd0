"""Bring a public data set to this machine, whole and checked or not at all, for ingest to read."""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx

from config.command import exits_cleanly
from config.paths import DOWNLOADS
from data.errors import DataError
from data.products import replacing

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
MOST_UNPACKED = 4 << 30  # bytes; the largest of them, MovieLens 32M, unpacks to less than 1 GiB
TIMEOUT_SECONDS = 30
_TERMS = "for research, with acknowledgement; neither redistribution nor commercial use without permission of GroupLens"
_SHARED = (
    "for research, with acknowledgement; redistribution under the same terms; no commercial use without permission"
)


@dataclass(frozen=True)
class Published:
    """A data set that its owner publishes as <name>.zip, with <name>.zip.md5 beside it."""

    ratings: str
    terms: str  # in short; the README inside says them in full


CATALOGUE = {
    "ml-100k": Published("100,000 ratings of 943 users, with traits", _TERMS),
    "ml-1m": Published("1 million ratings of 6,040 users, with traits", _TERMS),
    "ml-20m": Published("20 million ratings", _SHARED),
    "ml-25m": Published("25 million ratings", _SHARED),
    "ml-32m": Published("32 million ratings", _SHARED),
    "ml-latest-small": Published("about 100,000 ratings; changes now and then", _SHARED),
}


def download(name: str, to: Path, base_url: str = GROUPLENS) -> Path:
    """The folder `to`/<name>, which appears only when archive and checksum agree; one that is there is left.

    A run that was killed leaves a hidden folder, which the next one removes before it begins anew.

    Raises:
        DataError: one line: no answer, a wrong status, a checksum that differs, an archive that cannot be
            unpacked, no room.
    """
    folder = to / name
    if folder.exists():
        return folder
    url = f"{base_url.rstrip('/')}/{name}.zip"
    try:
        with replacing(folder) as partial, httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
            expected = _published_checksum(client, f"{url}.md5")
            archive = partial / f".{name}.zip"
            found = _fetch(client, url, archive)
            if found != expected:
                raise DataError(f"{url}: its MD5 is {found}, the published one {expected}; try again")
            _unpack(archive, name, partial)
            archive.unlink()
    except httpx.HTTPStatusError as error:
        raise DataError(f"{error.request.url}: the server answers {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DataError(f"{url}: {' '.join(str(error).split()) or type(error).__name__}; try again") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}") from None
    return folder


def _published_checksum(client: httpx.Client, url: str) -> str:
    """The 32 hexadecimal digits of a .md5 file, be it `digits  name` or `MD5 (name) = digits`."""
    answer = client.get(url)
    answer.raise_for_status()
    digits = re.search(r"\b[0-9a-f]{32}\b", answer.text.lower())
    if digits is None:
        raise DataError(f"{url} holds no MD5 checksum")
    return digits[0]


def _fetch(client: httpx.Client, url: str, path: Path) -> str:
    """Write the body to `path`; returns its MD5 as hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)  # against damage: what GroupLens publishes
    with client.stream("GET", url) as answer, path.open("wb") as file:
        answer.raise_for_status()
        for chunk in answer.iter_bytes():
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _unpack(archive: Path, name: str, folder: Path) -> None:
    """Write the archive's folder `name` into `folder`; a member that would lie elsewhere refuses all of it."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > MOST_UNPACKED:
                raise DataError(f"{archive.name[1:]}: unpacks to more than {MOST_UNPACKED >> 30} GiB")
            places = {member: _inside(member.filename) for member in members}
            for member, parts in places.items():
                if parts[0] != name or len(parts) == 1:
                    continue
                target = folder.joinpath(*parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # torn, unknown method, encrypted
        raise DataError(f"{archive.name[1:]} cannot be unpacked: {error}") from None
    if not any(part.name != archive.name for part in folder.iterdir()):
        raise DataError(f"{archive.name[1:]} holds no folder {name}")


def _inside(member: str) -> tuple[str, ...]:
    """The parts of a member's path; a DataError where they lead out of the folder."""
    parts = PurePosixPath(member).parts
    if not parts or member.startswith("/") or ".." in parts or "\\" in member or ":" in parts[0]:
        raise DataError(f"the archive holds {member!r}, which leads out of its folder; nothing was unpacked")
    return parts


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """The command line."""
    listed = "\n".join(f"  {name:16} {one.ratings}\n{'':19}{one.terms}" for name, one in CATALOGUE.items())
    parser = argparse.ArgumentParser(
        prog="python -m data.download",
        description=f"{__doc__}\n\nThe terms of the data set hold for you as for anyone who takes it from its owner;\n"
        "in full they stand in the README that comes with it.",
        epilog=f"data sets of GroupLens, https://grouplens.org/datasets/movielens:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=CATALOGUE, help="one of the names below")
    parser.add_argument("--to", type=Path, default=DOWNLOADS, help="folder for it (default: %(default)s)")
    parser.add_argument("--base-url", default=GROUPLENS, help="another server that holds the same files")
    arguments = parser.parse_args(argv)
    known = (arguments.to / arguments.name).exists()
    folder = download(arguments.name, arguments.to, arguments.base_url)
    state = "was there already; remove it to download it again" if known else "its MD5 is the published one"
    print(f"download: {folder} ({state}). Terms: {CATALOGUE[arguments.name].terms}. Next: make demo SOURCE={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
