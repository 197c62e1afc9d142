"""Conversations as rows: lists of messages, as OpenAI, Hugging Face or ShareGPT write them.

A conversation is kept as JSON, `{"messages": […], "first": n}`; its answer is the last turn of the
assistant. How it becomes text is decided by the chat template of the model (`chat_templates`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from jcl import notation
from jcl.errors import UserError
from jcl.streams.raw import Number, written

ROLES = {'human': 'user', 'gpt': 'assistant', 'chatgpt': 'assistant', 'bing': 'assistant'}
"""Roles as ShareGPT writes them; others stay as they are."""

Message = dict[str, Any]


class Conversation(NamedTuple):
  """Messages that end with a turn of the assistant.

  Attributes:
    messages: dicts with `role` and `content`, and whatever else a template may read.
    first: the first message whose turn the loss may count.
  """

  messages: list[Message]
  first: int = 0

  @property
  def answer(self) -> str:
    """Content of the last turn."""
    return self.messages[-1]['content']

  @property
  def text(self) -> str:
    """Messages before the last turn: the one of the user, or all with their roles."""
    before = self.messages[:-1]
    if len(before) == 1 and before[0]['role'] == 'user':
      return before[0]['content']
    return '\n'.join(f'{message["role"]}: {message["content"]}' for message in before)

  def to_json(self) -> str:
    """Returns the conversation as the field `messages` of a row."""
    return json.dumps(self._asdict(), ensure_ascii=False)


def as_messages(value: object) -> list[object] | None:
  """Returns a value of a table as a list of messages; None: it is something else.

  They may be a list, the same as JSON in a text (as csv files hold them), or a dict of lists
  (as `datasets` stores a sequence of dicts).
  """
  if (
    isinstance(value, str)
    and value.lstrip().startswith('[')
    and ('"role"' in value or '"from"' in value)
  ):
    try:
      value = json.loads(value)
    except (ValueError, RecursionError):
      return None
  if isinstance(value, Mapping) and fields_of(value):
    columns = {name: field for name, field in value.items() if is_list(field)}
    if len({len(field) for field in columns.values()}) == 1:
      rows = zip(*columns.values(), strict=True)
      value = [dict(zip(columns, row, strict=True)) for row in rows]
  if isinstance(value, Mapping) and isinstance(value.get('role', value.get('from')), str):
    value = [value]
  if not is_list(value):
    return None
  listed = list(value)
  return listed if any(isinstance(m, Mapping) and fields_of(m) for m in listed) else None


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
  """Whether a value of a table is a list; a zero-dimensional array is not one."""
  return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def fields_of(value: Mapping[Any, object]) -> bool:
  """Whether a dict has the fields of a message."""
  return 'role' in value or ('from' in value and 'value' in value)


def conversation(
  prompt: Sequence[object], completion: Sequence[object] | str | None, where: str
) -> Conversation:
  """Returns the conversation of a row.

  Args:
    prompt: messages.
    completion: more messages, in which alone the loss counts; text, which is the assistant's; or
      None: `prompt` is the whole conversation.
    where: place of the row as error messages name it.

  Raises:
    UserError: a message is malformed, or the conversation does not end with the assistant.
  """
  messages = checked_messages(prompt, f'{where}: messages')
  first = 0 if completion is None else len(messages)
  if isinstance(completion, str):
    messages.append({'role': 'assistant', 'content': completion})
  elif completion is not None:
    messages += checked_messages(completion, f'{where}: completion')
  if messages[-1]['role'] != 'assistant':
    raise UserError(
      f'{where}: the conversation ends with a message of {messages[-1]["role"]!r}: end it with the '
      "assistant's answer, or leave the row out"
    )
  if not messages[-1]['content'].strip():
    raise UserError(f'{where}: the last answer is empty: fill it in, or leave the row out')
  if messages[-1].get('weight') == 0:
    raise UserError(f'{where}: the last answer has weight 0: end the conversation before it')
  if len(messages) == 1:
    raise UserError(f'{where}: nothing stands before the answer: give a message of the user')
  return Conversation(messages, first)


def checked_messages(messages: Sequence[object], where: str) -> list[Message]:
  """Returns messages that were checked, of which there is one at least; see `checked`."""
  if len(messages) == 0:
    raise UserError(f'{where} is an empty list: give messages, or leave the row out')
  return [checked(message, f'{where}[{i}]') for i, message in enumerate(messages)]


def asked(messages: Sequence[object], where: str) -> Conversation:
  """Returns a conversation whose answer is not known: ''.

  Args:
    messages: of the conversation; an answer at its end is left out.
    where: place of the row as error messages name it.

  Raises:
    UserError: a message is malformed, or there is none but an answer.
  """
  found = checked_messages(messages, where)
  if found[-1]['role'] == 'assistant':
    found.pop()
  if not found:
    raise UserError(f'{where}: nothing stands before the answer: give a message of the user')
  return Conversation([*found, {'role': 'assistant', 'content': ''}])


def checked(message: object, where: str) -> Message:
  """Returns a message with `role` and `content`; fields without a value are left out.

  Parts of a content that are text are put together.

  Raises:
    UserError: it has no role, or its content is no text.
  """
  if not isinstance(message, Mapping):
    raise UserError(f'{where} is a {type(message).__name__}: write {{"role": …, "content": …}}')
  found = {str(key): value for key, value in message.items() if value is not None}
  if 'from' in found and 'role' not in found:
    found['role'] = ROLES.get(str(found['from']), found.pop('from'))
    found.pop('from', None)
    found['content'] = found.pop('value', None)
  content = found.get('content')
  if isinstance(content, list | tuple | np.ndarray) and len(content):
    parts = list(content)
    if all(isinstance(part, Mapping) and isinstance(part.get('text'), str) for part in parts):
      content = ''.join(part['text'] for part in parts)
  role = found.get('role')
  if not isinstance(role, str) or not role:
    raise UserError(f'{where}: the role is {role!r}: give system, user or assistant')
  if isinstance(content, Number | int | float) and not isinstance(content, bool):
    content = written(content)
  if not isinstance(content, str):
    is_what = 'missing' if content is None else f'a {type(content).__name__}'
    raise UserError(
      f'{where}: the content is {is_what}: give text (images and calls of tools are not read)'
    )
  if '\0' in content or not notation.encodable(content):
    raise UserError(f'{where}: the content holds a NUL character or half a surrogate pair')
  try:
    made = json.loads(json.dumps(plain({**found, 'content': content})))
  except (TypeError, ValueError, RecursionError):
    raise UserError(f'{where}: holds what JSON cannot: give role and content alone') from None
  if made.get('weight', 1) not in (0, 1):
    raise UserError(f'{where}: weight is {made["weight"]!r}: give 0 or 1, or leave it out')
  return made


def plain(value: object) -> object:
  """Returns a value of a JSON file with its numbers as numbers."""
  if isinstance(value, Number):
    return json.loads(value)
  if isinstance(value, Mapping):
    return {key: plain(entry) for key, entry in value.items()}
  return [plain(entry) for entry in value] if is_list(value) else value


def of_json(text: str) -> Conversation:
  """Returns the conversation of the field `messages` of a row."""
  return Conversation(**json.loads(text))
