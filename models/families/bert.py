"""BERT: Devlin et al. 2018, arXiv:1810.04805.  Post-norm encoder, learned positions, token types."""

from collections.abc import Mapping

import numpy as np

from models.activation import gelu, gelu_tanh, relu, silu
from models.attention.softmax import Attention
from models.contracts import Activation, Head
from models.depth.block import Block
from models.depth.stack import Stack
from models.embed.tokens import TokenEmbed
from models.families.family import Family, Names, Read, Rule, Transpose
from models.families.settings import Settings
from models.feedforward import MLP
from models.head.logits import LogitsHead, Transform
from models.head.pool import EveryToken, FirstToken
from models.head.values import ClassHead, ValueHead
from models.norm import LayerNorm
from models.position import LearnedPosition
from models.residual.single import PostNorm
from models.structure import differences, part, replace
from models.transformer import Transformer

MODEL_TYPE = "bert"
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "swish": silu,
}
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")
DEEPEST = 1024  # layers


def transformer(
    *,
    vocab: int = 30_522,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    length: int = 512,
    types: int = 2,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    activation: Activation = gelu,
    epsilon: float = 1e-12,
    head: Head | None = None,
) -> Transformer:
    """A BERT of any size; the default is bert-base.  If `head` is None it gives hidden states (b, t, d)."""
    norm = LayerNorm(epsilon=epsilon)
    return Transformer(
        embed=TokenEmbed(vocab, width, types=types, position=LearnedPosition(length), norm=norm, dropout=dropout),
        stack=Stack(
            Block(
                mixer=Attention(heads, bias=True, dropout=attention_dropout),
                feedforward=MLP(expand=hidden / width, activation=activation, bias=True),
                residual=PostNorm(norm),
                dropout=dropout,
            ),
            repeats=depth,
        ),
        head=head,
    )


def base(head: Head | None = None) -> Transformer:
    """bert-base: 12 layers of width 768."""
    return transformer(head=head)


def minilm(head: Head | None = None) -> Transformer:
    """MiniLM-L6-H384, the body of all-MiniLM-L6-v2: 6 layers of width 384.  arXiv:2002.10957."""
    return transformer(width=384, depth=6, hidden=1536, head=head)


def classifier(classes: int = 2, body: Transformer | None = None) -> Transformer:
    """A body, bert-base by default, with BERT's pooler and a layer of class logits."""
    body = base() if body is None else body
    return replace(body, "head", ClassHead(classes, FirstToken(project=True), dropout=part(body, "embed.dropout")))


def regressor(values: int = 1, body: Transformer | None = None) -> Transformer:
    """A body, bert-base by default, with BERT's pooler and real values."""
    body = base() if body is None else body
    return replace(body, "head", ValueHead(values, FirstToken(project=True), dropout=part(body, "embed.dropout")))


def masked_lm(body: Transformer | None = None, tied: bool = True) -> Transformer:
    """A body, bert-base by default, with BERT's head over the vocabulary, tied to the embedding or with a decoder."""
    body = base() if body is None else body
    activation, norm = part(body, "stack.block.feedforward.activation"), part(body, "embed.norm")
    return replace(body, "head", LogitsHead(tied=tied, bias=True, transform=Transform(activation, norm)))


def from_config(config: Mapping[str, object]) -> Transformer:
    """The structure that a Hugging Face `config.json` of a BERT describes, with the head of its first architecture.

    An absent key takes the default of `transformers.BertConfig`.  Raises ValueError, naming the key, for a value of
    another type or range and for what this structure does not express.
    """
    settings = Settings(config)
    settings.choice("position_embedding_type", ("absolute",), "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        if settings.flag(name, False):
            raise ValueError(f"{name} is True; it must be False, since of BERT the encoder alone is supported.")
    width, heads = settings.whole("hidden_size", 768), settings.whole("num_attention_heads", 12)
    if width % heads:
        raise ValueError(f"num_attention_heads is {heads}; it must divide hidden_size, which is {width}.")
    body = transformer(
        vocab=settings.whole("vocab_size", 30_522),
        width=width,
        depth=settings.whole("num_hidden_layers", 12, most=DEEPEST),
        heads=heads,
        hidden=settings.whole("intermediate_size", 3072),
        length=settings.whole("max_position_embeddings", 512),
        types=settings.whole("type_vocab_size", 2),
        dropout=settings.share("hidden_dropout_prob", 0.1),
        attention_dropout=settings.share("attention_probs_dropout_prob", 0.1),
        activation=ACTIVATIONS[settings.choice("hidden_act", tuple(ACTIVATIONS), "gelu")],
        epsilon=settings.small("layer_norm_eps", 1e-12),
    )
    classes = settings.table("id2label")
    labels = settings.whole("num_labels", 2) if classes is None else len(classes)
    problem = None if config.get("problem_type") is None else settings.choice("problem_type", PROBLEMS, PROBLEMS[0])
    rate = None if config.get("classifier_dropout") is None else settings.share("classifier_dropout", 0.1)
    tied = settings.flag("tie_word_embeddings", True)
    architecture = _architecture(settings)
    if architecture == "BertForSequenceClassification":
        model = regressor(labels, body) if problem == "regression" else classifier(labels, body)
        return model if rate is None else replace(model, "head.dropout", rate)
    if architecture in ("BertForMaskedLM", "BertForPreTraining"):
        return masked_lm(body, tied)
    return body


def _architecture(settings: Settings) -> str:
    return (settings.strings("architectures") or ("BertModel",))[0]


def foreign(config: Mapping[str, object], model: Transformer) -> tuple[str, ...]:
    """Prefixes of tensors that serve another task than the model's, though their names and shapes may be the same."""
    other = _architecture(Settings(config)) in ("BertForTokenClassification", "BertForMultipleChoice")
    pooled = isinstance(model.head, ClassHead | ValueHead) and not isinstance(model.head.pool, EveryToken)
    return ("classifier.",) if other and pooled else ()


def to_config(model: Transformer) -> dict[str, object]:
    """The `config.json` that describes this structure.  Raises ValueError, naming the first part that no BERT has."""
    try:
        config = _read(model)
    except (LookupError, AttributeError) as error:
        raise ValueError(f"not a BERT: {error}") from None
    plain = replace(replace(model, "stack.scan", False), "stack.remat", None)
    for path, ours, theirs in differences(plain, from_config(config)):
        raise ValueError(f"not a BERT: {path} is {ours!r}; a BERT has {theirs!r}.")
    return config


def _read(model: Transformer) -> dict[str, object]:
    width, activation = part(model, "embed.width"), part(model, "stack.block.feedforward.activation")
    config: dict[str, object] = {
        "model_type": MODEL_TYPE,
        "architectures": ["BertModel"],
        "vocab_size": part(model, "embed.vocab"),
        "hidden_size": width,
        "num_hidden_layers": part(model, "stack.repeats"),
        "num_attention_heads": part(model, "stack.block.mixer.heads"),
        "intermediate_size": round(part(model, "stack.block.feedforward.expand") * width),
        "max_position_embeddings": part(model, "embed.position.length"),
        "type_vocab_size": part(model, "embed.types"),
        "hidden_dropout_prob": part(model, "embed.dropout"),
        "attention_probs_dropout_prob": part(model, "stack.block.mixer.dropout"),
        "hidden_act": next(
            (name for name, function in ACTIVATIONS.items() if function is activation), "none of BERT's"
        ),
        "layer_norm_eps": part(model, "embed.norm.epsilon"),
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }
    head = model.head
    if isinstance(head, ClassHead | ValueHead):
        labels = head.classes if isinstance(head, ClassHead) else head.values
        kind = "single_label_classification" if isinstance(head, ClassHead) else "regression"
        names = {str(index): f"LABEL_{index}" for index in range(labels)}
        config |= {
            "architectures": ["BertForSequenceClassification"],
            "problem_type": kind,
            "classifier_dropout": head.dropout,
        }
        config |= {"id2label": names, "label2id": {name: int(index) for index, name in names.items()}}
    elif isinstance(head, LogitsHead):
        config |= {"architectures": ["BertForMaskedLM"], "tie_word_embeddings": head.tied}
    return config


def _dense(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", Transpose()), Rule(f"{theirs}.bias", f"{ours}/bias")]


def _norm(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")]


RULES: tuple[Rule, ...] = (
    Rule("embeddings.word_embeddings.weight", "embed/token"),
    Rule("embeddings.position_embeddings.weight", "embed/position/table"),
    Rule("embeddings.token_type_embeddings.weight", "embed/type"),
    *_norm("embeddings.LayerNorm", "embed/norm"),
    *_dense("encoder.layer.{}.attention.self.query", "stack/layer_{}/mixer/query"),
    *_dense("encoder.layer.{}.attention.self.key", "stack/layer_{}/mixer/key"),
    *_dense("encoder.layer.{}.attention.self.value", "stack/layer_{}/mixer/value"),
    *_dense("encoder.layer.{}.attention.output.dense", "stack/layer_{}/mixer/out"),
    *_norm("encoder.layer.{}.attention.output.LayerNorm", "stack/layer_{}/mixer_residual/norm"),
    *_dense("encoder.layer.{}.intermediate.dense", "stack/layer_{}/feedforward/up"),
    *_dense("encoder.layer.{}.output.dense", "stack/layer_{}/feedforward/down"),
    *_norm("encoder.layer.{}.output.LayerNorm", "stack/layer_{}/feedforward_residual/norm"),
    *_dense("pooler.dense", "head/pool/project"),
    *_dense("classifier", "head/out"),
    *_dense("cls.predictions.transform.dense", "head/transform/dense"),
    *_norm("cls.predictions.transform.LayerNorm", "head/transform/norm"),
    Rule("cls.predictions.bias", "head/bias"),
)
TOKENS, BIAS = "embeddings.word_embeddings.weight", "cls.predictions.bias"
DECODER, DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"


def rules(model: Transformer, config: Mapping[str, object]) -> list[Rule]:
    """The rules of a model's parameters; of several rules for one parameter, the preferred first.

    An untied decoder is read from the embedding if the config ties the two.  The bias has two names: `transformers`
    computes with the decoder's, and both are written if the decoder is untied.
    """
    separate = isinstance(model.head, LogitsHead) and not model.head.tied
    table = [Rule(DECODER_BIAS, "head/bias", written=separate), *RULES]
    if separate:
        table.append(Rule(DECODER, "head/table"))
        if Settings(config).flag("tie_word_embeddings", True):
            table.append(Rule(TOKENS, "head/table", written=False))
    return table


def untie(model: Transformer, read: Read) -> Transformer:
    """The model with a decoder of its own if the tensors hold one that differs from the embedding, by `read(name)`.

    `transformers` computes with such a decoder even if the config ties it.
    """
    if not isinstance(model.head, LogitsHead) or not model.head.tied:
        return model
    decoder, table = read(DECODER), read(TOKENS)
    same = decoder is None or table is None or np.array_equal(decoder, table)
    return model if same else replace(model, "head.tied", False)


FAMILY = Family(
    MODEL_TYPE,
    from_config,
    to_config,
    rules,
    names=Names(
        prefix="bert.",
        heads=("classifier.", "cls."),
        pooler=("pooler.",),
        body=("embeddings.", "encoder."),
        # in checkpoints of TensorFlow's BERT
        renamed={".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"},
        ignored=("embeddings.position_ids",),
        repeats={DECODER: TOKENS, DECODER_BIAS: BIAS, BIAS: DECODER_BIAS},
    ),
    foreign=foreign,
    settle=untie,
)
