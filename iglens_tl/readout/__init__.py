"""The readout: from residual states to values, at points and along chords, without any model."""

from iglens_tl.readout.chords import Chords as Chords
from iglens_tl.readout.chords import evaluate_chords as evaluate_chords
from iglens_tl.readout.linear import inverse_norms as inverse_norms
from iglens_tl.readout.linear import norm_bias_logits as norm_bias_logits
from iglens_tl.readout.linear import raw_logits as raw_logits
from iglens_tl.readout.linear import token_directions as token_directions
from iglens_tl.readout.linear import unembed_bias_logits as unembed_bias_logits
from iglens_tl.readout.points import Point as Point
from iglens_tl.readout.points import Reading as Reading
from iglens_tl.readout.points import stack as stack
from iglens_tl.readout.quadrature import integrate_adaptive as integrate_adaptive
from iglens_tl.readout.quadrature import integrate_midpoint as integrate_midpoint
from iglens_tl.readout.readout import FinalNorm as FinalNorm
from iglens_tl.readout.readout import OutputTransform as OutputTransform
from iglens_tl.readout.readout import Readout as Readout
from iglens_tl.readout.sweep import most_probable_token as most_probable_token
from iglens_tl.readout.sweep import read_points as read_points
from iglens_tl.readout.tiles import ROWS_PER_PASS as ROWS_PER_PASS
from iglens_tl.readout.values import VALUES as VALUES
from iglens_tl.readout.values import Value as Value
from iglens_tl.readout.values import ValueLike as ValueLike
from iglens_tl.readout.values import resolve_value as resolve_value
