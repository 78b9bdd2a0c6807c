"""`provenance.json`: where a run's results come from. Written before the first step and after each measurement."""

from __future__ import annotations

from typing import ClassVar

from engine.records import files
from engine.records.capture import CaptureCounts
from engine.records.record import Part, Record, Text, Whole


class Source(Part):
    """The checkout that the program ran from; empty outside one."""

    commit: Text = ""
    """Hash of the commit."""
    changed: bool | None = None
    """Whether `engine/` had changes that are not in the commit."""


class Machine(Part):
    """What results were computed on."""

    platform: Text = ""
    processor: Text = ""
    """Model of the CPU."""
    cores: Whole | None = None
    threads: Whole | None = None
    """Threads that torch computed with."""
    cuda: list[Text] = []
    """Names of the accelerators, if there were any."""


class Seeds(Part):
    """Seeds of the recipe's sections."""

    capture: int | None = None
    train: int | None = None
    measure: int | None = None


class PromptCounts(Part):
    """What became of the prompts of the recipe, and hashes of those that were used."""

    train: Whole | None = None
    """Prompts trained on."""
    watched: Whole | None = None
    """Held-out prompts on which the best draft was selected."""
    measured: Whole | None = None
    """Held-out prompts that the figures are of."""
    bad_rows: Whole | None = None
    """Rows of the files that could not be read and were skipped."""
    removed_as_heldout: Whole | None = None
    """Training prompts that repeat a held-out one."""
    removed_as_too_long: Whole | None = None
    """Training prompts of more than `prompts.max_prompt_tokens`."""
    beyond_train_prompts: Whole | None = None
    """Training prompts left out because `prompts.train_prompts` asks for fewer."""
    heldout_beyond_context: Whole | None = None
    """Held-out prompts that left no room for an answer; absent where there were none."""
    beyond_heldout_prompts: Whole | None = None
    """Held-out prompts left out because `measure.heldout_prompts` asks for fewer; a training without has no count."""
    heldout_repeated: Whole | None = None
    """Held-out prompts left out because they repeat another one; absent where there were none."""
    train_hash: Text | None = None
    """Hash of the training prompts (`engine.chat.prompt.prompts_hash`)."""
    heldout_hash: Text | None = None
    """Hash of the measured prompts."""


class DraftParameters(Part):
    """Size of the draft."""

    total: Whole | None = None
    own: Whole | None = None
    """Without those that it shares with the target."""
    trained: Whole | None = None
    """Those that training changes: an adapter's, where the draft is one on a shared draft."""


class ServedModel(Part):
    """A model that a server answers for."""

    base_url: Text = ""
    model: Text = ""


class MeasuredBy(Part):
    """Where a measurement comes from: a draft may be measured long after it was trained, by another version."""

    versions: dict[str, Text] = {}
    source: Source = Source()
    machine: Machine | None = None
    draft_sha256: Text | None = None
    """Hash of the weights that were measured."""
    captures: dict[str, Text] = {}
    """Name of each held-out capture ('heldout T=0.7') -> its address."""
    stands_in_for: ServedModel | None = None
    """The served model that the draft learnt from, where it was measured against the model at hand instead."""


class Provenance(Record):
    """Versions, commit, machine, seeds, and hashes of all that went in."""

    FILE: ClassVar[str] = files.PROVENANCE
    MOST_BYTES: ClassVar[int] = 16_000_000

    command: list[Text] = []
    versions: dict[str, Text] = {}
    """Package -> version; 'draftbench' and 'python' are among them."""
    source: Source = Source()
    machine: Machine | None = None
    target_fingerprint: Text | None = None
    """Hash of the target's weights."""
    target_dtype: Text | None = None
    target_quantize: Text | None = None
    """How the target's weights were rounded: 'int8', 'bitsandbytes nf4', or None."""
    device: Text | None = None
    """torch's name: 'cpu', 'cuda:0'."""
    target_placed: Text | None = None
    """Where the target's layers lay if they were spread or split over devices; None: whole on `device`."""
    draft_device: Text | None = None
    """Where the draft was trained, if that is another device than `device`."""
    supervision: Text | None = None
    """'white_box' or 'black_box'."""
    seeds: Seeds = Seeds()
    prompts: PromptCounts = PromptCounts()
    captures: dict[str, CaptureCounts] = {}
    """'training' and 'heldout T=0.7' -> the capture and what it holds."""
    draft_parameters: DraftParameters | None = None
    checkpoint_sha256: Text | None = None
    """Weights that the draft started from, if they are a draft of this project."""
    reference_sha256: Text | None = None
    """Weights of the reference of token selection, if they are a draft of this project."""
    measurement: MeasuredBy | None = None
    """Of the last measurement; None before the first one."""

    @property
    def measured_on(self) -> Machine | None:
        """The machine of the last measurement, or of the training if it is not known."""
        return (self.measurement and self.measurement.machine) or self.machine
