"""`jcl doctor` for a clone of the repository; jcl/commands/doctor.py explains it."""

import sys

from jcl import cli

if __name__ == '__main__':
  cli.main(['doctor', *sys.argv[1:]])
