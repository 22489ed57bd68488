"""Causal checks: what happens to a value when a part of the model is changed."""

from iglens_tl.causal.activation_patching import PatchingResult as PatchingResult
from iglens_tl.causal.activation_patching import activation_patching as activation_patching
from iglens_tl.causal.layer_effects import layer_effects as layer_effects
from iglens_tl.causal.reference_texts import embedded_reference_texts as embedded_reference_texts
