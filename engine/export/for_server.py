"""An export for a server: what goes beside the draft so that the pair can be started with one command."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.catalogue import Proposals, Server
from engine.config.schema import ModelSpec, Recipe
from engine.errors import DraftbenchError
from engine.export import gguf
from engine.export.facts import Asked, Pair, pair_of
from engine.export.finding import Findings
from engine.export.gguf_quantise import quantiser
from engine.export.model_card import one_line, public_name
from engine.export.preflight import Finding, preflight, refuse, server_card
from engine.export.server_rules import MOST_ROWS_APART, first_difference
from engine.export.start_command import (
    HERE,
    SETTINGS,
    Serving,
    request_note,
    script,
    shell,
    start_command,
    tensorrt_settings,
)
from engine.models.folder import read_config
from engine.models.load import LoadedModel, load_tokenizer
from engine.models.locate import gguf_source, local_model, locate_adapter, locate_model
from engine.runs.began_with import check_target
from engine.runs.folder import RunFolder

_TAKES_ADAPTERS = ("transformers", "vllm")


@dataclass(frozen=True)
class Wishes:
    """What the user asks of an export for a server; None: what the server and the run want."""

    server: str
    gamma: int | None = None
    proposals: Proposals | None = None
    context_tokens: int | None = None
    tensor_parallel: int = 1
    target: str | None = None
    """none, merged or apart."""
    gguf: str | None = None
    served_target: str | None = None
    """The target that the server has, if it is another copy than the run's: named as `target.model`."""


@dataclass(frozen=True)
class Plan:
    """An export for a server as it will be made, and what the server will say to it."""

    server: str
    asked: Asked
    proposals: Proposals
    pair: Pair
    findings: list[Finding]
    spec: ModelSpec
    """The target that is served: the run's, or another copy of it."""
    own_rows: int | None = None
    """Rows of the draft in the run; None: those of `pair`."""
    is_copy: bool = False
    """Whether the served target is another copy than the run's."""
    top_k: int = 0
    top_p: float = 1.0
    unlike: str = ""
    """That the run's target may have other files than it was trained with; "" if it has not."""

    @property
    def card(self) -> Any:
        return server_card(self.server)

    @property
    def rows(self) -> int | None:
        """The rows that the draft is written with, if they are not its own."""
        return None if self.own_rows in (None, self.pair.draft.rows) else self.pair.draft.rows

    @property
    def adapter(self) -> bool:
        return self.spec.adapter is not None and self.asked.target == "apart"

    def serving(self) -> Serving:
        """The start command's content. The draft lies at the top of the folder, a target in it or elsewhere."""
        return Serving(
            gamma=self.asked.gamma,
            proposals=self.proposals,
            dtype=self.pair.target.dtype,
            draft=f"{HERE}/draft-{self.asked.gguf}.gguf" if self.card.weights == "gguf" else HERE,
            adapter=f"{HERE}/adapter" if self.adapter else None,
            adapter_rank=self.pair.target.adapter_rank or 0,
            context_tokens=self.asked.context_tokens or self.pair.context_tokens,
            tensor_parallel=self.asked.tensor_parallel,
            top_k=self.top_k,
            top_p=self.top_p,
        )

    def target_place(self) -> str | None:
        """Where the target is, seen from the script: in the folder or on the hub; None: the user has to say."""
        if self.asked.target == "merged":
            return f"{HERE}/target-f16.gguf" if self.card.weights == "gguf" else f"{HERE}/target"
        named = self.spec.model.startswith("hub:") and self.card.weights != "gguf" and self.spec.revision is None
        return self.spec.model.removeprefix("hub:") if named and self._whole else None

    @property
    def _whole(self) -> bool:
        """Whether the server can load the target as it is, with its adapter beside it if it has one."""
        return self.spec.adapter is None or self.adapter

    def needs(self) -> str:
        """The target in words, for whoever has to give it."""
        form = "a .gguf file" if self.card.weights == "gguf" else "a folder or a name on the hub"
        name = public_name(self.spec.model) + (
            f" at revision {one_line(self.spec.revision)}" if self.spec.revision else ""
        )
        if self.spec.adapter is None or self.adapter:
            return f"{name}, {form}"
        return f"{name} with the adapter {one_line(Path(self.spec.adapter).name)} merged into it, {form}"

    def _here(self) -> Path | None:
        """The target on this machine as the server loads it; None if it is not here in that form."""
        file = gguf_source(self.spec)
        if self.card.weights == "gguf":
            return file if self.spec.adapter is None else None
        local = file is None and not self.spec.model.startswith("hub:")
        return local_model(self.spec.model) if local and self._whole else None

    def command(self, folder: Path) -> str:
        """The command with the paths of an export in `folder`, for the terminal."""
        place = self.target_place()
        target = place.replace(HERE, str(folder)) if place else str(self._here() or "TARGET")
        return shell(start_command(self.server, self.serving()), here=str(folder), target=target)

    def notes(self) -> list[str]:
        """What whoever starts the server should know, in sentences."""
        notes = [self.unlike, request_note(self.server, self.serving())]
        if self.adapter and self.server == "vllm":
            notes.append('Requests name the adapter as their model: "model": "tuned". The draft has no adapter.')
        if self.target_place() is None:
            written = "" if self.is_copy else " --target merged writes one beside the draft."
            notes.append(f"The target is not in the folder: {self.needs()}.{written}")
        if self.rows is not None:
            notes.append(
                f"The draft has {self.rows:,} rows, as this target has; in the run it has {self.own_rows:,}. No token "
                "uses the others."
            )
        if self.card.proposals != ("sampled",) and self.proposals == "argmax":
            notes.append(
                f"{self.card.title} proposes the draft's likeliest token at every temperature: above temperature 0 "
                "expect the rate of argmax proposals, not the exact acceptance."
            )
        if self.server == "tensorrt-llm":
            notes.append(f"{SETTINGS} names the draft's folder as it is now: change it if the folder moves.")
        return [note for note in notes if note]

    def report(self, folder: Path) -> dict[str, Any]:
        """The export as a JSON object."""
        return {
            "server": self.server,
            "target": self.asked.target,
            "proposals": self.proposals,
            "gamma": self.asked.gamma,
            "preflight": [asdict(finding) for finding in self.findings],
            "command": self.command(folder),
            "notes": self.notes(),
        }


def plan(run: RunFolder, recipe: Recipe, wishes: Wishes) -> Plan:
    """What an export for the server would be. Reads settings and tokenizers, no weights.

    Raises DraftbenchError for an unknown server, a run without a draft, models that cannot be located, and a target
    that is not the one that the run began with.
    """
    card = server_card(wishes.server)
    unlike = check_target(run, recipe.target)
    spec = recipe.target if wishes.served_target is None else _served(card, wishes, recipe.target)
    own = pair_of(run, recipe, spec, with_gguf=card.weights == "gguf")
    pair = fitted(wishes.server, own)
    gguf_form = wishes.gguf or gguf.PRECISIONS[0]
    if wishes.gguf and card.weights != "gguf":
        raise DraftbenchError(
            f"--gguf {wishes.gguf} for {card.title}", f"{card.title} loads safetensors", "leave --gguf out"
        )
    if gguf_form not in gguf.PRECISIONS:
        raise gguf.unknown_precision(gguf_form)
    asked = Asked(
        gamma=recipe.measure.num_draft_tokens if wishes.gamma is None else wishes.gamma,
        proposals=wishes.proposals,
        context_tokens=wishes.context_tokens,
        tensor_parallel=wishes.tensor_parallel,
        target=target_form(wishes, recipe.target),
        gguf=gguf_form,
        quantiser=quantiser() is not None,
    )
    return Plan(
        wishes.server,
        asked,
        wishes.proposals or card.proposals[0],
        pair,
        [*preflight(wishes.server, pair, asked), *_of_target(recipe, wishes, spec)],
        spec,
        own.draft.rows,
        wishes.served_target is not None,
        recipe.measure.top_k,
        recipe.measure.top_p,
        unlike,
    )


def _served(card: Server, wishes: Wishes, own: ModelSpec) -> ModelSpec:
    """The copy of the target that the server has.

    Raises DraftbenchError for one in a form that the server does not load, and if a target is to be written too.
    """
    name = wishes.served_target
    if wishes.target in ("merged", "apart"):
        raise DraftbenchError(
            f"--target {wishes.target} with --served-target",
            "the server has its target already",
            "leave one of them out",
        )
    spec = ModelSpec.model_validate({**own.model_dump(), "model": name, "adapter": None, "revision": None})
    form = "gguf" if gguf_source(spec) is not None else "safetensors"
    loaded = "gguf" if card.weights == "gguf" else "safetensors"
    if form != loaded:
        raise DraftbenchError(
            f"--served-target {name} for {card.title}",
            f"its weights are {form}, and {card.title} loads {loaded}",
            "name the target in the form that the server loads",
        )
    return spec


def _of_target(recipe: Recipe, wishes: Wishes, spec: ModelSpec) -> Findings:
    """What there is to say of the target that the command starts."""
    if wishes.served_target is not None:
        yield from _of_copy(recipe.target, spec)
    elif recipe.capture.server is not None and recipe.measure.against == "server":
        learnt = one_line(recipe.capture.server.model)
        yield Finding(
            "warning",
            f"the run learnt from the served model {learnt}, and {public_name(recipe.target.model)} is what its draft "
            "was made of",
            "they may be two models: the served one was measured, and the command starts the other",
            f"name the weights of {learnt} with --served-target, unless they are these",
        )


def _of_copy(own: ModelSpec, served: ModelSpec) -> Findings:
    """In what the target that the server has is no copy of the run's, as far as settings and template show."""
    ours, theirs = (_outline(spec) for spec in (own, served))
    if gguf_source(own) is not None or gguf_source(served) is not None:
        ours, theirs = ours[1:], theirs[1:]  # GGUF has one architecture for several classes
    if ours != theirs:
        yield Finding(
            "warning",
            f"{public_name(served.model)} is another model than the run's target: {', '.join(theirs)}, "
            f"not {', '.join(ours)}",
            "the run's own target was measured, and another one accepts other tokens",
            "serve the target that the draft was trained for, or train a draft for this one",
        )
    templates = [load_tokenizer(spec).chat_template for spec in (own, served)]
    if templates[0] != templates[1]:
        yield Finding(
            "warning",
            f"{public_name(served.model)} has {'no' if not templates[1] else 'another'} chat template",
            "it writes prompts otherwise than those that were measured",
            "start the server with the run's template: chat_template.jinja of the export",
        )


def _outline(spec: ModelSpec) -> list[str]:
    """What a model is by its settings, its class first."""
    config = read_config(locate_model(spec), trust_remote_code=spec.trust_remote_code)
    text = config.get_text_config()
    return [
        str((getattr(config, "architectures", None) or [type(config).__name__])[0]),
        f"{text.num_hidden_layers} layers",
        f"{text.hidden_size} wide",
        f"{text.num_attention_heads} heads",
    ]


def fitted(server: str, pair: Pair) -> Pair:
    """The pair with the draft's rows as it is exported: as many as the target's, where all others are no token's.

    llama.cpp takes some that differ, and then the draft stays as it is.
    """
    target, draft = pair.target, pair.draft
    padding_alone = first_difference(pair) is None and len(draft.tokens) <= min(target.rows, draft.rows)
    close_enough = server == "llama.cpp" and abs(target.rows - draft.rows) <= MOST_ROWS_APART
    return Pair(target, replace(draft, rows=target.rows)) if padding_alone and not close_enough else pair


def target_form(wishes: Wishes, spec: ModelSpec) -> str:
    """How the target goes along: only an adapter does unasked, as the server wants it.

    A base that is no folder of safetensors (the embedded model) is merged, since no other server could load it.
    """
    if wishes.target is not None or spec.adapter is None or wishes.served_target:
        return wishes.target or "none"
    published = gguf_source(spec) is None
    return "apart" if wishes.server in _TAKES_ADAPTERS and published else "merged"


def check_plan(made: Plan) -> None:
    """Raise DraftbenchError if the server would refuse the pair."""
    refuse(made.server, made.findings)


def write_beside(folder: Path, out: Path, made: Plan, target: LoadedModel) -> list[str]:
    """Write the target, as the plan says, and what starts the server into the new export; `out`: where it will be.

    Returns what the target's file could not hold.
    """
    notes: list[str] = []
    serving = made.serving()
    if made.asked.target == "merged":
        notes = _write_target(folder, made, target)
    if made.adapter:
        assert made.spec.adapter is not None
        _copy_adapter(locate_adapter(made.spec.adapter), folder / "adapter")
    if made.card.weights == "gguf":
        target.tokenizer.save_pretrained(folder / "tokenizer")
    if made.server == "tensorrt-llm":
        (folder / SETTINGS).write_text(tensorrt_settings(serving, str(out)), encoding="utf-8")
    name, text = script(made.server, serving, target=made.target_place(), needs=made.needs())
    (folder / name).write_text(text, encoding="utf-8")
    (folder / name).chmod(0o755)
    return notes


def _write_target(folder: Path, made: Plan, target: LoadedModel) -> list[str]:
    """The whole target, its adapter merged into it."""
    if made.card.weights == "gguf":
        return [f"target: {note}" for note in gguf.write_model(folder, "target", target.model, target, "f16").notes]
    target.model.save_pretrained(folder / "target")
    target.tokenizer.save_pretrained(folder / "target")
    return []


def _copy_adapter(source: Path, place: Path) -> None:
    """The adapter's settings and weights; its tokenizer is the draft's, at the top of the folder."""
    place.mkdir()
    for file in sorted(source.iterdir()):
        if file.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt") and file.is_file():
            (place / file.name).write_bytes(file.read_bytes())


def use_section(made: Plan) -> list[str]:
    """The part of the model card that says how the server is started."""
    name, _ = script(made.server, made.serving(), target=made.target_place(), needs=made.needs())
    shown = shell(start_command(made.server, made.serving()), here=".", target=_shown(made))
    notes = [f"- {note}" for note in made.notes()]
    warnings = [f"- {finding.what}: {finding.reason} ({finding.fix})" for finding in made.findings]
    run = f"`sh {name}`" if name.endswith(".sh") else f"`python {name}`"
    return [
        f"## Serve with {made.card.title}",
        "",
        f"{run} starts it, or from this folder:",
        "",
        "```sh",
        shown,
        "```",
        *(["", *notes] if notes else []),
        *(["", "Preflight:", "", *warnings] if warnings else []),
    ]


def _shown(made: Plan) -> str:
    place = made.target_place()
    return place.replace(HERE, ".") if place else "TARGET"
