"""Own files and a tiny base model on disk, whose content tests then change."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jcl.backbones.files import hf
from jcl.config import BackboneConfig, Config
from support import runs

TASKS = ('billing', 'travel')
ROWS = {'train': 8, 'dev': 4, 'test': 4}


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes a manifest and the tables of two tasks of two classes; returns the manifest."""
  folder.mkdir(parents=True, exist_ok=True)
  tasks = []
  for task in TASKS:
    files = {split: f'{task}-{split}.jsonl' for split in ROWS}
    for split, count in ROWS.items():
      rows = [
        {'text': f'{task} {split} w{i} {"yes" if i % 2 else "no"}', 'label': f'{task}_{i % 2}'}
        for i in range(count)
      ]
      (folder / files[split]).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    tasks.append({'name': task, **files})
  file = folder / 'manifest.json'
  file.write_text(json.dumps({'label': 'label', 'tasks': tasks}))
  return file


def edit(file: pathlib.Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
  """Changes the rows of a table in place."""
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  change(rows)
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def config(manifest: pathlib.Path, base: pathlib.Path | None = None, method: str = 'seq', **more):
  """A run of one epoch on the manifest, from scratch or from a base model."""
  made = runs.config(
    method, stream={'name': 'files', 'path': str(manifest), 'order_seed': -1, 'max_tasks': 0},
    train={'epochs': 1, 'batch_size': 4}, **more,
  )  # fmt: skip
  return made if base is None else pretrained(made, base)


def pretrained(made: Config, base: pathlib.Path) -> Config:
  """The run with a model from a folder in place of the one from scratch."""
  kept = BackboneConfig(path=str(base), dropout=made.backbone.dropout, head=made.backbone.head)
  return dataclasses.replace(made, backbone=kept)


def base_model(folder: pathlib.Path, manifest: pathlib.Path) -> pathlib.Path:
  """Writes a model folder whose tokenizer knows the words of the manifest; returns it."""
  parts = runs.experiment.assemble(config(manifest))
  loaded = hf.Loaded(
    parts.decoder_config, jax.device_get(parts.initial_params()), parts.text.tokenizer,
    hf.SpecialIds(*parts.text.special),
  )  # fmt: skip
  hf.save(folder, loaded)
  return folder


def edit_rows(manifest: pathlib.Path) -> None:
  """Removes a training row of the first task."""
  edit(manifest.parent / f'{TASKS[0]}-train.jsonl', lambda rows: rows.pop(1))


def edit_weights(folder: pathlib.Path) -> None:
  """Changes one number of the weights of a model folder by its last bit."""
  loaded = hf.load(str(folder))
  params = jax.tree.map(np.array, loaded.params)
  first = params['embed']['embedding']
  first[0, 0] = np.nextafter(first[0, 0], np.float32(9))
  rewrite(folder, loaded._replace(params=params))


def edit_shape(folder: pathlib.Path) -> None:
  """Changes what config.json of a model folder says beside the weights."""
  file = folder / 'config.json'
  values = json.loads(file.read_text())
  values['rope_parameters']['rope_theta'] = values['rope_theta'] = 2e4
  file.write_text(json.dumps(values))


def edit_tokenizer(folder: pathlib.Path) -> None:
  """Exchanges two words of the vocabulary of a model folder."""
  file = folder / 'tokenizer.json'
  values = json.loads(file.read_text())
  vocabulary = values['model']['vocab']
  one, other = list(vocabulary)[-2:]
  vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
  file.write_text(json.dumps(values))


def rewrite(folder: pathlib.Path, loaded: hf.Loaded) -> None:
  """Writes a model over the one in a folder."""
  for file in folder.iterdir():
    file.unlink()
  hf.save(folder, loaded)


def moved(made: Config, **places: pathlib.Path) -> Config:
  """The same run with its data or its base model at another place."""
  sections = {'manifest': 'stream', 'base': 'backbone'}
  copies = {
    sections[name]: dataclasses.replace(getattr(made, sections[name]), path=str(place))
    for name, place in places.items()
  }
  return dataclasses.replace(made, **copies)
