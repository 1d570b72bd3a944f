from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import Interrupted, StageFailed
from stages.export.calibrate import METHODS, collect_minmax, find_ranges, load_ranges
from stages.export.config import CalibrationConfig
from stages.export.tune import calibrated, table_key


def tuned(conv, images, ctx, key="k", **settings):
    config = CalibrationConfig(**settings)
    path = ctx.dir / "calibration.json"
    return calibrated(conv.graph, images, key, path, config, "u8s8", reduce_range=False, ctx=ctx)


def test_auto_tries_every_method_and_takes_the_one_with_least_noise(conv, images, ctx):
    ranges = tuned(conv, images, ctx)
    assert set(ranges.sqnr_db) == set(METHODS)
    assert ranges.sqnr_db[ranges.method] == max(ranges.sqnr_db.values())
    assert ranges.samples == 36  # a quarter of 48 is held out


def test_few_images_are_not_compared_on(conv, images, ctx):
    ranges = tuned(conv, images[:8], ctx)
    assert (ranges.method, ranges.samples, dict(ranges.sqnr_db)) == ("minmax", 8, {})


def test_a_table_comes_back_from_its_file_as_it_was(conv, images, ctx):
    ranges = tuned(conv, images, ctx, method="percentile")
    assert load_ranges(ctx.dir / "calibration.json", "k") == ranges


def test_a_table_is_reused_only_when_its_key_matches(conv, images, ctx, recorder):
    tuned(conv, images, ctx, key="one", method="minmax")
    tuned(conv, images, ctx, key="one", method="minmax")
    assert "calibration table reused: minmax over 48 images" in recorder.messages("info")
    again = tuned(conv, images[:16], ctx, key="two", method="minmax")
    assert (again.key, again.samples) == ("two", 16)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "k"}'])
def test_a_damaged_table_is_made_anew(ctx, text):
    (ctx.dir / "calibration.json").write_text(text)
    assert load_ranges(ctx.dir / "calibration.json", "k") is None


def test_the_key_changes_with_data_weights_graph_and_settings(
    conv, attention, spec, trained, tmp_path
):
    config = CalibrationConfig()
    other = tmp_path / "transforms.json"
    other.write_text(spec.transforms.read_text() + " ")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(trained.weights.read_bytes() + b" ")
    keys = [
        table_key(spec, trained, conv.graph, config, 0),
        table_key(replace(spec, digest="other"), trained, conv.graph, config, 0),
        table_key(replace(spec, transforms=other), trained, conv.graph, config, 0),
        table_key(spec, replace(trained, weights=weights), conv.graph, config, 0),
        table_key(spec, trained, attention.graph, config, 0),
        table_key(spec, trained, conv.graph, CalibrationConfig(percentile=99.0), 0),
        table_key(spec, trained, conv.graph, config, 1),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == table_key(spec, trained, conv.graph, config, 0)


def test_entropy_differs_from_minmax_and_both_collectors_agree(conv, images, ctx):
    config = CalibrationConfig()
    found = {method: find_ranges(conv.histograms, method, config, ctx) for method in METHODS}
    assert found["entropy"] != found["minmax"] != found["percentile"]
    quick = collect_minmax(conv.graph, images, 16, ctx)
    assert quick.keys() == found["minmax"].keys()
    for name, reach in quick.items():
        assert reach == pytest.approx(found["minmax"][name], rel=1e-4, abs=1e-4)


def test_ranges_do_not_depend_on_the_batch_size(conv, images, ctx):
    one, other = (collect_minmax(conv.graph, images, batch, ctx) for batch in (7, 48))
    for name in one:
        assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4)


def test_calibration_stops_when_asked(conv, images, ctx):
    ctx.stop.request("SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM"):
        tuned(conv, images, ctx)
    assert not (ctx.dir / "calibration.json").exists()


def test_a_tensor_that_overflows_is_named(conv, images, ctx, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(conv.graph)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    huge = np.full(tuple(weight.dims), 1e38, dtype=np.float32)
    weight.CopyFrom(numpy_helper.from_array(huge, weight.name))
    path = tmp_path / "huge.onnx"
    onnx.save(model, path)
    with pytest.raises(StageFailed, match=r"the tensor '\w+' reaches .*(inf|nan)"):
        collect_minmax(path, images, 16, ctx)


def test_the_table_is_plain_json(conv, images, ctx):
    tuned(conv, images, ctx, method="minmax")
    table = json.loads((ctx.dir / "calibration.json").read_text())
    assert set(table) == {"key", "method", "samples", "sqnr_db", "tensors"}
