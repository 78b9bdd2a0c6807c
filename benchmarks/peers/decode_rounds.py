"""Decoding and captures by the engine of another checkout; a program of benchmarks/speed/rows.py.

    PYTHONPATH=CHECKOUT python benchmarks/peers/decode_rounds.py '{"domain": "function_calling"}'

PYTHONPATH names the checkout. What surrounds the engine is this checkout's, so that both do the same: `benchmarks` is a
package without a file of its own, whose parts Python finds in either place.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.capturing import captured, plan_of
from benchmarks.speed.decoding import OurLoop
from benchmarks.speed.subjects import embedded


def main() -> None:
    """Load the domain's pair, then decode or capture the prompts that are sent."""
    from lines import Channel, most_bytes

    channel, job = Channel(), json.loads(sys.argv[1])
    subject = embedded(job["domain"], prompts=1, device="cpu")
    target, numbers = subject.target, itertools.count()
    channel.send(ready=True, dtype=target.dtype_name)
    with tempfile.TemporaryDirectory() as folder:

        def decode(prompts: list[list[int]], *, gamma: int, tokens: int) -> float:
            draft = subject.draft.model if gamma else None
            return OurLoop(target.model, draft, prompts, gamma, tokens, len(prompts))(0)

        def capture(prompts: list[list[int]], *, batch: int, tokens: int) -> float:
            place = Path(folder) / str(next(numbers)) / "capture"
            plan = plan_of(place, target, prompts, max_new_tokens=tokens, temperature=0.0)
            return float(captured(plan, target, batch).tokens)

        work: dict[str, Callable[..., float]] = {"decode": decode, "capture": capture}
        while (request := channel.receive()) is not None:
            what: Any = work[request.pop("work")]
            began = time.perf_counter()
            amount = what(request.pop("prompts"), **request)
            channel.send(amount=amount, seconds=time.perf_counter() - began, most_bytes=most_bytes())


if __name__ == "__main__":
    main()
