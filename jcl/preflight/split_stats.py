"""Counts of the splits of a stream, as a method reads them."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jcl.batching.epochs import in_parts
from jcl.batching.packed_text import Blocks
from jcl.batching.row_store import PART, Entry
from jcl.batching.text_formats import Text
from jcl.preflight.round_trip import changed_inputs, not_given_back
from jcl.storage.progress import watched
from jcl.streams.raw import SPLITS, normalized_text
from jcl.streams.stream import Example, Stream, Task

CHUNK = 2**22  # tokens of a corpus looked at together


@dataclasses.dataclass(frozen=True)
class Split:
  """One split of a task, counted. Of raw text only rows (blocks), tokens, targets and `unknown`.

  Attributes:
    task, name: whose it is, and which: `train`, `dev` or `test`.
    rows: examples.
    classes: different ones.
    tokens: of the rows in the method's text format; of dev and test those of the questions and
      their answers alone.
    targets: those of them that are predicted.
    cut: examples whose input was cut to fit.
    unknown: tokens that stand for what the tokenizer does not know.
    repeated: examples whose text stood in the split before.
    leaked: examples of dev and test whose text stands in their task's train split.
    elsewhere: examples whose text stands in the train split of another task; of dev and test those
      that are not `leaked`.
    conflicting: examples whose text stands in a train split with another answer (where the task is
      told, in their own task's).
    changed: examples whose input the tokenizer does not give back as it is.
    lossy: those of them that lose more than case and white space, unknown words aside.
    different: texts, as the tokenizer reads them.
    texts: different ones.
  """

  task: str
  name: str
  rows: int
  tokens: int
  targets: int
  unknown: int
  classes: int = 0
  cut: int = 0
  repeated: int = 0
  leaked: int = 0
  elsewhere: int = 0
  conflicting: int = 0
  changed: int = 0
  lossy: int = 0
  different: int = 0
  texts: int = 0


def counted(stream: Stream, text: Text, task_id_given: bool) -> Iterator[Split]:
  """Every split of a stream.

  Args:
    stream: the tasks.
    text: whose rows are counted.
    told: whether the task is told at test time, so that a text may have an answer in each task.
  """
  trained = Trained(task_id_given)
  for task in stream.tasks if text.text_format != 'packed' else ():
    trained.add(task)
  for task in watched(stream.tasks, 'counting rows'):
    for name in SPLITS:
      examples = getattr(task, name)
      if isinstance(examples, Blocks):
        yield _of_blocks(task, name, examples, text.unknown)
      elif examples:
        yield _of_examples(task, name, text, trained)


class Trained:
  """The texts that tasks train on, without case and spacing, and their answers.

  Args:
    task_id_given: whether a text may have an answer in each task.

  Attributes:
    tasks: {text: the tasks that train on it, a bit each}.
  """

  def __init__(self, task_id_given: bool):
    self.tasks: dict[str, int] = {}
    self._apart = task_id_given
    self._first: dict[int, dict[str, str]] = {}  # by task, or all under -1
    self._others: dict[int, dict[str, set[str]]] = {}  # of the few texts with several answers

  def add(self, task: Task) -> None:
    """Adds the training split of a task."""
    bit, scope = 1 << task.index, task.index if self._apart else -1
    first, others = self._first.setdefault(scope, {}), self._others.setdefault(scope, {})
    for example in task.train:
      words = normalized_text(example.text)
      self.tasks[words] = self.tasks.get(words, 0) | bit
      if (known := first.setdefault(words, example.answer)) != example.answer:
        others.setdefault(words, {known}).add(example.answer)

  def conflicts(self, task: int, words: str, answer: str) -> bool:
    """Whether a text of a task is trained with another answer."""
    scope = task if self._apart else -1
    return self._first.get(scope, {}).get(words, answer) != answer or bool(
      self._others.get(scope, {}).get(words, set()) - {answer}
    )


def _of_examples(task: Task, name: str, text: Text, trained: Trained) -> Split:
  examples: Sequence[Example] = getattr(task, name)
  read, parts = Counts(text, whole=name == 'train'), in_parts(examples, PART)
  changed, lossy = changed_inputs(text, not_given_back(text, parts, map(read.add, parts)))
  texts = [normalized_text(e.text) for e in examples]
  own, every = 1 << task.index, [trained.tasks.get(words, 0) for words in texts]
  pairs = zip(examples, texts, strict=True)
  conflicting = sum(trained.conflicts(task.index, words, e.answer) for e, words in pairs)
  return Split(
    task.name, name, len(examples), read.tokens, read.targets, read.unknown,
    classes=len({e.label for e in examples} - {-1}),
    cut=sum(e.number in text.cut for e in examples),
    repeated=len(texts) - len(set(texts)),
    leaked=sum(bool(tasks & own) for tasks in every) if name != 'train' else 0,
    elsewhere=sum(bool(tasks & ~own) and (name == 'train' or not tasks & own) for tasks in every),
    conflicting=conflicting,
    changed=changed,
    lossy=lossy,
    different=len(read.prompts),
    texts=len(set(texts)),
  )  # fmt: skip


class Counts:
  """Counts of the rows of a split, added part by part.

  Args:
    text: whose rows are counted.
    whole: whether all rows of an example count, or its question alone.

  Attributes:
    tokens, targets, unknown: as in `Split`.
    prompts: the different prompts, as bytes.
  """

  def __init__(self, text: Text, whole: bool):
    self._text, self._rows = text, None if whole else 1
    self.tokens = self.targets = self.unknown = 0
    self.prompts: set[bytes] = set()

  def add(self, examples: Sequence[Example]) -> list[Entry]:
    """Counts the rows of some examples and returns the first row of each."""
    found = [self._text.first_row(example) for example in examples]
    sizes = collections.Counter((len(tokens), len(targets)) for tokens, targets in found)
    counted = {size: self._text.outlined(*size)[: self._rows] for size in sizes}
    for size, count in sizes.items():
      self.tokens += count * sum(len(row.tokens) for row in counted[size])
      self.targets += count * sum(len(row.targets) for row in counted[size])
    if (unknown := self._text.unknown) is not None:
      for tokens, targets in found:  # a second row has the same tokens and a special one
        rows = len(counted[len(tokens), len(targets)])
        self.unknown += rows * int(np.count_nonzero(tokens == unknown))
    self.prompts.update(map(self._prompt, examples, found))
    return found

  def _prompt(self, example: Example, row: Entry) -> bytes:
    """Returns the tokens of a prompt; those of a class end where the row does."""
    if self._text.text_format == 'class':
      return row.tokens.tobytes()
    if self._text.chat_template:  # whose answers may be several
      return row.tokens[: self._text.sizes(example)[0]].tobytes()
    return row.tokens[: row.targets.item(0) + 1].tobytes()


def _of_blocks(task: Task, name: str, blocks: Blocks, unknown: int | None) -> Split:
  """A corpus, of which only a part is in memory at a time."""
  count = 0
  for first in range(0, len(blocks.tokens) if unknown is not None else 0, CHUNK):
    count += int(np.count_nonzero(blocks.tokens[first : first + CHUNK] == unknown))
  return Split(task.name, name, len(blocks), len(blocks.tokens) - 1, blocks.targets, count)
