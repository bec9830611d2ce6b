"""Models from features to the probabilities of ordered grades, of scikit-learn's parts."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from crossmoda.errors import InputError

MODELS = ("forest", "ordinal", "both")  # both: the mean of their probabilities
NUM_TREES = 300
MIN_LEAF = 2  # cases of a leaf at least, so that the forest's probabilities are not all 0 or 1


class OrdinalLogistic(ClassifierMixin, BaseEstimator):
    """Ordinal regression as logistic models of "the grade is above k", one for each k but the highest.

    Frank and Hall 2001, "A Simple Approach to Ordinal Classification". Scikit-learn's `LogisticRegression` is
    multinomial or one-versus-rest: to both grade 4 is no nearer to 3 than to 1. The models are fitted apart, so that
    their probabilities may cross; a later one is then lowered to the one before.

    Args:
        C: inverse strength of the L2 penalty, as in scikit-learn; it also keeps the weights finite where a feature
            divides the grades without error.
    """

    def __init__(self, C: float = 10.0) -> None:
        self.C = C

    def fit(self, X: np.ndarray, y: np.ndarray) -> OrdinalLogistic:
        """Fit to features (N, F) and ordered classes (N,)."""
        y = np.asarray(y)
        self.classes_ = np.unique(y)
        self.models_ = [
            LogisticRegression(C=self.C, max_iter=1000, class_weight="balanced").fit(X, y > below)
            for below in self.classes_[:-1]
        ]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of `classes_`, (N, classes)."""
        above = [model.predict_proba(X)[:, 1] for model in self.models_]
        above = np.minimum.accumulate([np.ones(len(X)), *above, np.zeros(len(X))], axis=0)
        return (above[:-1] - above[1:]).T

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable class, (N,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def grade_model(name: str, seed: int) -> ClassifierMixin:
    """A model from features with missing values to probabilities of grades.

    A missing value becomes the training median, with a further feature that says so where the training has missing
    ones; then arcsinh (like the logarithm for large values, linear near 0) and the training's mean and spread.

    Args:
        name: one of `MODELS`.
        seed: of the forest.

    Raises:
        InputError: if the name is unknown.
    """
    models = {
        "forest": RandomForestClassifier(
            NUM_TREES, min_samples_leaf=MIN_LEAF, class_weight="balanced", random_state=seed
        ),
        "ordinal": OrdinalLogistic(),
    }
    if name not in MODELS:
        raise InputError(f"model is '{name}': give {', '.join(MODELS[:-1])} or {MODELS[-1]}")
    chosen = VotingClassifier(list(models.items()), voting="soft") if name == "both" else models[name]
    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return make_pipeline(imputer, FunctionTransformer(np.arcsinh), StandardScaler(), chosen)


def grade_probabilities(model: ClassifierMixin, features: np.ndarray, grades: tuple[int, ...]) -> np.ndarray:
    """Probabilities of `grades`, (N, grades); 0 for a grade that the training did not have."""
    found = model.predict_proba(features)
    out = np.zeros((len(features), len(grades)))
    for column, grade in enumerate(model.classes_):
        out[:, grades.index(grade)] = found[:, column]
    return out
