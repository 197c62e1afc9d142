"""What a run reads besides its rows: each part is compared, and named where it differs."""

import json
import pathlib

import pytest
from support import own_data, runs
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from jcl import workdir as workdirs
from jcl.errors import UserError
from jcl.streams.chat_templates import NAMED
from jcl.training import experiment, inputs

WORDS = ('<s>', 'a', 'b', 'c', 'ab', 'bc')
CHANGES = {
  'vocabulary': {'vocab': {word: i for i, word in enumerate(reversed(WORDS))}},
  'merges': {'merges': [('b', 'c'), ('a', 'b')]},
  'model': {'unk_token': 'a'},
  'normalizer': {'normalizer': normalizers.NFC()},
  'pre_tokenizer': {'pre_tokenizer': pre_tokenizers.Whitespace()},
  'decoder': {'decoder': decoders.Fuse()},
  'special ids': {},
}  # fmt: skip
OF_MODEL = {
  'vocab': {word: i for i, word in enumerate(WORDS)}, 'merges': [('a', 'b'), ('b', 'c')],
  'unk_token': '<s>',
}  # fmt: skip


def of_pairs(**changed) -> Tokenizer:
  """A tokenizer of byte pairs."""
  made = Tokenizer(models.BPE(**{k: changed.get(k, v) for k, v in OF_MODEL.items()}))
  for name in changed.keys() - OF_MODEL.keys():
    setattr(made, name, changed[name])
  return made


@pytest.mark.parametrize('part', CHANGES)
def test_a_change_of_any_part_of_a_tokenizer_is_named(part):
  one = inputs.tokenizer_digests(of_pairs(), (0, 1, None))
  assert inputs.tokenizer_digests(of_pairs(), (0, 1, None)) == one
  special = (1, 0, None) if part == 'special ids' else (0, 1, None)
  other = inputs.tokenizer_digests(of_pairs(**CHANGES[part]), special)
  assert {name for name in {*one, *other} if one.get(name) != other.get(name)} == {part}


def test_settings_of_batches_are_no_part_of_a_tokenizer():
  tokenizer = of_pairs()
  one = inputs.tokenizer_digests(tokenizer, (0, 1, None))
  tokenizer.enable_padding(length=9)
  tokenizer.enable_truncation(5)
  assert inputs.tokenizer_digests(tokenizer, (0, 1, None)) == one


def test_a_probe_of_raw_text(tmp_path):
  probe, found = tmp_path / 'probe.txt', []
  made = runs.config('pretrain', stream={'max_tasks': 2, 'cache': str(tmp_path / 'cache')})
  made.method.probe_path = str(probe)
  words = experiment.assemble(runs.config('pretrain', stream={'max_tasks': 2})).text.tokenizer
  for ids in (range(9, 69), range(10, 70)):
    probe.write_text(words.decode(list(ids)))
    found.append(experiment.assemble(made).inputs)
  changed = inputs.differences(*found)
  assert changed == {'stream.data': 'method.probe_path: 1 row changed, first row 0'}


def opened(workdir: pathlib.Path, made, allowed=()) -> None:
  """Opens a workdir as a run does, without training."""
  workdirs.open_workdir(str(workdir), made, allowed, read=experiment.assemble(made).inputs)


@pytest.mark.parametrize('kind', ['a file', 'the model'])
def test_an_edited_chat_template_is_refused(kind, tmp_path):
  manifest = own_data.write(tmp_path / 'data')
  base = own_data.base_model(tmp_path / 'base', manifest)
  made, file = own_data.config(manifest, base), tmp_path / 'mine.jinja'
  if kind == 'the model':
    file = base / 'chat_template.jinja'
  made.stream.chat_template = 'model' if kind == 'the model' else str(file)
  file.write_text(NAMED['plain'])
  opened(tmp_path / 'run', made)
  opened(tmp_path / 'run', made)
  file.write_text(NAMED['plain'].replace("': '", "' : '").replace('Assistant:', 'Assistant :'))
  with pytest.raises(UserError, match=r'stream\.data of .*: another chat template'):
    opened(tmp_path / 'run', made)
  opened(tmp_path / 'run', made, ['stream.data'])
  opened(tmp_path / 'run', made)


def test_the_digest_of_no_chat_template_is_empty():
  assert inputs.template_digest('') == ''
  assert len(inputs.template_digest('{{ x }}')) == 64


def test_a_run_whose_chat_template_an_earlier_jcl_did_not_note_goes_on(tmp_path):
  made = own_data.config(own_data.write(tmp_path / 'data'))
  opened(tmp_path / 'run', made)
  file = tmp_path / 'run' / inputs.FILE
  values = json.loads(file.read_text())
  del values['chat_template']
  file.write_text(json.dumps(values))
  assert inputs.read(tmp_path / 'run').chat_template is None
  opened(tmp_path / 'run', made)
