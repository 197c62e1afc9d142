"""Settings that a program gives by name."""

import pytest

from jcl.config import TrainConfig
from jcl.errors import UserError
from jcl.methods import Method, chosen, settings


def test_settings_by_name_go_before_those_of_an_object_which_stays_as_it_is():
  given = settings('lamol')
  given.gamma = 0.3
  found = chosen.chosen_method(given, {'gamma': 0.2})
  assert (found.gamma, given.gamma) == (0.2, 0.3)


def test_a_setting_of_a_composition_is_that_of_every_method_that_has_it():
  found = chosen.chosen_method('replay+ewc', {'lambda_ewc': 7.0})
  assert found.ewc.lambda_ewc == 7.0
  with pytest.raises(UserError, match=r'no setting .lambda_ewx.; did you mean lambda_ewc'):
    chosen.chosen_method('replay+ewc', {'lambda_ewx': 7.0})
  with pytest.raises(UserError, match=r'no setting .buffer_size.*; methods that have it: .*replay'):
    chosen.chosen_method('lamol', {'buffer_size': 7})


def test_a_section_is_given_as_a_dict_or_an_object_and_is_copied():
  train = TrainConfig(epochs=3)
  assert chosen.copy_of('train', train) == train
  assert chosen.copy_of('train', train) is not train
  assert chosen.copy_of('train', {'epochs': 3}) == train
  with pytest.raises(UserError, match=r'train has no setting .epoch.; did you mean epochs'):
    chosen.copy_of('train', {'epoch': 3})


def test_a_record_is_built_as_it_is():
  record = Method()
  assert chosen.GivenMethod(record).build(None) is record
