"""The numerics scorecard: every method against every check, and the checks against broken code.

`python launch/check.py` runs it. A method joins it by its name in `jcl.methods.BUILT_IN` and
by one function in `oracles/objectives.py`; where it needs a model with stacked layers, or settings
that make its terms visible in a tiny run, one line of `cases.py` says so.
"""
