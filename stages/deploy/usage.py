"""Usage: how to ask the served models, with their real names and shapes, ready to be copied."""

from __future__ import annotations

from stages.deploy.plan import ServingPlan

_PIPELINE_PYTHON = """\
# dlpipe serve RUN        starts the server on ports 8000 (HTTP) and 8001 (gRPC)
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient("127.0.0.1:8000")
{noun} = np.fromfile("{file}", dtype=np.uint8)[None]  # the encoded bytes, one {noun} a row
given = triton.InferInput("encoded", {noun}.shape, "UINT8")
given.set_data_from_numpy({noun})
answer = client.infer("{pipeline}", [given])
print(answer.as_numpy("labels"), answer.as_numpy("scores"))
"""

_TEXT_PYTHON = """\
# dlpipe serve RUN        starts the server on ports 8000 (HTTP) and 8001 (gRPC)
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient("127.0.0.1:8000")
text = np.array([[{parts}]], dtype=object)  # one text a row
given = triton.InferInput("text", text.shape, "BYTES")
given.set_data_from_numpy(text)
answer = client.infer("{pipeline}", [given])
print(answer.as_numpy("labels"), answer.as_numpy("scores"))
"""

_TEXT_CURL = """\
curl -sS http://127.0.0.1:8000/v2/models/{pipeline}/infer -d '{{"inputs": [{{"name": "text",
     "datatype": "BYTES", "shape": [1, {count}], "data": [{parts}]}}]}}'
"""

_TENSOR_PYTHON = """\
# dlpipe serve RUN        starts the server on ports 8000 (HTTP) and 8001 (gRPC)
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient("127.0.0.1:8000")
images = np.zeros({shape}, dtype=np.uint8)  # pixels after the eval transform, not normalized
given = triton.InferInput("{input}", images.shape, "UINT8")
given.set_data_from_numpy(images)
print(client.infer("{model}", [given]).as_numpy("{output}"))
"""

_PIPELINE_CURL = """\
# The body is the file itself; the answer is JSON followed by the scores and the labels as binary.
curl -sS --data-binary @{file} -H 'Inference-Header-Content-Length: 0' \\
     http://127.0.0.1:8000/v2/models/{pipeline}/infer | tr -cd '[:print:]'
"""

_TENSOR_CURL = """\
curl -sS http://127.0.0.1:8000/v2/models/{model}          # its inputs and outputs
curl -sS http://127.0.0.1:8000/v2/models/{model}/config   # how it is served
"""


_SAMPLES = {"image": ("image", "image.jpg"), "audio": ("clip", "clip.wav")}
"""By the data's kind: what a sample is called, and a file of it."""
_PARTS = {1: ("some words",), 2: ("a question", "what it is about")}
"""By how many parts a text has: an example."""


def python_example(plan: ServingPlan) -> str:
    """Return a client in Python, of the pipeline for files where there is one."""
    if plan.tokens is not None:
        parts = ", ".join(f'b"{part}"' for part in _PARTS[plan.tokens.parts])
        return _TEXT_PYTHON.format(pipeline=plan.pipeline_name, parts=parts)
    if plan.preprocess is not None:
        noun, file = _SAMPLES[plan.kind]
        return _PIPELINE_PYTHON.format(pipeline=plan.pipeline_name, noun=noun, file=file)
    return _TENSOR_PYTHON.format(
        model=plan.name,
        shape=(1, *plan.variant.input.shape[1:]),
        input=plan.variant.input.name,
        output=plan.variant.output.name,
    )


def curl_example(plan: ServingPlan) -> str:
    """Return the same question as one command, or what can be asked without a binary tensor."""
    if plan.tokens is not None:
        parts = _PARTS[plan.tokens.parts]
        quoted = ", ".join(f'"{part}"' for part in parts)
        return _TEXT_CURL.format(pipeline=plan.pipeline_name, count=len(parts), parts=quoted)
    if plan.preprocess is not None:
        return _PIPELINE_CURL.format(pipeline=plan.pipeline_name, file=_SAMPLES[plan.kind][1])
    return _TENSOR_CURL.format(model=plan.name)
