"""The report: tables, pictures and one HTML page that judge systems against their bounds."""

from crossmoda.report.page import ReportInput, write_report

__all__ = ["ReportInput", "write_report"]
