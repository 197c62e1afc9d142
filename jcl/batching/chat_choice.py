"""The chat template that writes the rows of a run, and the texts that it makes."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from tokenizers import Tokenizer

from jcl.batching.batch_reader import LAMOL_FORMATS
from jcl.batching.chat_rows import ChatText, conversation_of
from jcl.batching.special_text import SpecialTokens
from jcl.batching.text_formats import Text
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.storage import paths
from jcl.streams.chat import of_json
from jcl.streams.chat_templates import (
  NAMED,
  REASONING,
  ChatTemplate,
  check_date,
  compiled,
  today,
  writes_date,
)
from jcl.streams.files import read_text
from jcl.streams.stream import Stream

BOS, EOS, PAD = '<bos>', '<eos>', '<pad>'  # of tokenizers from scratch
OWN, FALLBACK = 'model', 'plain'


class Choice(NamedTuple):
  """The chat template of a run.

  Attributes:
    source: template in Jinja; '': no chat template, rows have the stream's own template.
    note: a line for the start of a run; '': nothing to say.
    date: day that the template writes as today's, YYYY-MM-DD; '': it writes none.
  """

  source: str = ''
  note: str = ''
  date: str = ''


class Owner(Protocol):
  """A pretrained model, or the files that go with it, as the owner of a chat template."""

  @property
  def chat_template(self) -> str | None:
    """Its chat template in Jinja; None: it has none."""


def choose(
  config: StreamConfig, stream: Stream, text_format: str, model: Owner | None = None
) -> Choice:
  """Returns the chat template of a run, with its date if it writes one.

  Args:
    config: settings of the stream.
    stream: whose rows may be conversations.
    text_format: of the run.
    model: what may have a template of its own; None: there is no pretrained model.

  Raises:
    UserError: there is no such template, or a setting is given that nothing would read.
  """
  if config.chat_date:
    check_date(config.chat_date)
  choice = _undated(config, stream, text_format, model)
  if writes_date(choice.source):
    date = config.chat_date or today()
    return Choice(choice.source, f'{choice.note}; today is {date} for it (stream.chat_date)', date)
  if config.chat_date:
    raise UserError(
      f'stream.chat_date is {config.chat_date!r}, but no chat template writes a date: '
      'leave it empty'
    )
  return choice


def _undated(config: StreamConfig, stream: Stream, text_format: str, model: Owner | None) -> Choice:
  """Returns the chat template of a run without its date; arguments and errors as in `choose`."""
  wanted = config.chat_template
  if text_format != 'plain':
    if wanted:
      raise UserError(
        f'stream.chat_template is {wanted!r}, but rows of this run are in the format '
        f'{text_format!r}: leave it empty'
      )
    if text_format in LAMOL_FORMATS and has_conversations(stream):
      return Choice(note='conversations are read as text and answer, without a chat template')
    return Choice()
  if not wanted and not has_conversations(stream):
    if config.loss_turns != 'all':
      raise UserError(
        f'stream.loss_turns is {config.loss_turns!r}, but no row is a conversation: leave it out'
      )
    return Choice()
  if config.template:
    raise UserError(
      f'stream.template is {config.template!r}, but a chat template writes the rows: leave it empty'
    )
  return found(wanted, None if model is None else model.chat_template)


def found(wanted: str, own: str | None) -> Choice:
  """Returns the template that `stream.chat_template` names.

  Args:
    wanted: the setting; '' is the model's own template, or `plain` where it has none.
    own: the model's own template; None: it has none.

  Raises:
    UserError: there is no such template, or it is no valid Jinja.
  """
  if wanted in NAMED:
    return Choice(NAMED[wanted], f'rows are written by the chat template {wanted!r}')
  if wanted.endswith('.jinja'):
    file = paths.local(wanted, 'stream.chat_template')
    source = read_text(file, wanted, 'write a template in Jinja')
    try:
      compiled(source)
    except UserError as error:
      raise UserError(f'{wanted}: {error}') from None
    return Choice(source, f'rows are written by the chat template {wanted}')
  if wanted not in ('', OWN):
    raise UserError(
      f'stream.chat_template is {wanted!r}: give {OWN}, a .jinja file, or one of {", ".join(NAMED)}'
    )
  if own:
    return Choice(own, "rows are written by the model's own chat template")
  if wanted == OWN:
    raise UserError(
      f"stream.chat_template is 'model', but the model has no chat template: give one of "
      f'{", ".join(NAMED)}, or a .jinja file'
    )
  note = (
    f'the model has no chat template: rows are written by {FALLBACK!r}; stream.chat_template names '
    'another'
  )
  return Choice(NAMED[FALLBACK], note)


def has_conversations(stream: Stream) -> bool:
  """Whether a row of a stream is a conversation."""
  return any(e.messages for task in stream.tasks for e in task.train)


def make_text(
  choice: Choice, config: StreamConfig, tokenizer: Tokenizer, special: SpecialTokens,
  stream: Stream, text_format: str, max_length: int, pooling: str,
) -> tuple[Text, Stream]:  # fmt: skip
  """Returns what makes rows of examples, and the stream that it can read.

  That stream lacks the rows that `special_tokens_in_text=drop` leaves out, and it has the notes
  about them and about the chat template. The other arguments are those of `Text` and `ChatText`.

  Args:
    choice: chat template of the run.
    config: settings of the stream.
    stream: of the run.
  """
  in_text, template = config.special_tokens_in_text, stream.template
  if choice.note:
    stream = dataclasses.replace(stream, notes=(*stream.notes, choice.note))
  if choice.source and (unread := unread_fields(stream, choice.source)):
    note = f'fields of messages that nothing reads: {", ".join(unread)}'
    stream = dataclasses.replace(stream, notes=(*stream.notes, note))
  text: Text
  if choice.source:
    text = ChatText(
      tokenizer, special, template, choice.source, config.loss_turns, max_length, in_text,
      choice.date,
    )  # fmt: skip
  else:
    text = Text(tokenizer, special, template, text_format, max_length, pooling, in_text)
  return text, text.readable(stream)


def unread_fields(stream: Stream, source: str) -> list[str]:
  """Returns the fields of messages in train whose names do not stand in a chat template.

  Args:
    stream: whose rows may be conversations.
    source: of the template.
  """
  talks = (e.messages for task in stream.tasks for e in task.train if e.messages)
  fields = {name for talk in talks for m in of_json(talk).messages for name in m}
  read = {'role', 'content', 'weight', *re.findall(r'\w+', source)}
  if not read.isdisjoint(REASONING):  # a template that reads one of these names gets them all
    read |= {*REASONING}
  return sorted(fields - read)


def scratch_texts(
  choice: Choice, stream: Stream, text_format: str, reserved: Sequence[str]
) -> Iterator[str]:
  """Returns the training texts of which a tokenizer from scratch is made.

  Args:
    choice: chat template of the run.
    stream, reserved: as in `training_texts`.
    text_format: of the run.
  """
  if choice.source:
    return chat_texts(stream, choice)
  template = '' if text_format == 'packed' else stream.template
  return training_texts(stream, template, reserved)


def training_texts(stream: Stream, template: str, reserved: Sequence[str]) -> Iterator[str]:
  """Yields the texts that a tokenizer from scratch is made of: inputs, answers, template.

  Where the template stands beside them without a space, as in `{y}.`, that is the whole row.

  Args:
    stream: of the run.
    template: of plain rows; empty: there is none.
    reserved: tokens that are added later; they are no words of the vocabulary.
  """
  apart = template.replace('{x}', ' ').replace('{y}', ' ')
  for example in (e for task in stream.tasks for e in task.train):
    whole = template.replace('{x}', example.text).replace('{y}', example.answer)
    known = {*example.text.split(), *example.answer.split(), *apart.split()}
    frame = apart if known.issuperset(whole.split()) else whole
    for text in (example.text, example.answer, frame):
      yield functools.reduce(lambda t, name: t.replace(name, ' '), reserved, text)


def chat_texts(stream: Stream, choice: Choice) -> Iterator[str]:
  """Yields the training rows as the chat template writes them, special tokens made spaces.

  Raises:
    UserError: the template refuses a conversation; names the row.
  """
  tokens = {'bos_token': BOS, 'eos_token': EOS, 'pad_token': PAD}
  chat = ChatTemplate(choice.source, tokens, choice.date)
  for example in (e for task in stream.tasks for e in task.train):
    try:
      text = chat.render(conversation_of(example).messages)
    except UserError as error:
      raise UserError(f'example {example.called}: {error}') from None
    for token in tokens.values():
      text = text.replace(token, ' ')
    yield text
