"""Public archives fetched from a server of the test's own: what they give, what is refused, what the catalogue's sets
ask for."""

import dataclasses
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.train.data.rows import rows
from train.cli import main
from train.data import published
from train.data.readers.archive import read_members
from train.data.sources import open_dataset
from train.data.sources.tfds import prepare
from train.errors import InputError

SENTENCES = [(f"a {('dull', 'fine')[index % 2]} film , number {index} ", index % 2) for index in range(24)]
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), np.uint8)


def sst2() -> bytes:
    """A zip of tables, as GLUE's is."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, rows in (("train", SENTENCES[:16]), ("dev", SENTENCES[16:])):
            archive.writestr(
                f"SST-2/{name}.tsv", "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
            )
        archive.writestr("SST-2/test.tsv", 'index\tsentence\n0\t" uneasy mishmash of styles and genres .\n')
        archive.writestr("../outside.txt", "out of the folder")
    return made.getvalue()


def packed(files: dict[str, bytes]) -> bytes:
    """A tar.gz."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def imdb() -> bytes:
    """A folder for each part and each class, and reviews without a class."""
    files = {
        f"aclImdb/{part}/{('neg', 'pos')[label]}/{number}_{(2, 9)[label]}.txt": f"Oh, {text}<br />".encode()
        for part in ("train", "test")
        for number, (text, label) in enumerate(SENTENCES)
    }
    return packed(files | {"aclImdb/train/unsup/0_0.txt": b"unheard", "../outside.txt": b"out"})


def cifar(short: int = 0) -> bytes:
    """Batches of a label and 3,072 bytes of colour a picture."""
    rows = [bytes([index % 10]) + image.tobytes() for index, image in enumerate(PIXELS)]
    batches = {f"data_batch_{number}": rows[4 * number - 4 : 4 * number] for number in range(1, 6)} | {
        "test_batch": rows[20:]
    }
    return packed({f"cifar-10-batches-bin/{name}.bin": b"".join(some)[short:] for name, some in batches.items()})


ARCHIVES = {"glue/SST-2.zip": sst2(), "imdb/aclImdb_v1.tar.gz": imdb(), "cifar/cifar-10-binary.tar.gz": cifar()}
SETS = {
    "glue/sst2": "glue/SST-2.zip",
    "imdb_reviews": "imdb/aclImdb_v1.tar.gz",
    "cifar10": "cifar/cifar-10-binary.tar.gz",
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An address, and what it serves by path; what is not there is not found."""
    served: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served.get(self.path.strip("/"))
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", served
    listening.shutdown()


@pytest.fixture
def serve(
    server: tuple[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, bytes | None, bytes | None], Path]:
    """Puts an archive there, whose checksum is that of `expected`; gives the folder of an empty cache."""
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MORPHAX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    address, served = server

    def put(name: str, content: bytes | None, expected: bytes | None = None) -> Path:
        served.clear()
        if content is not None:
            served["archive"] = content
        checksum = hashlib.sha256(expected or content or b"").hexdigest()
        entry = dataclasses.replace(published.FILES[name], url=f"{address}/archive", sha256=checksum)
        monkeypatch.setitem(published.FILES, name, entry)
        return tmp_path / "cache"

    return put


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_fetched_once_and_holds_what_its_archive_does(
    name: str, serve: Callable[..., Path], server: tuple[str, dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = serve(SETS[name], ARCHIVES[SETS[name]])
    parts = [rows(name, part) for part in ("train", "validation" if name == "glue/sst2" else "test")]
    assert capsys.readouterr().err.count("fetching ") == 1
    server[1].clear()
    assert len(rows(name, "train")) == len(parts[0])  # with nothing to fetch from
    assert not list(cache.parent.rglob("outside.txt"))
    if name == "cifar10":
        assert [len(some) for some in parts] == [20, 4]
        found = {row["image"].tobytes(): int(row["label"]) for some in parts for row in some}
        assert found == {image.transpose(1, 2, 0).tobytes(): index % 10 for index, image in enumerate(PIXELS)}
    else:
        text, before, names = (
            ("sentence", "", ("negative", "positive")) if name == "glue/sst2" else ("text", "Oh, ", ("neg", "pos"))
        )
        assert [len(some) for some in parts] == ([16, 8] if name == "glue/sst2" else [24, 24])
        given = SENTENCES if name == "glue/sst2" else SENTENCES * 2
        end = "" if name == "glue/sst2" else " <br />"
        assert sorted((row[text].decode(), int(row["label"])) for some in parts for row in some) == sorted(
            (f"{before}{words.strip()}{end}", label) for words, label in given
        )
        assert open_dataset(name, "train").names["label"] == names


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("wrong", r"what came has sha256 [0-9a-f]{12}\.\.\., not [0-9a-f]{12}"),
        ("cut", r"what came has sha256"),
        ("absent", r"could not be fetched \(Not Found\); download http://127.* to .*cache/files/"),
        ("no archive", r"is damaged|has no file"),
        ("empty", r"has no file .*; remove it to fetch it again"),
    ],
)
def test_what_is_not_the_archive_is_one_sentence_and_leaves_nothing(
    name: str, fault: str, sentence: str, serve: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, archive = ARCHIVES[SETS[name]], SETS[name]
    hollow = {"glue/sst2": b"PK\x05\x06" + bytes(18)}.get(name, packed({}))
    given = {
        "wrong": (b"else", whole),
        "cut": (whole[:-9], whole),
        "absent": (None, whole),
        "no archive": (b"else", b"else"),
    }
    cache = serve(archive, *(given | {"empty": (hollow, hollow)})[fault])
    assert main(["data", "prepare", name]) == 2
    *progress, said = capsys.readouterr().err.splitlines()
    assert all(line.startswith(("preparing ", "fetching ")) for line in progress)
    with pytest.raises(InputError, match=sentence):
        raise InputError(said)
    # which names the configurations
    left = [path for path in cache.rglob("*") if path.is_file() and path.name != "metadata.json"]
    assert left == ([] if fault in ("wrong", "cut", "absent") else [cache / "files" / archive])


def test_a_batch_of_pictures_that_ends_early_is_refused(serve: Callable[..., Path]) -> None:
    serve("cifar/cifar-10-binary.tar.gz", cifar(short=5))
    with pytest.raises(InputError, match=r"is damaged \(cifar-10-batches-bin/data_batch_1\.bin has 12,287 bytes\)"):
        prepare("cifar10")


def test_of_an_archive_only_plain_files_are_read(tmp_path: Path) -> None:
    place = tmp_path / "a.tar.gz"
    with tarfile.open(place, "w:gz") as archive:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(OSError, match="has no file"):
        list(read_members(place, ".*"))


SMALL = "Transformer(TokenEmbed(512, 16), Stack(Block(Attention(2), MLP(2.0)), repeats=1), ClassHead(2, MeanPool()))"
TEXT = (f"model={SMALL}", "initial=none", "data.tokenizer=bytes", "data.length=64", "optimizer.rate.peak=0.01")
SEEN = (
    "model.embed.width=16",
    "model.embed.channels=(4, 8)",
    "model.embed.strides=(2, 2)",
    "model.embed.position.length=64",
)
SEEN += ("model.stack.repeats=1",)
SEEN += ("model.stack.block.mixer=Attention(2, position=AxialRoPE((8, 8)))", "data.size=(32, 32)", "data.channels=3")
RUNS = {
    "glue/sst2": ("sentiment_bert", *TEXT, "data.text=sentence", "data.splits=('train', 'validation')"),
    "imdb_reviews": ("tweets_bert", *TEXT),
    "cifar10": ("images_vit", *SEEN),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.slow
def test_a_set_is_trained_on_by_its_name(
    name: str, serve: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(SETS[name], ARCHIVES[SETS[name]])
    config, *settings = RUNS[name]
    settings += ["batch_size=8", "evaluation.batch_size=8", "steps=4", "log_every=1"]
    assert main(["train", config, f"data.dataset={name}", *settings, "--run", "run", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == 4
    assert 0 <= summary["evaluation"]["accuracy"]["value"] <= 1


def test_what_a_catalogues_set_calls_its_columns_and_splits_is_said(
    serve: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    serve("glue/SST-2.zip", ARCHIVES["glue/SST-2.zip"])
    assert main(["train", "sentiment_bert", *TEXT, "data.dataset=glue/sst2", "--run", "run"]) == 2
    assert "glue/sst2 has no split 'test'; it has train, validation: set data.splits" in capsys.readouterr().err
    assert (
        main(
            [
                "train",
                "sentiment_bert",
                *TEXT,
                "data.dataset=glue/sst2",
                "data.splits=('train', 'validation')",
                "--run",
                "run",
            ]
        )
        == 2
    )
    assert "has no column 'text'; it has idx, label, sentence: set data.text" in capsys.readouterr().err
