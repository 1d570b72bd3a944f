"""The runner over plain host memory and ONNX Runtime: the CPU twin of test_session.py."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.export.backends import BatchProfile
from stages.export.engine.host import HostCuda, HostMemoryError, OnnxExecution
from stages.export.engine.runner import EngineRunner, parts
from stages.export.engine.slot import Binding, RunFailed

Logits = NDArray[np.float32]
Open = Callable[..., EngineRunner]


def binding(smallest: int, largest: int) -> Binding:
    return Binding(
        input="images",
        input_shape=(8, 8, 3),
        output="logits",
        output_shape=(5,),
        profile=BatchProfile(min=smallest, opt=smallest, max=largest),
    )


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    shape = (count, 8, 8, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def reference(small: Mapping[str, Path]) -> Callable[[NDArray[np.uint8]], Logits]:
    session = onnxruntime.InferenceSession(str(small["fp32"]), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["logits"], {"images": images})[0])


@contextmanager
def runner_over(
    path: Path, cuda: HostCuda, *, smallest: int = 1, largest: int = 4, slots: int = 2,
    engine_largest: int = 0,
) -> Iterator[EngineRunner]:  # fmt: skip
    """Open a runner, and check at the end that it gave back all it took."""
    execution = OnnxExecution.open(cuda, path, engine_largest or largest)
    runner = EngineRunner(
        cuda,
        lambda: OnnxExecution(cuda, execution.session, execution.largest),
        binding(smallest, largest),
        slots=slots,
    )
    try:
        yield runner
    finally:
        runner.close()
        assert cuda.live_bytes == 0
        assert cuda.closed


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 40),
    smallest=st.integers(1, 4),
    more=st.integers(0, 8),
    slots=st.integers(1, 3),
)
def test_any_number_of_images_gets_the_logits_of_the_graph(
    small: Mapping[str, Path],
    reference: Callable[[NDArray[np.uint8]], Logits],
    count: int,
    smallest: int,
    more: int,
    slots: int,
) -> None:
    images, cuda = pixels(count, seed=count), HostCuda()
    with runner_over(
        small["fp32"], cuda, smallest=smallest, largest=smallest + more, slots=slots
    ) as runner:
        np.testing.assert_allclose(runner(images), reference(images), rtol=1e-4, atol=1e-5)
        tensor = torch.from_numpy(images)
        np.testing.assert_allclose(
            runner.on_device(tensor).numpy(), reference(images), rtol=1e-4, atol=1e-5
        )


@given(total=st.integers(1, 500), largest=st.integers(1, 70))
def test_parts_cover_everything_once_evenly_and_with_as_few_as_can_be(
    total: int, largest: int
) -> None:
    found = list(parts(total, largest))
    assert [index for part in found for index in range(total)[part]] == list(range(total))
    sizes = [part.stop - part.start for part in found]
    assert max(sizes) <= largest
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == -(-total // largest)


def test_zero_copy_reads_the_tensor_where_it_lies(small: Mapping[str, Path]) -> None:
    cuda = HostCuda()
    with runner_over(small["fp32"], cuda) as runner:
        before = cuda.live_bytes
        runner.on_device(torch.from_numpy(pixels(4)))
        assert cuda.live_bytes == before == 0


def test_zero_copy_takes_tensors_with_gaps(
    small: Mapping[str, Path], reference: Callable[[NDArray[np.uint8]], Logits]
) -> None:
    images = pixels(6)
    with runner_over(small["fp32"], HostCuda()) as runner:
        every_other = runner.on_device(torch.from_numpy(images)[::2])
        np.testing.assert_allclose(every_other.numpy(), reference(images)[::2], rtol=1e-4)


def test_buffers_grow_with_the_batch_and_no_further_than_the_largest(
    small: Mapping[str, Path],
) -> None:
    cuda = HostCuda()
    one_image = 2 * (8 * 8 * 3 + 5 * 4)
    with runner_over(small["fp32"], cuda, largest=6, slots=1) as runner:
        taken = []
        for count in (1, 1, 2, 3, 5, 4, 60):
            runner(pixels(count))
            taken.append(cuda.live_bytes / one_image)
        assert taken == [1, 1, 2, 4, 6, 6, 6]


def test_running_out_of_memory_leaks_nothing_and_the_runner_goes_on(
    small: Mapping[str, Path], reference: Callable[[NDArray[np.uint8]], Logits]
) -> None:
    one_image = 2 * (8 * 8 * 3 + 5 * 4)
    for spare in range(0, one_image * 4, one_image // 3):
        cuda = HostCuda(limit_bytes=one_image + spare)
        with runner_over(small["fp32"], cuda, largest=8, slots=1) as runner:
            with pytest.raises(HostMemoryError, match="out of memory"):
                runner(pixels(8))
            assert cuda.live_bytes == 0
            np.testing.assert_allclose(runner(pixels(1)), reference(pixels(1)), rtol=1e-4)


def test_a_refused_batch_is_an_error_and_the_next_one_is_fine(
    small: Mapping[str, Path], reference: Callable[[NDArray[np.uint8]], Logits]
) -> None:
    with runner_over(small["fp32"], HostCuda(), largest=8, engine_largest=2) as runner:
        with pytest.raises(RunFailed, match=r"refused the shape of a batch of shape \(8, 8, 8, 3"):
            runner(pixels(8))
        with pytest.raises(RunFailed, match=r"refused the shape"):
            runner.on_device(torch.from_numpy(pixels(8)))
        np.testing.assert_allclose(runner(pixels(2)), reference(pixels(2)), rtol=1e-4)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_what_are_not_the_engines_images_are_refused(
    small: Mapping[str, Path], images: NDArray[np.uint8]
) -> None:
    with runner_over(small["fp32"], HostCuda()) as runner:
        message = r"was given (uint8|float32) samples of shape .* Allowed: uint8 and \(N, 8, 8, 3\)"
        with pytest.raises(RunFailed, match=message):
            runner(images)
        with pytest.raises(RunFailed, match=message):
            runner.on_device(torch.from_numpy(images))


def test_a_tensor_that_lies_elsewhere_is_not_bound(small: Mapping[str, Path]) -> None:
    with runner_over(small["fp32"], HostCuda()) as runner:
        elsewhere = torch.empty((2, 8, 8, 3), dtype=torch.uint8, device="meta")
        with pytest.raises(RunFailed, match="on cpu was given a tensor on meta"):
            runner.on_device(elsewhere)


def test_a_closed_runner_says_so_and_closes_twice(small: Mapping[str, Path]) -> None:
    with runner_over(small["fp32"], HostCuda()) as runner:
        runner(pixels(3))
    runner.close()
    with pytest.raises(RunFailed, match="session was closed"):
        runner(pixels(1))


def test_threads_that_share_a_runner_get_their_own_answers(
    small: Mapping[str, Path], reference: Callable[[NDArray[np.uint8]], Logits]
) -> None:
    answers: dict[int, Logits] = {}
    with runner_over(small["fp32"], HostCuda()) as runner:

        def ask(seed: int) -> None:
            answers[seed] = runner(pixels(7, seed))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for seed in range(6):
        np.testing.assert_allclose(answers[seed], reference(pixels(7, seed)), rtol=1e-4, atol=1e-5)
