"""The families: what their config.json says, and one table of tensor names for each.

A table is data and is read both ways, so that import and export cannot drift apart. An entry counts
where our tree has its leaves, so one table serves Llama, Mistral, Qwen2 and Qwen3 alike.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import config_json, encoder_config_json
from jcl.backbones.files.config_json import Fields
from jcl.backbones.model_config import ModelConfig


class Rule(NamedTuple):
  """How one of their tensors becomes some of ours, and back.

  Attributes:
    read: (their array, config) -> our arrays, one a path of the entry.
    write: (our arrays, config) -> their array.
  """

  read: Callable[[np.ndarray, Any], list[np.ndarray]]
  write: Callable[[list[np.ndarray], Any], np.ndarray]


class Entry(NamedTuple):
  """Paths of ours, a name of theirs (`{}` is the layer), and the rule between them."""

  ours: tuple[str, ...]
  theirs: str
  rule: Rule


class Family(NamedTuple):
  """One architecture.

  Attributes:
    read: fields of a config.json -> a config whose vocabulary is all rows.
    write: the config -> fields of a config.json, `architectures` included, `model_type` not.
    table: names.
    prefix: what checkpoints of the bare model leave out of the names.
    ignored: pattern of tensors that are not read and not kept: constants of the code, and of
      encoders the pooler and the heads of pretraining, which no final state depends on.
  """

  read: Callable[[Fields], ModelConfig]
  write: Callable[[Any], dict[str, Any]]
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
    if ours in ('embed', 'unembed', 'positions', 'types'):
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


def _bert_table(prefix: str) -> tuple[Entry, ...]:
  return table(
    {
      'embed': f'{prefix}embeddings.word_embeddings',
      'positions': f'{prefix}embeddings.position_embeddings',
      'types': f'{prefix}embeddings.token_type_embeddings',
      'embed_norm': f'{prefix}embeddings.LayerNorm',
      'layers/q': f'{prefix}encoder.layer.{{}}.attention.self.query',
      'layers/k': f'{prefix}encoder.layer.{{}}.attention.self.key',
      'layers/v': f'{prefix}encoder.layer.{{}}.attention.self.value',
      'layers/o': f'{prefix}encoder.layer.{{}}.attention.output.dense',
      'layers/attention_norm': f'{prefix}encoder.layer.{{}}.attention.output.LayerNorm',
      'layers/up': f'{prefix}encoder.layer.{{}}.intermediate.dense',
      'layers/down': f'{prefix}encoder.layer.{{}}.output.dense',
      'layers/mlp_norm': f'{prefix}encoder.layer.{{}}.output.LayerNorm',
    }
  )


DISTILBERT_TABLE = table(
  {
    'embed': 'distilbert.embeddings.word_embeddings',
    'positions': 'distilbert.embeddings.position_embeddings',
    'embed_norm': 'distilbert.embeddings.LayerNorm',
    'layers/q': 'distilbert.transformer.layer.{}.attention.q_lin',
    'layers/k': 'distilbert.transformer.layer.{}.attention.k_lin',
    'layers/v': 'distilbert.transformer.layer.{}.attention.v_lin',
    'layers/o': 'distilbert.transformer.layer.{}.attention.out_lin',
    'layers/attention_norm': 'distilbert.transformer.layer.{}.sa_layer_norm',
    'layers/up': 'distilbert.transformer.layer.{}.ffn.lin1',
    'layers/down': 'distilbert.transformer.layer.{}.ffn.lin2',
    'layers/mlp_norm': 'distilbert.transformer.layer.{}.output_layer_norm',
  }
)

_ROTARY = r'\.rotary_emb\.inv_freq$'
_MASKS = r'\.(attn|attention)\.(bias|masked_bias)$|' + _ROTARY
_ENCODERS = (
  r'^(\w+\.)?(pooler|embeddings\.position_ids$|cls\.predictions|cls\.seq_relationship|lm_head|'
  r'vocab_(transform|layer_norm|projector))\b'
)
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
  'bert': Family(
    encoder_config_json.read_bert,
    encoder_config_json.write_bert,
    _bert_table('bert.'),
    'bert.',
    _ENCODERS,
  ),
  'roberta': Family(
    encoder_config_json.read_roberta,
    encoder_config_json.write_roberta,
    _bert_table('roberta.'),
    'roberta.',
    _ENCODERS,
  ),
  'distilbert': Family(
    encoder_config_json.read_distilbert,
    encoder_config_json.write_distilbert,
    DISTILBERT_TABLE,
    'distilbert.',
    _ENCODERS,
  ),
}
