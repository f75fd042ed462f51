"""Studies of configs/: their variants are overrides that build, at every scale."""

import argparse

import pytest

from train.cli import main
from train.commands.compare import add, name_folder, read_study
from train.config import import_config, list_studies, load_config
from train.study.ladder import plan_ladder
from train.variants import Study


@pytest.mark.parametrize("name", list_studies())
def test_every_variant_of_a_study_builds_at_every_scale(name: str) -> None:
    study: Study = import_config(name).study()
    assert study.variants
    for scaled in (study, *map(study.enlarge, study.scales)):
        plain, _ = load_config(scaled.config, list(scaled.overrides))
        for settings in scaled.variants.values():
            for tuned in scaled.grid or ("seed=0",):
                changed, _ = load_config(scaled.config, [*scaled.overrides, *settings, tuned])
                assert changed != plain
                assert changed.data == plain.data


def test_a_scale_adds_its_settings_before_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add(parser)
    options = parser.parse_args(["compare_norms", "steps=7", "--scale", "colab"])
    study = read_study(options)
    assert study.overrides == ("steps=200", *study.scales["colab"], "steps=7")
    assert str(name_folder(options, "study")) == "runs/compare_norms_colab_study"
    assert main(["compare", "compare_norms", "--scale", "moon"]) == 2
    assert "has no scale 'moon'; it has colab, pod" in capsys.readouterr().err


def test_a_ladder_has_the_sizes_of_its_study() -> None:
    study: Study = import_config("scaling_mixers").study()
    assert [rung.width for rung in plan_ladder(study, study.sizes)] == [64, 96, 128, 192]
    assert Study("tiny_lm").sizes == (0.5, 1.0, 2.0)
