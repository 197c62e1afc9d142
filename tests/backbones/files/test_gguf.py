"""GGUF files, written here with the package `gguf` and read back."""

import pathlib
import sys

import jax
import numpy as np
import pytest
from support import model_folder, rounding, tiny
from support.gguf_files import byte_level, gguf, write
from support.model_folder import STORIES, needs_stories

from jcl.backbones.files import gguf_architectures, hf, tensors
from jcl.errors import UserError


@pytest.fixture(scope='module')
def wide():
  """A Llama whose rows are long enough for blocks of 32 numbers."""
  from jcl.backbones.decoder import decoder
  from jcl.backbones.decoder_config import DecoderConfig

  config = DecoderConfig(
    40, width=32, layers=2, heads=4, kv_heads=2, feed_forward=64, tied=False, max_positions=64
  )
  params = jax.device_get(tiny.params(decoder(config)))
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


def q2_k(block):
  """Sixteen runs of 16 numbers of 2 bits in 84 bytes: a scale and a least value of 4 bits each."""
  scales, values = block[:16].astype(int), block[16:80].astype(int)
  delta, least = block[80:84].view(np.float16).astype(np.float32)
  out = np.zeros(256, np.float32)
  for i in range(256):
    half, part, place = i // 128, i % 128 // 32, i % 32
    bits = values[32 * half + place] >> 2 * part & 3
    out[i] = delta * (scales[i // 16] & 15) * bits - least * (scales[i // 16] >> 4)
  return out


def q3_k(block):
  """Sixteen runs of 16 numbers of 3 bits in 110 bytes: scales of 6 bits, offset by 32."""
  mask, values, packed = (part.astype(int) for part in (block[:32], block[32:96], block[96:108]))
  delta, out = block[108:110].view(np.float16)[0].astype(np.float32), np.zeros(256, np.float32)
  for i in range(256):
    run, half, part, place = i // 16, i // 128, i % 128 // 32, i % 32
    low = packed[run % 8] >> 4 * (run // 8) & 15
    high = packed[8 + run % 4] >> 2 * (run // 4) & 3
    bits = values[32 * half + place] >> 2 * part & 3
    minus = 0 if mask[place] >> 4 * half + part & 1 else 4
    out[i] = delta * ((low | high << 4) - 32) * (bits - minus)
  return out


def q5_k(block):
  """Like Q4_K, with a fifth bit for each number in 32 bytes of their own."""
  high, plain = block[16:48].astype(int), np.concatenate([block[:16], block[48:]])
  delta, packed = block[:2].view(np.float16)[0].astype(np.float32), block[4:16].astype(int)
  out = q4_k(plain)
  for i in range(256):
    run = i // 32
    early = packed[run] & 63 if run < 4 else packed[run + 4] & 15 | packed[run - 4] >> 6 << 4
    out[i] += delta * early * 16 * (high[i % 32] >> run & 1)
  return out


LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(block):
  """A scale and 32 numbers of 4 bits, which are places in a table of levels."""
  delta, values = block[:2].view(np.float16)[0].astype(np.float32), block[2:18].astype(int)
  return np.array(
    [delta * LEVELS[values[i % 16] >> 4 * (i // 16) & 15] for i in range(32)], np.float32
  )


def iq4_xs(block):
  """Eight runs of 32 numbers as in IQ4_NL, each run with a scale of 6 bits, offset by 32."""
  delta = block[:2].view(np.float16)[0].astype(np.float32)
  high, low = int(block[2:4].view(np.uint16)[0]), block[4:8].astype(int)
  values, out = block[8:].astype(int), np.zeros(256, np.float32)
  for i in range(256):
    run, place = divmod(i, 32)
    scale = low[run // 2] >> 4 * (run % 2) & 15 | (high >> 2 * run & 3) << 4
    nibble = values[16 * run + place % 16] >> 4 * (place // 16) & 15
    out[i] = delta * (scale - 32) * LEVELS[nibble]
  return out


HALVES = {  # where half-precision scales stand in a block
  'Q2_K': (80, 82), 'Q3_K': (108,), 'Q4_K': (0, 2), 'Q5_K': (0, 2), 'Q6_K': (208,),
  'IQ4_NL': (0,), 'IQ4_XS': (0,),
}  # fmt: skip
FORMULAS = (q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs)  # quants.c and ggml-quants.c of llama.cpp


@pytest.mark.parametrize('formula', FORMULAS)
def test_quantisations_of_llama_cpp_are_read(formula, tmp_path):
  """Against the format's own description, number by number."""
  from jcl.backbones.decoder import decoder
  from jcl.backbones.decoder_config import DecoderConfig

  kind = formula.__name__.upper()
  config = DecoderConfig(10, width=256, layers=1, heads=4, feed_forward=64, max_positions=64)
  params = jax.device_get(tiny.params(decoder(config)))
  numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
  rows = 64 * 256 // numbers
  blocks = np.random.default_rng(0).integers(0, 256, (rows, size), dtype=np.uint8)
  for at in HALVES[kind]:  # a sane scale: random bytes may be no number
    blocks[:, at : at + 2] = np.array([0.01], np.float16).view(np.uint8)
  raw = {'blk.0.ffn_up.weight': (blocks.reshape(64, -1), kind)}
  loaded = hf.load(write(tmp_path / 'model.gguf', params, config, raw=raw))
  wanted = np.stack([formula(block) for block in blocks]).reshape(64, 256).T
  assert np.ptp(wanted) > 0.5
  found = loaded.params['layers']['up']['kernel'][0]
  rounding.assert_close(found, wanted, terms=2)  # a scaled number and an offset


def parts(folder, params, config, count=2, chosen=lambda i, name: ('blk.0' in name) == i, **more):
  """The files of a model that is split."""
  return [
    write(
      folder / f'm-{i + 1:05}-of-{count:05}.gguf', params, config,
      split=(i, count, lambda name, i=i: chosen(i, name)), **more,
    )
    for i in range(count)
  ]  # fmt: skip


def test_a_split_model_is_read_as_one_whichever_file_is_named(wide, tmp_path):
  config, params = wide
  whole = hf.load(write(tmp_path / 'whole.gguf', params, config))
  for file in parts(tmp_path, params, config):
    found = hf.load(file)
    assert found.config == whole.config
    jax.tree.map(np.testing.assert_array_equal, found.params, whole.params)
    assert hf.load_config(file) == hf.load_config(str(tmp_path / 'whole.gguf'))


def test_an_untied_model_is_not_read_as_tied_for_its_projection_is_in_another_file(wide, tmp_path):
  last = parts(tmp_path, wide[1], wide[0], chosen=lambda i, name: (name == 'output.weight') == i)
  assert not hf.load(last[0]).config.tied


def test_files_of_a_split_model_that_contradict_each_other_are_refused(wide, tmp_path):
  config, params = wide

  def refused(says, file, change=lambda: None):
    change()
    with pytest.raises(UserError, match=says) as caught:
      hf.load(str(file))
    assert str(tmp_path) in str(caught.value)

  first, second = map(pathlib.Path, parts(tmp_path, params, config))
  data = second.read_bytes()
  refused('in 2 files, of which m-00002-of-00002.gguf is missing', first, second.unlink)
  renamed = tmp_path / 'other.gguf'
  refused('must be called NAME-00001-of-00002', renamed, lambda: renamed.write_bytes(data))
  refused('split.no is 0; .* must say 1', first, lambda: second.write_bytes(first.read_bytes()))
  again = lambda: parts(tmp_path, params, config, chosen=lambda i, name: True)
  refused("tensor 'token_embd.weight' is in an earlier file|is in an earlier file", first, again)
  none = lambda: parts(tmp_path, params, config, chosen=lambda i, name: 'blk.1' not in name and i)
  refused('split.tensors.count is 21; 12 tensors in 2 files', first, none)
  (tmp_path / 'b').mkdir()
  parts(tmp_path, params, config, meta={'llama.vocab_size': 40})
  stranger = parts(tmp_path / 'b', params, config, meta={'llama.vocab_size': 41})[1]
  replaced = lambda: second.write_bytes(pathlib.Path(stranger).read_bytes())
  refused('llama.vocab_size is another than in m-00001', first, replaced)


def test_what_is_not_read_is_named_or_refused(wide, tmp_path):
  config, params = wide
  made = lambda **meta: write(
    tmp_path / 'm.gguf', params, config, meta={k.replace('__', '.'): v for k, v in meta.items()}
  )
  assert hf.load(made(general__name='x', general__file_type=1)).notes == ()
  notes = hf.load(made(llama__odd=3, tokenizer__ggml__fim_pre_token_id=5)).notes
  assert 'keys that nothing reads: odd 3, tokenizer.ggml.fim_pre_token_id 5' in notes[0]
  for key, value, says in (
    ('llama__rope__dimension_count', 4, 'rope.dimension_count is 4, a head has 8 numbers'),
    ('llama__expert_count', 8, 'expert_count 8 is not supported'),
    ('llama__attention__sliding_window', 2**31, "'attention.sliding_window' is 2147483648, which"),
    ('llama__rope__scaling__type', 'ntk', "rope scaling 'ntk' is not supported; known: linear"),
    ('llama__final_logit_softcapping', 30.0, 'final_logit_softcapping'),
    ('general__type', 'adapter', "general.type is 'adapter', not a model"),
    ('tokenizer__ggml__add_eos_token', True, 'add_eos_token is true'),
    ('tokenizer__ggml__add_sep_token', True, 'add_sep_token is true'),
  ):
    with pytest.raises(UserError, match=says):
      hf.load(made(**{key: value}))
  third = {'blk.2.attn_norm.weight': np.ones(32, np.float32)}
  with pytest.raises(UserError, match='block_count is 2, but the tensors are those of 3 layers'):
    hf.load(write(tmp_path / 'm.gguf', params, config, extra=third))


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
  written = dict(tensors.write(config, gguf_architectures.LLAMA_TABLE, params))
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

  from jcl.backbones.decoder_config import RopeScaling
  from jcl.backbones.rotary import frequencies

  config, params = wide
  scaling = RopeScaling('llama3', 8.0)
  scaled = dataclasses.replace(config, rope_theta=5e5, rope_scaling=scaling)
  plain = dataclasses.replace(scaled, rope_scaling=None)
  extra = {'rope_freqs.weight': (frequencies(plain) / frequencies(scaled)).astype(np.float32)}
  loaded = hf.load(write(tmp_path / 'model.gguf', params, scaled, extra=extra))
  assert loaded.config.rope_scaling == scaling


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
    'pointer.gguf': (b'version https://git-lfs.github.com/spec/v1', 'a pointer of Git LFS'),
  }
  for name, (content, says) in bad.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f'{name}: {says}'):
      hf.load(str(tmp_path / name))
  with pytest.raises(UserError, match="architecture 'gemma4' is not read from GGUF; known: llama"):
    hf.load(write(tmp_path / 'arch.gguf', params, config, arch='gemma4'))
  other = lambda writer: byte_level(writer, pre='deepseek-llm')
  with pytest.raises(UserError, match="pre-tokenizer 'deepseek-llm' is unknown"):
    hf.load(write(tmp_path / 'pre.gguf', params, config, tokenizer=other))
  with pytest.raises(UserError, match="tensor 'odd' is unknown"):
    hf.load(write(tmp_path / 'odd.gguf', params, config, extra={'odd': np.zeros(3, np.float32)}))
  monkeypatch.setattr(gguf.quants, 'dequantize', _unknown)
  with pytest.raises(
    UserError, match=r'tensor .* has quantisation F32, which the package gguf cannot'
  ):
    hf.load(good)
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(UserError, match=r"needs the package gguf: pip install 'jcl\[gguf\]'"):
    hf.load(good)


def _unknown(*args):
  raise NotImplementedError
