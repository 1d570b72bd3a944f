"""Network: from configuration and data to a module, and the reference to rebuild it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from pipeline.artifacts import DataSpec, ModuleRef, Network
from pipeline.context import Context
from pipeline.errors import ConfigError
from pipeline.events import EventLog
from pipeline.ranks import place_from_environment
from stages.augment.loader import open_loader
from stages.train.config import TrainConfig
from stages.train.fff.config import FffConfig
from stages.train.fff.convert import convert
from stages.train.fff.converted import Converted
from stages.train.fff.layer import fast_layers
from stages.train.fff.samples import open_samples
from stages.train.finetune import choose_normalization, find_weights, start_from
from stages.train.models.classifier import Classifier
from stages.train.models.reference import build, reference, without_fff
from stages.train.models.stem import SMALL_IMAGE_PX, has_large_stem, shrink_stem
from stages.train.models.weights_file import WeightsFile
from stages.train.models.whitening import fit_to_images, has_whitening
from stages.train.quicken import quicken
from stages.train.reproducible import random_state_kept


def build_network(
    config: TrainConfig,
    spec: DataSpec,
    ctx: Context,
    converted: Converted | None = None,
    *,
    quiet: bool = False,
    shown: bool = True,
) -> tuple[Classifier, ModuleRef]:
    """Build the network with random or loaded weights, and say how to build it again.

    Args:
        config: of the stage.
        spec: the data.
        ctx: of the stage.
        converted: where a conversion is kept, and taken from if it is there.
        quiet: say nothing but how a conversion goes, which may take long.
        shown: show images to layers that are computed from them; the data has to be there.

    Raises:
        ConfigError: there is no such model, or it does not fit the data.
    """
    events = EventLog() if quiet else ctx.events
    weights = find_weights(config, events)
    mean, std = choose_normalization(config, spec, weights, events)
    ref = reference(config, replace(spec, mean=mean, std=std))
    module = build(ref)
    if config.small_input == "auto" and _wants_small_stem(spec, module, weights):
        shrink_stem(module.body)
        ref = replace(ref, arguments={**ref.arguments, "small_input": True})
        events.info(
            f"small_input: auto gives {config.model} a stem of one 3x3 convolution of stride 1, "
            f"because the images are {spec.width}x{spec.height} (false keeps the faster original)"
        )
    for name, layer in fast_layers(module).items():
        events.info(f"fff: {name}: {layer.active:,} of {len(layer.w_in):,} neurons for a token")
    if config.fff and config.fff.convert:
        if weights is None:
            raise ConfigError(
                "stages.train.fff.convert: there are no weights to convert from. Set pretrained to "
                "a file, or convert: false."
            )
        if converted is None or not converted.load_into(module):
            with random_state_kept():  # what follows finds them alike, converted now or before
                dense = _convert_from(module, ref, weights, config.fff, spec, ctx)
            if converted is not None and not place_from_environment().follows:
                if dense is not None:
                    converted.save_dense(dense)
                converted.save(module)
        else:
            events.info("fff.convert: done before in this run; the network goes on from there")
    elif weights is not None:
        start_from(module, weights, spec, events)
    elif shown:
        _compute_whitening(module, spec, events)
    quicken(module)
    return module, ref


def dense_network(config: TrainConfig, ref: ModuleRef, converted: Converted) -> Network | None:
    """Return the network that was converted to the one of `ref`; None where there is none to use.

    Args:
        config: of the stage.
        ref: of the network with fast layers.
        converted: where the conversion is kept.
    """
    weights = converted.dense() if config.fff and config.fff.convert else None
    return Network(module=without_fff(ref), weights=weights) if weights else None


def _convert_from(
    module: Classifier,
    ref: ModuleRef,
    weights: WeightsFile,
    fff: FffConfig,
    spec: DataSpec,
    ctx: Context,
) -> Classifier | None:
    """Lay the weights over the dense network, and teach the fast layers what its own do.

    Returns:
        The dense network; None where weights left some of it random, so that it cannot be used.
    """
    assert fff.convert
    trained = build(without_fff(ref))
    fit = start_from(trained, weights, spec, ctx.events)
    with open_samples(spec, fff.convert) as samples:
        conversion = convert(trained, module, fff, fff.convert, samples, ctx)
    conversion.save(ctx.dir)
    for line in conversion.lines():
        ctx.events.info(f"fff.convert: {line}")
    return trained if fit.is_whole else None


def _compute_whitening(module: Classifier, spec: DataSpec, events: EventLog) -> None:
    """Show layers that are computed from images their first batch of the train split."""
    if not has_whitening(module):
        return
    with closing(open_loader(spec, "train")) as loader:
        images = next(iter(loader)).inputs
    names = fit_to_images(module, images)
    events.info(f"computed from {len(images)} training images: {', '.join(names)}")


def _wants_small_stem(spec: DataSpec, module: Classifier, weights: WeightsFile | None) -> bool:
    if not has_large_stem(module.body):
        return False
    if weights is not None:
        return weights.note is not None and weights.note.small_input
    return min(spec.height, spec.width) <= SMALL_IMAGE_PX
