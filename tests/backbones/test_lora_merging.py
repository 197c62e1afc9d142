"""Merges of adapters: identities, independent oracles, and the launcher."""

import functools
import json

import jax
import numpy as np
import pytest
from goldens import make_decoder_goldens as decoders
from support import adapter_folder, launchers, rounding, tiny

from jcl.backbones import lora, lora_merging
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import hf, peft
from jcl.backbones.lora_merging import Recipe
from jcl.errors import UserError

CONFIG = DecoderConfig(40, width=16, layers=2, heads=4, kv_heads=2, feed_forward=24)
SHAPES = {'q': (2, 16, 16), 'v': (2, 16, 8), 'down': (2, 24, 16)}
ALL = pytest.mark.parametrize('how', lora_merging.WAYS)
RANKED = ('linear', 'svd', 'ties', 'magmax', 'dare')  # those that a rank can be asked of
DENSE = {'density': 1.0}


def some(*ranks, scales=(0.5, 1.3, 0.2)):
  """{name: adapter}, each of its own rank and scale."""
  made = zip(ranks, scales, strict=False)
  return {
    f'adapter{i}': adapter_folder.adapter(SHAPES, rank, i, scale)
    for i, (rank, scale) in enumerate(made)
  }


def products(adapter):
  return {name: adapter_folder.product(adapter, name) for name in SHAPES}


def near(found, wanted):
  """Products that differ by the rounding of float32 factors of rank 16 at most."""
  rounding.assert_close(found, wanted, terms=16)


def weighted(adapters, weights):
  made = [products(adapter) for adapter in adapters.values()]
  return {n: sum(w * p[n] for w, p in zip(weights, made, strict=True)) for n in SHAPES}


@ALL
@pytest.mark.parametrize('weights', [(), (1.0,)])
def test_one_adapter_is_itself(how, weights):
  adapters = some(3)
  merged = lora_merging.merge(adapters, Recipe(how, weights, **DENSE))
  near(products(merged), products(adapters['adapter0']))
  if how in RANKED:
    larger = lora_merging.merge(adapters, Recipe(how, weights, rank=5, **DENSE))
    near(products(larger), products(adapters['adapter0']))


@ALL
def test_equal_adapters_are_each_of_them(how):
  one = adapter_folder.adapter(SHAPES, 3, 0)
  merged = lora_merging.merge({'a': one, 'b': one, 'c': one}, Recipe(how, **DENSE))
  near(products(merged), products(one))


@ALL
def test_order_does_not_matter(how):
  adapters, weights = some(3, 3, 3), (0.2, 0.7, 0.4)
  recipe = lambda w: Recipe(how, w, density=0.3 if how == 'ties' else 1.0)
  back = dict(reversed(adapters.items()))
  one, other = (
    lora_merging.merge(adapters, recipe(weights)),
    lora_merging.merge(back, recipe(weights[::-1])),
  )
  near(products(one), products(other))


@ALL
def test_a_merge_grows_with_its_weights(how):
  adapters = some(3, 3)
  one, twice = (
    products(lora_merging.merge(adapters, Recipe(how, (0.3 * c, 0.5 * c), density=0.5)))
    for c in (1, 2)
  )
  near(twice, {name: 2 * x for name, x in one.items()})


@ALL
def test_the_model_is_the_base_and_the_product(how):
  base = jax.device_get(tiny.params(decoder(CONFIG)))
  adapters, recipe = some(2, 2), Recipe(how, (0.3, 0.4), rank=3 if how in RANKED else 0)
  merged = lora_merging.merge(adapters, recipe)
  folded = lora_merging.merge_into(base, adapters, recipe)
  assert 'lora' not in folded
  for name in SHAPES:
    wanted = base['layers'][name]['kernel'] + adapter_folder.product(merged, name)
    rounding.assert_close(folded['layers'][name]['kernel'], wanted, terms=4)  # the largest rank
  beside = adapter_folder.logits(CONFIG, {**base, 'lora': merged})
  within = adapter_folder.logits(CONFIG, folded)
  rounding.assert_close(within, beside, **rounding.of_model(CONFIG))
  assert not np.allclose(beside, adapter_folder.logits(CONFIG, base), atol=0.01)


@pytest.mark.parametrize('how', ['linear', 'cat'])
def test_sums_are_exact(how):
  adapters, weights = some(2, 5, 3), (0.5, -0.25, 2.0)
  merged = lora_merging.merge(adapters, Recipe(how, weights))
  near(products(merged), weighted(adapters, weights))
  near(products(lora_merging.merge(adapters, Recipe(how))), weighted(adapters, (1 / 3,) * 3))
  ranks = {name: part['a'].shape[1] for name, part in merged['layers'].items()}
  # A matrix has no more ranks than rows or columns: v is 16 × 8.
  assert ranks == {'q': 10, 'v': 10 if how == 'cat' else 8, 'down': 10}
  assert all((part['scale'] == 1).all() for part in merged['layers'].values())


def truncated(delta_IO, rank):
  left, values, right = np.linalg.svd(delta_IO)
  return (left[:, :rank] * values[:rank]) @ right[:rank]


@pytest.mark.parametrize('how', ['linear', 'svd'])
def test_a_rank_cuts_to_the_nearest_matrix(how):
  adapters, weights = some(4, 6), (0.5, 0.7)
  sums = weighted(adapters, weights)
  cut = lora_merging.merge(adapters, Recipe(how, weights, rank=3))
  assert all(part['a'].shape[1] == 3 for part in cut['layers'].values())
  near(products(cut), {n: np.stack([truncated(x, 3) for x in d]) for n, d in sums.items()})
  near(products(lora_merging.merge(adapters, Recipe(how, weights, rank=10))), sums)
  if how == 'svd':  # by itself the largest of the ranks
    whole = {n: np.stack([truncated(x, 6) for x in d]) for n, d in sums.items()}
    near(products(lora_merging.merge(adapters, Recipe('svd', weights))), whole)


def test_the_mean_of_factors_is_not_the_mean_of_products():
  adapters, weights = some(3, 3), (0.25, 0.75)
  merged = lora_merging.merge(adapters, Recipe('factors', weights))
  for name, part in merged['layers'].items():
    one, two = (adapter['layers'][name] for adapter in adapters.values())
    rounding.assert_close(part['a'], 0.25 * one['a'] + 0.75 * two['a'], terms=2)
    wanted = 0.25 * 0.5 * one['b'] + 0.75 * 1.3 * two['b']
    rounding.assert_close(part['scale'][:, None, None] * part['b'], wanted, terms=2)
  assert not np.allclose(products(merged)['q'], weighted(adapters, weights)['q'], atol=0.5)


def ties_by_hand(deltas, weights, density):
  """Entry by entry, as the paper's figure has it: trim, elect, merge."""
  flat = [delta.reshape(-1) for delta in deltas]
  kept = []
  for delta in flat:
    order = sorted(range(delta.size), key=lambda i: -abs(delta[i]))
    chosen = set(order[: round(density * delta.size)])
    kept.append([x if i in chosen else 0.0 for i, x in enumerate(delta)])
  out = []
  for entries in zip(*kept, strict=True):
    up = sum(w * x for w, x in zip(weights, entries, strict=True) if x > 0)
    down = sum(-w * x for w, x in zip(weights, entries, strict=True) if x < 0)
    side = [
      (w, x) for w, x in zip(weights, entries, strict=True) if (x > 0 if up >= down else x < 0)
    ]
    mean = sum(w * x for w, x in side) / sum(w for w, _ in side) if side else 0.0
    out.append(sum(weights) * mean)
  return np.array(out).reshape(deltas[0].shape)


@pytest.mark.parametrize('weights', [(1 / 3, 1 / 3, 1 / 3), (0.2, 0.9, 0.3)])
def test_ties_is_that_of_the_paper(weights):
  adapters, base = some(3, 4, 2), tiny.params(decoder(CONFIG))
  folded = lora_merging.merge_into(base, adapters, Recipe('ties', weights, density=0.2))
  ranked = lora_merging.merge(adapters, Recipe('ties', weights, rank=3, density=0.2))
  exact = lora_merging.merge(adapters, Recipe('ties', weights, rank=16, density=0.2))
  for name, (depth, *_) in SHAPES.items():
    deltas = [products(adapter)[name] for adapter in adapters.values()]
    wanted = [ties_by_hand([d[i] for d in deltas], weights, 0.2) for i in range(depth)]
    found = folded['layers'][name]['kernel'] - base['layers'][name]['kernel']
    rounding.assert_close(found, np.stack(wanted), terms=3)  # the adapters
    rounding.assert_close(products(exact)[name], np.stack(wanted), terms=16)  # the rank
    cut = np.stack([truncated(x, 3) for x in wanted])
    rounding.assert_close(products(ranked)[name], cut, terms=3)


def test_ties_elects_by_mass_and_not_by_count():
  """One entry: two small ones down, a large one up."""
  entry = lambda x: {
    'layers': {'q': {'a': np.ones((1, 1, 1)), 'b': np.full((1, 1, 1), x), 'scale': np.ones(1)}}
  }
  adapters = {'a': entry(3.0), 'b': entry(-1.0), 'c': entry(-1.0)}
  value = lambda w: adapter_folder.product(
    lora_merging.merge(adapters, Recipe('ties', w, density=1.0)), 'q'
  ).item()
  for weights, wanted in (((), 3), ((1.0, 1.0, 1.0), 9), ((0.1, 0.45, 0.45), -1)):
    rounding.assert_close(value(weights), wanted, terms=1)


def test_dare_drops_and_rescales():
  shapes = {'q': (2, 64, 64)}
  adapter = adapter_folder.adapter(shapes, 2, 0)
  base = {'layers': {'q': {'kernel': np.zeros((2, 64, 64), np.float32)}}}
  delta = adapter_folder.product(adapter, 'q')

  def merged(count, **kwargs):
    adapters = {str(i): adapter for i in range(count)}
    folded = lora_merging.merge_into(base, adapters, Recipe('dare', **kwargs))
    return np.asarray(folded['layers']['q']['kernel'])

  one = merged(1)
  kept = one != 0
  rounding.assert_close(one[kept], delta[kept] / 0.2, terms=2)  # the rank
  for layer in kept:
    assert abs(layer.mean() - 0.2) < 0.03  # 4,096 draws: 5 deviations
  assert 0.25 < (kept[0] != kept[1]).mean() < 0.39  # 0.32 where they are independent
  np.testing.assert_array_equal(one, merged(1))
  assert not np.array_equal(one, merged(1, seed=1))
  mean = merged(1000)
  spread = np.abs(delta).max() * 2 / 1000**0.5  # √((1 − p) / p) is 2
  assert np.abs(mean - delta).max() < 6 * spread
  two = merged(2, weights=(1.0, 1.0))
  other = two - one
  assert 0.25 < ((other != 0) != kept).mean() < 0.39  # another mask for the second
  half = merged(2, weights=(0.3, 2.0))
  rounding.assert_close(half, 0.3 * one + 2 * other, terms=2)


def test_dare_and_ties_are_cut_to_the_largest_rank():
  for how in lora_merging.FULL:
    merged = lora_merging.merge(some(2, 5), Recipe(how))
    assert {part['a'].shape[1] for part in merged['layers'].values()} == {5}


WRONG = {
  'way': (Recipe('mean'), "no way to merge 'mean'; there are linear, cat, svd, factors, ties"),
  'count': (Recipe(weights=(1.0,)), '1 weight for 2 adapters'),
  'finite': (Recipe(weights=(1.0, float('nan'))), 'must be finite'),
  'float32': (Recipe(weights=(1.0, 1e39)), 'must be finite, below 1e38'),
  'positive': (Recipe('ties', (1.0, -1.0)), 'ties shares out weights'),
  'magnitude': (Recipe('magmax', (1.0, 0.0)), 'magmax shares out weights'),
  'mean': (Recipe('factors', (1.0, 0.0)), 'factors shares out weights'),
  'none': (Recipe('dare', density=0), r'density 0 is not in \(0, 1\]'),
  'more': (Recipe('ties', density=1.5), 'density 1.5 is not in'),
  'rank': (Recipe(rank=-1), 'rank -1 is negative'),
  'cat': (Recipe('cat', rank=4), 'rank 4: the rank of cat follows'),
  'ranks': (
    Recipe('factors'),
    'adapter1: q has rank 3, but 2 in adapter0: factors of different ranks have no mean',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_wrong_recipes_are_refused(name):
  recipe, says = WRONG[name]
  with pytest.raises(UserError, match=says):
    lora_merging.merge(some(2, 3), recipe)


@ALL
def test_different_models_and_projections_are_refused(how):
  one = adapter_folder.adapter(SHAPES, 2, 0)
  less = {'layers': {name: one['layers'][name] for name in ('q', 'v')}}
  with pytest.raises(UserError, match=r'two adapts q, v, but one down, q, v'):
    lora_merging.merge({'one': one, 'two': less}, Recipe(how))
  wide = adapter_folder.adapter({**SHAPES, 'v': (2, 16, 9)}, 2, 0)
  with pytest.raises(UserError, match=r'two: v has .* \(2, 16, 9\), but \(2, 16, 8\) in one'):
    lora_merging.merge({'one': one, 'two': wide}, Recipe(how))
  deep = adapter_folder.adapter({**SHAPES, 'v': (3, 16, 8)}, 2, 0)
  with pytest.raises(UserError, match='different models'):
    lora_merging.merge({'one': one, 'two': deep}, Recipe(how))
  with pytest.raises(UserError, match='no adapters'):
    lora_merging.merge({}, Recipe(how))
  base = {'layers': {'q': {'kernel': np.zeros((2, 16, 16))}}}
  with pytest.raises(UserError, match=r'one: v is for .*; the model has no such projection'):
    lora_merging.merge_into(base, {'one': {'layers': {'v': one['layers']['v']}}}, Recipe(how))


@pytest.mark.filterwarnings('ignore')
def test_sums_cuts_and_ties_are_those_of_peft(tmp_path):
  theirs = pytest.importorskip('peft')
  loaded = adapter_folder.model('llama', tmp_path / 'model')
  shapes = {name: lora.kernels(loaded.params)[name] for name in ('q', 'down')}
  adapters = {str(i): adapter_folder.adapter(shapes, 4, i, 0.5 + i) for i in range(2)}
  for name, adapter in adapters.items():
    peft.write(tmp_path / name, loaded.config, adapter)
  net = theirs.PeftModel.from_pretrained(decoders.model('llama'), tmp_path / '0', '0')
  net.load_adapter(tmp_path / '1', '1')
  weights = (0.5, 0.5)
  for how, kind, options in (
    ('cat', 'cat', {}),
    ('svd', 'svd', {'svd_rank': 3}),
    ('ties', 'ties_svd', {'svd_rank': 3, 'density': 0.25}),
  ):
    # Its ties divides by the number of voices and not by their weight: weights of 1 are a mean.
    net.add_weighted_adapter(
      ['0', '1'], [1.0, 1.0] if how == 'ties' else list(weights), how, kind, **options
    )
    recipe = Recipe(how, weights, options.get('svd_rank', 0), density=0.25)
    merged = lora_merging.merge(adapters, recipe)
    for i, layer in enumerate(net.base_model.model.model.layers):
      for name, module in (('q', layer.self_attn.q_proj), ('down', layer.mlp.down_proj)):
        wanted_IO = module.get_delta_weight(how).detach().numpy().T
        found_IO = adapter_folder.product(merged, name)[i]
        # Theirs: the product of 8 ranks, its SVD over 24 rows, and the product again.
        rounding.assert_close(found_IO, wanted_IO, terms=24, depth=3)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A model, two adapters of it, and one of another model."""
  root = tmp_path_factory.mktemp('merge')
  loaded = adapter_folder.model('llama', root / 'model')
  shapes = lora.kernels(loaded.params)
  for i, rank in enumerate((2, 3)):
    adapter = adapter_folder.adapter({n: shapes[n] for n in ('q', 'v')}, rank, i)
    peft.write(root / f'a{i}', loaded.config, adapter, str(root / 'model'))
  adapter = adapter_folder.adapter({'q': shapes['q']}, 2, 0)
  peft.write(root / 'other', loaded.config, adapter, 'elsewhere')
  peft.write(root / 'nameless', loaded.config, adapter)
  return root


call = functools.partial(launchers.call, 'merge')


def test_the_launcher_merges_folders(folders, tmp_path):
  out = tmp_path / 'merged'
  names = ','.join(str(folders / f'a{i}') for i in (0, 1))
  done = call(f'--adapters={names}', '--weights=0.25,0.5', '--rank=4', f'--out={out}')
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'2 adapters, merged by linear: {out}\n'
  config = hf.load_config(str(folders / 'model'))
  adapters = {str(i): peft.read(folders / f'a{i}', config) for i in (0, 1)}
  wanted = lora_merging.merge(adapters, Recipe(weights=(0.25, 0.5), rank=4))
  adapter_folder.same(peft.read(out, config), wanted)
  fields = json.loads((out / 'adapter_config.json').read_text())
  assert fields['base_model_name_or_path'] == str(folders / 'model')


@pytest.mark.skipif(not hasattr(hf, 'save'), reason='model folders are not written yet')
def test_the_launcher_merges_into_a_model(folders, tmp_path):
  out = tmp_path / 'merged'
  names = ','.join(str(folders / f'a{i}') for i in (0, 1))
  done = call(
    f'--adapters={names}', '--how=dare', '--density=0.5', '--seed=3', '--into=weights',
    f'--out={out}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  loaded, merged = hf.load(str(folders / 'model')), hf.load(str(out))
  adapters = {str(i): peft.read(folders / f'a{i}', loaded.config) for i in (0, 1)}
  wanted = lora_merging.merge_into(loaded.params, adapters, Recipe('dare', density=0.5, seed=3))
  jax.tree.map(np.testing.assert_array_equal, merged.params, jax.tree.map(np.asarray, wanted))
  assert merged.config == loaded.config


MISTAKES = {
  'no adapters': ([], '--adapters is missing'),
  'no such folder': (['--adapters=no/such'], 'no/such/adapter_config.json: no such file'),
  'twice': (['--adapters={a0},{a0}'], 'it names the folder {a0} twice'),
  'no such way': (['--adapters={a0},{a1}', '--how=mean'], "no way to merge 'mean'"),
  'a word': (['--adapters={a0},{a1}', '--weights=1,x'], "--weights=1,x: 'x' is no number"),
  'count': (['--adapters={a0},{a1}', '--weights=1'], '1 weight for 2 adapters'),
  'density': (['--adapters={a0},{a1}', '--how=ties', '--density=0'], 'density 0.0 is not in'),
  'idle density': (['--adapters={a0},{a1}', '--density=0.5'], '--density is of ties and dare'),
  'idle seed': (['--adapters={a0},{a1}', '--how=ties', '--seed=1'], '--seed is of dare'),
  'seed': (['--adapters={a0},{a1}', '--how=dare', '--seed=-1'], 'seed'),
  'bases': (['--adapters={a0},{other}'], 'was made for elsewhere, but'),
  'no base': (['--adapters={nameless}'], "'base_model_name_or_path' is empty; give --base"),
  'targets': (['--adapters={a0},{other}', '--base={model}'], 'adapts q, but'),
  'base': (['--adapters={a0}', '--base=../no/such'], '../no/such: no such folder'),
  'into': (['--adapters={a0}', '--into=both'], 'into'),
  'out': (['--adapters={a0}', '--out={model}'], 'not empty; name a new folder'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, folders, tmp_path):
  arguments, culprit = MISTAKES[mistake]
  places = {name: folders / name for name in ('a0', 'a1', 'other', 'nameless', 'model')}
  out = tmp_path / 'out'
  arguments = [argument.format(**places) for argument in arguments]
  if not any(argument.startswith('--out=') for argument in arguments):
    arguments.append(f'--out={out}')
  done = call(*arguments)
  assert done.returncode == 2, done.stderr
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert done.stderr.startswith('error: ')
  assert culprit.format(**places) in done.stderr
  assert not list(tmp_path.iterdir())
  assert not (folders / 'model' / 'adapter_config.json').exists()


def test_no_out_is_refused(folders):
  done = call(f'--adapters={folders / "a0"}')
  assert (done.returncode, done.stderr) == (2, 'error: --out is missing; give --out=…\n')
