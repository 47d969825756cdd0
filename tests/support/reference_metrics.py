"""A second implementation of every published metric, from the rankings and items files only.

Plain loops over `ranked` and `truth`, written from the definitions and not from the code: it never reads `true_ranks` and
imports nothing of the project. Slow and simple on purpose.
"""

from __future__ import annotations

import math
from collections import defaultdict


def recompute(frames, items, target, ks=(5, 10, 20, 50, 100)):
    """{key: value} of every metric of one target; `frames` holds one rankings table per seed."""
    facts = Facts(items)
    seeds = [read_cases(frame, target) for frame in frames]
    values = {}
    for key in case_keys(ks, facts):
        per_case = average_seeds([{c["id"]: case_metric(key, c, facts) for c in seed} for seed in seeds])
        values[key] = mean(per_case.values())
        if target == "next_item" and key.split("@")[0] in ("recall", "hr", "ndcg", "map", "mrr"):
            values[f"{key}_by_user"] = mean_of_users(seeds[0], per_case)
    for k in ks:
        values[f"coverage@{k}"] = mean([coverage(seed, facts, k) for seed in seeds])
        values[f"gini@{k}"] = mean([gini(seed, facts, k) for seed in seeds])
    values["personalization@10"] = mean([personalization(seed, 10) for seed in seeds])
    return values


def recompute_slice(frames, items, target, name):
    """{"users", "cases", "ndcg@10", "recall@10"} of one slice."""
    facts = Facts(items)
    seeds = [[c for c in (cut(case, facts, name) for case in read_cases(f, target)) if c] for f in frames]
    found = {"users": len({c["user"] for c in seeds[0]}), "cases": len(seeds[0])}
    for key in ("ndcg@10", "recall@10"):
        each = [{c["id"]: case_metric(key, c, facts) for c in seed} for seed in seeds]
        found[key] = mean(average_seeds(each).values())
    return found


class Facts:
    """The items file by item id."""

    def __init__(self, items):
        rows = items.to_dict("records")
        self.catalog = {row["item_id"] for row in rows if row["catalog"]}
        self.popularity = {row["item_id"]: int(row["popularity"]) for row in rows}
        self.age = {row["item_id"]: row.get("age_days") for row in rows}
        self.vector = {row["item_id"]: [float(x) for x in row["vector"]] for row in rows if has_vector(row)}
        self.events = max(sum(self.popularity.values()), 1)
        by_popularity = sorted(self.catalog, key=lambda item: (-self.popularity[item], item))
        self.head = set(by_popularity[: math.ceil(len(by_popularity) / 5)])
        self.percentiles, self.cosines = {}, {}

    def percentile(self, item):
        own = self.popularity[item]
        if own not in self.percentiles:
            others = [self.popularity[other] for other in self.catalog]
            below, equal = sum(n < own for n in others), sum(n == own for n in others)
            self.percentiles[own] = (below + equal / 2) / len(others)
        return self.percentiles[own]

    def novelty(self, item):
        return -math.log2(max(self.popularity[item], 1) / self.events)

    def cosine(self, a, b):
        pair = (a, b) if a < b else (b, a)
        if pair not in self.cosines:
            self.cosines[pair] = cosine(self.vector.get(a, []), self.vector.get(b, []))
        return self.cosines[pair]


def has_vector(row):
    return row.get("vector") is not None and len(row["vector"]) > 0


def read_cases(frame, target):
    rows = frame[frame["target"] == target]
    rows = rows if "segments" in rows else rows.assign(segments=[[] for _ in range(len(rows))])
    columns = ("case_id", "user_id", "time", "history_length", "activity", "segments", "ranked", "truth")
    names = ("id", "user", "time", "history", "activity", "segments", "ranked", "truth")
    return [dict(zip(names, row, strict=True)) for row in zip(*(rows[c] for c in columns), strict=True)]


def case_keys(ks, facts):
    keys = [f"{name}@{k}" for name in ("recall", "hr", "ndcg", "map") for k in ks]
    keys += ["mrr@100", "popularity_percentile@10", "novelty@10"]
    return keys + (["diversity@10"] if facts.vector else [])


def case_metric(key, case, facts):
    name, k = key.split("@")[0], int(key.split("@")[1])
    top, truth = list(case["ranked"][:k]), set(case["truth"])
    hits = [rank for rank, item in enumerate(top, start=1) if item in truth]
    possible = min(k, len(truth))
    if name == "recall":
        return len(hits) / possible
    if name == "hr":
        return 1.0 if hits else 0.0
    if name == "ndcg":
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, possible + 1))
        return sum(1 / math.log2(rank + 1) for rank in hits) / ideal
    if name == "map":
        return sum(so_far / rank for so_far, rank in enumerate(hits, start=1)) / possible
    if name == "mrr":
        return 1 / hits[0] if hits else 0.0
    if name == "popularity_percentile":
        return mean([facts.percentile(item) for item in top])
    if name == "novelty":
        return mean([facts.novelty(item) for item in top])
    if name == "diversity":
        pairs = [(a, b) for place, a in enumerate(top) for b in top[:place]]
        return 1 - mean([facts.cosine(a, b) for a, b in pairs]) if pairs else None
    raise KeyError(key)


def coverage(cases, facts, k):
    shown = {item for case in cases for item in case["ranked"][:k]}
    return len(shown & facts.catalog) / len(facts.catalog)


def gini(cases, facts, k):
    """Half the relative mean absolute difference, in the form of the area under the Lorenz curve."""
    shown = dict.fromkeys(facts.catalog, 0)
    for case in cases:
        for item in case["ranked"][:k]:
            if item in shown:
                shown[item] += 1
    total, running, area = sum(shown.values()), 0, 0.0
    if total == 0:
        return None
    for count in sorted(shown.values()):
        area += (running + running + count) / 2 / total / len(shown)  # trapezium under the Lorenz curve
        running += count
    return 1 - 2 * area


def personalization(cases, k):
    last = {}
    for case in sorted(cases, key=lambda c: (c["time"], c["id"])):
        last[case["user"]] = set(case["ranked"][:k])
    if len(last) < 2:
        return None
    if len(last) > 300:  # the same sum, item by item, where pairs would be millions
        lists_with = defaultdict(int)
        for shown in last.values():
            for item in shown:
                lists_with[item] += 1
        shared = sum(n * (n - 1) / 2 for n in lists_with.values())
    else:
        lists = list(last.values())
        shared = sum(len(a & b) for place, a in enumerate(lists) for b in lists[:place])
    return 1 - shared / k / (len(last) * (len(last) - 1) / 2)


def cut(case, facts, name):
    """The case as a slice sees it; None where it lies outside."""
    spans = {
        "history": (case["history"], [(1, 4), (5, 19), (20, 99), (100, math.inf)]),
        "activity": (case["activity"], [(1, 1), (2, 9), (10, 49), (50, math.inf)]),
    }
    if name in ("cold", "warm"):
        return case if (case["history"] == 0) == (name == "cold") else None
    if name.startswith("segment:"):
        return case if name.removeprefix("segment:") in list(case["segments"]) else None
    if name.split("_")[0] in spans:
        value, bins = spans[name.split("_")[0]]
        low, high = bins[[b[0] for b in bins].index(int(name.split("_")[1]))]
        return case if low <= value <= high else None
    kept = [item for item in case["truth"] if in_item_slice(item, facts, name)]
    return case | {"truth": kept} if kept else None


def in_item_slice(item, facts, name):
    inside = item in facts.catalog
    if name == "head_items":
        return item in facts.head
    if name == "tail_items":
        return inside and item not in facts.head
    if name == "new_items":
        return not inside
    bins = {"item_age_0_6": (0, 7), "item_age_7_29": (7, 30), "item_age_30_179": (30, 180)}
    low, high = (180, math.inf) if name == "item_age_180_up" else bins[name]
    age = facts.age.get(item)
    return inside and age is not None and not math.isnan(age) and low <= age < high


def cosine(a, b):
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if a and b and length else 0.0


def average_seeds(each):
    known = {case: [seed[case] for seed in each] for case in each[0]}
    return {case: mean(values) for case, values in known.items() if None not in values}


def mean_of_users(cases, per_case):
    of_user = defaultdict(list)
    for case in cases:
        of_user[case["user"]].append(per_case[case["id"]])
    return mean([mean(values) for values in of_user.values()])


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values) if values and None not in values else None
