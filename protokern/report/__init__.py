"""Pages and figures for people: plain data in, HTML, pictures and lines of text out. No model is called here."""

from protokern.report.figure import write_figure
from protokern.report.page import write_explanation, write_report
from protokern.results.explanations import Explanation
from protokern.results.run import Report

ExplainedImage = Explanation
ReportData = Report

__all__ = ["ExplainedImage", "ReportData", "write_explanation", "write_figure", "write_report"]
