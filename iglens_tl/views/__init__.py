"""Show results to people: figures, tables of notebooks, and HTML pages that need no network.

The methods of results import from here when something is drawn, so that measuring needs neither
plotly nor jinja2.
"""
