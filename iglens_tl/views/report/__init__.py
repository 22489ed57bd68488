"""Report several lenses on one text as one page that needs no network."""

from iglens_tl.views.report.page import write_report as write_report
