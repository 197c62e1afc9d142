"""A small tokenizer of every kind that models come with, trained on the texts of a test."""

import functools
import json
from collections.abc import Callable, Sequence

import tokenizers
from tokenizers import (
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

from jcl.backbones.tokenizers import SpecialIds, add_tokens, bpe_tokenizer, word_tokenizer
from jcl.batching.text_formats import Text, added_tokens
from jcl.streams.raw import TEMPLATE

BERT = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
LLAMA = ('<unk>', '<s>', '</s>')


def _special(tokenizer: Tokenizer, names: Sequence[str], eos: str, bos: str) -> SpecialIds:
  tokenizer.add_special_tokens(
    [tokenizers.AddedToken(name, special=True, normalized=False) for name in names]
  )
  return SpecialIds(tokenizer.token_to_id(bos), tokenizer.token_to_id(eos), None)


def word(texts: Sequence[str]) -> tuple[Tokenizer, SpecialIds]:
  return word_tokenizer(texts)


def byte_bpe(texts: Sequence[str]) -> tuple[Tokenizer, SpecialIds]:
  return bpe_tokenizer(texts, 400)


def wordpiece(texts: Sequence[str], lowercase: bool = False) -> tuple[Tokenizer, SpecialIds]:
  """As BERT: Chinese letters are words, accents go with the case."""
  tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  trainer = trainers.WordPieceTrainer(
    vocab_size=600, special_tokens=list(BERT), show_progress=False
  )
  tokenizer.train_from_iterator(texts, trainer)
  special = _special(tokenizer, BERT, '[SEP]', '[CLS]')
  tokenizer.post_processor = processors.BertProcessing(
    ('[SEP]', special.eos), ('[CLS]', special.bos)
  )
  return tokenizer, special


def uncased(texts: Sequence[str]) -> tuple[Tokenizer, SpecialIds]:
  return wordpiece(texts, lowercase=True)


def unigram(texts: Sequence[str]) -> tuple[Tokenizer, SpecialIds]:
  """As XLM-R and T5: NFKC, white space as ▁, special tokens among the pieces of the model."""
  tokenizer = Tokenizer(models.Unigram())
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r'\s+'), ' ')]
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  trainer = trainers.UnigramTrainer(
    vocab_size=600, special_tokens=list(LLAMA), unk_token='<unk>', show_progress=False
  )
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer, _special(tokenizer, LLAMA, '</s>', '<s>')


def llama_bpe(texts: Sequence[str]) -> tuple[Tokenizer, SpecialIds]:
  """As Llama 2: white space as ▁, what the vocabulary lacks as bytes."""
  tokenizer = Tokenizer(models.BPE(unk_token='<unk>', byte_fallback=True, fuse_unk=True))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  )
  tokenizer.decoder = decoders.Sequence([
    decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(),
    decoders.Strip(' ', 1, 0),
  ])  # fmt: skip
  names = [*LLAMA, *(f'<0x{i:02X}>' for i in range(256))]
  trainer = trainers.BpeTrainer(
    vocab_size=600, special_tokens=names, limit_alphabet=40, show_progress=False
  )
  tokenizer.train_from_iterator(texts, trainer)
  plan = json.loads(tokenizer.to_str())
  plan['added_tokens'] = []  # bytes are ordinary pieces
  saved = Tokenizer.from_str(json.dumps(plan))
  return saved, _special(saved, LLAMA, '</s>', '<s>')


def joining(texts: Sequence[str]) -> tuple[Tokenizer, SpecialIds]:
  """As a byte-level one that cuts no words: a newline and the word after it are one token."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.decoder = decoders.ByteLevel()
  joined = [f'assistant\n{text}' for text in texts for _ in range(9)]
  letters = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=2000, special_tokens=list(LLAMA), initial_alphabet=letters, show_progress=False
  )
  tokenizer.train_from_iterator([*texts, *joined], trainer)
  return tokenizer, _special(tokenizer, LLAMA, '</s>', '<s>')


def nfc_bpe(texts: Sequence[str]) -> tuple[Tokenizer, SpecialIds]:
  """As Qwen: byte-level, after NFC."""
  tokenizer, special = bpe_tokenizer(texts, 400)
  tokenizer.normalizer = normalizers.NFC()
  return tokenizer, special


KINDS: dict[str, Callable[[Sequence[str]], tuple[Tokenizer, SpecialIds]]] = {
  f.__name__: f for f in (word, byte_bpe, wordpiece, uncased, unigram, llama_bpe, nfc_bpe)
}


@functools.cache
def _trained(kind: str, texts: tuple[str, ...]) -> tuple[str, SpecialIds]:
  """A tokenizer in its own format; trained once, since trainers break ties at random."""
  tokenizer, special = KINDS[kind](texts * 3)
  return tokenizer.to_str(), special


def text(
  kind: str, texts: Sequence[str], text_format: str = 'plain', template: str = TEMPLATE, **how
) -> Text:
  """A text format over a tokenizer of some kind that was trained on `texts`."""
  frame = ' '.join(template.replace('{x}', ' ').replace('{y}', t) for t in ('', *texts))
  saved, special = _trained(kind, (*texts, frame))
  tokenizer = Tokenizer.from_str(saved)
  add_tokens(tokenizer, added_tokens(text_format, 2))
  return Text(tokenizer, special, template, text_format, 128, **how)
