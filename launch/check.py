"""`jcl check` for a clone of the repository; jcl/commands/check.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['check', *sys.argv[1:]])
