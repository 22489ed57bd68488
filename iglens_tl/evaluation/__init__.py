"""Evaluation: how far credits agree with interventions, and with chance."""

from iglens_tl.evaluation.agreement import agreement as agreement
from iglens_tl.evaluation.agreement import agreement_by_item as agreement_by_item
from iglens_tl.evaluation.validate import validate as validate
