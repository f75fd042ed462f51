"""Small tokenizers of several kinds."""

from pathlib import Path

from tokenizers import Tokenizer as Fast
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from train.data.tokens import Published

UNKNOWN = ["<unk>", "<s>", "</s>"]
FOLDERS = sorted(Path("train").glob("*.py"))  # texts with words, marks, numbers and indented lines


def read_prose() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in FOLDERS)[:60_000]


def make_bert() -> Published:
    fast = Fast(models.WordPiece(unk_token="<unk>"))
    fast.normalizer, fast.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=UNKNOWN, show_progress=False)
    fast.train_from_iterator([read_prose()], trainer)
    fast.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return Published(fast)


def make_byte_pairs() -> Published:
    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=UNKNOWN, initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator([read_prose()], trainer)
    fast.post_processor = processors.ByteLevel(trim_offsets=True)
    return Published(fast)


def make_pairs_without_words() -> Published:
    """Byte pairs over the whole text, as the first Llamas have them: no splitting, a space before the text."""
    fast = Fast(models.BPE(unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.train_from_iterator(
        [read_prose()], trainers.BpeTrainer(vocab_size=600, special_tokens=UNKNOWN, show_progress=False)
    )
    fast.pre_tokenizer = None
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return Published(fast)


def make_unigrams() -> Published:
    fast = Fast(models.Unigram())
    fast.normalizer, fast.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=UNKNOWN, unk_token="<unk>", show_progress=False)
    fast.train_from_iterator([read_prose()], trainer)
    return Published(fast)
