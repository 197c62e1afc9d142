"""Which methods there are, by name: those of this package and those of other packages."""

import inspect
from typing import Any

from jcl import plugins
from jcl.errors import UserError
from jcl.methods import composed
from jcl.methods.compose import compose
from jcl.methods.method import Method, Settings

GROUP = 'jcl.methods'
BUILT_IN: dict[str, str] = {
  'seq': 'jcl.methods.seq:Seq',
  'joint': 'jcl.methods.joint:Joint',
  'single': 'jcl.methods.single:Single',
  'replay': 'jcl.methods.replay:Replay',
  'derpp': 'jcl.methods.derpp:Derpp',
  'distill': 'jcl.methods.distill:Distill',
  'lamol': 'jcl.methods.lamol:Lamol',
  'lamol_kd': 'jcl.methods.lamol_kd:LamolKd',
  'pretrain': 'jcl.methods.pretrain:Pretrain',
  'lora': 'jcl.methods.lora:Lora',
  'olora': 'jcl.methods.olora:Olora',
  'expand': 'jcl.methods.expand:Expand',
  'reptile': 'jcl.methods.reptile:Reptile',
  'maml': 'jcl.methods.maml:Maml',
  'ewc': 'jcl.methods.ewc:Ewc',
  'l2': 'jcl.methods.l2:L2',
  'mas': 'jcl.methods.mas:Mas',
}


def settings_class(name: str) -> type[Settings]:
  """The settings class of one method.

  Args:
    name: of a built-in method, `package.module:Class`, or the name of an entry point of the group
      `jcl.methods`.

  Raises:
    UserError: there is no such class, or it is not one that a method can be built from.
  """
  found = plugins.find('method', name, BUILT_IN, GROUP)
  if not (inspect.isclass(found) and issubclass(found, Settings)):
    kind = 'a class' if inspect.isclass(found) else f'a {type(found).__name__}'
    raise UserError(
      f'method: {name} is {kind}, not a settings class; name a subclass of jcl.methods.Settings'
    )
  if found.build is Settings.build:
    raise UserError(f'method: {name} builds no method; give it build(backbone, teacher=None)')
  plugins.check_version('method', found.needs_jcl, name)
  return found


def settings(name: str) -> Settings:
  """The default settings of the method `name`, or of several with `+` between them.

  Raises:
    UserError: there is no such method, or the methods cannot be one.
  """
  if composed.SIGN in name:
    names = name.split(composed.SIGN)
    return composed.settings({one: settings_class(one) for one in names}, names)
  return settings_class(name)()


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


def make(backbone: Any, chosen: Settings, teacher: Any = None) -> Method:
  """The method that `chosen` are the settings of.

  Args:
    backbone: what learns.
    chosen: the settings.
    teacher: the `memory.teacher.ExternalTeacher` that their `teacher_path` names; None where it is
      empty.

  Raises:
    UserError: what a method from outside builds is no `Method`.
  """
  made = {}
  for name, part in parts(chosen).items():
    made[name] = part.build(backbone, teacher if part.teacher_path else None)
    if not isinstance(made[name], Method):
      kind = type(made[name]).__name__
      raise UserError(f'method: {name_of(part)}.build gives a {kind}; it must give a Method')
  return compose(made) if len(made) > 1 else next(iter(made.values()))
