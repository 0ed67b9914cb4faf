"""What esd.bench.phases puts around a command, in any checkout: when the parts of `python -m esd.train` begin and end.

Run as `python -c TEXT FILE STARTED OPTIONS…` with the checkout in PYTHONPATH, TEXT being this file: the command runs as if it
had been typed, and FILE then holds {phase: [seconds from STARTED to its beginning, its end]}. Imports nothing heavy.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import runpy
import sys
import time

PARTS = {  # module: {attribute: phase}
    "esd.train.announcement": {"announce_erasing": "first line"},
    "esd.train.run": {"announce": "announcing"},
    "esd.train.callbacks": {"BeforeAfterGrids.begin": "grids", "BeforeAfterGrids.draw": "grids"},
    "esd.erasing.run": {"Run.begin": "source", "Run.fit": "training"},
    "esd.train.verdict": {"Verdict.give": "verdict", "Verdict.measure": "judging"},
}
OLDER = {  # the same of checkouts from before the rooms, where grids are drawn within the training
    "esd.run": {
        "announce": "announcing",
        "sample": "grids",
        "source_of": "source",
        "Trainer.fit": "training with grids",
        "verdict": "verdict",
    },
    "esd.callbacks": {"Grids.draw": "grids within"},
    "esd.emoji.protocol": {"judged": "judging"},
}


class Marks(importlib.abc.MetaPathFinder):
    """Times the parts: as soon as a module of PARTS or OLDER has been imported, what it is called by there is wrapped."""

    def __init__(self, started: float):
        self.started, self.found = started, {}

    def find_spec(self, name, path=None, target=None):
        if name not in PARTS | OLDER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module) -> None:
            run(module)
            for attribute, phase in (PARTS | OLDER)[name].items():
                *owner, last = attribute.split(".")
                holder = getattr(module, owner[0]) if owner else module
                if not hasattr(holder, last):  # in another checkout
                    continue
                setattr(holder, last, self.timed(getattr(holder, last), phase))

        spec.loader.exec_module = exec_module
        return spec

    def timed(self, function, phase: str):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            began = time.time() - self.started
            try:
                return function(*args, **kwargs)
            finally:
                first, _, spent = self.found.get(phase, (began, 0, 0))
                ended = time.time() - self.started
                self.found[phase] = [first, ended, spent + ended - began]

        return inner


if __name__ == "__main__":
    file, started, *options = sys.argv[1:]
    marks = Marks(float(started))
    sys.meta_path.insert(0, marks)
    sys.argv = ["esd.train", *options]
    try:
        runpy.run_module("esd.train", run_name="__main__", alter_sys=True)
    finally:
        with open(file, "w") as out:
            json.dump(marks.found, out)
