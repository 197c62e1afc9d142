"""Columns of what a method makes of the past: teacher, Fisher, distillation, blocks."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from oracles import distillation, objectives
from support import tiny

from jcl import methods
from jcl.batching import batch as batches
from jcl.batching.batch import Shape
from jcl.step import losses, sharding
from jcl.training.hook_tools import make_tools
from scorecard import cases
from scorecard.cases import LAST, Case
from scorecard.checks import VALUE, same
from scorecard.drawn import draws
from scorecard.wrong import Wrong, above, equal, near, nothing


def teacher(case: Case) -> None:
  """No gradient goes into the teacher, which stands still, is deterministic and may be cached."""
  moment = case.last
  rows = case.rows(moment.items)
  params = jax.tree.map(jnp.asarray, case.elsewhere(moment))
  batch = case.batch(moment, rows)

  def objective(teacher_params, batch):
    terms = case.loss_fn(params, teacher_params, batch)
    sums = [losses.total(v, where, batch) for v, where in terms.values()]
    return sum(total / (count + 1) for total, count in sums)

  held = cases.host(moment.memory['teacher'])
  grads = jax.jit(jax.grad(objective, allow_int=True))
  real = lambda leaf: leaf.dtype != jax.dtypes.float0  # counts and keys have no gradient
  into = lambda *given: cases.flat(list(filter(real, jax.tree.leaves(grads(*given)))))
  nothing('gradient into the teacher', into(held, batch))
  if moment.plan.tables and not draws(case):  # else the teacher reads other rows, by the oracle
    whole = case.batch(dataclasses.replace(moment, plan=moment.plan._replace(tables={})), rows)
    whole_teacher = teaches(case)
    wanted = case.judge(moment, whole, params, teacher=whole_teacher)
    nothing('gradient into the whole teacher', into(whole_teacher, whole))
    same('cached', case.judge(moment, batch, params), wanted, VALUE)
  noisy = _in_training(case)
  known = case.tools.learned[LAST] if case.tools.learned else None
  tools = dataclasses.replace(
    case.tools.at(LAST), taught=known, calls=[], given=[]
  )  # a teacher trains in training mode
  memory, _ = noisy.before_task(case.moments[LAST - 1].after, moment.start, moment.task, tools)
  if draws(case):
    memory = noisy.before_epoch(memory, moment.start, moment.task, 0, tools)
  kept = lambda memory: cases.flat((memory['teacher'], memory.get('tables', ())))
  near('what it keeps, where training is noisy', kept(memory), kept(moment.memory), 1e-6)
  if case.method.after_step is None:
    nothing(
      'what training changes in the teacher',
      cases.flat(held) - cases.flat(cases.host(moment.after['teacher'])),
    )


def teaches(case: Case) -> dict:
  """The whole teacher of the third task: the model before it, or one that learned it apart."""
  found = case.life and case.tools.learned
  return cases.host(found[LAST]) if found else case.last.start


def _in_training(case: Case) -> methods.Method:
  """The method on a backbone whose states are others in training: dropout that cannot be missed."""
  hidden = case.backbone.hidden
  noisy = lambda params, batch, train=False: hidden(params, batch) * (2.0 if train else 1.0)
  return methods.make(dataclasses.replace(case.backbone, hidden=noisy), case.settings)


def has_teacher(case: Case) -> bool:
  """Whether a data term looks at what the past left."""
  return case.method.loss_fn is not None and bool(jax.tree.leaves(case.last.memory['teacher']))


def average(case: Case) -> None:
  """The parameters that are evaluated after each task are the oracle's, from the run's course."""
  oracle, updates, changes = objectives.AVERAGES[case.name], [], []
  for moment in case.moments:
    updates += moment.updates
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), moment.end)
    wanted = oracle(case.given(moment, wide, ())._replace(updates=updates))
    found = case.method.params_for(moment.after, moment.end, None)
    near(
      f'average after task {moment.task.index + 1}', cases.flat(found), cases.flat(wanted), VALUE
    )
    changes.append(np.abs(cases.flat(wanted) - cases.flat(moment.end)).max())
  above('what averaging changes', max(changes), 1e-3)


def freeze(case: Case) -> None:
  """The model trains in the epochs of warm-up alone, and of a head only what is new in a task."""
  first = case.moments[0]
  epoch = len(case.steps(first.plan, first.task)) // cases.TRAIN.epochs
  kept = lambda params: cases.flat({k: x for k, x in params.items() if k != 'head'})
  course = [kept(params) for params in (first.start, *(p for m in case.moments for p in m.updates))]
  warm = epoch * case.settings.warmup_epochs
  for number in range(warm):
    moved = np.abs(course[number + 1] - course[number]).max()
    above(f'what step {number + 1} of the warm-up moves', moved, 1e-4)
  above('steps after the warm-up', len(course) - 1 - warm, 0)
  for found in course[warm + 1 :]:
    nothing('what moves after the warm-up', found - course[warm])
  for moment in case.moments:
    off_DC = moment.end['head']['kernel'] - moment.start['head']['kernel']
    own = list(moment.task.classes)
    what = f'what task {moment.task.index + 1} moves of'
    above(f'{what} its classes', np.abs(off_DC[:, own]).max(), 1e-3)
    nothing(f'{what} others', np.delete(off_DC, own, 1))


def warms_up(case: Case) -> bool:
  """Whether it freezes the model after some epochs."""
  return hasattr(case.settings, 'warmup_epochs')


def averages(case: Case) -> bool:
  """Whether it evaluates an average of what it trained, and that has an oracle."""
  return case.name in objectives.AVERAGES


def fisher(case: Case) -> None:
  """The same for batches of 1 and 64, on 8 devices, in a loop over examples, without dropout."""
  moment, (fn,) = case.moments[0], set(case.life[1].measured)
  params, examples = moment.end, moment.task.train
  rows = [case.tools.text.rows(e) for e in examples]
  shape = Shape(2, 24, 32)
  one = jax.jit(fn)
  each = [cases.flat(one(params, batches.layout(r, 1, shape, tiny.keys(len(r))))) for r in rows]
  wanted = np.mean(each, 0)
  above('largest entry', wanted.max(), 0)
  for size, count in ((1, 1), (64, 1), (8, 8)):  # in the last one each device has an example
    mesh = sharding.make_mesh(count)
    tools = make_tools(case.backbone, case.tools.text, case.stream, mesh, 0, size)
    found = cases.flat(tools.mean_examples(fn, params, examples))
    near(f'by {size} on {count} device(s)', found, wanted, VALUE)
  before = case.moments[0].memory
  tools = make_tools(case.backbone, case.tools.text, case.stream, sharding.make_mesh(1), 0, 8)
  after, _ = _in_training(case).after_task(before, params, moment.task, tools)
  near('with dropout in training', cases.flat(after['teacher']),
       cases.flat(moment.after['teacher']), VALUE)  # fmt: skip


def measures(case: Case) -> bool:
  """Whether it asks what its parameters matter to."""
  return bool(case.life and case.life[1].measured)


def direction(case: Case) -> None:
  """Each term of distillation is T²·KL(teacher ‖ student), target by target, at any T.

  With a head it is taken over the classes that the teacher had learned.
  """
  moment = case.last
  student, past = case.elsewhere(moment), teaches(case)
  new = hasattr(case.settings, 'teacher_epochs')  # its terms are of new rows alone
  rows = case.rows([(e, replay) for e, replay in moment.items if not (new and replay)])
  batch = case.batch(dataclasses.replace(moment, plan=moment.plan._replace(tables={})), rows)
  ordered = [rows[i] for i in batches.deal(rows, 1)[0]]
  given = case.given(moment, student, ordered)
  both = [
    np.concatenate(
      [
        np.array(objectives.logits(given, params, row))[
          :, objectives.known_classes(given, row.task)
        ]
        for row in ordered
      ]
    )
    for params in (given.params, jax.tree.map(lambda x: np.asarray(x, np.float64), past))
  ]
  for temperature in (1.0, 2.0, 8.0):
    settings = dataclasses.replace(case.settings, distill_temperature=temperature)
    method = methods.make(case.backbone, settings)
    terms = jax.jit(method.loss_fn)(student, past, batch)
    kept = {term: np.asarray(v) for term, (v, _) in terms.items() if term.startswith('kd')}
    if not kept:
      raise Wrong(
        f'{case.name} has a setting distill_temperature and, at its defaults, no term whose name '
        'begins with kd; name a term so, or the setting otherwise'
      )
    wanted = [distillation.divergence(z, y, temperature) for z, y in zip(*both, strict=True)]
    back = [distillation.divergence(y, z, temperature) for z, y in zip(*both, strict=True)]
    above('what the direction changes', np.abs(np.subtract(wanted, back)).max(), 0.01 * max(wanted))
    for term, found in kept.items():
      near(f'{term} at T = {temperature:g}', found[: len(wanted)], wanted, 1e-4)


def distils(case: Case) -> bool:
  """Whether it has a temperature."""
  return hasattr(case.settings, 'distill_temperature')


def expansion(case: Case) -> None:
  """Before it trains, a grown model says what the smaller one said; after it, it does not."""
  for before, moment in itertools.pairwise(case.moments):
    batch = case.batch(moment, case.rows(moment.items))
    said = jax.jit(case.backbone.logits)
    near('logits of the grown model', said(moment.start, batch), said(before.end, batch), 1e-6)
    depths = [len(m.start['layers']['o']['kernel']) for m in (before, moment)]
    equal('blocks that a task adds', depths[1] - depths[0], 2)
    off = np.abs(np.asarray(said(moment.end, batch)) - np.asarray(said(moment.start, batch)))
    above('what training changes', off.max(), 1e-3)
    fresh = ~np.asarray(moment.start['layers']['o']['kernel']).any((1, 2))
    equal('blocks that start with nothing', fresh.sum(), 2)
    layers = (m['layers'] for m in (moment.end, moment.start))
    moved = jax.tree.map(lambda a, b: np.abs(a - b)[~fresh], *layers)
    nothing('what training moves in old blocks', cases.flat(moved))


def grows(case: Case) -> bool:
  """Whether its parameters grow from task to task."""
  return case.name in cases.GROWING
