"""The model that a run starts from."""

import dataclasses

import jax
import pytest
from support import runs

from jcl.backbones.files import hf
from jcl.backbones.files.companions import Companions
from jcl.errors import UserError
from jcl.streams import Stream
from jcl.streams.chat_templates import NAMED
from jcl.training import experiment
from jcl.training.start_model import start_model

OWN = "{{ 'own ' }}" + NAMED['plain']
TALK = [{'role': 'user', 'content': 'what is red'}, {'role': 'assistant', 'content': 'blood'}]


@pytest.fixture
def stream():
  row = {'messages': TALK}
  return Stream.from_rows({'x': [row]}, test={'x': [row]}, overlap='keep')


@pytest.fixture
def folder(tmp_path, stream):
  """A model whose chat template is `OWN`."""
  made = config()
  made.stream = dataclasses.replace(stream.settings, chat_template='chatml')
  parts = experiment.assemble(made, stream=stream)
  companions = Companions({'default': OWN})
  params, special = jax.device_get(parts.initial_params()), hf.SpecialIds(*parts.text.special)
  model = hf.Loaded(parts.decoder_config, params, parts.text.tokenizer, special, companions)
  hf.save(tmp_path / 'model', model)
  return str(tmp_path / 'model')


def config(**backbone):
  made = runs.config('seq')
  made.scenario, made.stream.chat_template = 'iil', 'chatml'
  for name, value in backbone.items():
    setattr(made.backbone, name, value)
  return made


@pytest.mark.parametrize('place', ['path', 'tokenizer_path'])
def test_a_model_and_a_tokenizer_bring_their_chat_template(stream, folder, place):
  made = config(**{place: folder})
  made.stream.chat_template = 'model'
  model = start_model(made, stream)
  assert model.chat.source == OWN
  assert (model.params is None) == (place == 'tokenizer_path')
  assert model.tokenizer.get_vocab() == hf.load(folder, False).tokenizer.get_vocab()


def test_a_tokenizer_from_scratch_has_no_chat_template(stream):
  made = config()
  assert start_model(made, stream).chat.source == NAMED['chatml']
  made.stream.chat_template = 'model'
  with pytest.raises(UserError, match='the model has no chat template'):
    start_model(made, stream)
