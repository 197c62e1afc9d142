"""A head beside its model: written, read back to the same bits, refused where it does not fit."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from jcl.backbones import heads
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import head_files
from jcl.errors import UserError

PLAIN = DecoderConfig(vocabulary=8, width=8, layers=1, heads=2, feed_forward=8)
CONFIGS = {
  'linear': dataclasses.replace(PLAIN, classes=3),
  'cosine': dataclasses.replace(PLAIN, classes=3, head='cosine', pooling='mean'),
}


def drawn(config):
  keys = iter(jax.random.split(jax.random.key(0), 4))
  return jax.tree.map(
    lambda x: jax.random.normal(next(keys), x.shape), heads.init(jax.random.key(0), config)
  )


@pytest.mark.parametrize('kind', CONFIGS)
def test_a_head_is_read_as_it_was_written(kind, tmp_path):
  config = CONFIGS[kind]
  head = drawn(config)
  head_files.write_head(tmp_path, config, head)
  assert head_files.with_head(tmp_path, PLAIN) == config
  jax.tree.map(np.testing.assert_array_equal, head_files.read_head(tmp_path, config), head)


def test_a_folder_without_a_head_leaves_the_config_as_it_is(tmp_path):
  assert head_files.with_head(tmp_path, PLAIN) is PLAIN


def test_a_head_of_another_shape_is_refused(tmp_path):
  config = CONFIGS['linear']
  head_files.write_head(tmp_path, config, drawn(config))
  wider = dataclasses.replace(config, classes=4)
  says = r"tensor '(kernel|bias)' has shape \(.*3,?\); head.json wants \(.*4,?\)"
  with pytest.raises(UserError, match=says):
    head_files.read_head(tmp_path, wider)
  safetensors.numpy.save_file(
    {'kernel': np.zeros((6, 3), np.float32)}, tmp_path / 'head.safetensors'
  )
  with pytest.raises(UserError, match="tensor 'bias' is missing"):
    head_files.read_head(tmp_path, config)
  (tmp_path / 'head.safetensors').unlink()
  with pytest.raises(UserError, match=r'head.safetensors: no such file'):
    head_files.read_head(tmp_path, config)


@pytest.mark.parametrize(
  ('field', 'value'), [('kind', 'square'), ('pooling', 'max'), ('classes', 0), ('kind', 3)]
)
def test_a_word_that_no_head_has_is_refused(field, value, tmp_path):
  head_files.write_head(tmp_path, CONFIGS['linear'], drawn(CONFIGS['linear']))
  values = json.loads((tmp_path / 'head.json').read_text()) | {field: value}
  (tmp_path / 'head.json').write_text(json.dumps(values))
  with pytest.raises(UserError, match=f"head.json: field '{field}' is {value!r}"):
    head_files.with_head(tmp_path, PLAIN)
