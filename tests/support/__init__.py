"""Helpers of the tests, and where the repository and its tests are."""

import pathlib

TESTS = pathlib.Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
