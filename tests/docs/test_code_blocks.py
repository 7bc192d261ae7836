"""Every code block of README.md and docs/*.md is compiled, run, configured or parsed, or excused by name."""

import collections
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from blocks import blocks_of, hides_commands
from support import pattern, write_safetensors

sys.path.append("/usr/lib/python3/dist-packages")  # Debian's, for another python3 than Debian's
try:
    import yaml
except ImportError:
    yaml = None

SOURCE = pathlib.Path(os.environ["TENON_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["TENON_BINARY_DIR"])
CONFIG = os.environ["TENON_CONFIG"]
COMPILER = os.environ["TENON_CXX"]
HAVE = {what for what in os.environ["TENON_HAVE"].split(",") if what}
CUDA_INCLUDES = [path for path in os.environ.get("TENON_CUDA_INCLUDES", "").split(",") if path]
NAME = f"docs-{os.getpid()}"  # what the documents call "policy"
CONTEXTS = SOURCE / "tests/docs/contexts"

# Blocks that no test runs, by document and first line. A new one needs a reason in its document and a line here.
EXCUSED = {
    ("README.md", "scripts/demo"),
    ("README.md", "cmake --preset release && cmake --build --preset release --target tenon_installed"),
    ("docs/install.md", "cmake --preset release && cmake --build --preset release --target tenon_installed"),
    ("docs/install.md", "apt-get install g++-aarch64-linux-gnu qemu-user-static"),
    ("docs/install.md", "cd build/release && cpack"),
    ("docs/containers.md", "docker run -d --name trainer --user 1000:1000 --gpus all \\"),
    ("docs/containers.md", "docker run -d --user 1000:1000 --gpus all -v /dev/shm:/dev/shm --pid=host my/trainer"),
    ("docs/quick-start.md", "scripts/setup"),
    ("docs/relay.md", "tenon relay send policy --listen 10.0.0.1:4711 --secret-file secret --reduce mean --replicas 2"),
}

# What a command must not do to the machine that tests it. (A test is not the place for install commands.)
CHANGES_THE_MACHINE = re.compile(
    r"(?<![\w-])(?:sudo|apt|apt-get|dpkg|docker|podman|kubectl|mount|sysctl|systemctl|chown|mkfs|curl|wget|pip|pip3)\s"
    r"|/usr/|/etc/|/opt/|\brm -\w*r\w* /"
)
UNTESTED = {"", "text"}
KNOWN = UNTESTED | {"cpp", "sh", "bash", "cmake", "yaml", "json", "python"}


def documents():
    return [*sorted(SOURCE.glob("*.md")), *sorted((SOURCE / "docs").glob("*.md"))]


def run(command, timeout=120, **more):
    """(exit status, everything said). Whatever it started ends with it."""
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, **more
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            return 124, f"{said}\nnot done within {timeout} s"
    return process.returncode, said


def renamed(text):
    return re.sub(r"\bpolicy\b", NAME, text)


def translation_unit(blocks):
    """One source of several blocks, each in its context and in a namespace of its own; errors name the document."""
    head, body = [], []
    for block in blocks:
        path = CONTEXTS / f"{block.marks['context']}.cpp"
        head.append(f'#line 1 "{path}"')
        body.append(f"namespace block_{block.line} {{")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("#include"):
                head.append(line)
            elif line.strip() == "// BLOCK":
                for offset, inner in enumerate(block.text.splitlines(), 1):
                    place = f'#line {block.line + offset} "{block.document}"'
                    if inner.lstrip().startswith("#include"):
                        head += [place, inner]
                    else:
                        body += [place, inner]
            else:
                body += [f'#line {number} "{path}"', line]
        body.append("}")
    return "\n".join([*head, *body, ""])


def context_says(block, key):
    text = (CONTEXTS / f"{block.marks['context']}.cpp").read_text()
    found = re.search(rf"^// {key}: (\S+)$", text, re.MULTILINE)
    return found[1] if found else ""


def needs(block):
    wanted = {block.marks[key] for key in ("needs",) if key in block.marks}
    if block.language == "cpp" and "context" in block.marks:
        wanted |= {context_says(block, "needs")} - {""}
    return wanted


def script_of(block):
    """The block as one bash script: what it starts in the background is waited for until it says something, and
    ended with it. A background process that fails fails the block, unless the block kills it. A command whose comment
    begins with `exit N` ends with N."""
    ends = "0|143" + ("|137" if "kill -9" in block.text else "")
    lines = [
        "set -euo pipefail",
        "finish() {",
        "  local status=$? job",
        "  for job in $(jobs -p); do",
        "    local ended=0; kill -TERM $job 2>/dev/null || true; wait $job || ended=$?",
        f"    case $ended in {ends}) ;; *) echo \"what it started in the background ended with $ended\"; status=1 ;; esac",
        "  done",
        "  cat background.* 2>/dev/null || true; rm -f background.*; exit $status",
        "}",
        "trap finish EXIT",
        'started() { for _ in {1..150}; do [[ -s $1 ]] || ! kill -0 "$2" 2>/dev/null || sleep 0.02; done; }',
    ]
    for number, line in enumerate(renamed(block.text).splitlines(), block.line + 1):
        background = re.match(r"([^#]*\S)\s+&\s*(#.*)?$", line)
        if background:
            lines.append(f"{background[1]} > background.{number} 2>&1 & started background.{number} $!")
        elif fails := re.match(r"(.*\S)\s+# exit (\d+)\b", line):
            lines.append(f"ended=0; {fails[1]} || ended=$?")
            lines.append(f"[[ $ended == {fails[2]} ]] || {{ echo 'not {fails[2]} but' $ended: {shlex.quote(fails[1])}; exit 1; }}")
        else:  # a failure left of && would not end the script
            lines += [line] if re.search(r"['\"]", line) else line.split(" && ")
    return "\n".join([*lines, ""])


class CodeBlocks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.done = collections.Counter()
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="tenon-docs-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        cls.blocks = []
        for path in documents():
            cls.blocks += blocks_of(path, str(path.relative_to(SOURCE)))
        cls.tested = [block for block in cls.blocks if "excuse" not in block.marks and block.language not in UNTESTED]
        for block in cls.tested:
            if not needs(block) <= HAVE:
                cls.done["left out of this build"] += 1
        cls.tested = [block for block in cls.tested if needs(block) <= HAVE]
        cls._prefix = None

    @classmethod
    def tearDownClass(cls):
        cls.done["excused"] = sum("excuse" in block.marks for block in cls.blocks)
        print("code blocks: " + ", ".join(f"{count} {what}" for what, count in sorted(cls.done.items())))

    def of(self, *languages):
        return [block for block in self.tested if block.language in languages]

    def prefix(self):
        """Tenon, installed."""
        if not CodeBlocks._prefix:
            CodeBlocks._prefix = self.scratch / "prefix"
            status, said = run(["cmake", "--install", BUILD, "--config", CONFIG, "--prefix", CodeBlocks._prefix])
            self.assertEqual(status, 0, said)
        return CodeBlocks._prefix

    def environment(self):
        """As of somebody who has installed this build: documents other than the README say just `tenon`."""
        return {
            **os.environ, "PATH": f"{BUILD}/bin:{os.environ['PATH']}", "CMAKE_PREFIX_PATH": str(self.prefix()),
            "CMAKE_GENERATOR": "Ninja", "CXX": COMPILER, "HOME": str(self.scratch),
        }  # fmt: skip

    def folder(self, document):
        """Where a document's commands run: its files, a checkpoint, a secret, and the build as build/release."""
        folder = self.scratch / document.replace("/", "_")
        if not folder.exists():
            (folder / "build").mkdir(parents=True)
            (folder / "build/release").symlink_to(BUILD)
            tensors = [("model.norm.weight", "F32", [64], pattern(256)), ("lm_head.weight", "BF16", [16, 64], pattern(2048, 2))]
            write_safetensors(folder / "model.safetensors", tensors)
            (folder / "secret").write_text("of this test alone\n")
            (folder / "secret").chmod(0o600)
            for block in self.tested:
                if block.document == document and "file" in block.marks:
                    (folder / block.marks["file"]).write_text(renamed(block.text))
        return folder

    def test_are_of_a_kind_that_is_tested(self):
        for block in self.blocks:
            with self.subTest(where=block.where):
                self.assertIn(block.language, KNOWN, f"{block.where}: '{block.language}' is not tested")
                if block.language in UNTESTED and "excuse" not in block.marks:
                    self.assertFalse(hides_commands(block), f"{block.where}: commands; say sh")
                if block.language == "cpp" and "excuse" not in block.marks:
                    marked = block.marks.keys() & {"context", "file"}
                    self.assertTrue(marked, f"{block.where}: what does it need? <!-- test: context=… --> (tests/docs/blocks.py)")

    def test_are_excused_only_by_name(self):
        marked = {(block.document, block.first): block.where for block in self.blocks if "excuse" in block.marks}
        for key, where in marked.items():
            self.assertIn(key, EXCUSED, f"{where}: excused, but not in the list of {pathlib.Path(__file__).name}")
        self.assertEqual(EXCUSED - marked.keys(), set(), "in the list and not, or no longer, in a document")

    def compile(self, source, standard, what):
        includes = [f"-I{path}" for path in [SOURCE / "include", *CUDA_INCLUDES]]
        warnings = ["-Wall", "-Wextra", "-Wno-unused-but-set-variable", "-Wno-unused-variable", "-Werror"]
        command = [COMPILER, f"-std={standard}", "-fsyntax-only", *warnings, *includes, "-x", "c++", source]
        status, said = run(command)
        self.assertEqual(status, 0, f"{what}:\n{said[:4000]}")

    def test_of_cpp_compile(self):
        units = collections.defaultdict(list)
        for block in self.of("cpp"):
            if "context" in block.marks:
                standard = context_says(block, "std")
                self.assertTrue(standard, f"{block.where}: its context names no standard")
                units[block.document, standard, *sorted(needs(block))].append(block)
                self.done["compiled"] += 1
        for (document, standard, *_), blocks in units.items():
            with self.subTest(document=document, standard=standard):
                source = self.scratch / f"{document.replace('/', '_')}-{blocks[0].line}.cpp"
                source.write_text(translation_unit(blocks))
                self.compile(source, standard, document)

    def test_of_cmake_configure(self):
        for number, block in enumerate(self.of("cmake")):
            if "file" in block.marks:
                continue  # configured by the commands of its document
            with self.subTest(where=block.where):
                folder = self.scratch / f"cmake-{number}"
                folder.mkdir()
                (folder / "main.cpp").write_text("int main() {}\n")
                names = set(re.findall(r"target_link_libraries\((\S+)", block.text))
                names -= set(re.findall(r"add_(?:executable|library)\((\S+)", block.text))
                targets = "".join(f"add_executable({name} main.cpp)\n" for name in sorted(names))
                head = "cmake_minimum_required(VERSION 3.22)\nproject(block LANGUAGES CXX)\n"
                (folder / "CMakeLists.txt").write_text(head + targets + block.text)
                status, said = run(["cmake", "-S", folder, "-B", folder / "out"], env=self.environment())
                self.assertEqual(status, 0, f"{block.where}:\n{said[-4000:]}")
                self.done["configured"] += 1

    def serve(self, folder):
        """The small checkpoint, as the name that the documents take for granted."""
        command = [BUILD / "bin/tenon", "serve", folder / "model.safetensors", "--name", NAME]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.assertIn("published", server.stdout.readline())
        return server

    def run_block(self, block):
        folder = self.folder(block.document)
        named = re.search(r"\bpolicy\b", block.text) and not re.search(r"\bserve\b|--name policy\b", block.text)
        server = self.serve(folder) if named else None
        try:
            status, said = run(["bash", "-c", script_of(block)], cwd=folder, env=self.environment())
        finally:
            if server:
                server.terminate()
                server.communicate(timeout=60)
        self.assertEqual(status, 0, f"{block.where}: the commands ended with {status}:\n{said[-4000:]}")
        left = [str(path) for path in pathlib.Path("/dev/shm").glob(f"tenon.*.{NAME}*")]
        self.assertEqual(left, [], f"{block.where}: left behind")

    def test_of_commands_run(self):
        for block in self.of("sh", "bash"):
            with self.subTest(where=block.where):
                harm = CHANGES_THE_MACHINE.search(block.text)
                self.assertIsNone(harm, f"{block.where}: would change this machine; excuse it with the reason")
                self.run_block(block)
                self.done["run"] += 1

    def test_of_data_parse(self):
        for block in self.of("json", "yaml", "python"):
            with self.subTest(where=block.where):
                if block.language == "yaml" and not yaml:
                    self.done["skipped for want of PyYAML"] += 1
                    continue
                try:
                    {"json": json.loads, "yaml": self.check_yaml, "python": lambda text: compile(text, block.where, "exec")}[
                        block.language
                    ](block.text)
                except (ValueError, SyntaxError, *((yaml.YAMLError,) if yaml else ())) as error:
                    self.fail(f"{block.where}: {error}")
                self.done["parsed"] += 1

    def check_yaml(self, text):
        for document in yaml.safe_load_all(text):
            if not isinstance(document, dict) or document.get("kind") != "Pod":
                continue
            spec = document["spec"]
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            for container in spec["containers"]:
                mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
                self.assertLessEqual(mounts.keys(), volumes, f"{container['name']} mounts what the pod has not")
                self.assertIn("/dev/shm", mounts.values(), f"{container['name']} has a /dev/shm of its own")
                self.assertIn("limits", container.get("resources", {}), f"{container['name']} has no limits")
            shared = [v["emptyDir"] for v in spec["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"]
            self.assertTrue(all("sizeLimit" in volume for volume in shared), "memory without a limit is the node's")


if __name__ == "__main__":
    unittest.main()
