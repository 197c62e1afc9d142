"""The nearest family that jcl knows for an architecture that it does not."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

# model_type, or what it begins with: (why it is not read, families that come nearest).
_EXPERTS, _SENSES = 'has experts', 'has image or audio parts'
NEAREST = {
  'mixtral': (_EXPERTS, 'mistral'),
  'qwen2_moe': (_EXPERTS, 'qwen2'),
  'qwen3_moe': (_EXPERTS, 'qwen3'),
  'qwen3_next': (_EXPERTS, 'qwen3'),
  'qwen3_5': ('has layers without attention', 'qwen3'),
  'granitemoe': (_EXPERTS, 'granite'),
  'phimoe': (_EXPERTS, 'phi3'),
  'olmoe': (_EXPERTS, 'olmo2'),
  'gpt_oss': (_EXPERTS, 'llama'),
  'deepseek': ('has experts and latent attention', 'llama'),
  'llama4': ('has experts and image parts', 'llama'),
  'gemma3': (_SENSES, 'gemma3_text, its text model alone'),
  'gemma3n': (_SENSES, 'gemma3_text'),
  'gemma4': (_SENSES, 'gemma3_text'),
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
  'jamba': ('has layers without attention', 'mistral'),
  'bamba': ('has layers without attention', 'granite'),
  'zamba': ('has layers without attention', 'llama'),
  'lfm2': ('has layers without attention', 'llama'),
  't5': (
    'has an encoder and a decoder',
    'llama, qwen2 to write answers; bert, roberta to classify',
  ),
  'bloom': ('has positions by distance (ALiBi)', 'gpt_neox'),
  'mpt': ('has positions by distance (ALiBi)', 'gpt_neox, llama'),
  'falcon': ('shares norms between the parts of a layer', 'gpt_neox, llama'),
  'phi': ('shares norms between the parts of a layer', 'phi3'),
  'cohere': ('shares norms between the parts of a layer', 'llama'),
  'gptj': ('shares norms between the parts of a layer', 'gpt_neox'),
  'codegen': ('shares norms between the parts of a layer', 'gpt_neox, starcoder2'),
  'gpt_bigcode': ('has one key for all heads and learned positions', 'starcoder2, gpt2'),
  'gpt_neo': ('has unscaled attention', 'gpt2, gpt_neox'),
  'opt': ('has offset positions', 'gpt2, gpt_neox'),
  'stablelm': ('has norms of its own', 'llama, gpt_neox'),
  'olmo': ('has norms without scales', 'olmo2, llama'),
  'olmo3': ('has norms and windows together', 'olmo2'),
  'glm': ('turns pairs of neighbours', 'llama'),
  'chatglm': ('has code of its own', 'llama'),
  'exaone': ('has code of its own', 'llama'),
  'internlm': ('has code of its own', 'llama'),
  'baichuan': ('has code of its own', 'llama'),
  'qwen': ('has code of its own', 'qwen2'),
  'minicpm': ('has code of its own', 'llama'),
  'nemotron': ('has an activation of its own', 'llama'),
  'deberta': ('has attention to positions by themselves', 'roberta, modernbert'),
  'electra': ('has an embedding of its own width', 'bert'),
  'albert': ('shares one layer', 'bert'),
  'xlnet': ('permutes its attention', 'bert, roberta'),
  'longformer': ('has global tokens', 'modernbert'),
  'big_bird': ('has sparse attention', 'modernbert'),
  'nomic_bert': ('has code of its own', 'modernbert'),
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
  found = [part for part in NEAREST if name == part or name.startswith((f'{part}_', f'{part}-'))]
  found = found or [part for part in NEAREST if name.startswith(part) and len(part) > 3]
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
  alike = difflib.get_close_matches(name.split('_moe')[0], known, 2, 0.6)
  classes = values.get('architectures')
  masked = 'Masked' in str(classes) or 'bert' in name.lower()
  return f'the nearest that works: {", ".join(alike or (ENCODERS if masked else DECODERS))}'
