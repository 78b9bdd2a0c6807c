"""What the devices that share a pair (tensor parallelism) must be able to divide, by server.

vLLM 0.32.0: `ModelConfig.verify_with_parallel_config` for the heads, `VocabParallelEmbedding` for the vocabulary
(padded to a multiple of 64, then divided), the models' attention and `QKVParallelLinear` for the key-value heads
(divided, or repeated where there are fewer than devices), `ColumnParallelLinear` for the feed-forward layers. As many
devices share its draft as its target: `DraftModelProposer._raise_if_draft_tp_mismatch`.

SGLang 0.5 took these layers over: `srt/models/llama.py`, `srt/layers/vocab_parallel_embedding.py` and
`srt/layers/linear.py`. TensorRT-LLM 1.3: `_torch/modules/attention.py`, `duplicate_kv_weight` in
`_torch/models/modeling_utils.py`, and `_torch/modules/linear.py`; its `LMHead` pads a vocabulary to any number of
devices.
"""

from __future__ import annotations

from engine.export.facts import Asked, ModelFacts, Pair
from engine.export.finding import Finding, Findings

_PADDED_TO = 64  # DEFAULT_VOCAB_PADDING_SIZE of vLLM and SGLang


def cannot_share(server: str, pair: Pair, asked: Asked) -> Findings:
    """What keeps the devices from sharing the target or the draft, in the server's words."""
    parts = asked.tensor_parallel
    if parts == 1:
        return
    models = {"target": pair.target, "draft": pair.draft}
    undivided = {role: _undivided(server, model, parts) for role, model in models.items()}
    for refusal in dict.fromkeys([*undivided["target"], *undivided["draft"]]):
        roles = [role for role in models if refusal in undivided[role]]
        whose = "target and draft have" if len(roles) > 1 else f"the {roles[0]} has"
        what, reason = refusal
        yield Finding(
            "refused", f"{whose} {what}, which {parts} devices cannot share", reason, _fix(server, pair, parts)
        )
    for role, model in models.items():
        if not model.feed_forward:
            yield Finding(
                "warning",
                f"the {role}'s settings do not say how wide its feed-forward layers are",
                "each device takes an equal part of them",
                f"make sure that {parts} divides their width: it was not checked",
            )


def _fix(server: str, pair: Pair, parts: int) -> str:
    """The most devices below `parts` that can share both models."""
    models = (pair.target, pair.draft)
    fewer = range(min(parts - 1, *(model.heads for model in models)), 1, -1)
    most = next((n for n in fewer if not any(_undivided(server, model, n) for model in models)), 1)
    return f"give --tensor-parallel {most}" if most > 1 else "leave --tensor-parallel out"


def _undivided(server: str, model: ModelFacts, parts: int) -> list[tuple[str, str]]:
    """What of the model cannot be divided, and the server's words, in the order in which it would stop."""
    refusals: list[tuple[str, str]] = []
    if model.heads % parts:
        left = f"{model.heads} % {parts}"
        said = {
            "vllm": f"Total number of attention heads ({model.heads}) must be divisible by tensor parallel size "
            f"({parts}).",
            "sglang": f"AssertionError: assert self.total_num_heads % tp_size == 0 ({left})",
            "tensorrt-llm": f"AssertionError: assert self.num_heads % (tp_size * cp_size) == 0 ({left})",
        }[server]
        refusals.append((f"{model.heads} attention heads", said))
    padded = -(-model.rows // _PADDED_TO) * _PADDED_TO
    if server != "tensorrt-llm" and padded % parts:
        rows = f"{model.rows:,} rows" + (f", padded to {padded:,}" if padded > model.rows else "")
        refusals.append((rows, f"{padded} is not divisible by {parts}"))
    kv = model.kv_heads or model.heads
    if kv != model.heads and max(kv, parts) % min(kv, parts):
        trt = server == "tensorrt-llm"
        names = ("num_kv_heads", "tensor_parallel_size") if trt else ("self.total_num_kv_heads", "tp_size")
        rule = " % ".join(names if kv >= parts else reversed(names))
        said = f"AssertionError: assert {rule} == 0 ({max(kv, parts)} % {min(kv, parts)})"
        refusals.append((f"{kv} key-value heads", said))
    for width in model.feed_forward:
        if width % parts:
            said = f"{width} is not divisible by {parts}"
            if server == "tensorrt-llm":
                both = 2 * width  # gate and up are one layer
                named = f"out_features {both}" if both % parts else f"in_features {width}"
                said = f"{named} must be divisible by tp_size {parts}"
            refusals.append((f"feed-forward layers {width:,} wide", said))
    return refusals
