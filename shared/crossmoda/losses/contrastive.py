"""Contrastive losses between the two modalities of the same cases."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

UNGRADED = -1  # label of a case without a grade


class CrossModalContrastiveLoss(nn.Module):
    r"""Contrast of each case's vector in one modality with all cases' vectors in the other (Han 2022, eq. 5 and 6).

    With unit vectors $v_1^{(i)}, v_2^{(i)}$ of case i in both modalities and
    $s_{ij} = v_1^{(i)} \cdot v_2^{(j)} / \tau$

    $L = -\sum_i \frac{1}{|P(i)|} \sum_{p \in P(i)} \left[ \log \frac{e^{s_{ip}}}{\sum_j e^{s_{ij}}}
    + \log \frac{e^{s_{pi}}}{\sum_j e^{s_{ji}}} \right]$.

    Self-supervised (eq. 5) P(i) is i alone; supervised (eq. 6) it is all cases with the grade of i, and cases without a
    grade take no part. Printed, eq. 5 has i for j in the last denominator; this is the symmetric form that eq. 6 has
    and the text describes. With one modality alone there is nothing to contrast and the loss is 0.

    MONAI's `ContrastiveLoss` has all other vectors of both modalities in the denominator and knows no classes.

    Args:
        supervised: whether cases of one grade attract each other, or only the modalities of one case.
        temperature: tau.
    """

    def __init__(self, supervised: bool, temperature: float = 0.07) -> None:
        super().__init__()
        self.supervised = supervised
        self.temperature = temperature

    def forward(self, vectors: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """Computes the loss in float32.

        Args:
            vectors: unit vectors (N, M, C) of N cases in M modalities, M 1 or 2.
            grades: whole numbers (N,), `UNGRADED` where there is none.

        Returns:
            Scalar >= 0.
        """
        if self.supervised:
            vectors, grades = vectors[grades != UNGRADED], grades[grades != UNGRADED]
        if vectors.shape[1] < 2 or not len(vectors):
            return 0.0 * vectors.sum()
        positive = _same(grades) if self.supervised else torch.eye(len(grades), device=grades.device)
        with torch.autocast(vectors.device.type, enabled=False):  # tau would magnify bfloat16's rounding 14 times
            first, second = vectors.float().unbind(1)
            similarity = first @ second.T / self.temperature
            log_prob = F.log_softmax(similarity, dim=1) + F.log_softmax(similarity.T, dim=1)
            return -(positive * log_prob).sum(1).div(positive.sum(1)).sum()


class SupConLoss(nn.Module):
    r"""Supervised contrastive loss over both modalities together (Khosla 2020, eq. 2; Han 2022, code).

    Every vector is an anchor; its positives are all other vectors of its grade, of either modality, and its denominator
    is over all other vectors. $L$ is the mean over the anchors of the mean over their positives; an anchor without a
    positive is left out. Not supervised, the positive is the same case in the other modality (NT-Xent); MONAI's
    `ContrastiveLoss` is this form alone.

    Args:
        supervised: whether cases of one grade attract each other, or only the modalities of one case.
        temperature: tau.
    """

    def __init__(self, supervised: bool, temperature: float = 0.07) -> None:
        super().__init__()
        self.supervised = supervised
        self.temperature = temperature

    def forward(self, vectors: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """As `CrossModalContrastiveLoss`; with one modality, cases of one grade still attract each other."""
        if self.supervised:
            vectors, grades = vectors[grades != UNGRADED], grades[grades != UNGRADED]
        classes = grades if self.supervised else torch.arange(len(vectors), device=vectors.device)
        modalities = vectors.shape[1]
        others = 1 - torch.eye(len(vectors) * modalities, device=vectors.device)
        positive = _same(classes.repeat_interleave(modalities)) * others
        anchors = positive.sum(1) > 0
        if not anchors.any():
            return 0.0 * vectors.sum()
        with torch.autocast(vectors.device.type, enabled=False):
            flat = vectors.float().flatten(0, 1)
            similarity = (flat @ flat.T / self.temperature).masked_fill(others == 0, float("-inf"))
            log_prob = F.log_softmax(similarity, dim=1).masked_fill(others == 0, 0.0)
            losses = -(positive * log_prob).sum(1)[anchors] / positive.sum(1)[anchors]
            return losses.mean()


class KoosPretrainingLoss(nn.Module):
    """Self-supervised loss of one projection + supervised loss of the other, both modalities of a batch in a row.

    Args:
        self_supervised: of vectors (N, M, C) and grades (N,).
        supervised: the same.
        modalities: M.
    """

    def __init__(self, self_supervised: nn.Module, supervised: nn.Module, modalities: int = 2) -> None:
        super().__init__()
        self.self_supervised = self_supervised
        self.supervised = supervised
        self.modalities = modalities

    def forward(self, projections: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """Computes the sum, weights 1 and 1 (Han 2022, code).

        Args:
            projections: unit vectors (M * N, 2, C): all cases in the first modality, then all in the second; on the
                second axis the self-supervised and the supervised projection.
            grades: (M * N,), in the same order.

        Returns:
            Scalar >= 0.
        """
        vectors = torch.stack(projections.chunk(self.modalities), dim=1)  # (N, M, 2, C)
        grades = grades.chunk(self.modalities)[0]
        return self.self_supervised(vectors[:, :, 0], grades) + self.supervised(vectors[:, :, 1], grades)


def _same(classes: torch.Tensor) -> torch.Tensor:
    return (classes[:, None] == classes[None]).float()
