"""What is written from the command's own help: tenon(1), and what bash and zsh complete.

What must be in it is taken from `--help` of every command, as people read it.
"""

import os
import re
import shlex
import shutil
import subprocess
import unittest

from support import PATIENCE, TENON, Case, environment, pattern, run, unique_name

SMALL = [("weight", "U8", [3], pattern(3))]


def needs(program):
    return unittest.skipUnless(shutil.which(program), f"no {program} here")


def help_of(*command):
    """(option names, commands) that `--help` shows."""
    done = run(*command, "--help")
    options, commands, part = [], [], ""
    for line in done.stdout.splitlines():
        if re.match(r"\S.*:$", line):
            part = line
        elif part == "Options:" and re.match(r"  -", line):
            options += re.match(r"  (\S+)", line).group(1).split(",")
        elif part == "Subcommands:" and re.match(r"  \w", line):
            commands.append(line.split()[0])
        elif not line:
            part = ""
    return options, commands


def every_command(*command):
    """{words of a command: its options}, also of those within commands."""
    options, commands = help_of(*command)
    found = {command: options}
    for name in commands:
        found.update(every_command(*command, name))
    return found


class WhatHelpShows(Case):
    def test_is_found(self):
        found = every_command()
        self.assertGreater(len(found), 10)
        self.assertIn(("serve",), found)
        self.assertIn("--mode", found[("serve",)])


class ManPage(Case):
    def setUp(self):
        super().setUp()
        self.page = run("man").stdout

    def section(self, command):
        match = re.search(rf"^\.SS {' '.join(('tenon',) + command)}$(.*?)(?=^\.S[SH] )", self.page, re.M | re.S)
        self.assertTrue(match, f"tenon {' '.join(command)} is not in the man page")
        return match[1].replace("\\-", "-")

    def test_has_every_command_and_every_option(self):
        for command, options in every_command().items():
            text = self.section(command) if command else self.page.split(".SH COMMANDS")[0].replace("\\-", "-")
            for option in options:
                with self.subTest(command=command, option=option):
                    self.assertIn(f"\\fB{option}\\fR", text)

    @needs("groff")
    def test_is_formatted_without_a_warning(self):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-P-c"], input=self.page, capture_output=True, text=True, timeout=PATIENCE
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        text = " ".join(re.sub(r".\x08", "", done.stdout).split())
        self.assertIn("tenon serve model.safetensors --name policy", text)
        self.assertIn("Exit codes: 0 ok", text)

    def test_is_no_command_that_help_shows(self):
        self.assertNotIn("man", help_of()[1])


class Bash(Case):
    def complete(self, *words, **more):
        """What bash offers for the last of `words`."""
        script = (
            f"source <({shlex.quote(TENON)} completion bash); COMP_WORDS=({shlex.join((TENON, *words))}); "
            f"COMP_CWORD={len(words)}; _tenon; ((${{#COMPREPLY[@]}})) && printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(
            ["bash", "--norc", "-uc", script], capture_output=True, text=True, timeout=PATIENCE, cwd=self.folder, **more
        )
        self.assertEqual(done.stderr, "", words)
        return done.stdout.split("\n")[:-1]

    def test_offers_every_command_and_every_option(self):
        for command, options in every_command().items():
            with self.subTest(command=command):
                self.assertEqual(
                    sorted(self.complete(*command, "-")), sorted(options)
                )
        self.assertEqual(sorted(self.complete("")), sorted(help_of()[1]))
        self.assertEqual(self.complete("re"), ["relay"])
        self.assertEqual(sorted(self.complete("relay", "")), ["recv", "send"])

    def test_offers_the_values_of_options(self):
        for words in (["--mode", ""], ["--mode", "=", ""], ["--mode", "="]):
            self.assertEqual(sorted(self.complete("serve", *words)), ["double", "in-place", "streaming"], words)
        self.assertEqual(self.complete("serve", "--mode", "=", "st"), ["streaming"])
        self.assertEqual(sorted(self.complete("relay", "send", "x", "--engine", "")), ["auto", "gloo", "nccl"])
        self.assertEqual(self.complete("serve", "--name", ""), [], "free text")
        self.assertEqual(sorted(self.complete("completion", "")), ["bash", "zsh"])

    def test_its_modes_are_those_that_are_taken(self):
        for mode in self.complete("serve", "--mode", ""):
            done = run("serve", "no-such-file", "--name", "x", "--mode", mode)
            self.assertIn("no-such-file", done.stderr)

    def test_offers_files(self):
        for name in ("one.safetensors", "a name with spaces"):
            self.file(SMALL, name=name)
        everything = ["a name with spaces", "one.safetensors"]
        self.assertEqual(sorted(self.complete("serve", "")), everything)
        self.assertEqual(self.complete("serve", "first", "--quiet", "o"), ["one.safetensors"], "and as many as come")
        self.assertEqual(self.complete("relay", "send", "--secret-file", "a"), ["a name with spaces"])
        for option in ("-o", "--output"):
            self.assertEqual(self.complete("trace", option, "o"), ["one.safetensors"])
        os.mkdir(self.path("of traces"))
        self.assertEqual(self.complete("trace", "--merge", "o"), ["of traces"], "a folder")

    def test_offers_names_of_publications_where_one_is_taken(self):
        name = unique_name("completed")
        self.serve(self.file(SMALL), name)
        self.file(SMALL, name="completed.safetensors")
        for words in (["inspect"], ["dump"], ["get"], ["relay", "send"], ["verify", "--timeout", "3s"]):
            self.assertEqual(self.complete(*words, name[:-2]), [name], words)
        self.assertEqual(self.complete("verify", name, "completed"), ["completed.safetensors"], "the second is a file")
        self.assertEqual(self.complete("inspect", name, ""), [], "it takes one")
        self.assertEqual(self.complete("trace", "-o", "file", name[:-2]), [name], "behind an option's value")

    def test_nothing_in_a_listing_is_run(self):
        tenon = self.path("tenon")
        with open(tenon, "w") as file:
            file.write("#!/bin/sh\nprintf 'NAME STATE\\n$(touch${IFS}run) x\\n`touch${IFS}run` x\\ngood ready\\n'\n")
        os.chmod(tenon, 0o755)
        script = f"source <({shlex.quote(TENON)} completion bash); COMP_WORDS=({tenon} inspect ''); COMP_CWORD=2; _tenon; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, cwd=self.folder)
        self.assertEqual((done.stdout, done.stderr), ("good\n", ""))
        self.assertFalse(os.path.exists(self.path("run")))


# Types a line into a shell in a terminal, presses TAB, and prints what came on the screen.
ZSH = r"""
zmodload zsh/zpty
zpty shell "TERM=dumb PS1=ready: zsh -f -i"
zpty -w shell 'unsetopt zle_bracketed_paste; zstyle ":completion:*" list-prompt ""; LISTMAX=1000; autoload -U compinit && compinit -u -D && source $SCRIPT && echo LOA""DED'
zpty -r -m shell seen '*LOADED*'
zpty -n -w shell "$1"$'\t'
seen= part=
for i in {1..600}; do
  while zpty -r -t shell part; do seen+=$part; done
  [[ $seen == *$2* ]] && break
  sleep 0.05
done
print -r -- $seen
zpty -d shell
"""


@needs("zsh")
class Zsh(Case):
    def setUp(self):
        super().setUp()
        self.script = self.path("_tenon")
        with open(self.script, "w") as file:
            file.write(run("completion", "zsh").stdout)

    def complete(self, line, wanted):
        path = os.path.dirname(TENON) + ":" + os.environ["PATH"]
        return subprocess.run(
            ["zsh", "-f", "-c", ZSH, "zsh", line, wanted],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.folder,
            env=environment(SCRIPT=self.script, PATH=path),
        ).stdout

    def test_is_zsh(self):
        done = subprocess.run(["zsh", "-n", self.script], capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_has_every_command_and_every_option(self):
        with open(self.script) as file:
            script = file.read()
        for command, options in every_command().items():
            name = "_".join(("_tenon", *command))
            body = re.search(rf"^{name}\(\) \{{$(.*?)^\}}$", script, re.M | re.S)
            self.assertTrue(body, f"{name} is missing")
            for option in options:
                with self.subTest(command=command, option=option):
                    self.assertRegex(body[1], rf"'{option}[=+]?\[")

    def test_completes(self):
        name = unique_name("completed")
        self.serve(self.file(SMALL), name)
        self.assertIn("completion", self.complete("tenon comp", "completion"))
        self.assertIn("--bucket-size=", self.complete("tenon serve --buck", "--bucket-size="))
        self.assertIn("streaming", self.complete("tenon serve --mode=st", "streaming"))
        self.assertIn("recv", self.complete("tenon relay r", "recv"))
        self.assertIn(name, self.complete(f"tenon inspect {name[:-1]}", name))
        self.assertIn("in.safetensors", self.complete("tenon serve in", "in.safetensors"))
        self.assertIn(name, self.complete(f"tenon trace -o file {name[:-1]}", name))
        self.assertIn("in.safetensors", self.complete("tenon trace -o in", "in.safetensors"))
        self.assertIn("nccl", self.complete("tenon relay send x --engine=n", "nccl"))
        self.assertIn("cuda", self.complete("tenon serve --memory=c", "cuda"))


if __name__ == "__main__":
    unittest.main()
