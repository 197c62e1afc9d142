"""Tokenizers: small ones made from scratch, those of a model folder, and tokens added to any."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
from tokenizers import Tokenizer

from jcl.backbones.files.config_json import read_json
from jcl.backbones.model_config import Config
from jcl.errors import UserError
from jcl.streams import hub

UNKNOWN, PAD, BOS, EOS = '<unk>', '<pad>', '<bos>', '<eos>'


class SpecialIds(NamedTuple):
  """Ids with a meaning of their own.

  An encoder's tokenizer says neither: there [CLS] begins a text and [SEP] ends it.

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
  first = size(tokenizer)
  new = [token for token in dict.fromkeys(tokens) if token not in before]
  _add(tokenizer, new)
  if [tokenizer.token_to_id(token) for token in new] != list(range(first, first + len(new))):
    raise UserError('the ids of the tokenizer have holes, which tokens cannot be added to')
  return [tokenizer.token_to_id(token) for token in tokens]


def size(tokenizer: Tokenizer) -> int:
  """V, real token ids: the greatest id and one, added tokens included."""
  return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def check_same(tokenizer: Tokenizer, other: Tokenizer, field: str) -> None:
  """Refuses another tokenizer whose ids do not mean the same, added tokens included.

  Raises:
    UserError: naming the field that the other one comes from and the first id that differs.
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
  """The config with the tokenizer's ids as the real ones; further rows are padding.

  Raises:
    UserError: the tokenizer has more ids than the embedding rows.
  """
  real = size(tokenizer)
  if real > config.rows:
    raise UserError(f'{where}: the tokenizer has {real} ids, the embedding only {config.rows} rows')
  return dataclasses.replace(config, vocabulary=real)


def read_tokenizer(folder: pathlib.Path, model: Mapping[str, Any]) -> tuple[Tokenizer, SpecialIds]:
  """The tokenizer of a model folder, without truncation or padding.

  Args:
    folder: with tokenizer.json, or the older files that transformers can convert.
    model: its config.json, which names special ids where tokenizer_config.json does not.

  Raises:
    UserError: there is none, it is malformed, or nothing says what ends a text.
  """
  file = folder / 'tokenizer.json'
  if file.is_file():
    try:
      tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare exceptions
      raise UserError(f'{file}: no valid tokenizer ({error})') from None
  else:
    tokenizer = _converted(folder)
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer, _special_ids(folder, model, tokenizer)


def _converted(folder: pathlib.Path) -> Tokenizer:
  """What transformers makes of vocab.json and merges.txt, vocab.txt, or tokenizer.model."""
  known = ('vocab.json', 'vocab.txt', 'tokenizer.model')
  if not any((folder / name).is_file() for name in known):
    raise UserError(f'{folder}: no tokenizer.json (nor {" or ".join(known)})')
  transformers = hub.imported('transformers')
  try:
    return transformers.AutoTokenizer.from_pretrained(
      str(folder), use_fast=True, trust_remote_code=False
    ).backend_tokenizer
  except Exception as error:  # of any kind, out of its converters
    reason = str(error).strip().split('\n')[0]
    raise UserError(f'{folder}: transformers cannot read the tokenizer ({reason})') from None


def _special_ids(
  folder: pathlib.Path, model: Mapping[str, Any], tokenizer: Tokenizer
) -> SpecialIds:
  """What tokenizer_config.json says of each, or else config.json."""
  file = folder / 'tokenizer_config.json'
  named = read_json(file) if file.is_file() else {}
  ids = {}
  for name in ('bos', 'eos', 'pad'):
    if f'{name}_token' in named:
      ids[name] = _named_id(f'{name}_token', named, tokenizer, file)
    else:
      value = model.get(f'{name}_token_id')
      ids[name] = value[0] if isinstance(value, list) and value else value
  if ids['pad'] == -1:  # as old Llamas say that they have none
    ids['pad'] = None
  if ids['eos'] is None:
    for name, stands_in in (('bos', 'cls'), ('eos', 'sep')):
      if ids[name] is None and f'{stands_in}_token' in named:
        ids[name] = _named_id(f'{stands_in}_token', named, tokenizer, file)
      elif ids[name] is None:  # BERT's own files leave the names to the code
        ids[name] = tokenizer.token_to_id(f'[{stands_in.upper()}]')
  if not isinstance(ids['eos'], int):
    raise UserError(
      f'{folder}: no eos_token (or sep_token) in tokenizer_config.json, nor eos_token_id in config'
    )
  for name, number in ids.items():
    right = number is None or (isinstance(number, int) and 0 <= number < size(tokenizer))
    if not right or isinstance(number, bool):
      raise UserError(
        f"{folder}: {name}_token_id of config.json is {number!r}, which is none of the tokenizer's "
        f'ids 0 … {size(tokenizer) - 1}'
      )
  return SpecialIds(**ids)


def _named_id(
  field: str, named: Mapping[str, Any], tokenizer: Tokenizer, file: pathlib.Path
) -> int | None:
  """The id of the token that a field of tokenizer_config.json names; None where it names none."""
  token = named[field]
  token = token.get('content') if isinstance(token, dict) else token
  if token is None:
    return None
  if not isinstance(token, str):
    raise UserError(f'{file}: {field} is {token!r}; it must be text')
  if (found := tokenizer.token_to_id(token)) is None:
    raise UserError(f'{file}: {field} {token!r} is not in the tokenizer')
  return found


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
