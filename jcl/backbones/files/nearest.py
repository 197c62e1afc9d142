"""The nearest family that jcl knows for an architecture that it does not."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# {model_type, with or without a version and what follows it: (why it is not read, families that
# come nearest)}; checked against the models of transformers 5.
_EXPERTS, _SENSES, _LINEAR = 'has experts', 'has image or audio parts', 'has linear attention'
_NO_ATTENTION = 'has layers without attention'
_PARALLEL = 'computes attention and feed-forward side by side'
_PAIRS = 'rotates pairs of neighbouring dimensions'
NEAREST = {
  'mixtral': (_EXPERTS, 'mistral'),
  'qwen2_moe': (_EXPERTS, 'qwen2'),
  'qwen3_moe': (_EXPERTS, 'qwen3'),
  'qwen3_next': ('has experts and linear attention', 'qwen3'),
  'qwen2_audio': (_SENSES, 'qwen2'),
  'qwen2_5_omni': (_SENSES, 'qwen2'),
  'qwen3_omni': (_SENSES, 'qwen3'),
  'qwen3_5': (_LINEAR, 'qwen3'),
  'granitemoe': (_EXPERTS, 'granite'),
  'granitemoeshared': (_EXPERTS, 'granite'),
  'granitemoehybrid': ('has experts and Mamba layers', 'granite'),
  'phimoe': (_EXPERTS, 'phi3'),
  'olmoe': (_EXPERTS, 'olmo2'),
  'gpt_oss': (_EXPERTS, 'llama'),
  'deepseek': ('has experts and latent attention', 'llama'),
  'llama4': ('has experts and image parts', 'llama'),
  'llama4_text': (_EXPERTS, 'llama'),
  'ministral': ('has windows in some layers', 'mistral'),
  'ministral3': ('scales queries by their position', 'mistral'),
  'gemma3': (_SENSES, 'gemma3_text, its text model alone'),
  'gemma3n': ('has embeddings in every layer', 'gemma3_text'),
  'gemma4': ('has layers of several widths', 'gemma3_text'),
  'recurrent_gemma': ('has recurrent layers', 'gemma2'),
  'qwen2_vl': (_SENSES, 'qwen2'),
  'qwen2_5_vl': (_SENSES, 'qwen2'),
  'qwen3_vl': (_SENSES, 'qwen3'),
  'mllama': (_SENSES, 'llama'),
  'llava': (_SENSES, 'llama'),
  'mistral3': (_SENSES, 'mistral'),
  'paligemma': (_SENSES, 'gemma'),
  'idefics': (_SENSES, 'llama'),
  'smolvlm': (_SENSES, 'llama'),
  'phi4_multimodal': (_SENSES, 'phi3'),
  'mamba': ('has no attention', 'gpt_neox, llama'),
  'falcon_mamba': ('has no attention', 'llama'),
  'rwkv': ('has no attention', 'gpt_neox, llama'),
  'jamba': (_NO_ATTENTION, 'mistral'),
  'bamba': (_NO_ATTENTION, 'granite'),
  'zamba': (_NO_ATTENTION, 'llama'),
  'lfm': (_NO_ATTENTION, 'llama'),
  'falcon_h1': ('has Mamba layers', 'llama'),
  'nemotron_h': ('has Mamba layers', 'llama'),
  'olmo_hybrid': (_LINEAR, 'olmo2'),
  't5': (
    'has an encoder and a decoder',
    'llama, qwen2 to write answers; bert, roberta to classify',
  ),
  'bloom': ('has positions by distance (ALiBi)', 'gpt_neox'),
  'mpt': ('has positions by distance (ALiBi)', 'gpt_neox, llama'),
  'falcon': (_PARALLEL, 'gpt_neox, llama'),
  'phi': (_PARALLEL, 'phi3'),
  'cohere': (_PARALLEL, 'llama'),
  'gptj': (_PARALLEL, 'gpt_neox'),
  'codegen': (_PARALLEL, 'gpt_neox, starcoder2'),
  'gpt_bigcode': ('has one key for all heads and learned positions', 'starcoder2, gpt2'),
  'gpt_neo': ('has unscaled attention', 'gpt2, gpt_neox'),
  'opt': ('has offset positions', 'gpt2, gpt_neox'),
  'stablelm': ('has layer norms and rotates a part of each head', 'llama, gpt_neox'),
  'olmo': ('has norms without scales', 'olmo2, llama'),
  'olmo3': ('has norms after the parts, and windows', 'olmo2'),
  'glm': (_PAIRS, 'llama'),
  'glm4_moe': (_EXPERTS, 'llama'),
  'glm_moe': (_EXPERTS, 'llama'),
  'ernie4_5': (_PAIRS, 'llama'),
  'ernie4_5_moe': (_EXPERTS, 'llama'),
  'gpt_neox_japanese': ('has a bias of its own after attention', 'gpt_neox'),
  'chatglm': ('has code of its own', 'llama'),
  'exaone': ('has code of its own', 'llama'),
  'exaone4': ('has norms after the parts, and windows', 'olmo2'),
  'exaone_moe': (_EXPERTS, 'llama'),
  'internlm': ('has code of its own', 'llama'),
  'baichuan': ('has code of its own', 'llama'),
  'minicpm': ('has code of its own', 'llama, granite'),
  'minicpm3': ('has latent attention', 'llama'),
  'nemotron': ('has an activation of its own', 'llama'),
  'deberta': ('has attention to positions by themselves', 'roberta, modernbert'),
  'electra': ('has an embedding of its own width', 'bert'),
  'albert': ('shares one layer', 'bert'),
  'xlnet': ('permutes its attention', 'bert, roberta'),
  'longformer': ('has global tokens', 'modernbert'),
  'big_bird': ('has sparse attention', 'modernbert'),
  'nomic_bert': ('has rotary positions and norms after the parts', 'modernbert'),
  'xlm-roberta-xl': ('has norms before its parts', 'xlm-roberta'),
  'roberta-prelayernorm': ('has norms before its parts', 'roberta'),
  'ernie': ('has task types', 'bert'),
  'eurobert': ('is an encoder with norms of a decoder', 'modernbert'),
}
DECODERS, ENCODERS = ('llama', 'qwen2', 'gpt2'), ('bert', 'roberta', 'modernbert')


def nearest(name: str, values: Mapping[str, Any], known: Sequence[str]) -> str:
  """Returns, in words, why an architecture is not read and which families come nearest.

  Args:
    name: model_type, which jcl does not know.
    values: fields of its config.json.
    known: model_types that jcl knows.
  """
  found = [part for part in NEAREST if re.fullmatch(rf'{part}[0-9]*([_.-].*)?', name)]
  if found:
    reason, families = NEAREST[max(found, key=len)]
    return f'it {reason}; the nearest that works: {families}'
  if isinstance(values.get('text_config'), dict):
    own = values['text_config'].get('model_type')
    families = own if own in known else ', '.join(DECODERS)
    return f'it {_SENSES}; the nearest that works: {families}, its text model alone'
  if values.get('is_encoder_decoder') is True:
    reason, families = NEAREST['t5']
    return f'it {reason}; the nearest that works: {families}'
  root = lambda family: re.split('[0-9_-]', family)[0]
  alike = [family for family in known if len(root(family)) > 3 and root(family) in name.lower()]
  classes = values.get('architectures')
  if 'Masked' in str(classes) or 'bert' in name.lower():
    alike = [family for family in ENCODERS if family in name.lower()] or [*ENCODERS]
  return f'the nearest that works: {", ".join(alike or DECODERS)}'
