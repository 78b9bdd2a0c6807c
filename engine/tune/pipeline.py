"""From a tuning recipe to a domain target: data, training, adapter, figures before and after.

Each part is kept as soon as it is done, so that the same command goes on after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.chat.rendering import missing_header, template_hash
from engine.chat.turns import check_turns
from engine.config.reading import load_section
from engine.data.overlap import remove_overlap
from engine.errors import DraftbenchError
from engine.fileio import append_line, content_hash, read_json, read_lines, sha256_file, write_atomic, write_json
from engine.models.adapter import CONFIG, WEIGHTS
from engine.models.load import LoadedModel, load_model
from engine.paths import Home, resolve_input
from engine.progress import SILENT, Progress
from engine.tune.adapter import add_adapter, write_adapter
from engine.tune.examples import ExampleSet, example_set
from engine.tune.figures import differences, figures, observe
from engine.tune.folder import CURVE, STATE, TUNING, sweep, working
from engine.tune.recipe import TuneRecipe
from engine.tune.training import Trained, Tuner


def tune(
    path: str, settings: Sequence[str], folder: Path, *, provenance: dict[str, Any], progress: Progress = SILENT
) -> dict[str, Any]:
    """Make (or go on making) the target of a recipe in `folder`; returns what its tuning.json says.

    `provenance`: versions, commit and machine. A finished target of the same recipe is returned
    as it is. Raises DraftbenchError for a folder that holds something else, Cancelled at a stop.
    """
    file = resolve_input(path)
    recipe = load_section(TuneRecipe, file, settings)
    with working(folder):
        loaded = load_model(recipe.target)
        _refuse_missing_header(loaded)
        train, heldout, overlap = _data(recipe, loaded, file.parent)
        identity = _identity(recipe, loaded, train, heldout)
        done = _finished(folder, identity)
        if done is not None:
            sweep(folder)
            return done
        _note_turns(loaded, progress)
        for side, data in (("training", train), ("held-out", heldout)):
            if past := data.counts["reference_past_its_end"]:
                progress.note(
                    f"{past} of {len(data.encoded)} {side} references continue after an end of turn: the text after it "
                    "is left out, as no served answer has it"
                )
        trained = _adapter(recipe, loaded, train, folder, identity, progress)
        record = {
            "recipe": recipe.model_dump(mode="json"),
            "identity": identity,
            "adapter": {name: sha256_file(folder / name) for name in (WEIGHTS, CONFIG)},
            "base_fingerprint": loaded.fingerprint,
            "template": template_hash(loaded.tokenizer),
            "training": trained,
            "data": {"train": train.described(), "heldout": heldout.described(), "overlap_removed": overlap},
            "figures": measured(recipe, heldout, folder, progress),
            **provenance,
        }
        write_json(folder / TUNING, record)
        sweep(folder)
        return record


def _note_turns(loaded: LoadedModel, progress: Progress) -> None:
    """Note what the references teach as the end of a turn, where that is not plain."""
    state, message, fix = check_turns(loaded.tokenizer, loaded.model.generation_config, loaded.vocab_rows)
    if state != "ok":
        progress.note(f"end of turn: {message} ({fix})")


def _refuse_missing_header(loaded: LoadedModel) -> None:
    """Refuse a template that ends a prompt after the user's turn: the answer would be learnt without its header."""
    if header := missing_header(loaded.tokenizer):
        raise DraftbenchError(
            f"the chat template of {loaded.spec.label} writes {header[:60]!r} before an answer, but not at the end of "
            "a prompt",
            "it ignores add_generation_prompt, so the target would be taught answers without their header",
            "let the template write the header at its end `{% if add_generation_prompt %}`",
        )


def folder_of(home: Home, path: str, settings: Sequence[str]) -> Path:
    """Return the folder of a recipe's target if no other is named."""
    return home.root / "targets" / load_section(TuneRecipe, resolve_input(path), settings).name


def measure_again(
    path: str, settings: Sequence[str], adapter: str | None, *, progress: Progress = SILENT
) -> dict[str, Any]:
    """The figures of a recipe's base and of an adapter that is there, measured now; nothing is written."""
    file = resolve_input(path)
    recipe = load_section(TuneRecipe, file, settings)
    folder = resolve_input(adapter or f"sample_data/targets/{recipe.name}", file.parent)
    loaded = load_model(recipe.target)
    heldout = example_set(
        loaded.tokenizer,
        recipe.data.heldout,
        recipe.data,
        beside=file.parent,
        context_tokens=loaded.context_tokens,
        turns=loaded.turns,
        rows=loaded.input_rows,
    )
    return {"data": {"heldout": heldout.described()}, "figures": measured(recipe, heldout, folder, progress)}


def measured(recipe: TuneRecipe, heldout: ExampleSet, folder: Path, progress: Progress) -> dict[str, Any]:
    """Figures before and after, of the plain model and of the model as it will be loaded from now on, and their
    paired differences."""
    tuned = recipe.target.model_copy(update={"adapter": str(folder)})
    # One model after the other: only what they did is kept.
    before, after = (observe(load_model(spec), heldout.encoded, recipe, progress) for spec in (recipe.target, tuned))
    return {
        "before": figures(before, recipe.measure),
        "after": figures(after, recipe.measure),
        "difference": differences(before, after, recipe.measure),
    }


def _data(recipe: TuneRecipe, loaded: LoadedModel, beside: Path) -> tuple[ExampleSet, ExampleSet, int]:
    """Training and held-out examples; training examples that repeat a held-out query are taken out and counted."""
    train, heldout = (
        example_set(
            loaded.tokenizer,
            sources,
            recipe.data,
            beside=beside,
            context_tokens=loaded.context_tokens,
            turns=loaded.turns,
            rows=loaded.input_rows,
        )
        for sources in (recipe.data.train, recipe.data.heldout)
    )
    prompts = [row.example.prompt for row in train.encoded]
    kept, repeats = remove_overlap(prompts, [row.example.prompt for row in heldout.encoded])
    names = {prompt.id for prompt in kept}
    rows = [row for row in train.encoded if row.example.prompt.id in names]
    if not rows:
        raise DraftbenchError(
            f"all {len(prompts)} training records repeat held-out queries",
            "figures on queries that were trained on say nothing",
            "give other records in data.train or data.heldout",
        )
    return train.of_these(rows, loaded.turns.end), heldout, len(repeats)


def _identity(recipe: TuneRecipe, loaded: LoadedModel, train: ExampleSet, heldout: ExampleSet) -> str:
    """Hash of all that decides what the adapter and its figures will be."""
    parts = recipe.model_dump(mode="json", exclude={"notes": True, "target": {"template_date"}})  # it is in the ids
    ids = [side.described()["sha256_of_ids"] for side in (train, heldout)]
    return content_hash([parts, loaded.fingerprint, loaded.dtype_name, ids])


def _finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the record of an earlier, finished call; raises if the folder holds another recipe's target."""
    records = {name: read_json(folder / name) for name in (TUNING, STATE) if (folder / name).exists()}
    unknown = (folder / WEIGHTS).exists() and not records
    if unknown or any(state.get("identity") != identity for state in records.values()):
        raise DraftbenchError(
            f"{folder} holds "
            + ("an adapter without its record" if unknown else "the target of another recipe or data"),
            "it would be overwritten, or its figures and its adapter would not belong together",
            "choose another folder with --out, or remove this one",
        )
    return records.get(TUNING)


def _adapter(
    recipe: TuneRecipe, loaded: LoadedModel, train: ExampleSet, folder: Path, identity: str, progress: Progress
) -> dict[str, Any]:
    """Train unless the adapter is written; how training went."""
    if (folder / WEIGHTS).exists():
        return dict(read_json(folder / STATE)["trained"])
    write_json(folder / STATE, {"identity": identity})
    adapted = add_adapter(loaded.model, recipe.adapter, base_name=recipe.target.model, seed=recipe.train.seed)
    tuner = Tuner(
        adapted,
        train.encoded,
        recipe.train,
        folder,
        identity=identity,
        emit=_curve(folder / CURVE),
        progress=progress,
    )
    trained: Trained = tuner.run()
    write_json(folder / STATE, {"identity": identity, "trained": asdict(trained)})
    write_adapter(folder, adapted)
    return asdict(trained)


def _curve(path: Path) -> Callable[[dict[str, Any]], None]:
    """Appends a step's figures to the curve.

    After a kill the steps since the checkpoint are done again: what the curve says of them and of
    later ones goes with the first step that is reported.
    """
    begun = False

    def emit(event: dict[str, Any]) -> None:
        nonlocal begun
        if not begun and path.exists():
            before = [row for row in read_lines(path) if row.get("step", 0) < event["step"]]
            write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in before))
        begun = True
        append_line(path, event)

    return emit
