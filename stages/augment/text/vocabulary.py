"""Vocabulary: the pieces of words that a tokenizer learns from texts, the same each time."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, Trainer, UnigramTrainer, WordPieceTrainer

from pipeline.errors import DataError
from stages.augment.text.features import TextFeatures

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNKNOWN = SPECIAL[1]
_INNER = "##"
"""What WordPiece puts in front of pieces that do not begin a word."""
_DIGITS, _STEP = 6, 1e-4
"""Of Unigram's scores: digits that do not vary, and what lies between those of rare letters."""


def learn_vocabulary(features: TextFeatures, parts: Sequence[str]) -> Tokenizer:
    """Learn a vocabulary, and put it into an order that does not vary.

    The vendor counts words in tables whose order is random. For WordPiece that reaches the numbers
    of the letters within words, and by them which of two equally good pieces is taken; for Unigram
    the last bits of the scores, and the scores of rare letters, which go up in
    steps in that order.

    Raises:
        DataError: the texts have more letters than the vocabulary may have tokens.
    """
    size = features.vocabulary
    match features.tokenizer:
        case "bpe":
            trainer = BpeTrainer(vocab_size=size, special_tokens=[*SPECIAL], show_progress=False)
            tokenizer = _train(models.BPE(unk_token=_UNKNOWN), trainer, features, parts)
        case "unigram":
            tokenizer = _with_model(_unigram(features, parts), features)
        case _:
            letters = _wordpiece(features, parts, SPECIAL, size=0).get_vocab()
            inner = sorted(letter for letter in letters if letter.startswith(_INNER))
            tokenizer = _wordpiece(features, parts, (*SPECIAL, *inner), size)
            model = models.WordPiece(tokenizer.get_vocab(), unk_token=_UNKNOWN)
            tokenizer = _with_model(model, features)
            tokenizer.decoder = decoders.WordPiece()
    if tokenizer.get_vocab_size() > size:
        raise _too_few(size)
    return tokenizer


def _wordpiece(
    features: TextFeatures, parts: Sequence[str], marks: Sequence[str], size: int
) -> Tokenizer:
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=[*marks], show_progress=False)
    return _train(models.WordPiece(unk_token=_UNKNOWN), trainer, features, parts)


def _unigram(features: TextFeatures, parts: Sequence[str]) -> models.Unigram:
    trainer = UnigramTrainer(
        vocab_size=features.vocabulary, special_tokens=[*SPECIAL], unk_token=_UNKNOWN,
        show_progress=False,
    )  # fmt: skip
    try:
        tokenizer = _train(models.Unigram(), trainer, features, parts)
    except Exception as error:  # the vendor raises nothing narrower
        raise _too_few(features.vocabulary) from error
    scored = json.loads(tokenizer.to_str())["model"]["vocab"][len(SPECIAL) :]
    scores = {piece: round(score, _DIGITS) for piece, score in scored}
    reach = min(scores.values(), default=0.0) + _STEP * len(scores)
    rare = [piece for piece, score in scores.items() if len(piece) == 1 and score <= reach]
    scores |= zip(sorted(rare), sorted(scores[piece] for piece in rare), strict=True)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return models.Unigram([*((mark, 0.0) for mark in SPECIAL), *ordered], SPECIAL.index(_UNKNOWN))


def _train(
    model: models.Model, trainer: Trainer, features: TextFeatures, parts: Sequence[str]
) -> Tokenizer:
    tokenizer = _with_model(model, features)
    tokenizer.train_from_iterator(parts, trainer)
    return tokenizer


def _with_model(model: models.Model, features: TextFeatures) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=features.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if tokenizer.get_vocab_size():
        tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    return tokenizer


def _too_few(size: int) -> DataError:
    return DataError(
        f"text.vocabulary: {size:,} tokens are fewer than the training texts have different "
        "letters. Raise it."
    )
