"""Show results in notebooks as light tables with tinted cells."""

from iglens_tl.views.notebook.corpus import corpus_table as corpus_table
from iglens_tl.views.notebook.corpus import examples_table as examples_table
from iglens_tl.views.notebook.results import comparison_table as comparison_table
from iglens_tl.views.notebook.results import lens_table as lens_table
from iglens_tl.views.notebook.results import patching_table as patching_table
from iglens_tl.views.notebook.results import path_sensitivity_table as path_sensitivity_table
from iglens_tl.views.notebook.results import skip_curves_table as skip_curves_table
from iglens_tl.views.notebook.results import validation_table as validation_table
