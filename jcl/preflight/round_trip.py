"""What the tokenizer makes of a run's answers and inputs: each is encoded and decoded again."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jcl.batching.epochs import in_parts
from jcl.batching.row_store import PART, Entry
from jcl.batching.special_text import in_threads
from jcl.batching.text_formats import Text
from jcl.errors import UserError, count_of
from jcl.streams.escaping import quoted
from jcl.streams.raw import SPLITS, answer_form, class_form
from jcl.streams.stream import Example, Stream

NAMED = 3  # answers that a line names
LETTERS = 30  # of an answer that a line quotes
REMEDY = 'backbone.tokenizer=bpe for a model from scratch, else another backbone.path'


class Said(NamedTuple):
  """A distinct answer of the stream.

  Attributes:
    answer: as it stands in the data; of a class its label as the user wrote it.
    written: what the model is to write: the label with spaces in place of `_`.
    back: what the tokenizer gives back for that.
    unknown: whether it has a token that stands for what the tokenizer does not know.
  """

  answer: str
  written: str
  back: str
  unknown: bool


@dataclasses.dataclass(frozen=True)
class RoundTrip:
  """The distinct answers of a stream, encoded and decoded again.

  Attributes:
    answers: in order of appearance; none where a head or raw text needs no answer to be written.
    classes: whether they are labels of classes.
  """

  answers: tuple[Said, ...]
  classes: bool

  @property
  def changed(self) -> list[Said]:
    """The answers that come back changed, if only in case."""
    return [said for said in self.answers if said.back != said.written]

  @property
  def unknown(self) -> list[Said]:
    """The answers with something that the tokenizer does not know."""
    return [said for said in self.answers if said.unknown]

  @property
  def alike(self) -> list[list[Said]]:
    """Groups of different answers that come back as the same answer."""
    form = class_form if self.classes else answer_form
    groups: dict[str, list[Said]] = {}
    for said in self.answers:
      groups.setdefault(form(said.back), []).append(said)
    return [group for group in groups.values() if len(group) > 1]

  def refuse(self) -> None:
    """Refuses classes that no answer of the model can tell apart.

    Raises:
      UserError: naming the labels, and what both come back as.
    """
    if self.classes and (groups := self.alike):
      group = groups[0]
      more = f' (and {count_of(len(groups) - 1, "more such group")})' if len(groups) > 1 else ''
      raise UserError(
        f'labels {named(s.answer for s in group)} all come back from the tokenizer as '
        f'{brief(group[0].back)}{more}, so that no answer could tell them apart: rename them, or '
        f'take a tokenizer that reads them ({REMEDY})'
      )

  def lines(self) -> list[tuple[float, str]]:
    """Returns (share of the answers, line) for what is likely to disappoint."""
    found, total = [], len(self.answers)
    kind = 'labels' if self.classes else 'distinct answers'
    count = lambda some: (len(some) / total, f'{len(some):,} of {total:,} {kind}')
    if changed := self.changed:
      share, words = count(changed)
      pairs = ', '.join(f'{brief(s.written)} as {brief(s.back)}' for s in changed[:NAMED])
      shown = 'labels are shown as you wrote them' if self.classes else f'to keep them: {REMEDY}'
      found.append((share, (
        f'{words} come back from the tokenizer changed ({pairs}): an answer counts as right if it '
        f'is what the tokenizer gives back; {shown}'
      )))  # fmt: skip
    if unknown := self.unknown:
      share, words = count(unknown)
      result = 'they are told apart only by the rest' if self.classes else 'they are never right'
      found.append((share, (
        f'{words} hold what the tokenizer does not know ({named(s.answer for s in unknown)}): '
        f'{result}; take another tokenizer ({REMEDY})'
      )))  # fmt: skip
    if not self.classes and (groups := self.alike):
      share, words = count([said for group in groups for said in group])
      found.append((share, (
        f'{words} come back from the tokenizer like another one '
        f'({named(s.answer for s in groups[0])}): each counts as right for the other'
      )))  # fmt: skip
    return found


def round_trip(stream: Stream, text: Text) -> RoundTrip:
  """Encodes and decodes every distinct answer of a stream as the run would write it."""
  if text.text_format in ('class', 'packed'):
    return RoundTrip((), bool(stream.classes))
  if stream.classes:
    names = zip(stream.written_labels, stream.classes, strict=True)
    rows = [(label, c, text.target_ids(c)) for label, c in names]
    return RoundTrip(tuple(_said(text, *row) for row in rows), classes=True)
  firsts: dict[str, Example] = {}
  for task in stream.tasks:
    for split in SPLITS:
      for example in getattr(task, split):
        firsts.setdefault(example.answer, example)
  found = [_said(text, answer, answer, text.wanted(e)) for answer, e in firsts.items()]
  return RoundTrip(tuple(found), classes=False)


def changed_inputs(text: Text, inputs: Sequence[str]) -> tuple[int, int]:
  """Counts the inputs that the tokenizer does not give back as they are.

  Args:
    text: of the run.
    inputs: of one split.

  Returns:
    How many come back changed, and how many of them without letters that they had; those with a
    token of what the tokenizer does not know are not among these.
  """
  changed = lossy = 0
  for some in in_parts(inputs, PART):
    ids = text.encode_all(some, ['input'] * len(some))
    backs = text.tokenizer.decode_batch(ids, skip_special_tokens=False)
    for before, back, row in zip(some, backs, ids, strict=True):
      if before != back.strip():
        changed += 1
        lossy += letters(before) != letters(back) and text.unknown not in row
  return changed, lossy


def not_given_back(
  text: Text, parts: Sequence[Sequence[Example]], rows: Iterable[Sequence[Entry]]
) -> list[str]:
  """Returns the inputs of a split whose prompts the tokenizer does not give back as they were.

  A prompt that comes back as it was has its input unchanged, so that it need not be read alone.

  Args:
    text: of the run.
    parts: the examples of the split.
    rows: the first row of each example, by parts; read to their end.
  """
  if text.prompt_text(parts[0][0]) is None:
    return [example.text for part, _ in zip(parts, rows, strict=True) for example in part]
  before, between, _ = map(len, text.frame())

  def cut(some: Sequence[Entry]) -> list[Any]:  # arrays of ids, which decode as lists do
    if text.text_format == 'class':
      return [tokens[before : len(tokens) - between] for tokens, _ in some]
    return [tokens[before : targets[0] + 1 - between] for tokens, targets in some]

  def decode(some: Sequence[Entry]) -> list[str]:
    return text.tokenizer.decode_batch(cut(some), skip_special_tokens=False)

  found: list[str] = []
  for part, backs in zip(parts, in_threads(decode, rows), strict=True):
    for example, back in zip(part, backs, strict=True):
      wanted = text.prompt_text(example) or ''
      if back.strip() != wanted.strip() or example.text != example.text.strip():
        found.append(example.text)
  return found


def named(answers: Iterable[str]) -> str:
  """Returns the first answers in quotes."""
  listed = list(answers)
  return ', '.join(map(brief, listed[:NAMED])) + (', …' if len(listed) > NAMED else '')


def brief(answer: str) -> str:
  """Returns an answer in quotes, shortened."""
  return quoted(answer if len(answer) <= LETTERS else f'{answer[:LETTERS]}…')


def letters(text: str) -> str:
  """Returns the letters of a text without case and white space."""
  return ''.join(text.split()).casefold()


def _said(text: Text, answer: str, written: str, ids: Sequence[int]) -> Said:
  return Said(answer, written, text.answer(ids), text.unknown in ids)
