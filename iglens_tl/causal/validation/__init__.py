"""Validation: lenses against interventions on a list of prompts, in parts that can be resumed."""

from iglens_tl.causal.validation.validate import Validation as Validation
from iglens_tl.causal.validation.validate import validate as validate
