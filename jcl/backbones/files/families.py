"""The families that jcl knows, and how one is found by name."""

from typing import Any

from jcl import plugins
from jcl.backbones.files import (
  config_json,
  encoder_config_json,
  gemma_config_json,
  llama_like_json,
)
from jcl.backbones.files.family import (
  FUSED,
  FUSED_GATE,
  FUSED_GATE_TRANSPOSED,
  FUSED_HEADS,
  FUSED_HEADS_TRANSPOSED,
  FUSED_QKV,
  FUSED_QKV_TRANSPOSED,
  SAME,
  Entry,
  Family,
  check_family,
  fused_table,
  name_table,
)
from jcl.backbones.model_config import ModelConfig
from jcl.errors import UserError

GROUP = 'jcl.families'  # of entry points; the name of one is a model_type

LLAMA_NAMES = {
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
LLAMA_TABLE = name_table(LLAMA_NAMES)


def _renamed(changes: dict[str, str], *extra: Entry) -> tuple[Entry, ...]:
  """Llama's table with other modules at some places; an empty name leaves the module out."""
  names = {module: name for module, name in (LLAMA_NAMES | changes).items() if name}
  return (*extra, *name_table(names))


_NORMS = {
  name: f'model.layers.{{}}.{theirs}_layernorm'
  for name, theirs in {
    'layers/attention_post_norm': 'post_attention',
    'layers/mlp_norm': 'pre_feedforward',
    'layers/mlp_post_norm': 'post_feedforward',
  }.items()
}
GEMMA_TABLE = _renamed(_NORMS)
OLMO2_TABLE = _renamed(_NORMS | {'layers/attention_norm': '', 'layers/mlp_norm': ''})
STARCODER2_TABLE = _renamed(
  {
    'layers/gate': '',
    'layers/up': 'model.layers.{}.mlp.c_fc',
    'layers/down': 'model.layers.{}.mlp.c_proj',
  }
)
PHI3_TABLE = _renamed(
  dict.fromkeys(('layers/q', 'layers/k', 'layers/v', 'layers/gate', 'layers/up'), ''),
  *fused_table('model.layers.{}.self_attn.qkv_proj', FUSED_QKV_TRANSPOSED, FUSED_QKV),
  *fused_table(
    'model.layers.{}.mlp.gate_up_proj', FUSED_GATE_TRANSPOSED, FUSED_GATE, ('gate', 'up')
  ),
)
GPT2_TABLE = (
  *fused_table('transformer.h.{}.attn.c_attn', FUSED, FUSED),
  *name_table(
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
    kernel=SAME,  # GPT-2's Conv1D stores [in, out]
  ),
)
NEOX_TABLE = (
  *fused_table('gpt_neox.layers.{}.attention.query_key_value', FUSED_HEADS_TRANSPOSED, FUSED_HEADS),
  *name_table(
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
  """The table of BERT and of RoBERTa, whose names differ in the prefix."""
  return name_table(
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


DISTILBERT_TABLE = name_table(
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
MPNET_TABLE = name_table(
  {
    'embed': 'mpnet.embeddings.word_embeddings',
    'positions': 'mpnet.embeddings.position_embeddings',
    'relative': 'mpnet.encoder.relative_attention_bias',
    'embed_norm': 'mpnet.embeddings.LayerNorm',
    'layers/q': 'mpnet.encoder.layer.{}.attention.attn.q',
    'layers/k': 'mpnet.encoder.layer.{}.attention.attn.k',
    'layers/v': 'mpnet.encoder.layer.{}.attention.attn.v',
    'layers/o': 'mpnet.encoder.layer.{}.attention.attn.o',
    'layers/attention_norm': 'mpnet.encoder.layer.{}.attention.LayerNorm',
    'layers/up': 'mpnet.encoder.layer.{}.intermediate.dense',
    'layers/down': 'mpnet.encoder.layer.{}.output.dense',
    'layers/mlp_norm': 'mpnet.encoder.layer.{}.output.LayerNorm',
  }
)
MODERNBERT_TABLE = (
  *fused_table('model.layers.{}.attn.Wqkv', FUSED_QKV_TRANSPOSED, FUSED_QKV),
  *fused_table('model.layers.{}.mlp.Wi', FUSED_GATE_TRANSPOSED, FUSED_GATE, ('gate', 'up')),
  *(
    entry._replace(first=1)
    for entry in name_table({'layers/attention_norm': 'model.layers.{}.attn_norm'})
  ),
  *name_table(
    {
      'embed': 'model.embeddings.tok_embeddings',
      'embed_norm': 'model.embeddings.norm',
      'layers/o': 'model.layers.{}.attn.Wo',
      'layers/mlp_norm': 'model.layers.{}.mlp_norm',
      'layers/down': 'model.layers.{}.mlp.Wo',
      'final_norm': 'model.final_norm',
    }
  ),
)

_ROTARY = r'\.rotary_emb\.inv_freq$'
_MASKS = r'\.(attn|attention)\.(bias|masked_bias)$|' + _ROTARY
_ENCODERS = (
  r'^(\w+\.)?(pooler|embeddings\.position_ids$|cls\.predictions|cls\.seq_relationship|lm_head|'
  r'vocab_(transform|layer_norm|projector))\b'
)
GPT2 = Family(config_json.read_gpt2, config_json.write_gpt2, GPT2_TABLE, 'transformer.', _MASKS)
NEOX = Family(config_json.read_neox, config_json.write_neox, NEOX_TABLE, 'gpt_neox.', _MASKS)
LLAMA = Family(config_json.read_llama, config_json.write_llama, LLAMA_TABLE, 'model.', _ROTARY)
MISTRAL = LLAMA._replace(read=config_json.read_mistral, write=config_json.write_mistral)
QWEN2 = LLAMA._replace(read=config_json.read_qwen2, write=config_json.write_qwen2)
QWEN3 = LLAMA._replace(read=config_json.read_qwen3, write=config_json.write_qwen3)
GEMMA = LLAMA._replace(read=gemma_config_json.read_gemma, write=gemma_config_json.write_gemma)
GEMMA2 = Family(
  gemma_config_json.read_gemma2, gemma_config_json.write_gemma2, GEMMA_TABLE, 'model.', _ROTARY
)
GEMMA3 = GEMMA2._replace(read=gemma_config_json.read_gemma3, write=gemma_config_json.write_gemma3)
PHI3 = Family(llama_like_json.read_phi3, llama_like_json.write_phi3, PHI3_TABLE, 'model.', _ROTARY)
OLMO2 = Family(
  llama_like_json.read_olmo2, llama_like_json.write_olmo2, OLMO2_TABLE, 'model.', _ROTARY
)
SMOLLM3 = LLAMA._replace(read=llama_like_json.read_smollm3, write=llama_like_json.write_smollm3)
GRANITE = LLAMA._replace(read=llama_like_json.read_granite, write=llama_like_json.write_granite)
STARCODER2 = Family(
  llama_like_json.read_starcoder2,
  llama_like_json.write_starcoder2,
  STARCODER2_TABLE,
  'model.',
  _ROTARY,
)
BERT = Family(
  encoder_config_json.read_bert,
  encoder_config_json.write_bert,
  _bert_table('bert.'),
  'bert.',
  _ENCODERS,
)
ROBERTA = Family(
  encoder_config_json.read_roberta,
  encoder_config_json.write_roberta,
  _bert_table('roberta.'),
  'roberta.',
  _ENCODERS,
)
DISTILBERT = Family(
  encoder_config_json.read_distilbert,
  encoder_config_json.write_distilbert,
  DISTILBERT_TABLE,
  'distilbert.',
  _ENCODERS,
)
XLM_ROBERTA = ROBERTA._replace(write=encoder_config_json.write_xlm_roberta)
CAMEMBERT = ROBERTA._replace(write=encoder_config_json.write_camembert)
MPNET = Family(
  encoder_config_json.read_mpnet,
  encoder_config_json.write_mpnet,
  MPNET_TABLE,
  'mpnet.',
  _ENCODERS,
)
MODERNBERT = Family(
  encoder_config_json.read_modernbert,
  encoder_config_json.write_modernbert,
  MODERNBERT_TABLE,
  'model.',
  r'^(head|decoder)\.',
)
FAMILIES = {
  name: f'{__name__}:{constant}'
  for name, constant in {
    'gpt2': 'GPT2',
    'gpt_neox': 'NEOX',
    'llama': 'LLAMA',
    'mistral': 'MISTRAL',
    'qwen2': 'QWEN2',
    'qwen3': 'QWEN3',
    'gemma': 'GEMMA',
    'gemma2': 'GEMMA2',
    'gemma3_text': 'GEMMA3',
    'phi3': 'PHI3',
    'olmo2': 'OLMO2',
    'smollm3': 'SMOLLM3',
    'granite': 'GRANITE',
    'starcoder2': 'STARCODER2',
    'bert': 'BERT',
    'roberta': 'ROBERTA',
    'distilbert': 'DISTILBERT',
    'xlm-roberta': 'XLM_ROBERTA',
    'camembert': 'CAMEMBERT',
    'mpnet': 'MPNET',
    'modernbert': 'MODERNBERT',
  }.items()
}
"""{model_type: where its Family stands} of the families that jcl brings."""


def find_family(name: str, argument: str = 'backbone.family') -> Family:
  """Returns the family of that name.

  Args:
    name: a model_type that jcl or an entry point of the group `jcl.families` knows, or
      `package.module:name` of a Family.
    argument: what the user set, for messages.

  Raises:
    UserError: nothing has that name, importing it fails, or it is no proper Family.
  """
  return check_family(plugins.find(argument, name, FAMILIES, GROUP), name, argument)


def known_model_types() -> list[str]:
  """Every model_type that `find_family` knows: jcl's own, and those of entry points."""
  return plugins.names(FAMILIES, GROUP)


def written_fields(config: ModelConfig) -> dict[str, Any]:
  """Returns the fields of a config.json that the config's family writes, `model_type` among them.

  Raises:
    UserError: the family is not found, or writes no `architectures`.
  """
  values = find_family(config.family).write(config)
  names = values.get('architectures') if isinstance(values, dict) else None
  if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
    raise UserError(
      f'backbone.family: {config.family}: write must give a dict with a list of names under '
      "'architectures'"
    )
  return {'model_type': config.model_type or config.family, **values}
