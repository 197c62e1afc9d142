"""`jcl benchmark` for a clone of the repository; jcl/commands/benchmark.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['benchmark', *sys.argv[1:]])
