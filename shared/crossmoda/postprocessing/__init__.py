"""Rules that clean label maps, and the choice of those that help."""

from crossmoda.postprocessing.choice import choose_rules, read_rules, write_choice
from crossmoda.postprocessing.dictionary import PostprocessLabelsd
from crossmoda.postprocessing.rules import (
    RULES,
    Classes,
    apply_rules,
    largest_cochlea_per_side,
    largest_vs,
    side_of_middle,
    vs_near_cochlea,
    vs_not_above_cochlea,
    world_axis,
)

__all__ = [
    "RULES",
    "Classes",
    "PostprocessLabelsd",
    "apply_rules",
    "choose_rules",
    "largest_cochlea_per_side",
    "largest_vs",
    "read_rules",
    "side_of_middle",
    "vs_near_cochlea",
    "vs_not_above_cochlea",
    "world_axis",
    "write_choice",
]
