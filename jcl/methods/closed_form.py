"""A linear head that is solved in closed form, over a frozen backbone.

    ncm     w_c = μ_c / ‖μ_c‖                                    cosine to the mean of a class
    lda     w_c = Σ_s⁻¹ μ_c, b_c = −½ μ_cᵀ Σ_s⁻¹ μ_c + log π_c    shrunken linear discriminant
    ranpac  W = (G + λ I)⁻¹ C over h = relu(x R)                  McDonnell et al. 2023
    klda    `lda` over h = √(2/P) cos(x R / σ + u)                Momeni et al. 2024

φ is the state that the head reads; x is φ with the mean of its D entries subtracted, divided by
their standard deviation. μ_c is the mean and π_c the share of class c, Σ_s the scatter within
classes, shrunk; R and u are random and fixed (jcl.backbones.heads). After each task its rows are
added to the sums n_c, Σ φ, Σ φ φᵀ (G = Σ h hᵀ, C = Σ h yᵀ), and the head is solved from the sums of
all tasks. So the head is that of joint training, whatever the order of tasks.
The papers standardise φ by the first task and choose λ on the newest task, so there the order
matters; here λ is chosen on a fifth of all rows, drawn by a hash of their tokens.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jcl.backbones import Backbone, heads
from jcl.backbones.model_config import RandomFeatures
from jcl.config import choice, number, only_with
from jcl.errors import count_of
from jcl.memory import class_sums
from jcl.memory.class_sums import Solved, Sums
from jcl.memory.teacher import ExternalTeacher
from jcl.memory.tools import Tools
from jcl.methods.method import Method, Settings
from jcl.streams.stream import Lazy, Task, TaskPlan

HELD_OUT = 5  # one row in so many is held out to choose the ridge
SHOWN = 3  # classes that a warning names
RANDOM = ('ranpac', 'klda')


@dataclasses.dataclass
class ClosedForm(Settings):
  """No gradient step is taken; the memory holds sums, and no row is stored."""

  solver: str = choice('ranpac', 'klda', 'lda', 'ncm')
  # P, random features that the head reads
  projection: int = only_with(number(4000, least=1), {'solver': RANDOM})
  # λ in units of the mean eigenvalue of G; 0: chosen on a fifth of the rows
  ridge: float = only_with(number(0.0, least=0), {'solver': 'ranpac'})
  # s of Σ_s = (1 − s) Σ_w + s tr(Σ_w) / P I
  shrinkage: float = only_with(number(1e-2, least=0, most=1), {'solver': ('lda', 'klda')})
  bandwidth: float = only_with(number(2.0, above=0), {'solver': 'klda'})  # σ, in units of √D
  scenarios: ClassVar = ('cil', 'til', 'dil')
  needs: ClassVar = ('head', 'linear_head')
  changes: ClassVar = ('after_task',)

  @property
  def takes_steps(self) -> bool:
    """Returns false: the head is solved after each task."""
    return False

  @property
  def keeps_backbone(self) -> bool:
    """Returns true: the head alone changes."""
    return True

  @property
  def random_features(self) -> RandomFeatures | None:
    """Returns the random features that the head reads in place of the state, if any."""
    if self.solver == 'ranpac':
      return RandomFeatures('relu', self.projection)
    if self.solver == 'klda':
      return RandomFeatures('fourier', self.projection, self.bandwidth)
    return None

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `closed_form`."""
    return closed_form(backbone, self)


def closed_form(backbone: Backbone, settings: ClosedForm) -> Method:
  """Returns the method; its memory holds sums in float64, packed."""
  chooses, solve = settings.solver == 'ranpac' and not settings.ridge, solver_of(settings)

  def features(params, batch):
    return heads.features(params['head'], backbone.hidden(params, batch))

  def init(params, stream, tools):
    size = params['head']['kernel'].shape
    return {
      'teacher': {},
      'sums': class_sums.nothing(size, shares=1 + chooses, second=settings.solver != 'ncm'),
    }

  def plan(memory, task):
    return TaskPlan(task.train, takes_steps=False)

  def after_task(memory, params, task, tools):
    rows = Lazy(task.train, lambda _, one: tools.text.rows(tools.example(one))[0])

    def body(sums, members, values):
      own = [rows[i] for i in members]
      classes = np.array([row.wanted[0] for row in own])
      share = np.array([int(chooses and _held_out(row.tokens)) for row in own])
      return class_sums.add(sums, np.concatenate(values), classes, share)

    start = class_sums.unpacked(memory['sums'])
    sums = tools.fold_targets(features, params, rows, body, start, 'features')
    if not sums['count'].any():  # a plan calls the hook with shapes alone
      return memory, params
    found = solve(sums)
    _report(found, sums, task, tools, settings)
    head, dtype = params['head'], params['head']['kernel'].dtype
    head = {**head, 'kernel': found.kernel_PC.astype(dtype), 'bias': found.bias_C.astype(dtype)}
    return memory | {'sums': class_sums.packed(sums)}, {**params, 'head': head}

  return Method(init, plan=plan, after_task=after_task)


def solver_of(settings: ClosedForm) -> Callable[[Sums], Solved]:
  """Returns the function that solves a head from unpacked sums."""
  if settings.solver == 'ncm':
    return class_sums.nearest_mean
  if settings.solver == 'ranpac':
    return functools.partial(class_sums.ridge, strength=settings.ridge)
  return functools.partial(class_sums.discriminant, shrinkage=settings.shrinkage)


def _held_out(tokens: np.ndarray) -> bool:
  """Whether a row is held out; depends on its tokens alone, so that the order of rows is free."""
  return zlib.crc32(np.asarray(tokens, np.int32).tobytes()) % HELD_OUT == 0


def _report(
  found: Solved, sums: Sums, task: Task, tools: Tools, settings: ClosedForm
) -> None:  # fmt: skip
  """Reports what the head was solved from, and warns of classes of one row and a poor scatter."""
  count_C, after = sums['count'].sum(0), f'task {task.name}'
  rows, features = int(count_C.sum()), sums['total'].shape[1]
  line = {'after': task.name, 'solver': settings.solver, 'rows': rows, 'features': features}
  if settings.solver == 'ranpac':
    line['ridge'] = found.strength
  elif settings.solver != 'ncm':
    line |= {'shrinkage': found.strength, 'singular': found.singular}
  tools.report(closed_form=line)
  lone = [tools.stream.classes[c] for c in task.classes if count_C[c] == 1]
  if lone:
    names = ', '.join(map(repr, lone[:SHOWN])) + (' and others' if len(lone) > SHOWN else '')
    tools.report(
      warnings=f'{after}: of {count_of(len(lone), "class")} there is one training row, on which '
      f'alone its part of the head of method.solver {settings.solver!r} rests: {names}'
    )
  poor = f'{after}: the scatter of {count_of(rows, "row")} in {features} features is singular'
  if found.singular and found.strength != settings.shrinkage:
    tools.report(
      warnings=f'{poor} with method.shrinkage {settings.shrinkage:g}; {found.strength:g} is used'
    )
  elif found.singular and settings.solver == 'lda':
    tools.report(warnings=f'{poor}; method.shrinkage {found.strength:g} gives it an inverse')
