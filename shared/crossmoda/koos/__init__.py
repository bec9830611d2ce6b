"""Koos grades: items and folds, geometric features and their models, answers."""

from crossmoda.koos.answers import (
    EMPTY_MASK,
    GRADES,
    GRADES_FILE,
    UNSURE,
    KoosAnswer,
    grade_answer,
    no_answer,
    read_answers,
    write_answers,
)
from crossmoda.koos.folds import grade_folds, split_fold, split_fold_or_exit
from crossmoda.koos.grading import (
    KoosAnswers,
    ModalityMeanInferer,
    load_initial,
    load_initial_or_exit,
    logits_and_labels,
    prepare_modalities,
)
from crossmoda.koos.items import (
    koos_inputs,
    koos_inputs_or_exit,
    koos_items,
    koos_items_or_exit,
    split_empty,
    split_empty_or_exit,
    tumour_labels,
    tumour_labels_or_exit,
)
from crossmoda.koos.views import FixedViews, GradeSampler, StackModalitiesd, koos_dataset

__all__ = [
    "EMPTY_MASK",
    "GRADES",
    "GRADES_FILE",
    "UNSURE",
    "FixedViews",
    "GradeSampler",
    "KoosAnswer",
    "KoosAnswers",
    "ModalityMeanInferer",
    "StackModalitiesd",
    "grade_answer",
    "grade_folds",
    "koos_dataset",
    "koos_inputs",
    "koos_inputs_or_exit",
    "koos_items",
    "koos_items_or_exit",
    "load_initial",
    "load_initial_or_exit",
    "logits_and_labels",
    "no_answer",
    "prepare_modalities",
    "read_answers",
    "split_empty",
    "split_empty_or_exit",
    "split_fold",
    "split_fold_or_exit",
    "tumour_labels",
    "tumour_labels_or_exit",
    "write_answers",
]
