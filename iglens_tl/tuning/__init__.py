"""Tuned lens: training its translators, keeping them in files, and checking that they fit."""

from iglens_tl.tuning.evaluation import TunedLensWarning as TunedLensWarning
from iglens_tl.tuning.evaluation import check_translators as check_translators
from iglens_tl.tuning.evaluation import evaluate_tuned_lens as evaluate_tuned_lens
from iglens_tl.tuning.evaluation import warn_where_worse as warn_where_worse
from iglens_tl.tuning.hub import DEMO_LENS as DEMO_LENS
from iglens_tl.tuning.hub import LensLike as LensLike
from iglens_tl.tuning.hub import load_translators as load_translators
from iglens_tl.tuning.hub import resolve_translators as resolve_translators
from iglens_tl.tuning.sequences import pack_texts as pack_texts
from iglens_tl.tuning.storage import save_translators as save_translators
from iglens_tl.tuning.training import Trainer as Trainer
from iglens_tl.tuning.training import TrainingDivergedError as TrainingDivergedError
from iglens_tl.tuning.training import TrainSettings as TrainSettings
from iglens_tl.tuning.training import train_tuned_lens as train_tuned_lens
from iglens_tl.tuning.translators import Translators as Translators
