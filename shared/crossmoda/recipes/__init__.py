"""Recipes: the papers' systems as short files, what the pipeline makes of them, and a finished run on new scans."""

from crossmoda.recipes.prediction import apply_run, sources_of
from crossmoda.recipes.recipe import load_recipe, read_presets, recipe_names, resolve
from crossmoda.recipes.settings import change, read_changes
from crossmoda.recipes.stages import stages_of, targets_until

__all__ = [
    "apply_run",
    "change",
    "load_recipe",
    "read_changes",
    "read_presets",
    "recipe_names",
    "resolve",
    "sources_of",
    "stages_of",
    "targets_until",
]
