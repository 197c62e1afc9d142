"""The decoder families: what their config.json says, and one table of tensor names for each.

A table is data and is read both ways, so that import and export cannot drift apart. An entry counts
where our tree has its leaves, so one table serves Llama, Mistral, Qwen2 and Qwen3 alike.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones import config_json
from jcl.backbones.config_json import Fields
from jcl.backbones.decoder_config import DecoderConfig


class Rule(NamedTuple):
  """How one of their tensors becomes some of ours, and back.

  Attributes:
    read: (their array, config) -> our arrays, one a path of the entry.
    write: (our arrays, config) -> their array.
  """

  read: Callable[[np.ndarray, DecoderConfig], list[np.ndarray]]
  write: Callable[[list[np.ndarray], DecoderConfig], np.ndarray]


class Entry(NamedTuple):
  """Paths of ours, a name of theirs (`{}` is the layer), and the rule between them."""

  ours: tuple[str, ...]
  theirs: str
  rule: Rule


class Family(NamedTuple):
  """One architecture.

  Attributes:
    read: fields of a config.json -> a DecoderConfig whose vocabulary is all rows.
    write: the config -> fields of a config.json, `architectures` included, `model_type` not.
    table: names.
    prefix: what checkpoints of the bare model leave out of the names.
    ignored: pattern of tensors that are constants of the code, not weights.
  """

  read: Callable[[Fields], DecoderConfig]
  write: Callable[[DecoderConfig], dict[str, Any]]
  table: tuple[Entry, ...]
  prefix: str
  ignored: str


def _split_heads(x: np.ndarray, config: DecoderConfig) -> list[np.ndarray]:
  """[heads · 3 · head, …] of GPT-NeoX -> three of [heads · head, …]."""
  parts = x.reshape(config.heads, 3, config.head_dim, *x.shape[1:])
  return [parts[:, i].reshape(-1, *x.shape[1:]) for i in range(3)]


def _join_heads(parts: list[np.ndarray], config: DecoderConfig) -> np.ndarray:
  rows = [x.reshape(config.heads, config.head_dim, *x.shape[1:]) for x in parts]
  return np.stack(rows, 1).reshape(-1, *parts[0].shape[1:])


SAME = Rule(lambda x, c: [x], lambda xs, c: xs[0])
TRANSPOSED = Rule(lambda x, c: [x.T], lambda xs, c: xs[0].T)
FUSED = Rule(lambda x, c: np.split(x, 3, -1), lambda xs, c: np.concatenate(xs, -1))
FUSED_HEADS = Rule(_split_heads, _join_heads)
FUSED_HEADS_TRANSPOSED = Rule(
  lambda x, c: [part.T for part in _split_heads(x, c)],
  lambda xs, c: _join_heads([x.T for x in xs], c),
)


def table(names: Mapping[str, str], kernel: Rule = TRANSPOSED) -> tuple[Entry, ...]:
  """A table from {our module: their module}.

  Modules named `…norm` have scale and bias, tables an embedding, all others kernel and bias.

  Args:
    names: with `{}` for the layer on their side.
    kernel: how a kernel is laid out.
  """
  entries = []
  for ours, theirs in names.items():
    if ours in ('embed', 'unembed', 'positions'):
      entries.append(Entry((f'{ours}/embedding',), f'{theirs}.weight', SAME))
      continue
    norm = ours.endswith('norm')
    weight = ('scale', SAME) if norm else ('kernel', kernel)
    for (leaf, rule), suffix in zip((weight, ('bias', SAME)), ('weight', 'bias'), strict=True):
      entries.append(Entry((f'{ours}/{leaf}',), f'{theirs}.{suffix}', rule))
  return tuple(entries)


def fused(theirs: str, kernel: Rule, bias: Rule) -> tuple[Entry, ...]:
  """The entries of queries, keys and values in one tensor."""
  paths = lambda leaf: tuple(f'layers/{name}/{leaf}' for name in 'qkv')
  return (
    Entry(paths('kernel'), f'{theirs}.weight', kernel),
    Entry(paths('bias'), f'{theirs}.bias', bias),
  )


LLAMA_TABLE = table(
  {
    'embed': 'model.embed_tokens',
    'layers/attention_norm': 'model.layers.{}.input_layernorm',
    'layers/q': 'model.layers.{}.self_attn.q_proj',
    'layers/k': 'model.layers.{}.self_attn.k_proj',
    'layers/v': 'model.layers.{}.self_attn.v_proj',
    'layers/o': 'model.layers.{}.self_attn.o_proj',
    'layers/q_norm': 'model.layers.{}.self_attn.q_norm',
    'layers/k_norm': 'model.layers.{}.self_attn.k_norm',
    'layers/mlp_norm': 'model.layers.{}.post_attention_layernorm',
    'layers/gate': 'model.layers.{}.mlp.gate_proj',
    'layers/up': 'model.layers.{}.mlp.up_proj',
    'layers/down': 'model.layers.{}.mlp.down_proj',
    'final_norm': 'model.norm',
    'unembed': 'lm_head',
  }
)
GPT2_TABLE = (
  *fused('transformer.h.{}.attn.c_attn', FUSED, FUSED),
  *table(
    {
      'embed': 'transformer.wte',
      'positions': 'transformer.wpe',
      'layers/attention_norm': 'transformer.h.{}.ln_1',
      'layers/o': 'transformer.h.{}.attn.c_proj',
      'layers/mlp_norm': 'transformer.h.{}.ln_2',
      'layers/up': 'transformer.h.{}.mlp.c_fc',
      'layers/down': 'transformer.h.{}.mlp.c_proj',
      'final_norm': 'transformer.ln_f',
      'unembed': 'lm_head',
    },
    kernel=SAME,  # its Conv1D is (in, out)
  ),
)
NEOX_TABLE = (
  *fused('gpt_neox.layers.{}.attention.query_key_value', FUSED_HEADS_TRANSPOSED, FUSED_HEADS),
  *table(
    {
      'embed': 'gpt_neox.embed_in',
      'layers/attention_norm': 'gpt_neox.layers.{}.input_layernorm',
      'layers/o': 'gpt_neox.layers.{}.attention.dense',
      'layers/mlp_norm': 'gpt_neox.layers.{}.post_attention_layernorm',
      'layers/up': 'gpt_neox.layers.{}.mlp.dense_h_to_4h',
      'layers/down': 'gpt_neox.layers.{}.mlp.dense_4h_to_h',
      'final_norm': 'gpt_neox.final_layer_norm',
      'unembed': 'embed_out',
    }
  ),
)

_ROTARY = r'\.rotary_emb\.inv_freq$'
_MASKS = r'\.(attn|attention)\.(bias|masked_bias)$|' + _ROTARY
_LIKE_LLAMA = (config_json.write_llama_like, LLAMA_TABLE, 'model.', _ROTARY)
FAMILIES = {
  'gpt2': Family(config_json.read_gpt2, config_json.write_gpt2, GPT2_TABLE, 'transformer.', _MASKS),
  'gpt_neox': Family(
    config_json.read_neox, config_json.write_neox, NEOX_TABLE, 'gpt_neox.', _MASKS
  ),
  'llama': Family(config_json.read_llama, *_LIKE_LLAMA),
  'mistral': Family(config_json.read_mistral, *_LIKE_LLAMA),
  'qwen2': Family(config_json.read_qwen2, *_LIKE_LLAMA),
  'qwen3': Family(config_json.read_qwen3, *_LIKE_LLAMA),
}
