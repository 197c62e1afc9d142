"""Every family trains, and its export is the model that was trained."""

import jax
import numpy as np
import pytest
from goldens import make_decoder_goldens
from support import model_folder

import jcl

# Of each family one golden model; those of the first families train in many other tests.
CASES = [
  ('decoder', case) for case in make_decoder_goldens.NEW_CASES if case not in ('phi3', 'yarn')
]
CASES += [('encoder', case) for case in ('xlm-roberta', 'mpnet', 'modernbert')]


def stream():
  """Two tasks of two classes in words of the golden models."""
  draw, splits = np.random.default_rng(0), {'train': {}, 'test': {}}
  for task in range(2):
    rows = [
      {
        'text': ' '.join(f'w{i:03}' for i in draw.integers(9, 25, draw.integers(3, 9))),
        'label': f'w{30 + 2 * task + k % 2:03}',
      }
      for k in range(12)
    ]
    splits['train'][f't{task}'], splits['test'][f't{task}'] = rows[:8], rows[8:]
  return jcl.Stream.from_rows(splits['train'], test=splits['test'])


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'case'), CASES)
def test_a_family_trains_and_its_export_is_the_model(kind, case, tmp_path):
  words = model_folder.word_pieces() if kind == 'encoder' else None
  golden = model_folder.golden(case, kind)
  path = str(model_folder.write(tmp_path / 'model', golden, tokenizer=words))
  model = jcl.BackboneConfig(path=path, head='linear' if kind == 'encoder' else '')
  train = jcl.TrainConfig(epochs=1, batch_size=4, learning_rate=1e-3, log_every=1)
  losses = []

  class Losses:
    def on_step(self, metrics):
      losses.append(metrics['loss'])

  done = jcl.learn(stream(), 'replay', model=model, train=train, callbacks=[Losses()], quiet=True)
  assert len(losses) > 3
  assert np.all(np.isfinite(losses))
  done.model.save(tmp_path / 'out')
  again = jcl.load_model(str(tmp_path / 'out'))
  jax.tree.map(np.testing.assert_array_equal, again.params, done.params)
  texts = ['w009 w010 w011', 'w012 w013']
  assert again.answer(texts) == done.model.answer(texts)
  if kind == 'decoder':
    assert again.generate(texts, max_new=8) == done.model.generate(texts, max_new=8)
