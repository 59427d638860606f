"""What mkdocs does beside rendering: links that leave ``docs``, and the page of the command line.

The documents are read on a code host as well, where ``../benchmarks/README.md`` and a link to a folder work. On the
site, pictures outside of ``docs`` are copied into it, other files outside become code, and a link to a folder leads to
its first page.
"""

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_PICTURES = (".png", ".svg", ".gif")
#: Between two Chinese characters a browser shows the end of a line as a space.
_CHINESE_LINE_END = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")
_COMMAND_LINE = "<!-- help of every command -->"


def on_files(files, config):
    """Adds the pictures outside of ``docs`` that the documents show."""
    for page in list(files.documentation_pages()):
        for target in _targets_outside(page):
            if target.endswith(_PICTURES) and files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites what leaves ``docs`` and fills in the command line's help."""
    markdown = markdown.replace("```python notest", "```python")
    if _COMMAND_LINE in markdown:
        markdown = markdown.replace(_COMMAND_LINE, _help_of_every_command())
    if page.file.src_uri.endswith(".zh.md"):
        markdown = _CHINESE_LINE_END.sub("", markdown)
    return _LINK.sub(lambda link: _rewritten(link, page.file, files), markdown)


def _targets_outside(page: File) -> set[str]:
    """The files of the repository, outside of ``docs``, that a page links to."""
    links = (_resolved(page, match[3]) for match in _LINK.finditer(page.content_string))
    return {link.removeprefix("../") for link in links if link.startswith("../")}


def _resolved(page: File, target: str) -> str:
    """The path from ``docs`` of a link in ``page``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page.src_uri), target))


def _rewritten(link: re.Match, page: File, files) -> str:
    picture, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    place = _resolved(page, target)
    here = posixpath.dirname(page.src_uri) or "."
    if place.startswith("../"):
        place = place.removeprefix("../")
        if not place.endswith(_PICTURES):
            return text if text.startswith("`") else f"{text} (`{place}`)"
    elif (Path(ROOT, "docs") / place).is_dir():
        inside = sorted(file.src_uri for file in files.documentation_pages() if file.src_uri.startswith(f"{place}/"))
        place = inside[0] if inside else place
    return f"{picture}[{text}]({posixpath.relpath(place, here)}{anchor})"


def _help_of_every_command() -> str:
    overview = _help()
    commands = re.findall(r"^  (\w+)  ", overview.partition("commands:\n")[2].partition("\n\n")[0], re.MULTILINE)
    parts = [f"```text\n{overview}\n```"]
    parts += [f"## {command}\n\n```text\n{_help(command)}\n```" for command in commands]
    return "\n\n".join(parts)


def _help(*command: str) -> str:
    words = [sys.executable, "-m", "sdgan_ext", *command, "--help"]
    environment = os.environ | {"COLUMNS": "96"}
    ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ran.returncode != 0:
        raise PluginError(f"`{' '.join(words)}` failed: {ran.stderr.strip()}")
    return ran.stdout.strip()
