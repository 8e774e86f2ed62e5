"""Bring pages of the repository to the site: benchmarks, notebooks, changelog.

Nothing is copied by hand: the committed file is the page. Links are relative to the
file in the repository; here they become links to the page of the site, if there is
one, or to the file on GitHub.
"""

import os
import re
import shutil
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).parents[2]
BLOB = "https://github.com/jaxinv/jaxinv/blob/main"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
PICTURES = {".png", ".gif", ".svg"}


def pages() -> dict[str, str]:
    """Return the pages by the file in the repository that each is."""
    found = {
        "CHANGELOG.md": "more/changelog.md",
        "CONTRIBUTING.md": "more/contributing.md",
        "docs/memory.md": "how-to/memory.md",
        "training/README.md": "more/training.md",
        "jaxinv/zoo/emoji64/README.md": "more/emoji64.md",
        "jaxinv/zoo/emoji16/README.md": "more/emoji16.md",
    }
    for path in sorted((ROOT / "benchmarks/results").glob("*.md")):
        found[f"benchmarks/results/{path.name}"] = f"benchmarks/{path.name}"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found[f"notebooks/{path.name}"] = f"notebooks/{path.name}"
    return found


PAGES = pages()


def rewritten(text: str, source: str, page: str) -> str:
    """Return Markdown whose links fit the page, and bring along its pictures."""

    def link(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match.group()
        file, _, anchor = target.partition("#")
        place = os.path.normpath(os.path.join(os.path.dirname(source), file))
        anchor = f"#{anchor}" if anchor else ""
        if place in PAGES:
            target = os.path.relpath(PAGES[place], os.path.dirname(page)) + anchor
        elif Path(place).suffix in PICTURES and (ROOT / place).exists():
            copy = f"pictures/{place.replace('/', '-')}"
            with (
                (ROOT / place).open("rb") as given,
                mkdocs_gen_files.open(copy, "wb") as file,
            ):
                shutil.copyfileobj(given, file)
            target = os.path.relpath(copy, os.path.dirname(page))
        else:
            target = f"{BLOB}/{place}{anchor}"
        return f"{before}{target}{after}"

    return LINK.sub(link, text)


def title_of(text: str) -> str:
    """Return the first heading."""
    return next(line for line in text.splitlines() if line.startswith("# "))[2:]


for picture in sorted((ROOT / "docs").glob("*.png")):
    with mkdocs_gen_files.open(f"pictures/{picture.name}", "wb") as file:
        file.write(picture.read_bytes())

titles = {}
for source, page in PAGES.items():
    content = (ROOT / source).read_text()
    if source.endswith(".ipynb"):
        with mkdocs_gen_files.open(page, "w") as file:
            file.write(content)
        continue
    titles[page] = title_of(content)
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(rewritten(content, source, page))
    mkdocs_gen_files.set_edit_path(page, f"../../{source}")

results = {page: t for page, t in titles.items() if page.startswith("benchmarks/")}
with mkdocs_gen_files.open("benchmarks/SUMMARY.md", "w") as file:
    file.write("* [How to read them](index.md)\n")
    for page, title in sorted(results.items(), key=lambda pair: pair[1]):
        file.write(f"* [{title}]({Path(page).name})\n")
