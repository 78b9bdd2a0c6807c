"""Whether a launcher has started this process as one of several, from the environment that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Launch:
    """What `torchrun` and `accelerate launch` tell each process. Ranks count from 0.

    `local_rank` of `on_machine` processes on this machine; `restarts`: times that the launcher has begun anew.
    """

    rank: int
    count: int
    local_rank: int
    on_machine: int
    restarts: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """The launch that an environment describes; None without one, or of one process."""
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
        if not all(environment.get(name) for name in names) or int(environment["WORLD_SIZE"]) < 2:
            return None
        rank, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return cls(
            rank,
            count,
            int(environment.get("LOCAL_RANK", rank)),
            int(environment.get("LOCAL_WORLD_SIZE", count)),
            int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)),
        )
