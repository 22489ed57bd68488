"""The report: several lenses on one text as one page that needs no network."""

from iglens_tl.report.page import write_report as write_report
