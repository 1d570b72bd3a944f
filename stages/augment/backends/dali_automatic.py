"""RandAugment, TrivialAugment and AutoAugment from DALI's own suites.

DALI's ready-made functions draw inside the graph. Here the same suites and policies are applied
to choices that come in with the batch, so that the graph stays free of random state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.auto_aug.augmentations import identity
from nvidia.dali.auto_aug.auto_augment import get_image_net_policy
from nvidia.dali.auto_aug.core import Policy, select, signed_bin
from nvidia.dali.auto_aug.core._augmentation import Augmentation
from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
from nvidia.dali.auto_aug.trivial_augment import get_trivial_augment_wide_suite
from nvidia.dali.data_node import DataNode

from stages.augment.operations import AutoAugment, Automatic, RandAugment
from stages.augment.plan import Plan

_NUM_BINS = 31
_BLACK = 0


def augment_automatically(
    images: DataNode, plan: Plan, operation: Automatic, drawn: DataNode
) -> DataNode:
    """Apply the operation; `drawn` holds, for each of its stages, three numbers from 0 to 1."""
    gray = plan.channels == 1
    if gray:  # some augmentations change the saturation, which takes three channels
        images = fn.color_space_conversion(images, image_type=types.GRAY, output_type=types.RGB)
    if isinstance(operation, RandAugment):
        suite = get_rand_augment_suite(use_shape=True)
        for stage in range(operation.n):
            choice, sign = drawn[3 * stage], drawn[3 * stage + 2]
            chosen = _whole(choice, len(suite))
            images = _apply(images, plan, suite, chosen, operation.m, sign, _NUM_BINS)
    elif isinstance(operation, AutoAugment):
        images = _apply_policy(images, plan, get_image_net_policy(use_shape=True), drawn)
    else:
        suite = get_trivial_augment_wide_suite(use_shape=True)
        strength = _whole(drawn[1], _NUM_BINS)
        chosen = _whole(drawn[0], len(suite))
        images = _apply(images, plan, suite, chosen, strength, drawn[2], _NUM_BINS)
    if gray:
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
    return images


def _apply_policy(images: DataNode, plan: Plan, policy: Policy, drawn: DataNode) -> DataNode:
    """Apply one of the policy's short chains, each of its links with its own probability."""
    chosen = _whole(drawn[0], len(policy.sub_policies))
    for stage in range(2):
        links = [
            chain[stage] if stage < len(chain) else (identity, 0.0, None)
            for chain in policy.sub_policies
        ]
        suite = [*dict.fromkeys(link[0] for link in links if link[0] is not identity), identity]
        ids = _table([suite.index(link[0]) for link in links], np.int32)[chosen]
        bins = _table([link[2] or 0 for link in links], np.int32)[chosen]
        happens = drawn[3 * stage + 1] < _table([link[1] for link in links], np.float32)[chosen]
        last = len(suite) - 1
        ids = fn.cast(last + (ids - last) * happens, dtype=types.INT32)
        sign = drawn[3 * stage + 2]
        images = _apply(images, plan, suite, ids, bins, sign, policy.num_magnitude_bins)
    return images


def _apply(
    images: DataNode,
    plan: Plan,
    suite: Sequence[Augmentation],
    chosen: DataNode,
    strength: DataNode | int,
    sign: DataNode,
    num_bins: int,
) -> DataNode:
    return select(
        list(suite),
        chosen,
        data=images,
        magnitude_bin=signed_bin(strength, random_sign=_whole(sign, 2)),
        num_magnitude_bins=num_bins,
        shape=(plan.height, plan.width),
        fill_value=_BLACK,
        interp_type=None,
    )


def _whole(drawn: DataNode, bound: int) -> DataNode:
    """Turn a number from 0 to 1 into a whole one from 0 to bound - 1."""
    return fn.cast(math.floor(drawn * bound), dtype=types.INT32)


def _table(values: Sequence[float], dtype: type[np.generic]) -> DataNode:
    return types.Constant(np.array(values, dtype=dtype))
