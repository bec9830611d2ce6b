"""The papers' preprocessings as recipes: preparation of whole data lists, and the way back to the scan's own grid."""

from crossmoda.preparation.recipe import Recipe, preprocessing, preprocessing_or_exit, recipe_names
from crossmoda.preparation.restoring import read_sidecar, restore, to_scan_grid
from crossmoda.preparation.runner import Summary, prepare

__all__ = [
    "Recipe",
    "Summary",
    "prepare",
    "preprocessing",
    "preprocessing_or_exit",
    "read_sidecar",
    "recipe_names",
    "restore",
    "to_scan_grid",
]
