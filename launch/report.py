"""`jcl report` for a clone of the repository; jcl/commands/report.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['report', *sys.argv[1:]])
