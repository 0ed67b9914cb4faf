"""Packages whose own code runs only when something of theirs is asked for: what the libraries import and a command has no use
for is more than half of a command's start.

`defer()` is called once by a command, before anything imports torch. From then on a module of DEFERRED is an empty one until an
attribute of it is asked for that it does not have; then its own code runs, and it is as if it had been imported. Its submodules
can be imported all the while. What a library takes from it merely to have it at hand is in EARLY: it does what the module's own
would. In somebody's program (esd.erase) nothing is deferred.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import logging
import operator
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

DEFERRED = (
    # Lightning, diffusers, transformers and torch's optimisers take words for torch.compile, torch's determinism a setting.
    "torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op", "torch._inductor",
    # Lightning and the judges take Metric, which imports matplotlib; Lightning's summary imports triton.
    "torchmetrics", "torchmetrics.utilities.plot", "torch.utils.flop_counter",
    # transformers takes what spreads a model over devices, and an attention; torch's checks of shapes take sympy.
    "torch.distributed.tensor", "torch.distributed.tensor._utils", "torch.distributed.tensor.placement_types",
    "torch.distributed.fsdp", "torch.distributed._composable.fsdp",
    "torch.distributed.checkpoint", "torch.distributed.checkpoint.hf_storage",
    "transformers.distributed.expert_parallel", "transformers.distributed.tensor_parallel",
    "torch.nn.attention.flex_attention", "torch.fx.experimental.symbolic_shapes",
    # Of forty transformers diffusers' U-Net takes two, of PEFT diffusers takes two classes and a function.
    "diffusers.models.transformers", "peft", "peft.helpers", "peft.tuners", "peft.tuners.tuners_utils",
)  # fmt: skip
APART = (  # what can be imported of a deferred package without the rest; any other part takes all of it first
    "torchmetrics.", "diffusers.models.transformers.", "torch._inductor.config", "torch._inductor.custom_graph_pass",
)  # fmt: skip
_lock = threading.RLock()


class Deferred(ModuleType):
    """A module whose code is still to be run."""

    def __getattr__(self, name: str) -> object:
        early = EARLY.get(self.__name__, {})
        if name in early:
            setattr(self, name, early[name]())
        elif name.startswith("__") and name != "__version__":  # inspect's and importlib's questions
            raise AttributeError(name)
        else:
            load(self)
        return getattr(self, name)


def load(module: ModuleType) -> None:
    """Run its code, unless that has been done. One within another deferred package is imported by that, in its order."""
    with _lock:
        if type(module) is not Deferred:
            return
        name = module.__name__
        whole = next(package for package in DEFERRED if f"{name}.".startswith(f"{package}."))
        module.__class__ = ModuleType
        for taken in EARLY.get(name, ()):
            module.__dict__.pop(taken, None)
        if name != whole:
            load(sys.modules[whole])
            vars(module).update(vars(importlib.import_module(name)))
            return
        for inside in [found for found in DEFERRED if found.startswith(f"{name}.") and is_deferred(found)]:
            del sys.modules[inside]
        module.__spec__.loader.exec_module(module)
        for then in AFTER.pop(name, ()):
            then(module)


def is_deferred(name: str) -> bool:
    return type(sys.modules.get(name)) is Deferred


def is_loaded(name: str) -> bool:
    return name in sys.modules and not is_deferred(name)


class There(importlib.abc.Loader):
    """Of what has been imported in the meantime."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


class Loader(importlib.abc.Loader):
    """Makes the empty module."""

    def __init__(self, real: importlib.abc.Loader):
        self.real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self.real


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of DEFERRED, unless the package around them is being loaded or is."""

    def find_spec(self, name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        package = next((whole for whole in DEFERRED if name.startswith(f"{whole}.")), "")
        if is_deferred(package) and name not in DEFERRED and not name.startswith(APART):
            load(sys.modules[package])
            return importlib.machinery.ModuleSpec(name, There()) if name in sys.modules else None
        if name not in DEFERRED or is_loaded(package):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


def defer() -> None:
    """From here on. What is imported already stays as it is."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


# What torch.compile alone has use for is handed on as soon as torch._dynamo is loaded, which torch.compile does.
AFTER: dict[str, list[Callable[[ModuleType], object]]] = {"torch._dynamo": []}


def mark(name: str) -> Callable:
    """A decorator that leaves the function as it is, and a word for torch.compile."""

    def marked(function: Callable) -> Callable:
        if is_loaded("torch._dynamo"):
            return getattr(sys.modules["torch._dynamo"], name)(function)
        AFTER["torch._dynamo"].append(lambda dynamo: getattr(dynamo, name)(function))
        return function

    return marked


def disable(function: Callable | None = None, *args, **options) -> Callable:
    """torch._dynamo.disable: the function itself, until there is something that it is to be kept from."""
    if function is None:
        return lambda function: disable(function, *args, **options)
    found: list[Callable] = []  # the real one's

    @functools.wraps(function)
    def undisturbed(*given, **named):
        if not found and is_loaded("torch._dynamo"):
            found.append(sys.modules["torch._dynamo"].disable(function, *args, **options))
        return (found[0] if found else function)(*given, **named)

    return undisturbed


def class_of(module: str, name: str) -> type:
    """A class of a module that is loaded when the class is used; of one that is not loaded nothing is an instance."""

    def real() -> type:
        load(sys.modules[module])
        return getattr(sys.modules[module], name)

    class Question(type):
        def __call__(cls, *args, **options) -> object:
            return real()(*args, **options)

        def __getattr__(cls, attribute: str) -> object:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return getattr(real(), attribute)

        def __instancecheck__(cls, value: object) -> bool:
            return is_loaded(module) and isinstance(value, getattr(sys.modules[module], name))

        def __subclasscheck__(cls, other: type) -> bool:
            return is_loaded(module) and issubclass(other, getattr(sys.modules[module], name))

    return Question(name, (), {})


def function_of(module: str, name: str) -> Callable:
    """A function whose module is imported when it is called."""

    def late(*args, **options):
        load(sys.modules[module])
        return getattr(sys.modules[module], name)(*args, **options)

    return late


def plain(value: object) -> bool:
    """Whether it is a number, or numbers, and nothing that stands for one while a graph is traced."""
    return type(value) in (bool, int) or (isinstance(value, tuple | list) and all(map(plain, value)))


def symbolic(name: str, answer: Callable) -> Callable[[], Callable]:
    """A function about what stands for numbers: of plain ones it has this answer, for others its module is loaded."""
    late = function_of("torch.fx.experimental.symbolic_shapes", name)
    return lambda: lambda *args, **options: answer(*args) if all(map(plain, args)) else late(*args, **options)


def of_torchmetrics(part: str) -> ModuleType:
    importlib.import_module("torchmetrics.utilities")  # first: its parts import each other
    return importlib.import_module(f"torchmetrics.{part}")


def taken(module: str, *names: str, make: Callable = class_of) -> dict[str, Callable[[], object]]:
    return {name: functools.partial(make, module, name) for name in names}


EARLY: dict[str, dict[str, Callable[[], object]]] = {
    "torch._dynamo": {
        "allow_in_graph": lambda: mark("allow_in_graph"),
        "assume_constant_result": lambda: mark("assume_constant_result"),
        "disable": lambda: disable,
        "graph_break": lambda: lambda *args, **options: None,
        **taken("torch._dynamo", "OptimizedModule"),
        "eval_frame": lambda: SimpleNamespace(OptimizedModule=class_of("torch._dynamo", "OptimizedModule")),
    },
    "torch._dynamo._trace_wrapped_higher_order_op": taken(
        "torch._dynamo._trace_wrapped_higher_order_op", "TransformGetItemToIndex"
    ),
    "torch.utils.flop_counter": taken("torch.utils.flop_counter", "FlopCounterMode"),
    "torch.fx.experimental.symbolic_shapes": {
        **{
            name: symbolic(name, lambda value, *rest: value)
            for name in ("expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious", "statically_known_true")
        },
        "sym_and": symbolic("sym_and", lambda *values: all(values)),
        "sym_or": symbolic("sym_or", lambda *values: any(values)),
        "is_nested_int": symbolic("is_nested_int", lambda value: False),
        "sym_eq": symbolic("sym_eq", operator.eq),
    },
    "torch.nn.attention.flex_attention": {
        "_DEFAULT_SPARSE_BLOCK_SIZE": lambda: 128,
        **taken("torch.nn.attention.flex_attention", "AuxRequest", "BlockMask"),
        **taken("torch.nn.attention.flex_attention", "create_block_mask", "flex_attention", make=function_of),
    },
    "torch.distributed.tensor": taken("torch.distributed.tensor", "DTensor", "Shard"),
    "torch.distributed.tensor.placement_types": taken("torch.distributed.tensor.placement_types", "Shard", "_StridedShard"),
    "torch.distributed.tensor._utils": taken(
        "torch.distributed.tensor._utils", "compute_local_shape_and_global_offset", make=function_of
    ),
    "torch.distributed.fsdp": taken("torch.distributed.fsdp", "CPUOffloadPolicy", "MixedPrecisionPolicy"),
    "torch.distributed._composable.fsdp": taken("torch.distributed._composable.fsdp", "fully_shard", make=function_of),
    "torch.distributed.checkpoint.hf_storage": taken(
        "torch.distributed.checkpoint.hf_storage", "HuggingFaceStorageReader", "HuggingFaceStorageWriter"
    ),
    "torchmetrics": {
        "_logger": lambda: logging.getLogger("torchmetrics"),
        "__version__": lambda: importlib.metadata.version("torchmetrics"),
        "Metric": lambda: of_torchmetrics("metric").Metric,
        "MetricCollection": lambda: of_torchmetrics("collections").MetricCollection,
    },
    "torchmetrics.utilities.plot": {
        "_AX_TYPE": lambda: object,  # for annotations
        "_PLOT_OUT_TYPE": lambda: object,
        **taken("torchmetrics.utilities.plot", "plot_single_or_multi_val", make=function_of),
    },
    "transformers.distributed.expert_parallel": taken(
        "transformers.distributed.expert_parallel", "apply_expert_parallelism", make=function_of
    ),
    "transformers.distributed.tensor_parallel": taken(
        "transformers.distributed.tensor_parallel",
        "apply_tensor_parallelism",
        "gather_state_dict_for_save",
        "get_kv_heads_per_rank",
        "verify_tp_plan",
        make=function_of,
    ),  # fmt: skip
    "peft": taken("peft", "PeftModel"),
    "peft.helpers": taken("peft.helpers", "disable_input_dtype_casting", make=function_of),
    "peft.tuners.tuners_utils": taken("peft.tuners.tuners_utils", "BaseTunerLayer"),
}
