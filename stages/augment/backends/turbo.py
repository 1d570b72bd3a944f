"""Turbo: JPEGs by libjpeg-turbo in one call, in two thirds of Pillow's time and with its pixels."""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from stages.augment.backends.torchvision import transform_file
from stages.augment.geometry import Placement
from stages.augment.plan import Plan, reduction
from stages.augment.resample import resample

_buffers = threading.local()


def transform_jpeg(file: bytes, plan: Plan, placement: Placement) -> torch.Tensor:
    """Decode one upright gray or YCbCr JPEG and lay it onto the target: (1, H, W, C).

    Raises:
        OSError: Pillow cannot read the file either.
    """
    scale = reduction(plan, placement)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(file)
        pixels = simplejpeg.decode_jpeg(
            file,
            "GRAY" if plan.channels == 1 else "RGB",
            min_height=-(-height // scale),
            min_width=-(-width // scale),
            min_factor=scale,
            buffer=_buffer(3 * height * width),
        )
    except ValueError:
        # Strict: any oddity is an error here, and Pillow has the word on which of them is damage.
        return transform_file(file, plan, placement)
    full, size = (width, height), (pixels.shape[1], pixels.shape[0])
    source = torch.from_numpy(pixels)[None]
    laid_out = resample(source, placement.rescaled(full, size), plan)
    # An image that has the target's size already comes back as it is, and the buffer is not ours.
    is_view = laid_out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return laid_out.clone() if is_view else laid_out


def _buffer(size: int) -> NDArray[np.uint8]:
    """Return this thread's memory for decoded pixels: fresh pages would cost a third of the time.

    The pixels are used up by the resample before the next image comes.
    """
    buffer: NDArray[np.uint8] | None = getattr(_buffers, "pixels", None)
    if buffer is None or buffer.size < size:
        buffer = _buffers.pixels = np.empty(size, dtype=np.uint8)
    return buffer
