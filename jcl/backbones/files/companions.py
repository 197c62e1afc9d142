"""What the files of a model say beside its shape, weights and token ids; an export says it again.

Chat templates, settings of generation, the further fields of tokenizer_config.json, and the names
of a classifier's classes. They travel with the model, so that an export is the same whether the
model came from a local folder, from the hub or from a GGUF file.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from jcl.backbones.files.fields import read_json
from jcl.backbones.files.weights import write_json
from jcl.backbones.tokenizers import SpecialIds
from jcl.errors import UserError

ANSWERS = 'jcl.json'  # how a model that jcl trained is asked; see training/answer_format.py
DEFAULT = 'default'  # name of the chat template that is used where none is named
TEMPLATES = 'additional_chat_templates'  # folder of the others
_DROPPED = ('added_tokens_decoder', 'chat_template')  # of tokenizer_config.json: written elsewhere


@dataclasses.dataclass(frozen=True)
class Companions:
  """Files and settings that travel with a model.

  Attributes:
    chat_templates: {name: Jinja source}; the one that is used by itself is called `default`.
    generation: fields of generation_config.json; empty: written from the special ids.
    tokenizer: fields of tokenizer_config.json, with those of special_tokens_map.json.
    labels: of the classes of a head, in their order, as in the config's `id2label`.
    answers: contents of jcl.json; empty where jcl did not train the model.
  """

  chat_templates: Mapping[str, str] = dataclasses.field(default_factory=dict)
  generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tokenizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] = ()
  answers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def chat_template(self) -> str | None:
    """Source of the template that is used where none is named; None: there is none."""
    return self.chat_templates.get(DEFAULT)


def read_companions(folder: pathlib.Path, config: Mapping[str, Any]) -> Companions:
  """Reads what goes with the model of a folder.

  Args:
    folder: of the model.
    config: its config.json.

  Raises:
    UserError: a file is damaged; the message names it.
  """
  fields = tokenizer_fields(folder)
  return Companions(
    chat_templates=_chat_templates(folder, fields),
    generation=_json(folder / 'generation_config.json'),
    tokenizer={name: value for name, value in fields.items() if name not in _DROPPED},
    labels=_labels(config),
    answers=_answers(folder / ANSWERS),
  )


def tokenizer_fields(folder: pathlib.Path) -> dict[str, Any]:
  """Reads tokenizer_config.json; special_tokens_map.json fills in the tokens that it leaves out."""
  named = _json(folder / 'tokenizer_config.json')
  return {**_json(folder / 'special_tokens_map.json'), **named}


def _json(file: pathlib.Path) -> dict[str, Any]:
  return read_json(file) if file.is_file() else {}


def _answers(file: pathlib.Path) -> dict[str, Any]:
  try:
    return _json(file)
  except UserError:
    raise UserError(f'{file} is not the answer format of a model; export the model again') from None


def _chat_templates(folder: pathlib.Path, fields: Mapping[str, Any]) -> dict[str, str]:
  """Reads the chat templates; like transformers, files win over tokenizer_config.json."""
  files = {path.stem: path for path in sorted((folder / TEMPLATES).glob('*.jinja'))}
  if (folder / 'chat_template.jinja').is_file():
    files[DEFAULT] = folder / 'chat_template.jinja'
  if files:
    return {name: _text(path) for name, path in files.items()}
  where, given = f'{folder / "tokenizer_config.json"}: chat_template', fields.get('chat_template')
  if isinstance(given, list):
    given = {x.get('name'): x.get('template') for x in given if isinstance(x, dict)}
  found = given if isinstance(given, dict) else {} if given is None else {DEFAULT: given}
  for name, source in found.items():
    if not isinstance(name, str) or not isinstance(source, str) or not re.fullmatch(r'\w+', name):
      raise UserError(f'{where} is neither text nor a list of named texts')
  return found


def _text(file: pathlib.Path) -> str:
  try:
    return file.read_bytes().decode('utf-8')  # newlines as they are
  except UnicodeDecodeError as error:
    raise UserError(f'{file}: not UTF-8 ({error}); fetch it again') from None


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the names of the classes in `id2label`; none where they are the made-up LABEL_0, …"""
  found = config.get('id2label')
  if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
    return ()
  names = tuple(found.get(str(i), '') for i in range(len(found)))
  made_up = all(name == f'LABEL_{i}' for i, name in enumerate(names))
  return () if made_up or '' in names else names


def write_companions(
  folder: pathlib.Path, companions: Companions, tokenizer: Tokenizer, special: SpecialIds,
  generates: bool,
) -> None:  # fmt: skip
  """Writes tokenizer_config.json, chat templates, generation_config.json and jcl.json.

  Args:
    folder: that exists.
    companions: of the model.
    tokenizer: whose tokens the special ids name.
    special: ids of the special tokens.
    generates: whether the model writes text; only then is there a generation_config.json.
  """
  fields = {'clean_up_tokenization_spaces': False, **companions.tokenizer}
  for name, number in special._asdict().items():
    fields[f'{name}_token'] = None if number is None else tokenizer.id_to_token(number)
  fields['tokenizer_class'] = 'PreTrainedTokenizerFast'
  write_json(folder / 'tokenizer_config.json', dict(sorted(fields.items())))
  for name, source in companions.chat_templates.items():
    file = folder / ('chat_template.jinja' if name == DEFAULT else f'{TEMPLATES}/{name}.jinja')
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(source.encode('utf-8'))
  if generates:
    ids = {f'{name}_token_id': i for name, i in special._asdict().items() if i is not None}
    write_json(folder / 'generation_config.json', companions.generation or ids)
  if companions.answers:
    write_json(folder / ANSWERS, companions.answers)
