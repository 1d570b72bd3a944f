"""Networks that read tokens: filling changes no answer, and what does not fit is explained."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from stages.train.fff.layer import fast_layers
from stages.train.models.names import ENCODER
from stages.train.models.text import Encoder
from stages.train.models.text_factory import build_text_model

PADDING, SEPARATOR, VOCABULARY, LENGTH = 0, 3, 50, 16
DATA = {
    "classes": 4, "vocabulary": VOCABULARY, "length": LENGTH, "padding": PADDING,
    "separator": SEPARATOR,
}  # fmt: skip
SMALL = {"width": 16, "depth": 2, "heads": 2}


def build(**options: object):
    torch.manual_seed(0)
    return build_text_model(ENCODER, **{**DATA, **SMALL, **options}).eval().double()


def flat(texts: int, **options: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(texts)
    return torch.randint(4, VOCABULARY, (texts, 9), generator=generator, dtype=torch.int32)


@settings(max_examples=25)
@given(length=st.integers(1, 9), more=st.integers(0, 7), texts=st.integers(1, 3))
def test_filling_changes_no_answer(length: int, more: int, texts: int) -> None:
    model, tokens = build(), flat(texts)[:, :length]
    filled = torch.nn.functional.pad(tokens, (0, more), value=PADDING)
    assert torch.allclose(model(filled), model(tokens), rtol=0, atol=1e-9)


def test_a_text_is_answered_the_same_in_any_company() -> None:
    model, tokens = build(), flat(5)
    together = model(tokens)
    for row in range(5):
        assert torch.allclose(model(tokens[row : row + 1])[0], together[row], rtol=0, atol=1e-9)


def test_order_matters_and_a_text_of_filling_alone_has_an_answer() -> None:
    model, tokens = build(), flat(1)
    assert not torch.allclose(model(tokens.flip(1)), model(tokens))
    assert model(torch.full((2, 8), PADDING, dtype=torch.int32)).isfinite().all()


def test_the_second_part_begins_behind_the_first_separator() -> None:
    encoder = build(parts=2).body
    assert isinstance(encoder, Encoder)
    tokens = torch.tensor([[2, 7, SEPARATOR, 8, 9, SEPARATOR, PADDING]])
    assert encoder._part_of(tokens).tolist() == [[0, 0, 0, 1, 1, 1, 1]]


def test_parts_are_told_apart() -> None:
    model = build(parts=2)
    one = torch.tensor([[7, SEPARATOR, 8, 9]], dtype=torch.int32)
    other = torch.tensor([[7, 8, SEPARATOR, 9]], dtype=torch.int32)
    assert model(one).shape == model(other).shape == (1, 4)
    with torch.no_grad():
        model.body.parts.weight.zero_()
    assert not torch.allclose(build(parts=2)(one), model(one))


def test_every_weight_learns() -> None:
    model = build(parts=2).train()
    tokens = flat(8)
    tokens[:, 4] = SEPARATOR
    model(tokens).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_its_feedforward_layers_can_be_fast_ones() -> None:
    model = build(fff={"depth": 3, "trees": 2})
    assert len(fast_layers(model)) == 2
    assert model(flat(3)).shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "resnet18",
            {},
            "'resnet18' has no colon and so is a name of timm, whose models take images",
        ),
        ("nowhere.at_all:net", {}, "there is no module 'nowhere.at_all'"),
        ("stages.train.models.text:encodr", {}, "has no 'encodr'"),
        (ENCODER, {"widht": 8}, "unexpected keyword argument 'widht'"),
        (ENCODER, {"heads": 3}, "width 16 cannot be shared by 3 heads"),
        ("stages.train.models.small:small_resnet", {}, "cannot be built for texts"),
    ],
)
def test_what_does_not_fit_is_explained(name: str, options: dict[str, object], said: str) -> None:
    own = SMALL if name == ENCODER else {}
    with pytest.raises(ConfigError, match=r"stages\.train\.model") as caught:
        build_text_model(name, **{**DATA, **own, **options})
    assert said in str(caught.value)
