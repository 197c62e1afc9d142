"""The tokenizer of a model folder: tokenizer.json and what the other files say about its ids."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from jcl.backbones.files.companions import tokenizer_fields
from jcl.backbones.files.fields import read_json
from jcl.backbones.tokenizers import SpecialIds, vocabulary_size
from jcl.errors import UserError
from jcl.streams import hub
from jcl.streams.files import refuse_pointer

# Classes of transformers that take settings from tokenizer_config.json and not from tokenizer.json:
# {model_type of a model that has no other: class}, `Fast` left out.
WORD_PIECE = {
  'bert': 'BertTokenizer', 'distilbert': 'DistilBertTokenizer', 'mpnet': 'MPNetTokenizer',
  'electra': 'ElectraTokenizer',
}  # fmt: skip
BYTE_LEVEL = {
  'gpt2': 'GPT2Tokenizer', 'roberta': 'RobertaTokenizer', 'gpt_neox': 'GPTNeoXTokenizer',
  'codegen': 'CodeGenTokenizer',
}  # fmt: skip
SENTENCE_PIECE = ('tokenizer.model', 'sentencepiece.bpe.model')  # the second: XLM-R and CamemBERT
USUAL = {
  'do_lower_case': True, 'strip_accents': None, 'tokenize_chinese_chars': True,
  'add_prefix_space': False,
}  # fmt: skip


def read_tokenizer(
  folder: pathlib.Path, model: Mapping[str, Any]
) -> tuple[Tokenizer, SpecialIds, list[str]]:
  """Reads the tokenizer of a model folder; it neither truncates nor pads.

  Args:
    folder: with tokenizer.json, or with the older files that transformers can convert.
    model: its config.json, which names special ids where tokenizer_config.json does not.

  Returns:
    The tokenizer, its special ids, and a line for each setting that its files contradict.

  Raises:
    UserError: there is no tokenizer, it is malformed, or nothing says which token ends a text.
  """
  file, notes = folder / 'tokenizer.json', list[str]()
  if file.is_file():
    try:
      tokenizer = Tokenizer.from_file(str(file))
    except MemoryError:
      raise
    except Exception as error:  # the library raises bare exceptions
      refuse_pointer(file, str(file))
      raise UserError(f'{file}: no valid tokenizer ({error})') from None
    notes = use_class(tokenizer, tokenizer_fields(folder), model, folder)
  else:
    tokenizer = _converted(folder)
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer, _special_ids(folder, model, tokenizer), notes


def use_class(
  tokenizer: Tokenizer, fields: Mapping[str, Any], model: Mapping[str, Any], folder: pathlib.Path
) -> list[str]:
  """Gives a tokenizer the settings that its class in transformers has, in place.

  Such a class builds what normalises and splits a text anew, from tokenizer_config.json.

  Args:
    tokenizer: as tokenizer.json has it.
    fields: of tokenizer_config.json.
    model: the config.json.
    folder: of the model, for messages.

  Returns:
    A line for each setting that changes.
  """
  named, kind = fields.get('tokenizer_class'), model.get('model_type')
  name = named.removesuffix('Fast') if isinstance(named, str) else ''
  name = name or {**WORD_PIECE, **BYTE_LEVEL}.get(str(kind), '')
  normal, split = tokenizer.normalizer, tokenizer.pre_tokenizer
  pieces = name in WORD_PIECE.values() and isinstance(tokenizer.model, models.WordPiece)
  held: dict[str, bool | None] = {}
  if pieces and isinstance(normal, normalizers.BertNormalizer):
    held = {
      'do_lower_case': normal.lowercase,
      'strip_accents': normal.strip_accents,
      'tokenize_chinese_chars': normal.handle_chinese_chars,
    }
  elif name in BYTE_LEVEL.values() and isinstance(split, pre_tokenizers.ByteLevel):
    held = {'add_prefix_space': split.add_prefix_space}
  if not (isinstance(named, str) or held.keys() & fields.keys()):
    return []  # no file says so but tokenizer.json
  given = {field: fields.get(field) for field in held}
  said = {field: x if isinstance(x, bool) else USUAL[field] for field, x in given.items()}
  if held == said:
    return []
  if isinstance(split, pre_tokenizers.ByteLevel):
    prefix = bool(said['add_prefix_space'])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(prefix, split.trim_offsets, split.use_regex)
  else:
    lower, strip, chinese = said.values()
    tokenizer.normalizer = normalizers.BertNormalizer(
      normal.clean_text, bool(chinese), strip, bool(lower)
    )
  written = lambda x: 'null' if x is None else str(x).lower()
  return [
    f'{folder / "tokenizer_config.json"}: {field} is {written(x)}'
    f'{"" if field in fields else " where it is absent"}, and {written(held[field])} in '
    f'tokenizer.json; {written(x)} counts, as in transformers for a {name}'
    for field, x in said.items()
    if x != held[field]
  ]


def _converted(folder: pathlib.Path) -> Tokenizer:
  """Lets transformers convert vocab.json and merges.txt, vocab.txt, or a SentencePiece model."""
  known = ('vocab.json', 'vocab.txt', *SENTENCE_PIECE)
  if not any((folder / name).is_file() for name in known):
    raise UserError(f'{folder}: no tokenizer.json (nor {" or ".join(known)})')
  transformers = hub.imported('transformers')
  try:
    return transformers.AutoTokenizer.from_pretrained(
      str(folder), use_fast=True, trust_remote_code=False
    ).backend_tokenizer
  except MemoryError:
    raise
  except Exception as error:  # of any kind, out of its converters
    pieces = [folder / name for name in SENTENCE_PIECE if (folder / name).is_file()]
    alone = pieces and not any((folder / name).is_file() for name in known[:2])
    if alone and importlib.util.find_spec('sentencepiece') is None:
      raise UserError(
        f'{pieces[0]}: reading it needs the package sentencepiece (pip install '
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
