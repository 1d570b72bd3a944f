"""session: an engine file, checked and opened on a CUDA device."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np

from pipeline.backend import is_installed
from pipeline.device import Device
from pipeline.errors import BackendUnavailable
from stages.export.engine.manifest import EngineUnusable, Manifest, check_manifest
from stages.export.engine.runner import EngineRunner
from stages.export.engine.slot import Binding


def open_engine(path: Path, device: Device) -> EngineRunner:
    """Check an engine's manifest, load it, and return what runs it.

    Raises:
        EngineUnusable: the engine does not belong here; nothing of it was loaded.
        BackendUnavailable: there is no CUDA device, or a package is missing.
    """
    manifest = check_manifest(path, device)
    if not is_installed("pycuda"):
        raise BackendUnavailable(
            f"{path}: running an engine needs the package 'pycuda', which is not installed; "
            "pip install 'dlpipe[gpu]'."
        )
    import torch

    from stages.export.engine.pycuda_memory import PycudaCuda

    trt = import_module(manifest.api)
    cuda = PycudaCuda(device.index)
    with cuda.active():
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        cuda.close()
        raise EngineUnusable(
            f"{path}: {manifest.api} could not load it; its own message is in the log above. "
            "Build it again on this machine: run the export stage once more."
        )
    return EngineRunner(
        cuda,
        engine.create_execution_context,
        binding_of(manifest),
        torch_device=str(device),
        current_stream=lambda: int(torch.cuda.current_stream(device.index).cuda_stream),
    )


def binding_of(manifest: Manifest) -> Binding:
    """Return names and shapes of the one input and the one output.

    Raises:
        EngineUnusable: the engine has other tensors than images and logits.
    """
    inputs, outputs = manifest.inputs, manifest.outputs
    given = [tensor.dtype for tensor in outputs]
    if [tensor.dtype for tensor in inputs] not in (["uint8"], ["int32"]) or given != ["float32"]:
        raise EngineUnusable(
            f"{manifest.source}: its engine takes {[(t.name, t.dtype) for t in inputs]} and gives "
            f"{[(t.name, t.dtype) for t in outputs]}. Allowed: one uint8 input of "
            "images or int32 input of tokens, one float32 output."
        )
    length = manifest.profile.length
    return Binding(
        input=inputs[0].name,
        input_shape=inputs[0].shape[1:] if length is None else (length.max,),
        input_type=np.uint8 if inputs[0].dtype == "uint8" else np.int32,
        output=outputs[0].name,
        output_shape=outputs[0].shape[1:],
        profile=manifest.profile,
    )
