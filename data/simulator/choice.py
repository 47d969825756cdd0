"""What people play: one draw after another from the law of preference.py, every user's r-th play in one go.

B users of a chunk, N items, D latents, E events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.simulator import strengths
from data.simulator.catalogue import NONE
from data.simulator.preference import Preference
from data.simulator.rhythm import Plan

CHUNK = 256  # users at a time: (256, N) utilities stay in the processor's cache


@dataclass(frozen=True)
class Choices:
    """(E,) each play's item index, and how well it matches the user's taste and mood (log preference)."""

    item: np.ndarray
    match: np.ndarray


def choose(preference: Preference, plan: Plan, rng: np.random.Generator) -> Choices:
    """Draw every play of the plan. Users do not influence each other, so chunks of them are independent."""
    draws = rng.random(len(plan.user))  # one per event, so that the size of a chunk changes nothing
    offsets = np.cumsum(plan.counts) - plan.counts
    by_count = np.argsort(-plan.counts, kind="stable")
    choices = Choices(np.full(len(plan.user), NONE), np.zeros(len(plan.user)))
    for begin in range(0, len(by_count), CHUNK):
        _choose_chunk(preference, plan, by_count[begin : begin + CHUNK], offsets, draws, choices)
    return choices


def _choose_chunk(preference: Preference, plan: Plan, users, offsets, draws, choices: Choices) -> None:
    """Fill in these users' choices; they come by falling number of plays: who still plays stands first."""
    past = Past(preference, len(users))
    for play in range(plan.counts[users[0]]):
        active = int((plan.counts[users] > play).sum())
        who = users[:active]
        event = offsets[who] + play
        weights = preference.coefficients(who, plan.time[event], plan.device[event], past.mood[:active])
        utilities = preference.utilities(weights, who, plan.time[event])
        past.add_to(utilities)
        item = draw(utilities, draws[event])
        choices.item[event] = item
        choices.match[event] = np.einsum("bd,bd->b", weights[:, : strengths.LATENTS], preference.latents[item])
        past.play(item)


def draw(utilities_BN: np.ndarray, uniform_B: np.ndarray) -> np.ndarray:
    """(B,) items from the softmax of each row, by inverting the running sum; overwrites the utilities."""
    running_BN = np.cumsum(np.exp(utilities_BN, out=utilities_BN), axis=1, out=utilities_BN)
    return np.argmax(running_BN > (uniform_B * running_BN[:, -1])[:, None], axis=1)


class Past:
    """What the plays so far change in the utilities of a chunk of users.

    Attributes:
        mood: (B, D) sum of the latents of the plays, each worth MOOD_MEMORY of the one after it.
    """

    def __init__(self, preference: Preference, num_users: int):
        self._preference = preference
        self._own = np.zeros((num_users, len(preference.sequel)))
        self._sequels = np.full((num_users, len(strengths.SEQUEL_NEXT)), NONE)  # of the latest plays, newest first
        self.mood = np.zeros((num_users, strengths.LATENTS))

    def add_to(self, utilities_BN: np.ndarray) -> None:
        """Rows are the chunk's first users."""
        active = len(utilities_BN)
        utilities_BN += self._own[:active]
        row, place = np.nonzero(self._sequels[:active] != NONE)
        utilities_BN[row, self._sequels[row, place]] += np.array(strengths.SEQUEL_NEXT)[place]

    def play(self, item_B: np.ndarray) -> None:
        """Each of the chunk's first users plays an item: never again that one, sooner its next part."""
        active, rows = len(item_B), np.arange(len(item_B))
        self._own[rows, item_B] = -np.inf
        sequel = self._preference.sequel[item_B]
        follows = sequel != NONE
        self._own[rows[follows], sequel[follows]] += strengths.SEQUEL_WITHOUT_START
        self._sequels[:active, 1:] = self._sequels[:active, :-1]
        self._sequels[:active, 0] = sequel
        self.mood[:active] = strengths.MOOD_MEMORY * self.mood[:active] + self._preference.latents[item_B]
