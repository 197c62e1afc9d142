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
matters; here λ is chosen on a fifth of all rows, drawn by a hash of their tokens. Where classes
have unequal numbers of rows, class means in G and C are weighed, so that all classes count alike.

Under `choose_state` the state is chosen on the first task (jcl.memory.state_choice). Under `adapt`
the model, or an adapter, then trains on the first task, L = CE(new), with a head that is replaced
afterwards (McDonnell et al.). Both precede the sums: the order of the other tasks changes nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jcl.backbones import Backbone, heads, lora
from jcl.backbones.model_config import RandomFeatures
from jcl.config import choice, number, only_with
from jcl.errors import UserError, count_of
from jcl.memory import class_sums, state_choice
from jcl.memory.class_sums import Solved, Sums
from jcl.memory.teacher import ExternalTeacher
from jcl.memory.tools import Tools
from jcl.methods.method import Method, Settings
from jcl.streams.stream import Task, TaskPlan

HELD_OUT = 5  # one row in so many is held out to choose the ridge
SHOWN = 3  # classes that a warning names
RANDOM = ('ranpac', 'klda')
FIXED = (('^head/(projection|phase|mix)$', False),)
TRAINED = {
  'model': (('', True),),
  'lora': (('/scale$', False), ('^(lora|head)/', True), ('', False)),
}
SCALE = 2.0  # of an adapter


@dataclasses.dataclass
class ClosedForm(Settings):
  """No gradient step is taken by default; the memory holds sums, and no row is stored."""

  # ridge regression or LDA on random features, LDA on the states, or nearest class means
  solver: str = choice('ranpac', 'klda', 'lda', 'ncm')
  # P, random features that the head reads
  projection: int = only_with(number(4000, least=1), {'solver': RANDOM})
  # λ in units of the mean eigenvalue of G; 0: chosen on a fifth of the rows
  ridge: float = only_with(number(0.0, least=0), {'solver': 'ranpac'})
  # s of Σ_s = (1 − s) Σ_w + s tr(Σ_w) / P I; 0: estimated from Σ_w and the number of rows
  shrinkage: float = only_with(number(0.0, least=0, most=1), {'solver': ('lda', 'klda')})
  bandwidth: float = only_with(number(2.0, above=0), {'solver': 'klda'})  # σ, in units of √D
  # choose blocks and pooling of the state by the dev score of the first task
  choose_state: bool = False
  # what trains on the first task, with a head, before it is frozen for good; '': nothing
  adapt: str = choice('', 'model', 'lora')
  r: int = only_with(number(16, least=1), {'adapt': 'lora'})  # rank of the adapter
  # projections that have an adapter, whose scale is that of `lora` at its defaults, 2
  targets: tuple[str, ...] = only_with(('q', 'v'), {'adapt': 'lora'})
  scenarios: ClassVar = ('cil', 'til', 'dil')
  needs: ClassVar = ('head', 'linear_head')

  @property
  def changes(self) -> tuple[str, ...]:
    """Returns the hooks that change parameters."""
    early = self.choose_state or self.adapt == 'lora'
    return ('before_task', 'after_task') if early else ('after_task',)

  @property
  def takes_steps(self) -> bool:
    """Returns whether the first task trains the model: heads are solved after each task."""
    return bool(self.adapt)

  @property
  def adapters(self) -> bool:
    """Returns whether an adapter trains in place of the model."""
    return self.adapt == 'lora'

  @property
  def keeps_backbone(self) -> bool:
    """Returns true: after the first task the head alone changes."""
    return True

  @property
  def random_features(self) -> RandomFeatures | None:
    """Returns the random features that the head reads in place of the state, if any."""
    if self.solver == 'ranpac':
      return RandomFeatures('relu', self.projection)
    if self.solver == 'klda':
      return RandomFeatures('fourier', self.projection, self.bandwidth)
    return None

  @property
  def chooses_state(self) -> bool:
    """Returns whether the state that the head reads is chosen."""
    return self.choose_state

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses a choice of the state without rows or classes to choose by."""
    if not self.choose_state:
      return
    task = tools.stream.tasks[0]
    if tools.backbone.states is None:
      raise UserError('method.choose_state is true, but the model does not offer its states')
    if len({e.label for e in task.train}) < 2 or not (task.dev or len(task.train) >= HELD_OUT):
      raise UserError(
        f'method.choose_state is true, but task {task.name} has no two classes, or neither dev '
        f'rows nor {HELD_OUT} training rows, by which a state could be chosen; put another task '
        'first, or give backbone.depth and backbone.pooling'
      )

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `closed_form`."""
    return closed_form(backbone, self)


def closed_form(backbone: Backbone, settings: ClosedForm) -> Method:
  """Returns the method; its memory holds sums in float64, packed."""
  chooses, solve = settings.solver == 'ranpac' and not settings.ridge, solver_of(settings)
  choose = state_choice.chooser(backbone)

  def features(params, batch):
    return heads.features(params['head'], backbone.hidden(params, batch))

  def init(params, stream, tools):
    size = params['head']['kernel'].shape
    return {
      'teacher': {},
      'sums': class_sums.nothing(size, shares=1 + chooses, second=settings.solver != 'ncm'),
      'state': {},
      'frozen': not settings.adapt,
    }

  def before_task(memory, params, task, tools):
    if settings.choose_state and not memory['state']:
      params, state = choose(params, task, tools)
      memory = memory | {'state': state}
    if settings.adapt == 'lora' and not memory['frozen']:
      given = params, tools.key('adapter', task.index), settings.r, SCALE * settings.r
      params = {**params, 'lora': lora.init_adapter(*given, settings.targets)}
    return memory, params

  def plan(memory, task):
    if memory['frozen']:
      return TaskPlan(task.train, takes_steps=False)
    return TaskPlan(task.train, trainable=(*FIXED, *TRAINED[settings.adapt]))

  def after_task(memory, params, task, tools):
    if not memory['frozen']:
      memory, params = memory | {'frozen': True}, lora.merged(params)
    rows = state_choice.rows_of(task.train, tools)

    def body(sums, members, values):
      own = [rows[i] for i in members]
      classes = np.array([row.wanted[0] for row in own])
      share = np.array([int(chooses and _held_out(row.tokens)) for row in own])
      return class_sums.add(sums, np.concatenate(values), classes, share)

    start = class_sums.unpacked(memory['sums'])
    sums = tools.fold_targets(features, params, rows, body, start, 'features')
    if not sums['count'].any():  # a plan calls the hook with shapes alone
      return memory, params
    found = solve(sums, tools)
    _report(found, sums, task, tools, settings)
    head, dtype = params['head'], params['head']['kernel'].dtype
    head = {**head, 'kernel': found.kernel_PC.astype(dtype), 'bias': found.bias_C.astype(dtype)}
    return memory | {'sums': class_sums.packed(sums)}, {**params, 'head': head}

  return Method(init, before_task, plan, after_task=after_task)


def solver_of(settings: ClosedForm) -> Callable[[Sums, Tools], Solved]:
  """Returns the function that solves a head from unpacked sums."""
  if settings.solver == 'ncm':
    return lambda sums, tools: class_sums.nearest_mean(sums)
  if settings.solver == 'ranpac':
    strength = settings.ridge
    return lambda sums, tools: class_sums.ridge(sums, strength, tools.fold)
  shrinkage = settings.shrinkage
  return lambda sums, tools: class_sums.discriminant(sums, shrinkage)


def _held_out(tokens: np.ndarray) -> bool:
  """Whether a row is held out; depends on its tokens alone, so that the order of rows is free."""
  return state_choice.mark(tokens) % HELD_OUT == 0


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
  if found.singular and settings.shrinkage and found.strength != settings.shrinkage:
    tools.report(
      warnings=f'{poor} with method.shrinkage {settings.shrinkage:g}; {found.strength:g} is used'
    )
  elif found.singular and settings.solver == 'lda':
    tools.report(warnings=f'{poor}; a shrinkage of {found.strength:g} gives it an inverse')
