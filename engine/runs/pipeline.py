"""From a recipe to a measured draft: prompts, captures, training, measurement, index.

Each phase leaves something whole on disk and is skipped when that is there, so a run killed
anywhere goes on from the same folder.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from engine.capture.plan import CapturePlan, plan_capture
from engine.capture.store import Capture, make_capture
from engine.chat.prompt import Prompt, prompts_hash
from engine.chat.rendering import measurable, render
from engine.chat.template_date import pin_date, reads_clock
from engine.config.reading import dump_recipe
from engine.config.schema import RUN_DATE, CaptureSpec, Recipe
from engine.data.overlap import remove_overlap
from engine.data.readers import read_prompts
from engine.data.subsets import nested_subset, split_heldout
from engine.decode.columns import apart
from engine.decode.runner import runner_for
from engine.decode.sampling import Sampling
from engine.distill.checkpoint import drop_checkpoints
from engine.distill.losses import check_terms, supervision
from engine.distill.modes import MODES, Material, needs_capture
from engine.distill.modes.online import Query
from engine.distill.selection import SelectedBatches, load_reference
from engine.distill.source import BatchSource
from engine.distill.trainer import Trainer
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_json, write_atomic, write_json
from engine.measure.acceptance import exact_acceptance, mean_overlap
from engine.measure.suite import Measured, measure_drafts
from engine.models.draft import Draft, check_trim, initialise_draft, load_draft, parameter_counts, trim
from engine.models.head import DRAFT_IDS, Head, check_head
from engine.models.load import LoadedModel, load_model
from engine.models.vocabulary import frequent_ids
from engine.paths import PROJECT_ROOT, Home
from engine.progress import Progress
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.provenance import measured_by, provenance
from engine.served.acceptance import measure_served
from engine.served.agreement import mean_agreement, text_agreement
from engine.served.capture import check_logprobs, is_served, make_served, plan_served


@dataclass(frozen=True)
class PromptSplit:
    """Prompts of a run: to train on, to watch while training, and to measure on afterwards.

    The draft that is kept is chosen on `watched`; the figures come from `measured` alone, so
    the choice does not flatter them.
    """

    train: list[Prompt]
    watched: list[Prompt]
    measured: list[Prompt]
    counts: dict[str, int]


def decodes(recipe: Recipe) -> bool:
    """Whether a run decodes its models, rather than reading text that a server writes."""
    return recipe.capture.server is None or recipe.measure.against == "model"


class Pipeline:
    """The phases of one run. What is costly to load is loaded once, when first needed."""

    def __init__(self, home: Home, recipe: Recipe, run: RunFolder | None, progress: Progress) -> None:
        check_terms(recipe.train.loss)
        self.home, self.recipe, self.run, self.progress = home, recipe, run, progress

    def note(self, text: str) -> None:
        """A line for the person watching, and for the run's log."""
        self.progress.note(text)
        if self.run is not None:
            self.run.log(text)

    @cached_property
    def target(self) -> LoadedModel:
        target = load_model(self.recipe.target)
        self._keep_date(target.tokenizer)
        check_head(target.model)
        if decodes(self.recipe):  # now rather than at the first answer
            runner_for(target.model)
        return target

    def _keep_date(self, tokenizer: Any) -> None:
        """A template that writes today's date gets that of the run's first day, whenever the run goes on."""
        if self.run is None or self.recipe.target.template_date is not None or not reads_clock(tokenizer):
            return
        date = RUN_DATE + str(self.run.status().get("created_at") or datetime.date.today())[:10]
        dated = self.recipe.target.model_copy(update={"template_date": date})
        self.recipe = self.recipe.model_copy(update={"target": dated})
        pin_date(tokenizer, date)
        kept = self.run.recipe().model_copy(update={"target": dated})  # not self.recipe, which may measure other things
        write_atomic(self.run.path / "config.yaml", dump_recipe(kept))
        self.note(f"the chat template writes today's date: target.template_date is {date} from now on")

    @cached_property
    def target_float32(self) -> LoadedModel:
        return self.target if self.target.dtype == torch.float32 else load_model(self.recipe.target, dtype="float32")

    @cached_property
    def prompts(self) -> PromptSplit:
        """Read, checked and split; training prompts that repeat a held-out one are removed."""
        spec = self.recipe.prompts
        train = read_prompts(spec.train, skip_bad=spec.skip_bad)
        heldout = read_prompts(spec.heldout, skip_bad=spec.skip_bad)
        kept, repeats = remove_overlap(train.prompts, heldout.prompts)
        short, long = self._within_limit(kept)
        chosen = nested_subset(short, spec.train_prompts) if short else []
        asked, beyond = self._measurable(heldout.prompts)
        watched, measured = split_heldout(asked, self.recipe.train.eval_prompts, self.recipe.measure.heldout_prompts)
        counts = {
            "train": len(chosen),
            "watched": len(watched),
            "measured": len(measured),
            "bad_rows": len(train.bad) + len(heldout.bad),
            "removed_as_heldout": len(repeats),
            "removed_as_too_long": long,
            "beyond_train_prompts": len(short) - len(chosen),
            **({"heldout_beyond_context": beyond} if beyond else {}),
        }
        told = ", ".join(f"{name} {n}" for name, n in counts.items())
        if not chosen:
            raise DraftbenchError(
                "no training prompt is left", told, "check prompts.train and prompts.max_prompt_tokens"
            )
        self.note(f"prompts: {told}")
        self._refuse_others({"train": prompts_hash(chosen), "heldout": prompts_hash(heldout.prompts)})
        return PromptSplit(chosen, watched, measured, counts)

    def _refuse_others(self, now: dict[str, str]) -> None:
        """A run keeps the prompts it began with: `pack:` sets grow when a pack is fetched, and files may be edited.

        `now`: their hashes; of the held-out ones all, since a measurement may take more or fewer of them.
        """
        if self.run is None:
            return
        path = self.run.path / "prompts.json"
        if not path.exists():
            write_json(path, now)
            return
        changed = [name for name, found in read_json(path).items() if now[name] != found]
        if changed:
            raise DraftbenchError(
                f"the {' and '.join(changed)} prompts of run {self.run.id} are not those it began with",
                "a prompt file was changed since, or a pack was fetched or is gone: "
                "the rest of the run would not fit what it has done",
                "put the prompts back (`draftbench show` names the sources and packs), or start a new run",
            )

    def _measurable(self, heldout: list[Prompt]) -> tuple[list[Prompt], int]:
        """The held-out prompts without those that max_prompt_tokens names too long and that leave no room for an answer.

        Others stay, whatever their length: what drafts are measured on must not depend on what they are trained on.
        """
        spec, context = self.recipe.prompts, self.target.context_tokens
        fit = measurable(
            self.target.tokenizer, heldout, spec.max_prompt_tokens, context, self.recipe.measure.max_new_tokens
        )
        return fit, len(heldout) - len(fit)

    def _within_limit(self, prompts: list[Prompt]) -> tuple[list[Prompt], int]:
        limit = self.recipe.prompts.max_prompt_tokens
        if limit is None:
            return prompts, 0
        short = [
            p for p in prompts if len(render(self.target.tokenizer, p, context_tokens=None, max_new_tokens=0)) <= limit
        ]
        return short, len(prompts) - len(short)

    def training_plan(self, prompts: Sequence[Prompt] | None = None) -> CapturePlan:
        """The capture of the training prompts, or of those given: the target's own answers, or those of a server."""
        plan = plan_capture if self.recipe.capture.server is None else plan_served
        chosen = self.prompts.train if prompts is None else prompts
        return plan(self.home.captures, self.target, chosen, self.recipe.capture)

    def heldout_plans(self) -> dict[float, CapturePlan]:
        """What the draft is measured on, one capture a temperature: of all held-out prompts with exact signal, or of
        the measured ones with what the server tells of its tokens."""
        measure = self.recipe.measure
        if measure.against == "server":
            return {t: self._served_heldout(t, self.prompts.measured, told=True) for t in measure.temperatures}
        prompts = self.prompts.watched + self.prompts.measured
        return {
            temperature: plan_capture(
                self.home.captures,
                self.target,
                prompts,
                CaptureSpec(
                    temperature=temperature,
                    top_p=measure.top_p,
                    top_k=measure.top_k,
                    max_new_tokens=measure.max_new_tokens,
                    seed=measure.seed,
                    batch_size=self.recipe.capture.batch_size,
                    signal="exact",
                ),
            )
            for temperature in measure.temperatures
        }

    def watched_plans(self) -> dict[float, CapturePlan]:
        """What the draft is watched on: the held-out captures, or what the server writes greedily to the watched prompts.

        The model at hand only stands in for a served one, so its answers would say little.
        """
        if self.recipe.capture.server is None:
            return self.heldout_plans()
        return {0.0: self._served_heldout(0.0, self.prompts.watched)}

    def _served_heldout(self, temperature: float, prompts: Sequence[Prompt], *, told: bool = False) -> CapturePlan:
        """The server's answers to held-out prompts."""
        measure = self.recipe.measure
        drawn = {"temperature": temperature, "top_p": 1.0, "top_k": 0, "max_new_tokens": measure.max_new_tokens}
        spec = self.recipe.capture.model_copy(update={**drawn, "seed": measure.seed})
        return plan_served(self.home.captures, self.target, prompts, spec, with_logprobs=told)

    def capture_all(self) -> tuple[Capture | None, dict[float, Capture]]:
        """Make or reuse every capture of the training; none of its prompts for a stream that is decoded meanwhile."""
        self._prove_server()
        heldout = self.watched_plans()
        training = self.capture("training", self.training_plan()) if needs_capture(self.recipe.train) else None
        return training, {t: self.capture(f"held-out T={t:g}", p) for t, p in heldout.items()}

    def _prove_server(self) -> None:
        """Where the draft will be measured against a server: whether that tells what is needed, before the training."""
        server = self.recipe.capture.server
        if self.recipe.measure.against == "server" and server is not None:
            for plan in self.heldout_plans().values():
                check_logprobs(plan, server, self.target, progress=self.progress)

    def capture(self, what: str, plan: CapturePlan) -> Capture:
        """One capture, made or reused; says what it will cost before it begins."""
        if (plan.folder / "done.json").exists():
            self.note(f"capture {plan.address} ({what}): {len(plan.prompts)} prompts, reused")
        else:
            self.note(
                f"capture {plan.address} ({what}): {len(plan.prompts)} prompts, {plan.signal.kind} signal, "
                f"{plan.signal.bytes_per_token:,} bytes a token, at most {plan.most_tokens:,} tokens = {readable_bytes(plan.most_bytes)}"
            )
            if self.recipe.capture.server is None and (why := apart(self.target.model)):
                self.note(why)
        if self.recipe.capture.server is not None and is_served(plan):
            return make_served(plan, self.recipe.capture.server, self.target, progress=self.progress)
        return make_capture(plan, self.target, batch_size=self.recipe.capture.batch_size, progress=self.progress)

    def initial_draft(self, training: Capture | None = None) -> Draft:
        """The untrained draft of the recipe, float32; the same whenever asked.

        A trimmed vocabulary is chosen from the training answers, which are captured unless given.
        """
        draft, size = self._whole_draft(), self.recipe.draft.vocabulary
        if size is None:
            return draft
        answers = training or self.capture("training", self.training_plan())
        ids = torch.cat([torch.tensor(answer.token_ids) for answer in answers.answers])
        before = getattr(draft.model, DRAFT_IDS, None)
        chosen = frequent_ids(
            torch.bincount(ids, minlength=self.target.vocab_rows),
            size,
            always=self.target.stop_ids,
            then=[] if before is None else before.tolist(),
        )
        return trim(draft, self.target, chosen)

    def _whole_draft(self) -> Draft:
        """The draft as its layers or its checkpoint make it."""
        spec = self.recipe.draft
        checkpoint = None
        if spec.checkpoint is not None:
            checkpoint = draft_folder(self.home, spec.checkpoint)
        draft = initialise_draft(self.target, spec, seed=self.recipe.train.seed, checkpoint=checkpoint)
        if decodes(self.recipe):  # a draft that cannot be decoded should not be trained first
            runner_for(draft.model, is_draft=True)
        return draft

    def train(self) -> None:
        """Train the run's draft, or go on training it."""
        assert self.run is not None
        if (self.run.path / "training.json").exists():
            drop_checkpoints(self.run.path)  # of a training that was killed before it had
            return
        whole, size = self._whole_draft(), self.recipe.draft.vocabulary
        if size is not None:  # before the captures: a draft that does not fit should not cost them first
            check_trim(whole, self.target, size)
        training, heldout = self.capture_all()
        draft = self.initial_draft(training)
        counts = parameter_counts(draft)
        self.note(f"draft: {counts['total']:,} parameters, {counts['own']:,} of its own")
        if training is not None:
            self._note_vocabulary(training, Head.of(draft.model).ids)
        trainer = Trainer(
            draft,
            self._source(draft, training),
            self.recipe.train,
            self.run.path,
            evaluate=self._watch(heldout, Head.of(self.target.model)),
            emit=self.run.emit,
            progress=self.progress,
        )
        write_json(self.run.path / "provenance.json", self._provenance(training, heldout, counts))
        outcome = trainer.run()
        write_json(self.run.path / "training.json", asdict(outcome))
        drop_checkpoints(self.run.path)  # only now: without training.json a resume begins at the last of them
        self.note(
            f"trained {outcome.steps_done} of {outcome.steps} steps on {outcome.tokens_seen:,} tokens in {outcome.seconds:.0f} s; "
            f"best at step {outcome.best_step}"
        )

    def _source(self, draft: Draft, training: Capture | None) -> BatchSource:
        """Where the batches come from: what the mode of training is."""
        assert self.run is not None
        plan = self.training_plan()
        queries = [Query(prompt.id, ids) for prompt, ids in zip(plan.prompts, plan.prompt_ids, strict=True)]
        material = Material(
            draft,
            self.target,
            queries,
            plan.signal,
            training,
            self.recipe.train,
            self.recipe.capture,
            self.run.path,
            self.run.emit,
        )
        source = MODES[self.recipe.train.mode](material)
        reference = self._reference(draft)
        return source if reference is None else SelectedBatches(source, draft.model, reference.model)

    def _reference(self, draft: Draft) -> Draft | None:
        """The draft whose loss token selection takes the gap to."""
        name = self.recipe.train.selection.reference
        if name is None:
            return None
        folder = draft_folder(self.home, name)
        if folder is None:
            raise DraftbenchError(
                f"train.selection.reference {name!r} is not a draft of Draftbench",
                "the gap is taken to a draft of the same target and the same ids",
                "give a run or the folder of a draft",
            )
        return load_reference(folder, draft, self.target)

    def _note_vocabulary(self, training: Capture, ids: torch.Tensor | None) -> None:
        """How much of what the target writes a trimmed draft can say at all: a bound on its acceptance."""
        if ids is None:
            return
        written = torch.cat([torch.tensor(answer.token_ids) for answer in training.answers])
        known = float(torch.isin(written, ids.cpu()).double().mean())
        self.note(f"draft vocabulary: {len(ids):,} ids, {known:.1%} of the tokens of the training answers")

    def _watch(self, heldout: dict[float, Capture], head: Head) -> Callable[[Any], dict[float, float]]:
        """Exact acceptance on the watched prompts, of the draft in the precision it will be served in."""
        ids = {prompt.id for prompt in self.prompts.watched}
        measure = self.recipe.measure

        def evaluate(model: Any) -> dict[float, float]:
            served = copy.deepcopy(model).to(self.target.dtype)
            if self.recipe.capture.server is not None:  # of greedy text, acceptance is agreement with it
                return {t: mean_agreement(text_agreement(served, capture)) for t, capture in heldout.items()}
            return {
                t: mean_overlap(
                    exact_acceptance(
                        served,
                        head,
                        capture,
                        Sampling(t, measure.top_k, measure.top_p),
                        [a for a in capture.answers if a.prompt_id in ids],
                    )
                )
                for t, capture in heldout.items()
            }

        return evaluate

    def measure(self) -> dict[str, Any]:
        """Measure the best draft against the untrained one; writes the tables and returns the summary."""
        assert self.run is not None
        best = self.run.path / "draft" / "best"
        heldout = {t: self.capture(f"held-out T={t:g}", plan) for t, plan in self.heldout_plans().items()}
        trained = load_draft(best, self.target)
        initial = self._before(trained)
        served = Draft(copy.deepcopy(initial.model).to(self.target.dtype).requires_grad_(False), initial.info)
        drafts = {"initial": served, "trained": trained}
        if self.recipe.measure.against == "server":
            measured = self._measured_against_server(drafts, heldout)
        else:
            exact = {"initial": initial, "trained": load_draft(best, self.target_float32)}
            measured = self._measured_against_model(drafts, exact, heldout)
        measured.save(self.run.path / "measure")
        self._note_measurement(heldout)
        return measured.summary

    def _measured_against_model(
        self, drafts: dict[str, Draft], drafts_float32: dict[str, Draft], heldout: dict[float, Capture]
    ) -> Measured:
        measured = measure_drafts(
            self.target,
            self.target_float32,
            drafts,
            drafts_float32,
            heldout,
            [prompt.id for prompt in self.prompts.measured],
            self.recipe.measure,
            heldout_hash=prompts_hash(self.prompts.measured),
            texts={prompt.id: prompt.text for prompt in self.prompts.measured},
            progress=self.progress,
        )
        if self.recipe.capture.server is not None:
            measured.summary["stands_in_for"] = self._stands_in_for()
        return measured

    def _measured_against_server(self, drafts: dict[str, Draft], heldout: dict[float, Capture]) -> Measured:
        server = self.recipe.capture.server
        assert server is not None
        measured = measure_served(
            self.target,
            drafts,
            heldout,
            [prompt.id for prompt in self.prompts.measured],
            self.recipe.measure,
            server,
            heldout_hash=prompts_hash(self.prompts.measured),
            texts={prompt.id: prompt.text for prompt in self.prompts.measured},
            progress=self.progress,
        )
        self.note(
            f"measured against the text of {server.model} at {server.base_url}: acceptance alone, since the sampled "
            "rates, tau, speed and the certificate need the target to run here"
        )
        return measured

    def _before(self, trained: Draft) -> Draft:
        """What the trained draft is compared with: a checkpoint as it came, since that is what a user would serve
        untrained; else its own first weights under its own ids."""
        whole, ids = self._whole_draft(), Head.of(trained.model).ids
        return whole if ids is None or self.recipe.draft.init == "checkpoint" else trim(whole, self.target, ids)

    def _stands_in_for(self) -> dict[str, str]:
        """The served model that the draft learnt from: what is measured here is the model at hand, not that one."""
        server = self.recipe.capture.server
        assert server is not None
        self.note(
            f"measured against {self.recipe.target.label}, the model at hand: the draft learnt from {server.model} at "
            f"{server.base_url}, which would accept other tokens unless the two are the same"
        )
        return {"base_url": server.base_url, "model": server.model}

    def _note_measurement(self, heldout: dict[float, Capture]) -> None:
        """A draft may be measured long after it was trained, by another version and on other captures."""
        assert self.run is not None
        path = self.run.path / "provenance.json"
        found = measured_by(
            draft_sha256=read_json(self.run.path / "draft" / "best" / "draft.json")["weights_sha256"],
            captures={f"heldout T={t:g}": c.address for t, c in heldout.items()},
            stands_in_for=read_json(self.run.summary_path).get("stands_in_for"),
        )
        write_json(path, {**(read_json(path) if path.exists() else {}), "measurement": found})

    def _provenance(
        self, training: Capture | None, heldout: dict[float, Capture], counts: dict[str, int]
    ) -> dict[str, Any]:
        return provenance(
            target_fingerprint=self.target.fingerprint,
            target_dtype=self.target.dtype_name,
            device=str(self.target.device),
            supervision=supervision(self.recipe.train.loss),
            seeds={
                "capture": self.recipe.capture.seed,
                "train": self.recipe.train.seed,
                "measure": self.recipe.measure.seed,
            },
            prompts={
                **self.prompts.counts,
                "train_hash": prompts_hash(self.prompts.train),
                "heldout_hash": prompts_hash(self.prompts.measured),
            },
            captures={
                **({} if training is None else {"training": {"address": training.address, **training.done}}),
                **{f"heldout T={t:g}": {"address": c.address, **c.done} for t, c in heldout.items()},
            },
            draft_parameters=counts,
            checkpoint_sha256=self._weights_hash(self.recipe.draft.checkpoint),
            reference_sha256=self._weights_hash(self.recipe.train.selection.reference),
        )

    def _weights_hash(self, name: str | None) -> str | None:
        """Of the weights that the draft started from, or is held against, if they are a draft of this project."""
        folder = None if name is None else draft_folder(self.home, name)
        if folder is None:
            return None
        card = read_json(folder / "draft.json")
        return str(card.get("rounded_from") or card["weights_sha256"])


def readable_bytes(count: int) -> str:
    """'18.4 kB', '43.3 MB': a size for people."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def draft_folder(home: Home, name: str) -> Path | None:
    """The draft folder that a path or a run names, or None if it is some other kind of model."""
    with boundary(f"could not look for {name[:80]!a}", "check the path"):
        for folder in (Path(name), PROJECT_ROOT / name):  # a sample run names what ships beside it
            if (folder / "draft.json").exists():
                return folder.resolve()
        if Path(name).exists():
            return None
    try:
        run = RunFolder.open(home, name)
    except DraftbenchError:
        return None
    return best_draft(run)
