"""Names: of parts, of attributes, of commands; and packages that say what is in them."""

from pathlib import Path

from tests.house.names import count_vague, misnamed_commands, shared_names, silent_packages, undeclared

ROOT = Path(__file__).parents[2]

# Attributes of values that no contract of ours types: of exceptions, libraries, syntax trees and modules of the user's.
FOREIGN = {
    ("train/engine/checkpoint.py", "getattr(leaf, 'sharding', None)"),
    ("train/engine/checkpoint.py", "hasattr(self, 'manager')"),
    ("train/cli.py", "hasattr(options, 'overrides')"),
    ("train/data/sources/json_lines.py", "getattr(error, 'msg', str(error).partition(';')[0])"),
    ("train/data/readers/pixels.py", "getattr(image, 'tag_v2', {})"),
    ("train/data/published.py", "getattr(error, 'reason', error)"),
    ("train/data/sources/tfds.py", "getattr(feature, 'feature', feature)"),
    ("train/data/sources/tfds.py", "hasattr(feature, 'names')"),
    ("train/data/sources/tfds.py", "hasattr(inner, 'items')"),
    ("train/data/readers/videos.py", "getattr(error, 'strerror', None)"),
    ("train/engine/provenance.py", "getattr(module, '__file__', None)"),
    ("train/engine/provenance.py", "getattr(node, 'name', None)"),
    ("train/config.py", "hasattr(module, 'experiment')"),
    ("train/spec/checks.py", "getattr(choice, '__name__', choice)"),
}


def test_no_two_parts_have_one_name() -> None:
    assert shared_names(ROOT) == {}


def test_no_attribute_is_asked_for_that_no_contract_declares() -> None:
    found = undeclared(ROOT)
    assert found - FOREIGN == set(), "declare the attribute in a protocol, and ask with isinstance"
    assert FOREIGN - found == set(), "these are gone: remove them from the list"


def test_a_file_of_commands_is_called_as_its_command() -> None:
    assert misnamed_commands(ROOT) == []


def test_every_package_says_what_is_in_it() -> None:
    assert silent_packages(ROOT) == []


def test_vague_names_are_rare() -> None:
    assert max(count_vague(ROOT).values()) < 20, count_vague(ROOT)


def test_a_vague_name_is_counted(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").write_text("def own(given):\n    return [one for one in given]\n")
    assert count_vague(tmp_path) == {"one": 1, "found": 0, "own": 1, "place": 0, "given": 1}
