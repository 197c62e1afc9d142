"""The choice of the state that a head reads: all states, all candidates, and which is taken."""

import dataclasses

import jax
import numpy as np
import pytest
from oracles import solvers
from support import rounding, tiny

from jcl.backbones import heads
from jcl.backbones.decoder import decoder
from jcl.backbones.encoder import encoder
from jcl.backbones.encoder_config import EncoderConfig
from jcl.batching import batch as batches
from jcl.memory import state_choice
from jcl.memory.state_choice import Candidate, Found

ENCODER = EncoderConfig(30, width=16, layers=3, heads=4, feed_forward=24, rows=32, classes=6)
DECODER = dataclasses.replace(tiny.CONFIG, layers=3, classes=6)
NEAR = rounding.tolerance(64, rounding.layers(3))


def cut(params, blocks):
  """Parameters of the model that ends after some blocks."""
  return {**params, 'layers': jax.tree.map(lambda x: x[:blocks], params['layers'])}


@pytest.mark.parametrize(
  ('make', 'config'),
  [(decoder, DECODER), (decoder, dataclasses.replace(DECODER, remat=True)), (encoder, ENCODER),
   (encoder, dataclasses.replace(ENCODER, norms='pre', positions='rotary'))],
  ids=['decoder', 'remat', 'encoder', 'pre-norm encoder'],
)  # fmt: skip
def test_states_are_those_of_models_that_end_earlier(make, config):
  """After 1 … 3 blocks, with each pooling, of rows that share lines and rows that do not."""
  backbone = make(config)
  params, rows = tiny.params(backbone), tiny.class_rows(9)
  shape = batches.Shape(16, 64, 16)
  packed = shape._replace(lines=4)
  for one in (shape, packed):
    batch = batches.layout(rows, 1, one, heads=batches.Heads(tiny.OWN, 2, False))
    found_MLQD = np.asarray(jax.jit(backbone.states)(params, batch))
    assert found_MLQD.shape == (16, 4, 3, 16)
    firsts = [np.flatnonzero(np.asarray(batch.target_row) == i)[0] for i in range(9)]
    for blocks in (1, 3):
      for q, pooling in enumerate(heads.POOLINGS):
        if pooling == 'first':
          length = np.asarray(batch.length)[np.asarray(batch.target_row)]
          at = np.maximum(np.asarray(batch.target_position) - length + 1, 0)
          given, pooling = batch.replace(target_position=at), 'last'
        else:
          given = batch
        plain = make(dataclasses.replace(config, pooling=pooling))
        wanted = np.asarray(jax.jit(plain.hidden)(cut(params, blocks), given))
        difference = np.abs(found_MLQD[firsts, blocks, q] - wanted[firsts]).max()
        assert difference <= NEAR * np.abs(wanted).max()
  assert np.abs(found_MLQD[firsts, 1] - found_MLQD[firsts, 3]).max() > 0.01


def test_a_head_reads_the_weighted_sum_of_its_mix():
  backbone = decoder(dataclasses.replace(DECODER, mixed=True, pooling='mean'))
  params, rows = tiny.params(backbone), tiny.class_rows(7)
  batch = batches.layout(rows, 1, batches.Shape(8, 32, 8), heads=batches.Heads(tiny.OWN, 2, False))
  states_MLQD = np.asarray(backbone.states(params, batch), np.float64)
  mix_LQ = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
  params = {**params, 'head': {**params['head'], 'mix': mix_LQ}}
  wanted = sum(mix_LQ[i, q] * states_MLQD[:, i, q] for i in range(4) for q in range(3))
  found = np.asarray(backbone.hidden(params, batch))
  np.testing.assert_allclose(found, wanted, atol=NEAR * np.abs(wanted).max())
  start = heads.init(jax.random.key(0), dataclasses.replace(DECODER, mixed=True))['mix']
  mean = decoder(dataclasses.replace(DECODER, pooling='mean'))
  at_first = backbone.hidden({**params, 'head': {**params['head'], 'mix': start}}, batch)
  difference = np.abs(np.asarray(at_first) - np.asarray(mean.hidden(params, batch))).max()
  assert difference <= NEAR * np.abs(np.asarray(at_first)).max()


def test_candidates_end_at_ten_depths_and_average_what_is_below():
  assert [one.blocks for one in state_choice.candidates(3, ['mean'])] == [1, 1, 2, 2, 3, 3]
  deep = state_choice.candidates(30, ['last', 'mean'])
  assert sorted({one.blocks for one in deep}) == list(range(3, 31, 3))
  assert len(deep) == len(set(deep)) == 40
  states_LQ = np.arange(12.0).reshape(4, 3)  # after 0 … 3 blocks; last, first and mean
  value = lambda *one: (state_choice.weights(Candidate(*one), 3) * states_LQ).sum()
  assert value(2, False, 'last') == 6
  assert value(2, False, 'first') == 7
  assert value(1, True, 'mean') == pytest.approx((2 + 5) / 2)
  assert value(3, True, 'mean') == pytest.approx((2 + 5 + 8 + 11) / 4)


def test_a_candidate_is_measured_on_the_rows_that_are_held_out():
  random = np.random.default_rng(0)
  label_N = np.arange(90) % 3
  states_ND = 0.7 * np.eye(3)[label_N] @ random.standard_normal((3, 8))
  states_ND += random.standard_normal((90, 8))
  held_N = random.random(90) < 0.4
  class_N = np.array([4, 9, 2])[label_N]
  one, mark_IN = (
    Candidate(2, False, 'mean'),
    random.permuted(np.tile(np.arange(90), (5, 1)), axis=1),
  )
  draws = state_choice.drawn(mark_IN, class_N, held_N)
  found = state_choice.measured(one, states_ND, class_N, held_N, draws)
  place_N, x_ND = np.searchsorted(np.unique(class_N), class_N), solvers.standardised(states_ND)
  margins = []
  for mark_N, drawn_F in zip(mark_IN, draws, strict=True):
    fit = [i for i in range(90) if not held_N[i]]
    wanted = [
      sorted((i for i in fit if place_N[i] == c), key=lambda i, m=mark_N: m[i])[:4]
      for c in range(3)
    ]
    assert set(drawn_F) == {i for of_class in wanted for i in of_class}
    kernel, _ = solvers.ridge(x_ND[drawn_F], place_N[drawn_F], 3, 0.1)
    for x, right in zip(x_ND[held_N], place_N[held_N], strict=True):
      logits = x @ kernel
      margins.append(logits[right] - max(logits[c] for c in range(3) if c != right))
  assert found.candidate == one
  assert found.accuracy == np.mean([m > 0 for m in margins])
  assert 0.4 < found.accuracy < 1
  assert found.margin == pytest.approx(sum(margins) / sum(map(abs, margins)), rel=1e-8)


def test_accuracy_comes_before_margin_and_few_blocks_before_many():
  of = lambda blocks, accuracy, margin: Found(Candidate(blocks, False, 'mean'), accuracy, margin)
  few, wide, right = of(1, 0.5, 0.9), of(2, 0.75, 0.5), of(3, 0.75, 0.6)
  assert state_choice.best([few, wide, right]) == right
  assert state_choice.best([of(4, 0.75, 0.6), right]).candidate.blocks == 4
  assert state_choice.best([few, wide]) == wide
