"""Reports of runs: what is told of a run, and the files that tell it.

Its face: `ci`, `html`, `junit`, `model`, `provenance`, `report_file`; the other modules
are its own.
"""
