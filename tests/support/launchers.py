"""Launchers called as a user calls them, each in a process of its own."""

import functools
import os
import subprocess
import sys

from support import ROOT
from support.launched import Launchers

QUICKSTART = '--config=configs/quickstart.py'
SMALL = (
  '--config.stream.max_tasks=2', '--config.stream.max_train_per_task=40',
  '--config.stream.max_test_per_task=8', '--config.train.epochs=2', '--config.train.batch_size=20',
  '--config.backbone.width=16', '--config.backbone.layers=1', '--config.backbone.heads=2',
  '--config.backbone.feed_forward=16', '--config.evaluate.batch_size=16',
  '--config.evaluate.every_epochs=0',
)  # fmt: skip
LIMIT = 300  # seconds


@functools.cache
def forks() -> Launchers:
  """The process of imports that all tests of this process share; it ends with them."""
  return Launchers()


def call(program: str, *arguments: str) -> subprocess.CompletedProcess:
  """Calls launch/PROGRAM.py in a fork of `forks`, which saves the seconds that imports take."""
  done = forks()(program, *arguments, limit=LIMIT)
  return subprocess.CompletedProcess([program, *arguments], done.status, done.out, done.err)


def start(program: str, *arguments: str) -> subprocess.CompletedProcess:
  """Calls launch/PROGRAM.py by a Python of its own: slower, and exactly what a user does."""
  return subprocess.run(
    [sys.executable, f'launch/{program}.py', *arguments],
    cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=LIMIT, check=False,
  )  # fmt: skip
