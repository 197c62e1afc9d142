"""`jcl sweep` for a clone of the repository; jcl/commands/sweep.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['sweep', *sys.argv[1:]])
