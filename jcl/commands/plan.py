"""Says what a run would read and take, in rows, tokens, bytes and operations, and what is wrong.

    jcl plan --config=clinc150:lamol --devices=8 --config.train.fsdp=true

Nothing is trained and no parameter is allocated. Without --tokens the batch is the largest of the
run's own stream. With --tokens=T a folder that holds nothing but a config.json is enough for
--config.backbone.path; whatever depends on the text is then left out. With --workdir the free space
of its disk is compared with what the run would write.
"""

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
  flags.DEFINE_bool('json', False, 'print JSON', given)


def run(given: flags.FlagValues) -> None:
  """Prints the page."""
  config = config_flag.read(given)
  if given.targets and not given.tokens:
    raise UserError('--targets goes with --tokens; without it the stream has its own')
  jax_settings.use_fake_devices(given.devices)
  jax_settings.use_compile_cache()
  from jcl.preflight import cost
  from jcl.preflight import page as sections

  page = cost.page(config, given.devices, given.tokens, given.targets, given.workdir)
  print((sections.as_json if given.json else sections.as_text)(page))
