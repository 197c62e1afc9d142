"""Rows of conversations: a chat template writes the text, and the loss counts the answers in it.

The tokens of a row are those of transformers' `apply_chat_template`. Targets are the tokens of each
counted turn of the assistant, from the first of its content to the special token that ends it; the
last turn always ends with end-of-sequence, which is added where the template writes none. What the
model is asked is the row up to the last answer.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from jcl.batching.batch import Row
from jcl.batching.text_formats import SpecialTokens, Text
from jcl.errors import UserError
from jcl.streams.chat import Conversation, Message, of_json
from jcl.streams.chat_templates import ChatTemplate
from jcl.streams.special_tokens import cut, guarded, unguarded
from jcl.streams.stream import Example

MARK = '\ufdd1'  # a noncharacter of Unicode, in place of an answer


class Span(NamedTuple):
  """Place of an answer in a rendered text, in letters: content, and end of its turn."""

  start: int
  content: int
  end: int


class Chat(NamedTuple):
  """Tokens of a rendered conversation.

  Attributes:
    ids: all of them.
    wanted: places in `ids` of the tokens that are targets.
    prompt: number of tokens before the last answer.
  """

  ids: list[int]
  wanted: list[int]
  prompt: int


def special_names(tokenizer: Tokenizer, special: SpecialTokens) -> dict[str, str]:
  """Returns the special tokens of a tokenizer by the names that chat templates use."""
  ids = {'bos_token': special.bos, 'eos_token': special.eos, 'pad_token': special.pad}
  texts = {name: None if i is None else tokenizer.id_to_token(i) for name, i in ids.items()}
  return {name: text or '' for name, text in texts.items()}


class ChatText(Text):
  """A tokenizer and a chat template.

  Args:
    chat: source of the template.
    turns: `all` or `last`: the assistant's turns that the loss counts.
    Others: as of `Text`.
  """

  def __init__(
    self, tokenizer: Tokenizer, special: SpecialTokens, template: str, chat: str, turns: str,
    max_length: int, special_tokens: str = 'refuse',
  ):  # fmt: skip
    super().__init__(
      tokenizer, special, template, 'plain', max_length, special_tokens=special_tokens
    )
    self.turns, names = turns, special_names(tokenizer, special)
    self.chat, self.chat_template = ChatTemplate(chat, names), chat
    self._sizes: dict[int, int] = {}  # tokens of the prompt of each example
    self._after = self._after_answers(names['eos_token'])

  def answer(self, ids: Iterable[int]) -> str:
    """Returns the answer that generated ids are, without what the template writes after it."""
    said = self.decode(ids)
    return said.partition(self._after)[0].strip() if self._after else said

  def wanted(self, example: Example) -> list[int]:
    """Returns the ids of the last answer, end-of-sequence included."""
    row = self.rows(example)[0]
    return row.wanted[row.targets + 1 >= len(self.prompt(example))].tolist()

  def prompt(self, example: Example) -> list[int]:
    """Returns the tokens that the model is given at test time: the row up to the last answer."""
    if example.number < 0:
      return list(self._pieces(example)[0])
    row = self.rows(example)[0]
    return row.tokens[: self._sizes[example.number]].tolist()

  def question(self, example: Example) -> Row:
    """Returns the row of an example with the last answer as its only target; it is not cached."""
    return self._last(self._chat(example), example)

  def special_token(self, example: Example) -> str | None:
    """Returns a special token that a message contains as text; None: there is none."""
    contents = [m['content'] for m in conversation_of(example).messages]
    return next((t for c in contents if (t := self.encoder.special_token(c))), None)

  def prepare(self, examples: Iterable[Example]) -> int:
    """Makes and keeps the rows of all examples; returns the tokens of the longest answer."""
    examples, self.reserve = list(examples), 0
    self.cut.clear()
    self._rows.clear()
    longest = max(len(self.wanted(example)) for example in examples)
    self.reserve = longest
    for example in examples:
      if self._sizes[example.number] + longest > self.max_length or example.number in self.cut:
        self._rows[example.number] = self._make_rows(example, False)
    return longest

  def _pieces(self, example: Example) -> tuple[list[int], list[int]]:
    """Returns the ids of the prompt and of the last answer."""
    chat = self._chat(example)
    return chat.ids[: chat.prompt], [chat.ids[i] for i in chat.wanted if i >= chat.prompt]

  def _make_rows(self, example: Example, replay: bool) -> tuple[Row, ...]:
    chat = self._chat(example)
    self._sizes[example.number] = chat.prompt
    row = self._row(chat, chat.wanted, example)
    return (dataclasses.replace(row, replay=replay),)

  def _last(self, chat: Chat, example: Example) -> Row:
    return self._row(chat, [i for i in chat.wanted if i >= chat.prompt], example)

  def _row(self, chat: Chat, wanted: Sequence[int], example: Example) -> Row:
    tokens, places = np.array(chat.ids, np.int32), np.array(wanted, np.int64)
    return Row(tokens, places - 1, tokens[places], 2 * example.number, example.task)

  def _chat(self, example: Example) -> Chat:
    """Returns the tokens of an example; the oldest turns, then the last question are cut to fit."""
    where = f'example {example.name or example.number}'
    talk, tokens = conversation_of(example), self.encoder.tokens
    talk = talk._replace(
      messages=[{**m, 'content': guarded(m['content'], tokens)} for m in talk.messages]
    )
    while True:
      found = self._encoded(talk, where)
      last = sum(i >= found.prompt for i in found.wanted)
      excess = max(len(found.ids), found.prompt + max(last, self.reserve)) - self.max_length
      if excess <= 0:
        return found
      talk = self._shorter(talk, excess, example, where)

  def _shorter(self, talk: Conversation, excess: int, example: Example, where: str) -> Conversation:
    """Returns a conversation without its oldest turn, or with a shorter last question."""
    users = [i for i, m in enumerate(talk.messages[:-1]) if m['role'] == 'user']
    if len(users) > 1:
      if example.number >= 0:
        self.cut.add(example.number)
      kept = [m for m in talk.messages[: users[0]] if m['role'] == 'system']
      left = users[1] - len(kept)
      return Conversation(kept + talk.messages[users[1] :], max(talk.first - left, 0))
    at = users[-1] if users else len(talk.messages) - 2
    content = talk.messages[at]['content']
    pieces = self.encoder.encode(content, where, rendered=True)
    kept_tokens = self._keep(len(pieces.ids), min(excess, max(len(pieces.ids), 1)), example)
    messages = list(talk.messages)
    shorter = cut(content, pieces.offsets[kept_tokens][0])
    messages[at] = {**messages[at], 'content': shorter if shorter != content else ''}
    return talk._replace(messages=messages)

  def _encoded(self, talk: Conversation, where: str) -> Chat:
    """Returns the tokens of a conversation, its guarded contents included.

    Raises:
      UserError: the template refuses the conversation, or writes an answer otherwise than it is.
    """
    try:
      text = self.chat.render(talk.messages)
      spans = self._spans(text, talk)
    except UserError as error:
      raise UserError(f'{where}: {error}') from None
    if spans[-1].start == spans[-1].content:  # a question; a space goes with the answer
      head = cut(text, spans[-1].start).rstrip(' ')
      asked = self.encoder.encode(head, where, rendered=True).ids
      return Chat(asked, [], len(asked))
    ids, offsets = self.encoder.encode(text, where, rendered=True)
    ids = list(ids)
    wanted: list[int] = []
    prompt = len(ids)
    for span in spans:
      inside = [
        i for i, (start, end) in enumerate(offsets) if end > span.start and start < span.end
      ]
      stop = next(
        (n for n, i in enumerate(inside)
         if ids[i] in self._special and offsets[i][0] >= span.content), len(inside),
      )  # fmt: skip
      last = span is spans[-1]
      if last and self.eos in (after := [ids[i] for i in inside]):
        ends = [n for n, i in enumerate(after) if i == self.eos and n >= stop]
        stop = ends[0] if ends else stop
      elif last:
        stop = len(inside)
      inside = inside[: stop + 1]
      if last:
        prompt = inside[0]
        if ids[inside[-1]] != self.eos:
          ids.append(self.eos)
          inside.append(len(ids) - 1)
      wanted += inside
    return Chat(ids, wanted, prompt)

  def _spans(self, text: str, talk: Conversation) -> list[Span]:
    """Returns the places of the counted answers in a rendered text, guards left out.

    An answer stands where the text changes if another one is put in its place.
    """
    messages, found = talk.messages, []
    for i, message in enumerate(messages):
      last = i == len(messages) - 1
      counted = message['role'] == 'assistant' and i >= talk.first and self.turns == 'all'
      if not (last or counted):
        continue
      other = self.chat.render([*messages[:i], {**message, 'content': MARK}, *messages[i + 1 :]])
      before, mark, after = other.partition(MARK)
      if not (mark and text.startswith(before) and text.endswith(after)):
        raise UserError(
          f'the chat template does not write the answer of messages[{i}] as it is: set '
          'stream.loss_turns=last, or give another stream.chat_template'
        )
      end = len(text)
      if not last:
        turn = self.chat.render(messages[: i + 1])
        end = len(turn) if text.startswith(turn) else len(text) - len(after)
      places = (len(before), len(text) - len(after), end)
      found.append(Span(*(len(unguarded(text[:place])) for place in places)))
    return found

  def _after_answers(self, eos: str) -> str:
    """Returns what the template writes after an answer, up to end-of-sequence; '' if nothing."""
    messages: list[Message] = [{'role': 'user', 'content': 'a'}]
    try:
      text = self.chat.render([*messages, {'role': 'assistant', 'content': MARK}])
    except UserError:
      return ''
    after = text.partition(MARK)[2]
    return (after.partition(eos)[0] if eos else after).strip()


def conversation_of(example: Example) -> Conversation:
  """Returns the conversation of an example, with its answer as the last turn.

  A row of text and answer is a question of the user and an answer of the assistant.
  """
  if not example.messages:
    turns: list[dict[str, Any]] = [
      {'role': 'user', 'content': example.text}, {'role': 'assistant', 'content': example.answer}
    ]  # fmt: skip
    return Conversation(turns)
  talk = of_json(example.messages)
  if talk.answer.strip() != example.answer:
    talk.messages[-1]['content'] = example.answer
  return talk
