"""A case: one method, taken by the real loop through the three tasks of the tiny stream.

Nothing in here knows a method but the two tables below. The real hooks make memory, teacher,
tables and plan, the real step trains a few steps, and what each task was made of is kept: at the
third one everything that a method carries is there, and with it a batch of real rows.
"""

import dataclasses
import functools
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from oracles import objectives, texts
from support import rounding, tiny
from support.scripted import good, own_answer, scripted

from jcl import distributed, methods
from jcl.backbones import tokenizers
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.batching import batch as batches
from jcl.batching import batch_shapes, packed_epochs
from jcl.batching import epochs as composing
from jcl.batching.batch import Batch, Row, Shape
from jcl.batching.packed_text import PackedText, pack
from jcl.config import Config, TrainConfig
from jcl.step import losses, sharding, train_step, trainable
from jcl.step.groups import Groups
from jcl.streams.stream import Example, Task, TaskPlan
from jcl.training.experiment import Experiment
from jcl.training.hook_tools import HookTools, make_tools
from jcl.training.loop import Loop
from jcl.training.run_state import Run
from scorecard import names

DEEP = (
  'lora',
  'olora',
  'slao',
  'osft',
  'expand',
  'closed_form',
)  # their models have stacked layers
GROWING = ('expand',)  # methods whose parameters grow in a task
# The program of the step that trains each task; other methods have one for all.
PROGRAMS = {'expand': (0, 1, 2), 'seq_star': (0, 1, 1)}
MORE = {  # of any settings that have the field: every term is as large as cross-entropy, none is 1
  'gamma': 1.0, 'replay_ratio': 1.0, 'replay_share': 0.4, 'alpha': 0.3, 'beta': 0.7,
  'lambda_gen': 0.4, 'distill_weight': 0.6, 'distill_temperature': 3.0, 'lambda_ewc': 30.0,
  'lambda_mas': 0.2, 'lambda_olora': 0.3, 'r': 2, 'lora_alpha': 2.0, 'lora_dropout': 0.0,
  'every': 1, 'inner_lr': 0.3, 'inner_steps': 2, 'decay': 0.8, 'fast_decay': 0.6,
  'slow_decay': 0.9, 'fast_rate': 1.0, 'slow_rate': 1.0, 'lambda_cls': 0.6, 'solver': 'lda',
  'shrinkage': 0.9, 'unfreeze_ratio': 0.3, 'teacher_epochs': 2,
  'average_rate': 0.4,
}  # fmt: skip
TRAIN = TrainConfig(
  learning_rate=3e-2, adapter_learning_rate=3e-2, head_learning_rate=3e-2, epochs=3, batch_size=16
)
WAYS = {  # devices, sharded, microbatches
  '1': (1, False, 1), '8': (8, False, 1), '8 fsdp': (8, True, 1), '1 k4': (1, False, 4),
  '8 fsdp k2': (8, True, 2),
}  # fmt: skip
ALL = (('.*', True),)
BLOCK = 7  # tokens of raw text
LAST = 2  # index of the third task
APART = ((0, 1), (2, 3), (4, 5))  # classes of the three tasks
SHARED = ((0, 1), (1, 2), (0, 1))  # the second task shares one class, the third both
Classes = tuple[tuple[int, ...], ...]
Items = Sequence[tuple[Example | Row, bool]]
"""(example, or row of raw text, whether it comes from the past), …"""


def chosen(name: str, **given: Any) -> methods.Settings:
  """A method's settings for a tiny run."""
  made = methods.settings(name)
  for field, value in {**MORE, **given}.items():
    if field in {own.name for own in dataclasses.fields(made)}:
      setattr(made, field, value)
  return made


def model(deep: bool, classes: int = 0, dtype: str = 'float32') -> Callable[[int], Any]:
  """vocabulary -> a tiny backbone, with a head where there are classes."""
  if not deep:
    return functools.partial(tiny.recurrent, classes=classes)
  shape = dict(width=16, layers=2, heads=4, kv_heads=2, feed_forward=24, dtype=dtype)
  of = lambda vocabulary: DecoderConfig(vocabulary, rows=vocabulary + 3, classes=classes, **shape)
  return lambda vocabulary: decoder(of(vocabulary))


def host(tree: Any) -> Any:
  """A copy on the host."""
  return jax.tree.map(lambda x: np.array(distributed.fetch(x)), tree)


def flat(tree: Any) -> np.ndarray:
  """All leaves in one vector, float64."""
  leaves = [np.ravel(distributed.fetch(x)) for x in jax.tree.leaves(tree)]
  return np.concatenate([np.zeros(0), *leaves]).astype(np.float64)


class Seen(NamedTuple):
  """A step of the real loop: the parameters it was given, the loss that it said."""

  params: Any
  loss: float


class Watch:
  """Stands before the train step and keeps what passes; what tools measured stands beside it."""

  def __init__(self, step: Callable, measured: list[Callable], programs: tuple[int, ...]):
    self.step, self.measured, self.programs = step, measured, programs
    self.task = 0
    self.seen: list[Seen] = []
    self.shapes: set = set()  # of batches, and the program of their task
    self.kinds: set = set()  # of all else that the step is given

  def train_step(self, state, fixed, weights, rate, batch, groups):
    """As the step."""
    params = host(trainable.join(state['params'], fixed[0]))
    own = self.programs[self.task]
    self.shapes.add((batch.tokens.shape, batch.target_token.shape, own))
    leaves, structure = jax.tree.flatten((state, fixed, weights, groups))
    self.kinds.add((structure, *((x.shape, str(x.dtype)) for x in leaves)))
    state, metrics = self.step(state, fixed, weights, rate, batch, groups)
    self.seen.append(Seen(params, float(metrics['loss'])))
    return state, metrics


@dataclasses.dataclass(frozen=True)
class Moment:
  """One task of a case.

  Attributes:
    task: of the stream.
    memory: as the hooks before the first epoch left it, which the plan is made of.
    plan: of the first epoch, its examples resolved.
    plans: of every epoch, all the same one unless rows are drawn before each.
    start, end: parameters before and after training.
    seen: the steps of the loop.
    after: memory after `after_task`.
    left: parameters after it.
    items: what the first step is made of; without a plan the task's own examples.
  """

  task: Task
  memory: dict
  plan: TaskPlan
  plans: list[TaskPlan]
  start: Any
  end: Any
  seen: list[Seen]
  after: dict
  left: Any
  items: list[tuple[Example, bool]]

  @property
  def updates(self) -> list[Any]:
    """The parameters after each step."""
    return [seen.params for seen in self.seen[1:]] + [self.end] * bool(self.seen)


@dataclasses.dataclass(frozen=True)
class Judged:
  """An objective on a batch, the values of its terms, its gradient in one vector."""

  loss: float
  values: dict[str, float]
  gradient: np.ndarray


class Case:
  """A method and its life.

  Args:
    name: of the method.
    classes_of: classes of each task, for a model that classifies; empty: a model that writes.
    told: with a head, a row is answered with the classes of its own task.
    **given: settings.
  """

  def __init__(self, name: str, classes_of: Classes = (), told: bool = False, **given: Any):
    self.name, self.settings, self.deep = name, chosen(name, **given), name in DEEP
    head = bool(classes_of)
    text_format = 'class' if head else self.settings.text_format
    make = model(self.deep, len(tiny.CLASSES) if head else 0)
    self.documents = tiny.stream(examples=7)
    self.packed = text_format == 'packed'
    tools = self._packed(make) if self.packed else tiny.tools(text_format, make=make, examples=7)
    self.classes_of, self.told = classes_of, told
    if head:
      own = batches.membership(classes_of, len(tiny.CLASSES))
      of = tiny.sharing(tools.stream, classes_of)
      tools = dataclasses.replace(tools, stream=of, membership=own, task_id_given=told)
    tools = dataclasses.replace(tools, train=TRAIN)
    self.tools = scripted(tools, good if text_format.startswith('lamol') else own_answer)
    self.backbone, self.stream = self.tools.backbone, self.tools.stream
    self.method = methods.make(self.backbone, self.settings)
    self.drawn: list[dict] = []  # memory after each call of `before_epoch`
    if (hook := self.method.before_epoch) is not None:
      self.method = self.method._replace(before_epoch=self._noted(hook))
    self.loss_fn = self.method.loss_fn or losses.plain(self.backbone)
    deep = rounding.tolerance(24, rounding.layers(2, gradient=True), margin=2)
    self.tolerance = deep if self.deep else 5e-6  # of the largest entry: float32's rounding
    self._gradients: dict[Any, Callable] = {}

  def _noted(self, hook: Callable) -> Callable:
    """Returns a hook before an epoch that keeps what it gives."""

    def noted(*given):
      self.drawn.append(hook(*given))
      return self.drawn[-1]

    return noted

  def _packed(self, make: Callable[[int], Any]) -> HookTools:
    """Tools of a run on the stream's texts in blocks, whose corpora stay as long as the case."""
    folder = tempfile.mkdtemp()
    weakref.finalize(self, shutil.rmtree, folder)
    words = tiny.text('plain', self.documents)
    rest = words.tokenizer, words.special, self.documents.template, BLOCK
    text = PackedText(pathlib.Path(folder), *rest)
    stream = pack(self.documents, text)
    backbone = make(tokenizers.vocabulary_size(words.tokenizer))
    return make_tools(backbone, text, stream, sharding.make_mesh(1), 0, 8)

  @functools.cached_property
  def life(self) -> tuple[list[Moment], Watch, int]:
    """The three tasks, what was seen of them, and how often the step was compiled."""
    parts = Experiment(
      Config(method=self.settings, train=TRAIN), self.stream, self.tools.text, self.backbone, None,
      self.method, self.tools, tiny.params(self.backbone), (), 8,
    )  # fmt: skip
    loop = Loop(parts, None, quiet=True)
    programs = PROGRAMS.get(self.name, (0, 0, 0))
    watch = Watch(loop.trainer.train_step, self.tools.measured, programs)
    loop.trainer.train_step = watch.train_step
    now, moments = loop.init(Run(parts.initial_params()), None), []
    for task in self.stream.tasks:
      watch.task = task.index
      now, moment = self._learned(loop, now, task, watch)
      moments.append(moment)
    return moments, watch, watch.step._cache_size()

  def _learned(self, loop: Loop, now: Run, task: Task, watch: Watch) -> tuple[Run, Moment]:
    """One task, phase by phase, as `Loop.run` takes it."""
    now = loop.before_task(now, task)
    self.tools.folds.forget()
    memory, start, before = now.memory, host(now.params), len(watch.seen)
    self.drawn.clear()
    now = loop.train(now, task)
    end = host(now.params)
    memories = list(self.drawn) or [memory] * TRAIN.epochs
    resolved = lambda examples: [self.tools.example(e) for e in examples]
    plans = [self.method.plan(m, task) for m in memories]
    plans = [p._replace(new=resolved(p.new), old=resolved(p.old)) for p in plans]
    memory, plan = memories[0], plans[0]
    steps = plan.new and plan.takes_steps
    first = self.steps(plan, task)[0] if steps else [(e, False) for e in task.train]
    now = loop.after_task(now, task)
    self.tools.folds.forget()
    seen = watch.seen[before:]
    left = host(now.params)
    return now, Moment(task, memory, plan, plans, start, end, seen, now.memory, left, first)

  @property
  def moments(self) -> list[Moment]:
    """The three tasks."""
    return self.life[0]

  @property
  def last(self) -> Moment:
    """The third of them."""
    return self.moments[LAST]

  def steps(
    self, plan: TaskPlan, task: Task, count: int = TRAIN.epochs
  ) -> list[list[tuple[Example, bool]]]:
    """The examples of every step of a task, of `count` epochs of one plan."""
    return [items for epoch in range(count) for items in self.epoch(plan, task, epoch)]

  def course(self, moment: Moment) -> list[list[tuple[Example, bool]]]:
    """The examples of every step that the loop took in a task."""
    plans = enumerate(moment.plans)
    return [items for epoch, plan in plans for items in self.epoch(plan, moment.task, epoch)]

  def epoch(self, plan: TaskPlan, task: Task, epoch: int) -> list[list[tuple[Example, bool]]]:
    """The examples of every step of an epoch."""
    every = {e.number: e for e in (*plan.new, *plan.old)}
    text = self.tools.text
    rows_of = lambda example, replay: text.rows(example, replay)
    rest = 0, task.index, epoch, TRAIN.batch_size
    if self.packed:  # a block may be cut between epochs, so a step is made of rows
      sizes = tuple(np.array([text.size(e) for e in blocks]) for blocks in (plan.new, plan.old))
      made = packed_epochs.Epoch(plan, sizes, rows_of, *rest)
      return [[(row, row.replay) for row in step.rows] for step in made]
    found = []
    for step in composing.steps(plan, rows_of, *rest):
      asked = [row for row in step.rows if not row.generative]  # an example has one of them
      found.append([(every[row.number // 2], row.replay) for row in asked])
    return found

  # Rows, for the code and for the oracle.

  def rows(self, items: Items) -> list[Row]:
    """As the code has them."""
    made = lambda one, replay: (
      [dataclasses.replace(one, replay=replay)]
      if isinstance(one, Row)
      else self.tools.text.rows(one, replay)
    )
    return [row for one, replay in items for row in made(one, replay)]

  def oracle_rows(self, items: Items) -> list[texts.Row]:
    """As the oracle has them: from the words, not from the code's rows."""
    text, ids = self.tools.text.text_format, self.tools.text.tokenizer.get_vocab()
    if self.packed:
      blocks, found = self.stream.tasks, []
      for row in self.rows(items):
        task = next(t for t in blocks if 0 <= row.number // 2 - t.train[0].number < len(t.train))
        place = (row.number // 2 - task.train[0].number) * BLOCK
        said = [document.text for document in self.documents.tasks[task.index].train]
        found.append(
          texts.block(said, ids, place, BLOCK, row.tokens.tolist(), row.replay, task.index)
        )
      return found
    return [row for example, replay in items for row in texts.rows(example, replay, text, ids)]

  def elsewhere(self, moment: Moment) -> Any:
    """Parameters away from the end of a task: no term vanishes there and no two are alike."""
    random = np.random.default_rng(moment.task.index)
    draw = lambda x: np.asarray(x + 0.3 * random.standard_normal(x.shape), x.dtype)
    return jax.tree.map(draw, moment.end)

  def given(
    self, moment: Moment, params: Any, rows: Sequence[texts.Row], steps: int = 0
  ) -> objectives.Given:
    """Returns the arguments of the oracle after so many steps of the task."""
    epoch = len(moment.seen) // TRAIN.epochs or 1
    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    past = self.moments[: moment.task.index]
    examples = [[self.oracle_rows([(e, False)]) for e in m.task.train] for m in past]
    starts = [wide(m.start) for m in self.moments[: moment.task.index + 1]]
    updates = [p for m in past for p in m.updates] + moment.updates[:steps]
    return objectives.Given(
      dataclasses.asdict(self.settings), moment.task.index, wide(params), rows, starts,
      [wide(m.end) for m in past], examples, self.backbone.outputs, 4,
      self.classes_of or None, self.told, updates,
      [wide(host(taught)) for taught in self.tools.learned[: moment.task.index + 1]],
      steps // epoch * epoch, sum(len(m.updates) for m in past),
    )  # fmt: skip

  def wanted(
    self, moment: Moment, params: Any, items: Items, only: Callable | None = None, steps: int = 0
  ) -> float:
    """The oracle's objective after `steps` steps of the task; `only` chooses rows."""
    rows = [row for row in self.oracle_rows(items) if only is None or only(row)]
    return names.oracle(self.name)(self.given(moment, params, rows, steps))

  # Batches and objectives.

  def shape(self, rows: Sequence[Row], blocks: int = 1) -> Shape:
    """Returns a shape that holds these rows on any of the ways."""
    return batch_shapes.rungs([rows], blocks, -(-max(len(rows), 16) // 16) * 16)[0]

  def batch(
    self, moment: Moment, rows: Sequence[Row], shape: Shape | None = None, blocks: int = 1,
    keys: np.ndarray | None = None,
  ) -> Batch:  # fmt: skip
    """Rows laid out as the feed does, with the plan's tables."""
    keys = tiny.keys(len(rows)) if keys is None else keys
    shape = shape or self.shape(rows, blocks)
    heads = self.tools.at(moment.task.index).heads
    return batches.layout(rows, blocks, shape, keys, moment.plan.tables, heads)

  def judge(
    self, moment: Moment, batch: Batch, params: Any = None, way: str = '1', **more: Any
  ) -> Judged:
    """The objective, its terms and its gradient for all parameters.

    Args:
      moment: brings teacher and weights.
      batch: laid out for `way`.
      params: default: `elsewhere`.
      way: of WAYS.
      **more: `weights`, `teacher` or `method` in place of the moment's; `combined`: the gradient is
        the one that `combine` makes, not that of the objective.
    """
    devices, sharded, _ = WAYS[way]
    mesh = sharding.make_mesh(devices)
    params = self.elsewhere(moment) if params is None else params
    teacher = more.get('teacher', moment.memory['teacher'])
    weights = more.get('weights', moment.plan.weights)
    put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, sharded))
    trained, frozen, _ = trainable.split(params, ALL)
    combined = more.get('combined', False)
    fn = self.gradient(way, more.get('method', self.method), combined)
    (loss, values), gradient = jax.block_until_ready(
      fn(
        put(trained), put(frozen), put(host(teacher)),
        {k: np.float32(v) for k, v in weights.items()}, sharding.place_batch(batch, mesh),
        Groups.of(moment.plan.groups if combined else {}),
      )
    )  # fmt: skip
    return Judged(float(loss), {k: float(v) for k, v in values.items()}, flat(gradient))

  def gradient(self, way: str, method: Any, combined: bool = False) -> Callable:
    """The jitted objective; one a way, and a method (`seq` or one with other settings)."""
    devices, sharded, microbatches = WAYS[way]
    key = way, id(method), combined
    if key not in self._gradients:
      loss_fn = method.loss_fn or losses.plain(self.backbone)
      how = dict(fsdp=sharded, microbatches=microbatches, tasks=LAST + 1 if self.told else 0)
      judged = method if combined else method._replace(combine=None)
      fn = train_step.make_gradient(judged, loss_fn, sharding.make_mesh(devices), **how)
      self._gradients[key] = method, jax.jit(fn)  # the method stays, for its id must be its own
    return self._gradients[key][1]

  def apart(self, judge: Callable[..., Judged], whole: Judged) -> dict[str, np.ndarray]:
    """The gradient of every term alone; `judge` takes weights, and without them gives `whole`."""
    only = lambda term: {other: float(other == term) for other in whole.values}
    return {term: judge(weights=only(term)).gradient for term in whole.values}


@functools.lru_cache(maxsize=2)
def case(name: str, classes_of: Classes = (), told: bool = False) -> Case:
  """The case of a method; the last ones stay, for cells go method by method.

  A method that needs a head has one in every column.
  """
  needs = methods.settings(name).needs
  return Case(name, classes_of or (APART if 'head' in needs else ()), told)
