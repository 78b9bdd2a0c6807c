"""Sequences of like length together, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence


def group_by_length(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Indices in groups of similar length whose padded size stays within `most_tokens`.

    A single sequence longer than that is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and lengths[index] * (len(groups[-1]) + 1) <= most_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
