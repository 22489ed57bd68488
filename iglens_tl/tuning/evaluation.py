"""Tell whether a tuned lens belongs to a model, and whether it helps there."""

from __future__ import annotations

import hashlib
import json
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.models.adapter import Model, ModelAdapter, is_local
from iglens_tl.models.loading import adapt
from iglens_tl.readout import Point, Readout, read_points
from iglens_tl.tuning.sequences import (
    NO_TOKEN,
    TextsOrIds,
    encode_texts,
    lens_segments,
    lens_sites,
    pack_texts,
    state_batches,
)
from iglens_tl.tuning.translators import Translators

SAMPLE = (
    "The capital of France is Paris. The capital of Japan is Tokyo. The capital of Italy is Rome. "
    "The largest city of Canada is Toronto. The language of Brazil is Portuguese. "
    "Tom and Mary went to the park. Mary gave the ball to Tom. He said that he was happy. "
    "One day, a little girl named Lily went to the park with her mom. She saw a big red ball."
)
"""The text on which a lens is tried before its first use."""

_FEWEST_DISTINCT_TOKENS = 16
_MARGIN = 1e-3

_tried: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
"""By model the fingerprints of the lenses that were tried on it."""


class TunedLensWarning(UserWarning):
    """A tuned lens is worse than the logit lens."""


def evaluate_tuned_lens(
    model: Model,
    translators: Translators,
    texts_or_ids: TextsOrIds,
    *,
    seq_len: int | None = None,
    pack: bool = True,
) -> pd.DataFrame:
    """Compare a tuned lens with the logit lens on text that it was not trained on.

    Memory beyond the model is bounded by 4096 tokens (or one sequence) with all their states and
    translations, and by what `iglens_tl.readout.read_points` states; it does not grow with the
    text.

    Args:
        model: The model.
        translators: Its tuned lens.
        texts_or_ids: As in `train_tuned_lens`, as are `seq_len` and `pack`.
        seq_len: Length of the sequences.
        pack: Whether texts follow one another in a sequence.

    Returns:
        For every segment ("embed", "L0", …), averaged over all tokens that have a successor:
        `kl_logit_lens` and `kl_tuned_lens`, the divergence of the lens from the model's own
        distribution, and `ce_logit_lens` and `ce_tuned_lens`, its cross-entropy at the next token,
        all in nats. At the last segment both are the model itself.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For a lens or a text that does not fit the model.
    """
    adapter = adapt(model)
    check_translators(adapter, translators)
    sequences = pack_texts(adapter, texts_or_ids, seq_len=seq_len, pack=pack)
    losses = mean_losses(adapter, translators, sequences)
    index = pd.Index(lens_segments(adapter), name="segment")
    columns = ("kl_logit_lens", "kl_tuned_lens", "ce_logit_lens", "ce_tuned_lens")
    return pd.DataFrame({name: losses[name].numpy() for name in columns}, index=index)


def require_unfolded(adapter: ModelAdapter) -> None:
    """Refuse a model whose residual stream is not the trained one.

    Raises:
        ValueError: For a model with folded or centred weights.
    """
    folding = folding_of(adapter)
    if folding is not None:
        raise ValueError(
            f"a tuned lens works in the trained residual stream, but {adapter.name} does not have "
            f"it: {folding}; load the model with iglens_tl.load_model, which folds and centres "
            "nothing"
        )


def check_translators(adapter: ModelAdapter, translators: Translators) -> None:
    """Refuse a lens that does not belong to a model.

    What cannot be known is not refused: of a model that was read from a folder, the name may be
    unknown.

    Raises:
        ValueError: For a lens of another width, number of blocks or model, or a model whose
            weights are folded or centred.
    """
    expected = (adapter.n_layers, adapter.readout.d_model)
    found = (translators.n_layers, translators.d_model)
    if expected != found:
        raise ValueError(
            f"this tuned lens has {found[0]} translators of width {found[1]}, but {adapter.name} "
            f"has {expected[0]} blocks of width {expected[1]}; {_remedy(adapter)}"
        )
    names = known_names(adapter)
    base = translators.base_model
    if names and not is_local(base) and not any(same_name(base, name) for name in names):
        raise ValueError(
            f"this tuned lens was trained for {base!r}, not for {names[0]!r}, whose residual "
            f"stream has another basis; {_remedy(adapter)}"
        )
    require_unfolded(adapter)


def warn_where_worse(adapter: ModelAdapter, translators: Translators) -> None:
    """Try a lens on a short text, once for every model, and warn where it is worse than none.

    Warns:
        TunedLensWarning: If its mean divergence from the model's own distribution exceeds the
            logit lens's at some state.
    """
    tried = _tried.setdefault(adapter.model, set())
    if translators.fingerprint in tried or adapter.tokenizer is None:
        return
    tried.add(translators.fingerprint)
    sample = _sample(adapter)
    if sample is None:
        return
    losses = mean_losses(adapter, translators, sample)
    tuned, plain = losses["kl_tuned_lens"], losses["kl_logit_lens"]
    # `not <=` and not `>`, so that NaN counts as worse.
    worse = [index for index in range(len(tuned)) if not tuned[index] <= plain[index] + _MARGIN]
    if not worse:
        return
    segments = lens_segments(adapter)
    listed = ", ".join(
        f"{segments[i]} ({float(tuned[i]):.3g} beside {float(plain[i]):.3g} nats)" for i in worse
    )
    known = translators.unembed_hash
    differs = known is not None and known != unembed_hash(adapter.readout)
    hint = "; the hash of its unembedding differs from this model's as well" if differs else ""
    warnings.warn(
        f"on a sample text the tuned lens of {translators.base_model!r} is further from the "
        f"model's own prediction than the logit lens at {listed}{hint}",
        TunedLensWarning,
        stacklevel=4,
    )


def mean_losses(
    adapter: ModelAdapter, translators: Translators, sequences: Int[Tensor, "batch pos"]
) -> dict[str, Float[Tensor, " segment"]]:
    """Return what both lenses lose at every state, in nats per token with a successor.

    Returns:
        By name `kl_logit_lens`, `kl_tuned_lens` (from the model's own distribution) and
        `ce_logit_lens`, `ce_tuned_lens` (of the next token), `[segment]` each. At the last state
        both lenses are the model itself.
    """
    sites = lens_sites(adapter)
    sums: dict[str, Tensor] = {}
    n_tokens = 0
    for batch, states in state_batches(adapter, sequences):
        present = batch != NO_TOKEN
        row_of = (present.flatten().cumsum(0) - 1).view(batch.shape)
        has_successor = present[:, 1:]
        rows, following = row_of[:, :-1][has_successor], batch[:, 1:][has_successor]
        n_tokens += len(rows)
        points = [Point(site, states[site], rows) for site in sites]
        points += [
            Point(f"tuned {site}", translators.apply(layer, states[site]), rows)
            for layer, site in enumerate(sites[:-1])
        ]
        readings = read_points(adapter.readout, points, following, reference=sites[-1])
        for lens in ("logit_lens", "tuned_lens"):
            tuned = "tuned " if lens == "tuned_lens" else ""
            chosen = [readings[f"{tuned}{site}"] for site in sites[:-1]] + [readings[sites[-1]]]
            divergences, entropies = [], []
            for reading in chosen:
                assert reading.divergences is not None
                divergences.append(reading.divergences.sum())
                entropies.append((reading.log_normalizers - reading.target_logits).sum())
            for name, parts in (("kl", divergences), ("ce", entropies)):
                key = f"{name}_{lens}"
                sums[key] = sums.get(key, 0) + torch.stack(parts)
    return {name: total / n_tokens for name, total in sums.items()}


def known_names(adapter: ModelAdapter) -> list[str]:
    """Return the names by which a model is known, other than the folders that it was read from."""
    config = getattr(getattr(adapter.model, "original_model", None), "config", None)
    sources = (
        adapter.path if adapter.path != "unnamed model" else None,
        getattr(adapter.tokenizer, "name_or_path", None),
        getattr(config, "_name_or_path", None),
    )
    names: list[str] = []
    for source in sources:
        if not isinstance(source, str) or not source:
            continue
        name = _name_in_folder(Path(source).expanduser()) if is_local(source) else source
        if name:
            names.append(name)
    return list(dict.fromkeys(names))


def same_name(one: str, other: str) -> bool:
    """Tell whether two hub names are equal but for a missing organisation."""
    if "/" in one and "/" in other:
        return one == other
    return one.split("/")[-1] == other.split("/")[-1]


def folding_of(adapter: ModelAdapter) -> str | None:
    """Return what was done to a model's weights after training, or None.

    Folding and centring keep the predictions but not the residual stream, in which translators
    work.
    """
    cfg = adapter.model.cfg
    norm = adapter.readout.norm
    kind = str(getattr(cfg, "normalization_type", ""))
    if kind.endswith("Pre"):
        return (
            f"its norms are folded into the weights (normalization_type {cfg.normalization_type})"
        )
    if getattr(adapter.model, "compatibility_mode", False) and norm is not None:
        # Compatibility mode without processing leaves the weights alone.
        idle = norm.weight is None or bool((norm.weight == 1).all())
        if idle and (norm.bias is None or not bool(norm.bias.any())):
            return "its norms are folded into the weights (compatibility mode)"
    embedding = getattr(adapter.model, "W_E", None)
    if norm is not None and norm.centered and isinstance(embedding, torch.Tensor):
        rows = embedding[:64].detach().float()
        size = rows.square().mean(-1).sqrt()
        if bool((rows.mean(-1).abs() <= 1e-5 * size).all()) and bool((size > 0).any()):
            return "the weights that write to its residual stream are centred"
    return None


def unembed_hash(readout: Readout) -> str:
    """Return the published format's hash of an unembedding, which numpy's short print decides."""
    matrix = readout.unembed.T.detach().cpu().float().numpy()
    with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, suppress=False, sign="-"):
        text = np.array_str(matrix, precision=1)
    return hashlib.sha256(text.encode()).hexdigest()


def _sample(adapter: ModelAdapter) -> torch.Tensor | None:
    """Return the sample's tokens, or None where the tokenizer does not know such text."""
    (ids,) = encode_texts(adapter, [SAMPLE])
    length = min(len(ids), adapter.n_ctx)
    if length < 2 or len(set(ids)) < _FEWEST_DISTINCT_TOKENS:
        return None
    return torch.tensor([ids[:length]])


def _remedy(adapter: ModelAdapter) -> str:
    return f"give the lens of {adapter.name}, or train one with iglens_tl.train_tuned_lens"


def _name_in_folder(folder: Path) -> str | None:
    """Return the hub name that a model's configuration remembers, or None."""
    try:
        name = json.loads((folder / "config.json").read_text("utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) and name and not is_local(name) else None
