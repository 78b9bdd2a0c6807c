"""Sequences of similar length in one batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence

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
