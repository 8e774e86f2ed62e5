"""Write one page of the API reference per module, and an index of the public names."""

import ast
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).parents[2]
#: The rooms of the package in reading order, with their titles.
ROOMS = {
    "diffusion": "Schedules, grids, denoisers",
    "samplers": "Samplers",
    "sampling": "Sampling",
    "inversion": "Inversion",
    "solvers": "Implicit solvers",
    "decoder_inversion": "Decoder inversion",
    "analysis": "Analysis",
    "pipeline": "Pipelines",
    "loading": "Loading",
    "models": "Models",
    "apps": "Watermarks, editing, interpolation",
    "scale": "Many samples, jobs, memory",
    "plotting": "Plotting",
    "files": "Files",
    "checks": "Checks of arguments",
}
LOOSE = ("callables", "loops", "mesh", "metrics", "norms", "paths")


def names_of(path: Path) -> list[str]:
    """Return the public functions and classes that a module defines, and its types."""
    tree = ast.parse(path.read_text())
    found = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    ]
    return found


def modules_of(room: str) -> list[Path]:
    """Return the modules of a room that define something public."""
    paths = sorted((ROOT / "jaxinv" / room).rglob("*.py"))
    return [path for path in paths if names_of(path) or path.stem == "__init__"]


def dotted(path: Path) -> str:
    """Return a module's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def write(page: str, text: str) -> None:
    """Write a page."""
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(text)


def module_page(path: Path) -> str:
    """Write a module's page and return its address inside ``api/``."""
    name = dotted(path)
    page = f"{name.removeprefix('jaxinv.').replace('.', '/')}.md"
    members = "" if names_of(path) else "      members: false\n"
    write(
        f"api/{page}",
        f"::: {name}\n    options:\n      heading_level: 1\n{members}",
    )
    return page


def public_names() -> dict[str, str]:
    """Return the names that ``jaxinv`` exports, with where each is defined."""
    import jaxinv

    found = {}
    for name in sorted(jaxinv.__all__):
        value = getattr(jaxinv, name)
        where = getattr(value, "__module__", None)
        if where is None or not where.startswith("jaxinv"):
            found[name] = value.__name__  # a module
        else:
            found[name] = f"{where}.{value.__qualname__}"
    return found


def shown(name: str, where: str) -> str:
    """Return a name with the link to its entry, or to its first module's page."""
    modules = {"decoder": "decoder_inversion.md", "analysis": "analysis.md"}
    if name in modules:
        return f"[`ji.{name}`]({modules[name]})"
    return f"[`ji.{name}`][{where}]"


nav = ["* [The public names](index.md)"]
for room, title in ROOMS.items():
    nav.append(f"* {title}")
    for path in modules_of(room):
        short = dotted(path).removeprefix(f"jaxinv.{room}").lstrip(".") or room
        nav.append(f"    * [{short}]({module_page(path)})")
nav.append("* Further modules")
for name in LOOSE:
    page = module_page(ROOT / "jaxinv" / f"{name}.py")
    nav.append(f"    * [{name}]({page})")
nav.append("* weights_convert")
for path in sorted((ROOT / "weights_convert").glob("*.py")):
    if names_of(path):
        nav.append(f"    * [{path.stem}]({module_page(path)})")
write("api/SUMMARY.md", "\n".join(nav) + "\n")
lines = [
    f"| {shown(name, where)} | `{where.rpartition('.')[0]}` |"
    for name, where in public_names().items()
]
write(
    "api/index.md",
    "# API reference\n\nThe names that `import jaxinv as ji` gives, "
    "with the module that defines each. The pages beside this one describe every "
    "module.\n\n| name | module |\n|---|---|\n" + "\n".join(lines) + "\n",
)
