from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.artifacts import ModuleRef
from pipeline.errors import DataError, StageFailed
from stages.export.restore import build, restore


def test_the_module_comes_back_with_its_weights_in_evaluation_mode(trained):
    module = restore(trained)
    assert not module.training
    for name, value in load_file(trained.weights).items():
        assert torch.equal(module.state_dict()[name], value)


@pytest.mark.parametrize(
    "factory",
    [
        "",
        "os.system",
        "os:system('x')",
        "../evil:fn",
        "a b:c",
        ":fn",
        "pkg:",
        "pkg:mod:fn",
        "pkg:a.b",
    ],
)
def test_a_factory_that_is_no_dotted_function_is_refused(factory):
    with pytest.raises(StageFailed, match=r"is no dotted function.*package\.module:function"):
        build(ModuleRef(factory=factory, arguments={}))


@pytest.mark.parametrize("factory", ["no_such_package:fn", "export_nets:no_such_function"])
def test_a_factory_that_is_not_there_is_named(factory):
    with pytest.raises(StageFailed, match=f"'{factory}' cannot be imported"):
        build(ModuleRef(factory=factory, arguments={}))


def test_arguments_that_do_not_fit_are_shown():
    with pytest.raises(StageFailed, match=r"fails with the arguments \{'depth': 3\}.*depth"):
        build(ModuleRef(factory="export_nets:conv_net", arguments={"depth": 3}))


def test_a_factory_that_returns_something_else_is_refused():
    with pytest.raises(StageFailed, match=r"returned int, and must return a torch\.nn\.Module"):
        build(ModuleRef(factory="export_nets:not_a_module", arguments={}))


def test_weights_of_another_model_are_refused(trained):
    other = ModuleRef(factory="export_nets:conv_net", arguments={"width": 8})
    with pytest.raises(
        StageFailed, match=r"do not fit 'export_nets:conv_net'.*size mismatch.*and 12 more"
    ):
        restore(replace(trained, module=other))


def test_weights_that_are_missing_or_damaged_are_named(trained, tmp_path):
    with pytest.raises(DataError, match=r"gone\.safetensors are not there"):
        restore(replace(trained, weights=tmp_path / "gone.safetensors"))
    half = tmp_path / "half.safetensors"
    half.write_bytes(trained.weights.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"half\.safetensors is no whole safetensors file"):
        restore(replace(trained, weights=half))


def test_weights_that_are_not_finite_are_named(trained, tmp_path):
    weights = load_file(trained.weights)
    name = sorted(weights)[0]
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match=f"hold NaN or Inf, the first is '{name}'"):
        restore(replace(trained, weights=tmp_path / "nan.safetensors"))
