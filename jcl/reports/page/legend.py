"""What every number of the page means, for readers who meet it first there."""

from jcl.reports.page.markup import Html, details, tag
from jcl.reports.page.markup import join as joined

METRICS = {  # metric of results.json -> (as the page calls it, meaning)
  'average_accuracy': ('A_T', 'mean score over all tasks at the end: larger is better'),
  'average_incremental_accuracy': (
    'Ā', 'mean, over all moments after a task, of the mean score of the tasks learned by then'
  ),
  'example_weighted_accuracy': (
    'A_T by examples', 'A_T with tasks weighted by their test examples (tokens, of raw text)'
  ),
  'forgetting': (
    'forgetting', 'how far each task fell from its best score before the end to its score at the '
    'end; mean over all tasks but the last: smaller is better'
  ),
  'forgetting_first': (
    'forgetting (first)', 'how far each task fell from its score just after it was learned'
  ),
  'forgetting_rate': ('forgetting rate', 'the same as a share of what had been learned'),
  'backward_transfer': (
    'BWT', 'backward transfer: change of each task from just learned to the end; negative is '
    'forgotten'
  ),
  'forward_transfer': (
    'FWT', 'forward transfer: how much more of a task is known just before it is learned than '
    'before any training'
  ),
}  # fmt: skip
OTHERS = {
  'accuracy': 'share of test answers that equal the wanted one',
  'log-perplexity': 'nats per token, −log p averaged over tokens: smaller is better',
  'row 0': 'scores before any training',
  'just learned': 'score of a task right after its own training; the worst of these tells a method '
  'that forgets from one that never learned',
  'negative flip': 'a test example that was right just after its task and is wrong at the end',
  'invalid answers': 'answers that are no label of the stream',
  'dev score': 'score on the dev split, taken inside a task; it is in no metric',
  '95 % interval': 'where the mean over seeds is expected (Student’s t); with few seeds it is wide',
  'paired difference': 'mean over the seeds that two methods share of the difference of their '
  'scores, with its 95 % interval and the p-value of the paired t-test; p-values are corrected '
  'for the number of methods (Holm), intervals are not',
  'term': 'a part of the loss, nats per target for cross-entropies, before its weight',
  'share of the loss': 'weight · term over the sum of all weighted terms; of the loss, not of the '
  'gradient',
  'gradient norm': 'of the whole gradient that trains, before clipping',
  'new and old tokens': 'tokens that trained a task: its own, and those of the past (replay, '
  'pseudo samples)',
  'pseudo sample': 'an example of an old task that the model wrote itself; kept: well formed and '
  'passed by the filters; distinct: different from each other; verbatim: its input stands in the '
  'training data word for word; valid label: its answer is a label of its task',
  'buffer': 'examples of old tasks that the method keeps',
  'KL(base ‖ model)': 'nats per token by which the model has moved from the one it started from',
  'seconds': 'train: optimisation steps; generate: sampling, such as pseudo samples; evaluate: '
  'evaluation; memory: the rest of the method, such as Fisher or buffers; compile: compilation, '
  'which is left out of the other kinds; without a kind: all kinds together',
  'bytes kept': 'size of what the method carries from task to task: teachers, Fisher, buffers, '
  'adapters',
}  # fmt: skip


def legend() -> Html:
  """Returns the meaning of every metric, closed until it is opened."""
  entries = {**dict(METRICS.values()), **OTHERS}
  listed = [joined([tag('dt', term), tag('dd', meaning)], '') for term, meaning in entries.items()]
  return details('What the numbers mean', tag('dl', joined(listed)), class_='legend', id_='legend')
