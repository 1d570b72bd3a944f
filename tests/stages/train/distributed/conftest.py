"""One process that imports everything, and forks the ranks of every scenario."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
LIMIT_S = 400


def load_neighbour(name: str) -> ModuleType:
    """Import a module beside this one; tests are no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Attempts:
    """How each scenario went: the attempts under a name, each a report of every rank."""

    folder: Path
    reports: dict[str, list[list[dict[str, object]]]]

    nets: Path = HERE
    """Where the networks' module lies."""

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / name / "model.safetensors")

    def metrics(self, name: str) -> dict[str, float]:
        found = self.reports[name][-1][0]["metrics"]
        assert isinstance(found, dict)
        return found

    def errors(self, name: str, attempt: int = 0) -> list[str]:
        return [str(rank.get("error", "")) for rank in self.reports[name][attempt]]

    def difference(self, one: str, other: str) -> float:
        a, b = self.weights(one), self.weights(other)
        return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


@pytest.fixture(scope="session")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Attempts:
    folder = tmp_path_factory.mktemp("ranks")
    scenarios = load_neighbour("scenarios").SCENARIOS
    ran = subprocess.run(
        [sys.executable, str(HERE / "ranks.py"), str(folder)],
        input=json.dumps(scenarios), capture_output=True, text=True, timeout=LIMIT_S,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    reports: dict[str, list[list[dict[str, object]]]] = {}
    for one, report in zip(scenarios, json.loads(ran.stdout), strict=True):
        reports.setdefault(one["name"], []).append(report)
    return Attempts(folder, reports)


Neighbour = Callable[[str], ModuleType]


@pytest.fixture(scope="session")
def neighbour() -> Neighbour:
    return load_neighbour
