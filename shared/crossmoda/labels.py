"""The label schema of crossMoDA 2021 and 2022, the one place where class numbers are written."""

from __future__ import annotations

BACKGROUND = 0
VS = 1
COCHLEA = 2

CLASS_NAMES = {BACKGROUND: "background", VS: "VS", COCHLEA: "cochlea"}
FOREGROUND = (VS, COCHLEA)
NUM_CLASSES = len(CLASS_NAMES)

# In pseudo-labels: voxels of which nobody knows the class, left out of the loss.
IGNORE = 255

# crossMoDA 2023: 1 extra-meatal VS, 2 intra-meatal VS, 3 cochlea (volumes in the release only fit this order).
LABELS_2023 = {1: "extra-meatal VS", 2: "intra-meatal VS", 3: "cochlea"}
MERGE_2023 = {0: BACKGROUND, 1: VS, 2: VS, 3: COCHLEA}

# The parts of the tumour, as columns of metrics and curves of training name them.
EXTRA = 1
INTRA = 2
PART_NAMES = {EXTRA: "extra", INTRA: "intra"}
