"""Checks of target and draft: vocabulary, shapes, chat template, generation settings, code that ships with a model."""

from __future__ import annotations

from engine.catalogue import check_losses
from engine.chat.prompt import Prompt
from engine.chat.rendering import missing_header, render, template_hash
from engine.chat.template_date import reads_clock
from engine.chat.turns import check_folder
from engine.config.capture import truncation
from engine.config.schema import RUN_DATE, ModelSpec
from engine.decode.bare import remark_on_folder
from engine.errors import DraftbenchError
from engine.models.adapter import other_base
from engine.models.draft import Card, read_card
from engine.models.embeddings import stored_embeddings_hash, touches_embeddings
from engine.models.load import load_tokenizer, model_fingerprint, refuse_twice_rounded
from engine.models.locate import locate_adapter, locate_model
from engine.models.vocabulary import check_vocabulary
from engine.planning.checks.subject import Finding, Subject, failed, ok, warning
from engine.planning.fitness import check_draft, check_target
from engine.planning.outlines import at_hand, draft_shapes
from engine.runs.drafts import draft_folder, reference_folder
from engine.runs.folder import RunFolder

_SHOWN_HEADER = 60


def vocabulary(subject: Subject) -> Finding:
    """Check that target and draft mean the same tokens by the same ids."""
    name = subject.recipe.draft.checkpoint
    if name is None:
        return ok("the draft is made from the target and uses its tokenizer")
    if unseen := subject.unseen(model=False, tokenizer=True):
        return unseen
    folder = draft_folder(subject.home, name)
    if folder is not None:
        return _vocabulary_of_draft(subject, read_card(folder), name)
    other = ModelSpec(model=name)
    if at_hand(other) is None:
        return warning(f"{name} is not on this machine yet: it is compared when the run begins")
    check_vocabulary(subject.tokenizer, load_tokenizer(other))
    return ok(f"{len(subject.tokenizer):,} ids of {name} mean the same tokens as the target's")


def _vocabulary_of_draft(subject: Subject, card: Card, name: str) -> Finding:
    """A draft of this project was made for one target, which its card names."""
    target, draft = subject.recipe.target, card.info
    if draft.target_fingerprint == model_fingerprint(target):
        return ok(f"{name} was made for this very target")
    kept = target.adapter is None or not touches_embeddings(locate_adapter(target.adapter))
    if draft.embeddings_hash and kept and draft.embeddings_hash == stored_embeddings_hash(locate_model(target)):
        return ok(f"{name} was made for a target with the same embeddings")
    if draft.share_embeddings:
        raise DraftbenchError(
            f"{name} shares its embeddings with another target",
            "they are not stored with it",
            "use it with its own target, or `draftbench export` it and name the exported folder",
        )
    if RunFolder.exists(subject.home, name):
        check_vocabulary(subject.tokenizer, load_tokenizer(RunFolder.open(subject.home, name).recipe().target))
        return ok(f"{name} was made for another target with the same vocabulary")
    rows = card.config.get("vocab_size")
    message, fix = f"{name} was made for another target; it has {rows:,} ids", "use a draft of the target's family"
    return warning(message, fix) if rows == subject.config.vocab_size else failed(message, fix)


def target(subject: Subject) -> Finding:
    """Check that the target can be split at its head and decoded, and that its adapter names no other base."""
    if unseen := subject.unseen():
        return unseen
    spec, shape = subject.recipe.target, check_target(subject.recipe, subject.outline)
    refuse_twice_rounded(spec, getattr(subject.config, "quantization_config", None))
    base = None if spec.adapter is None else other_base(locate_adapter(spec.adapter), spec.model)
    if base is None:
        return ok(shape)
    return warning(
        f"{shape}; the adapter names {base} as its base",
        f"make sure that {spec.model} is that model: any base of the same shape would load",
    )


def draft(subject: Subject) -> Finding:
    """Check that the draft can be made or loaded, decoded, and trimmed as the recipe asks."""
    if unseen := subject.unseen():
        return unseen
    recipe = subject.recipe
    if recipe.draft.checkpoint is not None and draft_shapes(subject.home, recipe, subject.outline) is None:
        return warning(f"{recipe.draft.checkpoint} is not on this machine yet: it is looked at when the run begins")
    return ok(check_draft(subject.home, recipe, subject.outline))


def reference(subject: Subject) -> Finding:
    """Check that the draft which token selection compares with is one, of this target, and proposes as many ids."""
    recipe = subject.recipe
    name = recipe.train.selection.reference
    assert name is not None  # `checks` looks only where there is one
    card = read_card(reference_folder(subject.home, name))
    if unseen := subject.unseen(model=False, tokenizer=True):
        return unseen
    theirs, mine = card.info.vocabulary, _proposed(subject)
    if theirs != mine:
        return failed(
            f"the draft proposes {_ids(mine)}, {name} {_ids(theirs)}",
            "take a reference from a run with the same draft.vocabulary and the same training answers",
        )
    return _vocabulary_of_draft(subject, card, name)


def _proposed(subject: Subject) -> int | None:
    """How many ids the draft will propose; None: all of the target's."""
    spec = subject.recipe.draft
    if spec.vocabulary is not None or spec.checkpoint is None:
        return spec.vocabulary
    folder = draft_folder(subject.home, spec.checkpoint)
    return None if folder is None else read_card(folder).info.vocabulary


def _ids(count: int | None) -> str:
    return "all ids" if count is None else f"{count:,} ids"


def loss(subject: Subject) -> Finding:
    """Check that every loss is known."""
    names = [term.name for term in subject.recipe.train.loss]
    check_losses(names)
    return ok(" + ".join(names) + (f", {truncated}" if (truncated := truncation(subject.recipe.capture)) else ""))


def chat_template(subject: Subject) -> Finding:
    """Check that the chat template renders a question up to the answer, and report the date that it writes, if any."""
    if unseen := subject.unseen(model=False, tokenizer=True):
        return unseen
    template_hash(subject.tokenizer)
    hello = Prompt("hello", ({"role": "user", "content": "Hello?"},))
    tokens = len(render(subject.tokenizer, hello, context_tokens=None, max_new_tokens=0))
    message, date = f"found; a one-word question becomes {tokens} tokens", subject.recipe.target.template_date
    if header := missing_header(subject.tokenizer):
        return warning(
            f"{message}, which end without {header[:_SHOWN_HEADER]!r}, the header that the template writes before an "
            "answer: it ignores add_generation_prompt, so the target has to write the header itself",
            "let the chat template write it at its end `{% if add_generation_prompt %}`, as the served one does",
        )
    if reads_clock(subject.tokenizer):
        message += f"; it can write the date, which is {date or 'that of the day the run begins'}"
        if subject.recipe.capture.server is None:
            return ok(message)
        return warning(
            f"{message}; the server writes its own day's",
            "serve with a chat template that holds the date, and with the same one beside the target's tokenizer",
        )
    if date is not None and not date.startswith(RUN_DATE):
        return warning(f"{message}; target.template_date is not used: the template reads no clock", "leave it out")
    return ok(message)


def end_of_turn(subject: Subject) -> Finding:
    """Check that the target's settings name the token that ends an answer in its template."""
    folder = at_hand(subject.recipe.target)
    if folder is None:
        return subject.not_fetched()
    return check_folder(folder, subject.tokenizer, subject.config)


def generation_settings(subject: Subject) -> Finding:
    """Report what the target's own generation settings would change, since everything here generates without them."""
    folder = at_hand(subject.recipe.target)
    if folder is None:
        return ok("not fetched yet")
    if asked := remark_on_folder(folder):
        return warning(asked, "serve it without them (vLLM: --generation-config vllm) to get what is measured here")
    return ok("none that would change the text")


def remote_code(subject: Subject) -> Finding:
    """Warn if Python code that ships with the target will run."""
    spec = subject.recipe.target
    if not spec.trust_remote_code:
        return ok("only Transformers' own code runs")
    return warning(
        f"Python code that ships with {spec.model} will run with your rights",
        "continue only if you trust its author; else set target.trust_remote_code to false",
    )
