"""The stand-in for a GPU has to be stricter than one, or it would prove nothing."""

from __future__ import annotations

import numpy as np
import pytest

from stages.export.engine.host import HostCuda, HostMemoryError


def test_nothing_is_copied_before_the_stream_is_synchronized() -> None:
    cuda = HostCuda()
    with cuda.active():
        buffer, stream = cuda.allocate(4), cuda.stream()
        source, target = np.arange(4, dtype=np.uint8), np.zeros(4, np.uint8)
        cuda.copy_to_device(buffer, source, stream)
        cuda.copy_to_host(target, buffer, stream)
        assert not target.any()
        source[:] = 9  # too early: a page-locked source is read when the copy happens
        stream.synchronize()
        assert target.tolist() == [9, 9, 9, 9]


def test_a_copy_larger_than_its_buffer_is_refused() -> None:
    cuda = HostCuda()
    with cuda.active():
        buffer, stream = cuda.allocate(4), cuda.stream()
        with pytest.raises(HostMemoryError, match="a copy of 5 bytes and 4 allocated"):
            cuda.copy_to_device(buffer, np.zeros(5, np.uint8), stream)


def test_a_copy_of_an_array_with_gaps_is_refused() -> None:
    cuda = HostCuda()
    with cuda.active():
        buffer, stream = cuda.allocate(4), cuda.stream()
        with pytest.raises(HostMemoryError, match="gaps"):
            cuda.copy_to_device(buffer, np.zeros(8, np.uint8)[::2], stream)


def test_memory_that_was_freed_is_not_used_again_by_what_is_queued() -> None:
    cuda = HostCuda()
    with cuda.active():
        buffer, stream = cuda.allocate(4), cuda.stream()
        cuda.copy_to_device(buffer, np.zeros(4, np.uint8), stream)
        buffer.free()
        with pytest.raises(HostMemoryError, match="used after it was freed"):
            stream.synchronize()


def test_freeing_twice_counts_once_and_a_leak_is_noticed_at_the_end() -> None:
    cuda = HostCuda()
    with cuda.active():
        buffer, pinned = cuda.allocate(4), cuda.pinned((3,), np.float32)
        assert cuda.live_bytes == 16
        buffer.free()
        buffer.free()
        assert cuda.live_bytes == 12
        with pytest.raises(HostMemoryError, match="12 bytes were not freed"):
            cuda.close()
        pinned.free()
        cuda.close()


def test_a_call_without_a_current_context_is_refused() -> None:
    with pytest.raises(HostMemoryError, match="no context is current"):
        HostCuda().allocate(1)
