"""The settings of a LoRA adapter, of a draft as of a domain target: which layers it changes, and how much it can."""

from __future__ import annotations

from pydantic import Field, field_validator

from engine.config.section import Section

# Embeddings and output heads in the families of Transformers. Target and draft have them in common, and so have all
# drafts of a base, so an adapter on them would change more than its own model.
SHARED_NAMES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
SHARED_FOLDER = "shared"  # of the shared draft, in a run beside the drafts that are adapters on it
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraSpec(Section):
    """A low-rank update B A of each adapted weight [LoRA, arXiv 2106.09685]. Embeddings and head are never adapted."""

    rank: int = Field(16, ge=1, le=10000, description="rank of each low-rank update")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    modules: list[str] = Field(
        list(LINEAR_LAYERS), min_length=1, title="Adapted layers", description="names of the linear layers to adapt"
    )

    @field_validator("modules")
    @classmethod
    def _nothing_shared(cls, modules: list[str]) -> list[str]:
        shared = sorted(set(modules) & set(SHARED_NAMES))
        if shared:
            raise ValueError(f"{shared[0]} is shared by target and draft and cannot be adapted")
        return modules


class DraftLoraSpec(LoraSpec):
    """An adapter on a shared draft, which stays as it is: the adapter alone is trained and kept."""

    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of its inputs that an update does not see in a training pass; which ones is drawn for each "
        "step and micro-batch, so the result then depends on micro_batch_tokens",
    )
