"""Text formats: an example becomes rows of tokens, and generated tokens become text again.

    plain        Input sentence: {x}\\n The label: {y}{eos}      targets: y and eos
    lamol        {x}__ans__{y}{eos}   and   __gen__{x}__ans__{y}{eos}      the second one generative
    lamol_task   likewise, with __0__, __1__, … a task in place of __gen__
    class        {x}      one target, the class, at the last token (or the first)
    packed       blocks of raw text, see `jcl.batching.packed_text`

A beginning-of-sequence token that the tokenizer adds stands first in every row and prompt and is
never a target; an end that it adds (BERT's [SEP]) ends the rows of `class`. Where a row is too long
its input is cut, never its answer.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jcl.backbones.tokenizers import unknown_id
from jcl.batching.batch import Row
from jcl.errors import UserError
from jcl.streams.stream import Example

ANSWER, GENERATE = '__ans__', '__gen__'
LAMOL_FORMATS = ('lamol', 'lamol_task')


def added_tokens(text_format: str, tasks: int) -> list[str]:
  """The tokens that a format adds to the tokenizer."""
  if text_format == 'lamol':
    return [ANSWER, GENERATE]
  if text_format == 'lamol_task':
    return [ANSWER, *(f'__{i}__' for i in range(tasks))]
  return []


class Text:
  """A tokenizer and a format: what turns examples into rows and tokens into text.

  Attributes:
    special: the tokenizer's SpecialIds.
    eos, pad: token ids.
    bos: the id that the tokenizer puts first, or None.
    end: what it puts last, end-of-sequence or nothing; in rows of `class` alone.
    unknown: what the tokenizer gives for what it does not know; None: it knows all.
    pooling: `first` puts the target of `class` at the first token, all else at the last.
    cut: numbers of the examples whose input was cut to fit `max_length`.
    reserve: tokens that every row leaves to its answer: no cut gives the answer's length away.
  """

  def __init__(
    self,
    tokenizer: Any,
    special: Any,
    template: str,
    text_format: str,
    max_length: int,
    pooling: str = 'last',
  ):
    self.tokenizer, self.text_format, self.max_length = tokenizer, text_format, max_length
    self.special = special
    self.eos, self.pad = special.eos, special.eos if special.pad is None else special.pad
    framed = tokenizer.encode('a').ids
    self.bos = special.bos if special.bos is not None and framed[:1] == [special.bos] else None
    self.end = framed[-1:] if framed[-1:] == [special.eos] else []
    self.pooling = pooling
    self.cut: set[int] = set()
    self.reserve = 0
    self._rows: dict[int, tuple[Row, ...]] = {}
    self._special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    self._special |= {self.eos, *(i for i in (special.bos, special.pad) if i is not None)}
    # A word that the tokenizer does not know is no attempt to write a special token.
    self.unknown = unknown_id(tokenizer)
    self._forbidden = self._special - {self.unknown}
    self._answer = tokenizer.token_to_id(ANSWER)
    self._head, self._tail = _split_template(template)

  @property
  def start(self) -> list[int]:
    """What stands before every row and prompt."""
    return [] if self.bos is None else [self.bos]

  def generation_token(self, task: int) -> int:
    """The token from which a pseudo sample of `task` is drawn."""
    name = GENERATE if self.text_format == 'lamol' else f'__{task}__'
    return self.tokenizer.token_to_id(name)

  def encode(self, text: str, where: str = 'text') -> list[int]:
    """Ids of a piece of text, without beginning- and end-of-sequence."""
    return self._encode(text, where).ids

  def encode_all(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """`encode` of several texts at once; `names` are what errors call them."""
    encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [self._checked(e, name).ids for e, name in zip(encodings, names, strict=True)]

  def decode(self, ids: Iterable[int]) -> str:
    """Text of generated ids up to the first end-of-sequence."""
    ids = list(ids)
    if self.eos in ids:
      ids = ids[: ids.index(self.eos)]
    return self.tokenizer.decode(ids, skip_special_tokens=False).strip()

  def rows(self, example: Example, replay: bool = False) -> tuple[Row, ...]:
    """The rows of an example: one, or LAMOL's two (question answering, generation).

    Raises:
      UserError: the answer alone is longer than `stream.max_length`.
    """
    if example.tokens is not None or example.number < 0:  # stands in no table
      return self._make_rows(example, replay)
    if example.number not in self._rows:
      self._rows[example.number] = self._make_rows(example, False)
    found = self._rows[example.number]
    return tuple(dataclasses.replace(r, replay=True) for r in found) if replay else found

  def prepare(self, examples: Iterable[Example]) -> int:
    """Makes and keeps the rows of all examples; returns the tokens of the longest answer.

    Every row leaves room for the longest answer (`reserve`), so that any label can be scored in its
    place. Most rows have that room, so each text is tokenised once; the others are made again.

    Raises:
      UserError: a text cannot be a row; names the example.
    """
    self.reserve, examples = 0, list(examples)
    self.cut.clear()
    self._rows.clear()
    questions = [self.rows(example)[0] for example in examples]
    if self.text_format == 'class':
      return 0
    self.reserve = max(len(row.targets) for row in questions)
    generation = int(self.text_format in LAMOL_FORMATS)  # a token in front of the other row
    for example, row in zip(examples, questions, strict=True):
      room = max(len(row.targets), self.reserve) + generation
      if example.number in self.cut or int(row.targets[0]) + 1 + room > self.max_length:
        self._rows[example.number] = self._make_rows(example, False)
    return self.reserve

  def question(self, example: Example) -> Row:
    """The question-answering row of an example that is in no table."""
    return self._make_rows(example, False)[0]

  def prompt(self, example: Example) -> list[int]:
    """What the model is shown at test time: the row's tokens up to the answer."""
    if example.number < 0 or example.tokens is not None:
      return list(self._pieces(example)[0])
    row = self.rows(example)[0]
    return row.tokens[: row.targets[0] + 1].tolist()

  def answer_length(self, example: Example) -> int:
    """Tokens of the answer, end-of-sequence included."""
    return len(self._pieces(example)[1])

  def parse(self, ids: Iterable[int]) -> tuple[str, str] | None:
    """Input and answer of a pseudo sample; None where it is not well formed.

    Well formed: it ends with end-of-sequence, before which `__ans__` occurs exactly once and no
    other added or special token, and neither side is empty.
    """
    ids = list(ids)
    if self.eos not in ids:
      return None
    ids = ids[: ids.index(self.eos)]
    if ids.count(self._answer) != 1 or self._special & (set(ids) - {self._answer}):
      return None
    at = ids.index(self._answer)
    text, answer = (self.tokenizer.decode(part).strip() for part in (ids[:at], ids[at + 1 :]))
    return (text, answer) if text and answer else None

  def _encode(self, text: str, where: str) -> Any:
    return self._checked(self.tokenizer.encode(text, add_special_tokens=False), where)

  def _checked(self, encoding: Any, where: str) -> Any:
    """An encoding without special tokens that stood in the text itself."""
    if found := self._forbidden & set(encoding.ids):
      token = self.tokenizer.id_to_token(found.pop())
      raise UserError(f'{where}: the text contains {token}, a special token; write it differently')
    return encoding

  def _pieces(self, example: Example) -> tuple[list[int], list[int]]:
    """(prompt, answer) ids of a question-answering row; the answer ends with end-of-sequence."""
    where = f'example {example.name or example.number}'
    if example.tokens is not None:
      at = example.tokens.index(self._answer) + 1
      return self.start + list(example.tokens[:at]), list(example.tokens[at:])
    if self.text_format == 'class':
      text = self._fit(self.encode(example.text, where), example, len(self.end))
      return self.start + text + self.end, []
    if self.text_format in LAMOL_FORMATS:
      answer = [*self.encode(example.answer, where), self.eos]
      text = self._fit(
        self.encode(example.text, where), example, max(len(answer), self.reserve) + 2
      )
      return [*self.start, *text, self._answer], answer
    return self._plain_pieces(example, where)

  def _plain_pieces(self, example: Example, where: str) -> tuple[list[int], list[int]]:
    """A plain row in the words of the template, cut inside its input where it is too long.

    The answer's ids are taken from the whole row by offsets: an answer is not always tokenised as
    it would be alone. A space before it belongs to the answer, as in most tokenizers.
    """
    text = example.text
    before, between = self._head
    while True:
      head = before + text + between.rstrip()
      tail = between[len(between.rstrip()) :] + example.answer + self._tail
      prompt = self.start + self._encode(head, where).ids
      whole = self._encode(head + tail, where)
      first = next((i for i, (_, end) in enumerate(whole.offsets) if end > len(head)), len(whole))
      if first < len(whole) and whole.offsets[first][0] < len(head):
        answer = self._encode(tail, where).ids  # a token straddles the border
      else:
        answer = whole.ids[first:]
      excess = len(prompt) + max(len(answer) + 1, self.reserve) - self.max_length
      if excess <= 0:
        return prompt, [*answer, self.eos]
      pieces = self._encode(text, where)
      kept = self._keep(len(pieces), excess, example)
      text = text[: pieces.offsets[kept][0]]  # where the first dropped token starts

  def _fit(self, ids: list[int], example: Example, others: int) -> list[int]:
    excess = len(self.start) + len(ids) + others - self.max_length
    return ids if excess <= 0 else ids[: self._keep(len(ids), excess, example)]

  def _keep(self, size: int, excess: int, example: Example) -> int:
    """How many of `size` input tokens stay where `excess` are too many."""
    if size == 0 or excess > size:
      raise UserError(
        f'example {example.name or example.number}: the answer does not fit into '
        f'stream.max_length {self.max_length}; raise it'
      )
    if example.number >= 0:
      self.cut.add(example.number)
    return size - excess

  def _make_rows(self, example: Example, replay: bool) -> tuple[Row, ...]:
    prompt, answer = self._pieces(example)
    common = dict(task=example.task, replay=replay)
    if self.text_format == 'class':
      ids, place = np.array(prompt, np.int32), 0 if self.pooling == 'first' else len(prompt) - 1
      wanted = np.array([example.label])
      return (Row(ids, np.array([place]), wanted, 2 * example.number, **common),)
    question = _row([*prompt, *answer], len(prompt), 2 * example.number, **common)
    if self.text_format not in LAMOL_FORMATS:
      return (question,)
    start = len(self.start)
    ids = [*self.start, self.generation_token(example.task), *prompt[start:], *answer]
    return question, _row(ids, start + 1, 2 * example.number + 1, generative=True, **common)


def _row(ids: list[int], first: int, number: int, **kinds) -> Row:
  """A row whose targets are its tokens from place `first` on."""
  tokens = np.array(ids, np.int32)
  return Row(tokens, np.arange(first - 1, len(ids) - 1), tokens[first:], number, **kinds)


def _split_template(template: str) -> tuple[tuple[str, str], str]:
  """'a{x}b{y}c' -> (('a', 'b'), 'c')."""
  before, found_x, rest = template.partition('{x}')
  between, found_y, after = rest.partition('{y}')
  if not (found_x and found_y) or '{x}' in rest or '{y}' in after:
    raise UserError(f'stream.template: {template!r} needs {{x}} once and, after it, {{y}} once')
  return (before, between), after
