"""Lenses: functions from a model and a prompt to a `LensResult`."""

from iglens_tl.lenses.baselines import BASELINES as BASELINES
from iglens_tl.lenses.compare import compare as compare
from iglens_tl.lenses.decomposition.components import components as components
from iglens_tl.lenses.credit_orders import PATHS as PATHS
from iglens_tl.lenses.dla import (
    direct_logit_attribution as direct_logit_attribution,
)
from iglens_tl.lenses.decomposition.directions import Directions as Directions
from iglens_tl.lenses.estimators import ESTIMATORS as ESTIMATORS
from iglens_tl.lenses.estimators import CompletenessWarning as CompletenessWarning
from iglens_tl.lenses.ig import ig_lens as ig_lens
from iglens_tl.lenses.jacobian import fit_jacobian_lens as fit_jacobian_lens
from iglens_tl.lenses.jacobian import jacobian_lens as jacobian_lens
from iglens_tl.lenses.conductance import conductance_by_position as conductance_by_position
from iglens_tl.lenses.conductance import layer_conductance as layer_conductance
from iglens_tl.lenses.layer_ig import (
    layer_integrated_gradients as layer_integrated_gradients,
)
from iglens_tl.lenses.logit import logit_lens as logit_lens
from iglens_tl.lenses.orders.sensitivity import PathSensitivity as PathSensitivity
from iglens_tl.lenses.orders.sensitivity import path_sensitivity as path_sensitivity
from iglens_tl.lenses.decomposition.sae import directions_from_sae as directions_from_sae
from iglens_tl.lenses.tuned import tuned_lens as tuned_lens
