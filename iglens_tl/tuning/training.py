"""Train a tuned lens for any supported model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from iglens_tl import __version__
from iglens_tl.models.adapter import Model, ModelAdapter, is_local, short_name
from iglens_tl.models.loading import adapt
from iglens_tl.tuning.checkpoint import Checkpoint
from iglens_tl.tuning.evaluation import known_names, require_unfolded, unembed_hash
from iglens_tl.tuning.loss import DivergenceLoss
from iglens_tl.tuning.sequences import (
    NO_TOKEN,
    TextsOrIds,
    lens_segments,
    lens_sites,
    pack_texts,
    state_batches,
)
from iglens_tl.tuning.translators import Translators

if TYPE_CHECKING:
    Count: TypeAlias = int
    Number: TypeAlias = float
else:  # anything may arrive here; it is answered with a readable error
    Count = Number = Any

OPTIMIZERS = ("sgd", "adam")

_BASE_LEARNING_RATE = {"sgd": 1.0, "adam": 1e-3}
_LONGEST_WARMUP = 1000


class TrainingDivergedError(ValueError):
    """A loss or gradient became NaN or infinite."""


def train_tuned_lens(
    model: Model,
    texts_or_ids: TextsOrIds,
    *,
    steps: Count = 250,
    tokens_per_step: Count = 2**18,
    seq_len: Count | None = None,
    pack: bool = True,
    optimizer: str = "sgd",
    lr_scale: Number = 1.0,
    momentum: Number = 0.9,
    weight_decay: Number = 1e-3,
    clip: Number = 1.0,
    bias: bool = True,
    seed: Count = 0,
    mixed_precision: bool | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: Count = 25,
    resume: bool = False,
    progress: bool = True,
    report: Report | None = None,
) -> Translators:
    """Train a tuned lens to predict, after every layer, what the model predicts in the end.

    The loss of a layer is the mean over tokens of KL(model ‖ lens) in nats. The model runs without
    gradients. Memory beyond it is bounded by 4096 tokens (or one sequence) with all their states,
    by three tensors of a few rows × d_vocab (8 MB each on a CPU, 512 MB on a GPU, but 128 rows at
    least), by a copy of W_U where the products' precision is not the model's, and by three (SGD) or
    five (Adam) times the translators; nothing of size layers × tokens × d_vocab is ever held.

    Args:
        model: A `HookedTransformer` or `TransformerBridge` with its weights neither folded nor
            centred.
        texts_or_ids: A text, several texts, several lists of token ids that hold their special
            tokens, or sequences `[batch, pos]`. If training needs more, they are taken again in
            another order.
        steps: Number of optimiser steps.
        tokens_per_step: Tokens whose gradients are averaged in a step. A step takes no sequence
            twice, so a short text makes it smaller.
        seq_len: Length of the sequences that texts are packed into; by default 2048, or the
            longest that the model takes.
        pack: Whether texts follow one another in sequences of equal length. Otherwise every text
            is a sequence of its own, cut off at `seq_len`.
        optimizer: "sgd" with Nesterov momentum and linear decay, or "adam" with AMSGrad, a warm-up
            over a fifth of the steps and linear decay.
        lr_scale: Factor of the learning rate, which is 1 − momentum for SGD and 1e-3 for Adam.
        momentum: Momentum of SGD, or Adam's β₁.
        weight_decay: L2 decay, which pulls the lens towards the logit lens.
        clip: Largest norm of the gradient of all translators together.
        bias: Whether translators have a bias.
        seed: Seed of the order of sequences. The same seed gives the same lens on the same machine.
        mixed_precision: Whether products with W_U are computed in bfloat16; by default on a GPU,
            and only there.
        checkpoint: A folder for checkpoints, or None.
        checkpoint_every: Steps between checkpoints.
        resume: Continue from the checkpoint in that folder, if there is one; the result is the
            one of an uninterrupted training.
        progress: Show a progress bar with every layer's loss on stderr.
        report: Is called after every step.

    Returns:
        The translators, in float32 (float64 for a float64 model) on the CPU.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For settings, a text or a checkpoint that do not fit.
        TrainingDivergedError: If a loss or gradient becomes NaN or infinite. The last checkpoint
            stays as it is.
    """
    adapter = adapt(model)
    require_unfolded(adapter)
    settings = TrainSettings(
        steps=steps,
        tokens_per_step=tokens_per_step,
        optimizer=optimizer,
        lr_scale=lr_scale,
        momentum=momentum,
        weight_decay=weight_decay,
        clip=clip,
        bias=bias,
        seed=seed,
    )
    if isinstance(checkpoint_every, bool) or not isinstance(checkpoint_every, int):
        raise ValueError(f"checkpoint_every must be an integer, got {checkpoint_every!r}")
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
    if resume and checkpoint is None:
        raise ValueError("resume needs the folder of the checkpoint")
    sequences = pack_texts(adapter, texts_or_ids, seq_len=seq_len, pack=pack)
    _require_enough(adapter, sequences)
    on_gpu = adapter.readout.device.type == "cuda"
    if mixed_precision and not on_gpu:
        raise ValueError(
            f"mixed precision needs a model on a GPU, but {adapter.name} is on "
            f"{adapter.readout.device}"
        )
    half = on_gpu and mixed_precision is not False and adapter.readout.dtype == torch.float32
    saved = None if checkpoint is None else Checkpoint(checkpoint, asdict(settings), sequences)
    if saved is not None and not resume:
        saved.require_none()
    trainer = Trainer(adapter, settings, sequences, half=half, checkpoint=saved)
    bar = progress_bar(steps, lens_segments(adapter)[:-1]) if progress else nullcontext()
    with bar as show:
        for step in trainer.run(checkpoint_every):
            for tell in (show, report):
                if tell is not None:
                    tell(step)
    return trainer.translators()


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the optimiser and the loop; the defaults are the published ones.

    Attributes:
        steps: Number of optimiser steps of the whole schedule.
        tokens_per_step: Tokens whose gradients are averaged in a step. A step takes no sequence
            twice, so a short text makes it smaller.
        optimizer: "sgd" with Nesterov momentum, or "adam" (AMSGrad).
        lr_scale: Factor of the learning rate, which is 1 − momentum for SGD and 1e-3 for Adam.
        momentum: Momentum of SGD, or Adam's β₁.
        weight_decay: L2 decay, which pulls the lens towards the logit lens.
        clip: Largest norm of the gradient of all translators together.
        bias: Whether translators have a bias.
        seed: Seed of the order in which sequences are taken.
    """

    steps: Count = 250
    tokens_per_step: Count = 2**18
    optimizer: str = "sgd"
    lr_scale: Number = 1.0
    momentum: Number = 0.9
    weight_decay: Number = 1e-3
    clip: Number = 1.0
    bias: bool = True
    seed: Count = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"unknown optimizer {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}"
            )
        for name, smallest in (("steps", 1), ("tokens_per_step", 1), ("seed", 0)):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < smallest:
                raise ValueError(f"{name} must be an integer of at least {smallest}, got {count!r}")
        for name in ("lr_scale", "momentum", "weight_decay", "clip"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ValueError(f"{name} must be a number, got {number!r}")
            least_allowed = number >= 0 if name in ("momentum", "weight_decay") else number > 0
            if not (least_allowed and math.isfinite(number)):
                bound = "at least 0" if name in ("momentum", "weight_decay") else "above 0"
                raise ValueError(f"{name} must be {bound} and finite, got {number!r}")
        # Nesterov's method is not defined without momentum.
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {self.momentum!r}")

    @property
    def warmup(self) -> int:
        """Steps over which Adam's learning rate rises; SGD needs none."""
        return min(self.steps // 5, _LONGEST_WARMUP) if self.optimizer == "adam" else 0

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear rise, then a linear decay to zero."""
        peak = self.lr_scale * _BASE_LEARNING_RATE[self.optimizer]
        if self.optimizer == "sgd":
            peak *= 1 - self.momentum
        if step < self.warmup:
            return peak * step / self.warmup
        return peak * (self.steps - step) / (self.steps - self.warmup)

    def build_optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser of the parameters."""
        rate = self.learning_rate(0)
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=True,
            )
        return torch.optim.Adam(
            parameters,
            lr=rate,
            betas=(self.momentum, 0.999),
            weight_decay=self.weight_decay,
            amsgrad=True,
        )


@dataclass(frozen=True)
class StepReport:
    """One step of training.

    Attributes:
        step: How many steps are done.
        losses: By translator the mean divergence before the step, in nats.
        tokens_per_second: Speed of the step.
    """

    step: int
    losses: tuple[float, ...]
    tokens_per_second: float


Report: TypeAlias = Callable[[StepReport], object]


class Trainer:
    """Couples a model, translators, their optimiser and the text, and steps through training."""

    def __init__(
        self,
        adapter: ModelAdapter,
        settings: TrainSettings,
        sequences: Tensor,
        *,
        half: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.adapter, self.settings, self.sequences = adapter, settings, sequences
        self.n_tokens = int((sequences != NO_TOKEN).sum())
        readout = adapter.readout
        self.loss = DivergenceLoss(readout, half=half)
        self.sites = lens_sites(adapter)
        n_layers, width = adapter.n_layers, readout.d_model
        # A tensor for each layer: the gradient of a slice would be as large as all layers.
        like = {"dtype": readout.dtype, "device": readout.device, "requires_grad": True}
        self.weights = [torch.zeros(width, width, **like) for _ in range(n_layers)]
        self.biases = [torch.zeros(width, **like) for _ in range(n_layers * settings.bias)]
        self.optimizer = settings.build_optimizer(self.parameters)
        self.checkpoint = checkpoint
        self.step = 0 if checkpoint is None else checkpoint.restore(self.parameters, self.optimizer)
        self.first_losses: tuple[float, ...] = ()
        self.losses: tuple[float, ...] = ()

    @property
    def parameters(self) -> list[Tensor]:
        """All weights, then all biases."""
        return [*self.weights, *self.biases]

    def run(self, checkpoint_every: int) -> Iterator[StepReport]:
        """Train to the end and yield a report after every step."""
        while self.step < self.settings.steps:
            start = time.perf_counter()
            batch = self.next_batch()
            losses = self.accumulate(batch)
            self.update(losses)
            seconds = time.perf_counter() - start
            if self.checkpoint is not None and (
                self.step % checkpoint_every == 0 or self.step == self.settings.steps
            ):
                self.checkpoint.save(self.step, self.parameters, self.optimizer)
            n_tokens = int((batch != NO_TOKEN).sum())
            yield StepReport(self.step, losses, n_tokens / seconds)

    def next_batch(self) -> Tensor:
        """Return the sequences of the current step `[batch, pos]`.

        They follow from the step alone, so that a resumed training takes the same ones.
        """
        n_sequences = len(self.sequences)
        size = self.settings.tokens_per_step * n_sequences // self.n_tokens
        size = min(max(1, size), n_sequences)
        steps_per_epoch = n_sequences // size
        epoch, place = divmod(self.step, steps_per_epoch)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        order = torch.randperm(n_sequences, generator=generator)
        return self.sequences[order[place * size : (place + 1) * size]]

    def accumulate(self, batch: Tensor) -> tuple[float, ...]:
        """Add the gradients of a batch's mean losses and return these losses by translator."""
        n_tokens = int((batch != NO_TOKEN).sum())
        sums = self.weights[0].new_zeros(self.adapter.n_layers, dtype=torch.float64)
        last = self.sites[-1]
        for _, states in state_batches(self.adapter, batch):
            for rows in torch.arange(len(states[last])).split(self.loss.chunk_rows):
                chunk = slice(int(rows[0]), int(rows[-1]) + 1)
                target = self.loss.target(states[last][chunk])
                # One layer after the other, with its backward pass at once.
                for layer, site in enumerate(self.sites[:-1]):
                    loss = self.loss.sum(self._translate(layer, states[site][chunk]), target)
                    (loss / n_tokens).backward()
                    sums[layer] += loss.detach()
        return tuple((sums / n_tokens).tolist())

    def update(self, losses: tuple[float, ...]) -> None:
        """Clip the gradients, take a step and clear them.

        Raises:
            TrainingDivergedError: If a loss or gradient is NaN or infinite; nothing is changed.
        """
        finite = torch.isfinite(torch.tensor(losses))
        if not bool(finite.all()):
            self._stop("loss", [layer for layer, good in enumerate(finite.tolist()) if not good])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        if not bool(torch.isfinite(norm)):
            bad = [
                layer
                for layer, weight in enumerate(self.weights)
                if weight.grad is None or not bool(torch.isfinite(weight.grad).all())
            ]
            self._stop("gradient", bad or list(range(len(self.weights))))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses = losses
        self.first_losses = self.first_losses or losses
        self.step += 1

    def translators(self) -> Translators:
        """Return the translators as they are now."""
        names = known_names(self.adapter)
        name = names[0] if names else self.adapter.path
        # A relative path says that the model was read from a folder, and tells of no other one.
        base = f"./{short_name(name)}" if is_local(name) else name
        return Translators(
            weight=torch.stack([weight.detach().cpu() for weight in self.weights]),
            bias=torch.stack([b.detach().cpu() for b in self.biases]) if self.biases else None,
            base_model=base,
            unembed_hash=unembed_hash(self.adapter.readout),
            training={
                **asdict(self.settings),
                "n_tokens": self.n_tokens,
                "seq_len": self.sequences.shape[1],
                "last_losses": [round(loss, 6) for loss in self.losses],
                "iglens_tl": __version__,
                "torch": torch.__version__,
            },
        )

    def _translate(self, layer: int, states: Tensor) -> Tensor:
        bias = self.biases[layer] if self.biases else None
        return states + torch.nn.functional.linear(states, self.weights[layer], bias)

    def _stop(self, what: str, layers: list[int]) -> None:
        segments = lens_segments(self.adapter)
        if len(layers) == self.adapter.n_layers:
            where = "every layer, so the model's own states or predictions may be"
            remedy = "check the model on this text, or load it in another dtype"
        else:
            where = ", ".join(f"{segments[layer]} (translator {layer})" for layer in layers)
            where = f"{where}, which is"
            remedy = "train with a smaller lr_scale"
        kept = "no checkpoint was asked for"
        if self.checkpoint is not None:
            kept = "there is no checkpoint yet"
            if self.checkpoint.path.exists():
                kept = f"the last good checkpoint is {str(self.checkpoint.path)!r}"
        raise TrainingDivergedError(
            f"training stopped at step {self.step + 1}: the {what} of {where} NaN or infinite; "
            f"{kept}; {remedy}"
        )


@contextmanager
def progress_bar(steps: int, segments: tuple[str, ...]) -> Iterator[Report]:
    """Show a bar with the loss of every layer and yield what is to be called after each step."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.text import Text

    bar = Progress(
        "training",
        BarColumn(),
        MofNCompleteColumn(),
        "{task.fields[speed]}",
        TimeRemainingColumn(),
        auto_refresh=False,
    )
    task = bar.add_task("", total=steps, speed="")
    console = Console(stderr=True)
    with Live(bar, console=console, refresh_per_second=4) as live:

        def show(report: StepReport) -> None:
            bar.update(task, completed=report.step, speed=f"{report.tokens_per_second:,.0f} tok/s")
            listed = "  ".join(
                f"{segment} {loss:.3f}"
                for segment, loss in zip(segments, report.losses, strict=True)
            )
            live.update(Group(bar, Text(f"KL in nats: {listed}")))

        yield show
    if not console.is_terminal:
        console.print()


def _require_enough(adapter: ModelAdapter, sequences: Tensor) -> None:
    width = adapter.readout.d_model
    n_tokens = int((sequences != NO_TOKEN).sum())
    if n_tokens < width:
        raise ValueError(
            f"the text is too short to train on: its {n_tokens} tokens cannot determine "
            f"translators of {adapter.name}, which map {width} dimensions; give at least {width} "
            "tokens, and better a thousand times as many"
        )
