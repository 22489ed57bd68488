"""Tuned lens: training its translators, keeping them in files, and checking that they fit."""

from iglens_tl.tuning.evaluation import evaluate_tuned_lens as evaluate_tuned_lens
from iglens_tl.tuning.lookup import resolve_translators as resolve_translators
from iglens_tl.tuning.packing import pack_texts as pack_texts
from iglens_tl.tuning.settings import TrainSettings as TrainSettings
from iglens_tl.tuning.storage import load_translators as load_translators
from iglens_tl.tuning.storage import save_translators as save_translators
from iglens_tl.tuning.training import TrainingDivergedError as TrainingDivergedError
from iglens_tl.tuning.training import train_tuned_lens as train_tuned_lens
from iglens_tl.tuning.translators import Translators as Translators
from iglens_tl.tuning.validation import TunedLensWarning as TunedLensWarning
from iglens_tl.tuning.validation import check_translators as check_translators
