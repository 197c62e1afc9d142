"""`jcl soak` for a clone of the repository; jcl/commands/soak.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['soak', *sys.argv[1:]])
