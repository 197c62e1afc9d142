"""Tokenizers: small ones made from scratch, and single tokens added to any."""

import dataclasses
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import Tokenizer

from jcl.errors import UserError

UNKNOWN, PAD, BOS, EOS = '<unk>', '<pad>', '<bos>', '<eos>'


@dataclasses.dataclass(frozen=True)
class SpecialIds:
  """Ids with a meaning of their own.

  Attributes:
    bos: begins a text; None where the tokenizer has none.
    eos: ends it.
    pad: fills up; None where the tokenizer has none (padding is then eos's id).
  """

  bos: int | None
  eos: int
  pad: int | None


def word_tokenizer(texts: Iterable[str]) -> tuple[Tokenizer, SpecialIds]:
  """One token a word, words split at white space; ids in the order of the sorted words."""
  words = sorted({word for text in texts for word in text.split()} - {PAD, UNKNOWN, BOS, EOS})
  vocabulary = {word: i for i, word in enumerate((PAD, UNKNOWN, BOS, EOS, *words))}
  tokenizer = Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return _with_specials(tokenizer)


def bpe_tokenizer(texts: Iterable[str], vocabulary: int) -> tuple[Tokenizer, SpecialIds]:
  """Byte-level BPE with at most `vocabulary` tokens, trained on `texts`: every text is encodable.

  Raises:
    UserError: `vocabulary` has no room for the 256 bytes and the special tokens.
  """
  least = 256 + 4
  if vocabulary < least:
    raise UserError(f'backbone.vocabulary is {vocabulary}; byte-level BPE needs at least {least}')
  tokenizer = Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocabulary,
    special_tokens=[PAD, UNKNOWN, BOS, EOS],
    initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  return _with_specials(tokenizer)


def add_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> list[int]:
  """Adds single special tokens that no normaliser touches -> their ids; those there already stay.

  Raises:
    UserError: a token stands in the vocabulary as an ordinary one.
  """
  before = {t.content: t for t in tokenizer.get_added_tokens_decoder().values()}
  for token in tokens:
    known = before.get(token)
    if tokenizer.token_to_id(token) is not None and not (known and known.special):
      raise UserError(f'{token!r} is an ordinary token of the tokenizer; choose another tokenizer')
  _add(tokenizer, tokens)
  return [tokenizer.token_to_id(token) for token in tokens]


def _add(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
  tokenizer.add_special_tokens(
    [tokenizers.AddedToken(token, special=True, normalized=False) for token in tokens]
  )


def _with_specials(tokenizer: Tokenizer) -> tuple[Tokenizer, SpecialIds]:
  """Marks the special tokens; nothing is put before or after a text."""
  _add(tokenizer, (PAD, UNKNOWN, BOS, EOS))
  ids = {name: tokenizer.token_to_id(token) for name, token in zip(
    ('bos', 'eos', 'pad'), (BOS, EOS, PAD), strict=True
  )}  # fmt: skip
  return tokenizer, SpecialIds(**ids)
