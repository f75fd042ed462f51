"""Small stand-ins for the published sets that no package index ships: files of the same names and formats, made
here.
"""

import dataclasses
import gzip
import hashlib
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from train.data import published

WORDS = {  # a word of each kind in English, German and French
    "who": (
        ("a dog", "ein Hund", "un chien"),
        ("a girl", "ein Mädchen", "une fille"),
        ("a man", "ein Mann", "un homme"),
    ),
    "does": (("runs", "rennt", "court"), ("sits", "sitzt", "est assis"), ("sleeps", "schläft", "dort")),
    "where": (("on the grass", "auf dem Gras", "sur l'herbe"), ("in a boat", "in einem Boot", "dans un bateau")),
    "when": (
        ("today", "heute", "aujourd'hui"),
        ("at night", "nachts", "la nuit"),
        ("in summer", "im Sommer", "en été"),
    ),
}
PAIRS = {"train": 1200, "val": 40, "test_2016_flickr": 120}
CLOTHES = {"train": 2000, "t10k": 500}
CELLS = {"train": 40, "val": 4, "test": 36}
# a colour and a radius each
KINDS = (("RBC", (200, 90, 80), 50), ("WBC", (90, 60, 160), 80), ("Platelets", (60, 60, 90), 18))


def multi30k(folder: Path) -> None:
    """Numbered sentences in three languages, a gzip file for each part and language."""
    for part, count in PAIRS.items():
        draw = random.Random(part)
        rows = [[draw.choice(words) for words in WORDS.values()] for _ in range(count)]
        for place, language in enumerate(("en", "de", "fr")):
            lines = [
                f"{' '.join(words[place] for words in row)}, {part} {number}.\n" for number, row in enumerate(rows)
            ]
            (folder / f"{part}.{language}.gz").write_bytes(gzip.compress("".join(lines).encode()))


def fashion_mnist(folder: Path) -> None:
    """Bright bars whose height is the class, in MNIST's idx format."""
    for part, count in CLOTHES.items():
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.random.default_rng(count).integers(0, 40, (count, 28, 28), np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[2 : 4 + 2 * int(label), 8:20] = 220
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))


def bccd(folder: Path) -> None:
    """Discs of three colours and sizes on a pale ground, 640 x 480, with Pascal VOC boxes."""
    for inner in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / inner).mkdir(parents=True)
    number = 0
    for part, count in CELLS.items():
        stems = [f"cells_{index:03}" for index in range(number, number + count)]
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(stems) + "\n", encoding="ascii")
        for stem in stems:
            draw, image = random.Random(number), Image.new("RGB", (640, 480), (230, 220, 210))
            canvas, items = ImageDraw.Draw(image), ""
            for column, (name, colour, radius) in enumerate(KINDS):
                across, down = 105 + 210 * column + draw.randint(-20, 20), draw.randint(100, 380)
                left, top, right, bottom = across - radius, down - radius, across + radius, down + radius
                canvas.ellipse((left, top, right, bottom), fill=colour)
                box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
                items += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
            image.save(folder / "JPEGImages" / f"{stem}.jpg")
            size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
            text = f"<annotation><filename>{stem}.jpg</filename>{size}{items}</annotation>"
            (folder / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
            number += 1


def make(folder: Path) -> Path:
    """Writes every stand-in below a folder."""
    for name, write in (("multi30k", multi30k), ("fashion-mnist", fashion_mnist), ("bccd", bccd)):
        (folder / name).mkdir(parents=True)
        write(folder / name)
    return folder


def publish(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Lets the stand-ins of a folder pass for the published sets: their place and their checksums."""
    patch.setenv("MORPHAX_DATA", str(folder))
    for name, entry in published.FILES.items():
        if (folder / name).is_file():
            patch.setitem(
                published.FILES, name, dataclasses.replace(entry, sha256=checksum(folder / name, entry.inside))
            )
    entry = published.TREES["bccd"]
    patch.setitem(
        published.TREES, "bccd", dataclasses.replace(entry, sha256=published.fingerprint(folder / "bccd", entry))
    )


def checksum(path: Path, inside: bool) -> str:
    """Of a file, or of what a gzip file holds."""
    return hashlib.sha256(gzip.decompress(path.read_bytes()) if inside else path.read_bytes()).hexdigest()
