"""How forgetting is held off: methods are records of pure functions, one file each."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from jcl.errors import UserError
from jcl.streams.stream import Plan


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
  plan: Callable = lambda memory, task: Plan(task.train)
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

  def check(self) -> None:
    """Refuses settings out of their range.

    Raises:
      UserError: naming the field.
    """

  def most(self, stream: Any) -> int:
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


def not_negative(settings: Settings, *fields: str) -> None:
  """Raises a UserError that names the first of the fields whose value is below 0."""
  for field in fields:
    value = getattr(settings, field)
    require(value >= 0, field, value, 'at least 0')


from jcl.methods import composed  # noqa: E402
from jcl.methods.compose import compose  # noqa: E402
from jcl.methods.derpp import Derpp, derpp  # noqa: E402
from jcl.methods.distill import Distill, distill  # noqa: E402
from jcl.methods.ewc import Ewc, ewc  # noqa: E402
from jcl.methods.expand import Expand, expand  # noqa: E402
from jcl.methods.joint import Joint, joint  # noqa: E402
from jcl.methods.l2 import L2, l2  # noqa: E402
from jcl.methods.lamol import Lamol, lamol  # noqa: E402
from jcl.methods.lamol_kd import LamolKd, lamol_kd  # noqa: E402
from jcl.methods.lora import Lora, lora  # noqa: E402
from jcl.methods.maml import Maml, maml  # noqa: E402
from jcl.methods.mas import Mas, mas  # noqa: E402
from jcl.methods.olora import Olora, olora  # noqa: E402
from jcl.methods.pretrain import Pretrain, pretrain  # noqa: E402
from jcl.methods.replay import Replay, replay  # noqa: E402
from jcl.methods.reptile import Reptile, reptile  # noqa: E402
from jcl.methods.seq import Seq, seq  # noqa: E402
from jcl.methods.single import Single, single  # noqa: E402

METHODS: dict[str, tuple[Callable[..., Method], type[Settings]]] = {
  'seq': (seq, Seq),
  'joint': (joint, Joint),
  'single': (single, Single),
  'replay': (replay, Replay),
  'derpp': (derpp, Derpp),
  'distill': (distill, Distill),
  'lamol': (lamol, Lamol),
  'lamol_kd': (lamol_kd, LamolKd),
  'pretrain': (pretrain, Pretrain),
  'lora': (lora, Lora),
  'olora': (olora, Olora),
  'expand': (expand, Expand),
  'reptile': (reptile, Reptile),
  'maml': (maml, Maml),
  'ewc': (ewc, Ewc),
  'l2': (l2, L2),
  'mas': (mas, Mas),
}


def settings(name: str) -> Settings:
  """The default settings of the method `name`, or of several with `+` between them.

  Raises:
    UserError: there is no such method, or the methods cannot be one.
  """
  if composed.SIGN in name:
    return composed.settings(name.split(composed.SIGN))
  if name not in METHODS:
    raise UserError(f'no method is called {name!r}; there are {", ".join(METHODS)}')
  return METHODS[name][1]()


def parts(chosen: Settings) -> dict[str, Settings]:
  """{name: settings} of one method, or of those that are composed."""
  if isinstance(chosen, composed.Composed):
    return chosen.parts
  return {next(name for name, (_, kind) in METHODS.items() if type(chosen) is kind): chosen}


def name_of(chosen: Settings) -> str:
  """The name that `settings` would give them for."""
  return composed.SIGN.join(parts(chosen))


def make(backbone: Any, chosen: Settings, elder: Any = None) -> Method:
  """The method that `chosen` are the settings of.

  Args:
    backbone: what learns.
    chosen: the settings.
    elder: the `memory.teacher.Elder` that their `teacher_path` names; None where it is empty.
  """
  made = {}
  for name, part in parts(chosen).items():
    fields = {field.name for field in dataclasses.fields(part)}
    taught = (elder,) if elder is not None and 'teacher_path' in fields else ()
    made[name] = METHODS[name][0](backbone, part, *taught)
  return compose(made) if len(made) > 1 else made[name_of(chosen)]
