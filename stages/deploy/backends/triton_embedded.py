"""The real tritonserver inside the nvidia-pytriton wheel, with its Python backend."""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from stages.deploy.backends import Launch, Program, Runtime, shared_libpython

RUNTIME: Runtime = "python"


def program(launch: Launch) -> Program | None:
    """Return how to start the wheel's server on a repository."""
    root = wheel_folder()
    libraries = [str(root.parent / "nvidia_pytriton.libs")]
    libpython = shared_libpython()
    if libpython is not None and libpython.is_absolute():
        libraries.append(str(libpython.parent))
    if "LD_LIBRARY_PATH" in os.environ:
        libraries.append(os.environ["LD_LIBRARY_PATH"])
    return Program(
        argv=(str(root / "tritonserver" / "bin" / "tritonserver"),),
        repository=str(launch.mirror()),
        env={
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "DLPIPE_SITE_PACKAGES": os.pathsep.join(site_packages()),
            # An instance is one core's worth of work: no library may add threads of its own.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        flags=(
            f"--backend-directory={link_backends(root, launch.work_dir)}",
            "--allow-gpu-metrics=false",
        ),
    )


def wheel_folder() -> Path:
    """Return the folder of the package `pytriton` without importing it."""
    spec = find_spec("pytriton")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def site_packages() -> list[str]:
    """Return the folders in which this environment keeps its packages."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys([paths["purelib"], paths["platlib"]]))


def link_backends(root: Path, work_dir: Path) -> Path:
    """Lay out a backend directory: the wheel keeps its stubs, one a Python version, elsewhere."""
    server = root / "tritonserver"
    backends = work_dir / "backends"
    python = backends / "python"
    python.mkdir(parents=True, exist_ok=True)
    stub_name = "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    sources = [
        server / "backends" / "python" / "libtriton_python.so",
        server / "backends" / "python" / "triton_python_backend_utils.py",
        server / "python_backend_stubs" / version / stub_name,
    ]
    for source in sources:
        link = python / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    return backends
