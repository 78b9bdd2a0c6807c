"""Which runs make the same captures, so that one makes them and the others wait: planned from recipes alone.

The address of a capture depends on its target's weights, which only a node may hold. These keys are coarser or equal:
recipes with one key ask for one capture as long as the files that they name are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import content_hash
from engine.paths import Home
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder, run_folders


@dataclass(frozen=True)
class CaptureKeys:
    """What a run captures. `source` leaves out how many of the prompts: a smaller set copies answers of a larger."""

    heldout: str
    training: str
    source: str

    @property
    def captures(self) -> frozenset[str]:
        return frozenset({self.heldout, self.training})


def capture_keys(recipe: Recipe) -> CaptureKeys:
    """The keys of a recipe's captures."""
    values = recipe.model_dump(mode="json")
    target, prompts, capture = values["target"], values["prompts"], values["capture"]
    measured = ("temperatures", "top_p", "top_k", "max_new_tokens", "seed", "against", "heldout_prompts")
    heldout: list[Any] = [target, prompts["heldout"], prompts["max_prompt_tokens"], prompts["skip_bad"]]
    heldout += [recipe.train.eval_prompts, {name: values["measure"][name] for name in measured}]
    heldout += [capture["batch_size"], capture["server"]]
    source: list[Any] = [target, capture, {**prompts, "train_prompts": None}, recipe.train.needs_capture]
    training = [*source, prompts["train_prompts"]]
    return CaptureKeys(content_hash(["heldout", heldout]), content_hash(["training", training]), content_hash(source))


class CapturesAtHome:
    """The captures that lie in a home, by the keys of the runs that used them. Recipes are read once per run."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._keys: dict[str, CaptureKeys | None] = {}
        self._addresses: dict[str, tuple[int, set[str]]] = {}  # run -> time of its provenance, and what it says

    def keys(self, run: RunFolder) -> CaptureKeys | None:
        """The keys of a run; None if its recipe cannot be read."""
        if run.id not in self._keys:
            try:
                self._keys[run.id] = capture_keys(run.recipe())
            except DraftbenchError:
                self._keys[run.id] = None
        return self._keys[run.id]

    def addresses(self, run: RunFolder) -> set[str]:
        """The addresses of the captures that a run has used so far."""
        try:
            written = (run.path / Provenance.FILE).stat().st_mtime_ns
        except OSError:
            return set()
        if self._addresses.get(run.id, (None,))[0] != written:
            known = Provenance.read_or_empty(run.path)
            used = {counts.address for counts in known.captures.values() if counts.address}
            measured = set(known.measurement.captures.values()) if known.measurement else set()
            self._addresses[run.id] = (written, used | measured)
        return self._addresses[run.id][1]

    def is_whole(self, address: str) -> bool:
        return (self.home.captures / address / "done.json").exists()

    def made(self) -> set[str]:
        """The keys of captures that are there, whole."""
        keys: set[str] = set()
        for run in run_folders(self.home):
            addresses = self.addresses(run)
            mine = self.keys(run) if addresses else None
            if mine is not None and all(self.is_whole(address) for address in addresses):
                keys |= mine.captures
        return keys

    def wanted_by(self, run: RunFolder) -> list[str]:
        """Addresses that a node needs, so that nothing is captured again that lies at home: those of runs with a key
        or a source in common, and those that no run names yet, which an interrupted one may have left."""
        mine = self.keys(run)
        there = {path.name for path in self.home.captures.glob("*") if (path / "spec.json").exists()}
        if mine is None:
            return sorted(there)
        related, named = set(), set()
        for other in run_folders(self.home):
            addresses = self.addresses(other)
            named |= addresses
            theirs = self.keys(other) if addresses else None
            if theirs is not None and (theirs.captures & mine.captures or theirs.source == mine.source):
                related |= addresses
        return sorted(there & (related | (there - named)))
