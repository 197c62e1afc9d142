"""GGUF files, written with the package `gguf`."""

import pytest

from jcl.backbones.files import gguf_architectures, tensors

gguf = pytest.importorskip('gguf')
TOKENS = ['<unk>', '<s>', '</s>', 'a', 'b', 'Ġ', 'ab', 'Ġa', '1', '2']
KINDS = [2, 3, 3, 1, 1, 1, 1, 1, 1, 1]

TYPES = gguf.GGUFValueType
KIND_OF = {bool: TYPES.BOOL, int: TYPES.UINT32, float: TYPES.FLOAT32, str: TYPES.STRING}


def byte_level(writer, pre='smollm'):
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(TOKENS)
  writer.add_token_types(KINDS)
  writer.add_token_merges(['a b', 'Ġ a'])


def write(
  file, params, config, arch='llama', kind='F32', tokenizer=byte_level, extra=None, raw=(),
  meta=None, chat_template='', split=None,
):  # fmt: skip
  """A GGUF file with all matrices of one kind of quantisation, but for those given `raw`.

  Args:
    meta: {key: number, text or truth} to be added.
    chat_template: of the tokenizer; empty: none.
    split: (number of this file, files, which tensors it holds): one of several.
  """
  writer = gguf.GGUFWriter(str(file), arch)
  for key, value in (meta or {}).items():
    writer.add_key_value(key, value, KIND_OF[type(value)])
  if chat_template:
    writer.add_chat_template(chat_template)
  writer.add_block_count(config.layers)
  writer.add_embedding_length(config.width)
  writer.add_feed_forward_length(config.feed_forward)
  writer.add_head_count(config.heads)
  writer.add_head_count_kv(config.kv_heads)
  writer.add_layer_norm_rms_eps(config.norm_epsilon)
  writer.add_rope_freq_base(config.rope_theta)
  writer.add_context_length(64)
  tokenizer(writer)
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)
  named = dict(
    tensors.write(
      config,
      gguf_architectures.ARCHITECTURES.get(arch, gguf_architectures.Architecture('')).table,
      params,
    )
  )
  named |= extra or {}
  if split:
    number, files, chosen = split
    writer.add_uint16('split.no', number)
    writer.add_uint16('split.count', files)
    writer.add_int32('split.tensors.count', len(named))
    named = {name: x for name, x in named.items() if chosen(name)}
  for name, x in named.items():
    if name in raw:
      writer.add_tensor(name, raw[name][0], raw_dtype=gguf.GGMLQuantizationType[raw[name][1]])
      continue
    quantisation = gguf.GGMLQuantizationType[kind if x.ndim == 2 else 'F32']
    writer.add_tensor(name, gguf.quants.quantize(x, quantisation), raw_dtype=quantisation)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(file)
