"""Chapter: what the report shows of texts: how long they are, and some of them as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.report.blocks import Table
from stages.augment.chapter import FactRows
from stages.augment.loader import preprocess_texts, read_texts
from stages.augment.reader import TextReader, open_reader
from stages.augment.sources import Finding
from stages.augment.text.features import TextFeatures
from stages.augment.text.tokenizer import load_tokenizer, unknown_of

MAX_CLASSES = 12
_SAMPLED = 4096
_SHOWN_TOKENS = 12
_SHOWN_LETTERS = 300


def text_facts(findings: Sequence[Finding], spec: DataSpec, features: TextFeatures) -> FactRows:
    """Return how long the texts are, and what the tokenizer makes of them."""
    assert spec.tokens is not None
    words = sorted(finding.words for finding in findings)
    assert spec.preprocess is not None
    lengths, unknown = _sampled(spec, load_tokenizer(spec.preprocess))
    cut = float((lengths >= spec.tokens.length).mean())
    return (
        ("Words, least / median / most", f"{words[0]} / {words[len(words) // 2]} / {words[-1]}"),
        (
            "Tokens, least / median / most",
            f"{lengths.min()} / {int(np.median(lengths))} / {lengths.max()}",
        ),
        ("Texts as long as allowed, so perhaps cut", f"{cut:.2%} at {spec.tokens.length} tokens"),
        ("Unknown tokens", unknown),
        ("Tokenizer", f"{features.tokenizer}, {spec.tokens.vocabulary:,} tokens"),
    )


def text_table(spec: DataSpec, ctx: Context) -> Table:
    """Show one training text of each of the first classes, and its tokens."""
    reader = open_reader(spec, "train")
    assert isinstance(reader, TextReader)
    assert spec.preprocess is not None
    tokenizer = load_tokenizer(spec.preprocess)
    rows: list[tuple[str, str, str]] = []
    for label, name in enumerate(spec.classes[:MAX_CLASSES]):
        ctx.stop.check()
        positions = np.flatnonzero(reader.labels == label)
        if not len(positions):
            continue  # limit_batches left none of it
        text = reader.texts[positions[0]]
        tokens = preprocess_texts(spec, [text])[0]
        pieces = [
            str(tokenizer.id_to_token(int(each))) for each in tokens if each != _padding(spec)
        ]
        more = " ..." if len(pieces) > _SHOWN_TOKENS else ""
        shown = shorten(" | ".join(text), _SHOWN_LETTERS, placeholder=" ...")
        rows.append((name, shown, " ".join(pieces[:_SHOWN_TOKENS]) + more))
    return Table(
        title="Training texts",
        columns=("class", "text", "tokens"),
        rows=tuple(rows),
        caption="One of each class, and what the model sees of it outside training.",
    )


def _sampled(spec: DataSpec, tokenizer: Tokenizer) -> tuple[NDArray[np.int64], str]:
    """Return how many tokens some training texts have, and the share of them that is unknown."""
    texts = read_texts(spec, "train")
    tokens = preprocess_texts(spec, texts[:: -(-len(texts) // _SAMPLED)])  # (n, L)
    lengths: NDArray[np.int64] = (tokens != _padding(spec)).sum(axis=1)
    unknown = unknown_of(tokenizer)
    if unknown is None:
        return lengths, "none: the tokenizer has no such token"
    return lengths, f"{(tokens == unknown).sum() / max(lengths.sum(), 1):.2%}"


def _padding(spec: DataSpec) -> int:
    assert spec.tokens is not None
    return spec.tokens.padding
