"""The documents say what the code says: tests that they name exist, errors are all listed, options are those of the command;
and links lead somewhere."""

import fnmatch
import functools
import json
import os
import pathlib
import re
import subprocess
import unittest

SOURCE = pathlib.Path(os.environ["TENON_SOURCE_DIR"])
BUILD = os.environ["TENON_BINARY_DIR"]
TENON = pathlib.Path(BUILD) / "bin/tenon"
WITH_ALL = os.environ["TENON_WITH_ALL"] == "1"  # GPU memory and the relay

# As documents write them: Suite.Name, perhaps with what instantiates it, `*Part*`, test_name (Python).
GTEST = re.compile(r"(?<![\w/.])(?:\w+/)?[A-Z]\w*\.[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*(?:/\w+)?")
PATTERN = re.compile(r"\*\w+\*(?!\*)")
PYTHON = re.compile(r"\btest_[a-z0-9_]+\b(?!\.py)")


def bare(name):
    """Without what instantiates it: Kinds/Suite.Name/host is Suite.Name."""
    return re.sub(r"^\w+/|/\w+$", "", name)


def registered():
    """Names of all tests of this build, without the label in front."""
    shown = subprocess.run(
        ["ctest", "--show-only=json-v1"], cwd=BUILD, capture_output=True, text=True, check=True, timeout=120
    )
    names = [test["name"].split("#")[0].strip() for test in json.loads(shown.stdout)["tests"]]  # "# GetParam() = ..."
    return {name.split(".", 1)[1] for name in names if "." in name}


def in_sources():
    """Suite.Name of every test there is, in this build or not."""
    found = set()
    for path in (SOURCE / "tests").rglob("*.cpp"):
        for suite, name in re.findall(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", path.read_text(), re.MULTILINE):
            found.add(f"{suite}.{name}")
    return found


def python_tests():
    found = set()
    for path in (SOURCE / "tests").rglob("*.py"):
        found.update(re.findall(r"^\s*def (test_\w+)\(", path.read_text(), re.MULTILINE))
        found.add(path.stem)
    return found


class NamedTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        full = registered()
        cls.names = full | {bare(name) for name in full} | {re.sub(r"(\.\w+)/\w+$", r"\1", name) for name in full}
        if not WITH_ALL:  # what only such a build has is at least written
            cls.names |= in_sources()
        cls.python = python_tests()

    def exists(self, name):
        return name in self.names or (not WITH_ALL and bare(name) in self.names)

    def check(self, document, least):
        text = (SOURCE / document).read_text()
        named = GTEST.findall(text)
        self.assertGreaterEqual(len(named), least, "are the names still found?")
        for name in sorted(set(named)):
            with self.subTest(document=document, name=name):
                self.assertTrue(self.exists(name), f"{document} names {name}, which is no test")
        for pattern in sorted(set(PATTERN.findall(text))):
            if not re.search(r"[a-z][A-Z]", pattern):
                continue  # emphasis
            with self.subTest(document=document, pattern=pattern):
                self.assertTrue(fnmatch.filter(self.names, pattern), f"{document} names {pattern}, which is no test")
        for name in sorted(set(PYTHON.findall(text))):
            with self.subTest(document=document, name=name):
                self.assertIn(name, self.python, f"{document} names {name}, which is no test")

    def test_of_lessons(self):
        self.check("docs/lessons.md", 40)

    def test_of_testing(self):
        self.check("docs/testing.md", 60)

    def test_of_security(self):
        self.check("SECURITY.md", 20)


class Errors(unittest.TestCase):
    def setUp(self):
        header = (SOURCE / "include/tenon/error.hpp").read_text()
        body = re.search(r"enum class Errc \{(.*?)\n\};", header, re.DOTALL).group(1)
        body = re.sub(r"//.*", "", body)
        self.errors = [name.strip() for name in body.split(",") if name.strip()]
        self.rows = {}
        for line in (SOURCE / "docs/errors.md").read_text().splitlines():
            row = re.match(r'\| <a id="(\w+)"></a>`(\w+)` \| (.*) \|$', line)
            if row:
                self.assertEqual(row.group(1), row.group(2), "an anchor of another name")
                self.assertNotIn(row.group(2), self.rows, "twice")
                self.rows[row.group(2)] = [cell.strip() for cell in row.group(3).split(" | ")]

    def test_are_all_listed_in_order(self):
        self.assertGreater(len(self.errors), 20)
        self.assertEqual(list(self.rows), self.errors)

    def test_have_every_cell(self):
        for name, cells in self.rows.items():
            self.assertEqual(len(cells), 5, name)
            for cell in cells:
                self.assertTrue(cell, name)

    def test_have_the_exit_codes_of_the_command(self):
        header = (SOURCE / "cli/common.hpp").read_text()
        numbers = dict(re.findall(r"^\s*(\w+) = (\d+)", header, re.MULTILINE))
        body = re.search(r"Exit exit_of\(Errc code\).*?\n\}", (SOURCE / "cli/common.cpp").read_text(), re.DOTALL).group(0)
        exits, waiting = {}, []
        for case, result in re.findall(r"case Errc::(\w+):|return Exit::(\w+);", body):
            if case:
                waiting.append(case)
            else:
                exits.update({name: numbers[result] for name in waiting})
                waiting = []
        self.assertEqual({name: cells[0] for name, cells in self.rows.items()}, exits)


class Sources(unittest.TestCase):
    def test_the_library_never_writes_to_standard_output(self):
        files = [path for folder in ("include", "ipc", "lib") for path in (SOURCE / folder).rglob("*.[ch]pp")]
        self.assertGreater(len(files), 60)
        for path in files:
            code = re.sub(r"//.*", "", path.read_text())
            with self.subTest(file=path.name):
                self.assertNotRegex(code, r"\bcout\b|\bstdout\b|STDOUT_FILENO|\b(?:std::)?(?:printf|v?puts|putchar)\(")


def documents():
    """What people read, without what is built or brought along."""
    folders = ["", "docs", "examples", "tests/model"]
    return sorted(path for folder in folders for path in (SOURCE / folder).glob("*.md"))


class Links(unittest.TestCase):
    @staticmethod
    def prose(path):
        return re.sub(r"(?ms)^```.*?^```", "", path.read_text())

    def anchors(self, path):
        found = set(re.findall(r'<a id="([^"]+)"', self.prose(path)))
        for heading in re.findall(r"^#+ (.*)$", self.prose(path), re.MULTILINE):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
        return found

    def links(self, path):
        return [link for link in re.findall(r"\]\(([^)\s]+)\)", self.prose(path)) if not re.match(r"https?:", link)]

    def test_lead_somewhere(self):
        seen = 0
        for document in documents():
            for link in self.links(document):
                seen += 1
                file, _, anchor = link.partition("#")
                target = document.parent / file if file else document
                with self.subTest(document=document.name, link=link):
                    self.assertTrue(target.exists(), f"{document.name}: {link} leads nowhere")
                    if anchor:
                        self.assertIn(anchor, self.anchors(target), f"{document.name}: {link} has no such heading")
        self.assertGreater(seen, 100, "are the links still found?")

    def test_lead_from_the_readme_to_every_page(self):
        pages = {f"docs/{path.name}" for path in (SOURCE / "docs").glob("*.md")}
        self.assertEqual(pages - set(self.links(SOURCE / "README.md")), set())


class Commands(unittest.TestCase):
    """Options of `tenon` that documents write are those that its help has."""

    @staticmethod
    @functools.cache
    def help_of(*words):
        return subprocess.run([TENON, *words, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout

    @unittest.skipUnless(TENON.exists(), "the command is not in this build")
    def test_have_the_options_that_documents_give_them(self):
        names = re.findall(r"^  (\w+) ", self.help_of().split("Subcommands:")[1], re.MULTILINE)
        if os.environ["TENON_WITH_RELAY"] == "0":
            names.remove("relay")  # has no options then
        seen = 0
        for document in documents():
            for name, rest in re.findall(rf"\btenon ({'|'.join(names)})\b((?: [^`|&#\n]*)?)", document.read_text()):
                words = [name, *re.findall(r"^ (send|recv)\b", rest if name == "relay" else "")]
                for option in re.findall(r"(?<!\S)(--[\w-]+)", rest):
                    seen += 1
                    with self.subTest(document=document.name, command=words, option=option):
                        self.assertRegex(self.help_of(*words), rf"(?<![\w-]){option}(?![\w-])")
        self.assertGreater(seen, 30, "are the commands still found?")


if __name__ == "__main__":
    unittest.main()
