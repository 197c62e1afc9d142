"""The tokenizer of a model folder: tokenizer.json and what the other files say about its ids."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from jcl.backbones.files.companions import tokenizer_fields
from jcl.backbones.files.fields import read_json
from jcl.backbones.tokenizers import SpecialIds, vocabulary_size
from jcl.errors import UserError
from jcl.streams import hub


def read_tokenizer(folder: pathlib.Path, model: Mapping[str, Any]) -> tuple[Tokenizer, SpecialIds]:
  """Reads the tokenizer of a model folder; it neither truncates nor pads.

  Args:
    folder: with tokenizer.json, or with the older files that transformers can convert.
    model: its config.json, which names special ids where tokenizer_config.json does not.

  Raises:
    UserError: there is no tokenizer, it is malformed, or nothing says which token ends a text.
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
  """Lets transformers convert vocab.json and merges.txt, vocab.txt, or tokenizer.model."""
  known = ('vocab.json', 'vocab.txt', 'tokenizer.model')
  if not any((folder / name).is_file() for name in known):
    raise UserError(f'{folder}: no tokenizer.json (nor {" or ".join(known)})')
  transformers = hub.imported('transformers')
  try:
    return transformers.AutoTokenizer.from_pretrained(
      str(folder), use_fast=True, trust_remote_code=False
    ).backend_tokenizer
  except Exception as error:  # of any kind, out of its converters
    alone = not any((folder / name).is_file() for name in known[:2])
    if alone and importlib.util.find_spec('sentencepiece') is None:
      raise UserError(
        f'{folder / "tokenizer.model"}: reading it needs the package sentencepiece (pip install '
        'sentencepiece protobuf); or convert it once where that is installed: '
        'transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)'
      ) from None
    reason = str(error).strip().split('\n')[0]
    raise UserError(f'{folder}: transformers cannot read the tokenizer ({reason})') from None


def _special_ids(
  folder: pathlib.Path, model: Mapping[str, Any], tokenizer: Tokenizer
) -> SpecialIds:
  """Returns the special ids: those that tokenizer_config.json names, else those of config.json."""
  file = folder / 'tokenizer_config.json'
  named = tokenizer_fields(folder)
  ids: dict[str, Any] = {}
  for name in ('bos', 'eos', 'pad'):
    if named.get(f'{name}_token') is not None or (name != 'eos' and f'{name}_token' in named):
      ids[name] = _named_id(f'{name}_token', named, tokenizer, file)
    else:
      value = model.get(f'{name}_token_id')
      ids[name] = value[0] if isinstance(value, list) and value else value
  if ids['pad'] == -1:  # how old Llamas say that they have none
    ids['pad'] = None
  if ids['eos'] is None:
    for name, stands_in in (('bos', 'cls'), ('eos', 'sep')):
      if ids[name] is None and f'{stands_in}_token' in named:
        ids[name] = _named_id(f'{stands_in}_token', named, tokenizer, file)
      elif ids[name] is None:  # BERT's own files leave the names to the code
        ids[name] = tokenizer.token_to_id(f'[{stands_in.upper()}]')
  if ids['eos'] is None:
    ids['eos'] = generation_eos(folder)
  if ids['eos'] is not None and not isinstance(ids['eos'], int):
    raise UserError(
      f'{folder / "config.json"}: eos_token_id is {model.get("eos_token_id")!r}; it must be a '
      'token id, or a list of them'
    )
  if ids['eos'] is None:
    raise UserError(
      f'{folder}: no eos_token (or sep_token) in tokenizer_config.json, and no eos_token_id in '
      'config.json or generation_config.json: write the one that ends a text into config.json'
    )
  count = vocabulary_size(tokenizer)
  for name, number in ids.items():
    right = number is None or (isinstance(number, int) and 0 <= number < count)
    if not right or isinstance(number, bool):
      raise UserError(
        f"{folder}: {name}_token_id of config.json is {number!r}, which is none of the tokenizer's "
        f'ids 0 … {count - 1}'
      )
  return SpecialIds(**ids)


def generation_eos(folder: pathlib.Path) -> int | None:
  """Returns the first eos_token_id of generation_config.json; None where there is none."""
  file = folder / 'generation_config.json'
  found = read_json(file).get('eos_token_id') if file.is_file() else None
  found = found[0] if isinstance(found, list) and found else found
  return found if isinstance(found, int) else None


def _named_id(
  field: str, named: Mapping[str, Any], tokenizer: Tokenizer, file: pathlib.Path
) -> int | None:
  """Returns the id of the token in a field of tokenizer_config.json; None where it is null."""
  token = named[field]
  token = token.get('content') if isinstance(token, dict) else token
  if token is None:
    return None
  if not isinstance(token, str):
    raise UserError(f'{file}: {field} is {token!r}; it must be text')
  if (found := tokenizer.token_to_id(token)) is None:
    raise UserError(f'{file}: {field} {token!r} is not in the tokenizer')
  return found
