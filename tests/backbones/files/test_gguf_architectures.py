"""GGUF files made by llama.cpp's own converter, against the probabilities of its own runtime."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from goldens import make_gguf_goldens as goldens
from support import model_folder, rounding
from support.gguf_files import write
from support.tiny import every_position

from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import hf, tensors
from jcl.errors import UserError

# Windows and two thetas, longrope and fused tensors, pairs and layers without positions: the others
# have no rule that none of these has.
DEFAULT = ('gemma3', 'phi3', 'smollm3')
ALL = [
  case if case in DEFAULT else pytest.param(case, marks=pytest.mark.slow) for case in goldens.CASES
]
LAYERS = {'gemma3': 6, 'smollm3': 4}  # the others have 2


@functools.cache
def golden(case):
  """The arrays of a golden file."""
  with np.load(model_folder.GOLDENS / f'gguf_{case}.npz') as file:
    return dict(file)


def loaded(case, folder):
  """The model in a golden file."""
  (folder / 'model.gguf').write_bytes(golden(case)['content'].tobytes())
  return hf.load(str(folder / 'model.gguf'))


def log_probabilities(model, tokens):
  """[V] natural logarithms of the probabilities of the next token."""
  logits_TV = jax.jit(decoder(model.config).logits)(model.params, every_position(tokens[None]))
  return np.asarray(jax.nn.log_softmax(logits_TV[-1]))


@pytest.mark.parametrize('case', ALL)
def test_probabilities_are_those_of_llama_cpp(case, tmp_path):
  model, wanted_V = loaded(case, tmp_path), golden(case)['wanted']
  found_V = log_probabilities(model, golden(case)['tokens'])
  assert model.config.layers == LAYERS.get(case, 2)
  if model.config.activation == 'silu':
    rounding.assert_close(found_V, wanted_V, **rounding.of_model(model.config))
    return
  # llama.cpp looks GELU up in a table of half-precision numbers: one such rounding in every layer.
  rounding.assert_close(found_V, wanted_V, 1, model.config.layers, margin=1, dtype=np.float16)


@pytest.mark.parametrize('case', ALL)
def test_an_export_of_a_gguf_model_comes_back(case, tmp_path):
  model = loaded(case, tmp_path)
  assert not [note for note in model.notes if 'eot_token_id' not in note]
  hf.save(tmp_path / 'out', model)
  again = hf.load(str(tmp_path / 'out'))
  scalar = {'query_scale': model.config.query_scale}  # Gemma's is written as 1 / scale²
  assert dataclasses.replace(again.config, **scalar) == model.config
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


SMALL = DecoderConfig(40, width=32, layers=2, heads=4, feed_forward=64, max_positions=64)


@functools.cache
def small(**changes):
  """A model of some architecture, and its config."""
  config = dataclasses.replace(SMALL, **changes)
  shapes = tensors.param_shapes(config)
  return tensors.unflatten(
    {path: np.ones(shape, np.float32) for path, shape in shapes.items()}
  ), config


def read(folder, arch, meta=(), extra=None, **changes):
  """Writes a model with these keys beside the usual ones, and reads it."""
  params, config = small(**changes)
  keys = {f'{arch}.{key}': x for key, x in dict(meta).items()}
  return hf.load(write(folder / 'm.gguf', params, config, arch, meta=keys, extra=extra))


REFUSED = [
  (
    'olmo2',
    {'attention.sliding_window': 4},
    {'norms': 'post'},
    'sliding_window 4 is not supported',
  ),
  ('granite', {}, {}, "field 'logit_scale' is missing"),
  ('granite', {'logit_scale': 2.0, 'rope.scaling.finetuned': False}, {}, 'finetuned False'),
  ('granite', {'logit_scale': 2.0, 'residual_scale': -1.0}, {}, "'residual_scale' is -1.0"),
  ('llama', {'rope.scaling.type': 'yarn'}, {}, "field 'rope.scaling.factor' is missing"),
  (
    'llama',
    {'rope.scaling.type': 'yarn', 'rope.scaling.factor': 2.0, 'rope.scaling.yarn_attn_factor': 1.2},
    {},
    'rope.scaling.yarn_attn_factor 1.2',
  ),
  ('llama', {'rope.scaling.type': 'longrope'}, {}, "'rope_factors_short.weight' .* is missing"),
  ('qwen2', {'attention.sliding_window': 4}, {}, 'attention.sliding_window 4 is not supported'),
  ('llama', {'final_logit_softcapping': 30.0}, {}, 'final_logit_softcapping 30.0'),
  ('gemma2', {'attention.sliding_window_pattern': 0}, {'norms': 'both'}, "_pattern' is 0, not pos"),
  ('gemma2', {'final_logit_softcapping': 0.0}, {'norms': 'both'}, 'softcapping. is 0.0, not pos'),
  ('gemma2', {'rope.freq_base_swa': 5.0}, {'norms': 'both'}, 'rope.freq_base_swa 5.0'),
]


@pytest.mark.parametrize(('arch', 'meta', 'shape', 'says'), REFUSED)
def test_keys_that_cannot_be_are_refused(arch, meta, shape, says, tmp_path):
  with pytest.raises(UserError, match=says) as refused:
    read(tmp_path, arch, meta, **shape)
  assert str(refused.value).startswith(str(tmp_path))
  assert '\n' not in str(refused.value)


def test_a_llama_with_a_window_is_a_mistral(tmp_path):
  model = read(tmp_path, 'llama', {'attention.sliding_window': 3})
  assert (model.config.family, model.config.window) == ('mistral', 3)
  hf.save(tmp_path / 'out', model)
  assert hf.load(str(tmp_path / 'out')).config == model.config


def test_windows_of_gemma_are_those_of_the_metadata_or_of_llama_cpp(tmp_path):
  read2 = lambda **meta: read(
    tmp_path, 'gemma2', {f'attention.{k}': x for k, x in meta.items()}, norms='both'
  )
  config = read2().config
  assert (config.window, config.windowed) == (4096, (True, False))
  assert (config.attention_cap, config.logit_cap, config.query_scale) == (50, 30, 8**-0.5)
  assert read2(sliding_window=0).config.windowed == ()
  assert read2(sliding_window=3, sliding_window_pattern=3).config.windowed == (True, True)


def test_divisors_of_frequencies_are_kept_whatever_they_are(tmp_path):
  extra = {'rope_freqs.weight': np.array([1, 2, 3, 8], np.float32)}
  scaling = read(tmp_path, 'llama', extra=extra).config.rope_scaling
  assert (scaling.kind, scaling.magnitude) == ('longrope', 1)
  assert scaling.short == scaling.long == (1, 2, 3, 8)
  both = {'rope.scaling.type': 'linear', 'rope.scaling.factor': 2.0}
  with pytest.raises(UserError, match='rope scaling linear and tensor'):
    read(tmp_path, 'llama', both, extra)


@pytest.mark.parametrize(
  ('keys', 'factor'),
  [
    ({'rope.scaling.factor': 4.0}, 4),
    ({'rope.scale_linear': 2.0}, 2),
    ({'rope.scaling.factor': 4.0, 'rope.scale_linear': 2.0}, 4),
    ({'rope.scaling.type': 'linear', 'rope.scaling.factor': 1.0}, None),
    ({'rope.scaling.type': 'none', 'rope.scaling.factor': 4.0}, None),
    ({'rope.scaling.factor': 0.0}, None),
  ],
)
def test_a_factor_of_rotary_frequencies_without_a_type_is_linear(keys, factor, tmp_path):
  """As llama.cpp takes it: linear is the type of files that give none."""
  scaling = read(tmp_path, 'gemma3', keys, norms='both', qk_norm=True).config.rope_scaling
  assert (scaling.kind, scaling.factor) == ('linear', factor) if factor else scaling is None
