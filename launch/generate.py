"""`jcl generate` for a clone of the repository; jcl/commands/generate.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['generate', *sys.argv[1:]])
