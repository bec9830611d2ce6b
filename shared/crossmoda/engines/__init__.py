"""Trainers and handlers that MONAI's engines lack."""

from crossmoda.engines.acceleration import prepare_objective
from crossmoda.engines.adjacent_slices import AdjacentSlicesInferer
from crossmoda.engines.autocast import AutocastInferer
from crossmoda.engines.checkpoint import ResumableRun, SaveBest, save_atomically
from crossmoda.engines.discriminator_watch import DiscriminatorWatch
from crossmoda.engines.ensemble import EnsembleInferer, load_members, load_members_or_exit
from crossmoda.engines.epoch_line import EpochLine
from crossmoda.engines.flip_vote import FlipVoteInferer
from crossmoda.engines.gradient_clipping import GradientClipping
from crossmoda.engines.history import HistoryCsv, read_history
from crossmoda.engines.image_pool import ImagePool
from crossmoda.engines.members import hard_labels, last_member_labels
from crossmoda.engines.mirror import MirrorInferer
from crossmoda.engines.mlflow import MLFlowRun, end_parent_run, log_to_run, start_parent_run
from crossmoda.engines.model_registry import register_model
from crossmoda.engines.objectives import (
    CUT,
    CycleGAN,
    CycleGANSegmenter,
    MSFNet,
    QSAttn,
    SiteCycleGAN,
    TranslationObjective,
)
from crossmoda.engines.schedules import linear_decay, poly_decay, step_argument, warmup_cosine_decay
from crossmoda.engines.translation import TranslationEvaluator, TranslationTrainer
from crossmoda.engines.translation_pictures import TranslationPictures
from crossmoda.engines.translation_score import TranslationScore
from crossmoda.engines.weights import load_weights, load_weights_or_exit

__all__ = [
    "CUT",
    "AdjacentSlicesInferer",
    "AutocastInferer",
    "CycleGAN",
    "CycleGANSegmenter",
    "DiscriminatorWatch",
    "EnsembleInferer",
    "EpochLine",
    "FlipVoteInferer",
    "GradientClipping",
    "HistoryCsv",
    "ImagePool",
    "MLFlowRun",
    "MSFNet",
    "MirrorInferer",
    "QSAttn",
    "ResumableRun",
    "SaveBest",
    "SiteCycleGAN",
    "TranslationEvaluator",
    "TranslationObjective",
    "TranslationPictures",
    "TranslationScore",
    "TranslationTrainer",
    "end_parent_run",
    "hard_labels",
    "last_member_labels",
    "linear_decay",
    "load_members",
    "load_members_or_exit",
    "load_weights",
    "load_weights_or_exit",
    "log_to_run",
    "poly_decay",
    "prepare_objective",
    "read_history",
    "register_model",
    "save_atomically",
    "start_parent_run",
    "step_argument",
    "warmup_cosine_decay",
]
