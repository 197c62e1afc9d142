"""Places of the assistant's turns in a rendered conversation, and the place where a question ends.

A template with `{% generation %}` marks the turns itself, as for transformers'
`return_assistant_tokens_mask`. Without such marks a turn begins where the generation prompt before
it ends, and its content is the part of the text that changes if the message gets other content.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jcl.errors import UserError
from jcl.streams.chat import Conversation, Message
from jcl.streams.chat_templates import REASONING, ChatTemplate

MARK, THOUGHT = '\ufdd1', '\ufdd2'  # noncharacters of Unicode, for an answer and its reasoning

Marks = Sequence[tuple[int, int]]
"""Spans of a text that `{% generation %}` marks, as `ChatTemplate.marked` returns them."""


class Span(NamedTuple):
  """Place of a turn of the assistant in a rendered text; all numbers count characters.

  Attributes:
    start: start of what the assistant writes: reasoning, if any, and content.
    content: end of the content.
    end: end of the turn, or a later place.
    whole: whether `end` is the end of the turn.
  """

  start: int
  content: int
  end: int
  whole: bool = True


class Rendered(NamedTuple):
  """A conversation as its template writes it.

  Attributes:
    text: of the whole conversation.
    spans: turns that the loss counts, in order.
    start: character at which the last turn begins; the text before it is the question.
    marked: whether the template marks the turns itself.
  """

  text: str
  spans: Sequence[Span]
  start: int
  marked: bool


def rendered(chat: ChatTemplate, talk: Conversation, every: bool) -> Rendered:
  """Returns a conversation as text, with the places of its answers.

  Args:
    chat: the template.
    talk: the conversation; its last turn is an answer.
    every: whether the loss counts every turn that it may count; if not, only the last.

  Raises:
    UserError: the template refuses the conversation, or changes the text of an answer.
  """
  text, marks = chat.marked(talk.messages)
  counted = [
    i == len(talk.messages) - 1 or (every and counts(message) and i >= talk.first)
    for i, message in enumerate(talk.messages)
  ]
  if marks:
    spans, start = marked_turns(chat, text, marks, talk.messages, counted)
    start = max(start, prompted(chat, text, talk.messages[:-1]))
  else:
    spans = [turn(chat, text, talk.messages, i) for i, yes in enumerate(counted) if yes]
    start = spans[-1].start
  return Rendered(text, spans, start, bool(marks))


def counts(message: Message) -> bool:
  """Whether the loss may count a message: an answer, unless its `weight` is 0 (as for OpenAI)."""
  return message['role'] == 'assistant' and message.get('weight') != 0


def turn(chat: ChatTemplate, text: str, messages: Sequence[Message], i: int) -> Span:
  """Returns the place of a turn in a text without marks.

  Args:
    chat: the template.
    text: of the whole conversation.
    messages: of the conversation.
    i: index of the turn in `messages`.

  Raises:
    UserError: the template changes the text of the answer.
  """
  last = i == len(messages) - 1
  other = chat.render([*messages[:i], with_marks(messages[i]), *messages[i + 1 :]])
  before, mark, after = other.partition(MARK)
  before = before.partition(THOUGHT)[0]
  start = prompted(chat, text, messages[:i]) or len(before.rstrip(' '))
  same = text[:start] if start < len(before) else before.rstrip(' ')
  if not (mark and text.startswith(same) and text.endswith(after)):
    raise UserError(
      f'the chat template does not write the answer of messages[{i}] as it is: '
      f'{"" if last else "set stream.loss_turns=last, or "}give another stream.chat_template'
    )
  end, whole = len(text), last
  if not last:
    until = chat.render(messages[: i + 1])
    whole = text.startswith(until)
    end = len(until) if whole else end
  return Span(start, len(text) - len(after), end, whole)


def marked_turns(
  chat: ChatTemplate, text: str, marks: Marks, messages: Sequence[Message], counted: Sequence[bool]
) -> tuple[list[Span], int]:
  """Returns those marked spans that the loss counts, and the character where the last turn begins.

  Args:
    chat: the template.
    text: of the whole conversation.
    marks: spans of `text` that the template marks.
    messages: of the conversation.
    counted: for each message, whether the loss counts it.

  Raises:
    UserError: no part of the last answer is marked.
  """
  turns = [i for i, message in enumerate(messages) if message['role'] == 'assistant']
  every = all(counted[i] for i in turns)
  begins = dict.fromkeys(turns, 0)  # of the part of the text that a turn decides
  for i in turns[-1:] if every else turns:
    other = chat.render([*messages[:i], with_marks(messages[i]), *messages[i + 1 :]])
    begins[i] = next(
      (n for n, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), len(text)
    )
  last = [start for start, end in marks if end > begins[turns[-1]]]
  if not last:
    raise UserError(
      'the chat template marks no part of the last answer: give another stream.chat_template'
    )
  turn_of = lambda end: max((i for i in turns if begins[i] < end), default=turns[0])
  return [Span(a, b, b) for a, b in marks if every or counted[turn_of(b)]], min(last)


def prompted(chat: ChatTemplate, text: str, messages: Sequence[Message]) -> int:
  """Returns how many characters of a text are these messages and their generation prompt.

  It is 0 where the text does not begin with them, or the template has no generation prompt.
  """
  try:
    prompt = chat.render(messages, prompt=True)
    return len(prompt) * (text.startswith(prompt) and prompt != chat.render(messages))
  except UserError:  # some templates refuse messages that end with this role
    return 0


def question(chat: ChatTemplate, messages: Sequence[Message]) -> str:
  """Returns the text of messages, up to the character where the answer to them begins.

  Raises:
    UserError: the template refuses the messages, or writes no answer.
  """
  text, marks = chat.marked([*messages, {'role': 'assistant', 'content': MARK}])
  return text[: asked(chat, text, marks, messages)]


def asked(chat: ChatTemplate, text: str, marks: Marks, messages: Sequence[Message]) -> int:
  """Returns the number of characters of a text before its last answer, which is `MARK`.

  Args:
    chat: the template.
    text: of the messages and the answer.
    marks: spans of `text` that the template marks.
    messages: those before the answer.

  Raises:
    UserError: the text has no answer.
  """
  place = text.find(MARK)
  if place < 0:
    raise UserError('the chat template writes no answer: give another stream.chat_template')
  start = next((a for a, b in marks if a <= place < b), len(text[:place].rstrip(' ')))
  generated = prompted(chat, text, messages)
  return max(start, generated) if marks else generated or start


def around_answers(chat: ChatTemplate) -> tuple[str, list[str]]:
  """Returns the text that a template writes after an answer, and the texts it writes before one.

  The latter stand between the generation prompt and the answer, or between reasoning and answer;
  blank ones are left out. All are empty if the template refuses the conversation.
  """
  ask: list[Message] = [{'role': 'user', 'content': 'a'}]
  answer = {'role': 'assistant', 'content': MARK}
  try:
    text, marks = chat.marked([*ask, answer])
    between = text[asked(chat, text, marks, ask) : text.index(MARK)]
    thought = chat.render([*ask, answer | {'reasoning_content': THOUGHT}])
  except UserError:
    return '', []
  behind = thought.partition(THOUGHT)[2]
  after = behind.partition(MARK)[0] if MARK in behind else ''
  return text.partition(MARK)[2], [part for part in (between, after) if part.strip()]


def with_marks(message: Message) -> Message:
  """Returns a message with `MARK` for its content, and `THOUGHT` for reasoning if it has some."""
  thoughts = {name: THOUGHT for name in REASONING if message.get(name)}
  return {**message, **thoughts, 'content': MARK}


def mapped(value: Any, fn: Callable[[str], str]) -> Any:
  """Returns a JSON value with `fn` applied to each of its texts but keys."""
  if isinstance(value, str):
    return fn(value)
  if isinstance(value, list):
    return [mapped(entry, fn) for entry in value]
  if isinstance(value, dict):
    return {key: mapped(entry, fn) for key, entry in value.items()}
  return value


def texts_of(value: Any) -> list[str]:
  """Returns all texts in a JSON value but keys."""
  found: list[str] = []

  def keep(text: str) -> str:
    found.append(text)
    return text

  mapped(value, keep)
  return found
