"""Says what a run would read and take, in rows, tokens, bytes and operations, and what is wrong.

    python launch/plan.py --config=configs/clinc150.py:lamol --devices=8 --config.train.fsdp=true

Nothing is trained and no parameter allocated. Without --tokens the batch is the largest of the
run's own stream. With --tokens=T a folder that holds nothing but a config.json will do for
--config.backbone.path; what needs the text is then left out. With --workdir the room there counts.
"""

from absl import flags

from jcl import cli
from jcl.errors import UserError

cli.define_config()
flags.DEFINE_integer('devices', 1, 'that the run would have', lower_bound=1)
flags.DEFINE_integer('tokens', 0, 'a row; 0: as in the stream', lower_bound=0)
flags.DEFINE_integer('targets', 0, 'a row, with --tokens; 0: every token', lower_bound=0)
flags.DEFINE_bool('json', False, 'print JSON')


def run() -> None:
  """Prints the page."""
  config, given = cli.read_config(), flags.FLAGS
  if given.targets and not given.tokens:
    raise UserError('--targets goes with --tokens; without it the stream has its own')
  cli.use_fake_devices(given.devices)
  cli.use_compile_cache()
  from jcl.preflight import cost
  from jcl.preflight import page as sections

  page = cost.page(config, given.devices, given.tokens, given.targets, given.workdir)
  print((sections.as_json if given.json else sections.as_text)(page))


if __name__ == '__main__':
  cli.main(run)
