"""Kill processes of a running platform at random, during traffic and while versions change, and count what clients saw.

The platform is whole: registry server, Redis, TorchServe with its supervisor, and the edge with two processes. A deploy, a
rollout by canary, a rollback, an override and a bulk load of profiles run in between. Each command is repeated until it
exits with 0. What counts: answers with a status of 500 or more, requests that got no answer, answers of a version that
is not the one which the last successful command named, and personal answers for users who had refused.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from benchmarks import _load, _synthetic
from benchmarks._chaos_clients import REQUESTS_PER_SECOND, Expectations, Seen, Traffic
from benchmarks._killable import TARGETS, Platform
from benchmarks._record import write
from benchmarks._synthetic import NAME, Size
from config import params
from config.command import UserError, exits_cleanly
from config.params import Params, Rollout
from config.paths import ROOT
from data.consent import PERSONALIZATION, Answer
from features.feature_files import Features
from features.online import connect
from features.online.profile import make_profile
from features.online.store import Policy
from serving import settings as torchserve
from serving.deployment import promotion, registry
from serving.edge import keys
from web.keys import add_key

SIZE = Size(users=300, items=400, events=30, width=32)
STEPS = (5, 10, 15)  # of training of each version: they must differ, and need not be good
REFUSAL_SECONDS = 5.0  # between two users who refuse
COMMAND_SECONDS = 240.0  # in which a command must have succeeded, whatever is killed meanwhile
KEEP_OF_RUN = (0.03, 0.97)  # kills fall within this share of the run

# A rollout that ends within a minute; its limits are wide, since kills are no fault of the version on trial.
QUICK_PLAN = {
    "shadow_share": 0.5, "shadow_seconds": 3, "shadow_requests": 5, "canary": [0.1, 0.5], "bake_seconds": 5, "min_requests": 5,
    "limits": {"alpha": 0.001, "error_excess": 0.9, "p99_ratio": 1000, "overlap": 0},
}  # fmt: skip
ROLLOUT = "import sys; from benchmarks import chaos; sys.exit(chaos.roll_out())"


class Scenario:
    """Commands and kills, each logged as (second, what, outcome)."""

    def __init__(self, platform: Platform, traffic: Traffic, expected: Expectations, features: Features) -> None:
        self.platform, self.traffic, self.expected, self.features = platform, traffic, expected, features
        self.begun = time.monotonic()
        self.events: list[tuple[float, str, str]] = []
        self.failed: list[str] = []
        self.kills: Counter[str] = Counter()

    def log(self, what: str, outcome: str) -> None:
        self.events.append((round(time.monotonic() - self.begun, 1), what, outcome))
        print(f"{self.events[-1][0]:7.1f} s  {what}: {outcome}", flush=True)

    def change_version(self, what: str, before: str, after: str, act: Callable[[], None]) -> None:
        """Run what brings one version in place of another; both may answer until it has succeeded."""
        self.expected.allow(before, after)
        if self.repeat(what, act):
            self.expected.allow(after)

    def repeat(self, what: str, act: Callable[[], None]) -> bool:
        """Repeat something until it succeeds; whether it did in time."""
        begun, attempt = time.monotonic(), 0
        while time.monotonic() - begun < COMMAND_SECONDS:
            attempt += 1
            try:
                act()
            except Exception as error:  # whatever a killed process brings: the next attempt decides
                last = " ".join(str(error).split())[-200:]
                time.sleep(1)
            else:
                self.log(what, f"succeeded at attempt {attempt}, after {time.monotonic() - begun:.1f} s")
                return True
        self.log(what, f"FAILED {attempt} times: {last}")
        self.failed.append(what)
        return False

    def kill_at(self, moments: list[tuple[float, str]], rng: random.Random) -> None:
        """Kill a process of each target at its moment, in seconds since the begin."""
        for moment, target in moments:
            time.sleep(max(0.0, self.begun + moment - time.monotonic()))
            pid = self.platform.kill(target, rng)
            while pid is None:  # it is about to be restarted
                time.sleep(0.5)
                pid = self.platform.kill(target, rng)
            self.kills[target] += 1
            self.log(f"kill -9 {target}", f"pid {pid}")

    def refuse(self, users: list[str], until: float) -> None:
        """Have one user after another refuse personalization. A refusal counts from its confirmed write on."""
        for user in users:
            if time.monotonic() >= until:
                return
            if self._write(lambda user=user: store_refusal(user)):
                self.expected.refused[user] = time.monotonic()
            time.sleep(REFUSAL_SECONDS)

    def _write(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception:  # Redis is down: the user has no confirmation
            return False
        return True


def command(*arguments: str) -> Callable[[], None]:
    """A command of the project; raises RuntimeError with its last line if it does not exit with 0."""

    def act() -> None:
        ended = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace"
        )
        if ended.returncode:
            raise RuntimeError(f"exit {ended.returncode}: {(ended.stderr + ended.stdout).strip()[-300:]}")

    return act


def roll_out() -> int:
    """`python -m serving.rollout` by QUICK_PLAN."""
    from serving import rollout

    plan = Rollout.model_validate(QUICK_PLAN)
    return 1 if rollout.rollout(NAME, torchserve.load(), plan).rollback_reason else 0


def make_artifact(folder: Path, features: Features, settings: Params, steps: int) -> Path:
    folder.mkdir()
    return _synthetic.artifact(folder, features, SIZE, settings, steps)


def register(artifact: Path) -> str:
    return registry.register_version(NAME, artifact)


def promote(version: str) -> None:
    """Promote a version with a signed report, as the gate does; a repetition ends in the same state."""
    report = {"verdict": promotion.PROMOTE, "reason": "the chaos benchmark promotes it"}
    promotion.promote(NAME, version, report)


def load_profiles(features: Features, settings: Params) -> None:
    """The bulk load of everybody's events."""
    store = connect.connect(NAME, connect.read_settings(), writing=True)
    store.configure(Policy(settings.online.max_events, None))
    store.upsert(_synthetic.profiles(features))
    store.close()


def store_refusal(user: str) -> None:
    """Raises StoreError: the refusal is not stored."""
    now = time.time_ns() // 1000
    store = connect.connect(NAME, connect.read_settings(), writing=True)
    store.upsert([make_profile(user, consent={PERSONALIZATION: Answer(False, now, "benchmark")})])
    store.close()


def run(home: Path, seconds: float, kills: int, seed: int) -> dict[str, Any]:
    """Run the scenario; the figures."""
    settings, rng = params.load(ROOT / "params.yaml"), random.Random(seed)
    print("fit three versions", flush=True)
    features = _synthetic.features(SIZE, settings)
    artifacts = [make_artifact(home / f"version-{steps}", features, settings, steps) for steps in STEPS]
    key, entry = keys.create_key()
    add_key(home / "keys.json", entry)
    platform = Platform(home, NAME, home / "keys.json")
    try:
        platform.start_stores()
        load_profiles(features, settings)
        first, second, third = (register(artifact) for artifact in artifacts)
        promote(first)
        command("-m", "serving.deploy", "--dataset", NAME)()
        platform.start_serving()
        traffic, expected = Traffic(platform.edge_url, key, features.users), Expectations()
        expected.allow(first)
        traffic.start()
        scenario = Scenario(platform, traffic, expected, features)
        times = sorted(rng.uniform(*(seconds * share for share in KEEP_OF_RUN)) for _ in range(kills))
        targets = [TARGETS[number % len(TARGETS)] for number in range(kills)]
        rng.shuffle(targets)
        refusing = features.users[::3]
        with ThreadPoolExecutor(2) as pool:
            killing = pool.submit(scenario.kill_at, list(zip(times, targets, strict=True)), rng)
            refusals = pool.submit(scenario.refuse, refusing, scenario.begun + seconds)
            for share, step in change_steps(scenario, first, second, third, settings):
                time.sleep(max(0.0, scenario.begun + share * seconds - time.monotonic()))
                step()
            killing.result()
            refusals.result()
        recovered = scenario.repeat(
            "everything recovers", lambda: check_recovered(platform, key, expected, features.users)
        )
        traffic.close()
    finally:
        platform.close()
    return figures(scenario, traffic.seen, expected) | {"recovered": recovered}


def change_steps(
    scenario: Scenario, first: str, second: str, third: str, settings: Params
) -> list[tuple[float, Callable[[], None]]]:
    """What changes during the run, by the share of the run at which it begins."""
    change, repeat = scenario.change_version, scenario.repeat
    on = ("--dataset", NAME)
    why = ("--reason", "the chaos benchmark tries an override")
    deploy = ("-m", "serving.deploy", *on)
    return [
        (0.08, lambda: repeat("promote the second version", lambda: promote(second))),
        (0.10, lambda: change("deploy the second version", first, second, command(*deploy))),
        (0.25, lambda: repeat("promote the third version", lambda: promote(third))),
        (0.28, lambda: change("roll out the third version", second, third, command("-c", ROLLOUT))),
        (0.50, lambda: repeat("load all profiles again", lambda: load_profiles(scenario.features, settings))),
        (0.58, lambda: change("roll back to the second version", third, second, command(*deploy, "--rollback"))),
        (0.70, lambda: change("deploy after the rollback", second, second, command(*deploy))),
        (0.80, lambda: change("override with the first", second, first, command(*deploy, "--override", first, *why))),
        (0.90, lambda: change("roll back the override", first, second, command(*deploy, "--rollback"))),
    ]


def check_recovered(platform: Platform, key: str, expected: Expectations, users: list[str]) -> None:
    """Raise RuntimeError unless users get personal answers of the right version again, and no one else does."""
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=10, trust_env=False) as client:
        for user in users:
            sent = time.monotonic()
            got = client.post(f"{platform.edge_url}/v1/recommendations", json={"user_id": user, "k": 10})
            seen = Seen(sent, user, got.status_code, 1, got.json())
            personal = seen.answer.get("source") == "personalized"
            if expected.is_wrong_version(seen) or personal == (user in expected.refused):
                raise RuntimeError(f"{user}: {got.status_code} {got.text[:200]}")


def figures(scenario: Scenario, seen: list[Seen], expected: Expectations) -> dict[str, Any]:
    """What the clients saw, and what was done meanwhile."""
    good = [one for one in seen if one.status == 200]
    wrong = [one for one in good if expected.is_wrong_version(one)]
    lost = [one for one in good if expected.is_lost_refusal(one)]
    for one in (wrong + lost)[:10]:
        print(f"{one.sent - scenario.begun:7.1f} s  {one.user}: {one.answer}")
    return {
        "kills": dict(scenario.kills),
        "requests": len(seen),
        "answers_by_source": dict(Counter(one.answer["source"] for one in good)),
        "status_5xx": sum(one.status >= 500 for one in seen),
        "other_statuses": sum(0 < one.status < 500 and one.status != 200 for one in seen),
        "repeated_after_a_broken_connection": sum(one.attempts > 1 for one in seen),
        "without_answer": sum(one.status == 0 for one in seen),
        "of_a_wrong_version": len(wrong),
        "users_who_refused": len(expected.refused),
        "personal_after_a_refusal": len(lost),
        "commands_that_never_succeeded": scenario.failed,
        "events": [{"second": second, "what": what, "outcome": outcome} for second, what, outcome in scenario.events],
    }


def table(measured: dict[str, Any]) -> str:
    """One line per figure."""
    lines = []
    for name, value in measured.items():
        if name == "events":
            continue
        text = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else str(value)
        lines.append(f"{name.replace('_', ' '):<36} {text if value != [] else 'none'}")
    return "\n".join(lines)


def is_clean(measured: dict[str, Any]) -> bool:
    """Whether nothing was lost."""
    counts = ("status_5xx", "other_statuses", "without_answer", "of_a_wrong_version", "personal_after_a_refusal")
    return (
        measured["recovered"] and not measured["commands_that_never_succeeded"] and not any(map(measured.get, counts))
    )


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of traffic (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="spread over the time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the times and victims (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep state and logs in this new folder")
    arguments = parser.parse_args(argv)
    if arguments.minutes < 2 or arguments.kills < 0:
        raise UserError("--minutes must be at least 2 and --kills at least 0: each command needs its time")
    if _load.lacks_programs("chaos"):
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or what was started would go on
    before = dict(os.environ)
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-chaos-") as folder:
            home = arguments.keep or Path(folder)
            home.mkdir(parents=True, exist_ok=True)
            measured = run(home.resolve(), arguments.minutes * 60, arguments.kills, arguments.seed)
    finally:
        os.environ.clear()
        os.environ.update(before)
    print("", table(measured), sep="\n")
    options = {"minutes": arguments.minutes, "seed": arguments.seed, "requests_per_second": REQUESTS_PER_SECOND}
    print(f"-> {write('chaos', options | measured)}")
    return 0 if is_clean(measured) else 1


if __name__ == "__main__":
    sys.exit(main())
