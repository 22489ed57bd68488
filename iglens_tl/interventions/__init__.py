"""Interventions: what happens to a value when a part of the model is changed."""

from iglens_tl.interventions.effects import LayerEffects as LayerEffects
from iglens_tl.interventions.effects import layer_effects as layer_effects
from iglens_tl.interventions.patching import activation_patching as activation_patching
from iglens_tl.interventions.replacements import (
    embedded_reference_texts as embedded_reference_texts,
)
from iglens_tl.interventions.skip_curves import skip_curves as skip_curves
