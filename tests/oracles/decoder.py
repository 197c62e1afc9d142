"""A small Llama in float64 NumPy, written from its formulas: no line of it is jcl's.

Root-mean-square norms, rotary positions, grouped-query attention, SwiGLU, a tied embedding or
a linear head, and an adapter x W + scale · (x Aᵀ) B where there is one.
"""

import numpy as np

EPSILON, BASE = 1e-5, 1e4


def logits(params: dict, row, vocabulary: int, head_dim: int) -> np.ndarray:
  """[m, V or C] at the targets of a row; `params` a nested dict of float64, layers stacked."""
  x_TD = params['embed']['embedding'][list(row.tokens)]
  layers = params['layers']
  for index in range(len(layers['attention_norm']['scale'])):
    layer = _Layer(params, index)
    attended_TD = layer.attention(layer.norm('attention_norm', x_TD), head_dim)
    x_TD = x_TD + layer.apply('o', attended_TD)
    normed_TD = layer.norm('mlp_norm', x_TD)
    gate_TF = layer.apply('gate', normed_TD)
    inner_TF = gate_TF / (1 + np.exp(-gate_TF)) * layer.apply('up', normed_TD)
    x_TD = x_TD + layer.apply('down', inner_TF)
  hidden_MD = _norm(x_TD, params['final_norm']['scale'])[list(row.targets)]
  if 'head' in params:
    return hidden_MD @ params['head']['kernel'] + params['head']['bias']
  return hidden_MD @ params['embed']['embedding'][:vocabulary].T


def _norm(x_TD: np.ndarray, scale_D: np.ndarray) -> np.ndarray:
  return x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + EPSILON) * scale_D


def _rotated(x_Td: np.ndarray) -> np.ndarray:
  """One head's vectors, turned by their place: dimension i pairs with i + d/2."""
  half = x_Td.shape[1] // 2
  angle_Th = np.arange(len(x_Td))[:, None] * BASE ** (-np.arange(half) / half)[None]
  one, two = x_Td[:, :half], x_Td[:, half:]
  sin, cos = np.sin(angle_Th), np.cos(angle_Th)
  return np.concatenate([one * cos - two * sin, two * cos + one * sin], 1)


class _Layer:
  """One layer's parameters, and what they do."""

  def __init__(self, params: dict, index: int):
    self.own = {
      name: {leaf: value[index] for leaf, value in part.items()}
      for name, part in params['layers'].items()
    }
    self.adapter = {
      name: {leaf: value[index] for leaf, value in part.items()}
      for name, part in params.get('lora', {'layers': {}})['layers'].items()
    }

  def norm(self, name: str, x_TD: np.ndarray) -> np.ndarray:
    return _norm(x_TD, self.own[name]['scale'])

  def apply(self, name: str, x_TI: np.ndarray) -> np.ndarray:
    y_TO = x_TI @ self.own[name]['kernel']
    if name in self.adapter:
      part = self.adapter[name]
      y_TO = y_TO + part['scale'] * (x_TI @ part['a'].T) @ part['b']
    return y_TO

  def attention(self, x_TD: np.ndarray, head_dim: int) -> np.ndarray:
    cut = lambda y_TO: np.split(y_TO, y_TO.shape[1] // head_dim, 1)
    queries, keys, values = (cut(self.apply(name, x_TD)) for name in 'qkv')
    shared, out = len(queries) // len(keys), []
    for number, query_Td in enumerate(queries):
      key_Td, value_Td = keys[number // shared], values[number // shared]
      score_TS = _rotated(query_Td) @ _rotated(key_Td).T / np.sqrt(head_dim)
      score_TS = np.where(np.tri(len(x_TD), dtype=bool), score_TS, -np.inf)
      share_TS = np.exp(score_TS - score_TS.max(1, keepdims=True))
      out.append(share_TS / share_TS.sum(1, keepdims=True) @ value_Td)
    return np.concatenate(out, 1)
