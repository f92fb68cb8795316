"""The named problems of the benchmark, for the tests: one string such as `lstm:t100,b16,i128,h128,f32,train`."""

from bench.problems import CELLS, DTYPES, Problem

__all__ = ["CELLS", "DTYPES", "Problem"]
