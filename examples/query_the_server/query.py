"""Ask a served model: by a file's bytes, by raw tensors over HTTP and gRPC, or by a text.

    dlpipe serve quickstart                                     # in one terminal
    python examples/query_the_server/query.py digit.png --model digits
    python examples/query_the_server/query.py yes.wav --model keywords
    python examples/query_the_server/query.py --text "a library for parsing" --model packages

Images go as bytes and as tensors, sounds as bytes: their spectrograms are made on the server. Bytes
are prepared there as for training; a tensor is only stretched to the model's size here, so where
training cuts out the middle, the two may differ. A text goes as it is, or as two parts if the model
was trained on pairs.
Needs tritonclient, numpy and Pillow, and nothing of dlpipe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

SOUNDS = (".wav", ".flac", ".ogg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--text", nargs="+", metavar="PART", help="a text, in one part or two")
    parser.add_argument("--model", default="classifier", help="deploy.model_name of the run")
    parser.add_argument("--http", default="127.0.0.1:8000")
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    options = parser.parse_args()
    try:
        ask(options)
    except InferenceServerException as error:
        sys.exit(f"{options.http}: {error.message()}")


def ask(options: argparse.Namespace) -> None:
    """Ask about a text, about each image in all three ways, about each sound in one."""
    if options.text:
        label, score = ask_with_text(options.text, options.model, options.http)
        print(f"{label} ({score:.1%})")
    for path in options.files:
        label, score = ask_with_bytes(path.read_bytes(), options.model, options.http)
        if path.suffix.lower() in SOUNDS:
            print(f"{path.name}: {label} ({score:.1%})")
            continue
        by_http = ask_with_tensor(tritonclient.http, path, options.model, options.http)
        by_grpc = ask_with_tensor(tritonclient.grpc, path, options.model, options.grpc)
        print(f"{path.name}: {label} ({score:.1%}); class by HTTP {by_http}, by gRPC {by_grpc}")


def ask_with_bytes(data: bytes, model: str, address: str) -> tuple[str, float]:
    """Send a file as it is to the ensemble; return the best label and its score."""
    client = tritonclient.http.InferenceServerClient(address)
    encoded = np.frombuffer(data, dtype=np.uint8)[None]  # (1, bytes); zeros may follow in a batch
    tensor = tritonclient.http.InferInput("encoded", list(encoded.shape), "UINT8")
    tensor.set_data_from_numpy(encoded)
    answer = client.infer(f"{model}_pipeline", [tensor])
    label = answer.as_numpy("labels")[0][0]
    return label.decode(), float(answer.as_numpy("scores")[0][0])


def ask_with_text(parts: list[str], model: str, address: str) -> tuple[str, float]:
    """Send a text to the ensemble; return the best label and its score."""
    client = tritonclient.http.InferenceServerClient(address)
    text = np.array([[part.encode() for part in parts]], dtype=object)  # (1, parts)
    tensor = tritonclient.http.InferInput("text", list(text.shape), "BYTES")
    tensor.set_data_from_numpy(text)
    answer = client.infer(f"{model}_pipeline", [tensor])
    return answer.as_numpy("labels")[0][0].decode(), float(answer.as_numpy("scores")[0][0])


def ask_with_tensor(client_module: ModuleType, path: Path, model: str, address: str) -> int:
    """Send uint8 pixels (1, H, W, C) to the model itself; return the index of the best class."""
    client = client_module.InferenceServerClient(address)
    height, width, channels = input_shape(client.get_model_metadata(model))
    image = Image.open(path).convert("RGB" if channels == 3 else "L").resize((width, height))
    pixels = np.asarray(image, dtype=np.uint8).reshape(1, height, width, channels)
    tensor = client_module.InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    return int(client.infer(model, [tensor]).as_numpy("logits").argmax())


def input_shape(metadata: object) -> tuple[int, int, int]:
    """Read height, width and channels from what the server says of the model."""
    if isinstance(metadata, dict):  # HTTP gives JSON, gRPC a message
        shape = metadata["inputs"][0]["shape"]
    else:
        shape = metadata.inputs[0].shape  # type: ignore[attr-defined]
    _, height, width, channels = (int(size) for size in shape)
    return height, width, channels


if __name__ == "__main__":
    main()
