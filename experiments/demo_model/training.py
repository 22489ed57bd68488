"""Trains a model on the corpus stream, and continues from a checkpoint exactly."""

import math
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from experiments.demo_model.checkpoint import load_checkpoint, save_checkpoint
from experiments.demo_model.muon import Muon
from experiments.demo_model.packing import Windows, document_mask, document_positions
from experiments.demo_model.stream import CorpusStream


@dataclass(frozen=True)
class TrainSettings:
    """Holds the settings of the optimiser and the loop.

    Attributes:
        steps: Number of steps of the whole schedule.
        learning_rate: Peak learning rate of Muon, which trains the matrices of the blocks.
        embedding_learning_rate: Peak learning rate of AdamW, which trains the rest.
        warmup: Number of steps over which the learning rates rise to their peaks.
        weight_decay: Weight decay of the matrices; embedding and norms have none.
        clip: Largest norm of the gradient.
        checkpoint_every: Number of steps between checkpoints.
    """

    steps: int
    learning_rate: float = 4e-3
    embedding_learning_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    clip: float = 1.0
    checkpoint_every: int = 500


class Trainer:
    """Couples a model, its optimiser and its data, and steps through training."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        stream: CorpusStream,
        settings: TrainSettings,
        checkpoint: Path,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.stream = stream
        self.settings = settings
        self.checkpoint = checkpoint
        self.step = 0
        self._loss = torch.compile(_loss) if compiled else _loss
        self._optimizers = _optimizers(model, settings)
        self._schedulers = [
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: learning_rate_factor(step, settings)
            )
            for optimizer in self._optimizers
        ]
        if checkpoint.exists():
            self._restore()

    def run(self, until: int | None = None) -> Iterator[tuple[int, float]]:
        """Train up to a step (the last one by default), yielding each step's number and loss."""
        last = self.settings.steps if until is None else until
        while self.step < last:
            loss = self._train_step(self.stream.next_batch())
            self.step += 1
            if self.step % self.settings.checkpoint_every == 0 or self.step == last:
                self._save()
            yield self.step, loss

    def _train_step(self, batch: Windows) -> float:
        device = self.model.device
        on_gpu = device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
            loss = self._loss(self.model, batch.tokens.to(device), batch.weights.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for optimizer, scheduler in zip(self._optimizers, self._schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        return loss.item()

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
            "position": self.stream.position(),
        }
        save_checkpoint(state, self.checkpoint)

    def _restore(self) -> None:
        state = load_checkpoint(self.checkpoint)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        stateful = (*self._optimizers, *self._schedulers)
        for part, saved in zip(stateful, state["optimizers"] + state["schedulers"], strict=True):
            part.load_state_dict(saved)
        self.stream.seek(state["position"])


def learning_rate_factor(step: int, settings: TrainSettings) -> float:
    """Scale the learning rate: a linear warm-up, then half a cosine down to a twentieth."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def can_compile() -> bool:
    """Tell whether there is a C++ compiler for `torch.compile`."""
    return shutil.which("g++") is not None


def _loss(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Average the weighted cross-entropy of each token given those before it."""
    bos = model.config.bos_token_id
    assert isinstance(bos, int)
    logits = model(
        input_ids=tokens,
        attention_mask=document_mask(tokens, bos),
        position_ids=document_positions(tokens, bos),
        use_cache=False,
    ).logits
    losses = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
    )
    # A document's <bos> follows from nothing and has no weight.
    weights = torch.where(tokens == bos, 0.0, weights)[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def _optimizers(model: LlamaForCausalLM, settings: TrainSettings) -> tuple[Muon, torch.optim.AdamW]:
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    chosen = set(matrices)
    rest = [parameter for parameter in model.parameters() if parameter not in chosen]
    return (
        Muon(matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay),
        torch.optim.AdamW(
            rest,
            lr=settings.embedding_learning_rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        ),
    )
