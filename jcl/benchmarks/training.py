"""Workloads that train: a task of LAMOL-KD, its step by batch and length, and long rows."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jcl.benchmarks import setting as settings
from jcl.benchmarks import timing, writing
from jcl.benchmarks.bench import Bench
from jcl.benchmarks.timing import Case
from jcl.benchmarks.work import Lesson, Prompts
from jcl.config import Config
from jcl.errors import UserError
from jcl.methods import settings as method_settings
from jcl.streams.stream import Example, Stream
from jcl.training import experiment

REPLAYED = 5  # one row of so many comes from the past, in rows that are made up
WORDS = 200  # of a document


def show(bench: Bench) -> None:
  """Lets all contenders show the loss of a step of the second task, before anything is timed.

  Raises:
    UserError: one shows another loss or gradient norm.
  """
  with bench.learners(lesson(bench, bench.setting.task.train, bench.setting.past), warm=False):
    return


def task(bench: Bench) -> list[Case]:
  """Times the second task: pseudo samples, teacher, steps and evaluation, each apart.

  Of samples and answers some are written, and of steps some are taken; the whole task counts each
  as often as a run does.
  """
  one, parts = bench.setting, bench.setting.parts
  count = len(one.past)
  total = parts.config.train.epochs * -(-(len(one.task.train) + count) // one.request.batch_size)
  samples = writing.case(bench, 'task/samples', writing.pseudo(bench), 'sample')
  tests = [e for t in parts.stream.tasks[:3] for e in t.test]
  asked = writing.spread(tests, one.request.drawn)
  prompts = Prompts([parts.text.prompt(e) for e in asked], parts.longest_answer, 1)
  answers = writing.case(bench, 'task/evaluation', prompts, 'answer')
  made = lesson(bench, one.task.train, one.past)
  with bench.learners(made) as learners:
    caching = {c.name: learners[c.name].teach for c in bench.contenders if c.caches_teacher}
    teacher = Case('task/teacher', 'task', bench.alternate('task/teacher', caching))
    steps = bench.steps('task/steps', learners, made)
  whole = timing.together(
    'task', 'task',
    {
      'samples': (samples, count), 'teacher': (teacher, 1), 'steps': (steps, total),
      'answers': (answers, len(tests)),
    },
  )  # fmt: skip
  facts: dict[str, float] = {'samples': count, 'steps': total, 'answers': len(tests)}
  whole = dataclasses.replace(whole, facts=facts)
  return [whole, samples, teacher, steps, answers]


def lesson(bench: Bench, new: Sequence[Example], old: Sequence[Example], **how: int) -> Lesson:
  """Returns steps of LAMOL-KD on the second task, enough for all rounds.

  Args:
    bench: the benchmark.
    new, old: examples.
    **how: `batch_size`; `longest`, tokens to which the plain loop pads.
  """
  one = bench.setting
  size = how.pop('batch_size', one.request.batch_size)
  return settings.lesson(
    one.parts, one.plan(new, old), 1, size, bench.rounds * one.request.steps,
    temperature=one.settings.distill_temperature, **how,
  )  # fmt: skip


def step(bench: Bench) -> list[Case]:
  """Times the step on the stream's own rows, then on rows of random tokens by batch and length."""
  one = bench.setting
  found = [_timed(bench, 'step', lesson(bench, one.task.train, one.past))]
  for size in one.request.batches:
    for length in one.request.lengths:
      new, old = made_up(bench, size, length)
      made = lesson(bench, new, old, batch_size=size, longest=length)
      found.append(_timed(bench, f'step/{size}x{length}', made))
  return found


def _timed(bench: Bench, name: str, made: Lesson) -> Case:
  """Times the steps of a lesson, which every contender shows first."""
  with bench.learners(made) as learners:
    return bench.steps(name, learners, made)


def made_up(bench: Bench, size: int, length: int) -> tuple[list[Example], list[Example]]:
  """Returns examples of random tokens, new ones and old ones, enough for one step of each round.

  Their rows have between half of `length` and `length` tokens.

  Args:
    bench: the benchmark.
    size: examples of a step.
    length: tokens of the longest row.

  Raises:
    UserError: a row cannot be so long, or so short.
  """
  parts, random = bench.setting.parts, np.random.default_rng(bench.setting.request.seed)
  most, answer = parts.text.max_length, parts.text.rows(bench.setting.past[0])[1]
  if not 8 <= length <= most:
    raise UserError(f'--lengths has {length}; rows of this model have 8 to {most} tokens')
  marker = int(answer.wanted[-1]), _marker(bench)
  count, found = size * bench.setting.request.steps, []
  for i in range(count):
    inner = max(int(random.integers(length // 2, length + 1)) - 3 - len(parts.text.start), 2)
    ids = random.integers(0, parts.added[0] if parts.added else parts.backbone.outputs, inner)
    tokens = (*ids[:-1].tolist(), marker[1], int(ids[-1]), marker[0])
    found.append(Example(settings.PSEUDO + i, '', '', 0, tokens=tokens))
  cut = max(count // REPLAYED, 1)
  return found[cut:], found[:cut]


def _marker(bench: Bench) -> int:
  """Returns the id of the token that stands between input and answer."""
  row = bench.setting.parts.text.rows(bench.setting.past[0])[0]
  return int(row.tokens[row.targets[0]])


def long(bench: Bench) -> list[Case]:
  """Times continued pretraining on blocks of raw text, without a teacher."""
  one = bench.setting
  parts = raw_parts(bench)
  blocks = parts.stream.tasks[0].train
  plan = parts.method.plan(parts.method.init({}, parts.stream, parts.tools), parts.stream.tasks[0])
  size = max(one.request.batch_size * settings.longest_row(one.parts) // one.request.block, 1)
  made = settings.lesson(
    parts, plan, 0, size, bench.rounds * one.request.steps, longest=one.request.block
  )
  case = _timed(bench, 'long', made)
  case.facts['blocks'] = float(len(blocks))
  return [case]


def raw_parts(bench: Bench) -> experiment.Experiment:
  """Returns the parts of a run on raw text: the stream's texts, drawn again and again.

  Raises:
    UserError: the model cannot read blocks of that length.
  """
  one = bench.setting
  random = np.random.default_rng(one.request.seed)
  words = [w for e in one.parts.stream.tasks[0].train for w in e.text.split()]
  documents = 4 * one.request.block * one.request.steps * bench.rounds // WORDS + 8
  texts = [' '.join(random.choice(words, WORDS)) for _ in range(documents)]
  raw = {'raw': [{'text': text} for text in texts]}
  stream = Stream.from_rows(raw, test={'raw': [{'text': ' '.join(words[:WORDS])}]})
  base: Config = one.parts.config
  config = Config(
    method=method_settings('seq'), scenario='cpt', backbone=base.backbone, train=base.train,
    evaluate=base.evaluate,
    stream=dataclasses.replace(
      stream.settings or base.stream, max_length=one.request.block, cache=str(bench.new_folder())
    ),
  )  # fmt: skip
  limit = one.parts.decoder_config.max_positions
  if one.request.block > limit:
    raise UserError(f'--block is {one.request.block}; the model reads {limit} tokens at most')
  parts = experiment.assemble(config, stream=stream, loaded=one.loaded())
  bench.others.append(parts)
  return parts
