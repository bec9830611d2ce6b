"""Bundles served with MONAI Label: the folder that is served, what requests may say, and which scan to label next.

`crossmoda.serving.label` needs MONAI Label and its own environment (requirements-label.txt); the rest does not.
"""

from crossmoda.serving.app_folder import make_app, served_type
from crossmoda.serving.requests import check_name, infer_request, train_request
from crossmoda.serving.selection import case_uncertainty, next_case

__all__ = [
    "case_uncertainty",
    "check_name",
    "infer_request",
    "make_app",
    "next_case",
    "served_type",
    "train_request",
]
