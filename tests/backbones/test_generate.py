"""Generation against a loop without a cache; samples that nothing but their key decides."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import slow, tiny
from support.decoders import TINY

from jcl.backbones import generate
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import RopeScaling
from jcl.batching.batch import Row, Shape, layout
from jcl.training.hook_tools import make_tools

PROMPTS = [[5, 6, 7], [8], [9, 5, 6, 7, 8, 9, 10], [6, 6], [11, 5, 7, 9, 6]]
LONGEST = 12
NOTHING_SHARED = np.zeros((1, 0), np.int32), np.zeros((1, 0), bool)


@functools.cache
def talker(batch_size=8):
  """Tools with a decoder whose greedy answers vary in length, and its parameters."""
  tools = tiny.tools(make=tiny.small_decoder, batch_size=batch_size)
  return tools, jax.tree.map(lambda x: 1.5 * np.asarray(x), tiny.params(tools.backbone, seed=3))


@functools.cache
def next_logits():
  """[V] of the last token of one row, without a cache."""
  logits = jax.jit(talker()[0].backbone.logits)

  def call(ids):
    row = Row(np.array(ids, np.int32), np.array([len(ids) - 1]), np.array([0]), 0, 0)
    return np.asarray(logits(talker()[1], layout([row], 1, Shape(1, 48, 1))))[0]

  return call


def by_hand(prompt, eos, limit):
  """Greedy continuation, argmax after argmax, padded."""
  ids, new = list(prompt), []
  while len(new) < limit and eos not in new:
    new.append(int(next_logits()(ids + new).argmax()))
  return new


def with_eos(tools, eos):
  """Other tools with another end-of-sequence."""
  other = tiny.tools(make=tiny.small_decoder)
  other.text.eos = eos
  return make_tools(tools.backbone, other.text, other.stream, other.mesh, 0, other.batch_size)


@pytest.fixture(scope='module')
def greedy():
  """Tools whose end-of-sequence is a token that ends some answers early, and the answers."""
  tools, params = talker()
  free = [by_hand(p, -1, LONGEST) for p in PROMPTS]
  places = lambda t: [a.index(t) if t in a else LONGEST for a in free]
  spread = lambda t: len(set(places(t))) + any(p == LONGEST for p in places(t))
  eos = max({t for a in free for t in a}, key=spread)
  tools = with_eos(tools, eos)
  wanted = [by_hand(p, eos, LONGEST) for p in PROMPTS]
  assert len({len(w) for w in wanted}) >= 3  # or this shows little
  return tools, params, wanted


def test_greedy_equals_a_loop_without_a_cache_and_ends_in_padding(greedy):
  tools, params, wanted = greedy
  found = tools.sample(params, PROMPTS, tools.key('x'), max_new=LONGEST)
  assert found.shape == (5, LONGEST)
  for ids, new in zip(found.tolist(), wanted, strict=True):
    assert ids == new + [tools.text.pad] * (LONGEST - len(new))


def test_rows_are_the_same_alone_and_together(greedy):
  tools, params, wanted = greedy
  for prompt, new in zip(PROMPTS, wanted, strict=True):
    (ids,) = tools.sample(params, [prompt], tools.key('x'), max_new=LONGEST).tolist()
    assert ids[: len(new)] == new


@pytest.mark.parametrize('lengths', [range(1, 17), (9, 12, 24, 31, 3, 17)], ids=['one', 'more'])
def test_prompts_are_computed_by_columns_and_give_the_same(lengths, greedy):
  """In one to four chunks of eight, of several batches that all begin with three tokens."""
  tools, params, _ = greedy
  backbone, columns = tools.backbone, []

  def counted(params, tokens, *rest):
    jax.debug.callback(lambda: columns.append(tokens.shape[1]))
    return backbone.decode(params, tokens, *rest)

  draws = np.random.default_rng(0)
  drawn = lambda size: [int(t) for t in draws.integers(1, 25, size)]
  prompts = [[5, 6, 7, *drawn(size)] for size in [*lengths] * 2]
  rest = tools.text, tools.stream, tools.mesh, 0, 8
  noting = make_tools(dataclasses.replace(backbone, decode=counted), *rest)
  found = noting.sample(params, prompts, tools.key('x'), max_new=LONGEST).tolist()
  jax.effects_barrier()
  wanted = [by_hand(p, tools.text.eos, LONGEST) for p in prompts]
  assert found == [w + [tools.text.pad] * (LONGEST - len(w)) for w in wanted]
  by_length = sorted(map(len, prompts))
  parts = [by_length[i : i + 8][-1] - 3 for i in range(0, len(prompts), 8)]
  of_prompts = sum(n > 1 for n in columns) - len(parts)  # the beginning is computed once a part
  assert of_prompts == sum(-(-longest // 8) for longest in parts)


@pytest.mark.parametrize(
  'prompts',
  [[[9, 5, 6]] * 3, [[5, 6, 7, 8, 9], [5, 6, 7, 10], [5, 6, 7, 8]], [[5, 6], [5, 6, 6], [5, 6]]],
  ids=['all of them', 'a beginning', 'all of one'],
)
def test_what_all_prompts_share_is_computed_once_and_changes_nothing(prompts, greedy):
  tools, params, _ = greedy
  asked, run = [], tools.maps.generate

  def noted(*static):
    def call(params, rows, scalars):
      asked.append((rows[0], scalars[0]))
      return run(*static)(params, rows, scalars)

    return call

  noting = dataclasses.replace(tools, maps=dataclasses.replace(tools.maps, generate=noted))
  found = noting.sample(params, prompts, tools.key('x'), max_new=LONGEST).tolist()
  wanted = [by_hand(p, tools.text.eos, LONGEST) for p in prompts]
  assert found == [w + [tools.text.pad] * (LONGEST - len(w)) for w in wanted]
  ((rows_BP, shared_1C),) = asked
  alike = 3 if len(set(map(tuple, prompts))) == 1 else min(3, min(map(len, prompts)) - 1)
  assert alike <= shared_1C.shape[1] < 2 * alike
  assert rows_BP.shape[1] < max(map(len, prompts))


def test_windows_count_tokens_where_padding_stands_between_shared_ones_and_the_rest():
  config = dataclasses.replace(TINY, window=4, windowed=(True, False, True))
  backbone, shared = decoder(config), [5, 6, 7, 8, 9]
  params = jax.tree.map(lambda x: 1.5 * np.asarray(x), tiny.params(backbone))
  rests = [[3], [4, 11, 12, 13, 2, 1, 3], [10, 9]]
  logits = jax.jit(backbone.logits)

  def following(ids):
    row = Row(np.array(ids, np.int32), np.array([len(ids) - 1]), np.array([0]), 0, 0)
    return int(np.asarray(logits(params, layout([row], 1, Shape(1, 24, 1))))[0].argmax())

  wanted = [[*shared, *rest] for rest in rests]
  for ids in wanted:
    ids += [following(ids)]
    ids += [following(ids)]
  ids, valid = np.zeros((4, 8), np.int32), np.zeros((4, 8), bool)
  for row, rest in enumerate(rests):
    ids[row, 8 - len(rest) :], valid[row, 8 - len(rest) :] = rest, True
  beginning = np.array([[0, 0, 0, *shared]], np.int32), np.arange(8)[None] >= 3
  call = jax.jit(functools.partial(generate.generate, backbone, 2, 1, -1, 0))
  rows = ids, valid, valid.any(1), tiny.keys(4)
  found = np.asarray(call(params, *rows, *beginning, jnp.float32(1), jnp.int32(2)))
  assert found[:3].tolist() == [ids[-2:] for ids in wanted]


def test_beginnings_are_not_shared_where_their_states_depend_on_the_length_of_the_text():
  scaled = dataclasses.replace(TINY, rope_scaling=RopeScaling('dynamic', 2.0, original=4))
  assert decoder(TINY).shares
  assert not decoder(scaled).shares
  params = tiny.params(decoder(scaled))
  of = lambda size: make_tools(decoder(scaled), tools.text, tools.stream, tools.mesh, 0, size)
  tools, prompts = tiny.tools(), [[5, 6, 7, 8], [5, 6, 7, 9, 10, 11, 12]]
  found = of(2).sample(params, prompts, tools.key('x'), max_new=6)
  for prompt, ids in zip(prompts, found, strict=True):
    alone = of(1).sample(params, [prompt], tools.key('x'), max_new=6)
    np.testing.assert_array_equal(ids, alone[0])


@pytest.mark.parametrize('prompts', [[[], []], [[], [5, 6]]], ids=['all', 'one'])
def test_an_empty_prompt_is_not_continued(prompts, greedy):
  tools, params, _ = greedy
  found = tools.sample(params, prompts, tools.key('x'), max_new=3)
  assert (found[0] == tools.text.pad).all()
  assert (found[1] == tools.text.pad).all() == (not prompts[1])


@pytest.mark.parametrize('limit', [1, 5, 9])
def test_no_more_tokens_than_asked_for_though_there_is_room(greedy, limit):
  tools, params, wanted = greedy
  found = tools.sample(params, PROMPTS, tools.key('x'), max_new=limit)
  assert found.shape == (5, limit)
  for ids, new in zip(found.tolist(), wanted, strict=True):
    assert ids[: len(new[:limit])] == new[:limit]


def test_tokens_are_counted_up_to_the_end_of_each_row(greedy):
  tools, params, wanted = greedy
  tools.folds.generated = 0
  tools.sample(params, PROMPTS, tools.key('x'), max_new=LONGEST)
  assert tools.folds.generated == sum(map(len, wanted))


def run(tools, params, prompts, limit, max_new=LONGEST):
  """generate() itself, counting how often the loop calls the model."""
  calls = []
  decode = lambda *args: (
    jax.debug.callback(lambda: calls.append(1)),
    tools.backbone.decode(*args),
  )[1]
  backbone = dataclasses.replace(tools.backbone, decode=decode)
  width = max(map(len, prompts))
  ids = np.array([[0] * (width - len(p)) + list(p) for p in prompts], np.int32)
  valid = np.array([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
  fn = jax.jit(
    functools.partial(generate.generate, backbone, max_new, 1, tools.text.eos, tools.text.pad)
  )
  rows = ids, valid, valid.any(1), tiny.keys(len(prompts))
  out = np.asarray(fn(params, *rows, *NOTHING_SHARED, jnp.float32(1), jnp.int32(limit)))
  jax.effects_barrier()
  return out, len(calls)


def test_the_loop_stops_when_all_rows_have_ended_or_the_limit_is_reached(greedy):
  tools, params, wanted = greedy
  ended = [(p, w) for p, w in zip(PROMPTS, wanted, strict=True) if w[-1] == tools.text.eos]
  prompt, new = min(ended, key=lambda x: len(x[1]))
  assert len(new) < LONGEST
  out, calls = run(tools, params, [prompt, []], LONGEST)  # beside it a padding row
  assert out[0, : len(new)].tolist() == new
  assert (out[1] == tools.text.pad).all()
  assert calls == len(new)
  endless = next(p for p, w in zip(PROMPTS, wanted, strict=True) if len(w) > 4)
  out, calls = run(tools, params, [endless, []], 4)
  assert calls == 4
  assert (out[:, 4:] == tools.text.pad).all()


@pytest.mark.parametrize('k', slow.but([5], [1, 5]))
def test_a_batch_shrinks_by_halves_as_its_rows_end_and_gives_the_same(k, greedy, monkeypatch):
  tools, _, _ = greedy
  # Of a model whose samples have one token so often that it ends most rows.
  params = jax.tree.map(lambda x: 1.5 * np.asarray(x), tiny.params(tools.backbone, seed=4))
  prompts = [[int(t) for t in np.random.default_rng(i).integers(1, 25, 3)] for i in range(66)]
  sizes, decode = [], tools.backbone.decode

  def counted(params, tokens, *rest):
    jax.debug.callback(lambda: sizes.append(len(tokens)))
    return decode(params, tokens, *rest)

  backbone = dataclasses.replace(tools.backbone, decode=counted)

  def compiled():
    draw = lambda eos, *rest: generate.generate(backbone, LONGEST, k, eos, tools.text.pad, *rest)
    return jax.jit(draw)

  def sampled(eos, draw):
    sizes.clear()
    rows = np.array(prompts, np.int32), np.ones((66, 3), bool), np.ones(66, bool), tiny.keys(66)
    rest = *NOTHING_SHARED, jnp.float32(2), jnp.int32(LONGEST)
    out = np.asarray(draw(eos, params, *rows, *rest))
    jax.effects_barrier()
    return out

  draw = compiled()
  eos = int(np.bincount(sampled(99, draw).ravel()).argmax())  # which ends many rows
  shrunk, computed = sampled(eos, draw), list(sizes)
  with monkeypatch.context() as patched:
    patched.setattr(generate, 'SHRINKS', 0)
    np.testing.assert_array_equal(shrunk, sampled(eos, compiled()))
  left = (np.cumsum(shrunk == eos, 1) == 0).sum(0)[:-1]  # rows that have not ended
  wanted = [min(size for size in (66, 33, 16) if size >= n) for n in left if n]
  assert sorted(computed) == sorted([16] * 5 + wanted)  # prompts are computed 16 at a time
  assert sizes == [66] * (1 + len(wanted))
  assert len({*wanted}) >= 2  # or this shows little


@pytest.mark.parametrize('real', [{3}, {0, 16}, {65}])
def test_prompts_are_computed_up_to_the_last_that_is_real(real, greedy):
  tools, params, _ = greedy
  prompts = [PROMPTS[i % 5] if i in real else [] for i in range(66)]
  out, calls = run(tools, params, prompts, 4)
  alone, steps = run(tools, params, [prompts[i] for i in sorted(real)], 4)
  np.testing.assert_array_equal(out[sorted(real)], alone)
  assert calls == -(-(max(real) + 1) // 16) + steps - 1
  assert (np.delete(out, sorted(real), 0) == tools.text.pad).all()


@pytest.mark.parametrize('width', [40, 255, 256, 1000])
@pytest.mark.parametrize('k', [1, 3, 20])
def test_the_likeliest_are_found_by_blocks_as_by_a_sort_equal_ones_included(width, k, monkeypatch):
  monkeypatch.setattr(generate, 'BLOCK', 8)
  draws = np.random.default_rng(0).integers(-3, 4, (6, width)).astype(np.float32)
  draws[1], draws[2], draws[3, width // 2 :] = 0, -np.inf, -np.inf
  draws[4] = np.arange(width)
  wanted, found = jax.lax.top_k(draws, k), generate.top_k(draws, k)
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(one, other)


def test_samples_are_the_likeliest_tokens_in_their_proportions():
  """Chi-square with 4 degrees of freedom: above 18.5 once in a thousand fixed seeds."""
  k, temperature, count = 5, 2.0, 2000
  logits = np.random.default_rng(0).standard_normal(30).astype(np.float32)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(count))
  rows = jnp.broadcast_to(logits, (count, 30))
  found = np.asarray(generate.top_k_sample(keys, rows, k, jnp.float32(temperature)))
  best = np.argsort(-logits)[:k]
  assert set(found) == set(best.tolist())
  powers = np.exp(logits[best].astype(np.float64) / temperature)
  wanted = count * powers / powers.sum()
  seen = np.array([(found == t).sum() for t in best])
  assert ((seen - wanted) ** 2 / wanted).sum() < 18.5
  assert (generate.top_k_sample(keys, rows, 1, jnp.float32(1)) == best[0]).all()


def test_first_sampled_token_has_the_frequencies_of_the_models_softmax():
  tools, params = talker(64)
  count, k, prompt = 512, 3, PROMPTS[2]
  found = tools.sample(params, [prompt] * count, tools.key('y'), k=k, max_new=1)[:, 0]
  logits = next_logits()(prompt).astype(np.float64)
  best = np.argsort(-logits)[:k]
  wanted = count * np.exp(logits[best]) / np.exp(logits[best]).sum()
  assert wanted.min() > 5
  seen = np.array([(found == t).sum() for t in best])
  assert seen.sum() == count
  assert ((seen - wanted) ** 2 / wanted).sum() < 13.8  # 2 degrees of freedom, once in a thousand


@pytest.mark.slow
def test_samples_depend_on_key_and_number_and_not_on_chunks_or_company():
  tools, params = talker()
  prompts = PROMPTS * 4
  how = dict(k=8, temperature=1.5, max_new=LONGEST)
  key = tools.key('z')
  together = tools.sample(params, prompts, key, **how)
  single, _ = talker(1)
  np.testing.assert_array_equal(single.sample(params, prompts[:3], key, **how), together[:3])
  later = tools.sample(params, prompts[7:], key, first=7, **how)
  np.testing.assert_array_equal(later, together[7:])
  assert (tools.sample(params, prompts, tools.key('other'), **how) != together).any()
  assert (tools.sample(params, prompts, key, first=1, **how) != together).any()
  same = tools.sample(params, [PROMPTS[0]] * 6, key, **how)
  assert len({tuple(row) for row in same.tolist()}) > 1  # a key a row


def test_steps_of_a_sample_draw_anew():
  """Were one key used for all steps, a flat model would repeat one token."""
  tools, params = talker()
  flat = jax.tree.map(jnp.zeros_like, params)
  found = tools.sample(flat, [[5]] * 8, tools.key('z'), k=20, max_new=LONGEST)
  assert min(len(set(row)) for row in found.tolist()) > 2


def test_samples_are_the_same_on_eight_devices(eight_devices):
  one, many = eight_devices['samples/1'], eight_devices['samples/8']
  np.testing.assert_array_equal(one, many)
  assert len({tuple(row) for row in one.tolist()}) > 15
