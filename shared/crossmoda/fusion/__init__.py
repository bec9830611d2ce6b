"""Fusion of several members' results for one scan into one label map."""

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

__all__ = [
    "RULES",
    "ArrayMembers",
    "CaseMembers",
    "Fused",
    "Rule",
    "get_rule",
    "majority",
    "mean",
    "mean_probability",
    "staple",
    "staple_probability",
    "union",
]
