"""Does any damaged or hostile input lead to a traceback, a hang or too much memory?

    python benchmarks/hostile.py [runs recipes models gguf servers served]

Each case is tried in a process of its own, which may take 20 seconds and 1 GB more than the libraries do. Prints a
count for each kind and every case that went wrong; exits with status 1 if there is one.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.update(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error"
)

KINDS = ("runs", "recipes", "models", "gguf", "servers", "served")


def main(wanted: list[str]) -> int:
    import torch
    import transformers

    from benchmarks.hostile_cases.case import try_case

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    bad = 0
    for kind in wanted or KINDS:
        outcomes = [try_case(case) for case in importlib.import_module(f"benchmarks.hostile_cases.{kind}").cases()]
        wrong = [outcome for outcome in outcomes if not outcome.ok]
        read, refused = (sum(o.state == state for o in outcomes) for state in ("read", "refused"))
        slowest, largest = max(o.seconds for o in outcomes), max(o.bytes for o in outcomes)
        print(
            f"{kind}: {len(outcomes)} tried, {len(wrong)} wrong; {read} read or set aside, {refused} refused in words;",
            end=" ",
        )
        print(f"slowest {slowest:.1f} s, most memory {largest / 1e9:.2f} GB")
        for outcome in wrong:
            print(f"  {outcome.name}: {outcome.state}, {outcome.seconds:.1f} s, {outcome.bytes / 1e9:.2f} GB")
            print("\n".join(f"    {line}" for line in outcome.message.splitlines()[-6:]))
        bad += len(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
