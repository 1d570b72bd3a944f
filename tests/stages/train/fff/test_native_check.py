"""The kernels against sums in float64, without Python: on this processor, and on Arm in emulation.

native_check.cpp is built with the options of CMakeLists.txt, and says itself what is wrong.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.train.fff import cmm

ROOT = Path(__file__).parents[4]
NATIVE = ROOT / "stages" / "train" / "fff" / "native"
CHECK = Path(__file__).with_name("native_check.cpp")
ARM_COMPILER, ARM_READER, EMULATOR = (
    "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64",
)  # fmt: skip
HOST_COMPILER = os.environ.get("CXX", "c++")
IS_X86 = platform.machine() in {"x86_64", "AMD64"}


def needs(*commands: str) -> pytest.MarkDecorator:
    missing = [command for command in commands if not shutil.which(command)]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: not installed")


def done(*command: str | Path) -> str:
    """Return what a command prints; where it fails, so does the test, with what it printed."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def options_of(source: Path) -> list[str]:
    """Return the options that CMakeLists.txt gives the compiler for a source."""
    rules = (ROOT / "CMakeLists.txt").read_text()

    def found(pattern: str) -> str:
        match = re.search(pattern, rules)
        return match[1] if match else ""

    common = found(r"target_compile_options\(cmm PRIVATE ([^)]*)\)").split()
    assert "-O3" in common
    own = found(rf'/{re.escape(source.name)}\s+PROPERTIES COMPILE_OPTIONS "([^"]*)"')
    own = own.replace("${avx512}", ";".join(found(r"set\(avx512 ([^)]*)\)").split()))
    return ["-std=c++17", "-fPIC", f"-I{NATIVE}", *common, *filter(None, own.split(";"))]


def compiled(compiler: str, sources: Iterable[Path], folder: Path, *more: str) -> list[Path]:
    """Return the objects of sources."""

    def one(source: Path) -> Path:
        made = folder / f"{source.stem}.o"
        done(compiler, *options_of(source), *more, "-c", source, "-o", made)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, sources))


@pytest.mark.slow
@needs(HOST_COMPILER)
def test_all_instruction_sets_of_this_processor_are_right(tmp_path: Path) -> None:
    names = ["isa_plain.cpp", "run.cpp"]
    names += ["isa_avx2.cpp", "isa_avx512.cpp", "isa_avx512_bf16.cpp"] if IS_X86 else []
    more = ["-O1", *(["-DCMM_X86"] if IS_X86 else [])]  # test_cmm.py asks those that are installed
    sources = [CHECK, *(NATIVE / name for name in names)]
    objects = compiled(HOST_COMPILER, sources, tmp_path, *more)
    done(HOST_COMPILER, *objects, "-pthread", "-o", tmp_path / "check")
    checked = re.findall(r"^(\w+): largest relative error ", done(tmp_path / "check"), re.MULTILINE)
    assert "plain" in checked
    if any(name.startswith("native:") for name in cmm.backends()):
        assert [f"native:{isa}" for isa in checked] == cmm.backends()[: len(checked)]


@pytest.fixture(scope="module")
def arm_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The check and the kernels, for Arm."""
    sources = [CHECK, NATIVE / "isa_plain.cpp", NATIVE / "run.cpp"]
    objects = compiled(ARM_COMPILER, sources, tmp_path_factory.mktemp("arm"))
    return {each.stem: each for each in objects}


@pytest.mark.slow
@needs(ARM_COMPILER, EMULATOR)
def test_neon_is_right_in_emulation(arm_objects: dict[str, Path], tmp_path: Path) -> None:
    check = tmp_path / "check"
    done(ARM_COMPILER, "-static", *arm_objects.values(), "-pthread", "-o", check)
    assert done(EMULATOR, check).startswith("neon: largest relative error ")


@needs(ARM_COMPILER, ARM_READER)
def test_neon_multiplies_and_adds_four_floats_in_one_instruction(
    arm_objects: dict[str, Path],
) -> None:
    code = done(ARM_READER, "-d", "--no-show-raw-insn", arm_objects["isa_plain"])
    assert len(re.findall(r"\tfmla\t.*\.4s", code)) > 300
    assert "ldrsb" not in code  # bytes are widened four at a time


@needs(ARM_COMPILER)
def test_the_operator_of_onnx_runtime_is_built_for_arm(
    arm_objects: dict[str, Path], tmp_path: Path
) -> None:
    operator = compiled(ARM_COMPILER, [NATIVE / "onnx_operator.cpp"], tmp_path)
    kernels = [arm_objects["isa_plain"], arm_objects["run"]]
    options = ["-shared", "-pthread", "-Wl,-z,nodelete", "-Wl,--no-undefined"]
    done(ARM_COMPILER, *options, *operator, *kernels, "-o", tmp_path / "library.so")
