"""The order of the layers: each imports only from those before it, without cycles.

Also which files touch devices. The checks read the source, including imports inside
functions; nothing is imported here.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "llie_jax"

# In order. Rooms of one layer do not import each other; see CONTRIBUTING.md.
LAYERS = (
    ("types",),
    ("messages",),
    ("files",),
    ("registry", "jaxprs"),
    ("parallel", "cluster"),
    ("image",),
    ("nn",),
    ("features",),
    ("models",),
    ("losses", "metrics", "data"),
    ("inference",),
    ("optimizers", "schedules"),
    ("convert", "costs"),
    ("configs",),
    ("weights",),
    ("report",),
    ("evaluation",),
    ("studies",),
    ("training",),
    ("cli",),
)
PLACES = {room: place for place, rooms in enumerate(LAYERS) for room in rooms}

# Names for devices, their number, or arrays laid out over them.
DEVICES = {
    "Mesh",
    "NamedSharding",
    "PositionalSharding",
    "SingleDeviceSharding",
    "device_count",
    "device_put",
    "devices",
    "distributed",
    "local_device_count",
    "local_devices",
    "make_array_from_process_local_data",
    "multihost_utils",
    "pmap",
    "process_count",
    "process_index",
    "shard_map",
}
MAY_TOUCH_DEVICES = {
    "parallel": "the one place",
    "cluster": "joins the processes, before there are devices",
    "training.capacity": "plans for devices that are not there",
}


def modules():
    """Name without the package -> parsed source, of every module."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(name):
    """The modules of the package that a module imports, functions included."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative imports hide where things are"
            # `from llie_jax.data import catalogue` imports a module, or a name.
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for path in paths:
            root, _, inside = path.partition(".")
            if root != "llie_jax":
                continue
            while inside and inside not in MODULES:
                inside = inside.rpartition(".")[0]
            found.add(inside)
    return found - {name}


def room(name):
    return name.partition(".")[0]


def test_every_room_has_its_layer():
    assert {room(name) for name in MODULES if name} == set(PLACES)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_layer_imports_only_from_those_before_it(name):
    wrong = [
        other
        for other in imported(name)
        if other
        and room(other) != room(name)
        and PLACES[room(other)] >= PLACES[room(name)]
    ]
    assert not wrong, f"{name} imports {wrong}"


def test_no_circle():
    """Nor between the modules of one room."""
    left = {name: imported(name) - {""} for name in MODULES if name}
    # A package stands for its __init__.py, which may re-export its modules' names.
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    assert not left


def touched(name):
    """The names of `DEVICES` that a module uses from jax."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Attribute) and node.attr in DEVICES:
            value = node.value
            while isinstance(value, ast.Attribute):
                value = value.value
            if isinstance(value, ast.Name) and value.id == "jax":
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax"):
            found |= {alias.name for alias in node.names} & DEVICES
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_only_one_file_touches_devices(name):
    if name not in MAY_TOUCH_DEVICES:
        assert not touched(name)


def test_the_exceptions_are_needed():
    for name in MAY_TOUCH_DEVICES:
        assert touched(name), name


def test_nothing_imports_the_faces_of_the_data_sets():
    """`datasets/` would shadow Hugging Face's package."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != "datasets", name
            if isinstance(node, ast.Import):
                assert all(a.name.split(".")[0] != "datasets" for a in node.names), name
