"""Self-distillation fine-tuning, SDFT (Shenfeld et al. 2026, arXiv 2601.19897).

    L = alpha · KL(teacher ‖ model)(own answers) + (1 − alpha) · CE(new)

Before each epoch the model answers the prompt of every training example. The teacher is the same
model, or what it was, with the example's demonstration in its prompt: at each token of an own
answer it says how that answer should go on, so the model learns what the demonstration shows from
words that it is likely to write (on-policy). `direction` `reverse` takes KL(model ‖ teacher).

The demonstrations and own answers of an epoch are fixed, so the teacher's final states at the
tokens of the answers are computed once before it; see `jcl.memory.teacher`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import numpy as np

from jcl.backbones import Backbone
from jcl.batching import batch as batches
from jcl.batching.answers import Answers
from jcl.batching.batch import Row, Table
from jcl.batching.demonstrations import shown
from jcl.config import GIVEN, choice, number, only_with
from jcl.memory import pseudo, teacher
from jcl.memory.pseudo import Sample
from jcl.memory.teacher import FAMILIAR, HIDDEN, ExternalTeacher
from jcl.memory.tools import Tools
from jcl.methods.method import Method, Settings, require
from jcl.step import losses
from jcl.streams.stream import Example, Stream, Task, TaskPlan
from jcl.types import Memory, Params

FIRST_NUMBER = pseudo.FIRST_NUMBER + 2**27  # of own answers, apart from all other made rows
WITH_ALPHA = {'alpha': GIVEN}


@dataclasses.dataclass
class Sdft(Settings):
  """By default a moving average of the model teaches, and only own answers train."""

  # Weight of the divergence from the teacher; that of cross-entropy on new rows is 1 - alpha.
  alpha: float = number(1.0, least=0, most=1)
  # KL(teacher ‖ model), as the published runs have it, or KL(model ‖ teacher).
  direction: str = only_with(choice('forward', 'reverse'), WITH_ALPHA)
  # The model's likeliest tokens that count one by one, all others as one; 0: all one by one.
  top_k_logits: int = only_with(number(0, least=0), WITH_ALPHA)
  # The model that teaches: a moving average, the model itself at the start of the epoch, the model
  # before the task, or the one before the first task.
  anchor: str = only_with(choice('average', 'current', 'last', 'base'), WITH_ALPHA)
  # share of the model in the average after each update; the average starts at the model before
  # the task
  average_rate: float = only_with(number(0.02, above=0, most=1), {'anchor': 'average'})
  # Text with {x} and {y} that is the teacher's input; empty: the training row, then the prompt.
  demonstration: str = only_with('', WITH_ALPHA)
  temperature: float = only_with(number(1.0, least=0), WITH_ALPHA)  # of own answers; 0: greedy
  # number of likeliest tokens that each token of an own answer is drawn from
  top_k: int = only_with(number(20, least=1), {'temperature': GIVEN})
  teacher_cache_mb: int = number(2048, least=0)  # MiB that the teacher's states may take
  scenarios: ClassVar = ('cil', 'til', 'iil', 'dil')
  head_scenarios: ClassVar = ()
  brings: ClassVar = ('loss', 'slow')
  holds_tree: ClassVar = True
  neutral: ClassVar = {'alpha': 0.0}

  def max_cached_examples(self, stream: Stream) -> int:
    """Returns the number of training examples of the largest task."""
    return max(len(task.train) for task in stream.tasks)

  def check(self) -> None:
    """Refuses values out of their bounds, and a demonstration that does not show the answer."""
    super().check()
    text = self.demonstration
    right = not text or -1 < text.find('{x}') < text.find('{y}')
    require(right, 'demonstration', text, "a text with {x} and, after it, {y}, or '' for the row")

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses states of the teacher that could take more than `teacher_cache_mb`."""
    width, examples = tools.backbone.width, self.max_cached_examples(tools.stream)
    wanted = -(-examples * teacher.longest_targets(tools) * width * 4 // 2**20)
    right = f"at least {wanted}, for the teacher's states at the answers of {examples} examples"
    holds = wanted <= self.teacher_cache_mb or not self.alpha
    require(holds, 'teacher_cache_mb', self.teacher_cache_mb, right)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `sdft`."""
    return sdft(backbone, self)


def sdft(backbone: Backbone, settings: Sdft) -> Method:
  """Returns the method.

  `teacher` holds what projects the states of the epoch's teacher (`projects`), and with `anchor`
  `average` the moving average. `own` are the own answers of the epoch, none of more tokens than
  `longest`; before the first epoch of a task they are blank.
  """
  s = settings
  divergence = functools.partial(
    losses.divergence, reverse=s.direction == 'reverse', top_k=s.top_k_logits
  )

  def loss_fn(params, teacher_params, batch):
    own_M, projects = batch.fields[FAMILIAR] > 0, teacher_params['projects']
    ce_M, kl_M = teacher.compare(backbone, params, projects, batch, divergence, own_M)
    return {'ce': (ce_M, ~own_M), 'kl': (kl_M, own_M)}

  def init(params, stream, tools):
    if s.alpha:
      check_demonstrations(stream, tools, s.demonstration)
    average = {'average': params} if s.anchor == 'average' else {}
    held = {'anchor': params} if s.anchor in ('last', 'base') else {}
    taught = {'teacher': {'projects': backbone.unembedding(params), **average}, **held}
    return taught | {'own': [], 'longest': 0, 'tables': tables({}, backbone.width)}

  def before_task(memory, params, task, tools):
    if not s.alpha:
      return memory, params
    longest = longest_answer(task, tools)
    none_yet = blank([own_answer(tools, example, []) for example in task.train], longest)
    average = {'average': params} if s.anchor == 'average' else {}
    return memory | {
      'teacher': memory['teacher'] | average,
      **({'anchor': params} if s.anchor == 'last' else {}),
      'own': none_yet,
      'longest': longest,
      'tables': tables({}, backbone.width),
    }, params

  def before_epoch(memory, params, task, epoch, tools):
    return memory | epoch_of(memory, params, task, epoch, tools, s)

  def plan(memory, task):
    own, longest = memory['own'] if s.alpha else [], memory['longest']
    data = task.train if s.alpha < 1 else ()
    new, largest = ([*data, *own_examples(some, task)] for some in (own, blank(own, longest)))
    # With alpha 1 no new row has cross-entropy, and old rows of a composition keep theirs.
    weights = {'kl': s.alpha, 'ce': 1 - s.alpha if s.alpha < 1 else 1.0}
    return TaskPlan(new, weights=weights, tables=memory['tables'], largest=largest)

  def after_step(teacher_params, params, step):
    toward = lambda mean, now: mean + s.average_rate * (now - mean)
    average = jax.tree.map(toward, teacher_params['average'], params)
    return teacher_params | {'average': average}, params

  moves = s.anchor == 'average' and s.alpha
  return Method(
    init, before_task, plan, loss_fn, after_step=after_step if moves else None,
    before_epoch=before_epoch if s.alpha else None,
  )  # fmt: skip


def epoch_of(
  memory: Memory, params: Params, task: Task, epoch: int, tools: Tools, s: Sdft
) -> Memory:  # fmt: skip
  """Returns the entries of the memory that change before an epoch; arguments as of the hook."""
  backbone, own = tools.backbone, drawn(params, task, epoch, tools, s)
  taught_by = memory['teacher'].get('average', memory.get('anchor', params))
  rows = shown_rows(own, task, tools, s.demonstration)
  states = tools.map_targets(backbone.hidden, taught_by, rows, name='teacher_states')
  of_row = {row.number: hidden_mD for row, hidden_mD in zip(rows, states, strict=True)}
  return {
    'teacher': memory['teacher'] | {'projects': backbone.unembedding(taught_by)},
    'own': own,
    'tables': tables(of_row, backbone.width),
  }


def longest_answer(task: Task, tools: Tools) -> int:
  """Returns the tokens of the longest answer of a task, which an own answer has at most."""
  return max(tools.text.sizes(example)[1] for example in task.train)


def drawn(params: Params, task: Task, epoch: int, tools: Tools, s: Sdft) -> list[Sample]:
  """Answers the prompts of a task, and reports how many answers end and how many are right.

  Args:
    params: parameters of the model in training.
    task: task under way.
    epoch: epoch that the answers train; answer i has the key (seed, 'sdft', task, epoch, i).
    tools: tools of the run.
    s: settings of the method.
  """
  k, temperature = (s.top_k, s.temperature) if s.temperature else (1, 1.0)
  ids_RN = tools.sample(
    params, [tools.text.prompt(example) for example in task.train],
    tools.key('sdft', task.index, epoch), 0, k, temperature, longest_answer(task, tools),
    name=f'own answers of {task.name}',
  )  # fmt: skip
  known, eos = Answers(tools.text, tools.stream.classes), tools.text.eos
  ended = [eos in ids for ids in ids_RN.tolist()]
  said = [ids[: ids.index(eos) + 1] if eos in ids else ids for ids in ids_RN.tolist()]
  each = list(zip(task.train, said, ended, strict=True))
  right = [ends and known.right(known.read(ids), example) for example, ids, ends in each]
  count = {'asked': len(each), 'ended': sum(ended), 'right': sum(map(bool, right))}
  tools.report(sdft={'task': task.name, 'epoch': epoch + 1, **count})
  return [own_answer(tools, example, ids) for example, ids, _ in each]


def own_answer(tools: Tools, example: Example, ids: Sequence[int]) -> Sample:
  """Returns an own answer to the prompt of an example as a memory keeps it."""
  prompt = tools.text.prompt(example)
  return {'task': example.task, 'tokens': [*prompt, *ids], 'prompt_size': len(prompt)}


def blank(own: Sequence[Sample], longest: int) -> list[Sample]:
  """Returns answers of `longest` tokens to the same prompts, of which only the size counts."""
  ids = [0] * longest
  return [{**s, 'tokens': [*s['tokens'][: s['prompt_size']], *ids]} for s in own]


def own_examples(own: Sequence[Sample], task: Task) -> list[Example]:
  """Returns the examples of a task with the model's own answers."""
  if not own:
    return []
  return [
    dataclasses.replace(
      example, number=FIRST_NUMBER + i, tokens=tuple(sample['tokens']),
      prompt_size=sample['prompt_size'],
    )
    for i, (example, sample) in enumerate(zip(task.train, own, strict=True))
  ]  # fmt: skip


def shown_rows(own: Sequence[Sample], task: Task, tools: Tools, template: str) -> list[Row]:
  """Returns own answers as the teacher reads them: behind prompts with demonstrations."""
  room, rows = tools.text.max_length - longest_answer(task, tools), []
  for example, given in zip(own_examples(own, task), task.train, strict=True):
    assert example.tokens is not None
    prompt, answer = shown(tools.text, given, room, template).ids, example.tokens
    wanted = np.array(answer[example.prompt_size :], np.int32)
    targets = np.arange(len(wanted)) + len(prompt) - 1
    tokens = np.array([*prompt, *wanted], np.int32)
    rows.append(Row(tokens, targets, wanted, 2 * example.number, task.index))
  return rows


def tables(states: Mapping[int, np.ndarray], width: int) -> dict[str, Table]:
  """Returns the tables of a plan: the teacher's states, and which rows are own answers.

  Args:
    states: {row number: the teacher's final states at the targets [m, D]}.
    width: D.
  """
  is_own = {number: np.ones(len(hidden_mD), np.float32) for number, hidden_mD in states.items()}
  return {HIDDEN: batches.table(states, (width,)), FAMILIAR: batches.table(is_own, ())}


def check_demonstrations(stream: Stream, tools: Tools, template: str) -> None:
  """Refuses demonstrations that do not fit, and reports how many have a cut input."""
  for task in stream.tasks:
    room = tools.text.max_length - longest_answer(task, tools)
    count = sum(shown(tools.text, example, room, template).is_cut for example in task.train)
    if count:
      tools.report(
        warnings=f'{task.name}: the inputs in {count} of {len(task.train)} demonstrations are cut '
        f'to fit into stream.max_length {tools.text.max_length}'
      )
