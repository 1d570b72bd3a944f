from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import RunLocked
from pipeline.lock import hold_lock

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RunLocked, match=f"process {holder.pid} on"), hold_lock(tmp_path):
            pass
        holder.kill()
    for _ in range(50):
        try:
            with hold_lock(tmp_path):
                return
        except RunLocked:
            time.sleep(0.1)
    pytest.fail("the lock outlived its holder")
