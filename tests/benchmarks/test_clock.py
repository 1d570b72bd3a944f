"""CPU time counts children, living and ended."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.clock import Stopwatch, cpu_seconds, machine_busy_s
from benchmarks.machine import Watch

SPIN = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


def test_a_child_that_lives_and_one_that_has_ended_are_both_counted():
    watch = Stopwatch()
    subprocess.run([sys.executable, "-c", SPIN], check=True)
    ended = watch.cpu_s
    assert ended >= 0.3
    script = f"{SPIN}print('spun', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert watch.cpu_s - ended >= 0.25, "a living child counts, to the kernel's tick"
        child.communicate(b"\n")
    assert watch.cpu_s >= 0.6


def test_cpu_time_only_grows():
    assert cpu_seconds() <= cpu_seconds()
    assert machine_busy_s() <= machine_busy_s()


def test_the_machine_is_described_with_its_load():
    machine, load = Watch().lines()
    assert "cores" in machine
    assert "before" in load
    assert "after" in load
