"""`morphax plan`: memory, time and the MFU ceiling on a TPU, by its compiler, without the chip."""

import argparse
import json
import shutil
import sys

from train.errors import InputError

HELP = "compile a step for a TPU that need not be there: memory, cycles, ceiling"
EXAMPLES = """
examples:
  morphax plan lm_tpu                                       the training step on Colab's chip, v5e:1x1
  morphax plan lm_tpu --topology v5e:1x1,v6e:1x1            on several chips, side by side
  morphax plan lm_tpu --topology v5e:2x4 parallel="Mesh(fsdp=8)" batch_size=256
  morphax plan lm_tpu --vary model.stack.block.mixer="GatedDeltaNet(heads=18)" --vary model.stack.remat=full
  morphax plan lm_tpu --decode                              one step of decoding, a token for every row
  morphax plan lm_tpu batch_size=512 --advise               the smallest change that makes it fit

Needs libtpu: pip install 'morphax[tpu]'.  Topologies are CHIP:SHAPE; chips are v2, v3, v4, v5e, v5p, v6e and tpu7x.
The shapes of v4, v5p and tpu7x have three dimensions, as in v5p:2x2x1.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", help="name of a file in configs/, or the path of your own")
    parser.add_argument(
        "overrides", nargs="*", metavar="path=value", help="settings to change, by their path in the experiment"
    )
    parser.add_argument(
        "--topology", default="v5e:1x1", help="chips to compile for, with commas between (default: v5e:1x1)"
    )
    parser.add_argument(
        "--vary", action="append", default=[], metavar="path=value", help="a structure to put beside it; again for more"
    )
    parser.add_argument(
        "--decode", action="store_true", help="the step that adds a token to every row, not the training step"
    )
    parser.add_argument(
        "--advise", action="store_true", help="if it does not fit, find the smallest change that does, by compiling"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from train.config import load_config
    from train.plan.advice import advise
    from train.plan.step import prepare_plan
    from train.plan.table import format_table, record
    from train.plan.topology import find_devices

    if options.advise and options.decode:
        raise InputError("--advise finds changes of the training step; leave --decode out.")
    variants = {"as it is": [], **{text: [text] for text in options.vary}}
    experiments = {name: load_config(options.config, [*options.overrides, *more])[0] for name, more in variants.items()}
    topologies = options.topology.split(",")
    for where in topologies:
        find_devices(where)  # raises InputError before the first compilation
    ready = [
        (name, where, prepare_plan(experiment, name, where, options.decode))
        for where in topologies
        for name, experiment in experiments.items()
    ]
    plans, advice, refused = [], [], []
    for name, where, compiled in ready:
        print(f"compiling {options.config} ({name}) for {where}", file=sys.stderr, flush=True)
        try:
            plans.append(compiled())
        except InputError as error:  # known only once it is compiled; the others go on
            refused.append({"name": name, "topology": where, "reason": str(error)})
            continue
        if options.advise and plans[-1].fits:
            advice.append({"name": name, "topology": where, "changes": []})
        elif options.advise:
            better = advise(experiments[name], where, lambda text: print(f"  {text}", file=sys.stderr, flush=True))
            advice.append({"name": name, "topology": where, "changes": better and list(better.changes)})
            plans += [better.plan] if better else []
    if not plans:
        raise InputError(" ".join(refusal["reason"] for refusal in refused))
    if options.json:
        print(
            json.dumps(
                {
                    "config": options.config,
                    "plans": [record(plan) for plan in plans],
                    "advice": advice,
                    "refused": refused,
                }
            )
        )
        return 0
    print(format_table(plans, shutil.get_terminal_size().columns))
    for refusal in refused:
        print(refusal["reason"])
    for item in advice:
        changes = item["changes"]
        text = "nothing tried fits; take more chips, or a smaller model" if changes is None else " ".join(changes)
        print(f"{item['topology']}, {item['name']}: {text or 'fits, nothing to change'}")
    return 0
