"""Whether a tuned lens belongs to a model, and whether it helps there."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch

from iglens_tl.models.adapter import ModelAdapter, is_local
from iglens_tl.tuning.identity import (
    folding_of,
    known_names,
    same_name,
    unembed_hash,
)
from iglens_tl.tuning.packing import encode_texts
from iglens_tl.tuning.reading import lens_segments, mean_losses
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


def _sample(adapter: ModelAdapter) -> torch.Tensor | None:
    """Return the sample's tokens, or None where the tokenizer does not know such text."""
    (ids,) = encode_texts(adapter, [SAMPLE])
    length = min(len(ids), adapter.n_ctx)
    if length < 2 or len(set(ids)) < _FEWEST_DISTINCT_TOKENS:
        return None
    return torch.tensor([ids[:length]])


def _remedy(adapter: ModelAdapter) -> str:
    return f"give the lens of {adapter.name}, or train one with iglens_tl.train_tuned_lens"
