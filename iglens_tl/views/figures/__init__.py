"""Figures. Functions return plotly figures; none shows or writes anything unasked."""

from plotly.graph_objects import Figure as Figure

from iglens_tl.views.figures.agreement import agreement_figure as agreement_figure
from iglens_tl.views.figures.agreement import skip_curves_figure as skip_curves_figure
from iglens_tl.views.figures.comparison import comparison_figure as comparison_figure
from iglens_tl.views.figures.components import head_heatmap as head_heatmap
from iglens_tl.views.figures.components import source_heatmap as source_heatmap
from iglens_tl.views.figures.flow import sankey as sankey
from iglens_tl.views.figures.heatmap import heatmap as heatmap
from iglens_tl.views.figures.html import plotly_basic_script as plotly_basic_script
from iglens_tl.views.figures.html import write_html as write_html
from iglens_tl.views.figures.patching import patching_heatmap as patching_heatmap
from iglens_tl.views.figures.table import notebook_table as notebook_table
from iglens_tl.views.figures.waterfall import waterfall as waterfall
