"""IG-Lens for TransformerLens: between which two layers was a token's probability produced?

Names are imported when they are first used, so that `import iglens_tl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iglens_tl.evaluation import agreement as agreement
    from iglens_tl.evaluation import agreement_by_item as agreement_by_item
    from iglens_tl.evaluation import validate as validate
    from iglens_tl.interventions import activation_patching as activation_patching
    from iglens_tl.interventions import embedded_reference_texts as embedded_reference_texts
    from iglens_tl.interventions import layer_effects as layer_effects
    from iglens_tl.interventions import skip_curves as skip_curves
    from iglens_tl.lenses import CompletenessWarning as CompletenessWarning
    from iglens_tl.lenses import Directions as Directions
    from iglens_tl.lenses import compare as compare
    from iglens_tl.lenses import components as components
    from iglens_tl.lenses import conductance_by_position as conductance_by_position
    from iglens_tl.lenses import direct_logit_attribution as direct_logit_attribution
    from iglens_tl.lenses import directions_from_sae as directions_from_sae
    from iglens_tl.lenses import fit_jacobian_lens as fit_jacobian_lens
    from iglens_tl.lenses import ig_lens as ig_lens
    from iglens_tl.lenses import jacobian_lens as jacobian_lens
    from iglens_tl.lenses import layer_conductance as layer_conductance
    from iglens_tl.lenses import layer_integrated_gradients as layer_integrated_gradients
    from iglens_tl.lenses import logit_lens as logit_lens
    from iglens_tl.lenses import path_sensitivity as path_sensitivity
    from iglens_tl.lenses import tuned_lens as tuned_lens
    from iglens_tl.models import load_model as load_model
    from iglens_tl.models import reinitialized as reinitialized
    from iglens_tl.readout import Entropy as Entropy
    from iglens_tl.readout import KLToFinal as KLToFinal
    from iglens_tl.readout import LogitDifference as LogitDifference
    from iglens_tl.readout import ProbabilityDifference as ProbabilityDifference
    from iglens_tl.readout import TokenSet as TokenSet
    from iglens_tl.readout import Value as Value
    from iglens_tl.results.comparison import LensComparison as LensComparison
    from iglens_tl.results.curves import SkipCurves as SkipCurves
    from iglens_tl.results.lens import LensResult as LensResult
    from iglens_tl.results.patching import PatchingResult as PatchingResult
    from iglens_tl.results.validation import Validation as Validation
    from iglens_tl.tuning import Translators as Translators
    from iglens_tl.tuning import TunedLensWarning as TunedLensWarning
    from iglens_tl.tuning import train_tuned_lens as train_tuned_lens
    from iglens_tl.views.figures import write_html as write_html

__version__ = "0.1.0"

_HOMES = {
    "CompletenessWarning": "iglens_tl.lenses",
    "Directions": "iglens_tl.lenses",
    "Entropy": "iglens_tl.readout",
    "KLToFinal": "iglens_tl.readout",
    "LensComparison": "iglens_tl.results.comparison",
    "LensResult": "iglens_tl.results.lens",
    "LogitDifference": "iglens_tl.readout",
    "PatchingResult": "iglens_tl.results.patching",
    "ProbabilityDifference": "iglens_tl.readout",
    "SkipCurves": "iglens_tl.results.curves",
    "TokenSet": "iglens_tl.readout",
    "Translators": "iglens_tl.tuning",
    "TunedLensWarning": "iglens_tl.tuning",
    "Validation": "iglens_tl.results.validation",
    "Value": "iglens_tl.readout",
    "activation_patching": "iglens_tl.interventions",
    "agreement": "iglens_tl.evaluation",
    "agreement_by_item": "iglens_tl.evaluation",
    "compare": "iglens_tl.lenses",
    "components": "iglens_tl.lenses",
    "conductance_by_position": "iglens_tl.lenses",
    "direct_logit_attribution": "iglens_tl.lenses",
    "directions_from_sae": "iglens_tl.lenses",
    "embedded_reference_texts": "iglens_tl.interventions",
    "fit_jacobian_lens": "iglens_tl.lenses",
    "ig_lens": "iglens_tl.lenses",
    "jacobian_lens": "iglens_tl.lenses",
    "layer_conductance": "iglens_tl.lenses",
    "layer_effects": "iglens_tl.interventions",
    "layer_integrated_gradients": "iglens_tl.lenses",
    "load_model": "iglens_tl.models",
    "logit_lens": "iglens_tl.lenses",
    "path_sensitivity": "iglens_tl.lenses",
    "reinitialized": "iglens_tl.models",
    "skip_curves": "iglens_tl.interventions",
    "train_tuned_lens": "iglens_tl.tuning",
    "tuned_lens": "iglens_tl.lenses",
    "validate": "iglens_tl.evaluation",
    "write_html": "iglens_tl.views.figures",
}

__all__ = [
    "CompletenessWarning",
    "Directions",
    "Entropy",
    "KLToFinal",
    "LensComparison",
    "LensResult",
    "LogitDifference",
    "PatchingResult",
    "ProbabilityDifference",
    "SkipCurves",
    "TokenSet",
    "Translators",
    "TunedLensWarning",
    "Validation",
    "Value",
    "activation_patching",
    "agreement",
    "agreement_by_item",
    "compare",
    "components",
    "conductance_by_position",
    "direct_logit_attribution",
    "directions_from_sae",
    "embedded_reference_texts",
    "fit_jacobian_lens",
    "ig_lens",
    "jacobian_lens",
    "layer_conductance",
    "layer_effects",
    "layer_integrated_gradients",
    "load_model",
    "logit_lens",
    "path_sensitivity",
    "reinitialized",
    "skip_curves",
    "train_tuned_lens",
    "tuned_lens",
    "validate",
    "write_html",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
