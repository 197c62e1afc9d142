"""The contract of a method: a record of pure functions, and the settings it is built from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax

from jcl.backbones import Backbone
from jcl.backbones.model_config import RandomFeatures
from jcl.batching.batch import Batch
from jcl.config import Group, check_values
from jcl.errors import UserError
from jcl.memory.teacher import ExternalTeacher
from jcl.memory.tools import Tools
from jcl.step.losses import Terms
from jcl.streams.stream import Stream, Task, TaskPlan
from jcl.types import Memory, Params, Tree

Hook = Callable[[Memory, Params, Task, Tools], tuple[Memory, Params]]
"""(memory, params, task, tools) -> memory, params."""

EpochHook = Callable[[Memory, Params, Task, int, Tools], Memory]
"""(memory, params, task, epoch, tools) -> memory."""


def _unchanged(
  memory: Memory, params: Params, task: Task, tools: Tools
) -> tuple[Memory, Params]:  # fmt: skip
  """A hook that does nothing."""
  return memory, params


class Method(NamedTuple):
  """A method's pure functions.

  Every field defaults to plain fine-tuning: `Method()` is `seq`.

  Attributes:
    init: (params, stream, tools) -> memory, a dict of pytrees and plain data in its final shapes.
      Its entry `teacher` is `teacher_params`, the only part of the memory that a step sees.
    before_task: (memory, params, task, tools) -> memory, params.
    plan: (memory, task) -> `TaskPlan`, the data that trains the task. No examples: the task is
      neither trained nor evaluated.
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}. The step minimises the
      sum over terms of weight times mean over the targets in `where_M`. None: plain cross-entropy,
      one term `ce`.
    penalty_fn: (params, teacher_params) -> {term: value}, terms that read no data.
    objective: takes f(params, batch) -> value, (means, terms), and returns such a function.
    combine: (gradients, teacher_params) -> gradient, where `TaskPlan.groups` gives each term of the
      loss a group: {group: gradient of Σ_k weights[k]·mean_k over its terms} becomes the gradient
      that the step follows. It sees whole (perhaps sharded) arrays in the global view, 0 where an
      entry does not train, None where a leaf is frozen; it costs one forward pass and a backward
      pass a group. Gradients of penalties and norms belong to no group: they are added to what it
      returns. A method that combines wraps no objective. None: one group of all terms.
    project_gradient: (gradient, params, teacher_params) -> gradient, in the global view, after
      `combine`, penalties and norms and before clipping and the optimiser; leaves of `gradient` are
      None where a leaf is frozen. None: the optimiser sees the gradient as it is.
    project: (updates, params, teacher_params, step) -> updates, after optimiser, learning rate and
      masks and before they are applied, in the global view; leaves of `updates` are None where a
      leaf is frozen, `step` counts the task's steps from 0. None: updates are applied as they are.
    after_step: (teacher_params, params, step) -> teacher_params, params. None: the teacher does not
      change within a task.
    after_task: (memory, params, task, tools) -> memory, params.
    params_for: (memory, params, task or None) -> the parameters that are evaluated, sampled and
      exported; None where the task id is not given. Within a task, where dev scores are taken,
      `memory` is as `before_task` left it and `params` are those in training, which must count.
    before_epoch: (memory, params, task, epoch, tools) -> memory, called before every epoch of a
      task with the parameters in training, epochs counted from 0. The plan is then asked for anew
      and trains this epoch alone. It has as many examples in every epoch, and in all of them the
      same `TaskPlan.largest`, so that shapes are chosen once. None: one plan trains all epochs.
  """

  init: Callable[[Params, Stream, Tools], Memory] = lambda params, stream, tools: {'teacher': {}}
  before_task: Hook = _unchanged
  plan: Callable[[Memory, Task], TaskPlan] = lambda memory, task: TaskPlan(task.train)
  loss_fn: Callable[[Params, Tree, Batch], Terms] | None = None
  penalty_fn: Callable[[Params, Tree], dict[str, jax.Array]] = lambda params, teacher_params: {}
  objective: Callable[[Callable], Callable] = lambda plain: plain
  combine: Callable[[Mapping[str, Tree], Tree], Tree] | None = None
  project_gradient: Callable[[Tree, Params, Tree], Tree] | None = None
  project: Callable[[Tree, Params, Tree, jax.Array], Tree] | None = None
  after_step: Callable[[Tree, Params, jax.Array], tuple[Tree, Params]] | None = None
  after_task: Hook = _unchanged
  params_for: Callable[[Memory, Params, Task | None], Params] = lambda memory, params, task: params
  before_epoch: EpochHook | None = None


@dataclasses.dataclass
class Settings(Group):
  """The settings of a method, and what is known of it before a tokenizer or a weight is read.

  A method's settings are a dataclass that derives from this class. Its fields have a default, and
  `jcl.config.number` and `choice` give them bounds. The attributes below are overridden as class
  attributes (`brings: ClassVar = ('rows',)`); `changes` and the last nine may be fields or
  properties, too.

  Attributes:
    scenarios: scenarios in which the method has a meaning.
    head_scenarios: scenarios in which the method can train a head over classes.
    needs: what a run must have: `task_id`, the task id in every scenario; `head`, a head over
      classes; `linear_head`, a linear one; `pre_norm`, a pre-norm decoder, whose blocks can be
      added without effect.
    starts_afresh: every task trains a fresh model, so that no optimiser state can be carried on.
    brings: parts of which a composition has one at most: `loss`, `rows` (replay), `objective`,
      `combine` (gradients), `slow` (parameters), `tree` (the method adds leaves to the parameters),
      `trainable` (the plan has rules of what trains).
    changes: hooks that return other parameters than they are given, of `before_task` and
      `after_task`. They give a composition its order, whatever the order of names: before a task
      the hooks that change parameters run last, so that teachers, draws and anchors of all others
      see the model as the last task left it; after a task they run first, so that all others see
      the model that goes on. A hook that changes parameters and is not named here is refused.
    holds_tree: the memory holds trees like the parameters, to which no leaf may then be added.
    neutral: settings under which the objective equals that of `seq` on a batch without replay rows
      and generative rows; None: there are no such settings.
    oracle: of a method from outside, `package.module:function`: given -> float, its objective from
      the formula in float64 NumPy, with which `jcl check` compares it. `given` has the fields
      of `Given` in tests/oracles/objectives.py. Empty: there is none.
    needs_jcl: least version of jcl that the method works with, such as `0.3`; empty: any.
    text_format: `plain`, `lamol` or `lamol_task`, the format of training rows; `packed` for raw
      text. In scenario cpt every method has `packed`, with a head every method has `class`.
    lora_dropout: dropout of the input of adapters, in training.
    block_every: layers of the base model for each block that the method adds, which trains in place
      of the model; 0: it adds none.
    teacher_path: path of another model that teaches; empty: no such model.
    teacher_family: `package.module:name` of its Family; empty: found by its model_type.
    takes_steps: whether the optimiser takes steps in any task; False: the model learns in hooks
      alone.
    keeps_backbone: whether most tasks change the head alone, so that the states of evaluated rows
      are kept until the backbone changes.
    random_features: random features that a linear head reads in place of the state; None: the head
      reads the state.
    chooses_state: whether the method weighs the states after all blocks that the head reads.
    adapters: whether adapters train in place of the model, at `train.adapter_learning_rate`; None
      (where the method adds leaves and does not say): perhaps.
  """

  scenarios: ClassVar[tuple[str, ...]] = ('cil', 'til', 'iil', 'dil', 'cpt')
  head_scenarios: ClassVar[tuple[str, ...]] = ('cil', 'til', 'dil')
  needs: ClassVar[tuple[str, ...]] = ()
  starts_afresh: ClassVar[bool] = False
  brings: ClassVar[tuple[str, ...]] = ()
  holds_tree: ClassVar[bool] = False
  neutral: ClassVar[Mapping[str, Any] | None] = {}
  oracle: ClassVar[str] = ''
  needs_jcl: ClassVar[str] = ''

  @property
  def changes(self) -> tuple[str, ...]:
    """See the class."""
    return ()

  @property
  def text_format(self) -> str:
    """See the class."""
    return 'plain'

  @property
  def lora_dropout(self) -> float:
    """See the class."""
    return 0.0

  @property
  def block_every(self) -> int:
    """See the class."""
    return 0

  @property
  def takes_steps(self) -> bool:
    """See the class."""
    return True

  @property
  def keeps_backbone(self) -> bool:
    """See the class."""
    return False

  @property
  def random_features(self) -> RandomFeatures | None:
    """See the class."""
    return None

  @property
  def chooses_state(self) -> bool:
    """See the class."""
    return False

  @property
  def teacher_path(self) -> str:
    """See the class."""
    return ''

  @property
  def teacher_family(self) -> str:
    """See the class."""
    return ''

  @property
  def adapters(self) -> bool | None:
    """See the class."""
    return None if 'tree' in self.brings else False

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds the method.

    Args:
      backbone: the model that learns.
      teacher: the model that `teacher_path` names; None where it is empty.
    """
    raise NotImplementedError(f'{type(self).__name__}.build')

  def check(self) -> None:
    """Refuses values out of their bounds; a method adds what its settings rule out together.

    Raises:
      UserError: names the field and what would be right.
    """
    check_values(self, 'method.')

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses settings that do not fit the stream, the text or the model of a run.

    Args:
      scenario: scenario of the run.
      tools: tools of the run, of which only facts may be read: nothing may be computed.

    Raises:
      UserError: names the field and what would be right.
    """

  def max_cached_examples(self, stream: Stream) -> int:
    """Returns how many examples the method's tables of states or logits can come to hold."""
    return 0


def require(holds: bool, field: str, value: Any, right: str) -> None:
  """Refuses a setting of a method.

  Args:
    holds: whether the value is right.
    field: name of the setting.
    value: its value.
    right: what the value must be.

  Raises:
    UserError: `holds` is false.
  """
  if not holds:
    raise UserError(f'method.{field} is {value!r}; it must be {right}')
