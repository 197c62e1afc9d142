"""Tokenizers made from scratch, and tokens added to any; those of a folder: tokenizer_files.py."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import Tokenizer

from jcl.backbones.model_config import Config
from jcl.errors import UserError, count_of

UNKNOWN, PAD, BOS, EOS = '<unk>', '<pad>', '<bos>', '<eos>'


class SpecialIds(NamedTuple):
  """Token ids that mark the structure of a text.

  In an encoder [CLS] stands for `bos` and [SEP] for `eos`.

  Attributes:
    bos: begins a text; None where the tokenizer has no such token.
    eos: ends a text.
    pad: fills rows up; None where the tokenizer has no such token (rows are filled with `eos`).
  """

  bos: int | None
  eos: int
  pad: int | None


def word_tokenizer(texts: Iterable[str]) -> tuple[Tokenizer, SpecialIds]:
  """Makes a tokenizer with one token a word, ids in the order of the sorted words.

  Args:
    texts: split into words at white space.
  """
  words = sorted({word for text in texts for word in text.split()} - {PAD, UNKNOWN, BOS, EOS})
  vocabulary = {word: i for i, word in enumerate((PAD, UNKNOWN, BOS, EOS, *words))}
  tokenizer = Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return _with_specials(tokenizer)


def bpe_tokenizer(texts: Iterable[str], vocabulary: int) -> tuple[Tokenizer, SpecialIds]:
  """Trains byte-level BPE, which encodes any text.

  Args:
    texts: to train on.
    vocabulary: most tokens.

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
  """Adds special tokens to a tokenizer, in place.

  Args:
    tokenizer: to change.
    tokens: each becomes one id that no normaliser touches; those it has already stay as they are.

  Returns:
    The ids of `tokens`, in their order.

  Raises:
    UserError: a token is an ordinary one of the vocabulary, or the ids have holes.
  """
  before = {t.content: t for t in tokenizer.get_added_tokens_decoder().values()}
  for token in tokens:
    known = before.get(token)
    if tokenizer.token_to_id(token) is not None and not (known and known.special):
      raise UserError(f'{token!r} is an ordinary token of the tokenizer; choose another tokenizer')
  first = vocabulary_size(tokenizer)
  new = [token for token in dict.fromkeys(tokens) if token not in before]
  _add(tokenizer, new)
  if [tokenizer.token_to_id(token) for token in new] != list(range(first, first + len(new))):
    raise UserError('the ids of the tokenizer have holes, which tokens cannot be added to')
  ids = tokenizer.get_vocab(with_added_tokens=True)
  return [ids[token] for token in tokens]


def vocabulary_size(tokenizer: Tokenizer) -> int:
  """Returns V, the greatest token id plus one, added tokens included."""
  return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def check_same_vocabulary(tokenizer: Tokenizer, other: Tokenizer, field: str) -> None:
  """Checks that the ids of two tokenizers mean the same tokens, added ones included.

  Args:
    tokenizer: of the model.
    other: to compare.
    field: the setting that `other` comes from, for messages.

  Raises:
    UserError: naming the field and the first id that differs.
  """
  here, there = (t.get_vocab(with_added_tokens=True) for t in (tokenizer, other))
  if here == there:
    return
  token_of = [{i: token for token, i in ids.items()} for ids in (here, there)]
  first = min(i for i in {*token_of[0], *token_of[1]} if token_of[0].get(i) != token_of[1].get(i))
  mine, theirs = (repr(tokens[first]) if first in tokens else 'nothing' for tokens in token_of)
  raise UserError(
    f'{field}: its vocabulary of {len(there)} tokens is not that of the model, {len(here)}; token '
    f'{first} is {theirs} there and {mine} here'
  )


def with_vocabulary(config: Config, tokenizer: Tokenizer, where: str) -> Config:
  """Returns the config with the tokenizer's ids as the real ones; further rows are padding.

  Args:
    config: with all rows of the embedding.
    tokenizer: of the model.
    where: file or folder, for messages.

  Raises:
    UserError: the tokenizer has more ids than the embedding has rows.
  """
  real = vocabulary_size(tokenizer)
  if real > config.rows:
    rows = count_of(config.rows, 'row')
    raise UserError(f'{where}: the tokenizer has {real} ids, the embedding only {rows}')
  return dataclasses.replace(config, vocabulary=real)


def _add(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
  tokenizer.add_special_tokens(
    [tokenizers.AddedToken(token, special=True, normalized=False) for token in tokens]
  )


def _with_specials(tokenizer: Tokenizer) -> tuple[Tokenizer, SpecialIds]:
  """Marks the special tokens; the tokenizer puts nothing before or after a text."""
  _add(tokenizer, (PAD, UNKNOWN, BOS, EOS))
  ids = tokenizer.get_vocab(with_added_tokens=True)
  return tokenizer, SpecialIds(bos=ids[BOS], eos=ids[EOS], pad=ids[PAD])
