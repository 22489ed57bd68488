"""Draw results as plotly figures; nothing is shown or written unasked."""

from plotly.graph_objects import Figure as Figure

from iglens_tl.views.figures.agreement import agreement_figure as agreement_figure
from iglens_tl.views.figures.agreement import layers_figure as layers_figure
from iglens_tl.views.figures.agreement import skip_curves_figure as skip_curves_figure
from iglens_tl.views.figures.comparison import comparison_figure as comparison_figure
from iglens_tl.views.figures.components import head_heatmap as head_heatmap
from iglens_tl.views.figures.components import source_heatmap as source_heatmap
from iglens_tl.views.figures.flow import sankey as sankey
from iglens_tl.views.figures.heatmap import heatmap as heatmap
from iglens_tl.views.figures.patching import patching_heatmap as patching_heatmap
from iglens_tl.views.figures.paths import path_sensitivity_figure as path_sensitivity_figure
from iglens_tl.views.figures.waterfall import waterfall as waterfall
