"""Causal checks: what happens when a part of the model is changed, and whether credits agree."""

from iglens_tl.causal.activation_patching import PatchingResult as PatchingResult
from iglens_tl.causal.activation_patching import activation_patching as activation_patching
from iglens_tl.causal.agreement import agreement as agreement
from iglens_tl.causal.agreement import agreement_by_item as agreement_by_item
from iglens_tl.causal.layer_effects import layer_effects as layer_effects
from iglens_tl.causal.reference_texts import embedded_reference_texts as embedded_reference_texts
from iglens_tl.causal.skip_curves import SkipCurves as SkipCurves
from iglens_tl.causal.skip_curves import skip_curves as skip_curves
from iglens_tl.causal.validation import Validation as Validation
from iglens_tl.causal.validation import validate as validate
