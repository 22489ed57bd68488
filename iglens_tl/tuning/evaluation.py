"""Held-out evaluation: what the tuned lens loses beside the logit lens."""

from __future__ import annotations

import pandas as pd

from iglens_tl.models.adapter import Model, adapt
from iglens_tl.tuning.packing import TextsOrIds, pack_texts
from iglens_tl.tuning.reading import lens_segments, mean_losses
from iglens_tl.tuning.translators import Translators
from iglens_tl.tuning.validation import check_translators


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
