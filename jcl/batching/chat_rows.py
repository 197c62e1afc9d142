"""Rows of conversations: a chat template writes the text, and the loss counts the answers in it.

The tokens of a row are those of transformers' `apply_chat_template`, and they begin with those of
its generation prompt: where a tokenizer joins the prompt to the answer, the two are tokenised
apart, so that a model is trained on what it is asked. Targets are the tokens of each counted turn
of the assistant (`chat_turns`), from the first after the generation prompt to the special token
that ends it; the last turn always ends with end-of-sequence, which is added where the template
writes none. What the model is asked is the row up to the last turn.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from jcl.batching.batch import Row
from jcl.batching.batch_reader import Read, unread
from jcl.batching.chat_turns import Span, around_answers, mapped, question, rendered, texts_of
from jcl.batching.row_store import Frame, Kept
from jcl.batching.special_text import SpecialTokens
from jcl.batching.text_formats import Text
from jcl.errors import UserError
from jcl.streams.chat import Conversation, of_json
from jcl.streams.chat_templates import ChatTemplate
from jcl.streams.special_tokens import cut, guarded, unguarded
from jcl.streams.stream import Example


class Chat(NamedTuple):
  """Tokens of a rendered conversation.

  Attributes:
    ids: all of them.
    wanted: indices in `ids` of the tokens that are to be predicted.
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
    tokenizer, special, template, max_length, special_tokens: as in `Text`.
    chat: source of the chat template, in Jinja.
    turns: turns of the assistant that the loss counts, `all` or `last`.
    date: as in `ChatTemplate`.
  """

  def __init__(
    self, tokenizer: Tokenizer, special: SpecialTokens, template: str, chat: str, turns: str,
    max_length: int, special_tokens: str = 'refuse', date: str = '',
  ):  # fmt: skip
    super().__init__(
      tokenizer, special, template, 'plain', max_length, special_tokens=special_tokens
    )
    self.turns, names = turns, special_names(tokenizer, special)
    self.chat, self.chat_template = ChatTemplate(chat, names, date), chat
    self._prompts: dict[int, int] = {}  # tokens of the prompt of each example
    self._after, self._before = self._around_answers(names['eos_token'])

  def answer(self, ids: Iterable[int]) -> str:
    """Returns the answer in generated ids, without reasoning and words of the template."""
    said = self.decode(ids)
    said = said.partition(self._after)[0] if self._after else said
    for found in [m for pattern in self._before for m in pattern.finditer(said)][-1:]:
      said = said[found.end() :]
    return said.strip()

  def wanted(self, example: Example) -> list[int]:
    """Returns the ids of the last answer, end-of-sequence included."""
    return self.rows(example)[0].wanted[-self.sizes(example)[1] :].tolist()

  def question(self, example: Example) -> Row:
    """Returns the row of an example with the last answer as its only target; it is not cached."""
    return self._last(self._chat(example), example)

  def special_token(self, example: Example) -> str | None:
    """Returns a special token that a message contains as text; None: there is none."""
    texts = texts_of(conversation_of(example).messages)
    return next((t for c in texts if (t := self.encoder.special_token(c))), None)

  def sizes(self, example: Example) -> tuple[int, int]:
    targets = self.first_row(example).targets
    prompt = self._prompts[example.number]
    return prompt, int(np.sum(targets + 1 >= prompt))

  def _pieces(self, example: Example) -> tuple[list[int], list[int]]:
    """Returns the ids of the prompt and of the last answer."""
    chat = self._chat(example)
    return chat.ids[: chat.prompt], [chat.ids[i] for i in chat.wanted if i >= chat.prompt]

  def _read(self, parts: Sequence[Sequence[Example]], frame: Frame) -> Iterator[Read]:
    return map(unread, map(len, parts))  # each is rendered by its template

  def _kept(self, example: Example) -> Kept:
    chat = self._chat(example)
    self._prompts[example.number] = chat.prompt
    answer = sum(i >= chat.prompt for i in chat.wanted)
    return Kept(chat.ids, [i - 1 for i in chat.wanted], chat.prompt, answer)

  def prompt_text(self, example: Example) -> None:
    """Returns None, for special tokens stand in every prompt."""

  def _last(self, chat: Chat, example: Example) -> Row:
    return self._row(chat, [i for i in chat.wanted if i >= chat.prompt], example)

  def _row(self, chat: Chat, wanted: Sequence[int], example: Example) -> Row:
    tokens, places = np.array(chat.ids, np.int32), np.array(wanted, np.int64)
    return Row(tokens, places - 1, tokens[places], 2 * example.number, example.task)

  def _chat(self, example: Example) -> Chat:
    """Returns the tokens of an example; a long one loses its oldest turns, then question text."""
    where = f'example {example.called}'
    talk, tokens = conversation_of(example), self.encoder.tokens
    talk = talk._replace(messages=mapped(talk.messages, lambda text: guarded(text, tokens)))
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
      if not talk.answer:
        asked = question(self.chat, talk.messages[:-1])
        ids = self.encoder.encode(asked, where, rendered=True).ids
        return Chat(ids, [], len(ids))
      text, spans, start, marked = rendered(self.chat, talk, self.turns == 'all')
    except UserError as error:
      raise UserError(f'{where}: {error}') from None
    place = lambda letters: len(unguarded(text[:letters]))
    spans = [Span(place(a), place(b), place(c), whole) for a, b, c, whole in spans]
    ids, offsets, before = self._asked_and_answered(text, start, where)
    begins = place(start)
    wanted = [list[int]() for _ in spans]
    plain = unguarded(text)
    for span, places in zip(spans, wanted, strict=True):
      first = before if span.start >= begins else 0
      places += [
        i for i, (a, b) in enumerate(offsets) if i >= first and b > span.start and a < span.end
      ]
      if not marked:
        del places[self._stop(plain, span, ids, offsets, places, span is spans[-1]) :]
    targets, size = [i for places in wanted for i in places], len(ids)
    prompt = next((i for i in targets if i >= before), size)
    if self.eos not in (ids[i] for i in targets if i >= prompt):
      after = targets[-1] + 1
      if after == size or ids[after] != self.eos:
        ids.append(self.eos)
        after = size
      targets.append(after)
    return Chat(ids, targets, prompt)

  def _asked_and_answered(
    self, text: str, start: int, where: str
  ) -> tuple[list[int], list[tuple[int, int]], int]:
    """Returns the ids of a row, their offsets in the text, and the number of ids of its question.

    The ids of the row begin with those of the question alone. A tokenizer may join the end of the
    question to the answer, such as a newline to the first word. At test time there is no answer yet
    to join, so in that case the two are tokenised apart.

    Args:
      text: of the conversation.
      start: where its last answer begins.
      where: name of the row in messages.
    """
    ids, offsets = self.encoder.encode(text, where, rendered=True)
    asked = self.encoder.encode(text[:start], where, rendered=True)
    if ids[: len(asked.ids)] == asked.ids:
      return list(ids), list(offsets), len(asked.ids)
    answer = self.encoder.encode(text[start:], where, rendered=True)
    before = len(unguarded(text[:start]))
    moved = [(a + before, b + before) for a, b in answer.offsets]
    return [*asked.ids, *answer.ids], [*asked.offsets, *moved], len(asked.ids)

  def _stop(
    self, text: str, span: Span, ids: Sequence[int], offsets: Sequence[tuple[int, int]],
    places: Sequence[int], last: bool,
  ) -> int:  # fmt: skip
    """Returns how many of the tokens from the start of an answer on belong to its turn.

    The turn of the last answer ends with end-of-sequence, or with the text where there is none. Any
    other turn ends with the special token that follows the answer, or else with the answer.
    """
    after = [n for n, i in enumerate(places) if offsets[i][0] >= span.content]
    ends = [n for n in after if ids[places[n]] == self.eos]
    if last:
      return ends[0] + 1 if ends else len(places)
    for n in after:
      if ids[places[n]] in self._special:
        alone = not text[span.content : offsets[places[n]][0]].strip()
        return n + 1 if alone or span.whole else after[0]
    return len(places) if span.whole else (after or [len(places)])[0]

  def _around_answers(self, eos: str) -> tuple[str, list[re.Pattern[str]]]:
    """Returns what the template writes around an answer.

    Returns:
      The text after an answer, up to end-of-sequence; patterns of the text between the generation
      prompt and an answer, with reasoning and without.
    """
    after, before = around_answers(self.chat)
    said = lambda part: self.decode(self.encoder.encode(part, 'template', rendered=True).ids)
    words = [map(re.escape, said(part).split()) for part in before]
    patterns = [re.compile(r'\s*'.join(some)) for some in words]
    return said((after.partition(eos)[0] if eos else after).strip()), patterns


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
