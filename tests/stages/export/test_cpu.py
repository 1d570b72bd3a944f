from __future__ import annotations

import pytest

from stages.export.cpu import parse_flags, relevant_flags, saturates

X86 = "processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\nprocessor\t: 1\nflags\t: fpu\n"
ARM = "processor : 0\nFeatures : fp asimd asimddp\n"


def test_the_flags_of_the_first_processor_are_read():
    assert parse_flags(X86) == {"fpu", "avx2", "avx512_vnni"}
    assert parse_flags(ARM) == {"fp", "asimd", "asimddp"}
    assert parse_flags("") == frozenset()


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"avx2"}, True),
        ("x86_64", set(), True),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("x86_64", {"avx512f", "avx512_vnni"}, False),
        ("aarch64", {"asimd"}, False),
    ],
)
def test_only_x86_without_vnni_saturates(machine, flags, expected):
    assert saturates(machine, frozenset(flags)) is expected


def test_something_is_always_said_about_the_cpu():
    assert relevant_flags()
