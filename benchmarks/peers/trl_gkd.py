"""Optimiser steps by TRL's GKD trainer, in an environment with TRL; a program of benchmarks/speed/training.py.

    FOLDER/bin/python benchmarks/peers/trl_gkd.py '{"target": ..., "draft": ..., "texts": ...}'

The draft learns from the teacher's distribution on given answers (lmbda 0) by forward KL (beta 0, where TRL's loss is
KL(teacher || student)), as ours does: float32 weights under bfloat16 autocast, embeddings and head frozen, AdamW. What
slows it down and is not needed here is turned off: checkpoints of activations, logging, saving, dropping columns.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from lines import Channel, most_bytes, watch_memory
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer

_IGNORED = -100


class Turns(TrainerCallback):
    """Lets the trainer do as many steps as are asked for, and then wait for the next request.

    From a request to the moment when the step after the last would begin, so that everything which a step needs
    outside of itself, such as the next batch, is counted.
    """

    def __init__(self, channel: Channel, tokens_a_step: int) -> None:
        self.channel, self.tokens = channel, tokens_a_step
        self.left, self.steps, self.began, self.loss = 0, 0, 0.0, float("nan")

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.left == 0:
            if self.steps:
                seconds = time.perf_counter() - self.began
                amount = float(self.tokens * self.steps)
                self.channel.send(amount=amount, seconds=seconds, loss=self.loss, most_bytes=most_bytes())
            request = self.channel.receive()
            if request is None:
                raise SystemExit
            self.left = self.steps = request["steps"]
            self.began = time.perf_counter()
        self.left -= 1


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Prompt and answer as one text, padded on the right; only the answer is learnt from."""
    width = max(len(one["prompt_ids"]) + len(one["answer_ids"]) for one in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, _IGNORED)
    for row, one in enumerate(examples):
        start, end = len(one["prompt_ids"]), len(one["prompt_ids"]) + len(one["answer_ids"])
        ids[row, :end] = torch.tensor([*one["prompt_ids"], *one["answer_ids"]])
        mask[row, :end] = 1
        labels[row, start:end] = ids[row, start:end]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main() -> None:
    """Load both models, then train as often as asked."""
    channel, job = Channel(), json.loads(sys.argv[1])
    with open(job["texts"], encoding="utf-8") as file:
        texts = [{"prompt_ids": prompt, "answer_ids": answer} for prompt, answer in json.load(file)]
    teacher = AutoModelForCausalLM.from_pretrained(job["target"], dtype="auto")
    student = AutoModelForCausalLM.from_pretrained(job["draft"], dtype=torch.float32)
    for module in (student.get_input_embeddings(), student.get_output_embeddings()):
        module.requires_grad_(False)
    settings = GKDConfig(
        output_dir=job["draft"] + "-trained",
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        per_device_train_batch_size=len(texts),
        max_steps=1_000_000,
        learning_rate=1e-3,
        bf16=teacher.dtype == torch.bfloat16,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    turns = Turns(channel, sum(len(text["answer_ids"]) for text in texts))
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=settings,
        data_collator=collate,
        train_dataset=Dataset.from_list(texts),
        processing_class=AutoTokenizer.from_pretrained(job["target"]),
        callbacks=[turns],
    )
    step = trainer.training_step

    def noted(*arguments: Any, **more: Any) -> torch.Tensor:
        loss = step(*arguments, **more)
        turns.loss = float(loss)
        return loss

    trainer.training_step = noted
    watch_memory()
    channel.send(ready=True, threads=torch.get_num_threads(), dtype=str(teacher.dtype).removeprefix("torch."))
    trainer.train()


if __name__ == "__main__":
    main()
