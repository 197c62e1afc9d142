"""What a run says at its end: the seconds that tables and page show."""

from jcl.training.run_output import seconds_in_words


def test_seconds_are_said_by_the_names_of_the_page():
  seconds = {'train': 38.94, 'generate': 0.0, 'evaluate': 3.9, 'memory': 0.01, 'compile': 38.2}
  words = '81 s: train 38.9, evaluate 3.9, compile 38.2; 89 s on the clock'
  assert seconds_in_words({'seconds': seconds}, 89.4) == words
  assert seconds_in_words({'seconds': None}, 0.2) == '0 s on the clock'
  resumed = {'seconds': {'train': 67.0}, 'resumes': [{'task': 1}]}
  assert seconds_in_words(resumed, 42.1) == '67 s: train 67.0; 42 s on the clock in this session'
