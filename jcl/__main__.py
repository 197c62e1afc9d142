"""`python -m jcl` is the console script `jcl`."""

from jcl import cli

if __name__ == '__main__':
  cli.main()
