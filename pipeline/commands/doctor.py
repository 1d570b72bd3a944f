"""``dlpipe doctor``: the machine, and for each stage which backends can run on it or why not."""

from __future__ import annotations

import argparse
import ctypes

from rich.console import Console
from rich.table import Table
from rich.text import Text

import pipeline
from pipeline.backend import Backend
from pipeline.device import CPU, Device, cuda_device_count, resolve_device
from pipeline.environment import describe_environment
from pipeline.stage import load_stage, stage_table


def run(_: argparse.Namespace) -> int:
    """Print what to paste into a bug report."""
    console = Console(soft_wrap=True, highlight=False)
    device = resolve_device("auto")
    environment = describe_environment(device, seed=0)
    hardware = environment["hardware"]
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_row("dlpipe", pipeline.__version__)
    facts.add_row("Python", f"{environment['python']} on {environment['platform']}")
    facts.add_row(
        "CPU", f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gb']} GB"
    )
    facts.add_row("CPU features", " ".join(hardware["features"]) or "none that matter")
    facts.add_row("CUDA driver", cuda_driver())
    facts.add_row("device: auto", str(device))
    for name, version in environment["packages"].items():
        facts.add_row(name, version)
    console.print(facts)
    for name in sorted(stage_table(), key=_chain_order):
        backends = load_stage(name).backends
        console.print(f"\n[bold]{name}[/bold]")
        console.print(
            _backend_table(backends, device) if backends else Text("no backends to choose")
        )
    return 0


def cuda_driver() -> str:
    """Return the CUDA driver's version and how many devices it offers, or why there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "none (libcuda.so.1 is not on this machine)"
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    return f"CUDA {major}.{minor}, {cuda_device_count()} device(s)"


def _backend_table(backends: tuple[Backend, ...], device: Device) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for backend in backends:
        reason = backend.why_not(device)
        if reason is not None and device.is_cuda and backend.device == "cpu":
            reason = backend.why_not(CPU)
        details = backend.details() if backend.details and reason is None else backend.summary
        mark = Text("no", style="red") if reason else Text("yes", style="green")
        table.add_row(f"  {backend.name}", mark, Text(reason or details))
    return table


def _chain_order(name: str) -> tuple[int, str]:
    """Order stages as a chain runs them: after those whose artifacts they require."""
    makers = {load_stage(other).produces: other for other in stage_table()}
    needed = [makers[kind] for kind in load_stage(name).requires if kind in makers]
    return 1 + max((_chain_order(other)[0] for other in needed), default=0), name
