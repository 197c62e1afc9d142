"""The contract of a method: a record of pure functions, and the settings it is built from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from jcl.config import check_values
from jcl.errors import UserError
from jcl.streams.stream import TaskPlan


def _keep(memory, params, task, tools):
  """A hook that does nothing."""
  return memory, params


class Method(NamedTuple):
  """A method's pure functions, in the order in which the loop calls them.

  Every field defaults to plain fine-tuning: `Method()` is `seq`.

  Attributes:
    init: (params, stream, tools) -> memory, a dict of pytrees and plain data in its final shapes;
      its entry `teacher` is `teacher_params`, all of it that the step sees.
    before_task: (memory, params, task, tools) -> memory, params.
    plan: (memory, task) -> Plan, what trains the task, as data.
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}; None: plain
      cross-entropy, one term `ce`.
    penalty_fn: (params, teacher_params) -> {term: value}, terms without data.
    objective: wraps f(params, batch) -> value, (means, terms).
    after_step: (teacher_params, params, step) -> the same two; None: the teacher stands still.
    after_task: (memory, params, task, tools) -> memory, params.
    params_for: (memory, params, task | None) -> the params that are evaluated, sampled, exported;
      None: the task is not told.
  """

  init: Callable = lambda params, stream, tools: {'teacher': {}}
  before_task: Callable = _keep
  plan: Callable = lambda memory, task: TaskPlan(task.train)
  loss_fn: Callable | None = None
  penalty_fn: Callable = lambda params, teacher_params: {}
  objective: Callable = lambda plain: plain
  after_step: Callable | None = None
  after_task: Callable = _keep
  params_for: Callable = lambda memory, params, task: params


@dataclasses.dataclass
class Settings:
  """What is known of a method before a tokenizer or a weight is read.

  Attributes:
    text_format: `plain`, `lamol`, `lamol_task`, `packed` or `class`; in scenario cpt all have
      `packed`.
    scenarios: those it has a meaning in.
    head_scenarios: those in which it can train a head over classes.
    needs: `task_id` where the task must be told in every scenario; `pre_norm`: a decoder, whose
      blocks add to the residual and may add nothing.
    lora_dropout: of the input of adapters, in training; a field of the methods that train them.
    teacher_path: of another model that teaches; a field of the methods that can have one.
    starts_afresh: every task trains a fresh model, so that no optimiser state can be carried on.
    brings: what a method has that only one of a composition may have: `loss`, old `rows`, an
      `objective`, `slow` parameters, a `tree` of parameters that it adds to.
    holds_tree: its memory has trees like the parameters, which may then not be added to.
    neutral: settings under which the objective equals that of `seq` on a batch without replay or
      generative rows.
    needs_jcl: the least version of jcl that a method from outside works with; empty: any.
  """

  text_format: ClassVar[str] = 'plain'
  scenarios: ClassVar[tuple[str, ...]] = ('cil', 'til', 'iil', 'dil', 'cpt')
  head_scenarios: ClassVar[tuple[str, ...]] = ('cil', 'til', 'dil')
  needs: ClassVar[tuple[str, ...]] = ()
  starts_afresh: ClassVar[bool] = False
  lora_dropout: ClassVar[float] = 0.0
  brings: ClassVar[tuple[str, ...]] = ()
  holds_tree: ClassVar[bool] = False
  teacher_path: ClassVar[str] = ''
  neutral: ClassVar[Mapping[str, Any]] = {}
  needs_jcl: ClassVar[str] = ''

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds the method.

    Args:
      backbone: what learns.
      teacher: the `memory.teacher.ExternalTeacher` that `teacher_path` names; None where it is
        empty.
    """
    raise NotImplementedError(f'{type(self).__name__}.build')

  def check(self) -> None:
    """Refuses values out of their bounds; a method adds what its settings rule out together.

    Raises:
      UserError: names the field and what would be right.
    """
    check_values(self, 'method.')

  def max_cached_examples(self, stream: Any) -> int:
    """Examples whose states or logits its tables can come to hold; 0: it has no tables."""
    return 0

  def check_run(self, scenario: str, tools: Any) -> None:
    """Refuses settings that do not go with the stream, the text or the backbone of a run.

    Args:
      scenario: of the run.
      tools: its own; nothing may be computed with them.

    Raises:
      UserError: naming the field.
    """


def require(holds: bool, field: str, value: Any, right: str) -> None:
  """Raises a UserError that names the method's field unless `holds`."""
  if not holds:
    raise UserError(f'method.{field} is {value!r}; it must be {right}')
