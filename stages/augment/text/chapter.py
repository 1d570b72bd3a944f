"""Chapter: what the report shows of texts: how long they are, and some of them as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.artifacts import DataSpec
from pipeline.report.blocks import Table
from stages.augment.chapter import FactRows
from stages.augment.loader import preprocess_texts
from stages.augment.reader import TextReader, open_reader
from stages.augment.sources import Finding
from stages.augment.text.features import TextFeatures
from stages.augment.text.tokenizer import load_tokenizer, unknown_of

MAX_CLASSES = 12
_SAMPLED = 4096
_SHOWN_TOKENS = 12
_SHOWN_LETTERS = 300


def show_texts(
    findings: Sequence[Finding], spec: DataSpec, features: TextFeatures
) -> tuple[Table, FactRows]:
    """Return some training texts as tokens, and how long all are.

    Args:
        findings: of the texts in use.
        spec: with its tokenizer.
        features: for the tokenizer's name.
    """
    assert spec.preprocess is not None
    reader = open_reader(spec, "train")
    assert isinstance(reader, TextReader)
    tokenizer = load_tokenizer(spec.preprocess)
    return _examples(spec, reader, tokenizer), _facts(findings, spec, features, reader, tokenizer)


def _facts(
    findings: Sequence[Finding],
    spec: DataSpec,
    features: TextFeatures,
    reader: TextReader,
    tokenizer: Tokenizer,
) -> FactRows:
    assert spec.tokens is not None
    words = sorted(finding.words for finding in findings)
    texts = reader.texts[:: -(-len(reader.texts) // _SAMPLED)]
    tokens = preprocess_texts(spec, texts)  # (n, L)
    lengths: NDArray[np.int64] = (tokens != spec.tokens.padding).sum(axis=1)
    cut = float((lengths >= spec.tokens.length).mean())
    unknown = unknown_of(tokenizer)
    share = f"{(tokens == unknown).sum() / max(lengths.sum(), 1):.2%}"
    return (
        ("Words, least / median / most", f"{words[0]} / {words[len(words) // 2]} / {words[-1]}"),
        (
            "Tokens, least / median / most",
            f"{lengths.min()} / {int(np.median(lengths))} / {lengths.max()}",
        ),
        ("Texts as long as allowed, so perhaps cut", f"{cut:.2%} at {spec.tokens.length} tokens"),
        (
            "Unknown tokens",
            "none: the tokenizer has no such token" if unknown is None else share,
        ),
        ("Tokenizer", f"{features.tokenizer}, {spec.tokens.vocabulary:,} tokens"),
    )


def _examples(spec: DataSpec, reader: TextReader, tokenizer: Tokenizer) -> Table:
    """Show one training text of each of the first classes, and its tokens."""
    assert spec.tokens is not None
    first: dict[int, tuple[str, ...]] = {}
    for label, text in zip(reader.labels.tolist(), reader.texts, strict=True):
        if label < MAX_CLASSES:  # limit_batches may leave none of a class
            first.setdefault(label, text)
    rows: list[tuple[str, str, str]] = []
    labels = sorted(first)
    every = preprocess_texts(spec, [first[label] for label in labels])
    for label, tokens in zip(labels, every, strict=True):
        real = [int(each) for each in tokens if each != spec.tokens.padding]
        pieces = [str(tokenizer.id_to_token(each)) for each in real]
        more = " ..." if len(pieces) > _SHOWN_TOKENS else ""
        shown = shorten(" | ".join(first[label]), _SHOWN_LETTERS, placeholder=" ...")
        rows.append((spec.classes[label], shown, " ".join(pieces[:_SHOWN_TOKENS]) + more))
    return Table(
        title="Training texts",
        columns=("class", "text", "tokens"),
        rows=tuple(rows),
        caption="One of each class, and what the model sees of it outside training.",
    )
