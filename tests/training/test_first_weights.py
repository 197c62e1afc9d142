"""Weights of a pretrained model are read once: for their digest, and for the devices."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from support import gguf_files, own_data, tiny
from support.decoders import TINY

from jcl.backbones.decoder import decoder
from jcl.backbones.files import stored
from jcl.training import experiment, first_weights


@pytest.fixture
def manifest(tmp_path):
  return own_data.write(tmp_path / 'data')


def written(kind, tmp_path, manifest):
  """A model folder, or a GGUF file of a kind of quantisation."""
  if kind == 'folder':
    return own_data.base_model(tmp_path / 'base', manifest)
  shape = dataclasses.replace(TINY, width=32, head_dim=8, feed_forward=32)
  return gguf_files.write(tmp_path / 'm.gguf', tiny.params(decoder(shape)), shape, kind=kind)


@pytest.fixture
def reads(monkeypatch):
  """How often each array of each tensor was read."""
  count, values = collections.Counter(), stored._values

  def counted(piece, *given):
    count[piece.name, piece.number] += 1
    return values(piece, *given)

  monkeypatch.setattr(stored, '_values', counted)
  return count


@pytest.mark.parametrize('kind', ['folder', 'F16', 'Q8_0'])
@pytest.mark.parametrize('head', [False, True])
def test_a_run_that_begins_reads_each_tensor_once(kind, head, tmp_path, manifest, reads):
  path = written(kind, tmp_path, manifest)
  made = own_data.config(manifest, method='closed_form' if head else 'lamol')
  made.backbone.head = 'linear' if head else ''
  made = own_data.pretrained(made, path)
  made.backbone.depth = 1 if head else 0
  parts = experiment.assemble(made)
  params = jax.device_get(parts.initial_params())
  assert set(reads.values()) == {1}
  assert len(reads) >= 10
  again = jax.device_get(parts.initial_params())  # from the files
  assert max(reads.values()) == 2
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_run_that_goes_on_places_nothing(tmp_path, manifest, reads):
  made = own_data.config(manifest, written('folder', tmp_path, manifest))
  parts = experiment.assemble(made, old=True)
  assert set(reads.values()) == {1}
  assert not parts.first._placed
  assert parts.inputs.weights == experiment.assemble(made).inputs.weights


def test_large_leaves_are_read_in_parts_and_have_the_same_bits(tmp_path, manifest, monkeypatch):
  made = own_data.config(manifest, written('folder', tmp_path, manifest), method='lamol')
  whole = experiment.assemble(made)
  for name, module in (('HELD', first_weights), ('HELD', stored), ('BLOCK', stored)):
    monkeypatch.setattr(module, name, 8)
  parts = experiment.assemble(made)
  assert not parts.first._placed
  assert parts.inputs.weights == whole.inputs.weights
  both = whole.initial_params(), parts.initial_params()
  jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, both))
