"""Tokenizer: made from the training texts or loaded, and asked what a model has to know of it.

A text is a tuple of one part, or of two (a question and what it is about); two parts become
``[CLS] first [SEP] second [SEP]`` and are cut at the longer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, Trainer, UnigramTrainer, WordPieceTrainer

from pipeline.artifacts import Tokens
from pipeline.errors import DataError
from stages.augment.text.features import TextFeatures

Text = tuple[str, ...]

_PADDING, _UNKNOWN, _START, _END, _MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PADDINGS = (_PADDING, "<pad>", "<|padding|>", "<|endoftext|>")
_ENDS = (_END, "</s>", "<|endoftext|>")
_MASKS = (_MASK, "<mask>")


def make_tokenizer(features: TextFeatures, texts: Iterable[Text]) -> Tokenizer:
    """Learn a vocabulary from training texts; the same texts give the same tokenizer."""
    tokenizer, trainer = _untrained(features)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=features.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator((part for text in texts for part in text), trainer)
    numbers = [(mark, tokenizer.token_to_id(mark)) for mark in (_START, _END)]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{_START} $A {_END}", pair=f"{_START} $A {_END} $B:1 {_END}:1",
        special_tokens=numbers,
    )  # fmt: skip
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        DataError: the file is missing or damaged, or its tokenizer has nothing to pad with.
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
    if _first(tokenizer, _PADDINGS) is None and tokenizer.padding is None:
        raise DataError(
            f"{path}: the tokenizer has no token to pad with. Give it one of "
            f"{', '.join(_PADDINGS)}, or call its enable_padding()."
        )
    return tokenizer


def bounded(tokenizer: Tokenizer, length: int) -> Tokenizer:
    """Let a tokenizer cut texts to `length` tokens; batches are padded elsewhere."""
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    return tokenizer


def describe_tokens(tokenizer: Tokenizer, features: TextFeatures, parts: int) -> Tokens:
    """Return what a model has to know of its tokens.

    Args:
        tokenizer: before `bounded`, which forgets the padding of a loaded one.
        features: for the length.
        parts: of a text, 1 or 2.
    """
    padding = (tokenizer.padding or {}).get("pad_id", _first(tokenizer, _PADDINGS))
    assert padding is not None, "load_tokenizer has looked"
    separator = _first(tokenizer, _ENDS)
    return Tokens(
        vocabulary=tokenizer.get_vocab_size(with_added_tokens=True),
        length=features.length,
        padding=padding,
        separator=padding if separator is None else separator,
        parts=parts,
    )


def mask_of(tokenizer: Tokenizer) -> int | None:
    """Return the number of the token that hides others, if the tokenizer has one."""
    return _first(tokenizer, _MASKS)


def encode(tokenizer: Tokenizer, texts: Sequence[Text]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens of each text, and for each of them 1 where it is a mark and no text."""
    given = [text[0] if len(text) == 1 else text for text in texts]
    encoded = tokenizer.encode_batch(given)
    return [each.ids for each in encoded], [each.special_tokens_mask for each in encoded]


def _untrained(features: TextFeatures) -> tuple[Tokenizer, Trainer]:
    marks = [AddedToken(mark, special=True) for mark in SPECIAL]
    size = features.vocabulary
    match features.tokenizer:
        case "bpe":
            trainer = BpeTrainer(vocab_size=size, special_tokens=marks, show_progress=False)
            return Tokenizer(models.BPE(unk_token=_UNKNOWN)), trainer
        case "unigram":
            return Tokenizer(models.Unigram()), UnigramTrainer(
                vocab_size=size, special_tokens=marks, unk_token=_UNKNOWN, show_progress=False
            )
    tokenizer = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, WordPieceTrainer(vocab_size=size, special_tokens=marks, show_progress=False)


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    numbers = (tokenizer.token_to_id(name) for name in names)
    return next((number for number in numbers if number is not None), None)
