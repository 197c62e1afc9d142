"""The report of a run as an object: a notebook shows it, and it is saved to a file."""

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jcl.reports.report import html_report, page

HEIGHT = 640  # pixels of the frame in a notebook


class Page:
  """One page that needs nothing else: tables, pictures, pseudo samples and settings.

  Args:
    results: the contents of the runs' `results.json`; with more than one they are compared first.
  """

  def __init__(self, results: Sequence[Mapping[str, Any]]):
    self._results = list(results)

  @property
  def html(self) -> str:
    """The whole page."""
    return page(self._results)

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the page to a file, atomically."""
    html_report(self._results, path)

  def _repr_html_(self) -> str:
    """The page in a frame of its own, so that its style stays its own."""
    return (
      f'<iframe title="report" srcdoc="{html.escape(self.html)}" width="100%" height="{HEIGHT}" '
      'style="border:0"></iframe>'
    )
