"""Texts a second of `morphax serve` beside `transformers serve`, on the same weights, at 1, 8 and 64 clients.

    python -m tests.benchmarks.serving_texts [--rounds 3] [--requests 64] [--json FILE]

A model of 6 layers of width 384 in Llama's form with 2,000 byte-pair tokens is trained for a step, written in
`transformers`' format, and served by both, with and without `transformers`' continuous batching, each server in a
process of its own; one answers while the others wait.  Clients continue prompts of 2 to 6 words by 32 tokens, the
likeliest ones, over connections that stay open.  That the first texts are the same is checked.  Ends with 1 if not.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.measure import begin, finish, note, parser, report
from tests.benchmarks.serving import CLIENTS, TOKENS, Served, ask, summarise, text
from train.engine.folder import open_run
from train.engine.prepared import prepare_inference
from train.use.evaluate import restore_params
from train.use.serving.batching import pull

WIDTH, DEPTH, HEADS, HIDDEN, VOCAB = 384, 6, 6, 1024, 2_000
BLOCK = f"Block(Attention({HEADS}, causal=True, position=RoPE()), GLU({HIDDEN} / {WIDTH}), PreNorm(RMSNorm()))"
MODEL = f"Transformer(TokenEmbed({VOCAB}, {WIDTH}), Stack({BLOCK}, {DEPTH}, RMSNorm()), LogitsHead(tied=False))"
SETTINGS = (f"model={MODEL}", f"data.tokenizer=bpe:{VOCAB}", "data.length=192", "steps=1", "batch_size=1")
PLACES = {
    "mixer/query": "self_attn.q_proj",
    "mixer/key": "self_attn.k_proj",
    "mixer/value": "self_attn.v_proj",
    "mixer/out": "self_attn.o_proj",
    "feedforward/gate": "mlp.gate_proj",
    "feedforward/up": "mlp.up_proj",
    "feedforward/down": "mlp.down_proj",
}


def train_run(folder: Path) -> Path:
    """The folder of a run of one step."""
    run = folder / "run"
    command = [sys.executable, "-m", "train", "lm_shakespeare", *SETTINGS, "evaluation.every=10", "--run", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run


def write_llama(run: Path, folder: Path) -> Path:
    """Writes the run's weights and tokenizer for `transformers`."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    opened = open_run(run)
    data = opened.experiment.data.reader(opened.classes)
    inference = prepare_inference(opened.experiment, data, data.questions(["a"], 1, 1)[0])
    params: Any = pull(restore_params(run, inference, False)[1])
    state = {
        "model.embed_tokens.weight": params["embed"]["token"],
        "model.norm.weight": params["stack"]["norm"]["scale"],
        "lm_head.weight": params["head"]["table"],
    }
    for layer in range(DEPTH):
        theirs, ours = f"model.layers.{layer}", params["stack"][f"layer_{layer}"]
        for place, name in PLACES.items():
            part, product = place.split("/")
            state[f"{theirs}.{name}.weight"] = ours[part][product]["kernel"].T
        for part, name in (("mixer", "input_layernorm"), ("feedforward", "post_attention_layernorm")):
            state[f"{theirs}.{name}.weight"] = ours[f"{part}_residual"]["norm"]["scale"]
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        max_position_embeddings=192,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    model.save_pretrained(folder / "llama")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(next(run.rglob("tokenizer.json"))), pad_token="\0")
    tokenizer.save_pretrained(folder / "llama")
    return folder / "llama"


class Transformers:
    """`transformers serve` in a process of its own."""

    def __init__(self, folder: Path, port: int, *words: str) -> None:
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--port", str(port)]
        words = ("--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32", *words)
        self.log = folder.with_suffix(f".{port}").open("w")
        self.process = subprocess.Popen([*command, *words], stdout=self.log, stderr=self.log)
        self.port, deadline = port, time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                return
            except urllib.error.URLError:
                time.sleep(0.5)
        raise RuntimeError(f"transformers serve does not answer; see {self.log.name}.")

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait()


def make_bodies(model: str | None, count: int) -> list[bytes]:
    """Bodies of as many requests, to the model of a name if the server wants one."""
    named = {} if model is None else {"model": model}
    wanted = [{"prompt": text(number), "max_tokens": TOKENS, "temperature": 0} for number in range(count)]
    return [json.dumps(each | named).encode() for each in wanted]


def complete(port: int, body: bytes) -> str:
    """The text that a server answers."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)["choices"][0]["text"]


def tabulate(figures: dict[str, Any]) -> None:
    """Prints medians of turns, and morphax's texts a second in times of each server's, by turn."""
    rows: list[tuple[str, ...]] = []
    for name, clients in ((name, clients) for name, every in figures.items() for clients in every):
        turns, ours = figures[name][clients], figures["morphax"][clients]
        ratios = sorted(a["a second"] / b["a second"] for a, b in zip(ours, turns, strict=True))
        medians = (f"{statistics.median(each[key] for each in turns):,.1f}" for key in turns[0])
        rows.append((name, str(clients), *medians, f"{ratios[0]:.2f} to {ratios[-1]:.2f}"))
    columns = ("", "clients", "texts a second", "p50 ms", "p99 ms", "morphax in times of it")
    report(columns, rows, f"{TOKENS} tokens a text, medians of turns")


def main() -> None:
    """Measures and prints the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="turns of each server")
    options.add_argument("--requests", type=int, default=64, help="requests for each number of clients")
    given = options.parse_args()
    begin()
    with tempfile.TemporaryDirectory() as place:
        run = train_run(Path(place))
        llama = write_llama(run, Path(place))
        servers: dict[str, Any] = {}
        models: dict[str, str | None] = {"morphax": None}
        try:
            servers["morphax"] = Served(run, "--context", "192")
            for name, port, words in (("transformers", 8101, ()), ("continuous", 8102, ("--continuous-batching",))):
                models[name] = str(llama)
                servers[name] = Transformers(llama, port, *words)
            firsts = {name: complete(each.port, make_bodies(models[name], 1)[0]) for name, each in servers.items()}
            note(str(firsts))
            figures: dict[str, Any] = {name: {clients: [] for clients in CLIENTS} for name in servers}
            for _ in range(given.rounds):
                for clients in CLIENTS:
                    for name, each in servers.items():
                        bodies, began = make_bodies(models[name], given.requests), time.perf_counter()
                        seconds = asyncio.run(ask(each.port, "/v1/completions", bodies, clients, lambda done: None))
                        figures[name][clients].append(summarise(seconds, time.perf_counter() - began))
                        note(f"{name}, {clients} clients: {figures[name][clients][-1]}")
        finally:
            for each in servers.values():
                each.stop()
    tabulate(figures)
    same = len(set(firsts.values())) == 1
    finish(figures, given.json, [] if same else [f"The first texts differ: {firsts}"])


if __name__ == "__main__":
    main()
