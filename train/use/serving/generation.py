"""Generation for many clients: one compiled step advances all busy slots; a slot that ends takes the next prompt."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence

import jax
import numpy as np

from models.contracts import Model, Tree
from models.decoding.sampling import Sampler
from models.decoding.slots import Draws, Slots, admit, choose_lengths, count_room, decode, open_slots, pad_prompt
from train.contracts import Params, Tokenizer
from train.use.serving.batching import Job, Queue

UNFINISHED = "\ufffd"  # of a character whose other bytes are yet to come


@dataclasses.dataclass(eq=False)
class Generation(Job):
    """A prompt to continue by `most` tokens, unless the token `end` comes first.

    `tokens` receives each as it is drawn, then None, or what was raised.
    """

    prompt: Sequence[int] = ()
    most: int = 0
    sampler: Sampler = Sampler()
    seed: int = 0
    end: int | None = None
    tokens: asyncio.Queue[int | None | BaseException] = dataclasses.field(default_factory=asyncio.Queue)
    count: int = 0  # tokens that were drawn

    def send(self, value: int | None | BaseException) -> None:
        """Sends a token, the end or an error from another thread."""
        self.future.get_loop().call_soon_threadsafe(self.tokens.put_nowait, value)


class Generator:
    """Slots of a model, of texts of up to `context` tokens with their prompts.  `run` is the engine's thread.

    A text is drawn by the parameters that it began with: new ones, which `params` gives, are taken when all slots are
    free, and no prompt is begun before.
    """

    def __init__(
        self,
        model: Model,
        queue: Queue,
        count: int,
        context: int,
        params: Callable[[], Params],
        observe: Callable[[int, int], None],
    ) -> None:
        self.model, self.queue, self.context, self.params, self.observe = model, queue, context, params, observe
        self.lengths = choose_lengths(context - 1) if context > 1 else (1,)
        self.room = count_room(self.lengths, context)
        self.held: list[Generation | None] = [None] * count
        self.draws = Draws.fill(count)
        self.current = params()
        self.slots = open_slots(model, self.current, count, self.room)
        self.shardings: Tree = None  # of the slots that a step returns, once it is compiled

    def warm(self) -> None:
        """Compiles the step, and the beginning of prompts of every length.  Raises ValueError if a layer cannot."""
        self._admit(0, [0], 0)
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.slots)
        self._clear()
        for length in self.lengths:
            self._admit(0, [0] * length, 0)
        self._decode()
        self._clear()

    def run(self) -> None:
        """Generates until the queue is closed and the slots are free."""
        while True:
            try:
                if not self._fill():
                    return
                self._advance()
            except Exception as error:  # of any kind, for the clients; the thread must live
                for job in self.held:
                    if job is not None:
                        job.send(error)
                self._clear()

    def _clear(self) -> None:
        self.held = [None] * len(self.held)
        slots = open_slots(self.model, self.current, len(self.held), self.room)
        self.slots = jax.device_put(slots, self.shardings)  # placed as a step leaves them, or it is compiled once more

    def _fill(self) -> bool:
        """Fills free slots; waits if all are free.  False once the queue is closed and nothing is held."""
        self._release()
        newest = self.params()
        if newest is not self.current:
            if any(self.held):
                return True
            self.current = newest
        free = [slot for slot, job in enumerate(self.held) if job is None]
        taken = self.queue.take(len(free), lambda job: None, wait=len(free) == len(self.held)) if free else []
        if self.params() is not self.current and not any(self.held):  # new ones came while it waited
            self.current = self.params()
        for slot, job in zip(free, taken, strict=False):
            assert isinstance(job, Generation)
            sampler = job.sampler
            values = (sampler.temperature, sampler.top_k or 0, sampler.top_p or 1.0, sampler.min_p or 0.0)
            for setting, value in zip(self.draws, values, strict=True):
                setting[slot] = value
            self.held[slot] = job
            self._admit(slot, job.prompt, job.seed)
        return any(self.held)

    def _release(self) -> None:
        """Frees the slots of clients who have left or whose time is over."""
        for slot, job in enumerate(self.held):
            if job is not None and not job.wanted:
                job.send(TimeoutError())
                self.held[slot] = None

    def _advance(self) -> None:
        began = time.monotonic()
        tokens = self._decode().tolist()
        busy = 0
        for slot, job in enumerate(self.held):
            if job is None:
                continue
            busy += 1
            job.count += 1
            ended = tokens[slot] == job.end
            if not ended:
                job.send(tokens[slot])
            if ended or job.count == job.most:
                job.send(None)
                self.held[slot] = None
                self.queue.note_pace((time.monotonic() - began) * job.count / len(self.held))
        self.observe(busy, sum(job is not None for job in self.held))

    def _admit(self, slot: int, prompt: Sequence[int], seed: int) -> None:
        batch = {name: jax.device_put(value) for name, value in pad_prompt(prompt, self.lengths).items()}
        row, key = np.int32(slot), np.uint32(seed)
        self.slots: Slots = admit(self.model, self.current, self.slots, batch, row, key, self.room)

    def _decode(self) -> np.ndarray:
        busy = np.array([job is not None for job in self.held])
        tokens, self.slots = decode(self.model, self.current, self.slots, self.draws, busy, self.room)
        return np.asarray(tokens)


@dataclasses.dataclass
class Piece:
    """New text of a generation; `reason` is why it ends, "stop" or "length", in the last piece."""

    text: str
    reason: str | None = None


async def read_pieces(job: Generation, tokens: Tokenizer, stops: Sequence[str]) -> AsyncIterator[Piece]:
    """Iterates over the text of a generation as it comes, up to the first of `stops`, which is left out.

    What may be the beginning of a stop, or of a character, waits.  Raises TimeoutError once the deadline is over.
    """
    ids: list[int] = []
    sent = 0
    try:
        while True:
            async with asyncio.timeout(max(job.deadline - time.monotonic(), 0)):
                value = await job.tokens.get()
            if isinstance(value, BaseException):
                raise value
            if value is not None:
                ids.append(value)
            text = tokens.decode(ids)
            if (place := min((place for stop in stops if (place := text.find(stop)) >= 0), default=-1)) >= 0:
                yield Piece(text[sent:place] if place > sent else "", "stop")
                return
            if value is None:
                yield Piece(text[sent:], "length" if job.count >= job.most and len(ids) == job.most else "stop")
                return
            ready = len(text.rstrip(UNFINISHED)) - _count_held(text.rstrip(UNFINISHED), stops)
            if ready > sent:
                yield Piece(text[sent:ready])
                sent = ready
    finally:
        job.cancelled = True


def _count_held(text: str, stops: Sequence[str]) -> int:
    """Counts the characters at the end of a text that may be the beginning of a stop."""
    lengths = (length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return max(lengths, default=0)
