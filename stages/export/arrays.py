"""Arrays: what a model takes and gives, as numpy has it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8 | np.int32]
"""What the model takes: images (N, H, W, C), or the tokens of texts (N, L)."""
Logits = NDArray[np.float32]
"""(N, classes)."""
Answer = Callable[[Images], Logits]
