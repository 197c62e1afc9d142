"""What files say against each other; what a whole folder makes of it: test_hf.py."""

import pytest

from jcl.backbones.files import contradictions
from jcl.backbones.files.families import LLAMA_TABLE
from jcl.backbones.files.fields import Fields
from jcl.errors import UserError


def test_names_are_counted_by_family():
  names = [f'h.{i}.attn.bias' for i in range(12)] + ['wpe.weight', 'ln2.weight']
  assert contradictions.tensor_families(names) == 'h.*.attn.bias (12), ln2.weight, wpe.weight'


def test_layers_are_counted_in_the_names_of_tensors():
  names = ['model.embed_tokens.weight', 'model.layers.1.mlp.up_proj.weight']
  contradictions.check_layers(LLAMA_TABLE, names, 2, 'layers')
  contradictions.check_layers(LLAMA_TABLE, [], 2, 'layers')
  with pytest.raises(UserError, match='layers is 3, but the tensors are those of 2 layers'):
    contradictions.check_layers(LLAMA_TABLE, names, 3, 'layers')


def test_settings_that_are_off_or_asked_for_are_not_named():
  values = {
    'a': 1,
    'b': 0,
    'c': None,
    'd': [],
    'e': 'x' * 50,
    'rope_scaling': {'factor': 2, 'z': 3},
  }
  fields = Fields(values, 'config.json')
  assert fields.get('a', int) == 1
  assert fields.rope()['rope_theta'] == 1e4
  assert fields.unread() == [f'e "{"x" * 38}…', 'rope_scaling.factor 2', 'rope_scaling.z 3']
  assert fields.unread(['e', 'z', 'factor']) == []
