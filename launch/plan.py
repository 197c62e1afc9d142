"""`jcl plan` for a clone of the repository; jcl/commands/plan.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['plan', *sys.argv[1:]])
