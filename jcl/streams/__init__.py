"""What is learned: tasks and their examples, from files or made here, and how they become rows."""

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams.stream import Stream


def load(config: StreamConfig, need_dev: bool = False) -> Stream:
  """Reads, checks and assembles the stream that the settings name.

  Args:
    config: `name` is `synthetic`, `files` or a benchmark.
    need_dev: whether every task must have a dev split; where there is none it is carved from train.

  Returns:
    The stream.

  Raises:
    UserError: for an unknown name, or data or settings that cannot be used.
  """
  from jcl.streams import benchmarks, build, files, synthetic

  readers = {'synthetic': synthetic.read, 'files': files.read}
  readers |= dict.fromkeys(benchmarks.BENCHMARKS, benchmarks.read)
  if config.name not in readers:
    raise UserError(f'stream.name is {config.name!r}: give one of {", ".join(readers)}')
  return build.build(readers[config.name](config), config, need_dev)
