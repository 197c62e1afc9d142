"""Counts of the splits of a stream, as a method reads them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jcl.batching.packed_text import Blocks
from jcl.batching.text_formats import Text
from jcl.preflight.round_trip import changed_inputs
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
  trained: dict[str, int] = {}  # the tasks that train on a text, a bit each
  answers: dict[tuple[int, str], set[str]] = {}
  for task in stream.tasks if text.text_format != 'packed' else ():
    for example in task.train:
      words = normalized_text(example.text)
      trained[words] = trained.get(words, 0) | 1 << task.index
      answers.setdefault((task.index if task_id_given else -1, words), set()).add(example.answer)
  for task in stream.tasks:
    for name in SPLITS:
      examples = getattr(task, name)
      if isinstance(examples, Blocks):
        yield _of_blocks(task, name, examples, text.unknown)
      elif examples:
        scope = task.index if task_id_given else -1
        said = [answers.get((scope, normalized_text(e.text)), set()) - {e.answer} for e in examples]
        yield _of_examples(task, name, text, trained, sum(map(bool, said)))


def _of_examples(
  task: Task, name: str, text: Text, trained: Mapping[str, int], conflicting: int
) -> Split:
  examples: Sequence[Example] = getattr(task, name)
  items = [text.rows(e) if name == 'train' else text.rows(e)[:1] for e in examples]
  rows = [row for item in items for row in item]
  tokens = np.concatenate([row.tokens for row in rows])
  texts = [normalized_text(e.text) for e in examples]
  own, every = 1 << task.index, [trained.get(words, 0) for words in texts]
  whole = text.text_format == 'class'
  changed, lossy = changed_inputs(text, [e.text for e in examples])
  prompts = {tuple(i[0].tokens.tolist() if whole else text.prompt(e))
             for e, i in zip(examples, items, strict=True)}  # fmt: skip
  return Split(
    task.name, name, len(examples), len(tokens), sum(len(row.targets) for row in rows),
    0 if text.unknown is None else int(np.count_nonzero(tokens == text.unknown)),
    classes=len({e.label for e in examples} - {-1}),
    cut=sum(e.number in text.cut for e in examples),
    repeated=len(texts) - len(set(texts)),
    leaked=sum(bool(tasks & own) for tasks in every) if name != 'train' else 0,
    elsewhere=sum(bool(tasks & ~own) and (name == 'train' or not tasks & own) for tasks in every),
    conflicting=conflicting,
    changed=changed,
    lossy=lossy,
    different=len(prompts),
    texts=len(set(texts)),
  )  # fmt: skip


def _of_blocks(task: Task, name: str, blocks: Blocks, unknown: int | None) -> Split:
  """A corpus, of which only a part is in memory at a time."""
  count = 0
  for first in range(0, len(blocks.tokens) if unknown is not None else 0, CHUNK):
    count += int(np.count_nonzero(blocks.tokens[first : first + CHUNK] == unknown))
  return Split(task.name, name, len(blocks), len(blocks.tokens) - 1, blocks.targets, count)
