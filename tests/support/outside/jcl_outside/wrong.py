"""Objects that are no method, or none for this jcl."""

import dataclasses
from typing import ClassVar

from jcl.methods import Method, Settings


class NoSettings:
  """A class of its own."""


def function(backbone, settings):
  """A method without settings."""
  return Method()


@dataclasses.dataclass
class Unbuilt(Settings):
  """Settings without `build`."""

  strength: float = 1.0


@dataclasses.dataclass
class BuildsNothing(Settings):
  """Settings whose `build` returns no method."""

  def build(self, backbone, teacher=None):
    """Returns settings in place of a method."""
    return self


@dataclasses.dataclass
class Newer(Settings):
  """Settings that a later jcl reads."""

  needs_jcl: ClassVar = '99.1'

  def build(self, backbone, teacher=None):
    """Builds plain fine-tuning."""
    return Method()


@dataclasses.dataclass
class Versionless(Newer):
  """Settings whose version is none."""

  needs_jcl: ClassVar = 'newest'


class NoDataclass(Newer):
  """Settings whose fields are none."""

  strength: float = 1.0


@dataclasses.dataclass
class NoDefault(Settings):
  """A setting that every config would have to give."""

  strength: float

  def build(self, backbone, teacher=None):
    """Builds plain fine-tuning."""
    return Method()


@dataclasses.dataclass
class Nowhere(Settings):
  """Settings without a scenario."""

  scenarios: ClassVar = ()

  def build(self, backbone, teacher=None):
    """Builds plain fine-tuning."""
    return Method()


@dataclasses.dataclass
class Wishful(Settings):
  """Settings that need what no run has."""

  needs: ClassVar = ('luck',)

  def build(self, backbone, teacher=None):
    """Builds plain fine-tuning."""
    return Method()


@dataclasses.dataclass
class HeadOnly(Settings):
  """Settings that need a head."""

  needs: ClassVar = ('head',)

  def build(self, backbone, teacher=None):
    """Builds plain fine-tuning."""
    return Method()


@dataclasses.dataclass
class Taken(Settings):
  """A setting with the name of an argument of jcl.learn."""

  workdir: str = ''

  def build(self, backbone, teacher=None):
    """Builds plain fine-tuning."""
    return Method()
