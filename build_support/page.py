"""The page of the package index: README, and where the repository is.

FUSED_RNN_URL, which the workflow of releases sets, is the address of the repository.
"""

from __future__ import annotations

import os
import re
from typing import Any

from build_support.toolchain import ROOT, version


def package_page() -> dict[str, Any]:
    """README, and where the repository is. Relative links lead into it where its address is known."""
    text, url = (ROOT / "README.md").read_text(encoding="utf-8"), os.environ.get("FUSED_RNN_URL", "").rstrip("/")
    page = {"long_description": text, "long_description_content_type": "text/markdown", "project_urls": {}}
    if not url:
        return page
    tag = f"v{version()}"
    files = f"{url}/blob/{tag}"
    text = re.sub(r"\]\((?![a-z]+:|#)", f"]({files}/", text)
    text = re.sub(r'\b(src|srcset)="(?![a-z]+:)', rf'\1="{url}/raw/{tag}/', text)
    urls = {"Source": url, "Documentation": f"{files}/docs/index.md", "Changelog": f"{files}/CHANGELOG.md"}
    return page | {"long_description": text, "project_urls": urls | {"Issues": f"{url}/issues"}}
