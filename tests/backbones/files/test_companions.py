"""What goes with a model: its chat templates, settings of generation, names of classes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support import model_folder

from jcl.backbones import heads
from jcl.backbones.files import hf, tensors
from jcl.backbones.files.companions import Companions, read_companions
from jcl.errors import UserError


def test_an_export_of_a_classifier_names_its_labels_and_how_it_is_asked(tmp_path):
  loaded = hf.load(str(model_folder.write(tmp_path / 'm', model_folder.golden('llama'))))
  config = dataclasses.replace(loaded.config, classes=3)
  head = {n: np.asarray(x) for n, x in heads.init(jax.random.key(0), config).items()}
  answers = {'template': '{x}\nkind: {y}'}
  companions = Companions(labels=('no', 'yes', '天气'), answers=answers)
  params = {**{k: v for k, v in loaded.params.items() if k != 'unembed'}, 'head': head}
  made = loaded._replace(config=config, params=params, companions=companions)
  hf.save(tmp_path / 'out', made)
  values = json.loads((tmp_path / 'out' / 'config.json').read_text('utf-8'))
  assert values['id2label'] == {'0': 'no', '1': 'yes', '2': '天气'}
  assert values['label2id'] == {'no': 0, 'yes': 1, '天气': 2}
  assert json.loads((tmp_path / 'out' / 'jcl.json').read_text('utf-8')) == answers
  again = hf.load(str(tmp_path / 'out'))
  assert again.companions.labels == companions.labels
  assert again.companions.answers == answers
  assert not (tmp_path / 'out' / 'generation_config.json').exists()


def test_labels_that_transformers_made_up_are_no_labels(tmp_path):
  made_up = {'id2label': {'0': 'LABEL_0', '1': 'LABEL_1'}}
  assert read_companions(tmp_path, made_up).labels == ()
  assert read_companions(tmp_path, {'id2label': {'0': 'a', '7': 'b'}}).labels == ()
  assert read_companions(tmp_path, {'id2label': {'1': 'b', '0': 'a'}}).labels == ('a', 'b')


def test_a_file_wins_over_the_chat_template_of_the_tokenizers_config(tmp_path):
  (tmp_path / 'tokenizer_config.json').write_text('{"chat_template": "old"}')
  assert read_companions(tmp_path, {}).chat_template == 'old'
  (tmp_path / 'chat_template.jinja').write_bytes(b'new\r\n')
  assert read_companions(tmp_path, {}).chat_template == 'new\r\n'


@pytest.mark.parametrize(
  ('file', 'content', 'says'),
  [
    ('chat_template.jinja', b'\xff', 'chat_template.jinja: not UTF-8'),
    ('tokenizer_config.json', b'{"chat_template": 3}', 'chat_template is neither text nor'),
    ('tokenizer_config.json', b'{"chat_template": {"../x": "y"}}', 'chat_template is neither'),
    ('generation_config.json', b'[', 'generation_config.json: not valid JSON'),
    ('jcl.json', b'[', 'jcl.json is not the answer format of a model'),
  ],
)
def test_damaged_files_are_named(file, content, says, tmp_path):
  (tmp_path / file).write_bytes(content)
  with pytest.raises(UserError, match=says):
    read_companions(tmp_path, {})


def test_a_file_of_weights_may_be_read_by_whom_other_new_files_may(tmp_path):
  beside = tmp_path / 'beside'
  beside.touch()
  tensors.save_tensors({'w': np.zeros(3, np.float32)}, tmp_path / 'w.safetensors')
  assert (tmp_path / 'w.safetensors').stat().st_mode == beside.stat().st_mode
