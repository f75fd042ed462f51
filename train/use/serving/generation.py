"""Generation for many clients: one compiled step advances all busy slots; a slot that ends takes the next prompt.

A long prompt is computed in parts, between which the other slots go on (Sarathi, arXiv:2308.16369).
"""

import asyncio
import bisect
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence

import jax
import numpy as np

from models.backend.platform import platform
from models.contracts import Batch, Model, Tree
from models.decoding.packing import pays, transpose_kernels
from models.decoding.sampling import MOST, Sampler, plan_dispatch
from models.decoding.slots import (
    Draws,
    Slots,
    admit,
    begin_prompts,
    choose_lengths,
    choose_part,
    choose_sizes,
    count_room,
    cut_prompt,
    decode,
    extend_prompts,
    open_slots,
    resize,
)
from train.contracts import Params, Tokenizer
from train.use.serving.batching import Job, Queue

TOGETHER = 8  # short prompts that are computed at once
FEWEST, MANY = 4, 64  # slots, unless their number is given
CACHES = 2**30  # bytes of their caches
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


@dataclasses.dataclass
class Prompt:
    """A prompt that is being computed: its parts that are left, and what was computed of `index` tokens."""

    parts: list[dict[str, np.ndarray]]
    index: int = 0
    logits: jax.Array | None = None
    caches: Tree = None


class Generator:
    """Slots of a model, of texts of up to `context` tokens with their prompts.  `run` is the engine's thread.

    A text is drawn by the parameters that it began with: new ones, which `params` gives, are taken when all slots are
    free, and no prompt is begun before.
    """

    def __init__(
        self,
        model: Model,
        queue: Queue,
        count: int | None,
        context: int,
        params: Callable[[], Params],
        observe: Callable[[int, int], None],
    ) -> None:
        self.model, self.queue, self.context, self.params, self.observe = model, queue, context, params, observe
        self.lengths = choose_lengths(max(min(context - 1, choose_part(platform())), 1))
        self.room = count_room(self.lengths, context)
        self._take(params())
        count = self._choose_slots() if count is None else count
        self.sizes = choose_sizes(count)
        self.held: list[Generation | None] = [None] * count
        self.begun: dict[int, Prompt] = {}  # by the slot that waits for it
        self.pace = 1  # tokens of a dispatch
        self.draws = Draws.fill(count)
        self.slots = open_slots(model, self.current, 1, self.room)
        self.shardings: Tree = None  # of the slots that a step returns, once it is compiled

    def warm(self) -> None:
        """Compiles the step, and the parts of prompts of every length.  Raises ValueError if a layer cannot."""
        self._try([[0]])
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.slots)
        self._clear()
        part = self.lengths[-1]
        for size in (*self.sizes, *reversed(self.sizes)):
            self._resize(size)
            for count in sorted({1, min(2, size)}):
                for length in self.lengths:
                    self._try([[0] * length] * count)
            if part + 1 < self.context:
                self._try([[0] * (part + 1)])
        self._clear()

    def _try(self, prompts: Sequence[Sequence[int]]) -> None:
        """Decodes a token after each prompt."""
        loop = asyncio.new_event_loop()
        for slot, prompt in enumerate(prompts):
            self.held[slot] = Generation(math.inf, loop.create_future(), prompt=prompt)
            self.begun[slot] = Prompt(cut_prompt(prompt, self.lengths))
        loop.close()
        while self.begun:
            self._compute_prompts()
        self._decode(1)

    def _take(self, params: Params) -> None:
        """Takes new parameters; texts of a single slot are drawn by kernels stored by their outputs where it pays."""
        self.current = params
        self.alone = transpose_kernels(params) if pays(1, MOST) else params

    def _choose_slots(self) -> int:
        """The number of slots whose caches fit `CACHES`, from `FEWEST` to `MANY`."""
        one = jax.eval_shape(lambda params: open_slots(self.model, params, 1, self.room), self.current)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        return max(FEWEST, min(MANY, CACHES // size))

    def run(self) -> None:
        """Generates until the queue is closed and the slots are free."""
        while True:
            try:
                if not self._fill():
                    return
                self._resize(1 + max(slot for slot, job in enumerate(self.held) if job is not None))
                self._compute_prompts()
                self._advance()
            except Exception as error:  # of any kind, for the clients; the thread must live
                for job in self.held:
                    if job is not None:
                        job.send(error)
                self._clear()

    def _clear(self) -> None:
        self.held, self.begun = [None] * len(self.held), {}
        slots = open_slots(self.model, self.current, 1, self.room)
        self.slots = jax.device_put(slots, self.shardings)  # placed as a step leaves them, or it is compiled once more

    def _fill(self) -> bool:
        """Fills free slots; waits if all are free.  False once the queue is closed and nothing is held."""
        self._release()
        newest = self.params()
        if newest is not self.current:
            if any(self.held):
                return True
            self._take(newest)
        free = [slot for slot, job in enumerate(self.held) if job is None]
        taken = self.queue.take(len(free), lambda job: None, wait=len(free) == len(self.held)) if free else []
        if self.params() is not self.current and not any(self.held):  # new ones came while it waited
            self._take(self.params())
        for slot, job in zip(free, taken, strict=False):
            assert isinstance(job, Generation)
            sampler = job.sampler
            values = (sampler.temperature, sampler.top_k or 0, sampler.top_p or 1.0, sampler.min_p or 0.0)
            for setting, value in zip(self.draws, values, strict=True):
                setting[slot] = value
            self.held[slot] = job
            self.begun[slot] = Prompt(cut_prompt(job.prompt, self.lengths))
        return any(self.held)

    def _release(self) -> None:
        """Frees the slots of clients who have left or whose time is over."""
        for slot, job in enumerate(self.held):
            if job is not None and not job.wanted:
                job.send(TimeoutError())
                self.held[slot] = None
                self.begun.pop(slot, None)

    def _compute_prompts(self) -> None:
        """Computes a part of every prompt that is not complete; those that are then take their slots."""
        short: dict[int, list[int]] = {}  # slots of prompts of one part, by its length
        for slot, prompt in list(self.begun.items()):
            if prompt.index == 0 and len(prompt.parts) == 1:
                short.setdefault(prompt.parts[0]["tokens"].size, []).append(slot)
            else:
                self._extend(prompt)
                if not prompt.parts:
                    self._place([slot], prompt.logits, prompt.caches, prompt.index)
        for slots in short.values():
            for first in range(0, len(slots), TOGETHER):
                self._begin(slots[first : first + TOGETHER])

    def _advance(self) -> None:
        jobs = [(slot, job) for slot, job in enumerate(self.held) if job is not None and slot not in self.begun]
        if not jobs:
            return
        # where prompts are being computed, their next part is due after one token
        count = 1 if self.begun else min(self.pace, *(job.most - job.count for _, job in jobs))
        began = time.monotonic()
        drawn = self._decode(count)
        self.pace = plan_dispatch(MOST, (time.monotonic() - began) * MOST / count)
        for row in drawn.tolist():
            busy = 0
            for slot, job in jobs:
                if self.held[slot] is not job:
                    continue
                busy += 1
                job.count += 1
                ended = row[slot] == job.end
                if not ended:
                    job.send(row[slot])
                if ended or job.count == job.most:
                    job.send(None)
                    self.held[slot] = None
                    self.queue.note_pace((time.monotonic() - began) / count * job.count / len(self.held))
            if busy:
                self.observe(busy, sum(job is not None for job in self.held))

    def _extend(self, prompt: Prompt) -> None:
        """Computes the next part of a prompt."""
        part: Batch = {name: jax.device_put(value) for name, value in prompt.parts.pop(0).items()}
        if prompt.index == 0:
            prompt.logits, prompt.caches = begin_prompts(self.model, self.current, part, self.room)
        else:
            index = np.array([prompt.index], np.int32)
            prompt.logits, prompt.caches = extend_prompts(
                self.model, self.current, prompt.caches, part, index, self.room
            )
        prompt.index += part["tokens"].size

    def _begin(self, slots: Sequence[int]) -> None:
        """Computes prompts of one part, all of the same length, and places them."""
        rows = [*slots, *[slots[-1]] * (TOGETHER - len(slots))] if len(slots) > 1 else slots
        parts = [self.begun[slot].parts[0] for slot in rows]
        whole: Batch = {name: jax.device_put(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        logits, caches = begin_prompts(self.model, self.current, whole, self.room)
        self._place(rows, logits, caches, parts[0]["tokens"].size)

    def _place(self, slots: Sequence[int], logits: jax.Array | None, caches: Tree, index: int) -> None:
        """Puts complete prompts of `index` tokens with their padding into their slots."""
        assert logits is not None
        jobs = [job for job in (self.held[slot] for slot in slots) if job is not None]
        positions = np.array([len(job.prompt) for job in jobs], np.int32)
        seeds = np.array([job.seed for job in jobs], np.uint32)
        numbers = np.full(len(slots), index, np.int32), positions, seeds
        self.slots: Slots = admit(self.slots, np.array(slots, np.int32), logits, caches, *numbers)
        for slot in slots:
            self.begun.pop(slot, None)

    def _resize(self, least: int) -> None:
        """Makes the slots as many as the smallest size of at least `least`, by one size after the other."""
        now, size = (bisect.bisect_left(self.sizes, number) for number in (len(self.slots.index), least))
        while now != size:
            now += 1 if now < size else -1
            self.slots = resize(self.slots, self.sizes[now])

    def _decode(self, count: int) -> np.ndarray:
        """Tokens (count, slots) of the present slots."""
        busy = np.array([job is not None and slot not in self.begun for slot, job in enumerate(self.held)])
        present = len(self.slots.index)
        packed = present == 1 and self.alone is not self.current
        params = self.alone if packed else self.current
        draws = Draws(*(values[:present] for values in self.draws))
        tokens, self.slots = decode(
            self.model, params, self.slots, draws, busy[:present], np.int32(count), self.room, packed=packed
        )
        return np.asarray(tokens)[:count]


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
