"""Makes the golden objectives: python tests/goldens/make_objective_goldens.py

Needs torch. objectives.npz beside it holds the parameters of a small recurrent model (that of
`tiny.recurrent`), those of its past, and of every method in CASES the objective and its gradient on
the rows of `rows()`, all by torch's own losses and autograd in float64.
"""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).parent / 'objectives.npz'
VOCABULARY, ROWS_OF_EMBEDDING, WIDTH = 30, 32, 16
CASES = {  # the settings that differ from the defaults
  'seq': {}, 'replay': {}, 'derpp': {'alpha': 0.3, 'beta': 0.7},
  'distill': {'alpha': 0.3, 'distill_temperature': 3.0}, 'lamol': {'lambda_gen': 0.4},
  'lamol_kd': {'lambda_gen': 0.4, 'distill_weight': 0.6, 'distill_temperature': 3.0},
  'ewc': {'lambda_ewc': 30.0}, 'l2': {'lambda_l2': 0.05}, 'mas': {'lambda_mas': 0.02},
  'maml': {'inner_lr': 0.3, 'inner_steps': 2},
}  # fmt: skip


def rows():
  """(tokens, places that predict, tokens wanted there, replay, generative) of thirteen rows."""
  random, made = np.random.default_rng(11), []
  for number in range(13):
    length = int(random.integers(4, 15))
    places = np.sort(random.permutation(length)[: random.integers(1, 6)])
    tokens, wanted = (random.integers(0, VOCABULARY, n) for n in (length, len(places)))
    made.append((tokens, places, wanted, number % 3 == 0, number % 4 == 1))
  return made


def parameters(seed):
  """{name: matrix} of the model."""
  random = np.random.default_rng(seed)
  shapes = {'embed': (ROWS_OF_EMBEDDING, WIDTH), 'mix': (WIDTH, WIDTH), 'bias': (WIDTH,)}
  return {name: 0.5 * random.standard_normal(shape) for name, shape in shapes.items()}


def logits(params, row):
  """[m, V] at the targets of a row."""
  import torch

  x_TD = params['embed'][torch.as_tensor(row[0])]
  past_TD = torch.cumsum(x_TD, 0) / torch.arange(1, len(x_TD) + 1)[:, None]
  hidden_TD = torch.tanh(x_TD + past_TD @ params['mix'] + params['bias'])
  return hidden_TD[torch.as_tensor(row[1])] @ params['embed'][:VOCABULARY].T


def over(params, chosen, each):
  """The mean over all targets of the rows of each(logits, row); 0 of none."""
  import torch

  found = [each(logits(params, row), row) for row in chosen]
  return torch.cat(found).mean() if found else torch.zeros((), dtype=torch.float64)


def surprise(z_MV, row):
  """Cross-entropy of every target."""
  import torch

  return torch.nn.functional.cross_entropy(z_MV, torch.as_tensor(row[2]), reduction='none')


def objective(method, params, past):
  """Returns the objective of a method; `past` is the model at the end of the task before."""
  import torch
  from torch.nn import functional

  s, every = CASES[method], rows()
  kept = {name: value.detach() for name, value in past.items()}
  ce = lambda chosen, at=params: over(at, list(chosen), surprise)

  def kl(z_MV, row):
    log, wanted = (x / s['distill_temperature'] for x in (z_MV, logits(kept, row)))
    each = functional.kl_div(log.log_softmax(-1), wanted.softmax(-1), reduction='none').sum(-1)
    return s['distill_temperature'] ** 2 * each

  def distance(z_MV, row):
    return functional.mse_loss(z_MV, logits(kept, row), reduction='none').mean(-1)

  def slopes(fn, at, **how):
    return dict(zip(at, torch.autograd.grad(fn, list(at.values()), **how), strict=True))

  def held(importance):
    return sum((importance[k] * (params[k] - kept[k]) ** 2).sum() for k in params)

  def measured(value, change):
    total = {name: torch.zeros_like(x) for name, x in kept.items()}
    for row in every:
      at = {name: x.clone().requires_grad_() for name, x in kept.items()}
      for name, grad in slopes(value(at, row), at).items():
        total[name] += change(grad) / len(every)
    return total

  new, old = ([row for row in every if row[3] == kind] for kind in (False, True))
  kind = lambda chosen, gen: [row for row in chosen if row[4] == gen]
  if method == 'derpp':
    return ce(new) + s['beta'] * ce(old) + s['alpha'] * over(params, old, distance)
  if method == 'distill':
    return (1 - s['alpha']) * ce(every) + s['alpha'] * over(params, every, kl)
  if method == 'lamol':
    return ce(kind(every, False)) + s['lambda_gen'] * ce(kind(every, True))
  if method == 'lamol_kd':
    qa, gen = (over(params, kind(old, g), kl) for g in (False, True))
    own = ce(kind(new, False)) + s['lambda_gen'] * ce(kind(new, True))
    return own + s['distill_weight'] * (qa + s['lambda_gen'] * gen)
  if method == 'ewc':
    fisher = measured(lambda at, row: over(at, [row], surprise), torch.square)
    return ce(every) + s['lambda_ewc'] * held(fisher)
  if method == 'mas':
    size = lambda at, row: over(at, [row], lambda z_MV, _: (z_MV**2).sum(-1))
    return ce(every) + s['lambda_mas'] * held(measured(size, torch.abs))
  if method == 'l2':
    return ce(every) + s['lambda_l2'] * held(dict.fromkeys(params, 1.0))
  if method == 'maml':
    at = params
    for _ in range(s['inner_steps']):
      grads = slopes(ce(new, at), at, create_graph=True)
      at = {name: value - s['inner_lr'] * grads[name] for name, value in at.items()}
    return ce(every, at)
  return ce(every)


def values():
  """{'params/…', 'past/…', '<method>/loss', '<method>/gradient/…'}."""
  import torch

  found = {f'params/{k}': v for k, v in parameters(0).items()}
  found |= {f'past/{k}': v for k, v in parameters(1).items()}
  for method in CASES:
    params, past = (
      {k: torch.tensor(v, requires_grad=True) for k, v in parameters(seed).items()}
      for seed in (0, 1)
    )
    loss = objective(method, params, past)
    loss.backward()
    found[f'{method}/loss'] = loss.detach().numpy()
    found |= {f'{method}/gradient/{k}': v.grad.numpy() for k, v in params.items()}
  return found


if __name__ == '__main__':
  np.savez_compressed(PATH, **values())
