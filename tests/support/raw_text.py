"""Runs on raw text, for tests of continual pretraining."""

import numpy as np

from jcl.backbones.tokenizers import vocabulary_size
from jcl.step import sharding
from jcl.training.hook_tools import make_tools
from support import runs, tiny
from support.packed import packed


def text_tools(folder, devices=1, batch_size=4, **how):
  """Tools of a run on the tiny stream's texts in blocks, with a model of their words."""
  stream, text, _ = packed(folder, **how)
  backbone = tiny.recurrent(vocabulary_size(text.tokenizer))
  return make_tools(backbone, text, stream, sharding.make_mesh(devices), 0, batch_size)


def config(method='pretrain', scenario='cpt', **sections):
  made = runs.config(method, **sections)
  made.scenario = scenario
  return made


def plain(params):
  return {name: {'kernel': np.asarray(leaf['kernel'], np.float64)} for name, leaf in params.items()}


def rows_of(tools, *splits):
  return [row for blocks in splits for e in blocks for row in tools.text.rows(e)]
