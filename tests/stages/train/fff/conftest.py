"""Lets the tests of this folder find their helpers, and compute by every backend in turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stages.train.fff import cmm

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=cmm.backends())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(cmm.VARIABLE, request.param)
    assert cmm.backend() == request.param
    return str(request.param)
