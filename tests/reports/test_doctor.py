"""Findings on a run: each for a run that is ill in that way alone, none for a healthy one."""

import copy

import pytest

from jcl.reports import doctor


def healthy():
  """Returns (results, lines of metrics.jsonl) of a run of three tasks with which all is well."""
  results = {
    'method': 'replay+ewc', 'scenario': 'cil', 'score': 'accuracy', 'finished': True,
    'tasks': ['a', 'b', 'c'],
    'matrix': [[0.1, 0.1, 0.1], [0.95, 0.1, None], [0.9, 0.94, 0.1], [0.88, 0.9, 0.96]],
    'invalid': [[1.0, 1.0, 1.0], [0.0, 0.0, None], [0.0, 0.0, 0.0], [0.05, 0.0, 0.0]],
    'mix': [{'task': 'a', 'new': 900, 'old': 0}, {'task': 'b', 'new': 900, 'old': 200},
            {'task': 'c', 'new': 900, 'old': 250}],
    'refused_steps': [], 'drift': [{'task': t, 'kl': 0.1, 'perplexity': 8.0} for t in 'abc'],
    'buffer': [{'after': 'c', 'examples': 9, 'seen': 90, 'tasks': {'a': 3, 'b': 3, 'c': 3}}],
    'pseudo': [{'before': 'b', 'task': 'a', 'asked': 50, 'drawn': 60, 'kept': 50, 'distinct': 45,
                'verbatim': 2, 'valid_label': 48, 'samples': []}],
    'config': {'method': {'ewc': {'lambda_ewc': 1000.0, 'half': False}},
               'train': {'clip_norm': 1.0}},
  }  # fmt: skip
  lines = [
    {'task': task, 'step': step, 'ce': 3.0 / step, 'ewc': 1e-4 * (task > 0),
     'loss': 3.0 / step + 0.1 * (task > 0), 'gradient_norm': 2.0}
    for task in range(3)
    for step in range(1, 17)
  ]  # fmt: skip
  return results, lines


def names(results, lines=()):
  """Returns the names of the findings."""
  return [finding.name for finding in doctor.findings(results, lines)]


def test_a_healthy_run_has_no_finding():
  assert names(*healthy()) == []
  assert names({'method': 'seq', 'tasks': ['a'], 'matrix': [[None]]}) == []  # all else is missing


def forgets(results, lines):
  results['matrix'][3] = [0.1, 0.1, 0.96]


def never_learned(results, lines):
  results['matrix'][2][1] = results['matrix'][3][1] = 0.12


def known(results, lines):
  results['matrix'][1][1], results['matrix'][2][1] = 0.95, 0.96


def not_felt(results, lines):
  forgets(results, lines)
  for line in lines:
    line['ewc'] *= 1e-4


def drowns(results, lines):
  for line in lines:
    if line['task']:
      line['ewc'], line['loss'] = 0.1, 100 + line['ce']


def halved(results, lines):
  """0.95 of the loss, were it not halved."""
  results['config']['method']['ewc']['half'] = True
  for line in lines:
    if line['task']:
      line['ewc'], line['loss'] = 0.095, 100.0


def clipped(results, lines):
  for line in lines:
    line['gradient_norm'] = 135.0


def rises(results, lines):
  for line in lines[16:32]:
    line['ce'] = 1 + 0.1 * line['step']


def flat(results, lines):
  never_learned(results, lines)
  for line in lines[16:32]:
    line['ce'] = 3.0


def flat_and_learned(results, lines):
  for line in lines[16:32]:
    line['ce'] = 3.0


def little_replay(results, lines):
  for line in results['mix'][1:]:
    line['old'] = 5


def lost_task(results, lines):
  results['buffer'][0]['tasks'] = {'b': 4, 'c': 5}


def rejected(results, lines):
  results['pseudo'][0] |= {'drawn': 150}


def alike(results, lines):
  results['pseudo'][0] |= {'distinct': 5}


def copied(results, lines):
  results['pseudo'][0] |= {'verbatim': 20}


def mislabelled(results, lines):
  results['pseudo'][0] |= {'valid_label': 30}


def free_answers(results, lines):
  results['pseudo'][0] |= {'valid_label': None}


def invalid(results, lines):
  results['invalid'][3] = [0.5, 0.2, 0.0]


def drifted(results, lines):
  results['drift'][2] |= {'perplexity': 17.0}


def refused(results, lines):
  results['refused_steps'] = [{'task': 'b', 'count': 2}]


def penalty_alone(results, lines):
  forgets(results, lines)
  results['method'] = 'ewc'
  results['buffer'], results['pseudo'] = [], []
  for line in results['mix']:
    line['old'] = 0


ILL = {
  forgets: [], never_learned: ['not learned'], known: ['known before'],
  not_felt: ['penalty not felt'], drowns: ['penalty drowns the loss'], halved: [],
  clipped: ['clipped'], rises: ['loss rises'], flat: ['not learned', 'loss does not fall'],
  flat_and_learned: [], little_replay: ['little replay'], lost_task: ['tasks not in the buffer'],
  rejected: ['pseudo samples rejected'], alike: ['pseudo samples alike'],
  copied: ['pseudo samples copied'], mislabelled: ['pseudo samples without a label'],
  free_answers: [], invalid: ['invalid answers'], drifted: ['drift from the base model'],
  refused: ['steps not applied'], penalty_alone: ['a penalty alone'],
}  # fmt: skip


@pytest.mark.parametrize('fall_ill', ILL, ids=lambda fn: fn.__name__)
def test_an_ill_run_has_its_finding_and_no_other(fall_ill):
  results, lines = copy.deepcopy(healthy())
  fall_ill(results, lines)
  assert names(results, lines) == ILL[fall_ill]


def test_a_finding_says_figure_meaning_and_advice():
  results, lines = healthy()
  not_felt(results, lines)
  (line,) = map(str, doctor.findings(results, lines))
  assert line == (
    'the ewc penalty is 0.00294 % of the loss: it holds nothing back, and forgetting is 0.84; '
    'raise lambda_ewc, now 1000, by powers of ten until it is felt'
  )


def test_nats_are_better_when_they_are_fewer():
  results = {'method': 'seq', 'scenario': 'cpt', 'score': 'log_perplexity', 'tasks': ['a', 'b'],
             'matrix': [[5.0, 5.0], [3.0, 4.9], [3.1, 4.88]]}  # fmt: skip
  assert names(results) == ['not learned']
  results['matrix'][2][1] = 3.5
  assert names(results) == []


def test_lines_of_other_kinds_and_of_no_task_are_left_out():
  results, lines = healthy()
  results['buffer'] += [3, {'after': 9, 'tasks': []}]
  results['pseudo'][0] |= {'verbatim': 'x', 'valid_label': 'y'}
  lines[1] |= {'gradient_norm': 10**400}
  lines[0] |= {'gradient_norm': 'x', 'ewc': None, 'ce': float('nan')}
  odd = [{'task': 7, 'loss': 1.0}, {'task': None, 'loss': 1.0}, {'task': 0, 'dev': {'a': 1.0}}, {}]
  assert names(results, [*odd, *lines]) == []
