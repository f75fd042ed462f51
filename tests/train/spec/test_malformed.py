"""Malformed configs, overrides and structures end in one sentence before anything is compiled or written."""

import re
from collections.abc import Callable

import pytest

from tests.conftest import CONFIG, Malformed

CASES = (
    # The config.
    Malformed("misspelt config", "train tiny_ml", r"'tiny_ml'.*did you mean 'tiny_lm'\?"),
    Malformed("config like none", "train zzz", r"'zzz'.*sentiment_bert.*tiny_lm"),
    Malformed("command and config misspelt", "tran tiny_lm", r"'tran'; valid names are"),
    Malformed("config file absent", "train absent.py", r"no config file absent\.py"),
    Malformed("config file is a folder", "train run.py", r"no config file run\.py", {"run.py/inside.txt": "x"}),
    Malformed(
        "config without experiment", "train own.py", r"'own\.py' has no function experiment\(\)", {"own.py": "x = 1\n"}
    ),
    Malformed(
        "config gives no experiment",
        "train own.py",
        r"'own\.py' gave a int.*must give an Experiment",
        {"own.py": "def experiment(): return 3\n"},
    ),
    Malformed(
        "config raises",
        "train own.py",
        r"own\.py'? cannot be built.*no luck",
        {"own.py": "def experiment(): raise ValueError('no luck')\n"},
    ),
    Malformed(
        "config with an unknown name",
        "train own.py",
        r"own\.py'? cannot be .*NameError.*Attentoin.*line 1",
        {"own.py": "def experiment(): return Attentoin()\n"},
    ),
    Malformed(
        "config with an absent import",
        "train own.py",
        r"own\.py'? cannot be .*absent_module.*line 2",
        {"own.py": "\nimport absent_module\n"},
    ),
    Malformed(
        "config is no Python", "train own.py", r"own\.py'? cannot be .*line 1", {"own.py": "def experiment(: pass\n"}
    ),
    Malformed("config is no text", "train own.py", r"own\.py'? cannot be ", {"own.py": b"\xff\xfe\x00"}),
    Malformed(
        "config sets both lengths",
        "train own.py",
        r"epochs is 2.*steps is 1.*exactly one",
        {"own.py": CONFIG.replace("steps=1", "steps=1, epochs=2")},
    ),
    Malformed(
        "config with a nameless function",
        "train own.py",
        r"'own\.py'.*lambda.*models\.activation",
        {"own.py": CONFIG.replace("length=48)\n", "length=48, activation=lambda x: x)\n", 1)},
    ),
    Malformed(
        "config with a list",
        "train own.py",
        r"splits.*\[",
        {"own.py": CONFIG.replace("path=", "splits=['train', 'test'], path=", 1)},
    ),
    # The command line.
    Malformed("no command", "", r"COMMAND.*morphax --help"),
    Malformed("unknown option", "train config.py --rum run", r"--rum.*--help"),
    Malformed("predict without texts", "predict run", r"INPUT.*--help"),
    Malformed("unknown action", "data fetch", r"'fetch'.*list.*prepare.*show"),
    # Paths of overrides.
    Malformed("misspelt field", "train config.py bach_size=3", r"'bach_size': Experiment.*did you mean 'batch_size'\?"),
    Malformed("misspelt part", "train config.py model.stak.repeats=3", r"'model.stak'.*did you mean 'stack'\?"),
    Malformed(
        "misspelt deep field",
        "train config.py model.stack.block.mixer.haeds=3",
        r"mixer.haeds'.*did you mean 'heads'\?",
    ),
    Malformed("path below a number", "train config.py seed.low=3", r"'seed.low'.*int has no field 'low'"),
    Malformed(
        "place outside a tuple", "train config.py data.buckets.99=3", r"'data.buckets.99'.*tuple of 11.*count from 0"
    ),
    Malformed("no equals sign", "train config.py batch_size", r"'batch_size'.*path=value"),
    Malformed("no path", "train config.py =3", r"'=3'.*path=value"),
    # Types and ranges of settings.
    Malformed("string for int", "train config.py batch_size=many", r"batch_size takes a whole number; 'many'"),
    Malformed(
        "quoted string for int", "train config.py batch_size=\"'many'\"", r"batch_size takes a whole number; 'many'"
    ),
    Malformed("float for int", "train config.py batch_size=3.5", r"batch_size takes a whole number; 3\.5"),
    Malformed(
        "string for float", "train config.py optimizer.decay=\"'much'\"", r"optimizer.decay takes a number; 'much'"
    ),
    Malformed("bool for int", "train config.py seed=true", r"seed takes a whole number; 'true'"),
    Malformed("none for int", "train config.py batch_size=None", r"batch_size takes a whole number; None"),
    Malformed("number for bool", "train config.py data.pack=7", r"data.pack takes true or false; 7"),
    Malformed("number for tuple", "train config.py data.buckets=7", r"data.buckets takes.*7"),
    Malformed("negative batch size", "train config.py batch_size=-1", r"batch_size is -1; it must be a number above 0"),
    Malformed("zero steps", "train config.py steps=0", r"steps is 0; it must be a number above 0"),
    Malformed(
        "infinite epochs",
        "train config.py epochs=1e999",
        r"epochs takes a number or none; inf was given, which is not finite",
    ),
    Malformed("rate that is no number", "train config.py optimizer.rate.peak=1e999-1e999", r"not allowed in a value"),
    Malformed(
        "endless number in a component",
        "train config.py 'optimizer.rate=Constant(1e999)'",
        r"Constant.peak takes a number; inf was given",
    ),
    Malformed(
        "endless number in a tuple",
        "train config.py 'objective=Quantiles((0.1, 1e999))'",
        r"Quantiles.levels takes .*; inf was given",
    ),
    Malformed(
        "whole number too large for a float",
        f"train config.py optimizer.decay=1{'0' * 400}",
        r"optimizer.decay takes a number; .*of 401 digits",
    ),
    Malformed(
        "whole number too large",
        f"train config.py batch_size=1{'0' * 400}",
        r"batch_size takes a whole number; .*of 401 digits",
    ),
    Malformed(
        "negative rate", "train config.py optimizer.rate.peak=-1e-3", r"Linear.peak is -0.001; it must be 0 or above"
    ),
    Malformed(
        "negative warm-up", "train config.py optimizer.rate.warmup=-5", r"Linear.warmup is -5.0; it must be 0 or above"
    ),
    Malformed("momentum of one", "train config.py 'optimizer=SGD(momentum=1.0)'", r"SGD.momentum is 1.0; .*below 1"),
    Malformed(
        "Nesterov without momentum",
        "train config.py 'optimizer=SGD(nesterov=True)'",
        r"nesterov is true and momentum is 0",
    ),
    Malformed(
        "moment of more than one",
        "train config.py optimizer.b2=1.5",
        r"AdamW.b2 is 1.5; it must be 0 or above and below 1",
    ),
    Malformed("negative decay", "train config.py optimizer.decay=-1", r"AdamW.decay is -1.0; it must be 0 or above"),
    Malformed("clipped to nothing", "train config.py optimizer.clip=0", r"clip is 0.0; give a norm above 0, or none"),
    Malformed(
        "negative epsilon of a norm",
        "train config.py 'model.embed.norm=RMSNorm(-1.0)'",
        r"RMSNorm.epsilon is -1.0; .*0 or above",
    ),
    Malformed(
        "rotation by no base",
        "train config.py 'model.stack.block.mixer.position=RoPE(base=0.0)'",
        r"RoPE.base is 0.0; it must be above 0",
    ),
    Malformed(
        "cut short a long value",
        f"train config.py batch_size={'x' * 500}",
        r"batch_size takes a whole number; 'x{40,60}\.\.\. was given",
    ),
    Malformed(
        "places too few",
        "train config.py data.length=300 model.embed.position.length=48",
        r"data.length is 300 .* set data.length=48 or model\.embed\.position\.length=300",
    ),
    Malformed("both lengths", "train config.py steps=10 epochs=2", r"epochs is 2.0 and steps is 10; give exactly one"),
    Malformed("no length", "train config.py steps=none epochs=none", r"give exactly one"),
    Malformed(
        "zero evaluation batch", "train config.py evaluation.batch_size=0", r"evaluation.batch_size.* 0.*above 0"
    ),
    Malformed("zero evaluation interval", "train config.py evaluation.every=0", r"every is 0.*above 0"),
    Malformed("negative patience", "train config.py evaluation.patience=-1", r"patience is -1.*above 0"),
    Malformed(
        "endless goal",
        "train config.py evaluation.goal=1e999",
        r"goal takes a number or none; inf was given, which is not finite",
    ),
    Malformed("no checkpoint kept", "train config.py checkpoints.keep=0", r"keep is 0.*above 0"),
    Malformed("seed too large", "train config.py seed=99999999999", r"seed is 9+.*0 to 4294967295"),
    Malformed("negative seed", "train config.py seed=-1", r"seed is -1.*0 to"),
    Malformed(
        "more parts than examples",
        "train config.py accumulate=5",
        r"accumulate is 5 and batch_size is 4; .*lower accumulate",
    ),
    Malformed(
        "whole float too large",
        "train config.py seed=1e300",
        r"seed takes a whole number; a whole number of 301 digits was given",
    ),
    Malformed(
        "setting of what is none",
        "train config.py initial.fit=true",
        r"'initial.fit': initial is none and has no fit; give it a component",
    ),
    Malformed("label twice", 'train config.py \'data.labels=("bad", "bad")\'', r"Text.labels names 'bad' twice"),
    Malformed(
        "bucket of less than nothing",
        "train config.py 'data.buckets=(-1, 48)'",
        r"Text.buckets is \(-1, 48\); give lengths of 1 or more",
    ),
    Malformed(
        "widths without end",
        "coordinates config.py --sizes 64,100000000000000000000",
        r"--sizes is 64,10+; give sizes of at most 1,048,576",
    ),
    Malformed("zero accumulate", "train config.py accumulate=0", r"accumulate is 0; it must be a number above 0"),
    Malformed(
        "unknown precision", "train config.py precision=float16", r"precision takes 'float32' or 'bfloat16'; 'float16'"
    ),
    Malformed(
        "unknown kind of target", "train config.py data.kind=colour", r"data.kind takes 'class' or 'value'; 'colour'"
    ),
    Malformed(
        "unknown metric", "train config.py evaluation.metric=f1", r"evaluation.metric is 'f1'.*choose one of these"
    ),
    Malformed("holdout above one", "train config.py data.holdout=1.5", r"holdout is 1\.5.*between 0 and 1"),
    # Components.
    Malformed(
        "unknown component",
        "train config.py 'model.stack.block.mixer=Atention(heads=2)'",
        r"'Atention'; did you mean 'Attention'\?",
    ),
    Malformed(
        "unknown field of a component",
        "train config.py 'model.stack.block.mixer=Attention(haeds=2)'",
        r"Attention has no field 'haeds'; did you mean 'heads'\?",
    ),
    Malformed(
        "wrong type in a component",
        "train config.py 'model.stack.block.mixer=Attention(heads=2.5)'",
        r"Attention.heads takes a whole number; 2\.5",
    ),
    Malformed(
        "too many arguments",
        "train config.py 'model.stack.block.residual=PostNorm(LayerNorm(), 1)'",
        r"PostNorm takes at most 1 arguments; 2",
    ),
    Malformed(
        "argument given twice",
        "train config.py 'model.stack.block.mixer=Attention(2, heads=4)'",
        r"'heads' twice.*once",
    ),
    Malformed("component lacks an argument", "train config.py 'initial=HuggingFace()'", r"HuggingFace needs a folder"),
    Malformed(
        "norm for a mixer",
        "train config.py 'model.stack.block.mixer=RMSNorm()'",
        r"model.stack.block.mixer takes a Layer; 'RMSNorm'",
    ),
    Malformed(
        "mixer for a norm",
        "train config.py 'model.embed.norm=Attention()'",
        r"model.embed.norm takes a Norm or none; 'Attention'",
    ),
    Malformed(
        "chunks for an objective of whole logits",
        "train recall model.head.chunk=64 'objective=Classification()' steps=1",
        r"logits to be computed in chunks of 64, and the objective Classification takes whole logits; leave"
        r" model\.head\.chunk out",
    ),
    Malformed(
        "string for a component", "train config.py \"model.head='none'\"", r"model.head takes a Head or none; 'none'"
    ),
    Malformed(
        "function called",
        "train config.py 'model.stack.block.feedforward.activation=gelu()'",
        r"gelu is a function.*name alone",
    ),
    Malformed(
        "unknown activation",
        "train config.py model.stack.block.feedforward.activation=gellu",
        r"'gellu'; did you mean 'gelu'\?",
    ),
    Malformed(
        "call that would run code",
        "train config.py \"model.stack.block.mixer=__import__('os').system('touch ran')\"",
        r"__import__.*not allowed.*literals",
    ),
    Malformed(
        "code in a tuple",
        "train config.py \"data.splits=(open('ran', 'w'), 'test')\"",
        r"No component is called 'open'",
    ),
    Malformed("code for a number", "train config.py 'batch_size=2**9999999'", r"2 \*\* 9999999.*not allowed.*literals"),
    Malformed(
        "comprehension", "train config.py 'data.buckets=[i for i in (1, 2)]'", r"for i in.*not allowed.*literals"
    ),
    Malformed(
        "unreadable expression",
        "train config.py 'model.stack.block.mixer=Attention(heads=4'",
        r"Attention\(heads=4.*cannot be read.*call of a component",
    ),
    Malformed(
        "rows that no memory holds",
        "train config.py data.length=1000000000000000 model.embed.position.length=1000000000000000",
        r"not enough memory \(Unable to allocate .*lower batch_size, data\.length",
    ),
    Malformed(
        "fraction too large for a float",
        f"train config.py optimizer.decay=1{'0' * 400}/3",
        r"whole number too large for a float",
    ),
    Malformed("nesting without end", f"train config.py 'model.head={'-' * 100_000}1'", r"cannot be read"),
    Malformed("unhashable key", "train config.py 'optimizer=Optax(arguments={{}: 1})'", r"key.*string"),
    # Structures.
    Malformed(
        "heads not dividing width", "train config.py model.stack.block.mixer.heads=3", r"width 16 over 3 heads.*divide"
    ),
    Malformed(
        "kv_heads not dividing heads",
        "train config.py model.stack.block.mixer.kv_heads=3",
        r"2 heads and 3 kv_heads; kv_heads must divide",
    ),
    Malformed("negative kv_heads", "train config.py model.stack.block.mixer.kv_heads=-2", r"-2 kv_heads"),
    Malformed("no heads", "train config.py model.stack.block.mixer.heads=0", r"0 heads"),
    Malformed("window of nothing", "train config.py model.stack.block.mixer.window=0", r"window is 0.*1 or more"),
    Malformed("negative head width", "train config.py model.stack.block.mixer.head_width=-4", r"head_width.*-4"),
    Malformed(
        "odd width for rotation",
        "train config.py 'model.stack.block.mixer=Attention(16, position=RoPE())'",
        r"even width; this one is 1",
    ),
    Malformed(
        "cross-attention without memory",
        "train config.py 'model.stack.block.mixer=Attention(2, cross=True)'",
        r"cross=True.*EncoderDecoder",
    ),
    Malformed(
        "causal cross-attention",
        "train config.py 'model.stack.block.mixer=Attention(2, cross=True, causal=True)'",
        r"cross=True.*causal",
    ),
    Malformed("dropout above one", "train config.py model.stack.block.dropout=1.5", r"Dropout rate is 1\.5.*from 0"),
    Malformed("negative dropout", "train config.py model.embed.dropout=-0.1", r"Dropout rate is -0\.1.*from 0"),
    Malformed("no repeats", "train config.py model.stack.repeats=0", r"0 times; give 1 or more"),
    Malformed("no blocks", "train config.py 'model.stack.block=()'", r"block.*empty"),
    Malformed(
        "unknown remat policy",
        "train config.py model.stack.remat=everythin_saveable",
        r"remat is 'everythin_saveable': did you mean 'everything_saveable'\?",
    ),
    Malformed(
        "kernel that lacks what training needs",
        "train config.py 'model.stack.block.mixer=Attention(2, dropout=0.5, implementation=\"splash\")'",
        r"model cannot take a training step: .*'splash' cannot compute this: it has no dropout of weights; give 'xla'",
    ),
    Malformed("negative width", "train config.py model.embed.width=-8", r"width is -8.*above 0"),
    Malformed("feedforward of nothing", "train config.py model.stack.block.feedforward.expand=-1", r"expand.*-1"),
    Malformed(
        "encoder and decoder without a source",
        "train config.py 'model=EncoderDecoder(TokenEmbed(256, 16), Stack(Block(Attention(2))),"
        " Stack(Block(Attention(2))))'",
        r"'source'.*tokens",
    ),
    Malformed(
        "objective of another target",
        "train config.py 'objective=MeanSquaredError()' evaluation.metric=loss",
        r"MeanSquaredError needs 'values'.*labels",
    ),
    Malformed(
        "objective of other outputs",
        "train config.py 'objective=NextToken()'",
        r"objective NextToken does not fit.*change one",
    ),
    # Optimizers and devices.
    Malformed(
        "unknown optimizer of optax",
        "train config.py 'optimizer=Optax(\"adamm\")'",
        r"no optimizer called 'adamm'; did you mean 'adam'",
    ),
    Malformed(
        "unknown argument of optax",
        'train config.py \'optimizer=Optax("adam", arguments={"beta1": 0.9})\'',
        r"optax.adam has no argument 'beta1'",
    ),
    Malformed(
        "wrong argument of optax",
        'train config.py \'optimizer=Optax("adam", arguments={"b1": "high"})\'',
        r"Optax cannot take a step.*change its settings",
    ),
    Malformed("rate that is no schedule", "train config.py optimizer.rate=0.1", r"rate takes a Schedule; 0\.1"),
    Malformed("pattern that is none", "train config.py 'optimizer.no_decay=(\"(\",)'", r"pattern"),
    Malformed(
        "mesh larger than the devices",
        "train config.py 'parallel=Mesh(data=64)'",
        r"Mesh\(data=64, fsdp=1\).*8 devices; lower",
    ),
    Malformed("mesh of nothing", "train config.py 'parallel=Mesh(fsdp=0)'", r"Mesh\(data=0, fsdp=0\).*8 devices"),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_a_malformed_experiment_is_one_sentence_and_changes_nothing(
    case: Malformed, refused: Callable[[Malformed], str]
) -> None:
    assert re.search(case.sentence, refused(case))
