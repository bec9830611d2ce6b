"""HTML pages: the report that judges a set of systems, and the inspection of a data list before training."""

from crossmoda.report.case import (
    CaseFindings,
    Study,
    findings_tables,
    write_case_report,
    write_case_reports,
)
from crossmoda.report.case_pictures import draw_planes
from crossmoda.report.inspection import Inspection, inspect, write_inspection
from crossmoda.report.page import ReportInput, write_report
from crossmoda.report.unjudged import write_unjudged_report

__all__ = [
    "CaseFindings",
    "Inspection",
    "ReportInput",
    "Study",
    "draw_planes",
    "findings_tables",
    "inspect",
    "write_case_report",
    "write_case_reports",
    "write_inspection",
    "write_report",
    "write_unjudged_report",
]
