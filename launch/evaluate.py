"""`jcl evaluate` for a clone of the repository; jcl/commands/evaluate.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['evaluate', *sys.argv[1:]])
