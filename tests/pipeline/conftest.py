from __future__ import annotations

from pathlib import Path

import pytest

CHAIN = """\
name: toy
stages:
  - write: {uses: "toy_stages:Write", words: [one, two]}
  - count: {uses: "toy_stages:Count", letter: o}
"""


@pytest.fixture
def chain_text() -> str:
    return CHAIN


@pytest.fixture
def chain_file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(CHAIN, encoding="utf-8")
    return path
