"""Make, list and revoke the write keys of the event collector. Only a key's hash is stored, so a key is shown once.

A write key can send events of one source, and nothing else. A key for a web page is public, so give it the page's origin
and limits of its own.
"""

from __future__ import annotations

import argparse
import sys
from typing import Annotated, ClassVar

from pydantic import Field, ValidationError, field_validator, model_validator

from config.command import UserError, exits_cleanly
from config.validation import error_message
from data.collect import settings
from data.collect.schema import PURPOSES
from web.keys import StoredKey, add_key, create, expires_after, read_keys, revoke_key

Rate = Annotated[float, Field(gt=0)]
Origin = Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]


class WriteKey(StoredKey):
    """One stored write key."""

    kind: ClassVar[str] = "write key"
    command: ClassVar[str] = "data.collect.write_keys"
    usage: ClassVar[str] = (
        "`Authorization: Basic` with the key as user name, `Authorization: Bearer KEY`, or `writeKey`"
    )

    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")]  # recorded with each event
    purposes: tuple[str, ...] = ()  # of an event that does not say which purposes the person allowed
    origins: tuple[Origin, ...] = ()  # of the web pages that may use the key; none: any sender
    profiles: bool = False  # may send users and items; never a key for web pages
    events_per_second: Rate | None = None  # None: the collector's setting
    bytes_per_second: Rate | None = None

    @field_validator("purposes")
    @classmethod
    def _check_purposes(cls, purposes: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(purposes) - set(PURPOSES):
            raise ValueError(f"{', '.join(sorted(unknown))}; expected some of {', '.join(PURPOSES)}")
        return purposes

    @model_validator(mode="after")
    def _check_profiles(self) -> WriteKey:
        if self.profiles and self.origins:
            raise ValueError("a key for web pages is public, so it cannot send profiles; make two keys")
        return self


def format_key(key: WriteKey) -> str:
    """A stored key in one line."""
    purposes = f"for {', '.join(key.purposes)}" if key.purposes else "for the purposes that each event names"
    parts = [key.id, key.expiry, f"source {key.source}", purposes]
    parts += [f"from {', '.join(key.origins)}"] if key.origins else []
    parts += ["with profiles"] if key.profiles else []
    parts += [f"{key.events_per_second:g} events/s"] if key.events_per_second else []
    parts += [f"{key.bytes_per_second:g} bytes/s"] if key.bytes_per_second else []
    return "  ".join(parts)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.collect.write_keys", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="make a key and print it")
    make.add_argument("source", help="the name of the site, app or service that sends; stored with its events")
    make.add_argument(
        "--purposes",
        default="",
        metavar="A,B",
        help=f"what events serve that do not say which purposes the person allowed: some of {', '.join(PURPOSES)}, or "
        "`all`; default: none",
    )
    make.add_argument("--origin", action="append", default=[], metavar="URL", help="a web page's origin; repeatable")
    make.add_argument("--profiles", action="store_true", help="also users and items; not for web pages")
    make.add_argument("--events-per-second", type=float, metavar="N")
    make.add_argument("--bytes-per-second", type=float, metavar="N")
    make.add_argument("--days", type=float, default=365, help="until it expires; default: %(default)s")
    actions.add_parser("list", help="show the stored keys")
    revoke = actions.add_parser("revoke", help="make a key invalid from now on")
    revoke.add_argument("id", help="as `list` shows it")
    arguments = parser.parse_args(argv)
    path = settings.load().write_keys
    if arguments.action == "make":
        purposes = PURPOSES if arguments.purposes == "all" else tuple(filter(None, arguments.purposes.split(",")))
        try:
            text, key = create(
                WriteKey,
                expires_after(arguments.days),
                source=arguments.source,
                purposes=purposes,
                origins=tuple(arguments.origin),
                profiles=arguments.profiles,
                events_per_second=arguments.events_per_second,
                bytes_per_second=arguments.bytes_per_second,
            )
        except ValidationError as error:
            fault = error.errors()[0]
            raise UserError(f"{fault['loc'][0]}: {error_message(fault)}") from None
        add_key(path, key)
        print(text)
        print(f"stored as {format_key(key)}, in {path}; the key itself is not stored", file=sys.stderr)
    elif arguments.action == "revoke":
        revoke_key(path, WriteKey, arguments.id)
        print(f"revoked {arguments.id}")
    else:
        print("\n".join(map(format_key, read_keys(path, WriteKey))) or f"{path} holds no keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())
