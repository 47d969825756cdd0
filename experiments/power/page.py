"""The gate's error rates as Markdown."""

from __future__ import annotations

from experiments.power.points import (
    ALONE,
    AS_THEY_ARE,
    BAR,
    BETTER,
    EQUAL,
    WORSE,
    errors,
    first,
    of_kind,
    pooled,
    share,
    users_needed,
)


def statement(facts: dict) -> str:
    """The whole in one line."""
    asked, least = facts["settings"], facts["min_users"]
    if least is None:
        return f"no simulated number of users keeps both errors at {BAR:.0%} and sees {asked['detectable']:+.0%}"
    equal, worse = (
        max(share(point) for point in points if point["users"] >= least)
        for points in (pooled(errors(facts, EQUAL)), pooled(errors(facts, WORSE)))
    )
    return (
        f"from {least:,} users on equals are promoted in {equal:.1%} of windows at most, candidates worse by the margin in "
        f"{worse:.1%} (bar: {BAR:.0%}), and those {asked['detectable']:+.0%} on both targets in {facts['policy']['power']:.0%} or more"
    )


def markdown(facts: dict) -> str:
    """What was asked, what came of it, as of when."""
    policy, asked = facts["policy"], facts["settings"]
    lines = [
        f"# Error rates of the gate on {facts['dataset']}", "", f"**{_capital(statement(facts))}.**", "",
        f"![Share promoted by users and true effect]({facts['dataset']}.svg)", "",
        f"Each point is {asked['looks']:,} simulated windows, whose users are drawn with replacement from those of two real "
        "rankings of the test window. The candidate's gains are shifted in proportion to the champion's scores until "
        "its true effect is the one stated; how users differ stays as it is. Each window is judged as the gate judges: "
        f"paired bootstrap by user, superiority on `{policy['primary']}` at alpha {policy['alpha']}, a loss of at most "
        f"{policy['margin']:.0%} on the other. What else it asks (the baseline, segments, guard rails) only promotes less.", "",
    ]  # fmt: skip
    for title, points in _tables(facts):
        if points:
            lines += [f"## {title}", "", "| users | windows | promoted |", "| --- | --- | --- |"]
            lines += [f"| {one['users']:,} | {one['looks']:,} | {share(one):.1%} |" for one in pooled(points)] + [""]
    lines += _power(facts)
    return "\n".join([*lines, f"By `{facts['command']}`, seed {facts['seed']}, split {facts['split_id']}, commit "
                      f"{facts['commit']}, {facts['date']}.", ""])  # fmt: skip


def _tables(facts: dict) -> list[tuple[str, list[dict]]]:
    return [
        ("The same recipe under another seed, equal on average", of_kind(facts, "seeds", EQUAL)),
        ("The same recipe under another seed, as they are", of_kind(facts, "seeds", AS_THEY_ARE)),
        (f"Other models, equal on average ({', '.join(one['pair'] for one in facts['pairs'] if one['kind'] == 'models')})",
         of_kind(facts, "models", EQUAL)),
        (_capital(WORSE), of_kind(facts, "models", WORSE)),
    ]  # fmt: skip


def _power(facts: dict) -> list[str]:
    """Lines of the table of users needed."""
    pair, asked = first(facts), facts["settings"]
    lines = [f"## Users needed to promote {facts['policy']['power']:.0%} of better candidates ({pair['pair']})", "",
             "| true effect | better on both | better on the primary target alone |", "| --- | --- | --- |"]  # fmt: skip
    for effect in asked["effects"]:
        cells = [users_needed(pair["points"], what, effect, facts["policy"]["power"]) for what in (BETTER, ALONE)]
        most = max(asked["users"])
        lines.append(f"| {effect:+.0%} | " + " | ".join(f"{n:,}" if n else f"more than {most:,}" for n in cells) + " |")
    return [*lines, ""]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
