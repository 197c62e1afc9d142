"""Settings of tokenizer_config.json against tokenizer.json, resolved as in transformers."""

import json

import pytest
from support import tokenizer_kinds
from tokenizers import AddedToken

from jcl.backbones.files import contradictions
from jcl.backbones.files.companions import tokenizer_fields
from jcl.backbones.files.tokenizer_files import read_tokenizer

TEXTS = ['hello Hello HELLO cafe café Café 天气 天 气']
LOWER, CASED = {'do_lower_case': True}, {'do_lower_case': False}
BERT, FAST, PLAIN, GPT2 = (
  {'tokenizer_class': name}
  for name in ('BertTokenizer', 'BertTokenizerFast', 'PreTrainedTokenizerFast', 'GPT2Tokenizer')
)
SAID = {  # kind of tokenizer.json, model_type, tokenizer_config.json -> settings that change
  'uncased, but cased': ('uncased', 'bert', CASED | BERT, ['do_lower']),
  'cased, but not': ('wordpiece', 'bert', LOWER | FAST, ['do_lower']),
  'usual': ('wordpiece', 'gpt2', FAST, ['do_lower']),
  'by model_type': ('uncased', 'distilbert', CASED, ['do_lower']),
  'accents': ('uncased', 'mpnet', {'strip_accents': False}, ['strip']),
  'Chinese': ('wordpiece', 'bert', CASED | {'tokenize_chinese_chars': False}, ['tokenize']),
  'two': ('uncased', 'bert', CASED | {'tokenize_chinese_chars': False}, ['do_lower', 'tokenize']),
  'the same': ('uncased', 'bert', LOWER | BERT, []),
  'as it is': ('uncased', 'bert', CASED | PLAIN, []),
  'prefix': ('byte_bpe', 'gpt2', {'add_prefix_space': True} | GPT2, ['add_prefix']),
  'prefix by model_type': ('byte_bpe', 'roberta', {'add_prefix_space': True}, ['add_prefix']),
  'no prefix': ('byte_bpe', 'gpt2', {'add_prefix_space': False}, []),
}  # fmt: skip


@pytest.mark.parametrize('case', SAID)
def test_settings_count_where_the_class_in_transformers_takes_them(case, tmp_path):
  transformers = pytest.importorskip('transformers')
  kind, model_type, fields, changed = SAID[case]
  made, special = getattr(tokenizer_kinds, kind)(TEXTS)
  made.add_special_tokens([AddedToken('<s>'), AddedToken('</s>'), AddedToken('<mask>')])
  made.save(str(tmp_path / 'tokenizer.json'))
  end = made.id_to_token(special.eos)
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({**fields, 'eos_token': end}))
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': model_type}))
  read, _, notes = read_tokenizer(tmp_path, {'model_type': model_type})
  theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
  for text in ('Hello', 'HELLO café', '天气 Café'):
    assert read.encode(text, add_special_tokens=False).tokens == theirs.tokenize(text)
  for note, start in zip(notes, changed, strict=True):
    assert note.split(': ')[1].startswith(start)
  if notes:  # and is not said to be otherwise as well
    assert contradictions.of_tokenizer(tmp_path, tokenizer_fields(tmp_path), read, special) == []


def test_a_tokenizer_alone_is_read_as_it_is(tmp_path):
  made, _ = tokenizer_kinds.wordpiece(TEXTS)
  made.save(str(tmp_path / 'tokenizer.json'))
  read, _, notes = read_tokenizer(tmp_path, {'model_type': 'bert'})
  assert notes == []
  assert read.to_str() == made.to_str()
