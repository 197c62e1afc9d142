"""Says what a run would read and take, in rows, tokens, bytes and operations, and what is wrong.

    jcl plan --config=clinc150:lamol --devices=8 --config.train.fsdp=true

Nothing is trained and no parameter is allocated. Without --tokens the batch is the largest of the
run's own stream. With --tokens=T a folder that holds nothing but a config.json is enough for
--config.backbone.path; whatever depends on the text is then left out. With --workdir the free space
of its disk is compared with what the run would write. --scaling compiles the step for 1, 2, 4, …,
256 devices instead, and says what each would hold, compute and send, and how well that scales:

    jcl plan --config=clinc150:lamol --scaling --config.train.batch_size=512
"""

import functools
import math
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line, config_flag, jax_settings
from jcl.errors import UserError


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  config_flag.define(given, arguments)
  command_line.define_path(given, 'workdir', None, 'folder that the run would leave its files in')
  flags.DEFINE_integer('devices', 1, 'devices that the run would have', 1, None, given)
  flags.DEFINE_integer('tokens', 0, 'tokens a row; 0: as in the stream', 0, None, given)
  flags.DEFINE_integer('targets', 0, 'targets a row, with --tokens; 0: every token', 0, None, given)
  flags.DEFINE_bool('phases', False, 'compile every phase and say what each takes', given)
  flags.DEFINE_bool('scaling', False, 'say how the step scales to 256 devices', given)
  flags.DEFINE_float(
    'device_memory', None, 'bytes of a device, with --phases; 16e9 where not given', 1, None, given
  )
  flags.DEFINE_float(
    'device_rate', 4e14, 'FLOP/s that a device reaches, with --scaling', 1.0, None, given
  )
  flags.DEFINE_list(
    'links', ['12.5e9', '50e9', '450e9'],
    'bytes/s that a device sends at once while it receives as many, with --scaling', given,
  )  # fmt: skip
  flags.DEFINE_bool('json', False, 'print JSON', given)


MOST = 256  # devices of --scaling


def _devices(given: flags.FlagValues) -> int:
  """Returns how many devices the step is compiled for, at most."""
  return MOST if given.scaling else given.devices


def _speeds(words: Sequence[str]) -> tuple[float, ...]:
  """Reads --links.

  Raises:
    UserError: a word is no speed, or there is none.
  """
  if not words:
    raise UserError('--links is empty; give bytes a second, as in 12.5e9,50e9')
  for word in words:
    try:
      good = 0 < float(word) < float('inf')
    except ValueError:
      good = False
    if not good:
      raise UserError(f'--links has {word!r}; give bytes a second, as in 12.5e9,50e9')
  return tuple(float(word) for word in words)


def run(given: flags.FlagValues) -> None:
  """Prints the page."""
  config = config_flag.read(given)
  if given.targets and not given.tokens:
    raise UserError('--targets goes with --tokens; without it the stream has its own')
  if given.scaling and given.phases:
    raise UserError('--phases goes without --scaling; give one of them')
  if given.scaling and given.devices > 1:
    raise UserError('--devices goes without --scaling, which says it for 1 to 256 devices')
  for name, reader in (
    ('device_memory', 'phases'), ('device_rate', 'scaling'), ('links', 'scaling'),
  ):  # fmt: skip
    if given[name].present and not given[reader].value:
      raise UserError(f'--{name} goes with --{reader}; nothing else reads it')
    value = given[name].value
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'--{name}={value}: give a finite number')
  links = _speeds(given.links)
  jax_settings.use_fake_devices(_devices(given))
  jax_settings.use_compile_cache()
  from jcl.preflight import cost
  from jcl.preflight import page as sections

  if given.scaling:
    from jcl.preflight import scaling

    page = scaling.page(
      config, _devices(given), given.tokens, given.targets, scaling.Speeds(given.device_rate, links)
    )
  else:
    from jcl.preflight import phases

    section = functools.partial(phases.section, device_memory=given.device_memory)
    more = (section,) if given.phases else ()
    page = cost.page(config, given.devices, given.tokens, given.targets, given.workdir, more)
  print((sections.as_json if given.json else sections.as_text)(page))
