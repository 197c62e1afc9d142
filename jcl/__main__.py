"""Runs the console script `jcl` where it is called as `python -m jcl`."""

from jcl import cli

if __name__ == '__main__':
  cli.main()
