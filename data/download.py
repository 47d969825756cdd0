"""Download a public dataset for ingest, verified by its checksum and unpacked, completely or not at all."""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx

from config.command import exits_cleanly
from config.paths import DOWNLOADS
from data.files import DataError, replace_folder

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
MAX_UNPACKED_BYTES = 4 << 30  # the largest dataset, MovieLens 32M, has less than 1 GiB
TIMEOUT_SECONDS = 30
_TERMS = "for research, with acknowledgement; neither redistribution nor commercial use without permission of GroupLens"
_SHARED = (
    "for research, with acknowledgement; redistribution under the same terms; no commercial use without permission"
)


@dataclass(frozen=True)
class PublishedDataset:
    """A dataset that its owner publishes as <name>.zip, with its checksum in <name>.zip.md5."""

    ratings: str
    terms: str  # a summary; the README in the archive has the full text


DATASETS = {
    "ml-100k": PublishedDataset("100,000 ratings of 943 users, with traits", _TERMS),
    "ml-1m": PublishedDataset("1 million ratings of 6,040 users, with traits", _TERMS),
    "ml-20m": PublishedDataset("20 million ratings", _SHARED),
    "ml-25m": PublishedDataset("25 million ratings", _SHARED),
    "ml-32m": PublishedDataset("32 million ratings", _SHARED),
    "ml-latest-small": PublishedDataset("about 100,000 ratings; changes now and then", _SHARED),
}


def download(name: str, to: Path, base_url: str = GROUPLENS) -> Path:
    """Download a dataset into the folder `to`/<name>, unless the folder exists.

    A killed run leaves a hidden folder, which the next run removes.

    Raises:
        DataError: no response, an HTTP error, a different checksum, an archive that cannot be unpacked, or a full disk.
    """
    folder = to / name
    if folder.exists():
        return folder
    url = f"{base_url.rstrip('/')}/{name}.zip"
    try:
        with replace_folder(folder) as partial, httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
            expected = _published_checksum(client, f"{url}.md5")
            archive, unpacked = partial / f".{name}.zip", partial / ".unpacked"
            found = _fetch(client, url, archive)
            if found != expected:
                raise DataError(f"{url}: the MD5 is {found}, the published one is {expected}; try again")
            _unpack(archive, unpacked)
            if not (unpacked / name).is_dir():
                raise DataError(f"{url} holds no folder {name}")
            for part in (unpacked / name).iterdir():
                part.rename(partial / part.name)
            archive.unlink()
            shutil.rmtree(unpacked)
    except httpx.HTTPStatusError as error:
        raise DataError(f"{error.request.url}: the server responded with status {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DataError(f"{url}: {' '.join(str(error).split()) or type(error).__name__}; try again") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}") from None
    return folder


def _published_checksum(client: httpx.Client, url: str) -> str:
    """The 32 hex digits in a .md5 file of the form `digits  name` or `MD5 (name) = digits`."""
    response = client.get(url)
    response.raise_for_status()
    digits = re.search(r"\b[0-9a-f]{32}\b", response.text.lower())
    if digits is None:
        raise DataError(f"{url} holds no MD5 checksum")
    return digits[0]


def _fetch(client: httpx.Client, url: str, path: Path) -> str:
    """Write the response to `path`. Returns its MD5 in hex digits."""
    digest = hashlib.md5(usedforsecurity=False)  # GroupLens publishes MD5; it protects against damage
    with client.stream("GET", url) as response, path.open("wb") as file:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the archive. zipfile never leaves the folder: it drops leading slashes and `..` from the paths."""
    try:
        with zipfile.ZipFile(archive) as packed:
            if sum(member.file_size for member in packed.infolist()) > MAX_UNPACKED_BYTES:
                raise DataError(f"{archive.name[1:]}: unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB")
            packed.extractall(folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # damaged, unknown method, encrypted
        raise DataError(f"{archive.name[1:]} cannot be unpacked: {error}") from None


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    listed = "\n".join(f"  {name:16} {dataset.ratings}\n{'':19}{dataset.terms}" for name, dataset in DATASETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m data.download",
        description=f"{__doc__}\n\nThe owner's terms apply to you. The README in the archive has the full text.",
        epilog=f"datasets of GroupLens, https://grouplens.org/datasets/movielens:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=DATASETS, help="one of the names below")
    parser.add_argument("--to", type=Path, default=DOWNLOADS, help="target folder (default: %(default)s)")
    parser.add_argument("--base-url", default=GROUPLENS, help="another server with the same files")
    arguments = parser.parse_args(argv)
    existed = (arguments.to / arguments.name).exists()
    folder = download(arguments.name, arguments.to, arguments.base_url)
    state = "existed already; remove it to download it again" if existed else "the checksum matches"
    print(f"downloaded {folder} ({state}). Terms: {DATASETS[arguments.name].terms}. Next: make demo SOURCE={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
