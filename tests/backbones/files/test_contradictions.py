"""What files say against each other; what a whole folder makes of it: test_hf.py."""

import pytest
from support import model_folder
from tokenizers import pre_tokenizers, processors

from jcl.backbones.files import contradictions
from jcl.backbones.files.families import LLAMA_TABLE
from jcl.backbones.files.fields import Fields
from jcl.backbones.tokenizers import SpecialIds, word_tokenizer
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
    'off': False,
    'c': None,
    'd': [],
    'e': 'x' * 50,
    'rope_scaling': {'factor': 2, 'z': 3},
  }
  fields = Fields(values, 'config.json')
  assert fields.get('a', int) == 1
  assert fields.rope()['rope_theta'] == 1e4
  whole = [
    'b 0',
    'd []',
    f'e "{"x" * 38}…',
    'off false',
    'rope_scaling.factor 2',
    'rope_scaling.z 3',
  ]
  assert fields.unread() == whole
  assert fields.unread(['e', 'z', 'factor'], ['b', 'd', 'off']) == []
  assert 'off true' in Fields(values | {'off': True}, 'config.json').unread(off=['off'])


SAID = {
  'do_lower_case': True, 'strip_accents': True, 'tokenize_chinese_chars': True,
  'add_prefix_space': False, 'add_bos_token': True, 'add_eos_token': True,
}  # fmt: skip


@pytest.mark.parametrize('name', [*SAID, ''])
def test_settings_of_a_tokenizer_that_it_does_not_have_are_named(name, tmp_path):
  lines = lambda made, special, fields: contradictions.of_tokenizer(tmp_path, fields, made, special)
  fields = SAID | ({name: not SAID[name]} if name else {})
  bert = lines(model_folder.word_pieces(), SpecialIds(2, 3, 0), fields)
  assert [line.split(': ')[1].split(' is ')[0] for line in bert] == ([name] if name else [])
  assert lines(model_folder.word_pieces(), SpecialIds(2, 3, 0), dict.fromkeys(SAID)) == []
  words, special = word_tokenizer(['a b'])
  words.pre_tokenizer = pre_tokenizers.Metaspace()
  words.post_processor = processors.TemplateProcessing(
    single=['<bos>', '$A'], special_tokens=[('<bos>', special.bos)]
  )
  plain = {n: n in ('add_prefix_space', 'add_bos_token') for n in SAID}
  found = lines(words, special, plain | ({name: not plain[name]} if name else {}))
  assert [name in line for line in found] == [True] * bool(name)
