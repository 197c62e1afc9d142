"""`jcl choose` for a clone of the repository; jcl/commands/choose.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['choose', *sys.argv[1:]])
