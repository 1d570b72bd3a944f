from __future__ import annotations

import pytest

from pipeline.backend import Backend, available, is_installed, select
from pipeline.device import CPU, Device
from pipeline.errors import BackendUnavailable

GPU = Device("cuda", 0)
FAST = Backend(name="fast", module="json", device="cuda")
MISSING = Backend(name="missing", module="json", needs=("no_such_package",), extra="extra")
PLAIN = Backend(name="plain", module="json")
TABLE = (FAST, MISSING, PLAIN)


def test_auto_takes_the_first_that_can_run_and_says_why_not_a_better_one() -> None:
    chosen = select(TABLE, "auto", CPU, where="s.backend")
    assert chosen.backend is PLAIN
    assert "fast: needs a cuda device" in chosen.reason
    assert "missing: needs the package 'no_such_package'" in chosen.reason
    assert select(TABLE, "auto", GPU, where="s.backend").backend is FAST


def test_a_named_backend_never_falls_back() -> None:
    with pytest.raises(
        BackendUnavailable, match=r"'missing' needs .* pip install 'dlpipe\[extra\]'"
    ):
        select(TABLE, "missing", CPU, where="s.backend")
    with pytest.raises(BackendUnavailable, match=r"Or use 'plain'\."):
        select(TABLE, "fast", CPU, where="s.backend")


def test_an_unknown_backend_suggests_the_nearest() -> None:
    with pytest.raises(BackendUnavailable, match=r"'plane' is no backend.*Did you mean 'plain'\?"):
        select(TABLE, "plane", CPU, where="s.backend")


def test_a_backend_from_elsewhere_is_named_by_its_dotted_path() -> None:
    assert select(TABLE, "toy_stages:QUILL", CPU, where="s.backend").backend.name == "quill"
    with pytest.raises(BackendUnavailable, match="'toy_stages:Write' is a type"):
        select(TABLE, "toy_stages:Write", CPU, where="s.backend")
    with pytest.raises(BackendUnavailable, match="'nowhere:B' cannot be imported"):
        select(TABLE, "nowhere:B", CPU, where="s.backend")


def test_no_backend_at_all_lists_every_reason() -> None:
    with pytest.raises(BackendUnavailable, match="no backend can run here. fast: .*; missing: "):
        select((FAST, MISSING), "auto", CPU, where="s.backend")


def test_a_probe_has_the_last_word() -> None:
    broken = Backend(name="broken", module="json", probe=lambda: "is broken")
    assert broken.why_not(CPU) == "is broken"
    assert available((broken, PLAIN), CPU) == (PLAIN,)


def test_a_program_has_to_be_on_path() -> None:
    backend = Backend(name="b", module="json", programs=("no-such-program",))
    assert backend.why_not(CPU) == "needs the program 'no-such-program' on PATH"


def test_a_package_is_looked_for_without_importing_it() -> None:
    assert is_installed("json.decoder")
    assert not is_installed("no_such_package.sub.module")
