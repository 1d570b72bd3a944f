"""Backends of the augment stage: what decodes and transforms images, best first."""

from __future__ import annotations

from pipeline.backend import Backend

BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="dali-gpu",
        module="stages.augment.backends.dali",
        summary="NVIDIA DALI with nvJPEG and GPU operators",
        needs=("nvidia.dali",),
        extra="dali",
        device="cuda",
    ),
    Backend(
        name="dali-cpu",
        module="stages.augment.backends.dali",
        summary="NVIDIA DALI, the same graph on CPU operators",
        needs=("nvidia.dali",),
        extra="dali",
    ),
    Backend(
        name="torchvision",
        module="stages.augment.backends.torchvision",
        summary="torchvision on tensors, image by image; scaled decoding of large JPEGs",
        needs=("torchvision",),
    ),
    Backend(
        name="array",
        module="stages.augment.backends.array",
        summary="torch on whole batches of small images that are held in memory",
        needs=("torch",),
    ),
)
