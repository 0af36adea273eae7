"""The parts of ``tools/benchmark_speed.py``: each module measures one and has a
``run(repeats)``."""
