"""Build the documentation site: python scripts/docs/build.py [FOLDER], by default build/docs.

The pages are README.md, CHANGELOG.md, those of docs/, and three that are made from the code. Whatever Sphinx warns of,
such as a link that leads nowhere, makes the exit code 1. The site needs neither a server nor a network.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from reference import make_pages
from sphinx.cmd.build import build_main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Added to the first page: what the sidebar lists. The README's own table links most of them.
CONTENTS = """

```{toctree}
:hidden:
:caption: Guide

docs/tutorial
docs/gallery
docs/commands
docs/study-files
docs/python
docs/networks
```

```{toctree}
:hidden:
:caption: Reference

keys
command-line
api
```

```{toctree}
:hidden:
:caption: Background

docs/statistics
docs/performance
docs/reliability
docs/clusters
docs/tracking-server
docs/reproducibility
docs/development
CHANGELOG
```
"""


def main() -> int:
    """Build the site, and return Sphinx's exit code."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
    if target.exists() and any(target.iterdir()) and not (target / "objects.inv").is_file():
        sys.exit(f"{target} holds other files, and no site that this script built; give another folder")
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "pages")
        gather_pages(source)
        strictly = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
        places = ["--conf-dir", str(HERE), "--doctree-dir", f"{folder}/doctrees", str(source), str(target)]
        code = build_main([*strictly, *places])
    if code == 0:
        print(target / "index.html")
    return code


def gather_pages(folder: Path) -> None:
    """Write all pages and what they link into a folder, each where its links expect it."""
    (folder / "docs").mkdir(parents=True)
    for file in (ROOT / "docs").iterdir():
        if file.suffix in (".png", ".ipynb"):  # not what the notebook leaves behind
            shutil.copy(file, folder / "docs")
    for file in (ROOT / "docs").glob("*.md"):
        page = file.read_text(encoding="utf-8").replace("](../README.md", "](../index.md")
        (folder / "docs" / file.name).write_text(page, encoding="utf-8")
        for link in re.findall(r"\]\(\.\./([^)#\s]+)", page):
            if (ROOT / link).is_file():
                (folder / link).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / link, folder / link)
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    (folder / "index.md").write_text((ROOT / "README.md").read_text(encoding="utf-8") + CONTENTS, encoding="utf-8")
    for name, text in make_pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
