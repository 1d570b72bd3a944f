"""Prepare: what the augment stage makes for texts beside manifests: a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import Tokens
from pipeline.context import Context
from pipeline.files import write_atomic
from stages.augment.paths import user_path
from stages.augment.sources import Source
from stages.augment.text.features import TOKENIZER_FILE, TextFeatures
from stages.augment.text.source import TextSource
from stages.augment.text.tokenizer import (
    bounded,
    describe_tokens,
    load_tokenizer,
    make_tokenizer,
)


def write_tokenizer(
    features: TextFeatures, source: Source, train: Sequence[int], ctx: Context
) -> tuple[Path, Tokens]:
    """Make the tokenizer from the training texts, or copy the one named, into the stage's folder.

    Raises:
        DataError: the one named is damaged or cannot pad, or none can be made from the texts.
    """
    assert isinstance(source, TextSource)
    if features.is_loaded:
        tokenizer = load_tokenizer(user_path(features.tokenizer))
    else:
        tokenizer = make_tokenizer(features, (source.texts[index] for index in train))
    tokens = describe_tokens(tokenizer, features, parts=len(source.texts[train[0]]))
    path = ctx.dir / TOKENIZER_FILE
    write_atomic(path, bounded(tokenizer, features.length).to_str(pretty=False))
    how = "loaded" if features.is_loaded else f"{features.tokenizer} made from {len(train):,} texts"
    ctx.events.info(f"tokenizer: {how}, {tokens.vocabulary:,} tokens")
    return path, tokens
