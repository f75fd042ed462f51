"""The peak of a stretch of a process is that of the stretch alone."""

import sys

import numpy as np
import pytest

from train.cost.memory import Peak

SIZE = 64 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the high-water mark")
def test_what_was_freed_before_a_stretch_does_not_count_in_it() -> None:
    peak = Peak()
    assert peak.read() is None
    peak.begin()
    before = peak.read()
    held = np.ones(SIZE, np.uint8)
    within = peak.read()
    del held
    peak.begin()
    after = peak.read()
    assert before is not None
    assert within is not None
    assert after is not None
    assert within - before > 0.9 * SIZE
    assert within - after > 0.9 * SIZE
