"""Leaves that stay in the files: the same bits, and no more is read than a part."""

import dataclasses
import functools
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from goldens import make_decoder_goldens, make_encoder_goldens
from support import model_folder

from jcl.backbones.files import hf, stored
from jcl.backbones.files.tensors import flatten
from jcl.backbones.new_tokens import add_token_rows
from jcl.errors import UserError
from jcl.training.inputs import weights_digest

CASES = [('decoder', case) for case in make_decoder_goldens.CASES]
CASES += [('encoder', case) for case in make_encoder_goldens.CASES]


@functools.cache
def both(kind, case, folder):
  """A golden model read whole, and its leaves in the files."""
  tokenizer = model_folder.word_pieces() if kind == 'encoder' else None
  path = str(model_folder.write(folder, model_folder.golden(case, kind), tokenizer=tokenizer))
  return hf.load(path), hf.load(path, stored=True)


def same_leaves(whole, parts):
  jax.tree.map(np.testing.assert_array_equal, whole, jax.tree.map(np.asarray, parts))


@pytest.mark.parametrize(('kind', 'case'), CASES)
def test_leaves_in_files_have_the_bits_of_those_that_were_read(kind, case, tmp_path):
  whole, parts = both(kind, case, tmp_path)
  found = flatten({k: v for k, v in parts.params.items() if k != 'head'})
  assert all(isinstance(leaf, stored.Stored) for leaf in found.values())
  same_leaves(whole.params, parts.params)
  assert weights_digest(whole.params) == weights_digest(parts.params)


@pytest.fixture
def cuts(monkeypatch):
  """Bytes of every part that is read from a tensor."""
  seen, cut = [], stored._cut

  def counted(*given):
    seen.append(cut(*given))
    return seen[-1]

  monkeypatch.setattr(stored, '_cut', counted)
  return seen


def test_a_part_of_a_leaf_is_read_and_no_more(tmp_path, cuts):
  _, parts = both('decoder', 'llama', tmp_path)
  leaf = parts.params['layers']['up']['kernel']
  width = leaf.shape[-1] // 4
  part = leaf[:, :, width : 2 * width]
  assert sum(part.size for part in cuts) == leaf.size // 4
  np.testing.assert_array_equal(part, np.asarray(leaf)[:, :, width : 2 * width])


def test_new_tokens_leave_the_others_in_the_file(tmp_path):
  whole, parts = both('decoder', 'llama', tmp_path)
  config = dataclasses.replace(whole.config, vocabulary=whole.config.vocabulary - 2)
  made = [add_token_rows(config, x.params, 3, (1, 1, 0), 0, multiple=8)[1] for x in (whole, parts)]
  assert isinstance(made[1]['embed']['embedding'], stored.Stored)
  same_leaves(*made)
  cut = lambda params: params['embed']['embedding'][config.vocabulary - 1 : config.vocabulary + 2]
  np.testing.assert_array_equal(*map(cut, made))


def test_a_narrow_type_and_a_sliced_layer_are_read_as_they_are(tmp_path):
  path = model_folder.write(tmp_path, model_folder.golden('llama'))
  tensors = safetensors.numpy.load_file(path / 'model.safetensors')
  narrow = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
  safetensors.numpy.save_file(narrow, path / 'model.safetensors', {'format': 'pt'})
  whole, parts = hf.load(str(path)), hf.load(str(path), stored=True)
  same_leaves(whole.params, parts.params)
  leaf = parts.params['layers']['down']['kernel']
  assert leaf[0].dtype == leaf.dtype == np.float32
  for index in (1, (slice(None), 2), (slice(0, 1), slice(3, 9), slice(1, 4))):
    np.testing.assert_array_equal(leaf[index], whole.params['layers']['down']['kernel'][index])
  for index in (99, (slice(None), slice(None, None, 2))):
    with pytest.raises(IndexError):
      leaf[index]


@pytest.mark.parametrize('change', ['rewritten', 'infinite'])
def test_a_file_that_changed_or_is_broken_is_refused(change, tmp_path):
  path = model_folder.write(tmp_path, model_folder.golden('llama'))
  file = path / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  name = 'model.layers.0.mlp.up_proj.weight'
  if change == 'infinite':
    tensors[name][1, 1] = np.inf
    safetensors.numpy.save_file(tensors, file, {'format': 'pt'})
  leaf = hf.load(str(path), stored=True).params['layers']['up']['kernel']
  if change == 'rewritten':
    safetensors.numpy.save_file(tensors, path / 'new', {'format': 'pt'})
    (path / 'new').replace(file)
  with pytest.raises(UserError, match={'rewritten': 'changed while', 'infinite': 'NaN'}[change]):
    np.asarray(leaf)
  if change == 'infinite':
    assert json.dumps(leaf[1].tolist())  # the other layer is sound
