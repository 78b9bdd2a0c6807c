"""Sequences of similar length in one batch, so that little of it is padding; and prompts that begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FORWARD_TOKENS = 4096  # padded tokens of one forward pass: more was slower on a CPU, and needs more memory


def group_by_length(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Group indices by similar length so that the padded size of each group is at most `most_tokens`.

    A sequence that is longer is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and lengths[index] * (len(groups[-1]) + 1) <= most_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


@dataclass(frozen=True)
class Family:
    """Prompts that begin with the same `shared` tokens, which are read once for all of them; the shortest first."""

    indices: list[int]
    shared: int = 0

    def split(self, count: int) -> tuple[Family, Family]:
        """The first `count` prompts, and the others."""
        return replace(self, indices=self.indices[:count]), replace(self, indices=self.indices[count:])


def families(prompts: Sequence[Sequence[int]], indices: Sequence[int], pass_tokens: int | None) -> list[Family]:
    """Sort prompts into families so that few tokens have to be read; those of similar length are neighbours.

    `pass_tokens`: how many tokens could be read in the time that one more forward pass costs; None: each prompt is read
    by itself.
    """
    by_length = sorted(indices, key=lambda i: len(prompts[i]))
    if pass_tokens is None:
        return [Family([i]) for i in by_length]
    found: list[Family] = []
    for index in sorted(by_length, key=lambda i: list(prompts[i])):
        joined = _joined(found[-1], index, prompts) if found else Family([index])
        apart = _to_read([*found[-1:], Family([index])], prompts, pass_tokens)
        if joined.shared and _to_read([joined], prompts, pass_tokens) < apart:
            found[-1] = joined
        else:
            found.append(Family([index]))
    ordered = [replace(family, indices=sorted(family.indices, key=lambda i: len(prompts[i]))) for family in found]
    return sorted(ordered, key=lambda family: len(prompts[family.indices[-1]]))


def _joined(family: Family, index: int, prompts: Sequence[Sequence[int]]) -> Family:
    """The family with one more prompt. Each keeps a token of its own to read."""
    some, other = prompts[family.indices[0]], prompts[index]
    most = min(family.shared or len(some) - 1, len(other) - 1)
    shared = next((place for place in range(most) if some[place] != other[place]), most)
    return Family([*family.indices, index], shared)


def _to_read(some: Sequence[Family], prompts: Sequence[Sequence[int]], pass_tokens: int) -> int:
    """The cost of reading families, in tokens."""
    rests = sum(len(prompts[i]) - family.shared for family in some for i in family.indices)
    return rests + sum(family.shared + pass_tokens for family in some if family.shared)


def read_together(
    some: Sequence[Family], prompts: Sequence[Sequence[int]], pass_tokens: int, most_tokens: int = FORWARD_TOKENS
) -> list[list[Family]]:
    """Group families in their order, a large one in parts, so that reading them costs least.

    The prompts of a group are padded to the longest, and so are the beginnings that its families share, which are read
    in a pass before. `pass_tokens`: how many tokens could be read in the time that one more forward pass costs. No pass
    has more than `most_tokens` with padding, unless one prompt alone has. What shares nothing is read by itself.
    """
    items = [(number, index) for number, family in enumerate(some) for index in family.indices]
    least, first_of = [0] + [2**62] * len(items), [0] * (len(items) + 1)  # for the items before each place
    for end in range(1, len(items) + 1):
        beginning = rest = 0
        members = set[int]()
        for first in range(end - 1, -1, -1):
            number, index = items[first]
            if members and (some[number].shared > 0) != (beginning > 0):
                break
            members.add(number)
            beginning = max(beginning, some[number].shared)
            rest = max(rest, len(prompts[index]) - some[number].shared)
            passes = [rest * (end - first), *([beginning * len(members)] if beginning else [])]
            if first < end - 1 and max(passes) > most_tokens:
                break
            cost = least[first] + sum(passes) + pass_tokens * len(passes)
            if cost < least[end]:
                least[end], first_of[end] = cost, first
    groups: list[list[Family]] = []
    end = len(items)
    while end:
        first = first_of[end]
        groups.append(_regrouped(some, items[first:end]))
        end = first
    return groups[::-1]


def _regrouped(some: Sequence[Family], items: Sequence[tuple[int, int]]) -> list[Family]:
    """The families of some prompts, with these prompts alone. items: the number of a family, and a prompt's index."""
    numbers = dict.fromkeys(number for number, _ in items)
    return [replace(some[number], indices=[index for own, index in items if own == number]) for number in numbers]
