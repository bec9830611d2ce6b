"""Fusion of several members' results for one scan into one label map."""

from crossmoda.fusion.choice import choose_members, read_choice
from crossmoda.fusion.flip_vote import FlipVote
from crossmoda.fusion.fuse import fuse_members, with_likeness
from crossmoda.fusion.members import CaseFiles, Member, as_members, classes_of, find_cases
from crossmoda.fusion.rules import (
    RULES,
    ArrayMembers,
    CaseMembers,
    Fused,
    Rule,
    get_rule,
    majority,
    mean,
    mean_probability,
    staple,
    staple_probability,
    union,
)
from crossmoda.postprocessing import write_choice

__all__ = [
    "RULES",
    "ArrayMembers",
    "CaseFiles",
    "CaseMembers",
    "FlipVote",
    "Fused",
    "Member",
    "Rule",
    "as_members",
    "choose_members",
    "classes_of",
    "find_cases",
    "fuse_members",
    "get_rule",
    "majority",
    "mean",
    "mean_probability",
    "read_choice",
    "staple",
    "staple_probability",
    "union",
    "with_likeness",
    "write_choice",
]
