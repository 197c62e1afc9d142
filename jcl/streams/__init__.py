"""What is learned: tasks and their examples, from files or made here, and how they become rows."""

import functools

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams.stream import Stream


def load(config: StreamConfig, need_dev: bool = False, targets: bool = True) -> Stream:
  """Reads, checks and assembles the stream that the settings name.

  Args:
    config: `name` is `synthetic`, `files` or a benchmark.
    need_dev: whether every task must have a dev split; where there is none it is carved from train.
    targets: whether texts have labels or answers; without, they are documents and nothing else.

  Returns:
    The stream.

  Raises:
    UserError: for an unknown name, or data or settings that cannot be used.
  """
  from jcl.streams.benchmarks import BENCHMARKS
  from jcl.streams.build import build

  if config.name == 'synthetic':
    from jcl.streams.synthetic import read
  elif config.name == 'files':
    from jcl.streams import manifest

    read = functools.partial(manifest.read, targets=targets)
  elif config.name in BENCHMARKS:
    from jcl.streams.benchmarks import read
  else:
    names = ', '.join(['synthetic', 'files', *BENCHMARKS])
    raise UserError(f'stream.name is {config.name!r}: give one of {names}')
  return build(read(config), config, need_dev, targets)
