"""`jcl train` for a clone of the repository; jcl/commands/train.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['train', *sys.argv[1:]])
