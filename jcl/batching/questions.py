"""What a trained model is asked: texts and conversations, checked, as examples without answers."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jcl import notation
from jcl.batching.batch_reader import LAMOL_FORMATS
from jcl.config import Group, number
from jcl.errors import UserError
from jcl.streams import chat
from jcl.streams.stream import Example

Input = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a conversation."""


@dataclasses.dataclass
class Sampling(Group):
  """How a model continues a prompt; `check_values` refuses values out of their bounds."""

  max_new: int = number(64, least=1)  # tokens of a continuation at most
  temperature: float = number(1.0, least=0)  # of the softmax
  top_k: int = number(20, least=1)  # candidates a token; 1 is greedy
  seed: int = number(0, least=0)  # of the samples


def listed(inputs: Any, argument: str) -> list[Any]:
  """Returns the inputs of a call as a list.

  Raises:
    UserError: `inputs` are one text, a table, a set, or no list.
  """
  if isinstance(inputs, str):
    raise UserError(f"{argument} is one text; give a list of them, ['…']")
  if hasattr(inputs, 'columns'):  # iterating over a table gives the names of its columns
    kind = type(inputs).__name__
    raise UserError(f"{argument} is a {kind}; give one of its columns, as {argument}['text']")
  if isinstance(inputs, set | frozenset):
    raise UserError(f'{argument} is a {type(inputs).__name__}, which has no order; give a list')
  if not isinstance(inputs, Iterable) or isinstance(inputs, Mapping | bytes):
    raise UserError(f"{argument} is a {type(inputs).__name__}; give a list of texts, ['…']")
  return list(inputs)


def text_of(value: object, argument: str) -> str:
  """Returns an input that is text.

  Raises:
    UserError: it is none, or no tokenizer can read it.
  """
  if not isinstance(value, str):
    raise UserError(f'{argument} is a {type(value).__name__}; give text')
  if '\0' in value:
    raise UserError(f'{argument} holds a NUL character; take it out')
  if not notation.encodable(value):
    raise UserError(f'{argument} holds half a surrogate pair; take it out')
  return value


def example(given: Any, name: str, task: int, chat_template: str, text_format: str) -> Example:
  """Returns a text or a conversation as an example without an answer.

  Args:
    given: the input; an answer at the end of a conversation is left out.
    name: of the input in messages.
    task: index of its task.
    chat_template, text_format: of the model.

  Raises:
    UserError: it is neither, or the model was not trained on conversations.
  """
  if not chat.is_list(given):
    return Example(-1, text_of(given, name), '', task, name=name)
  talk = chat.asked(given, name)
  if not chat_template and text_format not in LAMOL_FORMATS:
    raise UserError(f'{name} is a conversation, on which this model was not trained; give text')
  return Example(-1, talk.text, '', task, name=name, messages=talk.to_json())
