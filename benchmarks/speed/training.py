"""Rows on training with forward KL over the whole vocabulary: the trainer beside others, and its inner part alone."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.train_steps import Training
from benchmarks.speed.capturing import captured, plan_of
from benchmarks.speed.decoding import waiting
from benchmarks.speed.pairs import Rounds, Sample, Way, interleave
from benchmarks.speed.peers import Peer, environment
from benchmarks.speed.record import Figure, Row, pairs_of, row_of
from benchmarks.speed.subjects import RandomModel, Shape, random_prompts, random_target
from engine.capture.batches import Batch
from engine.chat.rendering import render
from engine.config.schema import DEFAULT_TARGET, DraftSpec, ModelSpec, PromptSource, TrainSpec
from engine.data.readers import read_prompts
from engine.distill.trainer import Trainer
from engine.errors import DraftbenchError, is_out_of_memory
from engine.fileio import write_json
from engine.models.draft import initialise_draft
from engine.models.load import load_model

LAYERS, ANSWERS, TOKENS = 4, 16, 48
_PROMPTS = "sample_data/prompts/biology/train.jsonl"
_ASKED = 40  # prompts, of which enough have answers of the full length
_CHUNK_POWERS = (22, 26, 30)  # of 2: logits that are held at once


def training_row(
    folder: Path, *, rounds: Rounds, steps: int, baseline: Path | None = None, trl: Path | None = None
) -> Row:
    """Response tokens a second: this checkout, another one, and TRL's GKD trainer in an environment of its own.

    A process each. All train the same four layers on the same 16 answers of 48 tokens a step, embeddings and head
    frozen; TRL runs its teacher in the loop, as it is made to, and needs one step a round to say how fast it is.
    """
    capture = _prepare(folder, with_models=trl is not None)
    job = {
        "target": DEFAULT_TARGET,
        "capture": str(capture),
        "layers": LAYERS,
        "answers": ANSWERS,
        "tokens": TOKENS,
        "train": {"loss": "forward_kl"},
    }
    notes: list[str] = []
    with ExitStack() as stack:
        start = partial(_started, stack, folder)
        peers = {"ours": start("ours", "train_steps.py", job)}
        if baseline is not None:
            peers["baseline"] = start("baseline", "train_steps.py", job, checkout=baseline)
        if trl is not None:
            texts = {
                "target": str(folder / "target"),
                "draft": str(folder / "draft"),
                "texts": str(folder / "texts.json"),
            }
            try:
                peers["trl"] = start("trl", "trl_gkd.py", texts, python=environment(trl, "trl"))
                peers["trl"].ask(steps=1)
            except DraftbenchError as error:  # of another environment: the checkouts can still be compared
                peers.pop("trl", None)
                notes.append(f"TRL could not train: {error.what}: {error.why}")
        memory: dict[str, int] = {}

        def way(name: str, number: int) -> Sample:
            answer = peers[name].ask(steps=1 if name == "trl" else steps)
            memory[name] = max(memory.get(name, 0), answer["most_bytes"])
            return Sample(answer["amount"], answer["seconds"])

        ways: dict[str, Way] = {name: partial(way, name) for name in peers}
        paired = interleave(ways, rounds, unit="tokens")
        about = {name: peer.about for name, peer in peers.items()}
    conditions = {
        "layers": LAYERS,
        "answers a step": ANSWERS,
        "tokens of an answer": TOKENS,
        "loss": "forward KL, whole vocabulary",
        "device": "cpu",
        "programs": about,
    }
    others = [name for name in peers if name != "ours"]
    ratios = pairs_of(*(("ours", name) for name in others))
    row = row_of("training", "Training, forward KL over the whole vocabulary", paired, ratios, conditions)
    figures = {f"memory_{name}": Figure(value=most / 1e9, unit="GB") for name, most in memory.items()}
    figures |= {f"memory/{name}": Figure(value=memory["ours"] / memory[name], unit="x") for name in others}
    return row.model_copy(update={"figures": {**row.figures, **figures}, "notes": notes})


def _started(stack: ExitStack, folder: Path, name: str, program: str, job: dict[str, Any], **where: Any) -> Peer:
    return stack.enter_context(Peer(program, job, folder / f"{name}.log", **where))


def _prepare(folder: Path, *, with_models: bool) -> Path:
    """Capture the answers and, for a program that loads models by itself, write target, draft and texts."""
    target = load_model(ModelSpec(model=DEFAULT_TARGET, device="cpu"))
    prompts = read_prompts([PromptSource(path=_PROMPTS, limit=_ASKED)]).prompts
    ids = [render(target.tokenizer, p, context_tokens=target.context_tokens, max_new_tokens=TOKENS) for p in prompts]
    plan = plan_of(folder / "captures" / "training", target, ids, max_new_tokens=TOKENS, temperature=1.0)
    capture = captured(plan, target, batch_size=_ASKED)
    if with_models:
        target.model.save_pretrained(folder / "target")
        initialise_draft(target, DraftSpec(layers=LAYERS), seed=0).model.save_pretrained(folder / "draft")
        for name in ("target", "draft"):
            target.tokenizer.save_pretrained(folder / name)
        whole = [answer for answer in capture.answers if len(answer.token_ids) == TOKENS][:ANSWERS]
        write_json(folder / "texts.json", [[answer.prompt_ids, answer.token_ids] for answer in whole])
    return capture.folder


@contextmanager
def random_training(
    shape: Shape, device: torch.device, *, answers: int, tokens: int, layers: int, more: dict[str, Any]
) -> Iterator[Training]:
    """A draft of a random target in training on answers that it wrote, all of the same length."""
    target = random_target(shape, device)
    assert isinstance(target, RandomModel)
    endless = dataclasses.replace(target, stops=frozenset())
    with tempfile.TemporaryDirectory() as folder:
        ids = random_prompts(shape, answers, 40)
        plan = plan_of(Path(folder) / "capture", endless, ids, max_new_tokens=tokens, temperature=1.0)
        captured(plan, endless, batch_size=min(256, answers))
        yield Training(endless, plan.folder, layers=layers, answers=answers, tokens=tokens, more=more)


def trainer_row(training: Training, shape: Shape, *, steps: int, rounds: Rounds) -> Row:
    """Response tokens a second through the whole trainer, with all answers of a capture in a step."""

    def way(number: int) -> Sample:
        done = training.run(steps)
        return Sample(done["amount"], done["seconds"])

    device = training.target.device
    paired = interleave({"ours": way}, rounds, unit="tokens", wait=waiting(device))
    return row_of("trainer", "The whole trainer, forward KL", paired, {}, _conditions(training, shape))


def inner_row(training: Training, shape: Shape, *, rounds: Rounds) -> Row:
    """Positions a second through the draft's body, its head and the loss, forward and backward, and nothing else.

    Beside chunks of other sizes, and a plain step with the teacher in the loop that holds all logits at once.
    """
    settings = TrainSpec.model_validate({"batch_size": training.answers, **training.more})
    device, notes = training.target.device, []
    with tempfile.TemporaryDirectory() as folder:
        source = training.source(settings, Path(folder))
        trainer = Trainer(training.draft, source, settings, Path(folder))
        batches = source.micro_batches(0)
        positions = sum(batch.tokens for batch in batches)

        def ours(chunk: int | None, number: int) -> float:
            trainer.optimiser.zero_grad(set_to_none=True)
            for batch in batches:
                trainer.backward(batch, 0, positions, chunk=chunk)
            return float(positions)

        def teacher_in_the_loop(number: int) -> float:
            trainer.optimiser.zero_grad(set_to_none=True)
            for batch in batches:
                with torch.no_grad():
                    wanted = _log_probs(training.target.model, batch)
                loss = torch.nn.functional.kl_div(
                    _log_probs(trainer.model, batch), wanted, reduction="sum", log_target=True
                )
                (loss / positions).backward()  # type: ignore[no-untyped-call]
            return float(positions)

        ways: dict[str, Way] = {"ours": partial(ours, None)}
        for power in _CHUNK_POWERS:
            ways[f"chunks of 2**{power}"] = partial(ours, max(1, 2**power // shape.vocab))
        ways["teacher_in_the_loop"] = teacher_in_the_loop
        memory: dict[str, Figure] = {}
        for name, way in list(ways.items()):
            try:
                memory |= _memory(name, way, device)
            except Exception as error:
                if name == "ours" or not is_out_of_memory(error):
                    raise
                del ways[name]
                notes.append(f"{name}: not enough memory")
        paired = interleave(ways, rounds, unit="positions", wait=waiting(device))
    ratios = pairs_of(*(("ours", name) for name in ways if name != "ours"))
    title = "Body, head and loss alone, forward KL"
    row = row_of("inner", title, paired, ratios, _conditions(training, shape))
    return row.model_copy(update={"figures": {**row.figures, **memory}, "notes": notes})


def _log_probs(model: Any, batch: Batch) -> torch.Tensor:
    """log p at the batch's response positions, as a plain step computes it: [position, vocab], float32."""
    logits: torch.Tensor = model(input_ids=batch.ids, use_cache=False).logits
    return logits.flatten(0, 1).index_select(0, batch.flat_places).float().log_softmax(-1)


def _memory(name: str, way: Way, device: torch.device) -> dict[str, Figure]:
    """The most memory that a GPU held while a way worked once; nothing on a processor."""
    if device.type != "cuda":
        way(0)
        return {}
    torch.cuda.reset_peak_memory_stats(device)
    way(0)
    return {f"memory_{name}": Figure(value=torch.cuda.max_memory_allocated(device) / 1e9, unit="GB")}


def _conditions(training: Training, shape: Shape) -> dict[str, Any]:
    return {
        "weights": "random",
        "shape": shape.name,
        "device": str(training.target.device),
        "positions a step": training.answers * training.tokens,
        "vocabulary": shape.vocab,
        **training.more,
    }
