"""A draft that is an adapter, exported apart: a folder of the shared draft for all fine-tunes, a PEFT adapter for each.

The shared draft is a plain Hugging Face folder, made once; the adapter's folder names it as its base. What is checked
is what a user loads: Transformers loads the base, PEFT the adapter, and both together must be the run's draft.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.capture.plan import CapturePlan
from engine.errors import DraftbenchError
from engine.export import huggingface
from engine.export.check_text import CheckText, fewer, text_at_hand
from engine.export.export_run import check_export
from engine.export.folder import CARD, refuse_among_runs, refuse_taken, write_folder
from engine.export.model_card import code, model_card
from engine.export.steps import LOAD, PAIR, WRITE, begin
from engine.export.whole_vocabulary import with_whole_vocabulary
from engine.measure.acceptance import draft_states
from engine.models.adapter import merge_adapter
from engine.models.draft import WEIGHTS, Draft, load_draft, read_card
from engine.models.head import DRAFT_IDS, Head
from engine.models.load import LoadedModel
from engine.models.lora import AdapterInfo, shared_folder, write_peft
from engine.models.precision import cast
from engine.paths import Home
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.runs.advice import best_draft
from engine.runs.began_with import check_target
from engine.runs.folder import RunFolder
from engine.runs.session import capture, load_target

NOTE = (
    "Transformers with PEFT takes an adapter on a draft; vLLM, SGLang and llama.cpp apply adapters to the target "
    "alone, and TensorRT-LLM documents no other use: for these export the draft merged"
)
_OF = "shared-draft: "  # in the front matter of an exported shared draft, before the hash of its weights
_STATES = 4096  # hidden states of each of the two models that a row for the ids of a trimmed vocabulary is fitted to


def export_apart(
    home: Home,
    run: RunFolder,
    out: Path,
    *,
    shared: Path | None,
    overwrite: bool,
    check: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the adapter of a run's best draft to `out`, and its shared draft to `shared` unless it is there already.

    `shared`: by default a folder beside `out`, named by the hash of the shared draft. The report is that of
    `export_run`. Raises DraftbenchError for a draft without an adapter, or with ids that its shared draft has not.
    """
    progress = progress or Progress()
    begin(progress, PAIR, check=check)
    refuse_among_runs(home, out)
    refuse_taken(out, overwrite)
    summary, recipe, best = run.summary(), run.recipe(), best_draft(run)
    info = _adapter_of(run, best)
    unlike = check_target(run, recipe.target)
    base = shared or out.parent / f"shared-draft-{info.shared_sha256[:12]}"
    there = _is_export_of(base, info)
    if not there:
        refuse_among_runs(home, base)
        refuse_taken(base, overwrite=False)
    begin(progress, LOAD, check=check)
    target = load_target(recipe)
    kept = shared_folder(best, info)
    plain, merged = (load_draft(folder, target, dtype=torch.float32) for folder in (kept, best))
    weights = {name: tensor for name, tensor in load_file(best / WEIGHTS).items() if name != DRAFT_IDS}
    _refuse_unfit(run, plain, merged, weights)
    text = text_at_hand(home, run, recipe, target)
    begin(progress, WRITE, check=check)
    gamma = recipe.measure.num_draft_tokens
    if not there:
        model = plain.model
        if Head.of(model).ids is not None:
            model = with_whole_vocabulary(
                plain, _states([plain, merged], text, home, target, progress), target.vocab_rows
            )
        whole = Draft(cast(model, _stored_dtype(kept)), plain.info)
        write_folder(base, _base_card(info), lambda folder: huggingface.write(folder, whole, target, gamma=gamma))
    card = model_card(run.id, recipe, summary, Provenance.read(run.path) or Provenance())
    write_folder(
        out, _adapter_card(card, base), lambda folder: _write_adapter(folder, info, weights, base), overwrite=overwrite
    )
    report: dict[str, Any] = {
        "run": run.id,
        "folder": str(out),
        "shared": str(base),
        "megabytes": sum(f.stat().st_size for f in out.iterdir()) / 1e6,
        "dtype": "float32",
        "checked": [],
        "ok": True,
        "notes": [
            *([unlike] if unlike else []),
            f"the adapter's base is {base}, which was {'there already' if there else 'written'}",
            NOTE,
        ],
    }
    if check:
        exact = load_draft(best, target, dtype=torch.float32)
        report |= check_export(load, run, out, fewer(text, home, target), home, target, progress, draft=exact)
    return report


def load(folder: Path, dtype: torch.dtype, device: torch.device, *, remote_code: bool = False) -> Any:
    """The exported adapter merged into its base, by Transformers and PEFT alone; in float32, whatever `dtype` says.

    Raises DraftbenchError unless the merged model gives the logits of the adapter beside the weights.
    """
    from peft import PeftConfig
    from transformers import AutoModelForCausalLM

    base = str(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=remote_code)
    return merge_adapter(model.to(device).eval(), folder, str(folder)).eval()


def _adapter_of(run: RunFolder, best: Path) -> AdapterInfo:
    info = read_card(best).info.lora
    if info is None:
        raise DraftbenchError(
            f"the draft of run {run.id} is not an adapter",
            "all its weights were trained, so there is nothing to export apart",
            "leave --lora out; recipes/lora.yaml trains an adapter",
        )
    return info


def _refuse_unfit(run: RunFolder, plain: Draft, merged: Draft, weights: dict[str, torch.Tensor]) -> None:
    """Refuse what the two folders together could not be."""
    own, shared = Head.of(merged.model).ids, Head.of(plain.model).ids
    if own is not None and (shared is None or not torch.equal(own, shared)):
        raise DraftbenchError(
            f"run {run.id} has a vocabulary of its own beside its adapter",
            "its head has other rows than that of the shared draft, so the shared draft would not be shared",
            "export it merged, or train with draft.vocabulary empty (null), which keeps the ids of the shared draft",
        )
    if not any(bool(tensor.any()) for name, tensor in weights.items() if "lora_B" in name):
        raise DraftbenchError(
            f"the adapter of run {run.id} is empty",
            "no step of its training was better than the shared draft, which was kept",
            "export it merged, or train longer or at another learning rate",
        )


def _states(drafts: list[Draft], text: CheckText, home: Home, target: LoadedModel, progress: Progress) -> torch.Tensor:
    """What enters the head of each draft on the text of the target: [position, width]."""
    plans: dict[float, CapturePlan] = text.plans(home, target)
    answers = capture("text of the target", plans[max(plans)], target, text.recipe.capture, progress)
    return torch.cat([draft_states(draft.model, answers, most_tokens=_STATES) for draft in drafts])


def _stored_dtype(folder: Path) -> torch.dtype:
    """The dtype that a shared draft is kept in: its export holds the same numbers."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        dtypes = [file.get_tensor(name).dtype for name in file.keys() if name != DRAFT_IDS]  # noqa: SIM118
    return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)


def _write_adapter(folder: Path, info: AdapterInfo, weights: dict[str, torch.Tensor], base: Path) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        r=info.rank,
        lora_alpha=info.alpha,
        target_modules=list(info.modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    )
    write_peft(folder, config.to_dict(), {f"base_model.model.{name}": tensor for name, tensor in weights.items()})


def _base_card(info: AdapterInfo) -> str:
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [speculative-decoding, draft-model, draftbench]",
            f"{_OF}{info.shared_sha256}",
            "---",
            "",
            "# A draft model that several adapters share",
            "",
            "Each adapter makes it the draft of one fine-tune. Alone it is the draft that they were all trained from.",
            "",
        ]
    )


def _adapter_card(card: str, base: Path) -> str:
    """The model card of the run, with how an adapter is loaded."""
    before, use, after = card.partition("## Use\n")
    _, origin, rest = after.partition("## Origin\n")
    lines = [
        "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "",
        'draft = AutoPeftModelForCausalLM.from_pretrained("THIS_FOLDER", dtype="auto").merge_and_unload()',
        "target.generate(**inputs, assistant_model=draft)",
        "```",
        "",
        f"This folder is a LoRA adapter. Its base is the exported shared draft {code(base.name)}; where that is moved",
        "to, write as",
        "`base_model_name_or_path` into `adapter_config.json`.",
        "",
        f"{NOTE}.",
        "",
    ]
    return (before + use + "\n".join(lines) + "\n" + origin + rest).replace(
        "library_name: transformers", "library_name: peft", 1
    )


def _is_export_of(folder: Path, info: AdapterInfo) -> bool:
    """Whether the folder is an export of this very shared draft."""
    card = folder / CARD
    return card.is_file() and f"\n{_OF}{info.shared_sha256}\n" in card.read_text(encoding="utf-8", errors="replace")
