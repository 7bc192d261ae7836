"""The fenced blocks of Markdown documents, and what the comment before one says of its test.

    <!-- test: context=trainer -->           C++: put into tests/docs/contexts/trainer.cpp, where it says BLOCK
    <!-- test: file=trainer.cpp -->          a whole file, which commands of the same document find
    <!-- test: needs=relay -->               for builds that have it: relay or cuda
    <!-- test: excuse="needs a GPU" -->      not tested; listed in test_code_blocks.py
"""

import dataclasses
import pathlib
import re
import shlex

MARK = re.compile(r"\s*<!--\s*test:(.*?)-->\s*$")
KEYS = {"context", "file", "needs", "excuse"}
COMMAND = re.compile(
    r"\s*\$? ?(?:tenon|tenon-bench|cmake|ctest|ninja|scripts/\S+|build/\S+|docker|kubectl|export|sudo|apt\S*|git) \S"
)


@dataclasses.dataclass
class Block:
    document: str
    line: int  # of the fence that opens it
    language: str
    text: str
    marks: dict

    @property
    def where(self):
        return f"{self.document}:{self.line}"

    @property
    def first(self):
        """The first line without its comment: what the list of excuses knows the block by."""
        lines = [line for line in self.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return re.sub(r"\s+(#|//).*", "", lines[0]).strip() if lines else ""


def marks_of(comment, where):
    found = MARK.match(comment)
    if not found:
        return {}
    marks = {}
    for word in shlex.split(found[1]):
        key, _, value = word.partition("=")
        if key not in KEYS or not value:
            raise ValueError(f"{where}: '{word}' in the comment before it; there are {', '.join(sorted(KEYS))}")
        marks[key] = value
    return marks


def blocks_of(path, document):
    found, opened, before = [], None, ""
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        fence = re.match(r"(\s*)(```+|~~~+)\s*(\S*)", line)
        if opened is None and fence:
            indent, ticks, language = fence.groups()
            opened = (number, indent, ticks, language, [], marks_of(before, f"{document}:{number}"))
        elif opened and fence and fence[2].startswith(opened[2]) and not fence[3]:
            start, indent, _, language, lines, marks = opened
            text = "".join(body.removeprefix(indent) + "\n" for body in lines)
            found.append(Block(document, start, language, text, marks))
            opened, before = None, ""
        elif opened:
            opened[4].append(line)
        elif line.strip():
            before = line
    if opened:
        raise ValueError(f"{document}:{opened[0]}: a block that never ends")
    return found


def hides_commands(block):
    """Whether a block that claims to be no code (no language, or text) holds commands."""
    return any(COMMAND.match(line) for line in block.text.splitlines())
