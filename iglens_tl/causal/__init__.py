"""Causal checks: what happens when a part of the model is taken out."""

from iglens_tl.causal.layer_effects import layer_effects as layer_effects
from iglens_tl.causal.reference_texts import embedded_reference_texts as embedded_reference_texts
