"""GGUF files, written here with the package `gguf` and read back."""

import sys

import jax
import numpy as np
import pytest
from support import model_folder, rounding
from support.gguf_files import byte_level, gguf, write
from support.model_folder import STORIES, needs_stories

from jcl.backbones.files import gguf as ours
from jcl.backbones.files import hf, tensors
from jcl.errors import UserError


@pytest.fixture(scope='module')
def wide():
  """A Llama whose rows are long enough for blocks of 32 numbers."""
  from jcl.backbones.decoder import decoder
  from jcl.backbones.decoder_config import DecoderConfig

  config = DecoderConfig(
    40, width=32, layers=2, heads=4, kv_heads=2, feed_forward=64, tied=False, max_positions=64
  )
  params = jax.tree.map(np.asarray, decoder(config).init(jax.random.key(0)))
  return config, params


# Shares of the largest number. F16 and BF16 keep 11 and 8 bits: an error of 2⁻¹¹ and 2⁻⁸. Blocks of
# 32 numbers have steps of 1/127 (Q8_0), 1/16 (Q5_0) and 1/8 (Q4_0) of their largest number, 1/31
# (Q5_1) and 1/15 (Q4_1) of their range (quantize_row_*_ref in ggml-quants.c of llama.cpp).
# The error is half a step, or, in Q5_0 and Q4_0, one step where a number's sign is not that of the
# largest.
@pytest.mark.parametrize(
  ('kind', 'tolerance'),
  [
    ('F32', 0), ('F16', 5e-4), ('BF16', 4e-3), ('Q8_0', 5e-3), ('Q5_0', 0.07), ('Q5_1', 0.07),
    ('Q4_0', 0.15), ('Q4_1', 0.15),
  ],
)  # fmt: skip
def test_quantised_files_are_read(wide, kind, tolerance, tmp_path):
  config, params = wide
  loaded = hf.load(write(tmp_path / 'model.gguf', params, config, kind=kind))
  for path, wanted in tensors.flatten(params).items():
    error = np.abs(tensors.flatten(loaded.params)[path] - wanted).max()
    assert error <= tolerance * np.abs(wanted).max(), path
  fields = ('width', 'layers', 'heads', 'kv_heads', 'head_dim', 'feed_forward', 'rows', 'tied')
  assert [getattr(loaded.config, f) for f in fields] == [getattr(config, f) for f in fields]
  assert (loaded.config.vocabulary, loaded.special.bos, loaded.special.eos) == (10, 1, 2)
  assert loaded.tokenizer.encode('ab a12').tokens == ['ab', 'Ġa', '1', '2']


def q6_k(block):
  """Sixteen runs of 16 numbers of 6 bits in 210 bytes, each run with a scale of its own."""
  low, high, scales = block[:128], block[128:192].astype(int), block[192:208].view(np.int8)
  delta, out = block[208:210].view(np.float16)[0].astype(np.float32), np.zeros(256, np.float32)
  for i in range(256):
    half, part, place = i // 128, i % 128 // 32, i % 32
    nibble = int(low[64 * half + 32 * (part % 2) + place]) >> 4 * (part // 2) & 15
    value = nibble | (high[32 * half + place] >> 2 * part & 3) << 4
    out[i] = delta * scales[i // 16] * (value - 32)
  return out


def q4_k(block):
  """Eight runs of 32 numbers of 4 bits in 144 bytes, each with a scale and a least value."""
  delta, least = block[:4].view(np.float16).astype(np.float32)
  packed, values, out = block[4:16].astype(int), block[16:], np.zeros(256, np.float32)
  for i in range(256):
    run = i // 32
    if run < 4:
      scale, offset = packed[run] & 63, packed[run + 4] & 63
    else:
      scale = packed[run + 4] & 15 | packed[run - 4] >> 6 << 4
      offset = packed[run + 4] >> 4 | packed[run] >> 6 << 4
    nibble = int(values[32 * (run // 2) + i % 32]) >> 4 * (run % 2) & 15
    out[i] = delta * scale * nibble - least * offset
  return out


@pytest.mark.parametrize(('kind', 'formula'), [('Q6_K', q6_k), ('Q4_K', q4_k)])
def test_k_quants_are_read(kind, formula, tmp_path):
  """Against the format's own description, number by number."""
  from jcl.backbones.decoder import decoder
  from jcl.backbones.decoder_config import DecoderConfig

  config = DecoderConfig(10, width=256, layers=1, heads=4, feed_forward=256, max_positions=64)
  params = jax.tree.map(np.asarray, decoder(config).init(jax.random.key(0)))
  quantisation = gguf.GGMLQuantizationType[kind]
  size = gguf.GGML_QUANT_SIZES[quantisation][1]
  blocks = np.random.default_rng(0).integers(0, 256, (256, size), dtype=np.uint8)
  halves = {'Q6_K': [208], 'Q4_K': [0, 2]}[kind]
  for at in halves:  # a sane scale: random bytes may be no number
    blocks[:, at : at + 2] = np.array([0.01], np.float16).view(np.uint8)
  loaded = hf.load(
    write(tmp_path / 'model.gguf', params, config, raw={'blk.0.ffn_up.weight': (blocks, kind)})
  )
  wanted = np.stack([formula(block) for block in blocks]).T
  assert np.ptp(wanted) > 1
  found = loaded.params['layers']['up']['kernel'][0]
  rounding.assert_close(found, wanted, terms=2)  # a scaled number and an offset


def test_a_shape_is_read_without_the_tensors(wide, tmp_path):
  config, params = wide
  file = write(tmp_path / 'model.gguf', params, config)
  whole, bare = hf.load(file), hf.load(file, weights=False)
  assert (bare.config, bare.params, bare.special) == (whole.config, None, whole.special)
  alone = hf.load_config(file)
  assert (alone.rows, alone.vocabulary, alone.layers) == (40, 40, config.layers)


def test_queries_and_keys_are_unpermuted(wide, tmp_path):
  """llama.cpp's own formula (LlamaModel.permute), applied to what transformers has."""
  config, params = wide
  w = params['layers']['q']['kernel'][0].T
  permuted = w.reshape(4, 2, 8 // 2, 32).swapaxes(1, 2).reshape(w.shape)
  written = dict(tensors.write(config, ours.TABLES['llama'], params))
  np.testing.assert_array_equal(written['blk.0.attn_q.weight'], permuted)
  loaded = hf.load(write(tmp_path / 'model.gguf', params, config))
  np.testing.assert_array_equal(loaded.params['layers']['q']['kernel'][0].T, w)


def test_qwen2_has_biases_and_no_permutation(tmp_path):
  loaded = hf.load(str(model_folder.write(tmp_path / 'hf', model_folder.golden('qwen2'))))
  file = write(tmp_path / 'model.gguf', loaded.params, loaded.config, arch='qwen2')
  again = hf.load(file)
  jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
  assert again.config.qkv_bias
  assert again.config.tied


def test_rope_factors_are_recognised_as_llama3s(wide, tmp_path):
  import dataclasses

  from jcl.backbones.decoder import frequencies
  from jcl.backbones.decoder_config import RopeScaling

  config, params = wide
  scaling = RopeScaling('llama3', 8.0)
  scaled = dataclasses.replace(config, rope_theta=5e5, rope_scaling=scaling)
  plain = dataclasses.replace(scaled, rope_scaling=None)
  extra = {'rope_freqs.weight': (frequencies(plain) / frequencies(scaled)).astype(np.float32)}
  loaded = hf.load(write(tmp_path / 'model.gguf', params, scaled, extra=extra))
  assert loaded.config.rope_scaling == scaling
  extra = {'rope_freqs.weight': np.array([1, 2, 3, 8], np.float32)}
  with pytest.raises(UserError, match='is not the scaling of Llama 3'):
    hf.load(write(tmp_path / 'other.gguf', params, scaled, extra=extra))


@needs_stories
def test_sentence_piece_tokenizers_encode_alike(tmp_path):
  loaded = hf.load(str(STORIES))
  by_id = sorted(loaded.tokenizer.get_vocab(), key=loaded.tokenizer.token_to_id)
  kinds = [2, 3, 3] + [6 if t.startswith('<0x') else 1 for t in by_id[3:]]

  def tokenizer(writer):
    writer.add_tokenizer_model('llama')
    writer.add_token_list(by_id)
    writer.add_token_types(kinds)
    writer.add_token_scores([-float(i) for i in range(len(by_id))])

  file = write(tmp_path / 'model.gguf', loaded.params, loaded.config, tokenizer=tokenizer)
  again = hf.load(file)
  jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
  for text in ('Once upon a time', ' Lily said: "é 漢!"', 'two  spaces\nand lines'):
    assert again.tokenizer.encode(text).ids == loaded.tokenizer.encode(text).ids
  ids = loaded.tokenizer.encode('Once upon a time, Tom').ids
  assert again.tokenizer.decode(ids) == 'Once upon a time, Tom'


def test_bad_files_are_refused(wide, tmp_path, monkeypatch):
  config, params = wide
  good = write(tmp_path / 'good.gguf', params, config)
  data = (tmp_path / 'good.gguf').read_bytes()
  bad = {
    'half.gguf': (data[: len(data) // 2], 'truncated or no GGUF file'),
    'text.gguf': (b'hello, this is text' * 9, 'truncated or no GGUF file'),
    'empty.gguf': (b'', 'truncated or no GGUF file'),
  }
  for name, (content, says) in bad.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f'{name}: {says}'):
      hf.load(str(tmp_path / name))
  with pytest.raises(UserError, match="architecture 'gemma' is unknown; known: llama"):
    hf.load(write(tmp_path / 'arch.gguf', params, config, arch='gemma'))
  other = lambda writer: byte_level(writer, pre='tekken')
  with pytest.raises(UserError, match="pre-tokenizer 'tekken' is unknown"):
    hf.load(write(tmp_path / 'pre.gguf', params, config, tokenizer=other))
  with pytest.raises(UserError, match="tensor 'odd' is unknown"):
    hf.load(write(tmp_path / 'odd.gguf', params, config, extra={'odd': np.zeros(3, np.float32)}))
  monkeypatch.setattr(gguf.quants, 'dequantize', _unknown)
  with pytest.raises(UserError, match=r'tensor .* has unknown quantisation F32'):
    hf.load(good)
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(UserError, match=r"needs the package gguf: pip install 'jcl\[gguf\]'"):
    hf.load(good)


def _unknown(*args):
  raise NotImplementedError
