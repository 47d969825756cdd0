"""Ask the live endpoint for recommendations, from the command line."""

from __future__ import annotations

import argparse
import sys
import time

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ROOT
from data.columns import MICROSECONDS, MINUTE
from data.times import to_iso
from serving import settings as environment
from serving.torchserve.client import TorchServe
from serving.torchserve.grpc_client import GrpcTorchServe


def build_request(arguments: argparse.Namespace, now_us: int) -> dict:
    """The request that the arguments describe. Items without a time happened one per minute, until now.

    Raises:
        UserError: --context is not a list of name=value.
    """
    request: dict = {"k": arguments.k}
    if arguments.user is not None:
        request["user_id"] = arguments.user
    if arguments.history is not None:
        request["history"] = _parse_history(arguments.history, now_us)
    if arguments.time is not None:
        request["time"] = arguments.time
    if arguments.context:
        request["context"] = {}
        for text in arguments.context:
            name, equals, value = text.partition("=")
            if not equals:
                raise UserError(f"--context is {text!r}; expected name=value")
            request["context"][name] = value
    return request


def render_table(answer: dict) -> str:
    """The answer as text: rank, score, item and title per line, then where it comes from and why."""
    lines = [
        f"{rank:>3}  {item['score']:>10.4f}  {item['item_id']:<12}  {item.get('title') or ''}".rstrip()
        for rank, item in enumerate(answer["items"], start=1)
    ]
    return "\n".join([*lines, f"{answer['source']}: {answer['reason']}"])


def _parse_history(text: str, now_us: int) -> list[dict]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    events = []
    for minutes_ago, item in zip(range(len(items), 0, -1), items, strict=True):
        item_id, _, event_time = item.partition("@")
        events.append({"item_id": item_id, "event_time": event_time or to_iso(now_us - minutes_ago * MINUTE)})
    return events


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.ask", description=__doc__)
    parser.add_argument("--dataset", metavar="NAME", help="the model to ask; default: params.dataset")
    parser.add_argument("--version", help="a loaded version such as 3.0; default: the one that serves")
    parser.add_argument("--user", metavar="ID")
    parser.add_argument("--history", metavar="ITEMS", help="item ids, oldest first: 12,7,31 or 12@2026-01-01T10:00Z,7")
    parser.add_argument("--k", type=int, default=10, help="number of items; default: %(default)s")
    parser.add_argument("--time", metavar="ISO", help="the time of the request; default: now")
    parser.add_argument("--context", nargs="*", metavar="NAME=VALUE", help="what is known of the request or the user")
    parser.add_argument("--grpc", action="store_true", help="ask over gRPC; default: over HTTP")
    arguments = parser.parse_args(argv)
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    request = build_request(arguments, time.time_ns() // 1000 // MICROSECONDS * MICROSECONDS)
    client_class: type[TorchServe | GrpcTorchServe] = GrpcTorchServe if arguments.grpc else TorchServe
    with client_class.from_settings(environment.load()) as client:
        answer = client.predict(dataset, request, arguments.version)
    print(render_table(answer))
    version, trends_time = answer["model_version"], answer["trends_time"]
    print(f"{len(answer['items'])} items from {dataset} version {version}, with item trends of {trends_time}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
