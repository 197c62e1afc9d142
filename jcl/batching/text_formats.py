"""Text formats: an example becomes rows of tokens, and generated tokens become text again.

    plain        Input sentence: {x}\\n The label: {y}{eos}      targets: y and eos
    lamol        {x}__ans__{y}{eos}   and   __gen__{x}__ans__{y}{eos}      the second is generative
    lamol_task   as lamol, with one token for each task, __0__, __1__, …, in place of __gen__
    class        {x}      one target, the class, at the last token (or the first)
    packed       blocks of raw text, see `jcl.batching.packed_text`

A beginning-of-sequence token that the tokenizer adds is the first token of every row and prompt and
never a target; an end that it adds (BERT's [SEP]) ends the rows of `class`. In a row that is too
long the input is cut, never the answer.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from jcl.batching.batch import Row
from jcl.batching.batch_reader import LAMOL_FORMATS, BatchReader, Read, unread
from jcl.batching.beginnings import Template
from jcl.batching.epochs import in_parts
from jcl.batching.outlines import Outline, outline, outline_of
from jcl.batching.row_store import PART, Entry, Frame, Kept, RowStore
from jcl.batching.special_text import SpecialTokens, TextEncoder, unknown_id
from jcl.errors import UserError
from jcl.storage.progress import watched
from jcl.streams.build import without
from jcl.streams.special_tokens import cut, guarded, unguarded
from jcl.streams.stream import Example, Stream

ANSWER, GENERATE = '__ans__', '__gen__'


def added_tokens(text_format: str, tasks: int) -> list[str]:
  """Returns the tokens that a text format adds to the tokenizer, for a number of tasks."""
  if text_format == 'lamol':
    return [ANSWER, GENERATE]
  if text_format == 'lamol_task':
    return [ANSWER, *(f'__{i}__' for i in range(tasks))]
  return []


class Text:
  """A tokenizer and a text format: turns examples into rows, and tokens into text.

  Args:
    tokenizer: tokenizer, the tokens of the format added.
    special: ids of its special tokens.
    template: text of a plain row, with `{x}` and `{y}`.
    text_format: one of the formats of this module.
    max_length: tokens of a row at most.
    pooling: `first` puts the target of `class` at the first token, anything else at the last.
    special_tokens: what a special token in a text is, as `stream.special_tokens_in_text`.

  Attributes:
    eos, pad: ids of end-of-sequence and padding.
    bos: id that the tokenizer puts first; None: it puts none.
    end: ids that the tokenizer puts last, end-of-sequence or nothing; only `class` rows have them.
    unknown: id of the unknown token; None if the tokenizer knows all.
    encoder: reads the texts of users.
    chat_template: source of the chat template that writes the rows; '': there is none.
    cut: numbers of the examples whose input was cut to fit `max_length`.
    dropped: number of examples that the run leaves out because of special tokens in their texts.
    reserve: tokens that every row leaves free for its answer, so that the length of a cut input
      does not give away the length of the answer.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    template: str,
    text_format: str,
    max_length: int,
    pooling: str = 'last',
    special_tokens: str = 'refuse',
  ):
    self.tokenizer, self.text_format, self.max_length = tokenizer, text_format, max_length
    self.special = special
    self.eos, self.pad = special.eos, special.eos if special.pad is None else special.pad
    framed = tokenizer.encode('a').ids
    self.bos = special.bos if special.bos is not None and framed[:1] == [special.bos] else None
    self.end = framed[-1:] if framed[-1:] == [special.eos] else []
    self.pooling, self.cut = pooling, set[int]()
    self.chat_template, self.reserve, self.dropped = '', 0, 0
    self._store = RowStore()
    self._rows: dict[int, tuple[Row, ...]] = {}  # of examples that are in no store
    self._special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    self._special |= {self.eos, *(i for i in (special.bos, special.pad) if i is not None)}
    self.unknown = unknown_id(tokenizer)
    self.encoder = TextEncoder(tokenizer, self._special, special_tokens, self.unknown)
    self._answer = self._added(ANSWER) if text_format in LAMOL_FORMATS else -1
    self._template = Template.of(template)
    self._template_meant = any(map(self.encoder.holds_special, self._template))

  @property
  def start(self) -> list[int]:
    """Token ids before every row and prompt."""
    return [] if self.bos is None else [self.bos]

  def generation_token(self, task: int) -> int:
    """Returns the id of the token from which a pseudo sample of `task` is drawn."""
    name = GENERATE if self.text_format == 'lamol' else f'__{task}__'
    return self._added(name)

  def encode(self, text: str, where: str = 'text') -> list[int]:
    """Returns the ids of a text, without beginning- and end-of-sequence.

    Args:
      text: text to be tokenised.
      where: name of the text in error messages.

    Raises:
      UserError: the text contains a special token.
    """
    return self.encoder.encode(text, where).ids

  def encode_all(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Returns the ids of several texts; `names` are their names in error messages."""
    return self.encoder.encode_all(texts, names)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of generated ids up to the first end-of-sequence."""
    ids = list(ids)
    if self.eos in ids:
      ids = ids[: ids.index(self.eos)]
    return self.tokenizer.decode(ids, skip_special_tokens=False).strip()

  def answer(self, ids: Iterable[int]) -> str:
    """Returns the answer that generated ids are, without the words of the template after it."""
    said, after = self.decode(ids), self._template.after.strip()
    if self.text_format == 'plain' and after and said.endswith(after):
      said = said[: -len(after)].strip()
    return said

  def target_ids(self, label: str) -> list[int]:
    """Returns the ids that a model writes for a label, end-of-sequence included."""
    return self._pieces(Example(-1, '', label, 0))[1]

  def written(self, label: str) -> str:
    """Returns what a model writes that has learned a label: what the tokenizer gives back."""
    return self.answer(self.target_ids(label))

  def wanted(self, example: Example) -> list[int]:
    """Returns the ids of the answer of an example, end-of-sequence included."""
    return self.rows(example)[0].wanted.tolist()

  def input_ids(self, example: Example) -> list[int]:
    """Returns the ids of the input of an example in a format of LAMOL, as they are trained."""
    ids = self.prompt(example)
    return ids[len(self.start) : ids.index(self._answer)]

  def special_token(self, example: Example) -> str | None:
    """Returns a special token that an example contains as text; None: there is none."""
    texts = [example.text] if self.text_format == 'class' else [example.text, example.answer]
    return next(filter(None, map(self.encoder.special_token, texts)), None)

  def rows(self, example: Example, replay: bool = False) -> tuple[Row, ...]:
    """Returns the rows of an example: one, or two for LAMOL (question answering, generation).

    Args:
      example: real example or pseudo sample.
      replay: whether the rows come from the past.

    Raises:
      UserError: the answer alone is longer than `stream.max_length`.
    """
    if example.tokens is not None or example.number < 0:  # stands in no table
      return self._make_rows(example, replay)
    if (entry := self._store.find(example.number)) is not None:
      return self._rows_of(example, *entry, replay)
    if example.number not in self._rows:
      self._rows[example.number] = self._make_rows(example, False)
    found = self._rows[example.number]
    return tuple(dataclasses.replace(r, replay=True) for r in found) if replay else found

  def first_row(self, example: Example) -> Entry:
    """Returns the tokens and targets of the first row of an example of the stream."""
    if (entry := self._store.find(example.number)) is not None:
      return entry
    row = self.rows(example)[0]
    return Entry(row.tokens, row.targets)

  def outlines(self, example: Example) -> tuple[Outline, ...]:
    """Returns the numbers of tokens and targets of the rows of an example."""
    made = example.tokens is not None or example.number < 0
    sizes = None if made else self._store.sizes(example.number)
    return tuple(map(outline_of, self.rows(example))) if sizes is None else self.outlined(*sizes)

  def outlined(self, tokens: int, targets: int) -> tuple[Outline, ...]:
    """Returns the rows of an example by the numbers of tokens and targets of its first row."""
    if self.text_format not in LAMOL_FORMATS:
      return (outline(tokens, targets),)
    return outline(tokens, targets), outline(tokens + 1, tokens - len(self.start))

  def prepare(self, examples: Iterable[Example]) -> int:
    """Makes and keeps the rows of all examples; returns the tokens of the longest answer.

    Every row leaves room for the longest answer (`reserve`), so that any label can be scored in its
    place. Most rows have that room, so each text is tokenised once; the others are made again.

    Raises:
      UserError: a text cannot be a row; names the example.
    """
    examples, self.reserve = list(examples), 0
    self.cut.clear()
    self._rows.clear()
    store = self._store = RowStore([e.number for e in examples], self.tokenizer.get_vocab_size())
    frame, parts = self.frame(), in_parts(examples, PART)
    one = (0 if self.pooling == 'first' else -1) if self.text_format == 'class' else None
    longest, prompts = 0, np.zeros(len(examples), np.int32)
    for number, read in enumerate(watched(self._read(parts, frame), 'tokenising', len(parts))):
      store.add(read.ids, read.inputs, read.answers, frame, one)
      size = prompts[number * PART :][: len(parts[number])]
      size[:] = read.inputs + len(frame.before) + len(frame.between)
      longest = max(longest, int(read.answers.max()) + len(frame.after))
      made = {place: self._kept(parts[number][place]) for place in read.alone}
      store.replace(number, made)
      for place, row in made.items():
        size[place], longest = row.prompt, max(longest, row.answer)
    if self.text_format == 'class':
      return 0
    self.reserve = longest
    short = prompts + longest + int(self.text_format in LAMOL_FORMATS) > self.max_length
    for number, part in enumerate(parts):
      places = [i for i, e in enumerate(part) if short[number * PART + i] or e.number in self.cut]
      store.replace(number, {place: self._kept(part[place]) for place in places})
    return self.reserve

  def question(self, example: Example) -> Row:
    """Returns the question-answering row of an example, which is not cached."""
    return self._make_rows(example, False)[0]

  def prompt(self, example: Example) -> list[int]:
    """Returns the tokens that the model is given at test time: the row up to the answer."""
    if example.number < 0 or example.tokens is not None:
      return list(self._pieces(example)[0])
    return self.first_row(example).tokens[: self.sizes(example)[0]].tolist()

  def prompt_text(self, example: Example) -> str | None:
    """Returns the text between the ids of the frame; None where it has special tokens, too."""
    if self.text_format != 'plain':
      return example.text
    return None if self._template_meant else self._template.around(example.text, '')[0]

  def parse(self, ids: Iterable[int]) -> tuple[str, str] | None:
    """Returns the input and the answer of a pseudo sample; None if it is not well formed.

    A sample is well formed if it ends with end-of-sequence, and before it `__ans__` occurs exactly
    once, no other added or special token occurs, and neither input nor answer is empty.
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

  def readable(self, stream: Stream) -> Stream:
    """Returns the stream; with `drop` without the examples that hold a special token as text."""
    if self.encoder.policy != 'drop':
      return stream
    kept = without(stream, lambda example: self.special_token(example) is not None)
    self.dropped = len(stream.examples) - len(kept.examples)
    return kept

  def sizes(self, example: Example) -> tuple[int, int]:
    """Returns the numbers of tokens of the prompt and of the answer of an example of the stream."""
    targets = self.first_row(example).targets
    return int(targets[0]) + 1, len(targets)

  def frame(self) -> Frame:
    """Returns the ids around the texts of a row."""
    if self.text_format == 'class':
      return Frame(self.start, self.end, ())
    return Frame(self.start, [self._answer] if self._answer >= 0 else (), [self.eos])

  def _read(self, parts: Sequence[Sequence[Example]], frame: Frame) -> Iterator[Read]:
    """Yields the ids of the examples of each part, tokenised in batches."""
    if self._template_meant and self.text_format == 'plain':
      return map(unread, map(len, parts))
    room = self.max_length - sum(map(len, frame)) - int(self.text_format in LAMOL_FORMATS)
    return BatchReader(self.encoder, self.text_format, self._template, room).read(parts)

  def _added(self, token: str) -> int:
    """Returns the id of a token that the format adds to the tokenizer."""
    if (found := self.tokenizer.token_to_id(token)) is None:
      raise KeyError(f'the tokenizer has no token {token}')
    return found

  def _pieces(self, example: Example) -> tuple[list[int], list[int]]:
    """Returns the ids of the prompt and of the answer, which ends with end-of-sequence."""
    where = f'example {example.called}'
    if example.tokens is not None:
      at = example.tokens.index(self._answer) + 1
      return self.start + list(example.tokens[:at]), list(example.tokens[at:])
    encode = lambda text: self.encode(text, where)
    if self.text_format == 'class':
      text = self._fit(encode(example.text), example, len(self.end))
      return self.start + text + self.end, []
    if self.text_format in LAMOL_FORMATS:
      answer = [*encode(example.answer), self.eos]
      text = self._fit(encode(example.text), example, max(len(answer), self.reserve) + 2)
      return [*self.start, *text, self._answer], answer
    return self._plain_pieces(example, where)

  def _plain_pieces(self, example: Example, where: str) -> tuple[list[int], list[int]]:
    """Returns the prompt and the answer of a plain row; an input that is too long is cut.

    The ids of the answer are those of the whole row at the offsets of the answer, since an answer
    is not always tokenised as it would be alone. A space before it belongs to the answer, as in
    most tokenizers.
    """
    text, said, rendered = self._marked(example)
    encode = lambda text: self.encoder.encode(text, where, rendered)
    while True:
      head, tail = self._template.around(text, said)
      prompt = encode(head).ids
      if not rendered or prompt[:1] != self.start:  # a rendered text may have its own
        prompt = self.start + prompt
      whole, border = encode(head + tail), len(unguarded(head))
      size = len(whole.ids)
      first = next((i for i, (_, end) in enumerate(whole.offsets) if end > border), size)
      if first < size and whole.offsets[first][0] < border:
        answer = encode(tail).ids  # a token straddles the border
      else:
        answer = whole.ids[first:]
      if not rendered or answer[-1:] != [self.eos]:
        answer = [*answer, self.eos]
      excess = len(prompt) + max(len(answer), self.reserve) - self.max_length
      if excess <= 0:
        return prompt, answer
      pieces = encode(text)
      kept = self._keep(len(pieces.ids), excess, example)
      text = cut(text, pieces.offsets[kept][0])  # where the first dropped token starts

  def _marked(self, example: Example) -> tuple[str, str, bool]:
    """Returns input and answer of a plain row, and whether special tokens in the row are meant.

    Those of a template are; the texts that it takes in are then guarded.
    """
    if not self._template_meant:
      return example.text, example.answer, False
    tokens = self.encoder.tokens
    return guarded(example.text, tokens), guarded(example.answer, tokens), True

  def _fit(self, ids: list[int], example: Example, others: int) -> list[int]:
    """Returns the input cut to fit a row that has `others` more tokens."""
    excess = len(self.start) + len(ids) + others - self.max_length
    return ids if excess <= 0 else ids[: self._keep(len(ids), excess, example)]

  def _keep(self, size: int, excess: int, example: Example) -> int:
    """Returns how many of `size` input tokens stay if `excess` are too many."""
    if size == 0 or excess > size:
      raise UserError(
        f'example {example.called}: the answer does not fit into '
        f'stream.max_length {self.max_length}; raise it'
      )
    if example.number >= 0:
      self.cut.add(example.number)
    return size - excess

  def _make_rows(self, example: Example, replay: bool) -> tuple[Row, ...]:
    """Returns the rows of an example, which are not cached."""
    if (ids := example.tokens) is not None and (size := example.prompt_size):
      return self._rows_of(example, ids, range(size - 1, len(ids) - 1), replay)
    return self._rows_of(example, *self._kept(example)[:2], replay)

  def _kept(self, example: Example) -> Kept:
    """Returns the row of an example as it is kept."""
    prompt, answer = self._pieces(example)
    last = len(prompt) - 1
    if self.text_format == 'class':
      return Kept(prompt, (0 if self.pooling == 'first' else last,), len(prompt), 0)
    targets = range(last, last + len(answer))
    return Kept([*prompt, *answer], targets, len(prompt), len(answer))

  def _rows_of(
    self, example: Example, ids: Sequence[int] | np.ndarray, at: Sequence[int] | np.ndarray,
    replay: bool,
  ) -> tuple[Row, ...]:  # fmt: skip
    """Returns the rows of an example from the tokens and the targets that are kept of it."""
    tokens, targets = np.asarray(ids, np.int32), np.asarray(at, np.int64)
    number, task = 2 * example.number, example.task
    if self.text_format == 'class':
      return (Row(tokens, targets, np.array([example.label]), number, task, replay),)
    question = Row(tokens, targets, tokens[targets + 1], number, task, replay)
    if self.text_format not in LAMOL_FORMATS:
      return (question,)
    start = len(self.start)
    whole = np.insert(tokens, start, self.generation_token(example.task))
    targets = np.arange(start, len(whole) - 1)
    return question, Row(whole, targets, whole[start + 1 :], number + 1, task, replay, True)
