"""Workers of a study end with it."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.places import ROOT

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
