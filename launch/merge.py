"""`jcl merge` for a clone of the repository; jcl/commands/merge.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['merge', *sys.argv[1:]])
