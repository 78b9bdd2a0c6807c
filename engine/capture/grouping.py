"""Sequences of similar length in one batch, so that little of it is padding; and prompts that begin alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    some: Sequence[Family], prompts: Sequence[Sequence[int]], most_tokens: int = FORWARD_TOKENS
) -> Iterator[list[Family]]:
    """Group families in their order so that those of a group, read together, are at most `most_tokens` when padded.

    Families that share nothing are by themselves: they are read in one pass, the others in two.
    """
    group: list[Family] = []
    for family in some:
        larger = [*group, family]
        if group and (bool(family.shared) != bool(group[0].shared) or _padded(larger, prompts) > most_tokens):
            yield group
            larger = [family]
        group = larger
    if group:
        yield group


def _padded(some: Sequence[Family], prompts: Sequence[Sequence[int]]) -> int:
    """Tokens of the larger of the passes in which families are read, with padding."""
    rests = [len(prompts[i]) - family.shared for family in some for i in family.indices]
    return max(len(some) * max(family.shared for family in some), len(rests) * max(rests))
