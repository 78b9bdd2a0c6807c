"""Measure whether rows of different length may share a cache of a model.

In a ragged batch some columns of the cache hold nothing for some rows: padding, and tokens that were taken back.
A mask hides them and positions do not count them, which is enough for a model that reads both. One that counts
columns instead (the local attention of GPT-Neo is a window of columns, ALiBi may be a slope over columns, a
causal buffer ends at some column) writes another text, without any error. Its configuration does not say so under
any one name, so a short text is decoded twice, once with holes, and the logits are compared.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import DraftbenchError, first_line
from engine.models.head import Head, body, text_config

_TEXT = 12  # tokens of the probe
_SEEN, _MIDDLE = 7, 9  # tokens read before the hole, and before the block that is compared
_PADDING = 5  # columns before the shorter row
_HOLE = 1024  # columns; a decoding batch has fewer (see engine.decode.runner)
_HOLE_BYTES, _MOST_HOLE_BYTES = 2**27, 2**30  # of keys and values: of the usual hole, and of one for a named window
_WINDOW = re.compile(r"window|chunk|local|block|span", re.IGNORECASE)
_NO_WINDOW = re.compile(r"theta|expert|layer|head|num_", re.IGNORECASE)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # root mean square, in standard deviations of the logits
_LOW_PRECISION_TOLERANCE = 0.1  # kernels of other shapes differ by about 0.01 there; lost context by about 1
_FIX = "use a model with full attention in every layer"
_known: weakref.WeakKeyDictionary[Any, Columns] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Columns:
    """Whether a model may be given empty cache columns; `difference` is that of `_difference` if it was measured."""

    holes: bool  # whether it may be given any
    why_not: str = ""
    difference: float | None = None


def takes_positions(model: Any) -> bool:
    """Return whether the model's forward takes the position of each token."""
    return "position_ids" in inspect.signature(body(model).forward).parameters


def may_hold_holes(model: Any) -> bool:
    """Return whether rows of different length may share a cache of this model; measured once per model."""
    return columns_of(model).holes


def apart(model: Any) -> str:
    """A sentence that says why rows of this model are decoded one at a time; empty if they are not."""
    why = columns_of(model).why_not
    return f"{why}: its rows are decoded one at a time, each with a cache of its own" if why else ""


def columns_of(model: Any) -> Columns:
    """Return what the model makes of holes, measured at the first call.

    Raises DraftbenchError for a model that does not forget what was taken out of its cache: it cannot be decoded
    speculatively at all.
    """
    columns = _known.get(model)
    if columns is None:
        columns = _known[model] = probe(model)
    return columns


@torch.no_grad()
def probe(model: Any) -> Columns:
    """Decode a short text plainly, with tokens taken back, and beside a longer row with holes, and compare."""
    refuse_unfit_cache(model, new_cache(model))
    with _evaluating(model):
        vocab = model.get_input_embeddings().weight.shape[0]
        ids = [(7 * i + 3) % vocab for i in range(_TEXT)]
        expected = _logits(model, body(model)(input_ids=_tensor([ids], model), use_cache=False))
        tolerance = _TOLERANCE.get(model.dtype, _LOW_PRECISION_TOLERANCE)
        forgot = _difference(_after_taking_back(model, ids), expected)
        if not forgot <= tolerance:  # a NaN is no agreement either
            raise DraftbenchError(
                f"{type(model).__name__} does not forget tokens taken out of its cache",
                f"after three tokens were taken back its logits differ by {forgot:.2g} standard deviations, so "
                "what the target refused would still have a say",
                _FIX,
            )
        hole = _hole(model)
        if hole is None:
            return Columns(False, f"{type(model).__name__} names a window that is too long to try")
        try:
            difference = _difference(_with_holes(model, ids, hole), expected)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a buffer that ends before the last column, or whatever else a model counts
            return Columns(False, f"{type(model).__name__} fails where its cache has holes ({type(error).__name__})")
    if difference <= tolerance:
        return Columns(True, difference=difference)
    return Columns(False, f"{type(model).__name__} counts columns of its cache, not positions", difference)


def _after_taking_back(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits of the compared block, decoded alone in pieces, with three other tokens read and taken back."""
    cache = new_cache(model)
    pieces = [ids[:_SEEN], ids[:3], ids[_SEEN:_MIDDLE], ids[_MIDDLE:]]
    start = 0
    try:
        for piece in pieces:
            output = _forward(model, [piece], cache, positions=[list(range(start, start + len(piece)))])
            start += len(piece)
            if piece is pieces[1]:
                cache.crop(-3)
                start -= 3
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever code of a stranger's model raises
        raise DraftbenchError(
            f"{type(model).__name__} does not decode on from a cache that tokens were taken out of",
            f"refused tokens must be taken out of the cache again ({type(error).__name__}: {first_line(error)})",
            _FIX,
        ) from error
    return _logits(model, output)


def _with_holes(model: Any, ids: list[int], hole: int) -> torch.Tensor:
    """Logits of the compared block of a row with padding and a hole, beside a longer row."""
    cache, other = new_cache(model), [*reversed(ids), *ids[:_PADDING]]
    mask = [[0] * _PADDING + [1] * _SEEN, [1] * (_PADDING + _SEEN)]
    places = [[0] * _PADDING + list(range(_SEEN)), list(range(_PADDING + _SEEN))]
    _forward(model, [[0] * _PADDING + ids[:_SEEN], other[: _PADDING + _SEEN]], cache, places, mask)
    for start, end in ((_SEEN, _MIDDLE), (_MIDDLE, _TEXT)):
        mask = [row + [1] * (end - start) for row in mask]
        places = [list(range(start, end)), list(range(_PADDING + start, _PADDING + end))]
        output = _forward(model, [ids[start:end], other[_PADDING + start : _PADDING + end]], cache, places, mask)
        if end == _MIDDLE:  # the hole comes right before the compared block, or a narrow window would not reach it
            _add_columns(cache, hole)
            mask = [row + [0] * hole for row in mask]
    return _logits(model, output)[:1]


def _add_columns(cache: Any, count: int) -> None:
    """Columns at the end that no row owns: copies of the first one, so that a leak has something to show."""
    for layer in filter(lambda layer: layer.is_initialized, cache.layers):
        for name in ("keys", "values"):
            states = getattr(layer, name)
            setattr(layer, name, torch.cat([states, states[:, :, :1].expand(-1, -1, count, -1)], dim=2))


def _hole(model: Any) -> int | None:
    """Columns of the probe's hole: more than any window that the configuration names; None if that takes too much."""
    config = text_config(model)
    named = [
        value
        for name, value in config.to_dict().items()
        if _WINDOW.search(name) and not _NO_WINDOW.search(name) and isinstance(value, int) and value > 0
    ]
    width: int = (
        2 * getattr(config, "hidden_size", 1024) * getattr(config, "num_hidden_layers", 32) * model.dtype.itemsize
    )
    wanted: int = max((value + _TEXT for value in named), default=0)
    if wanted * width > _MOST_HOLE_BYTES:
        return None
    return max(wanted, min(_HOLE, max(128, _HOLE_BYTES // width)))


def _forward(
    model: Any, ids: list[list[int]], cache: Any, positions: list[list[int]], mask: list[list[int]] | None = None
) -> Any:
    placed = {"position_ids": _tensor(positions, model)} if takes_positions(model) else {}
    return body(model)(
        input_ids=_tensor(ids, model),
        attention_mask=None if mask is None else _tensor(mask, model),
        past_key_values=cache,
        use_cache=True,
        **placed,
    )


def _logits(model: Any, output: Any) -> torch.Tensor:
    """Logits of the compared block: [row, token, vocab], float32."""
    return Head.of(model).logits(output.last_hidden_state[:, _MIDDLE - _TEXT :].contiguous()).float()


def _difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square difference of logits in their standard deviations; both [1, token, vocab]."""
    apart = (logits - logits.mean(-1, keepdim=True)) - (expected - expected.mean(-1, keepdim=True))
    return float(apart.square().mean().sqrt() / expected.std().clamp_min(1e-9))


def refuse_unfit_cache(model: Any, cache: Any) -> None:
    """Refuse models whose cache cannot forget a token."""
    kinds = sorted({type(layer).__name__ for layer in cache.layers} - {"DynamicLayer"})
    if kinds:
        raise DraftbenchError(
            f"{type(model).__name__} keeps its past in {', '.join(kinds)}",
            "refused tokens must be taken out of the cache again, which such a cache cannot do exactly",
            _FIX,
        )


def rotary_limit(model: Any) -> int | None:
    """Positions up to which each token's rotary angles are its own; None without end.

    The rope types `dynamic` and `longrope` choose their frequencies by the longest text of a forward. Beyond the
    limit a row's logits depend on the rows beside it, and on how many tokens are read at once.
    """
    config = text_config(model)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    limits = [
        kind.get("original_max_position_embeddings") or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits, default=None)


def new_cache(model: Any) -> Any:
    """An empty cache of the kinds of layers that the model's configuration names."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _tensor(rows: list[list[int]], model: Any) -> torch.Tensor:
    return torch.tensor(rows, device=model.device)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout, which would make any two forwards differ."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
