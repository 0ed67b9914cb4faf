"""Imports run one way: the table of which room may import which, held against every import in the package."""

import ast
import functools
from pathlib import Path

from tiny import ROOT

import esd

METHOD = "models erasing"
BELOW = f"{METHOD} emoji command metrics sample protocols"  # what a command may build on
ROOMS = {  # from the ground up: a room may import those named beside it, and only such as stand above its own line
    "__init__": "",  # UserError. Its public names (`from esd import …`) are the package's door: see below
    "files": "__init__",
    "emoji": "__init__",
    "models": "__init__ files",
    "erasing": "__init__ files models",
    "command": "__init__ files models erasing",
    "metrics": "__init__ files emoji models",
    "sample": f"__init__ files emoji command {METHOD}",
    "protocols": "__init__ files command models erasing emoji metrics sample",
    "train": f"__init__ files {BELOW}",
    **dict.fromkeys(("__main__", "cache", "export", "report"), f"__init__ files {BELOW}"),
    "pretrain": f"__init__ files {BELOW} report",
    **dict.fromkeys(("dashboard", "evaluate"), f"__init__ files {BELOW} train report"),
    "attack": f"__init__ files {BELOW} train evaluate",
    "bench": f"__init__ files {BELOW} train report attack",
    "studies": f"__init__ files {BELOW} train report attack",
}
NEVER = {"hydra", "wandb", "rich"}  # in the method, which must serve without a command


def imported(file: Path) -> set[str]:
    """Every module that a file names in an import, lazy ones too; `from esd import x` counts as esd.x."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are absolute"
            found |= {f"esd.{name.name}" for name in node.names} if node.module == "esd" else {node.module}
    return found


def room_of(module: str) -> str:
    """esd.erasing.walks → erasing; what esd itself holds (UserError, the public names) → __init__."""
    name = module.split(".")[1]
    return name if (ROOT / "esd" / name).is_dir() or (ROOT / "esd" / f"{name}.py").is_file() else "__init__"


FILES = [file for file in sorted((ROOT / "esd").rglob("*.py")) if file != ROOT / "esd/__init__.py"]


def test_imports_run_one_way():
    order = list(ROOMS)
    for room, allowed in ROOMS.items():
        assert all(order.index(name) < order.index(room) for name in allowed.split()), f"{room}: an arrow back up"
    for file in FILES:
        room = file.relative_to(ROOT / "esd").parts[0].removesuffix(".py")
        for module in sorted(imported(file)):
            top = module.split(".")[0]
            where = f"{file.relative_to(ROOT)} imports {module}"
            if top == "esd":
                assert room_of(module) in {room, *ROOMS[room].split()}, where
            assert top not in NEVER or room not in METHOD.split(), where


def test_the_door_loads_no_room_before_it_is_asked():
    """esd/__init__ names rooms of any floor, inside functions only: `import esd` costs nothing, and no room waits for it."""
    door = ast.parse((ROOT / "esd/__init__.py").read_text(encoding="utf-8"))
    assert not [
        node for node in door.body if isinstance(node, ast.Import) or getattr(node, "module", "__future__") != "__future__"
    ]


def test_the_package_is_seen_at_a_glance():
    entries = {entry.name for entry in (ROOT / "esd").iterdir()} - {"__pycache__"}
    assert {name.removesuffix(".py") for name in entries} <= set(ROOMS)
    assert len(entries) <= 20


def test_what_is_imported_is_there():
    """Lazy imports too, which break only where they are run: each name is one that the file defines, or a module."""

    @functools.cache
    def names(module: str) -> set[str]:
        path = ROOT / module.replace(".", "/")
        file = path.with_suffix(".py")
        tree = ast.parse((file if file.is_file() else path / "__init__.py").read_text(encoding="utf-8"))
        found = {child.stem for child in path.iterdir()} if path.is_dir() else set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {(name.asname or name.name).split(".")[0] for name in node.names}
        return found | set(esd.__all__) if module == "esd" else found

    for file in [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]:
        tree, modules = ast.parse(file.read_text(encoding="utf-8")), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "esd":
                missing = {name.name for name in node.names} - names(node.module)
                assert not missing, f"{file.relative_to(ROOT)}: {node.module} has no {missing}"
                inside = ROOT / node.module.replace(".", "/")
                modules |= {
                    name.asname or name.name: f"{node.module}.{name.name}"
                    for name in node.names
                    if (inside / name.name).is_dir() or (inside / f"{name.name}.py").is_file()
                }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                module = modules[node.value.id]
                assert node.attr in names(module) | {"__doc__", "__file__"}, f"{file.relative_to(ROOT)}: {module}.{node.attr}"
