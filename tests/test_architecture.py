"""The rules of the house, executed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for folder in ("pipeline", "stages") for p in (ROOT / folder).rglob("*.py"))
HEAVY = (
    "torch", "torchvision", "timm", "nvidia", "tensorrt", "tensorrt_rtx", "onnx", "onnxruntime",
    "tritonclient", "sklearn", "pycuda", "scipy", "tensorboard", "kubernetes_validate",
)  # fmt: skip
LONGEST_FILE = 300


def light_modules() -> list[str]:
    """The first ring: what is imported to read a configuration."""
    names = ["pipeline.cli", "pipeline.runner", "pipeline.commands.doctor", "pipeline.schema"]
    for path in SOURCES:
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name in {"config.py", "stage.py"} and path.parts[-3] == "stages":
            names.append(dotted)
        if path.parts[-2:] == ("backends", "__init__.py"):
            names.append(dotted.removesuffix(".__init__"))
    return names


def test_reading_a_configuration_imports_no_vendor_package() -> None:
    names = light_modules()
    assert {"stages.augment.stage", "stages.train.config", "stages.export.backends"} <= set(names)
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(*sorted({set(HEAVY)!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_command_line_alone_imports_almost_nothing() -> None:
    code = "import pipeline.cli, sys; print('pydantic' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_package_is_the_one_in_this_checkout() -> None:
    assert Path(pipeline.__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.Try):
            imports = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not imports, "an import inside try at module level"


def test_no_test_folder_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_a_gpu_machine_has_the_gpu_packages() -> None:
    from importlib.util import find_spec

    from pipeline.device import cuda_device_count

    if cuda_device_count():
        missing = [name for name in ("pycuda", "tensorrt") if find_spec(name) is None]
        assert missing == [], "pip install 'dlpipe[gpu,tensorrt]'"
