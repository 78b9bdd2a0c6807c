"""Checks of what a run needs from the machine it runs on, and from the server that answers."""

from __future__ import annotations

import shutil

from engine.capture.batch_size import free_bytes
from engine.errors import DraftbenchError
from engine.models.folder import check_settings
from engine.models.int8 import refuse_int8
from engine.models.load import resolve_device, resolve_dtype
from engine.models.placement import DISK, fill, in_words, rooms_for
from engine.models.quantised import check_quantised
from engine.models.split import check_split
from engine.numbers import readable_bytes
from engine.planning.cards import cards, fit, fits_one
from engine.planning.checks.subject import Finding, Subject, failed, ok, warning
from engine.planning.estimate import target_bytes
from engine.planning.outlines import at_hand, target_sizes
from engine.served.client import listed_models, unknown_model

_SPARE_BYTES = 500_000_000  # that must stay free on the disk


def device(subject: Subject) -> Finding:
    """Resolve the device and the precision that the target will be loaded in."""
    spec = subject.recipe.target
    resolved = resolve_device(spec.device)
    if (folder := at_hand(spec)) is not None:
        check_quantised(folder, check_settings(folder))
    if spec.tensor_parallel > 1 and subject.fetched:
        check_split(subject.outline, spec, resolved)
    if subject.recipe.draft.device != "auto":
        resolve_device(subject.recipe.draft.device)
    dtype = str(resolve_dtype(spec.dtype, resolved)).removeprefix("torch.")
    if spec.quantize is None:
        return ok(f"{resolved}, the target in {dtype}")
    refuse_int8(resolved)
    message = f"{resolved}, the target in {dtype} with {spec.quantize} weights"
    if dtype != "bfloat16":
        return warning(f"{message}, which are rounded but not faster in {dtype}", "set target.dtype: bfloat16")
    return ok(message)


def memory(subject: Subject) -> Finding:
    """Check that the models fit into the memory that is free; on several cards, how the target fits them."""
    need, spec = subject.estimate.memory_bytes, subject.recipe.target
    if need is None:
        return warning(subject.estimate.memory_unknown)
    if spec.device_map is not None:
        return _spread(subject)
    seen = cards() if resolve_device(spec.device).type == "cuda" else []
    if len(seen) > 1 and spec.tensor_parallel == 1:
        weights = target_bytes(spec, subject.outline)
        if not fits_one(weights, seen):
            return warning(fit(weights, seen))
    free = free_bytes(str(resolve_device(subject.recipe.target.device)))
    message = f"about {readable_bytes(need)} at most, {readable_bytes(free)} free"
    if need < free:
        return ok(message)
    return warning(
        message, "lower train.micro_batch_tokens and capture.batch_size (same result), or use a smaller target"
    )


def _spread(subject: Subject) -> Finding:
    """Where the layers of a target go that is spread, by the memory that is free now."""
    spec = subject.recipe.target
    device = resolve_device(spec.device)
    sizes, rooms = target_sizes(spec, subject.outline), rooms_for(spec, device)
    placed = fill(sizes, rooms)
    main = sizes.ends + sum(size for size, where in zip(sizes.layers, placed, strict=True) if where == rooms[0].device)
    beside = (subject.estimate.memory_bytes or 0) - subject.estimate.memory["target"]
    message = (
        f"weights of {readable_bytes(sizes.total)} in {in_words(placed)}, by the memory that is free now; on "
        f"{rooms[0].device} {readable_bytes(main)} and at most about {readable_bytes(beside)} beside them, "
        f"{readable_bytes(free_bytes(str(device)))} free"
    )
    slow = [where for where in placed if where in (DISK, "cpu") and where != rooms[0].device]
    if slow:
        return warning(
            f"{message}; {len(slow)} layers are copied to {rooms[0].device} for every token",
            "free memory on the cards, use more cards, or a quantised target",
        )
    if main + beside >= free_bytes(str(device)):
        return warning(message, "lower the first number of target.max_memory_gb, or give the draft a draft.device")
    return ok(message)


def disk(subject: Subject) -> Finding:
    """Check that captures, checkpoints and drafts fit on the disk of the home."""
    need, root = subject.estimate.disk_bytes, subject.home.root
    free = shutil.disk_usage(next(p for p in (root, *root.absolute().parents) if p.exists())).free
    if need is None:
        return warning(f"{subject.estimate.disk_unknown}; {readable_bytes(free)} free")
    message = f"at most {readable_bytes(need)}, {readable_bytes(free)} free"
    if need + _SPARE_BYTES < free:
        return ok(message)
    return failed(message, "free some space, use capture.signal: compact, or point DRAFTBENCH_HOME at a larger disk")


def server(subject: Subject) -> Finding:
    """Check that the servers of the training answers are there and have the model; one of several may be gone."""
    whole = subject.recipe.capture.server
    assert whole is not None  # `checks` looks only where there is one
    has: list[str] = []
    unlisted: list[str] = []
    gone: list[str] = []
    for spec in whole.each:
        try:
            names = listed_models(spec)
        except DraftbenchError as error:
            if not whole.also_at:
                raise
            gone.append(f"{error.what} ({error.why})" if error.why else error.what)
            continue
        if names and spec.model not in names:
            raise unknown_model(spec, names)
        (has if names else unlisted).append(spec.base_url)
    if not (has or unlisted):
        return failed("; ".join(gone), "start the servers, or correct capture.server.base_url")
    if gone:
        left = f"{len(gone)} of {len(whole.urls)} servers would be left out: {'; '.join(gone)}"
        return warning(left, "start them, or take them out of base_url")
    if unlisted:
        return warning(f"{', '.join(unlisted)}: there, but {whole.model} is not listed: the first answer will tell")
    return ok(f"{', '.join(has)} {'have' if whole.also_at else 'has'} {whole.model}")
