"""Rows of images hold whole batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.train.small_maps import ROW, images_in_a_row


@given(batch=st.integers(1, 300), width=st.integers(1, 60), gap=st.integers(1, 3))
def test_the_batch_divides_into_whole_rows_that_fit(batch: int, width: int, gap: int) -> None:
    count = images_in_a_row(batch, width, gap)
    assert count >= 1
    assert batch % count == 0
    assert count == 1 or count * (width + gap) <= ROW
