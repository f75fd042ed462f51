"""Questions of all clients in batches of few shapes, each compiled at the start; a bounded queue before them."""

import asyncio
import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np

from train.contracts import Arrays
from train.use.serving.shapes import Joins, Place

Answer = dict[str, object]


class FullError(Exception):
    """A full queue; `seconds` is when to try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The queue is full; try again in {seconds} s.")
        self.seconds = seconds


@dataclasses.dataclass(eq=False)
class Job:
    """Work of a client in a queue, until a `deadline` of `time.monotonic`; its result is a future of the event loop.

    Nothing is computed for a job that is `cancelled` or late.
    """

    deadline: float
    future: asyncio.Future[object]
    cancelled: bool = False

    def set_result(self, result: object) -> None:
        """Sets the result, or the exception, from another thread."""
        self.future.get_loop().call_soon_threadsafe(self._set, result)

    def _set(self, result: object) -> None:
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)

    @property
    def wanted(self) -> bool:
        """Tells if the client still waits."""
        return not self.cancelled and time.monotonic() < self.deadline


@dataclasses.dataclass(eq=False)
class Question(Job):
    """A question as a batch of one row."""

    arrays: Arrays = dataclasses.field(default_factory=dict)

    @property
    def answer(self) -> Answer:
        """The answer, once the future has it."""
        answer = self.future.result()
        assert isinstance(answer, dict)
        return answer


class Queue:
    """Jobs that wait, at most `most`.  Raises FullError for more; the time to wait follows from the last ones' pace."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.jobs: collections.deque[Job] = collections.deque()
        self.changed = threading.Condition()
        self.pace = 0.0  # seconds a job
        self.closed = False

    def __len__(self) -> int:
        return len(self.jobs)

    def put(self, jobs: Sequence[Job]) -> None:
        """Adds jobs, all or none."""
        with self.changed:
            if len(self.jobs) + len(jobs) > self.most:
                self._drop_unwanted()
            if self.jobs and len(self.jobs) + len(jobs) > self.most:
                raise FullError(min(max(math.ceil(self.pace * len(self.jobs)), 1), 60))
            self.jobs.extend(jobs)
            self.changed.notify_all()

    def take(self, most: int, alike: Callable[[Job], Hashable], wait: bool = True) -> list[Job]:
        """Takes the oldest jobs that are alike the first, at most `most`; waits for one.  Empty once it is closed."""
        with self.changed:
            while True:
                self._drop_unwanted()
                if self.jobs:
                    kind = alike(self.jobs[0])
                    taken = [job for job in self.jobs if alike(job) == kind][:most]
                    kept = set(taken)
                    self.jobs = collections.deque(job for job in self.jobs if job not in kept)
                    return taken
                if self.closed or not wait:
                    return []
                self.changed.wait()

    def _drop_unwanted(self) -> None:
        if not all(job.wanted for job in self.jobs):
            self.jobs = collections.deque(job for job in self.jobs if job.wanted)

    def note_pace(self, seconds: float) -> None:
        """Notes the seconds that a job took, as a moving average."""
        self.pace = seconds if not self.pace else 0.9 * self.pace + 0.1 * seconds

    def wake(self) -> None:
        """Wakes who waits for a job."""
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        """Ends waiting."""
        self.closed = True
        self.wake()


class Batcher:
    """Answers questions in batches as large as what waits when the batch before is done; nothing waits for company.

    `compute` makes the answers at places of a batch that `joins` makes.  `run` is the engine's thread; `warm` computes
    a batch of every shape first, so that nothing is compiled later.
    """

    def __init__(
        self,
        queue: Queue,
        joins: Joins,
        compute: Callable[[Arrays, Sequence[Place]], Sequence[Answer | Exception]],
        observe: Callable[[int], None],
    ) -> None:
        self.queue, self.joins, self.compute, self.observe = queue, joins, compute, observe

    def warm(self) -> None:
        """Compiles every shape."""
        for batch, places in self.joins.list_batches():
            self.compute(batch, places)

    def run(self) -> None:
        """Answers until the queue is closed."""
        while taken := self.queue.take(
            self.joins.most, lambda job: isinstance(job, Question) and self.joins.key(job.arrays)
        ):
            questions = [job for job in taken if isinstance(job, Question)]
            began = time.monotonic()
            self.observe(len(questions))
            try:
                answers = self.compute(*self.joins.join([job.arrays for job in questions]))
            except Exception as error:  # of any kind, for the client; the thread must live
                for job in questions:
                    job.set_result(error)
                continue
            self.queue.note_pace((time.monotonic() - began) / len(questions))
            for job, answer in zip(questions, answers, strict=True):
                job.set_result(answer)


def pull(tree: object) -> object:
    """The arrays of a tree on the host, in float32."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)
