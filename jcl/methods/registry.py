"""Methods by name: those of this package and those of other packages."""

import dataclasses
import inspect
import sys

from jcl import plugins
from jcl.backbones import Backbone
from jcl.errors import UserError
from jcl.memory.teacher import ExternalTeacher
from jcl.methods import composed
from jcl.methods.compose import HOOKS, compose
from jcl.methods.method import Method, Settings

GROUP = 'jcl.methods'
BUILT_IN: dict[str, str] = {
  'seq': 'jcl.methods.seq:Seq',
  'joint': 'jcl.methods.joint:Joint',
  'single': 'jcl.methods.single:Single',
  'seq_star': 'jcl.methods.seq_star:SeqStar',
  'replay': 'jcl.methods.replay:Replay',
  'derpp': 'jcl.methods.derpp:Derpp',
  'agem': 'jcl.methods.agem:Agem',
  'cls_er': 'jcl.methods.cls_er:ClsEr',
  'distill': 'jcl.methods.distill:Distill',
  'sdft': 'jcl.methods.sdft:Sdft',
  'lamol': 'jcl.methods.lamol:Lamol',
  'lamol_kd': 'jcl.methods.lamol_kd:LamolKd',
  'l2kd': 'jcl.methods.l2kd:L2Kd',
  'pretrain': 'jcl.methods.pretrain:Pretrain',
  'lora': 'jcl.methods.lora:Lora',
  'olora': 'jcl.methods.olora:Olora',
  'slao': 'jcl.methods.slao:Slao',
  'osft': 'jcl.methods.osft:Osft',
  'expand': 'jcl.methods.expand:Expand',
  'reptile': 'jcl.methods.reptile:Reptile',
  'ema': 'jcl.methods.ema:Ema',
  'maml': 'jcl.methods.maml:Maml',
  'ewc': 'jcl.methods.ewc:Ewc',
  'l2': 'jcl.methods.l2:L2',
  'mas': 'jcl.methods.mas:Mas',
  'closed_form': 'jcl.methods.closed_form:ClosedForm',
}


class Names(tuple[str, ...]):
  """Names of methods; printed, each has a line that says what the method is."""

  def __repr__(self) -> str:
    width = max(map(len, self), default=0)
    return '\n'.join(f'{name:{width}}  {_summary(name)}' for name in self)


def names() -> Names:
  """Returns the names of all methods: those of this package, then those of installed packages."""
  return Names(plugins.names(BUILT_IN, GROUP))


def _summary(name: str) -> str:
  """Returns the first sentence on a method: of its file, or of its settings class."""
  try:
    kind = settings_class(name)
  except UserError as error:
    return str(error)
  said = inspect.getdoc(sys.modules[kind.__module__]) or inspect.getdoc(kind) or ''
  return ' '.join(said.partition('\n\n')[0].split())


def settings_class(name: str) -> type[Settings]:
  """Returns the settings class of one method.

  Args:
    name: the name of a built-in method, `package.module:Class`, or the name of an entry point of
      the group `jcl.methods`.

  Raises:
    UserError: there is no such class, or no method can be built from it.
  """
  found = plugins.find('method', name, BUILT_IN, GROUP)
  if not (inspect.isclass(found) and issubclass(found, Settings)):
    kind = 'a class' if inspect.isclass(found) else f'a {type(found).__name__}'
    raise UserError(
      f'method: {name} is {kind}, not a settings class; name a subclass of jcl.methods.Settings'
    )
  if found.build is Settings.build:
    raise UserError(f'method: {name} builds no method; give it build(backbone, teacher=None)')
  _check_fields(found, name)
  _check_words(found, name)
  plugins.check_version('method', found.needs_jcl, name)
  return found


def _check_fields(found: type[Settings], name: str) -> None:
  """Refuses a settings class that is no dataclass, or that has a field without a default."""
  if '__dataclass_fields__' not in vars(found):
    raise UserError(f'method: {name} is no dataclass; put @dataclasses.dataclass above the class')
  missing = dataclasses.MISSING
  for field in dataclasses.fields(found):
    if field.default is missing and field.default_factory is missing:
      raise UserError(f'method: {name} has no default for {field.name}; give it one')
    if field.name in RESERVED:
      raise UserError(
        f'method: {name} has a setting {field.name}, which is an argument of jcl.learn; rename it'
      )


# Arguments of `jcl.learn`, by whose names no setting of a method can be given.
RESERVED = (
  'stream', 'method', 'model', 'scenario', 'train', 'evaluate', 'checkpoint', 'adversarial',
  'workdir', 'callbacks', 'allow_config_change', 'mesh', 'quiet', 'name',
)  # fmt: skip


WORDS = {
  'scenarios': ('cil', 'til', 'iil', 'dil', 'cpt'),
  'head_scenarios': ('cil', 'til', 'dil'),
  'needs': ('task_id', 'head', 'linear_head', 'pre_norm'),
  'brings': ('loss', 'rows', 'objective', 'combine', 'slow', 'tree', 'trainable'),
  'changes': HOOKS,
}


def _check_words(found: type[Settings], name: str) -> None:
  """Refuses a settings class whose class variables hold words that mean nothing."""
  for variable, words in WORDS.items():
    given = getattr(found, variable)
    if isinstance(given, property):  # of a composition
      continue
    if not isinstance(given, tuple) or set(given) - set(words):
      raise UserError(
        f'method: {name}.{variable} is {given!r}; it must be a tuple of {", ".join(words)}'
      )
  if found.scenarios == ():
    raise UserError(f"method: {name}.scenarios is empty; name one, such as ('cil',)")


def settings(name: str) -> Settings:
  """Returns the default settings of a method, or of a composition.

  Args:
    name: a name as in `settings_class`, or several with `+` between them.

  Raises:
    UserError: there is no such method, or the methods cannot be composed.
  """
  if composed.SIGN in name:
    names = name.split(composed.SIGN)
    return composed.settings({one: settings_class(one) for one in names}, names)
  return settings_class(name)()


def having(field: str) -> str:
  """Returns `; methods that have it: replay, derpp` of a setting; '' where no built-in has it."""
  kinds = {name: settings_class(name) for name in BUILT_IN}
  found = [n for n, kind in kinds.items() if field in {f.name for f in dataclasses.fields(kind)}]
  return f'; methods that have it: {", ".join(found)}' if found else ''


def parts(chosen: Settings) -> dict[str, Settings]:
  """{short name: settings} of one method, or of those that are composed."""
  if isinstance(chosen, composed.Composed):
    return chosen.parts
  return {composed.short_name(name_of(chosen)): chosen}


def name_of(chosen: Settings) -> str:
  """The name for which `settings` gives settings of this class."""
  if isinstance(chosen, composed.Composed):
    return composed.SIGN.join(map(name_of, chosen.parts.values()))
  return plugins.name_of(type(chosen), BUILT_IN, GROUP)


def make(backbone: Backbone, chosen: Settings, teacher: ExternalTeacher | None = None) -> Method:
  """Builds a method from its settings.

  Args:
    backbone: the model that learns.
    chosen: settings of a method or of a composition.
    teacher: the model that `teacher_path` names; None where it is empty.

  Raises:
    UserError: `build` of a method from another package returns no `Method`.
  """
  made = {}
  for name, part in parts(chosen).items():
    made[name] = part.build(backbone, teacher if part.teacher_path else None)
    if not isinstance(made[name], Method):
      kind = type(made[name]).__name__
      raise UserError(f'method: {name_of(part)}.build gives a {kind}; it must give a Method')
  if len(made) == 1:
    return next(iter(made.values()))
  return compose(made, {name: part.changes for name, part in parts(chosen).items()})
