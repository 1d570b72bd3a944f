"""Freed memory is kept while training runs, and given back afterwards."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

BLOCKS = """
import resource, torch
from stages.train.allocator import freed_memory_kept

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**21 + i) for i in range(12)]  # 12 blocks of 8 MiB
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults_of_a_step()
usual = faults_of_a_step()
with freed_memory_kept():
    for _ in range(4):
        faults_of_a_step()
    kept = sum(faults_of_a_step() for _ in range(16)) / 16
print(usual, kept, faults_of_a_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_later_steps_take_the_pages_of_the_first():
    command = [sys.executable, "-c", BLOCKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    usual, kept, afterwards = map(float, done.stdout.split())
    pages = 12 * 2**23 // resource.getpagesize()
    assert usual >= 0.9 * pages
    assert kept < pages / 10  # a block now and then: where addresses fall, free space is split
    assert afterwards >= pages / 2
