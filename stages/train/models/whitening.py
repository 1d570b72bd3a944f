"""Whitening: a first convolution that is not learned but computed from training images.

Its kernels are the principal axes of the images' patches, each scaled to unit variance, and their
negatives, so that a ReLU behind it keeps both signs. What comes out is decorrelated, which is what
the layers behind it would otherwise spend their first epoch on. The idea is tysam-code's, the form
with negatives Keller Jordan's (airbench, https://arxiv.org/abs/2404.00498, section 3.2).
"""

from __future__ import annotations

import torch
from torch import nn


class WhiteningConv(nn.Conv2d):
    """A frozen convolution without a bias whose kernels whiten the patches of its input."""

    def __init__(
        self, channels: int, kernel_size: int, stride: int = 1, *, regularization: float = 0.01
    ) -> None:
        """Prepare for `channels`; there are twice as many kernels as a patch has values.

        Args:
            channels: of the input.
            kernel_size: side of a patch, in pixels.
            stride: pixels between two patches.
            regularization: added to each variance, so that axes with nothing but noise stay small.
        """
        super().__init__(
            channels,
            2 * channels * kernel_size**2,
            kernel_size,
            stride,
            padding=(kernel_size - stride + 1) // 2,
            bias=False,
        )
        self.weight.requires_grad_(False)
        self.regularization = regularization

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Compute the kernels from normalized images (N, channels, H, W)."""
        size = self.kernel_size[0]
        patches = nn.functional.unfold(images.float(), size, stride=self.stride[0])
        rows = patches.transpose(1, 2).flatten(0, 1).double()  # one patch a row
        variances, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
        # An axis is as good as its negative, and solvers differ in which they give.
        axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)
        kernels = (axes / (variances + self.regularization).sqrt()).T.flip(0)
        both = torch.cat((kernels, -kernels)).view(self.weight.shape)
        self.weight.copy_(both)


def has_whitening(module: nn.Module) -> bool:
    """Tell whether a network has a layer that is computed from training images."""
    return any(isinstance(layer, WhiteningConv) for layer in module.modules())


@torch.no_grad()
def fit_to_images(module: nn.Module, images: torch.Tensor) -> list[str]:
    """Let every layer that is computed from its input see it; return the layers' names.

    Args:
        module: changed in place, where it holds a `WhiteningConv`.
        images: a few hundred training images as the module takes them.
    """
    names = [name for name, layer in module.named_modules() if isinstance(layer, WhiteningConv)]

    def fit(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, WhiteningConv)
        layer.fit(inputs[0])

    handles = [module.get_submodule(name).register_forward_pre_hook(fit) for name in names]
    was_training = module.training
    try:
        module.eval()(images)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return names
