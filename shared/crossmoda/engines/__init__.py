"""Trainers and handlers that MONAI's engines lack."""

from crossmoda.engines.checkpoint import ResumableRun, SaveBest, save_atomically

__all__ = ["ResumableRun", "SaveBest", "save_atomically"]
