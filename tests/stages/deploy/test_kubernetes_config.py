from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from stages.deploy.kubernetes_config import KubernetesConfig


def test_the_defaults_are_a_valid_configuration() -> None:
    assert KubernetesConfig().replicas.min == 2


@pytest.mark.parametrize("image", ["nvcr.io/nvidia/tritonserver:26.06-py3", "registry:5000/me/t:1"])
def test_a_pinned_image_is_accepted(image: str) -> None:
    assert KubernetesConfig(image=image).image == image


@pytest.mark.parametrize("image", ["tritonserver", "registry:5000/tritonserver", "t:latest"])
def test_an_image_without_a_fixed_build_is_refused(image: str) -> None:
    with pytest.raises(ValidationError, match="names no fixed build"):
        KubernetesConfig(image=image)


@pytest.mark.parametrize("release", ["24.10", "25.12", "26.05"])
def test_a_release_with_published_holes_is_refused(release: str) -> None:
    with pytest.raises(ValidationError, match=r"use \S+:26\.06-py3 or later"):
        KubernetesConfig(image=f"nvcr.io/nvidia/tritonserver:{release}-py3")


def test_more_servers_at_rest_than_at_the_height_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"min \(5\) is above max \(2\)"):
        KubernetesConfig.model_validate({"replicas": {"min": 5, "max": 2}})


@pytest.mark.parametrize(
    "values",
    [
        {"namespace": "Upper_Case"},
        {"resources": {"memory": "four"}},
        {"models": {"kind": "image", "image": "models:latest"}},
        {"models": {"kind": "claim", "claim": "not valid"}},
        {"unknown": 1},
    ],
)
def test_values_a_cluster_would_refuse_are_refused_here(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="validation error"):
        KubernetesConfig.model_validate(values)


def test_the_configuration_imports_no_vendor_package() -> None:
    program = (
        "import sys, stages.deploy.kubernetes_config; "
        "print([m for m in ('torch', 'onnx', 'kubernetes_validate') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
