"""BERT: Devlin et al. 2018, arXiv:1810.04805.  Post-norm encoder, learned positions, token types."""

from collections.abc import Mapping
from typing import Any

from models.activation import gelu, gelu_tanh, relu, silu
from models.attention import Attention
from models.block import Block
from models.contracts import Activation, Head
from models.embed import TokenEmbed
from models.feedforward import MLP
from models.head import ClassHead, FirstToken, LogitsHead, Transform, ValueHead
from models.norm import LayerNorm
from models.position import LearnedPosition
from models.residual import PostNorm
from models.stack import Stack
from models.structure import differences, part, replace
from models.transformer import Transformer

MODEL_TYPE = "bert"
PREFIX = "bert."  # before the names of the body wherever a head stands beside it
ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh, "relu": relu, "silu": silu, "swish": silu}


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
    """A BERT of any size; the default is bert-base.  Without a head it gives hidden states (b, t, d)."""
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
    """A body (bert-base where none is given) with BERT's pooler and a layer of class logits."""
    body = base() if body is None else body
    return replace(body, "head", ClassHead(classes, FirstToken(project=True), dropout=part(body, "embed.dropout")))


def regressor(values: int = 1, body: Transformer | None = None) -> Transformer:
    """A body (bert-base where none is given) with BERT's pooler and real values."""
    body = base() if body is None else body
    return replace(body, "head", ValueHead(values, FirstToken(project=True), dropout=part(body, "embed.dropout")))


def masked_lm(body: Transformer | None = None) -> Transformer:
    """A body (bert-base where none is given) with BERT's head over the vocabulary, tied to the embedding."""
    body = base() if body is None else body
    activation, norm = part(body, "stack.block.feedforward.activation"), part(body, "embed.norm")
    return replace(body, "head", LogitsHead(bias=True, transform=Transform(activation, norm)))


def from_config(config: Mapping[str, Any]) -> Transformer:
    """The structure that a Hugging Face `config.json` of a BERT describes, with the head of its first architecture.

    Raises ValueError, naming the key, for what this structure does not express.
    """
    if (kind := config.get("position_embedding_type", "absolute")) != "absolute":
        raise ValueError(f"BERT with position_embedding_type {kind!r} is not supported; it must be 'absolute'.")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ValueError("BERT with is_decoder or add_cross_attention is not supported; only the encoder is.")
    if (name := config["hidden_act"]) not in ACTIVATIONS:
        raise ValueError(f"BERT with hidden_act {name!r} is not supported; it must be one of {', '.join(ACTIVATIONS)}.")
    body = transformer(
        vocab=config["vocab_size"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        length=config["max_position_embeddings"],
        types=config["type_vocab_size"],
        dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
        activation=ACTIVATIONS[name],
        epsilon=config["layer_norm_eps"],
    )
    architecture = (config.get("architectures") or ["BertModel"])[0]
    if architecture == "BertForSequenceClassification":
        labels = len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
        model = regressor(labels, body) if config.get("problem_type") == "regression" else classifier(labels, body)
        rate = config.get("classifier_dropout")
        return model if rate is None else replace(model, "head.dropout", rate)
    if architecture in ("BertForMaskedLM", "BertForPreTraining"):
        return masked_lm(body)
    return body


def to_config(model: Transformer) -> dict[str, Any]:
    """The `config.json` that describes this structure.  Raises ValueError, naming the first part that no BERT has."""
    try:
        config = _read(model)
    except (LookupError, AttributeError) as error:
        raise ValueError(f"not a BERT: {error}") from None
    plain = replace(replace(model, "stack.scan", False), "stack.remat", None)
    for path, ours, theirs in differences(plain, from_config(config)):
        raise ValueError(f"not a BERT: {path} is {ours!r}, where a BERT has {theirs!r}.")
    return config


def _read(model: Transformer) -> dict[str, Any]:
    width, activation = part(model, "embed.width"), part(model, "stack.block.feedforward.activation")
    config: dict[str, Any] = {
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
        "hidden_act": next((name for name, function in ACTIVATIONS.items() if function is activation), "none of BERT's"),
        "layer_norm_eps": part(model, "embed.norm.epsilon"),
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }
    head = model.head
    if isinstance(head, ClassHead | ValueHead):
        labels = head.classes if isinstance(head, ClassHead) else head.values
        kind = "single_label_classification" if isinstance(head, ClassHead) else "regression"
        names = {str(index): f"LABEL_{index}" for index in range(labels)}
        config |= {"architectures": ["BertForSequenceClassification"], "problem_type": kind, "classifier_dropout": head.dropout}
        config |= {"id2label": names, "label2id": {name: int(index) for index, name in names.items()}}
    elif isinstance(head, LogitsHead):
        config["architectures"] = ["BertForMaskedLM"]
    return config


def _dense(theirs: str, ours: str) -> list[tuple[str, str, bool]]:
    return [(f"{theirs}.weight", f"{ours}/kernel", True), (f"{theirs}.bias", f"{ours}/bias", False)]


def _norm(theirs: str, ours: str) -> list[tuple[str, str, bool]]:
    return [(f"{theirs}.weight", f"{ours}/scale", False), (f"{theirs}.bias", f"{ours}/bias", False)]


# (their name, our path, transposed): one table, read in both directions.  {} is the layer.
RULES: list[tuple[str, str, bool]] = [
    ("embeddings.word_embeddings.weight", "embed/token", False),
    ("embeddings.position_embeddings.weight", "embed/position/table", False),
    ("embeddings.token_type_embeddings.weight", "embed/type", False),
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
    ("cls.predictions.bias", "head/bias", False),
]
HEADS = ("classifier.", "cls.")  # names that never carry the prefix
RENAMED = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}  # in checkpoints of TensorFlow's BERT
# Tensors that repeat or accompany others and are no parameters of this structure.
IGNORED = ("embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "cls.seq_relationship.")
