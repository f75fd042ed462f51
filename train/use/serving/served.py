"""A trained run that answers: its parameters, its engines' threads, and the watch on its folder for new checkpoints."""

import asyncio
import contextlib
import dataclasses
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from models.position import LearnedPosition
from models.structure import part
from train.contracts import Arrays, Continues, Ends, Searches, Tokenised, Unasked
from train.engine.checkpoint import list_steps
from train.engine.evidence import search_batch
from train.engine.folder import Recorded
from train.engine.prepared import Inference, prepare_inference
from train.errors import InputError, Json
from train.precision import cast
from train.use.evaluate import format_output, restore_params
from train.use.explain import Explanation, explain
from train.use.explain_page import record_explanation, write_explanation
from train.use.serving.batching import Answer, Batcher, FullError, Job, Question, Queue, pull
from train.use.serving.generation import Generator
from train.use.serving.inputs import Asked, Posted, Reader, list_shapes
from train.use.serving.metrics import Metrics
from train.use.serving.shapes import Place, choose_join

SHORT, FEW = 1024, 4  # characters of texts, and texts of a request, that are read without a thread
EXPLAINED = 8  # questions to explain at once, of which seven wait


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server: bytes of a body, questions of a request, waiting jobs, rows of a batch, slots, seconds.

    `context` are the tokens of a text with its prompt, by default as many as the run was trained on; `slots` are by
    default as many as fit a GiB with their caches, from 4 to 64.
    """

    body: int = 16 * 2**20
    questions: int = 256
    queue: int = 512
    rows: int = 64
    slots: int | None = None
    context: int | None = None
    deadline: float = 60.0
    slow: float = 20.0


class Served:
    """A run that answers from its last checkpoint, or its best.  Raises InputError if it cannot be opened.

    `warm` compiles everything that answers need; `start` starts the threads of its engines and of its watch.
    """

    def __init__(
        self, folder: Path, run: Recorded, limits: Limits, metrics: Metrics, best: bool, examples: Sequence[str] = ()
    ) -> None:
        self.folder, self.run, self.limits, self.metrics, self.best = folder, run, limits, metrics, best
        self.name = folder.resolve().name
        self.created = int(time.time())
        experiment = run.experiment
        self.data = experiment.data.reader(run.classes)
        if isinstance(self.data, Unasked):
            raise InputError(f"{folder} answers no questions, since its {self.data.unasked}; serve another run.")
        self.reader = Reader(self.data, limits.questions)
        self.shapes = list_shapes(self.data, examples)
        self.inference: Inference = prepare_inference(experiment, self.data, self.shapes[-1])
        self.step, self.params = restore_params(folder, self.inference, best)
        self.searches = isinstance(experiment.objective, Searches)
        self.questions, self.prompts = Queue(limits.queue), Queue(limits.queue)
        self.explained = 0  # questions that wait to be explained, and the one that is
        joins = choose_join(self.data, self.shapes, limits.rows)
        self.batcher = Batcher(self.questions, joins, self.compute, metrics.rows.labels(self.name).observe)
        continues = isinstance(experiment.objective, Continues) and experiment.objective.continues
        self.generator = self._make_generator() if continues and isinstance(self.data, Tokenised) else None
        self.preparing, self.explaining = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.stopping = threading.Event()
        metrics.step.labels(self.name).set(self.step)
        metrics.waiting.labels(self.name).set_function(lambda: len(self.questions) + len(self.prompts))

    def _make_generator(self) -> Generator | None:
        experiment, limits = self.run.experiment, self.limits
        trained = max(shape["tokens"].shape[1] for shape in self.shapes)
        context = limits.context or trained
        with contextlib.suppress(LookupError, AttributeError):
            position = part(experiment, "model.embed.position")
            if isinstance(position, LearnedPosition) and context > position.length:
                raise InputError(
                    f"--context is {context} and {self.folder} has {position.length} positions; ask for no more."
                )
        self.drawing = cast(self.params, experiment.precision)
        try:
            return Generator(
                experiment.model, self.prompts, limits.slots, context, lambda: self.drawing, self._note_tokens
            )
        except ValueError:  # it cannot decode, and predicts
            return None

    @property
    def tokenised(self) -> Tokenised | None:
        """The data, if it has a tokenizer."""
        return self.data if isinstance(self.data, Tokenised) else None

    @property
    def end(self) -> int | None:
        """The token that ends a text, if there is one."""
        return self.data.end if isinstance(self.data, Ends) else None

    def _note_tokens(self, drawn: int, busy: int) -> None:
        self.metrics.tokens.labels(self.name).inc(drawn)
        self.metrics.busy.labels(self.name).set(busy)

    def describe(self) -> dict[str, Json]:
        """The run in OpenAI's form of a model, with what it answers and takes."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "morphax",
            "step": self.step,
            "input": self.reader.accepts,
            "data": type(self.run.experiment.data).__name__,
            "generates": self.generator is not None,
            "context": None if self.generator is None else self.generator.context,
            "classes": list(self.data.names) if self.data.classes else [],
        }

    def warm(self) -> None:
        """Compiles every shape of questions, and the steps of generation."""
        self.batcher.warm()
        if self.generator is not None:
            self.generator.warm()

    def start(self) -> None:
        """Starts the threads."""
        for target in (self.batcher.run, self._watch, *([self.generator.run] if self.generator else [])):
            threading.Thread(target=target, name=f"{self.name} {target.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Lets the threads end once their queues are empty."""
        self.stopping.set()
        self.questions.close()
        self.prompts.close()

    def compute(self, batch: Arrays, places: Sequence[Place]) -> list[Answer | Exception]:
        """Computes the answers at places of a batch, as `morphax predict` does."""
        inference, params, objective = self.inference, self.params, self.run.experiment.objective
        if self.searches:
            batch = batch | {
                "index": np.arange(len(batch["weights"])),
                "weights": np.arange(len(batch["weights"])) < len(places),
            }
            assert isinstance(self.data, Ends)
            rows = sorted(search_batch(inference, params, batch))
            return [{"translation": self.data.tokens.decode(ids).strip()} for _, ids in rows]
        outputs = pull(inference.outputs(params, inference.parallel.put(batch)))
        answers: list[Answer | Exception] = []
        for place in places:
            try:
                answers.append(dict(format_output(objective, self.data, outputs, batch, place)))
            except (ValueError, ArithmeticError, LookupError) as error:
                answers.append(error)
        return answers

    async def read(self, inputs: Sequence[str | Posted], job: Job) -> tuple[list[Asked], list[str]]:
        """Reads the inputs of a request as long as its job is wanted: few short texts at once, others in a thread."""
        short = len(inputs) <= FEW and all(isinstance(given, str) and len(given) <= SHORT for given in inputs)
        if short and (read := self.reader.read_at_once(inputs)) is not None:
            return read
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.preparing, self.reader.read, inputs, lambda: job.wanted)

    def ask(self, asked: Sequence[Asked], deadline: float) -> list[Question | None]:
        """Puts questions into the queue; None for those that cannot be read.  Raises FullError."""
        loop = asyncio.get_running_loop()
        jobs = [
            None if question.arrays is None else Question(deadline, loop.create_future(), arrays=question.arrays)
            for question in asked
        ]
        self.questions.put([job for job in jobs if job is not None])
        return jobs

    async def explain(self, given: str | Posted, number: int | None) -> tuple[dict[str, object], str]:
        """Explains an answer, one at a time: the record and the page.  Shows no training examples.

        Raises FullError if others wait already.
        """
        if self.explained >= EXPLAINED:
            raise FullError(5)
        self.explained += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.explaining, self._explain, given, number)
        finally:
            self.explained -= 1

    def _explain(self, given: str | Posted, number: int | None) -> tuple[dict[str, object], str]:
        with tempfile.TemporaryDirectory(prefix="morphax-") as folder:
            name = self.reader.place(given, Path(folder))
            said: Explanation = explain(self.folder, self.run, [name], self.best, nearest=0, number=number)
            shown = name if isinstance(given, str) else given.name
            said = dataclasses.replace(said, question=said.question.replace(name, shown))
            page = Path(folder) / "page.html"
            write_explanation(page, {self.name: said})
            return {**record_explanation(said), "answer": dict(said.answer)}, page.read_text(encoding="utf-8")

    def _watch(self, every: float = 1.0) -> None:
        """Loads a checkpoint that is newer, or better, than the one that answers, once it is in the folder."""
        seen = list_steps(self.folder / "checkpoints")
        while not self.stopping.wait(every):
            if (steps := list_steps(self.folder / "checkpoints")) == seen:
                continue
            try:
                self.reload()
                seen = steps
            except Exception as error:  # of any kind: the old one goes on answering, and the next look tries again
                print(f"morphax: {self.name} keeps step {self.step}: {error}", file=sys.stderr, flush=True)

    def reload(self) -> None:
        """Loads the last checkpoint, or the best; batches that are under way end with the old one."""
        step, params = restore_params(self.folder, self.inference, self.best)
        if step == self.step:
            return
        params = jax.block_until_ready(params)
        if self.generator is not None:
            self.drawing = cast(params, self.run.experiment.precision)
        self.step, self.params = step, params
        self.metrics.step.labels(self.name).set(step)
        self.metrics.reloads.labels(self.name).inc()
        self.prompts.wake()
