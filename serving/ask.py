"""Ask the live endpoint for recommendations, from the command line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ROOT
from data.columns import MICROSECONDS, MINUTE
from data.times import to_iso
from serving import settings as environment
from serving.torchserve.client import TorchServe

if TYPE_CHECKING:
    from serving.torchserve.grpc_client import GrpcTorchServe


class AskError(UserError):
    """The command line does not make a request; the text says which part."""


def request(arguments: argparse.Namespace, now_us: int) -> dict:
    """The request that the arguments describe; items without a time happened one a minute until now.

    Raises:
        AskError: --context is not a list of name=value.
    """
    if arguments.json is not None:
        return json.loads(arguments.json)
    asked: dict = {"k": arguments.k}
    if arguments.user is not None:
        asked["user_id"] = arguments.user
    if arguments.history is not None:
        asked["history"] = _history(arguments.history, now_us)
    if arguments.time is not None:
        asked["time"] = arguments.time
    if arguments.context:
        asked["context"] = dict(_pair(text) for text in arguments.context)
    return asked


def table(answer: dict) -> str:
    """An answer for reading: what was recommended, from what, by which version."""
    lines = [
        f"{place:>3}  {item['score']:>10.4f}  {item['item_id']:<12}  {item.get('title') or ''}".rstrip()
        for place, item in enumerate(answer["items"], start=1)
    ]
    return "\n".join([*lines, f"{answer['source']}: {answer['reason']}"])


def _history(text: str, now_us: int) -> list[dict]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    events = []
    for ago, item in zip(range(len(items), 0, -1), items, strict=True):
        item_id, _, stated = item.partition("@")
        events.append({"item_id": item_id, "event_time": stated or to_iso(now_us - ago * MINUTE)})
    return events


def _predict(dataset: str, asked: dict, version: str | None, over_grpc: bool) -> dict:
    client: TorchServe | GrpcTorchServe
    if over_grpc:
        from serving.torchserve.grpc_client import GrpcTorchServe

        client = GrpcTorchServe.from_settings(environment.load())
    else:
        client = TorchServe.from_settings(environment.load())
    with client:
        return client.predict(dataset, asked, version)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise AskError(f"--context is {text!r}; expected name=value")
    return name, value


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.ask", description=__doc__)
    parser.add_argument("--dataset", metavar="NAME", help="the model to ask; default: params.dataset")
    parser.add_argument("--version", help="a loaded version such as 3.0; default: the one that serves")
    parser.add_argument("--user", metavar="ID")
    parser.add_argument("--history", metavar="ITEMS", help="item ids, oldest first: 12,7,31 or 12@2026-01-01T10:00Z,7")
    parser.add_argument("--k", type=int, default=10, help="how many items; default: %(default)s")
    parser.add_argument("--time", metavar="ISO", help="the moment asked about; default: now")
    parser.add_argument("--context", nargs="*", metavar="NAME=VALUE", help="what is known of the request or the user")
    parser.add_argument("--json", metavar="REQUEST", help="send this request instead")
    parser.add_argument("--grpc", action="store_true", help="ask over gRPC; default: over HTTP")
    parser.add_argument("--raw", action="store_true", help="print the answer as JSON")
    arguments = parser.parse_args(argv)
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    try:
        asked = request(arguments, time.time_ns() // 1000 // MICROSECONDS * MICROSECONDS)
    except json.JSONDecodeError as error:
        raise AskError(f"--json is not JSON: {error}") from None
    answer = _predict(dataset, asked, arguments.version, arguments.grpc)
    print(json.dumps(answer, ensure_ascii=False, indent=1) if arguments.raw else table(answer))
    origin = f"{dataset} {answer['model_version']}, trends of {answer['trends_time']}"
    print(f"{len(answer['items'])} items from {origin}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
