"""What a run reads besides its rows: each part is compared, and named where it differs."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from support import own_data, runs
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from jcl import workdir as workdirs
from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.errors import UserError
from jcl.streams.chat_templates import NAMED
from jcl.training import experiment, inputs, model_shape

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


def test_a_shape_is_what_the_weights_do_not_say():
  one = DecoderConfig(8, 8, 1, 2, 8, rope_scaling=RopeScaling('linear', 2.0), norm_epsilon=1e-5)
  fields = model_shape.shape_fields(one)
  chosen = dataclasses.replace(one, dropout=0.1, rows=16, dtype='bfloat16', max_positions=9)
  assert model_shape.shape_fields(chosen) == fields
  in_single = dataclasses.replace(one, norm_epsilon=float(np.float32(1e-5)))  # as GGUF has it
  assert model_shape.changed_fields(fields, model_shape.shape_fields(in_single)) == []
  other = dataclasses.replace(one, rope_scaling=RopeScaling('linear', 4.0), window=3)
  changed = model_shape.changed_fields(fields, model_shape.shape_fields(other))
  assert [line.split()[0] for line in changed] == ['window', 'rope_scaling']
  assert model_shape.changed_fields({}, fields) == []  # of an earlier jcl


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
