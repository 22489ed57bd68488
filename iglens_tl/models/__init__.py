"""Models: loading them, one view of both TransformerLens classes, and checks of that view."""

from iglens_tl.models.adapter import Model as Model
from iglens_tl.models.adapter import ModelAdapter as ModelAdapter
from iglens_tl.models.adapter import NotApplicableError as NotApplicableError
from iglens_tl.models.capture import capture as capture
from iglens_tl.models.checks import ReadoutCheck as ReadoutCheck
from iglens_tl.models.checks import check_model as check_model
from iglens_tl.models.components import split_heads as split_heads
from iglens_tl.models.loading import adapt as adapt
from iglens_tl.models.loading import load_model as load_model
from iglens_tl.models.reinitialized import reinitialized as reinitialized
