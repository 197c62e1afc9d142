"""Launchers called as a user calls them, each in a process of its own."""

import os
import subprocess
import sys

from support import ROOT

QUICKSTART = '--config=configs/quickstart.py'
SMALL = (
  '--config.stream.max_tasks=2', '--config.stream.max_train_per_task=40',
  '--config.stream.max_test_per_task=8', '--config.train.epochs=2', '--config.train.batch_size=20',
  '--config.backbone.width=16', '--config.backbone.layers=1', '--config.backbone.heads=2',
  '--config.backbone.feed_forward=16', '--config.evaluate.batch_size=16',
  '--config.evaluate.every_epochs=0',
)  # fmt: skip


def call(program: str, *arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, f'launch/{program}.py', *arguments],
    cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip
