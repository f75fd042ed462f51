"""The user's code that a study names, by digest: trials of changed code are not those of the study."""

import hashlib
import inspect
import re
import sys
from pathlib import Path

from train.config import MAIN
from train.engine.provenance import read_methods
from train.errors import Json
from train.spec.parts import list_components
from train.variants import Study


def record_study(study: Study) -> dict[str, Json]:
    """Records a study as JSON values: its settings, and the digests of the user's files that it names."""
    return {**study.record(), "sources": find_sources(study)}


def find_sources(study: Study) -> dict[str, Json]:
    """SHA-256 of each of the user's files that a study names, by its path, and of classes of the running notebook."""
    files = [file for file in (study.config, *study.files) if file.endswith(".py") and Path(file).is_file()]
    texts = {file: Path(file).read_bytes() for file in files}
    if MAIN in study.files:
        settings = " ".join(text for variant in (study.overrides, *study.variants.values()) for text in variant)
        for name, component in list_components(sys.modules[MAIN]).items():
            if re.search(rf"\b{name}\b", settings):
                texts[f"{MAIN}.{name}"] = f"{inspect.signature(component)}\n{read_methods(component)}".encode()
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
