"""Runs that are taught by a model in another folder."""

import dataclasses

import jax

from jcl.backbones.decoder import decoder
from jcl.backbones.files import hf
from jcl.training import experiment
from support import runs, tiny

WIDE = 24  # the student's width is 16


def config(teacher, **sections):
  sizes = {'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 4}
  made = runs.config('distill', **({'stream': sizes, 'train': {'epochs': 1}} | sections))
  made.method.teacher_path = str(teacher)
  return made


def written(folder, method='seq', tasks=2, **changes):
  """A model of random parameters, 24 wide, with the tokenizer of the stream's first tasks."""
  made = runs.config(method, backbone={'width': WIDE, 'layers': 2})
  made.stream = dataclasses.replace(config('').stream, max_tasks=tasks)
  parts = experiment.assemble(made)
  shape = dataclasses.replace(parts.decoder_config, **changes)
  params = jax.device_get(tiny.params(decoder(shape)))
  hf.save(folder, hf.Loaded(shape, params, parts.text.tokenizer, parts.text.special))
  return folder
