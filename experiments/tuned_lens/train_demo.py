"""Trains the tuned lens of the embedded model and writes the table of its held-out losses.

Run with `python -m experiments.tuned_lens.train_demo`; it takes a few minutes on two cores. The
texts come from the generator of the model's own training corpus, in shards that the model was not
trained on; the held-out texts are those that the generator never hands out for training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import pandas as pd
import torch

from experiments.common.markdown import markdown_table
from experiments.demo_model.corpus import document_text, documents
from experiments.demo_model.evaluation_set import evaluation_set
from iglens_tl import load_model
from iglens_tl.models import adapt
from iglens_tl.tuning import Translators, evaluate_tuned_lens, save_translators, train_tuned_lens
from iglens_tl.tuning.hub import DEMO_LENS

_SEED = 7
_TABLE = Path(__file__).parent / "TABLE.md"
_HEADER = """# Tuned lens of the embedded model

Mean losses in nats per token on {n_texts:,} held-out texts, written by
`python -m experiments.tuned_lens.train_demo`. `kl` is the divergence of the lens from the model's
own distribution, `ce` its cross-entropy at the next token. The last row is the model itself.

"""


def main() -> None:
    """Train, evaluate and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEMO_LENS)
    parser.add_argument("--table", type=Path, default=_TABLE)
    parser.add_argument("--texts", type=int, default=30_000, help="training texts")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens-per-step", type=int, default=2048)
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--lr-scale", type=float, default=5.0)
    parser.add_argument("--held-out-share", type=float, default=0.25)
    parser.add_argument("--checkpoint", type=Path, help="folder to continue from after a stop")
    options = parser.parse_args()
    model = adapt(load_model("demo"))
    translators = train_tuned_lens(
        model,
        training_texts(options.texts),
        pack=False,
        steps=options.steps,
        tokens_per_step=options.tokens_per_step,
        optimizer=options.optimizer,
        lr_scale=options.lr_scale,
        weight_decay=0.0,
        seed=_SEED,
        checkpoint=options.checkpoint,
        resume=options.checkpoint is not None,
    )
    # Half of the size, and the table below is measured with what is shipped.
    shipped = translators.to(torch.float16)
    save_translators(shipped, options.out)
    texts = held_out_texts(options.held_out_share)
    exact = evaluate_tuned_lens(model, translators, texts, pack=False)
    frame = evaluate_tuned_lens(model, Translators.load(options.out), texts, pack=False)
    lost = (frame["kl_tuned_lens"] - exact["kl_tuned_lens"]).abs().max()
    print(f"float16 changes no divergence by more than {lost:.1e} nats")
    print(frame.round(4).to_string())
    options.table.write_text(_HEADER.format(n_texts=len(texts)) + markdown(frame))


def training_texts(count: int, *, seed: int = _SEED) -> list[str]:
    """Generate texts of the training corpus."""
    return [document_text(document) for document in documents(seed, 0, count)]


def held_out_texts(share: float) -> list[str]:
    """Return held-out texts of every family, in random order.

    Args:
        share: Fraction of the whole evaluation set.
    """
    texts = [f"{e.prompt}{e.answer}{e.tail}" for e in evaluation_set(share)]
    Random(_SEED).shuffle(texts)
    return texts


def markdown(frame: pd.DataFrame) -> str:
    """Write a table of losses in Markdown."""
    rows = [
        [str(segment), *(f"{value:.4f}" for value in row)]
        for segment, row in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    return markdown_table([str(frame.index.name), *frame.columns], rows, n_texts=1)


if __name__ == "__main__":
    main()
