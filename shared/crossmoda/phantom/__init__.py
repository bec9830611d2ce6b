"""A digital head phantom: unpaired ceT1 and hrT2 scans with known truth, in the crossMoDA layout."""

from .case import Case, CaseSimulator
from .generate import make_phantom

__all__ = ["Case", "CaseSimulator", "make_phantom"]
