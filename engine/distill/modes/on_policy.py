"""On-policy mode: the draft writes, the target scores.

*Sampled* [GKD, arXiv 2306.13649; DistillSpec, arXiv 2310.08461]: with probability lambda (`train.on_policy.share`)
a step's batch is the draft's own answers to the prompts of that step, else the captured answers of
the target, exactly as offline. The draft so learns on the text that it would go on from.

*Assisted* [Draft-OPD, arXiv 2605.29343; the details are a reconstruction]: from a few places in each captured
answer the draft proposes a block, as it would in decoding. Tokens before the first refusal get
`train.loss`; the refused one and those after it get reverse KL, weighted decay^k.

Sampling carries no gradient. The target scores a text in one teacher-forced pass, and what entered its
head is kept as a capture keeps it, so the same reader turns it into distributions. All draws come from
train.seed, the step and the prompt, and the text from the weights: a resumed run writes the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.capture.answered import AnsweredPrompt
from engine.capture.batches import Batch, Sample, captured, collate_samples, sequence_tokens
from engine.capture.generate import answer_prompts
from engine.capture.grouping import group_by_length
from engine.capture.signal import SignalFormat
from engine.capture.store import Capture
from engine.catalogue import LOSSES
from engine.chat.turns import until_stop
from engine.config.schema import CaptureSpec, LossTerm, TrainSpec
from engine.decode.acceptance_rule import accepted_tokens
from engine.decode.runner import runner_for
from engine.decode.sampling import Sampling, Uniforms, distribution
from engine.decode.speculative import propose
from engine.distill.modes.offline import OfflineBatches
from engine.distill.schedule import forward_tokens
from engine.distill.source import BatchSource, Material
from engine.errors import DraftbenchError
from engine.models.head import Head, chunk_size, hidden_states
from engine.models.load import LoadedModel

_TEXT_ONLY = SignalFormat("none", 0, 0, 0)


def source(material: Material) -> OnPolicyBatches:
    """The batches of the mode."""
    return OnPolicyBatches(material.draft.model, material.target, material.answers, material.settings, material.capture)


@dataclass(frozen=True)
class Block:
    """What the draft proposed from one place of an answer, and what judges it. Tensors are [token]."""

    prompt_id: str  # followed by the place
    context_ids: list[int]  # the prompt and the answer up to the place
    token_ids: list[int]
    draft_prob: torch.Tensor  # q of each token, as it was drawn
    uniforms: torch.Tensor  # in [0, 1): its draws of acceptance


class OnPolicyBatches(BatchSource):
    """Batches of the draft's text, scored by the target, mixed with those of a capture.

    `draft_model` is the one in training: it is read, never changed. `limits`: the length of a text and
    how many are written side by side. Steps and their answers are those of an offline run of the same recipe.
    """

    def __init__(
        self, draft_model: Any, target: LoadedModel, capture: Capture, settings: TrainSpec, limits: CaptureSpec
    ) -> None:
        if capture.format.kind == "none":
            raise DraftbenchError(
                "on_policy cannot train from a capture with signal 'none'",
                "the target's distribution on the draft's text is kept in the form its captures have",
                "set capture.signal: exact or compact, or train.mode: offline with the loss sft",
            )
        head = Head.of(target.model).to(target.draft_device)
        self.offline = OfflineBatches(capture, settings, head, target.draft_device, Head.of(draft_model).ids)
        super().__init__(settings, self.offline.reader, target.draft_device)
        self.draft_model, self.target, self.target_head = draft_model, target, head
        self.capture, self.limits, self.spec = capture, limits, settings.on_policy
        self.sampling = Sampling(self.spec.temperature)
        self.steps, self.visits = self.offline.steps, (1 - self.spec.share) * self.offline.visits

    def deal_to(self, shares: int) -> None:
        super().deal_to(shares)
        self.offline.deal_to(shares)

    @property
    def terms(self) -> Sequence[LossTerm]:
        """train.loss, and in the assisted form reverse KL after it."""
        extra = [LossTerm(name="reverse_kl")] if self.spec.form == "assisted" else []
        return [*self.settings.loss, *extra]

    def micro_batches(self, step: int) -> Sequence[Batch]:
        if not drafts_turn(self.settings.seed, step, self.spec.share):
            return self._captured(step)
        return self.grouped(self._written(step) if self.spec.form == "sampled" else self._proposed(step))

    def _answers(self, step: int) -> list[AnsweredPrompt]:
        return [self.capture.answers[i] for i in self.offline.passes.answers(step)]

    def _captured(self, step: int) -> Sequence[Batch]:
        """The offline step. Assisted, it leaves out the reverse KL."""
        if self.spec.form == "sampled":
            return self.offline.micro_batches(step)
        samples = [captured(self.capture, answer) for answer in self._answers(step)]
        row = torch.tensor([*[1.0] * len(self.settings.loss), 0.0])
        return self.grouped([replace(s, weights=row.expand(len(s.token_ids), -1)) for s in samples])

    # ---- sampled: whole answers -------------------------------------------------------------

    def _written(self, step: int) -> list[Sample]:
        """The draft's own answers to the step's prompts, scored."""
        answers = self._answers(step)
        texts = answer_prompts(
            self.draft_model,
            [answer.prompt_ids for answer in answers],
            [f"write:{step}:{answer.prompt_id}" for answer in answers],
            self.sampling,
            max_new_tokens=self.limits.max_new_tokens,
            stop_ids=self.target.stop_ids,
            seed=self.settings.seed,
            batch_size=self.limits.side_by_side,
            signal=_TEXT_ONLY,
            vocab=self.target.vocab_rows,
        )
        written = sorted(texts, key=lambda text: text.index)
        samples = [unscored(answers[t.index].prompt_id, answers[t.index].prompt_ids, t.token_ids) for t in written]
        states = self._states(samples)
        return [self._scored(sample, own, self._own_text(sample)) for sample, own in zip(samples, states, strict=True)]

    def _own_text(self, sample: Sample) -> torch.Tensor | None:
        """[token, term] factors on the draft's text, None if all are 1: a loss that copies text gets 0."""
        factors = learns_from_drafts(self.settings.loss)
        return None if bool(factors.all()) else factors.expand(len(sample.token_ids), -1)

    # ---- assisted: blocks from anchors ------------------------------------------------------

    def _proposed(self, step: int) -> list[Sample]:
        """The blocks of a step, judged and scored."""
        blocks = self._blocks(step)
        samples = [unscored(block.prompt_id, block.context_ids, block.token_ids) for block in blocks]
        states = self._states(samples)
        probs = self._target_probs(states, samples)
        return [
            self._scored(sample, own, self._block_weights(accepted_tokens(p, block.draft_prob, block.uniforms), sample))
            for block, sample, own, p in zip(blocks, samples, states, probs, strict=True)
        ]

    def _block_weights(self, accepted: int, sample: Sample) -> torch.Tensor:
        return block_weights(accepted, len(sample.token_ids), self.spec.decay, self.settings.loss)

    def _blocks(self, step: int) -> list[Block]:
        """What the draft proposes from the anchors of the step's answers."""
        seed, places = self.settings.seed, []
        for answer in self._answers(step):
            for place in anchors(seed, step, answer.prompt_id, len(answer.token_ids), self.spec.anchors):
                context = [*answer.prompt_ids, *answer.token_ids[:place]]
                room = max(1, min(self.spec.block_tokens, self.limits.max_new_tokens - place))
                places.append((f"{answer.prompt_id}@{place}", context, room))
        blocks: list[Block] = []
        most = forward_tokens(self.settings, self.device)
        for group in group_by_length([len(context) for _, context, _ in places], most):
            for first in range(0, len(group), self.limits.side_by_side):
                blocks += self._propose([places[i] for i in group[first : first + self.limits.side_by_side]], step)
        return blocks

    def _propose(self, places: Sequence[tuple[str, list[int], int]], step: int) -> list[Block]:
        """Blocks from some places side by side: name, context and most tokens of each."""
        count = self.spec.block_tokens
        streams = Uniforms(self.settings.seed, [f"block:{step}:{name}" for name, _, _ in places])
        draws = streams.take(list(range(len(places))), 2 * count)
        contexts = [context for _, context, _ in places]
        runner = runner_for(self.draft_model, is_draft=True)
        try:
            ids, probs = propose(runner, contexts, self.sampling, draws[:, :count], self.target.vocab_rows, self.device)
        finally:  # the next group takes over the cache and what was recorded
            runner.close()
        drawn = probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1).cpu()
        blocks = []
        for (name, context, room), row, q, u in zip(places, ids.tolist(), drawn, draws[:, count:], strict=True):
            kept = until_stop(row[:room], self.target.stop_ids)
            blocks.append(Block(name, context, kept, q[: len(kept)], u[: len(kept)]))
        return blocks

    @torch.no_grad()
    def _target_probs(self, states: Sequence[torch.Tensor], samples: Sequence[Sample]) -> list[torch.Tensor]:
        """p of each sample's tokens as they are sampled: [token] each, on the CPU."""
        size = chunk_size(self.target.vocab_rows)
        ids = torch.cat([torch.tensor(sample.token_ids) for sample in samples]).to(self.device)
        parts = [
            distribution(self.target_head.logits(part), self.sampling).gather(-1, own.unsqueeze(-1)).squeeze(-1)
            for part, own in zip(torch.split(torch.cat(list(states)), size), torch.split(ids, size), strict=True)
        ]
        return list(torch.split(torch.cat(parts).cpu(), [len(sample.token_ids) for sample in samples]))

    # ---- scoring ----------------------------------------------------------------------------

    def _states(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        most = forward_tokens(self.settings, self.device)
        return [s.to(self.device) for s in target_states(self.target.model, samples, most, self.target.device)]

    @torch.no_grad()
    def _scored(self, sample: Sample, states: torch.Tensor, weights: torch.Tensor | None) -> Sample:
        """The sample with the target's signal. states: [token, width], what entered the target's head."""
        kept = self.capture.format
        parts = [  # the exact form has no use for logits
            kept.encode(part, part if kept.kind == "exact" else self.target_head.logits(part)).cpu()
            for part in torch.split(states, chunk_size(kept.vocab))
        ]
        return replace(sample, raw_signal=torch.cat(parts), weights=weights)


def drafts_turn(seed: int, step: int, share: float) -> bool:
    """Whether a step's batch is the draft's: with probability `share`, the same whenever asked."""
    return float(Uniforms(seed, [f"lambda:{step}"]).take([0], 1)) < share


def anchors(seed: int, step: int, prompt_id: str, tokens: int, count: int) -> list[int]:
    """Up to `count` distinct positions in a text of `tokens` tokens, in order, the same for every call."""
    draws = Uniforms(seed, [f"anchors:{step}:{prompt_id}"]).take([0], tokens)[0]
    return sorted(draws.argsort()[:count].tolist())


def learns_from_drafts(loss: Sequence[LossTerm]) -> torch.Tensor:
    """[term] 1.0, or 0.0 where a loss copies text: on the draft's own it would teach the draft itself."""
    return torch.tensor([float(not LOSSES[term.name].black_box) for term in loss])


def block_weights(accepted: int, tokens: int, decay: float, loss: Sequence[LossTerm]) -> torch.Tensor:
    """[token, term + 1] factors on train.loss's terms and, in the last column, on reverse KL.

    Accepted tokens get the loss; the k-th token from the first refused one (k = 0) gets decay^k of reverse KL.
    """
    weights = torch.zeros(tokens, len(loss) + 1)
    weights[:accepted, :-1] = learns_from_drafts(loss)
    weights[accepted:, -1] = decay ** torch.arange(tokens - accepted)
    return weights


def unscored(prompt_id: str, prompt_ids: list[int], token_ids: list[int]) -> Sample:
    """A text of no capture, whose signal is not known yet."""
    count = len(token_ids)
    return Sample(prompt_id, prompt_ids, token_ids, torch.zeros(count, 0, dtype=torch.uint8), torch.full((count,), -1))


@torch.no_grad()
def target_states(
    target_model: Any, samples: Sequence[Sample], most_tokens: int, device: torch.device
) -> list[torch.Tensor]:
    """What enters the target's head where it would say each token of each sample: [token, width] each.

    One forward pass over the text, at most `most_tokens` padded tokens at once.
    """
    states_of: dict[int, torch.Tensor] = {}
    for group in group_by_length([sequence_tokens(s) for s in samples], most_tokens):
        batch = collate_samples([samples[i] for i in group], device)
        states = hidden_states(target_model, batch.ids, batch.mask)[batch.responds]
        states_of.update(zip(group, torch.split(states, batch.lengths), strict=True))
    return [states_of[i] for i in range(len(samples))]
