"""LAMOL's pseudo samples: drawn from the generation token alone, kept where well formed."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict

from jcl.batching.answers import Answers
from jcl.batching.epochs import in_parts
from jcl.batching.row_store import PART
from jcl.batching.special_text import in_threads
from jcl.batching.text_formats import Text
from jcl.errors import count_of
from jcl.memory.tools import Tools
from jcl.streams.raw import normalized_text
from jcl.streams.stream import Example, Task
from jcl.types import Params

UNKNOWN = -1  # the task of a sample of the shared generation token
FIRST_NUMBER = 2**29  # of pseudo samples; a stream's examples count from 0
SHOWN = 8  # samples that a line of the report has as text


class Sample(TypedDict):
  """A pseudo sample, or a model's own answer to a stored prompt.

  Attributes:
    task: index of its old task, or -1.
    tokens: its ids with answer token and end-of-sequence; of an own answer the prompt, the answer
      and end-of-sequence.
    prompt_size: tokens of the prompt of an own answer.
  """

  task: int
  tokens: list[int]
  prompt_size: NotRequired[int]


class Drawn(NamedTuple):
  """Samples of one old task.

  Attributes:
    kept: well formed, and passed by the filters.
    draws: how many were drawn.
    rejected: the first `SHOWN` of the others, as (text, why).
  """

  kept: list[Sample]
  draws: int
  rejected: list[tuple[str, str]]


class SamplingSettings(Protocol):
  """The settings of LAMOL that decide how samples are drawn; their meaning stands there."""

  gamma: float
  task_tokens: bool
  retry: bool
  max_attempts: int
  top_k: int
  temperature: float
  require_known_label: bool
  deduplicate: bool


def examples(samples: Sequence[Sample]) -> list[Example]:
  """Returns samples as examples; the number of a sample is its own within one task only."""
  return [
    Example(
      FIRST_NUMBER + i, '', '', s['task'], tokens=tuple(s['tokens']),
      prompt_size=s.get('prompt_size', 0),
    )
    for i, s in enumerate(samples)
  ]  # fmt: skip


def draw(
  params: Params, task: Task, tools: Tools, longest: int, settings: SamplingSettings
) -> list[Sample]:
  """Draws pseudo samples of every old task, and reports how many are well formed.

  int(gamma·|D_t|) samples are shared among the old tasks; the first tasks get the remainder.
  Draw d for old task s has the key (seed, 'pseudo', task, s, d). With `retry`, draws that are not
  well formed are repeated, up to `max_attempts` times the number asked for.

  Args:
    params: of the model before the task.
    task: the coming task.
    tools: of the run.
    longest: largest number of tokens of a sample, that of the longest generation row trained so
      far.
    settings: of LAMOL.
  """
  wanted, olds = int(settings.gamma * len(task.train)), tools.stream.tasks[: task.index]
  asked = [wanted // task.index + (old.index < wanted % task.index) for old in olds]
  drawn: list[Drawn] = []
  for old, count in zip(olds, asked, strict=True):
    seen = {tuple(s['tokens']) for one in drawn for s in one.kept}
    drawn.append(_draw_one(params, task, old, count, tools, longest, settings, seen))
  if settings.task_tokens:
    for old, count, one in zip(olds, asked, drawn, strict=True):
      line = {'task': old.name, 'asked': count, 'drawn': one.draws}
      counts = _counts(one.kept, [old], olds, tools)
      rejected = {'rejected': list(map(list, one.rejected))}
      tools.report(pseudo={'before': task.name, **line, **counts, **rejected})
  elif olds:
    line = {'task': None, 'asked': wanted, 'drawn': sum(one.draws for one in drawn)}
    counts = _counts([s for one in drawn for s in one.kept], olds, olds, tools)
    rejected = {'rejected': [list(r) for one in drawn for r in one.rejected][:SHOWN]}
    tools.report(pseudo={'before': task.name, **line, **counts, **rejected})
  samples = [s for one in drawn for s in one.kept]
  _warn(task, sum(asked), sum(one.draws for one in drawn), len(samples), tools)
  return samples


def _draw_one(
  params: Params, task: Task, old: Task, asked: int, tools: Tools, longest: int,
  settings: SamplingSettings, seen: set[tuple[int, ...]],
) -> Drawn:  # fmt: skip
  """Returns at most `asked` samples of one old task, and what was drawn for them."""
  kept: list[Sample] = []
  rejected: list[tuple[str, str]] = []
  text, drawn = tools.text, 0
  limit = asked * (settings.max_attempts if settings.retry else 1)
  prompt = [*text.start, text.generation_token(old.index)]
  key = tools.key('pseudo', task.index, old.index)
  known = Answers(text, tools.stream.classes)
  labels = _owners([old] if settings.task_tokens else tools.stream.tasks[: task.index])
  owner = old.index if settings.task_tokens else UNKNOWN
  while len(kept) < asked and drawn < limit:
    count = min(tools.batch_size if drawn else asked, limit - drawn)
    ids_RN = tools.sample(
      params, [prompt] * count, key, drawn, settings.top_k, settings.temperature, longest,
      name=f'pseudo samples of {old.name}',
    )  # fmt: skip
    for ids in ids_RN.tolist():
      drawn += 1
      ended = ids[: ids.index(text.eos) + 1] if text.eos in ids else ids
      pair, why = text.parse(ids), ''
      if pair is None:
        why = 'not well formed'
      elif settings.require_known_label and known.class_of(pair[1]) not in labels:
        why = 'no label of its task' if settings.task_tokens else 'no label of a task before'
      elif settings.deduplicate and tuple(ended) in seen:
        why = 'drawn before'
      if not why:
        kept.append({'task': owner, 'tokens': ended})
        seen.add(tuple(ended))
      elif len(rejected) < SHOWN:
        rejected.append((text.tokenizer.decode(ended, skip_special_tokens=False), why))
      if len(kept) == asked:  # the rest of the chunk does not count as drawn
        break
  return Drawn(kept, drawn, rejected)


def _warn(task: Task, asked: int, drawn: int, kept: int, tools: Tools) -> None:
  """Reports a warning where less than half of the samples that were asked for are well formed."""
  if 2 * kept >= asked:
    return
  rate = f'{kept} of {count_of(drawn, "drawn sample")} well formed'
  what = f'{kept} of {count_of(asked, "row")} replayed' if kept else 'nothing is replayed'
  tools.report(warnings=f'before {task.name}: {rate}, so {what}; train longer, or at a higher rate')


def _owners(tasks: Sequence[Task]) -> dict[int, str]:
  """Returns {index of a class: name of its task} for the classes of `tasks`."""
  return {c: t.name for t in tasks for c in t.classes}


def _counts(
  samples: list[Sample], owners: Sequence[Task], olds: Sequence[Task], tools: Tools
) -> dict[str, Any]:
  """Returns the fields of a report's line on kept samples.

  `verbatim` counts inputs that the training split of an old task has word for word: it measures how
  much of the training data the model gives away.

  Args:
    samples: kept ones.
    owners: tasks that the samples may belong to.
    olds: all old tasks.
    tools: of the run.
  """
  text, stream, labels = tools.text, tools.stream, _owners(owners)
  classes = Answers(text, stream.classes)
  parsed = [text.parse(s['tokens']) for s in samples]
  pairs = [pair for pair in parsed if pair is not None]
  said = [classes.class_of(answer) for _, answer in pairs]
  known = [labels[label] for label in said if label in labels]
  trained = set[str]().union(*(_input_forms(text, old.train) for old in olds))
  counts: dict[str, Any] = {
    'kept': len(samples),
    'distinct': len({tuple(s['tokens']) for s in samples}),
    'verbatim': sum(normalized_text(words) in trained for words, _ in pairs),
    'valid_label': len(known) if labels else None,
    'samples': [
      [words, stream.shown(answer, label)]
      for (words, answer), label in zip(pairs[:SHOWN], said, strict=False)
    ],
  }
  if len(owners) > 1 and len(labels) == sum(len(old.classes) for old in owners):
    counts['by_task'] = {old.name: known.count(old.name) for old in owners}
  return counts


def _input_forms(text: Text, examples: Sequence[Example]) -> set[str]:
  """Returns the inputs of examples as samples with the same tokens would decode, normalised."""
  ids = ([text.input_ids(e) for e in part] for part in in_parts(examples, PART))
  decode = functools.partial(text.tokenizer.decode_batch, skip_special_tokens=False)
  return {normalized_text(back) for backs in in_threads(decode, ids) for back in backs}
