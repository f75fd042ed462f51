"""Pictures of every depth and format: their own range becomes 0 to 255, what is transparent is white, and they stand
upright.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from train.data.readers.pixels import convert_channels, decode, orient, require_decodable
from train.data.tasks.images import Images
from train.errors import InputError

GREY = np.arange(0, 256, dtype=np.uint8).reshape(8, 32)[:, :24].copy()
SCALED = np.round(GREY / GREY.max() * 255)


def saved(image: Image.Image, kind: str = "TIFF", **settings: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **settings)
    return data.getvalue()


def tiff(array: np.ndarray, **tags: Any) -> bytes:
    """A TIFF of an array, with some of its tags changed."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        number, kind = {"photometric": (262, 3), "least": (340, 12), "largest": (341, 12)}[name]
        info.tagtype[number] = kind
        info[number] = value
    return saved(Image.fromarray(array), tiffinfo=info)


def clear16(grey: np.ndarray, value: int) -> bytes:
    """A PNG of 16 bits in which a value is transparent."""
    plain, whole = saved(Image.fromarray(grey), "PNG"), io.BytesIO()
    place = plain.index(b"IDAT") - 4
    whole.write(plain[:place])
    PngImagePlugin.putchunk(whole, b"tRNS", value.to_bytes(2, "big"))
    whole.write(plain[place:])
    return whole.getvalue()


DEEP = GREY.astype(np.uint16) * 257
RANGES: dict[str, tuple[bytes, np.ndarray]] = {
    "png of 16 bits": (saved(Image.fromarray(DEEP), "PNG"), GREY),
    "png of 16 bits with a transparent value": (clear16(DEEP, int(DEEP[0, 0])), np.where(GREY == 0, 255, GREY)),
    "tiff of 16 bits": (tiff(DEEP), GREY),
    "tiff of 16 bits whose highest byte is first": (saved(Image.fromarray(DEEP.astype(">u2"))), GREY),
    "tiff of 16 bits whose zero is white": (tiff(DEEP, photometric=0), 255 - GREY),
    "tiff of 32 bits": (tiff(GREY.astype(np.int32) * 1_000_000), SCALED),
    "tiff of 32 bits that holds 16": (tiff(GREY.astype(np.int32) * 257), GREY),
    "tiff of 32 bits that holds 8": (tiff(GREY.astype(np.int32)), GREY),
    "signed numbers": (tiff(GREY.astype(np.int32) * 100 - 9000), SCALED),
    "fractions from 0 to 1": (tiff((GREY / 255).astype(np.float32)), GREY),
    "fractions from 0 to 255": (tiff(GREY.astype(np.float32)), GREY),
    "fractions to 65,535": (tiff(DEEP.astype(np.float32)), GREY),
    "fractions around 0": (tiff((GREY / 100.0 - 1).astype(np.float32)), SCALED),
    "fractions whose range is told": (tiff((GREY * 2.0 - 10).astype(np.float32), least=-10.0, largest=500.0), GREY),
    "pgm of 16 bits": (b"P5 24 8 65535\n" + DEEP.astype(">u2").tobytes(), GREY),
    "pgm of 10 bits": (b"P5 24 8 1023\n" + np.round(GREY / 255 * 1023).astype(">u2").tobytes(), GREY),
    "grey": (saved(Image.fromarray(GREY), "PNG"), GREY),
    "qoi": (saved(Image.fromarray(GREY).convert("RGB"), "QOI"), GREY),
    "tga": (saved(Image.fromarray(GREY), "TGA"), GREY),
    "webp": (saved(Image.fromarray(GREY).convert("RGB"), "WEBP", lossless=True), GREY),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RANGES)
def test_grey_of_any_depth_is_seen_on_its_own_range(name: str, channels: int) -> None:
    content, expected = RANGES[name]
    found = decode(content, channels)
    assert found.dtype == np.uint8
    assert found.shape == (8, 24, channels)
    np.testing.assert_allclose(found.astype(float), np.repeat(expected[..., None].astype(float), channels, 2), atol=1)


def test_a_tiff_of_12_bits_is_seen_on_its_own_range() -> None:
    """Pillow writes none: here two values of 12 bits stand in three bytes of a TIFF of 8 bits, whose tags are
    changed.
    """
    values = [(0, 4095), (2048, 1024)]
    packed = b"".join(bytes([one >> 4, (one & 15) << 4 | other >> 8, other & 255]) for one, other in values)
    whole = bytearray(saved(Image.fromarray(np.zeros((1, 6), np.uint8))))
    first = int.from_bytes(whole[4:8], "little")
    for entry in range(first + 2, first + 2 + 12 * int.from_bytes(whole[first : first + 2], "little"), 12):
        tag, size = int.from_bytes(whole[entry : entry + 2], "little"), {3: 2, 4: 4}.get(whole[entry + 2], 4)
        if tag in (256, 258):  # the columns, and the bits of each
            whole[entry + 8 : entry + 8 + size] = {256: 4, 258: 12}[tag].to_bytes(size, "little")
        elif tag == 273:
            start = int.from_bytes(whole[entry + 8 : entry + 8 + size], "little")
            whole[start : start + 6] = packed
    np.testing.assert_allclose(decode(bytes(whole), 1)[0, :, 0], [0, 255, 128, 64], atol=1)


def test_values_that_are_no_numbers_are_told() -> None:
    with pytest.raises(ValueError, match="it has values that are not finite"):
        decode(tiff(np.array([[0.5, np.nan]], np.float32)), 1)


def clear(mode: str) -> Image.Image:
    """A dark picture, the left half of which is transparent."""
    opaque = np.zeros((8, 24), np.uint8)
    opaque[:, 12:] = 255
    whole = Image.fromarray(np.full((8, 24), 40, np.uint8)).convert("RGB")
    whole.putalpha(Image.fromarray(opaque))
    return whole.convert(mode)


def palette(kind: str, transparency: Any) -> bytes:
    image = Image.fromarray(np.repeat([[0] * 12 + [1] * 12], 8, 0).astype(np.uint8))
    image.putpalette([200, 0, 0, 40, 40, 40])
    return saved(image, kind, transparency=transparency)


def halves(left: Any, right: Any) -> Image.Image:
    return Image.fromarray(np.repeat([[left] * 12 + [right] * 12], 8, 0))


CLEAR = {
    "grey and alpha": saved(clear("LA"), "PNG"),
    "colour and alpha": saved(clear("RGBA"), "PNG"),
    "tiff": saved(clear("RGBA")),
    "tiff of grey and alpha": saved(clear("LA")),
    "webp": saved(clear("RGBA"), "WEBP", lossless=True),
    "palette": palette("PNG", bytes([0, 255])),
    "gif": palette("GIF", 0),
    "a transparent grey": saved(halves(np.uint8(9), np.uint8(40)), "PNG", transparency=9),
    "a transparent bit": saved(halves(False, True), "PNG", transparency=0),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CLEAR)
def test_what_is_transparent_is_white(name: str, channels: int) -> None:
    found = decode(CLEAR[name], channels)
    assert (found[:, :12] == 255).all()
    np.testing.assert_allclose(found[:, 12:].astype(int), 255 if name.endswith("bit") else 40, atol=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_data_sets_are_seen_as_files_are(channels: int) -> None:
    expected = decode(saved(Image.fromarray(GREY), "PNG"), channels)
    for array in (GREY, DEEP, (GREY / 255).astype(np.float32), GREY.astype(np.int64)):
        np.testing.assert_array_equal(convert_channels(array[..., None], channels), expected)
    np.testing.assert_array_equal(convert_channels(GREY[..., None] > 9, 1)[..., 0], (GREY > 9) * 255)
    for mode in ("LA", "RGBA"):
        np.testing.assert_allclose(
            convert_channels(np.asarray(clear(mode)), channels).astype(int),
            decode(saved(clear(mode), "PNG"), channels),
            atol=1,
        )


def test_other_spaces_of_colour_are_red_green_and_blue() -> None:
    red = Image.new("RGB", (24, 8), (200, 30, 40))
    profiles: Any = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    assert lab is not None
    made = {
        "cmyk tiff": saved(red.convert("CMYK")),
        "cmyk jpeg": saved(red.convert("CMYK"), "JPEG", quality=95),
        "lab": saved(lab),
    }
    for name, content in (made | {"ycbcr": saved(red.convert("YCbCr"))}).items():
        np.testing.assert_allclose(decode(content, 3)[4, 12].astype(int), (200, 30, 40), atol=6, err_msg=name)
        np.testing.assert_allclose(decode(content, 1)[4, 12].astype(int), 82, atol=6, err_msg=name)


def test_a_picture_of_one_bit_is_black_and_white() -> None:
    bits = np.random.default_rng(0).random((8, 24)) > 0.5
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        np.testing.assert_array_equal(decode(saved(Image.fromarray(bits), kind), 1)[..., 0], bits * 255)


@pytest.mark.parametrize("turn", range(1, 9))
def test_deep_pictures_stand_upright_as_others_do(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    for kind in ("PNG", "TIFF"):
        flat, deep = (decode(saved(Image.fromarray(one), kind, exif=exif), 1, upright=True) for one in (GREY, DEEP))
        np.testing.assert_array_equal(flat, deep)
        np.testing.assert_array_equal(flat[..., 0], orient(GREY, turn))


def test_postscript_is_not_run_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(ValueError, match="it is no picture"):
        require_decodable(tmp_path / "a.png")


def test_files_are_read_by_what_they_hold_and_the_others_counted_and_named_whatever_they_are_called(
    tmp_path: Path,
) -> None:
    kinds = {".png": "PNG", ".pgm": "PPM", ".JPEG": "JPEG", ".qoi": "QOI", ".jfif": "JPEG", "": "PNG"}
    for name in ("dark", "light"):
        (tmp_path / name / "more").mkdir(parents=True)
        for number, (suffix, kind) in enumerate(kinds.items()):
            content = saved(Image.fromarray(GREY).convert("RGB"), kind)
            (tmp_path / name / "more" / f"{number}{suffix}").write_bytes(content)
    (tmp_path / "dark" / "notes.txt").write_text("no picture")
    (tmp_path / "dark" / "more" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dark" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "dark" / "lost.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "dark" / "other").symlink_to(tmp_path / "light")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes(saved(Image.fromarray(GREY), "PNG"))
    (tmp_path / "readme.md").write_text("no picture")
    opened = Images(path=str(tmp_path), test=str(tmp_path), size=(8, 8)).open()
    assert len(opened.splits["train"].examples) == 12
    outside, inside, *_ = opened.notes
    assert [Path(name).name for name in outside.names] == ["a.png", "readme.md"]
    assert "are in no folder of a class and are left out" in str(outside)
    assert sorted(Path(name.partition(" (")[0]).name for name in inside.names) == [
        ".DS_Store",
        "a.heic",
        "lost.png",
        "notes.txt",
        "other",
    ]
    assert (len(inside.names), inside.total) == (5, 11)
    assert inside.record()["names"] == list(inside.names)
    asked = Images(size=(8, 8)).reader()
    assert len(asked.list_questions([str(tmp_path / "dark")])) == 6
    assert asked.notes[0].names == inside.names
    for file in (tmp_path / "light" / "more").iterdir():
        file.write_bytes(b"spoilt")
    with pytest.raises(
        InputError, match=r"light has no pictures that can be read, as 6 of 6 files of .*0\.png \(it is no picture\)"
    ):
        Images(path=str(tmp_path), test=str(tmp_path), size=(8, 8)).open()
