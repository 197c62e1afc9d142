"""`jcl export` for a clone of the repository; jcl/commands/export.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['export', *sys.argv[1:]])
