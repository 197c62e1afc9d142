"""The model that a run starts from."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from support import own_data, runs

from jcl.backbones.files import hf
from jcl.backbones.files.companions import Companions
from jcl.backbones.new_tokens import APART
from jcl.config import BackboneConfig
from jcl.errors import UserError
from jcl.storage.stored import Stored
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


@pytest.mark.parametrize('depth', [1, 3])
def test_a_model_of_the_first_blocks_is_one_whose_other_blocks_add_nothing(depth, tmp_path):
  manifest = own_data.write(tmp_path / 'data')
  base = own_data.base_model(tmp_path / 'base', manifest)
  found = hf.load(str(base))
  layers = jax.tree.map(lambda x: np.concatenate([x, 2 * x, -x]), found.params['layers'])
  deep = found._replace(
    config=found.config.with_depth(3 * found.config.layers),
    params={**found.params, 'layers': layers},
  )
  hf.save(tmp_path / 'deep', deep)
  for part in ('o', 'down'):
    layers[part]['kernel'][depth:] = 0
  hf.save(tmp_path / 'padded', deep._replace(params={**found.params, 'layers': layers}))

  def states(path, depth):
    made = own_data.config(manifest, method='closed_form')
    made.backbone = BackboneConfig(path=str(tmp_path / path), head='linear', depth=depth)
    parts = experiment.assemble(made)
    assert parts.decoder_config.layers == (depth or 3)
    leaves = jax.tree.leaves(parts.weights['layers'])
    assert all(isinstance(leaf, Stored) for leaf in leaves), 'a leaf was read before it is placed'
    rows = [parts.text.rows(one)[0] for one in parts.stream.tasks[0].train]
    params = parts.initial_params()
    return np.concatenate(parts.tools.map_targets(parts.backbone.hidden, params, rows))

  cut = states('deep', depth)
  np.testing.assert_allclose(cut, states('padded', 0), rtol=0, atol=1e-6)
  assert depth == 3 or np.abs(cut - states('deep', 0)).max() > 1e-2


@pytest.mark.parametrize('task_tokens', [True, False])
def test_generation_tokens_of_tasks_start_apart_and_the_answer_token_near_a_newline(
  task_tokens, tmp_path
):
  """Copies of one row are not told apart by the few steps of a task."""
  manifest = own_data.write(tmp_path / 'data')
  base = own_data.base_model(tmp_path / 'base', manifest)
  made = own_data.config(manifest, method='lamol')
  made.backbone, made.method.task_tokens = BackboneConfig(path=str(base)), task_tokens
  parts = experiment.assemble(made)
  table = np.asarray(parts.initial_params()['embed']['embedding'])
  old = hf.load(str(base)).config.vocabulary
  answer, *tokens = table[old : parts.decoder_config.vocabulary]
  spread = table[:old].std()
  off = lambda row, other: np.sqrt(np.mean(np.square(row - other))) / spread
  copied = min(table[:old], key=lambda row: off(row, answer))
  assert off(answer, copied) < 0.05
  if not task_tokens:
    (shared,) = tokens
    assert min(off(shared, row) for row in table[:old]) < 0.05
    return
  assert len(tokens) == len(parts.stream) == 2
  between = [off(a, b) for a, b in itertools.combinations(tokens, 2)]
  assert min(between) > APART / 2  # √2 times as much, on average


def test_more_blocks_than_the_model_has_are_refused(tmp_path):
  manifest = own_data.write(tmp_path / 'data')
  made = own_data.config(manifest, method='closed_form')
  base = own_data.base_model(tmp_path / 'base', manifest)
  made.backbone = BackboneConfig(path=str(base), head='linear', depth=2)
  with pytest.raises(UserError, match=r'backbone.depth is 2, but the model has 1 block'):
    experiment.assemble(made)
