"""`measure/summary.json`: the measurement of a run's draft. Written last: where it exists, the tables are whole."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from engine.catalogue import Proposals
from engine.records import files
from engine.records.certificate import Certificate
from engine.records.interval import Calibration, Interval
from engine.records.provenance import ServedModel
from engine.records.record import Part, Real, Record, Temperature, Text, Whole
from engine.records.speed import Speed

Subject = Literal["trained draft", "draft as it is", "target alone"]


class Rate(Part):
    """A value with its 95% interval over prompts; NaN bounds where there is no interval."""

    temperature: Real = math.nan
    metric: Text
    """'exact', 'argmax', 'greedy_agreement', 'per_proposed', 'per_examined', 'per_emitted', 'tau'."""
    value: Real = math.nan
    low: Real = math.nan
    high: Real = math.nan
    n_prompts: Whole | None = None


class Metric(Rate):
    """One rate of one draft (`engine.measure.definitions` defines each)."""

    draft: Text = ""
    """'trained': the run's own draft; 'initial': the same before training. A run that only measures has one draft, as
    it came, under 'trained' (`Summary.subject` says so)."""
    n_tokens: Whole | None = None
    """Tokens that the rate is of."""


class Improvement(Rate):
    """A rate after training less the same before, paired by prompt."""


class BatchSizes(Part):
    """Prompts decoded at once."""

    trace: Whole | None = None
    speed: Whole | None = None


class Conditions(Part):
    """What two measurements must have in common to be compared."""

    heldout_hash: Text | None = None
    """Of the measured prompts."""
    heldout_prompts: Whole | None = None
    num_draft_tokens: Whole | None = None
    """gamma; None against a server's text, where it has no part in the rates."""
    adaptive: bool | None = None
    """Whether gamma follows the acceptance seen so far."""
    proposals: Proposals = "sampled"
    """How the draft proposed; earlier measurements know sampling alone."""
    top_p: Real = math.nan
    top_k: Whole | None = None
    max_new_tokens: Whole | None = None
    dtype: Text | None = None
    """Precision of target and draft."""
    quantize: Text | None = None
    """How the target's weights were rounded: 'int8', 'bitsandbytes nf4', or None."""
    device: Text | None = None
    """'cpu' or 'cuda'."""
    placed: Text | None = None
    """Where the target's layers lay, such as '32 layers: 20 on cuda:0, 12 on cuda:1'; None: whole on the device."""
    threads: Whole | None = None
    """Threads that torch computed with."""
    seed: int | None = None
    acceptance_rule: Text | None = None
    batch_size: BatchSizes | None = None
    served_by: Text | None = None
    """Model and address of the server whose text was measured on; None for the model at hand."""

    @property
    def gamma(self) -> str | None:
        """Tokens proposed per round in words: '3', or 'up to 8, by the acceptance' where it adapted."""
        if self.num_draft_tokens is None:
            return None
        return f"up to {self.num_draft_tokens}, by the acceptance" if self.adaptive else str(self.num_draft_tokens)

    @property
    def proposing(self) -> str:
        """How tokens were proposed, as 'gamma 3' or 'gamma 3, argmax proposals'; '' if not known."""
        if self.gamma is None:
            return ""
        return f"gamma {self.gamma}" + ("" if self.proposals == "sampled" else f", {self.proposals} proposals")

    @property
    def precision(self) -> str | None:
        """Precision in words, such as 'bfloat16 with int8 weights'."""
        return f"{self.dtype} with {self.quantize} weights" if self.quantize else self.dtype

    @property
    def where(self) -> str | None:
        """The device in words, with what lies where if the target was spread over several."""
        return f"{self.device} ({self.placed})" if self.placed else self.device


class SlotAcceptance(Part):
    """Acceptance at one place of a proposal (`engine.measure.trace.acceptance_by_slot`)."""

    slot: Whole
    """1 to gamma."""
    joint: Real = math.nan
    """This place and all before it were kept, over rounds that proposed so far."""
    conditional: Real = math.nan
    """Kept, over rounds in which the place was judged."""
    n: Whole = 0
    """Rounds in which the place was judged."""


class OtherSystems(Part):
    """What other systems would print for the same trace (`engine.decode.counts.Counts.as_others_report`)."""

    vllm_mean_acceptance_length: Real = math.nan
    vllm_draft_acceptance_rate: Real = math.nan
    sglang_accept_length: Real = math.nan
    spec_bench_mean_accepted_tokens: Real = math.nan
    llama_cpp_accept: Real = math.nan


class ServedText(Part):
    """How much of a server's text a measurement is of, at one temperature."""

    temperature: Real = math.nan
    used: Whole = 0
    """Tokens in the figures."""
    left_out: Whole = 0
    """Tokens of which it is not certain which they were or how likely."""
    prompts: Whole = 0
    """Answers with tokens in the figures."""
    asked: Whole = 0
    """Answers in all."""
    calibration: Calibration | None = None
    """Whether the text was drawn from the probabilities that the server sent; None where that could not be checked."""


class Served(ServedModel):
    """A measurement against a served model's text: acceptance alone."""

    positions: list[ServedText] = []


class Summary(Record):
    """Rates with intervals, the conditions they hold under, the timing and the certificate."""

    FILE: ClassVar[str] = files.SUMMARY
    MOST_BYTES: ClassVar[int] = 16_000_000

    subject: Subject = "trained draft"
    """What was measured: a draft that the run trained, one that it measured as it came, or plain decoding alone."""
    conditions: Conditions = Conditions()
    metrics: list[Metric] = []
    improvement: list[Improvement] = []
    by_slot: dict[Temperature, list[SlotAcceptance]] = {}
    accepted_lengths: dict[Temperature, list[Whole]] = {}
    """Rounds with 0, 1, ... gamma accepted tokens."""
    as_others_report: dict[Temperature, OtherSystems] = {}
    speed: Speed | None = None
    """None where nothing was timed."""
    certificate: Certificate | None = None
    served: Served | None = None
    """Set for a measurement against a server's text, which has neither speed nor certificate."""
    stands_in_for: ServedModel | None = None
    """The served model that the draft learnt from, where it was measured against the model at hand instead."""

    def of(self, draft: str, metric: str) -> list[Metric]:
        """The values of one rate of one draft, by rising temperature."""
        rows = [row for row in self.metrics if (row.draft, row.metric) == (draft, metric)]
        return sorted(rows, key=lambda row: row.temperature)

    def gains(self) -> dict[float, Improvement]:
        """Change of exact acceptance by training, by temperature."""
        return {row.temperature: row for row in self.improvement if row.metric == "exact"}


__all__ = ["Calibration", "Conditions", "Improvement", "Interval", "Metric", "Served", "ServedText", "Summary"]
