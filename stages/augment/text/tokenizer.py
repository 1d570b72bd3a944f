"""Tokenizer: made from the training texts or loaded, and asked what a model has to know of it.

A text is a tuple of one part, or of two (a question and what it is about); two parts become
``[CLS] first [SEP] second [SEP]`` and are cut at the longer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from pipeline.artifacts import Tokens
from pipeline.errors import DataError
from stages.augment.text.features import TextFeatures
from stages.augment.text.vocabulary import SPECIAL, learn_vocabulary

Text = tuple[str, ...]

_PADDING, _UNKNOWN, _START, _END, _MASK = SPECIAL
_PADDINGS = (_PADDING, "<pad>", "<|padding|>", "<|endoftext|>")
_ENDS = (_END, "</s>", "<|endoftext|>")
_MASKS = (_MASK, "<mask>")
_UNKNOWNS = (_UNKNOWN, "<unk>")


def make_tokenizer(features: TextFeatures, texts: Iterable[Text]) -> Tokenizer:
    """Learn a vocabulary from training texts; the same texts give the same tokenizer.

    Raises:
        DataError: the texts have more letters than the vocabulary, or none at all.
    """
    parts = [part for text in texts for part in text]
    tokenizer = learn_vocabulary(features, parts)
    if tokenizer.get_vocab_size() == len(SPECIAL):
        raise DataError(
            "text: the training texts hold no letter, only blanks and control characters. "
            "Check dataset.column."
        )
    numbers = [(mark, tokenizer.token_to_id(mark)) for mark in (_START, _END)]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{_START} $A {_END}", pair=f"{_START} $A {_END} $B:1 {_END}:1",
        special_tokens=numbers,
    )  # fmt: skip
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the tokenizer cannot be read: {error}. Mend the path.") from error
    except Exception as error:  # the vendor raises nothing narrower
        raise DataError(
            f"{path}: is no tokenizer.json of the tokenizers package: {error}. Save one with "
            "Tokenizer.save(), or let dlpipe make one (tokenizer: wordpiece)."
        ) from error
    return tokenizer


def bounded(tokenizer: Tokenizer, length: int) -> Tokenizer:
    """Let a tokenizer cut texts to `length` tokens; batches are padded elsewhere.

    What looks like a mark in a text, a written ``[SEP]``, is text.
    """
    tokenizer.encode_special_tokens = True
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    return tokenizer


def describe_tokens(tokenizer: Tokenizer, features: TextFeatures, parts: int) -> Tokens:
    """Return what a model has to know of its tokens.

    Args:
        tokenizer: before `bounded`, which forgets the padding of a loaded one.
        features: for the length.
        parts: of a text, 1 or 2.

    Raises:
        DataError: there is no token to pad with.
    """
    padding = (tokenizer.padding or {}).get("pad_id", _first(tokenizer, _PADDINGS))
    if padding is None:
        raise DataError(
            f"{features.tokenizer}: the tokenizer has no token to pad with. Give it one of "
            f"{', '.join(_PADDINGS)}, or call its enable_padding()."
        )
    separator = _first(tokenizer, _ENDS)
    return Tokens(
        vocabulary=max(padding, *tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        length=features.length,
        padding=padding,
        separator=padding if separator is None else separator,
        parts=parts,
    )


def mask_of(tokenizer: Tokenizer) -> int | None:
    """Return the number of the token that hides others, if the tokenizer has one."""
    return _first(tokenizer, _MASKS)


def unknown_of(tokenizer: Tokenizer) -> int | None:
    """Return the number of the token that stands for what has no other, if there is one."""
    return _first(tokenizer, _UNKNOWNS)


def encode(tokenizer: Tokenizer, texts: Sequence[Text]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens of each text, and for each of them 1 where it is a mark and no text.

    Raises:
        DataError: the tokenizer has no token for a text.
    """
    given = [text[0] if len(text) == 1 else text for text in texts]
    try:
        encoded = tokenizer.encode_batch(given)
    except Exception as error:  # the vendor raises nothing narrower
        raise DataError(
            f"the tokenizer cannot split the texts: {error}. Load one that has a token for what "
            "it does not know, or let dlpipe make one (tokenizer: wordpiece)."
        ) from error
    return [each.ids for each in encoded], [each.special_tokens_mask for each in encoded]


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    numbers = (tokenizer.token_to_id(name) for name in names)
    return next((number for number in numbers if number is not None), None)
