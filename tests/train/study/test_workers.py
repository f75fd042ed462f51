"""Workers of a study end with it, and allocate as its command does."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from train.study.trial import Outcome, Unit
from train.study.workers import Pool

WORKER = """
import os, sys, threading
from train.study.trial import serve

def make(unit):
    sign = open(sys.argv[1], "w")
    print("begun", file=sign, flush=True)
    threading.Event().wait()

serve(make)
"""
STUDY = f"""
import sys
from train.study.trial import Unit
from train.study.workers import Pool

with Pool(1, (sys.executable, "-c", {WORKER!r}, sys.argv[1])) as pool:
    list(pool([Unit("a", "config", (), 0, "verdict")]))
"""

ALLOCATES = """
import os
from train.study.trial import Outcome, serve

serve(lambda unit: Outcome(float("hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")), (), 0.0))
"""


def test_a_worker_has_its_memory_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with Pool(1, (sys.executable, "-c", ALLOCATES)) as pool:
        ((_, outcome),) = pool([Unit("a", "config", (), 0, "verdict")])
    assert isinstance(outcome, Outcome)
    assert outcome.loss == float(sys.platform == "linux")


def test_a_worker_ends_within_its_trial_when_the_study_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "sign"
    os.mkfifo(pipe)
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(pipe)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    with pipe.open() as sign:
        assert sign.readline() == "begun\n"
        study.send_signal(signal.SIGKILL)
        study.wait()
        assert select.select([sign], [], [], 60)[0], "the worker is still there"
        assert sign.read() == ""
