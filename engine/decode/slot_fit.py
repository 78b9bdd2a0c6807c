"""Measure whether a model decodes ragged rows in one cache of slots, and refuse those that cannot be decoded at all.

In a ragged batch some slots of the cache hold nothing for some rows. A mask hides them and positions do not count
them, which is enough for a model that reads both. One that counts the columns of its cache instead (the local attention
of GPT-Neo is a window of columns, ALiBi a slope over columns, a causal buffer ends at some column) would write another
text, without any error. Its configuration does not say so under any one name, so a short text is decoded beside a
longer row, and its logits are compared with the model's own forward on the whole text.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from engine.decode.layer_kinds import layer_kinds
from engine.decode.positions import rotary_limit
from engine.decode.row_by_row import RowByRow
from engine.decode.slot_runner import SlotRunner
from engine.errors import DraftbenchError, first_line
from engine.models.context import context_of
from engine.models.head import Head, body, check_head, text_config
from engine.models.quantised import is_packed
from engine.models.team import mirrored

_TEXT = 12  # tokens of the probe
_SEEN, _MIDDLE = 7, 9  # tokens read at first, and before the block that is compared
_WIDTH = 5  # of windows and chunks, for the length of the probe
_WIDTHS = ("sliding_window", "attention_chunk_size")
_LONGER = 5  # tokens by which the other row is longer at first
_FARTHER = 1024  # and then: tokens by which the other row is longer
_FARTHER_BYTES, _MOST_FARTHER_BYTES = 2**27, 2**30  # of keys and values: of the usual row, and for a named window
_WINDOW = re.compile(r"window|chunk|local|block|span", re.IGNORECASE)
_NO_WINDOW = re.compile(r"theta|expert|layer|head|num_", re.IGNORECASE)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # root mean square, in standard deviations of the logits
_LOW_PRECISION_TOLERANCE = 0.1  # kernels of other shapes differ by about 0.01 there; lost context by about 1
_FIX = "use a model with attention in every layer"
_known: weakref.WeakKeyDictionary[Any, SlotFit] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class SlotFit:
    """Whether a model's rows share a cache; `difference` is that of `_difference` if it was measured."""

    side_by_side: bool
    why_not: str = ""
    difference: float | None = None


def fits_slots(model: Any) -> bool:
    """Return whether rows of different length may share a cache of this model; measured once per model."""
    return slot_fit(model).side_by_side


def apart(model: Any) -> str:
    """A sentence that says why rows of this model are decoded one at a time; empty if they are not."""
    why = slot_fit(model).why_not
    return f"{why}: its rows are decoded one at a time, each with a cache of its own" if why else ""


@mirrored  # all processes of a split model remember it, or one would measure while another does not
def slot_fit(model: Any) -> SlotFit:
    """Return what the model makes of a cache of slots, measured at the first call.

    Raises DraftbenchError for a model that does not forget what was taken out of its cache: it cannot be decoded
    speculatively at all; and for one whose logits are not its head's (`check_head`).
    """
    fit = _known.get(model)
    if fit is None:
        fit = _known[model] = probe(model)
    return fit


@torch.no_grad()
def probe(model: Any) -> SlotFit:
    """Decode a short text with tokens taken back, alone and beside a longer row, and compare with reading it whole.

    Windows and chunks are made as short as the text for it.
    """
    layer_kinds(model)
    vocab = model.get_input_embeddings().weight.shape[0]
    ids = [(7 * i + 3) % vocab for i in range(_TEXT)]
    name, tolerance = type(model).__name__, _tolerance(model)
    with _evaluating(model), _short_windows(model):
        output = body(model)(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        expected = Head.of(model).logits(output.last_hidden_state[:, _MIDDLE:].contiguous()).float()
        _check_forgets(model, RowByRow(model), ids, expected, tolerance)
        check_head(model)  # runners apply the head themselves
        farther = _farther(model)
        if farther is None:
            return SlotFit(False, f"{name} names a window that is too long to try")
        try:
            difference = _difference(_beside_a_longer_row(SlotRunner(model), ids, farther), expected)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a buffer that ends before the last column, or whatever else a model counts
            return SlotFit(False, f"{name} fails beside a longer row ({type(error).__name__})")
    if difference <= tolerance:  # a NaN is no agreement
        return SlotFit(True, difference=difference)
    return SlotFit(False, f"{name} counts columns of its cache, not positions", difference)


def _tolerance(model: Any) -> float:
    """Quantised layers may round what they read, also in a float32 model, and by what stands beside it."""
    return _LOW_PRECISION_TOLERANCE if is_packed(model) else _TOLERANCE.get(model.dtype, _LOW_PRECISION_TOLERANCE)


def _check_forgets(model: Any, runner: Any, ids: list[int], expected: torch.Tensor, tolerance: float) -> None:
    """Refuse a model that decodes otherwise after tokens were taken back, alone with a plain cache."""
    name = type(model).__name__
    try:
        forgot = _difference(_in_pieces(runner, [ids], [ids[:3]]), expected)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever code of a stranger's model raises
        raise DraftbenchError(
            f"{name} does not decode on from a cache that tokens were taken out of",
            f"refused tokens must be taken out of the cache again ({type(error).__name__}: {first_line(error)})",
            _FIX,
        ) from error
    if not forgot <= tolerance:
        raise DraftbenchError(
            f"{name} does not forget tokens taken out of its cache",
            f"after three tokens were taken back its logits differ by {forgot:.2g} standard deviations, so "
            "what the target refused would still have a say",
            _FIX,
        )


def _in_pieces(
    runner: Any, rows: list[list[int]], wrong: list[list[int]], between: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Logits of the compared block of the first row, read in pieces, with wrong tokens taken back in between.

    The rows end together and may begin apart.
    """
    cuts = [len(ids) - _TEXT for ids in rows]
    runner.feed([ids[: cut + _SEEN] for ids, cut in zip(rows, cuts, strict=True)], last=1)
    runner.feed(wrong, last=1)
    runner.take_back([len(ids) for ids in wrong])
    for place in range(_SEEN, _MIDDLE):
        runner.feed([ids[cut + place : cut + place + 1] for ids, cut in zip(rows, cuts, strict=True)], last=1)
    between()
    logits: torch.Tensor = runner.feed([ids[_MIDDLE - _TEXT :] for ids in rows], last=_TEXT - _MIDDLE)
    return logits[:1].float()


def _beside_a_longer_row(runner: Any, ids: list[int], farther: int) -> torch.Tensor:
    """Logits of the compared block of a row beside a longer one, which then seems longer by `farther` tokens.

    It gets longer right before the compared block, or a narrow window of columns would not reach what it misses. What
    it then holds are zeros, which cost nothing to compute.
    """

    def lengthen() -> None:
        runner.cache.lengths[1] += farther

    return _in_pieces(runner, [ids, [*ids[:_LONGER], *reversed(ids)]], [ids[:3], ids[:2]], lengthen)


def _farther(model: Any) -> int | None:
    """Tokens by which the other row gets longer: more than any window that the configuration names.

    Those that the probe makes short do not count, and no row ever gets longer than the positions that a model has.
    None if it takes too much memory.
    """
    config = text_config(model)
    named = [
        value
        for name, value in config.to_dict().items()
        if _WINDOW.search(name) and not _NO_WINDOW.search(name) and isinstance(value, int) and value > 0
    ]
    width: int = (
        2 * getattr(config, "hidden_size", 1024) * getattr(config, "num_hidden_layers", 32) * model.dtype.itemsize
    )
    ends = [rotary_limit(model), context_of(config)]
    room = min([end for end in ends if end], default=2**30) - _TEXT - _LONGER
    wanted = min(room, max((value + _TEXT for value in named), default=0))
    if wanted * width > _MOST_FARTHER_BYTES:
        return None
    return max(0, wanted, min(room, _FARTHER, max(128, _FARTHER_BYTES // width)))


def _difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square difference of logits in their standard deviations; both [1, token, vocab]."""
    apart = (logits - logits.mean(-1, keepdim=True)) - (expected - expected.mean(-1, keepdim=True))
    return float(apart.square().mean().sqrt() / expected.std().clamp_min(1e-9))


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout, which would make any two forwards differ."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _short_windows(model: Any) -> Iterator[None]:
    """With windows and chunks that even a short text leaves."""
    config = text_config(model)
    own = {name: value for name in _WIDTHS if isinstance(value := getattr(config, name, None), int) and value > _WIDTH}
    for name in own:
        setattr(config, name, _WIDTH)
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(config, name, value)
