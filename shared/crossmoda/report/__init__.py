"""HTML pages: the report that judges a set of systems, and the inspection of a data list before training."""

from crossmoda.report.inspection import Inspection, inspect, write_inspection
from crossmoda.report.page import ReportInput, write_report

__all__ = ["Inspection", "ReportInput", "inspect", "write_inspection", "write_report"]
