"""Raw DALI: the pipeline that a user would write by hand, with DALI's own reader and iterator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from benchmarks.loaders import CROP_SCALE, MEAN, SIZE, STD, Batches
from benchmarks.photos import Photo


def raw_dali(
    photos: Sequence[Photo], batch_size: int, threads: int, *, normalize: bool, crop: bool = True
) -> Batches:
    """Yield batches without end: normalized float32 (N, C, H, W), or uint8 (N, H, W, C).

    Args:
        photos: what to read.
        batch_size: photos a batch.
        threads: of DALI.
        normalize: whether to hand over normalized float32.
        crop: whether to cut a random part out, or to take photos whole.
    """

    def graph() -> tuple[DataNode, DataNode]:
        encoded, labels = fn.readers.file(
            files=[str(photo.path) for photo in photos],
            labels=[photo.label for photo in photos],
            random_shuffle=True,
            initial_fill=len(photos),
            name="files",
        )
        if crop:
            images = fn.decoders.image_random_crop(
                encoded, device="cpu", output_type=types.RGB, random_area=list(CROP_SCALE)
            )
        else:
            images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        images = fn.resize(images, size=(SIZE, SIZE), antialias=True)
        mirror = fn.random.coin_flip()
        if not normalize:
            return fn.flip(images, horizontal=mirror), labels
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mirror=mirror,
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
        )
        return images, labels

    pipeline = pipeline_def(graph)(
        batch_size=batch_size, num_threads=threads, device_id=None, prefetch_queue_depth=2, seed=0
    )
    pipeline.build()
    # Without a size the iterator never ends: the reader goes from epoch to epoch by itself.
    for (outputs,) in DALIGenericIterator([pipeline], ["images", "labels"], size=-1):
        images: torch.Tensor = outputs["images"]
        yield images
