"""The texts of the study: held-out texts of the embedded model, and stories that a model writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from experiments.demo_model.evaluation_set import evaluation_set

HELD_OUT = Path(__file__).parent / "held_out.parquet"
"""The embedded model's held-out texts with their families, as they are shipped."""


def held_out_texts(share: float = 1.0) -> pd.DataFrame:
    """Return the texts on which the embedded model is scored, which it never saw.

    Returns:
        Columns `text`, `family` and `group`.
    """
    rows = [
        (example.prompt + example.answer + example.tail, example.family, example.group)
        for example in evaluation_set(share)
    ]
    return pd.DataFrame(rows, columns=pd.Index(["text", "family", "group"]))


def write_held_out_texts(path: Path = HELD_OUT) -> Path:
    """Write the texts anew, which gives the shipped file."""
    held_out_texts().to_parquet(path, index=False, compression="zstd")
    return path


def write_stories(
    folder: Path, path: Path, *, n_stories: int, n_tokens: int, seed: int = 0
) -> Path:
    """Let a model write stories, as token ids: one in each line, up to the end of the story.

    Tokens are drawn from the model's own distribution, so that each is as likely as it says.

    Args:
        folder: The model, in the format of Hugging Face.
        path: Where the stories go.
        n_stories: How many; those that end at once are left out.
        n_tokens: How long they are at most.
        seed: Seed of the draws.
    """
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    special = {model.config.bos_token_id, model.config.eos_token_id}
    begin = torch.full((n_stories, 1), model.config.bos_token_id)
    torch.manual_seed(seed)
    stories = model.generate(
        begin,
        attention_mask=torch.ones_like(begin),
        max_new_tokens=n_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=model.config.eos_token_id,
    ).tolist()
    with path.open("w", encoding="utf-8") as file:
        for story in stories:
            end = next((i for i, token in enumerate(story) if i and token in special), len(story))
            if end > 1:
                file.write(f"{json.dumps(story[:end])}\n")
    return path
