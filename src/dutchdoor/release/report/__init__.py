"""The report of a decision that a reviewer can read: from a family's stored evidence, or from a bundle.

One list of blocks, written as a self-contained HTML page or as Markdown. Decides and measures nothing.
"""

from dutchdoor.release.report.sources import from_bundle, from_family
from dutchdoor.release.report.view import View
from dutchdoor.release.report.writing import html_page, markdown_page

__all__ = ["View", "from_bundle", "from_family", "html_page", "markdown_page"]
