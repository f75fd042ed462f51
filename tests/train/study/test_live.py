"""The time left of a search or a ladder."""

import pytest

from train.study import live
from train.study.live import Countdown


def test_the_time_left_is_at_the_pace_of_the_later_half_of_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    countdown = Countdown()
    said: list[str] = []
    for seconds, share in [(0, 0.1), (100, 0.11), (110, 0.2), (120, 0.3), (130, 0.4), (190, 1.0)]:
        now[0] = seconds
        said.append(countdown.describe(share))
    assert said[:2] == ["10% of the training", "11% of the training"]  # the ledger held a tenth; 1 % tells nothing
    assert said[4] == "40% of the training, about 1:02 left"  # 29 % in 30 s since the second look
    assert said[-1] == "100% of the training"
