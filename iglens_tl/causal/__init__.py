"""Causal checks: what happens to a value when a part of the model is changed."""

from iglens_tl.causal.activation_patching import PatchingResult as PatchingResult
from iglens_tl.causal.activation_patching import activation_patching as activation_patching
