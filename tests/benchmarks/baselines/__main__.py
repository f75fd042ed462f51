"""What a simple method reaches on the data of the applications: the numbers that their configs have to beat.

    python -m tests.benchmarks.baselines [--only NAME ...] [--rows N] [--json FILE]

Each is a function of how many examples to take that gives the measures of its methods; a new one is one line in the
table.
"""

from collections.abc import Callable
from functools import partial

from tests.benchmarks.baselines import ALL, Figures
from tests.benchmarks.baselines.clips import clips
from tests.benchmarks.baselines.drives import decisions, drives
from tests.benchmarks.baselines.language import characters, dictionary
from tests.benchmarks.baselines.pictures import components, pixels
from tests.benchmarks.baselines.series import forecasts
from tests.benchmarks.baselines.texts import texts
from tests.benchmarks.measure import finish, note, parser, report, selected

BASELINES: dict[str, Callable[..., Figures]] = {
    "sentiment_bert": partial(texts, "movie_snippets/labels"),
    "topics_bert": partial(texts, "reuters_r8"),
    "tweets_bert": partial(texts, "tweets"),
    "lm_shakespeare": partial(characters, "shakespeare_plays"),
    "translate_numbers": partial(dictionary, "number_words"),
    "translate_multi30k": partial(dictionary, "multi30k/en-de"),
    "images_vit": partial(pixels, "fashion_mnist"),
    "detect_digits": partial(components, "digit_scenes"),
    "detect_cells": partial(components, "bccd"),
    "video_motion": partial(clips, "moving_digits"),
    "video_manoeuvres": partial(clips, "highway_manoeuvres/whole"),
    "traffic_occupancy": partial(forecasts, "traffic_occupancy"),
    "traffic_weather": partial(forecasts, "traffic_weather"),
    "drive_highway": partial(drives, "highway_drives/expert"),
    "drive_decision": partial(decisions, "highway_drives/mixed"),
}


def main() -> None:
    """Measures and prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--rows", type=int, default=ALL, metavar="N", help="the first N examples of each part, to try it (all)"
    )
    options = arguments.parse_args()
    figures: dict[str, Figures] = {}
    for name in selected(BASELINES, options.only):
        figures[name] = BASELINES[name](most=options.rows)
        note(f"{name}: {figures[name]}")
    rows = [
        (name, method, ", ".join(f"{measure} {value:.4g}" for measure, value in found.items()))
        for name, methods in figures.items()
        for method, found in methods.items()
    ]
    report(("application", "method", "measures on the test part"), rows, "baselines")
    finish(figures, options.json, [])


if __name__ == "__main__":
    main()
