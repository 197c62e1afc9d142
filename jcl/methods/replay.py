"""Experience replay: examples of old tasks are kept in a buffer and mixed into the new ones.

    L = CE(new and old rows)

With `corpus` a share of the old tokens is general text that no task has, exactly as many tokens or
targets as the ratio says.
With `answers` `own` (on-policy replay) the model answers the prompts in the buffer anew before each
task, and an old row has the new answer if that is kept (`jcl.memory.own_answers`).
Policies of the buffer: reservoir sampling (Vitter 1985), herding (Rebuffi et al. 2017), first in
first out, quotas by class, importance sampling. With `select`
`adversarial` the method is MIR (Aljundi et al. 2019).
"""

import dataclasses
import math
from typing import ClassVar, Protocol

from jcl.backbones import Backbone
from jcl.config import GIVEN, choice, number, only_with
from jcl.errors import count_of
from jcl.memory import buffer, interference, own_answers, pseudo
from jcl.memory.teacher import ExternalTeacher
from jcl.memory.tools import Tools
from jcl.methods.method import Method, Settings, require
from jcl.step import losses
from jcl.storage import paths
from jcl.streams.stream import Stream, TaskPlan

OWN = {'answers': 'own'}


@dataclasses.dataclass
class Replay(Settings):
  """Cross-entropy over all rows; by default 0.3 old rows for each new one."""

  buffer_size: int = number(10000, least=1)  # examples that the buffer holds at most
  # old rows for each new one, at level `dataset`
  replay_ratio: float = only_with(number(0.3, least=0), {'level': 'dataset', 'mix_by_task': ((),)})
  # `replay_ratio` of each task in turn; the last entry holds for all tasks after it
  mix_by_task: tuple[float, ...] = only_with((), {'level': 'dataset'})
  unit: str = choice('rows', 'tokens', 'targets')  # what the ratio counts
  # Text file that no task has and that old rows come from, beside the buffer; empty: none.
  corpus: str = only_with('', {'level': 'dataset', 'backbone.head': ''})
  # share of the old tokens (or targets) that come from the corpus; 1: none from the buffer
  corpus_share: float = only_with(number(0.5, least=0, most=1), {'corpus': GIVEN})
  # Old rows are mixed into each epoch (`dataset`), or make up half of every batch (`batch`).
  level: str = choice('dataset', 'batch')
  policy: str = choice(*buffer.POLICIES)  # which examples the buffer keeps
  keep_hard: bool = False  # `importance` prefers examples of high loss, not of low loss
  update: str = choice(
    'after_task', 'every_epoch', 'every_steps'
  )  # when new examples enter the buffer
  update_steps: int = number(0, least=0)  # steps between two updates, with `every_steps`
  # Old rows that are replayed: drawn at random, or those that new rows would harm most (MIR).
  select: str = choice('random', 'adversarial')
  # old rows drawn for each one replayed, with `adversarial`
  candidates: int = only_with(number(3, least=1), {'select': 'adversarial'})
  # Rate of the virtual step that shows which rows are harmed, with `adversarial`.
  virtual_lr: float = only_with(number(1e-2, least=0), {'select': 'adversarial'})
  # Answers of old rows: as they are stored, or those of the model before the task (on-policy).
  answers: str = only_with(choice('stored', 'own'), {'backbone.head': ''})
  # Own answers that are kept: the right ones, those the model is confident of, or all that end.
  keep: str = only_with(choice('right', 'confident', 'all'), OWN)
  # What replays in place of an own answer that is not kept: the stored answer, or nothing.
  rejected: str = only_with(choice('stored', 'drop'), OWN)
  temperature: float = only_with(number(0.0, least=0), OWN)  # of own answers; 0: greedy
  # number of likeliest tokens that each token of an own answer is drawn from
  top_k: int = only_with(number(20, least=1), {**OWN, 'temperature': GIVEN})
  # least mean log-probability of the tokens of a confident answer, nats
  least_log_probability: float = only_with(number(-0.1, most=0), {**OWN, 'keep': 'confident'})
  brings: ClassVar[tuple[str, ...]] = ('rows',)

  def max_cached_examples(self, stream: Stream) -> int:
    """Returns the number of examples that the buffer can come to hold."""
    return min(self.buffer_size, sum(len(task.train) for task in stream.tasks))

  def check(self) -> None:
    """Refuses values out of their bounds, and those that nothing would read."""
    super().check()
    check_mix(self)
    right = self.unit != 'rows' or not self.corpus or self.level != 'dataset'
    words = "'tokens' or 'targets' with a corpus, whose rows are no examples"
    require(right, 'unit', self.unit, words)
    right = self.update == 'after_task' or not self.corpus
    require(right, 'update', self.update, "'after_task' with a corpus")
    right = self.unit == 'rows' or self.level == 'dataset'
    require(right, 'unit', self.unit, "'rows' with level 'batch', where half of a batch is new")
    right = self.policy == 'importance' or not self.keep_hard
    require(right, 'keep_hard', self.keep_hard, "False unless policy is 'importance'")
    right = self.update == 'after_task' or self.policy not in buffer.BY_MODEL
    require(right, 'update', self.update, f"'after_task' with policy {self.policy!r}")
    right = (self.update_steps >= 1) if self.update == 'every_steps' else self.update_steps == 0
    words = "at least 1 with update 'every_steps' and 0 with any other"
    require(right, 'update_steps', self.update_steps, words)
    right = self.select == 'random' or self.level == 'batch'
    require(right, 'select', self.select, "'random' unless level is 'batch'")
    right = self.answers == 'stored' or self.update == 'after_task'
    require(right, 'answers', self.answers, "'stored' unless update is 'after_task'")

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses own answers on raw text, and class quotas without classes or with too few places."""
    check_tasks(self, tools)
    words = "'' with raw text, where method pretrain mixes a corpus in"
    require(not self.corpus or scenario != 'cpt', 'corpus', self.corpus, words)
    words = "'stored' with raw text, which has no answers"
    require(self.answers == 'stored' or scenario != 'cpt', 'answers', self.answers, words)
    if self.policy in buffer.BY_CLASS:
      classes = len(tools.stream.classes)
      right = classes > 0 and scenario in ('cil', 'til', 'dil')
      words = 'reservoir, fifo or importance where answers are free'
      require(right, 'policy', self.policy, words)
      words = f'at least {classes}, a place for each class, with policy {self.policy!r}'
      require(self.buffer_size >= classes, 'buffer_size', self.buffer_size, words)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `replay`."""
    return replay(backbone, self)


class Mixes(Protocol):
  """The settings that say how much of what trains a task is old, and how much a corpus."""

  mix_by_task: tuple[float, ...]
  corpus: str
  corpus_share: float


def check_mix(settings: Mixes, below: float = math.inf) -> None:
  """Refuses entries of `mix_by_task` out of bounds, and a corpus that is no file."""
  words = 'numbers that are 0 or more' + (f' and below {below:g}' if below < math.inf else '')
  mix = settings.mix_by_task
  require(all(0 <= entry < below for entry in mix), 'mix_by_task', mix, words)
  path = settings.corpus
  there = not path or paths.local(path, 'method.corpus').is_file()
  require(there, 'corpus', path, "a text file, or '' for none")


def check_tasks(settings: Mixes, tools: Tools) -> None:
  """Refuses more entries of `mix_by_task` than there are tasks."""
  mix, tasks = settings.mix_by_task, len(tools.stream.tasks)
  require(len(mix) <= tasks, 'mix_by_task', mix, f'at most {count_of(tasks, "number")}, one a task')


def mix_of(settings: Mixes, ratio: float, task: int) -> tuple[float, float]:
  """Returns how much of a task's mix comes from the past, and how much from the corpus.

  Args:
    settings: of the method.
    ratio: the whole, where `mix_by_task` is empty.
    task: index of the task.
  """
  mix = settings.mix_by_task
  whole = mix[min(task, len(mix) - 1)] if mix else ratio
  share = settings.corpus_share if settings.corpus else 0.0
  return (1 - share) * whole, share * whole


def replay(backbone: Backbone, settings: Replay, term: str = 'ce') -> Method:
  """Returns the method; the examples of a task enter the buffer in the order trained.

  Args:
    backbone: the model.
    settings: settings of this method or of one that builds on it.
    term: name of the loss term that old rows have, for `select` `adversarial`.
  """
  s, own = settings, settings.answers == 'own'

  def nats(params, batch):
    return losses.target_cross_entropy(backbone, params, batch, train=False)

  def init(params, stream, tools):
    memory = {'teacher': {}, 'buffer': buffer.empty()}
    return memory | ({'own': [], 'stored': []} if own else {})

  def before_task(memory, params, task, tools):
    if not own:
      return memory, params
    kept, rest = own_answers.make(params, buffer.held(memory), task, tools, nats, s)
    return memory | {'own': kept, 'stored': rest}, params

  def plan(memory, task):
    held, online_buffer = memory['buffer'], None
    if s.update != 'after_task':
      online_buffer = buffer.OnlineBuffer(held, s.buffer_size, s.policy, s.update_steps)
    old = [*pseudo.examples(memory['own']), *memory['stored']] if own else held['examples']
    candidates = s.candidates if s.select == 'adversarial' else 1
    ratio, general = mix_of(s, s.replay_ratio, task.index)
    return TaskPlan(
      task.train,
      old,
      s.level,
      ratio if s.level == 'dataset' else None,
      s.unit,
      general if s.level == 'dataset' else 0.0,
      candidates=candidates,
      online_buffer=online_buffer,
    )

  def after_task(memory, params, task, tools):
    new = tools.trained(plan(memory, task), task)
    keys = buffer.keys_of(s.policy, backbone, params, new, tools, s.buffer_size, s.keep_hard)
    kept = buffer.add(memory['buffer'], new, s.buffer_size, s.policy, tools.seed, keys)
    tools.report(buffer={'after': task.name, **buffer.shares(kept, tools)})
    return memory | {'buffer': kept}, params

  made = Method(init, before_task, plan, after_task=after_task)
  if s.select == 'random':
    return made
  harmed = interference.most_interfered(term, s.candidates, s.virtual_lr)
  return made._replace(objective=harmed)
