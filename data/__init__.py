"""The benchmark and the run, in rooms: what stands in one imports from those before it, never from one behind it.

common, sqlite, benchmark, answers, report, training, run, with_torch; the files beside them are commands.
"""
