"""Builds the model in one command: tokenizer, corpus, training, export.

Usage: python -m experiments.demo_model.train --out FOLDER
"""

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlamaForCausalLM

from experiments.demo_model.architecture import MAX_LENGTH, model_config
from experiments.demo_model.export import export_model
from experiments.demo_model.stream import CorpusStream
from experiments.demo_model.tokenizer import build_tokenizer
from experiments.demo_model.training import Trainer, TrainSettings, can_compile

BATCH, WINDOW = 16, 128
_LOG_EVERY = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    trainer = _build_trainer(options)
    started = time.monotonic()
    with Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    ) as progress:
        task = progress.add_task("", total=options.steps, completed=trainer.step, loss=0.0)
        for step, loss in trainer.run():
            progress.update(task, completed=step, loss=loss)
            if step % _LOG_EVERY == 0:  # a line per interval, also where no bar can be drawn
                minutes = (time.monotonic() - started) / 60
                progress.console.print(f"step {step}  loss {loss:.4f}  {minutes:.1f} min")
    export_model(trainer.model, trainer.stream.tokenizer, options.out)


def _build_trainer(options: argparse.Namespace) -> Trainer:
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer(options.seed, MAX_LENGTH)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlamaForCausalLM(model_config(tokenizer))
    torch.nn.Module.to(model, device)
    return Trainer(
        model,
        CorpusStream(tokenizer, options.seed, BATCH, WINDOW),
        TrainSettings(steps=options.steps),
        checkpoint=options.work / "checkpoint.pt",
        compiled=can_compile(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--steps", type=int, default=3300, help="number of training steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus and weights")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("out/demo_model"),
        help="folder of the checkpoint from which an interrupted run continues",
    )
    return parser


if __name__ == "__main__":
    main()
