"""`jcl compare` for a clone of the repository; jcl/commands/compare.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['compare', *sys.argv[1:]])
