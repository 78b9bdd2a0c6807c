"""What a run needs of the machine that works on it, for places that choose among machines."""

from __future__ import annotations

from pydantic import Field

from engine.config.section import Section


class ResourcesSpec(Section):
    """Asked of a cluster for each run; this machine's queue, which works on one run at a time, leaves it unread."""

    gpus: float = Field(
        0.0, ge=0, le=1024, title="GPUs", description="GPUs per run; a fraction shares one where the place can"
    )
    cpus: int = Field(
        1, ge=1, le=4096, title="CPU cores", description="CPU cores per run, also the threads that it computes with"
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        le=65_536,
        title="Memory, GB",
        description="memory per run, 10^9 bytes; empty: what the place gives by itself",
    )
    minutes: int | None = Field(
        None,
        ge=1,
        le=525_600,
        title="Longest time, minutes",
        description="longest time of a run, for places that end a job then; empty: theirs",
    )
