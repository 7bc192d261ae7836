"""Uses Tenon as somebody who installed it does. One check per run:

    install_test.py CHECK --source DIR --build DIR --work DIR --compiler PATH --config NAME

prefix must run before the others, examples before trainer_engine and rl_loop; CTest sees to that.
Exit status 77: skipped.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


class Failed(Exception):
    pass


def run(*command, timeout=300):
    """Runs a command to its end; its standard output, or Failed with all it said."""
    command = [str(part) for part in command]
    print("+", " ".join(command), flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise Failed(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def expect(condition, what, output=""):
    if not condition:
        raise Failed(f"{what}\n{output}")


def nothing_left(name):
    left = [str(path) for path in pathlib.Path("/dev/shm").glob(f"tenon.*.{name}")]
    expect(not left, f"left in /dev/shm: {left}")


def prefix(at):
    shutil.rmtree(at.prefix, ignore_errors=True)
    run("cmake", "--install", at.build, "--config", at.config, "--prefix", at.prefix)
    expect((at.prefix / "include/tenon/subscriber.hpp").exists(), "subscriber.hpp was not installed")
    leaked = [path for path in at.prefix.rglob("*.cmake") if str(at.source) in path.read_text()]
    expect(not leaked, f"package files that lead back to the source tree: {leaked}")


def examples(at):
    shutil.rmtree(at.examples, ignore_errors=True)
    run("cmake", "-S", at.source / "examples", "-B", at.examples, "-G", "Ninja", f"-DCMAKE_BUILD_TYPE={at.config}",
        f"-DCMAKE_PREFIX_PATH={at.prefix}", f"-DCMAKE_CXX_COMPILER={at.compiler}",
        f"-DCMAKE_CXX_FLAGS={' '.join(WARNINGS)}")
    found = re.search(r"^tenon_DIR:PATH=(.*)$", (at.examples / "CMakeCache.txt").read_text(), re.MULTILINE)
    expect(found and pathlib.Path(found[1]).is_relative_to(at.prefix), f"found another Tenon: {found and found[1]}")
    run("cmake", "--build", at.examples, "-j", "2")


def trainer_engine(at):
    name, last = f"install-test-{os.getpid()}", 5
    engine = subprocess.Popen([at.examples / "engine", name, str(last)], stdout=subprocess.PIPE, text=True)
    try:
        published = run(at.examples / "trainer", name, last, timeout=60)
        seen, _ = engine.communicate(timeout=60)
    finally:
        engine.kill()
    versions = [int(v) for v in re.findall(r"^published version (\d+)$", published, re.MULTILINE)]
    expect(versions == list(range(1, last + 1)), "the trainer's versions", published)
    expect(engine.returncode == 0, f"the engine exited with {engine.returncode}", seen)
    read = [int(v) for v in re.findall(r"^version (\d+): 2 parameters verified$", seen, re.MULTILINE)]
    expect(len(read) == len(seen.splitlines()), "every line says verified", seen)
    expect(read == sorted(set(read)) and read[-1] == last, "versions rise up to the last", seen)
    nothing_left(name)


def update_group(at):
    name, last, port = f"install-test-group-{os.getpid()}", 5, 12000 + os.getpid() % 8000
    trainer = subprocess.Popen([at.examples / "trainer", name, str(last)], stdout=subprocess.PIPE, text=True)
    sender = subprocess.Popen([at.prefix / "bin/tenon", "relay", "send", name, "--listen", f"127.0.0.1:{port}"],
                              stdout=subprocess.PIPE, text=True)
    try:
        seen = run(at.examples / "update_group", "127.0.0.1", port, name, last, timeout=60)
        sender.terminate()
        expect(sender.wait(timeout=30) == 0, "the sender ends with 0", "")
        expect(trainer.wait(timeout=60) == 0, "the trainer ends with 0", "")
    finally:
        sender.kill()
        trainer.kill()
    lines = seen.splitlines()
    expect(lines[0] == f"in group {name} of 2 ranks", "it is in the group", seen)
    read = [re.fullmatch(r"version (\d+): layers.0.weight begins with (\d+)", line).groups() for line in lines[1:]]
    expect(all(version == value for version, value in read), "what it sees are the version's values", seen)
    expect(read[-1][0] == str(last), "it sees the last version", seen)
    nothing_left(name)


def rl_loop(at):
    def rewards(*flags):
        name = f"install-test-rl-{os.getpid()}"
        output = run(at.examples / "rl_loop", name, *flags, timeout=120)
        nothing_left(name)
        first, last = re.search(r"^reward ([\d.]+) -> ([\d.]+) \(", output, re.MULTILINE).groups()
        print(f"reward {first} -> {last} {' '.join(flags)}")
        return float(first), float(last), output

    first, last, output = rewards()
    expect(last > first + 0.4 and last > 0.75, "the reward rises when weights flow", output)
    expect(rewards()[2] == output, "a second run does exactly the same", output)
    first, last, output = rewards("--freeze")
    expect(abs(last - first) < 0.1 and last < 0.3, "the reward stays flat when the weights are frozen", output)


def client(at, compiler):
    if shutil.which(compiler) is None:
        print(f"SKIPPED: no {compiler} here; the client header was NOT compiled with it")
        sys.exit(77)
    program = at.work / f"client-{pathlib.Path(compiler).name}"
    sources = sorted((at.source / "tests/install").glob("client_only*.cpp"))
    expect(len(sources) == 2, f"two sources, found {sources}")
    # -I, not -isystem: warnings inside the header count. Optimised too, as some only show then.
    for flags in (["-std=c++17"], ["-std=c++20", "-O3"]):
        run(compiler, *flags, *WARNINGS, f"-I{at.prefix}/include", *sources, "-pthread", "-o", program)
        run(program, timeout=30)


def client_cuda(at):
    for compiler in filter(shutil.which, ("g++", "clang++")):
        build = at.work / f"client-cuda-{compiler}"
        shutil.rmtree(build, ignore_errors=True)
        run("cmake", "-S", at.source / "tests/install/cuda", "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_PREFIX_PATH={at.prefix}", f"-DCMAKE_CXX_COMPILER={compiler}",
            f"-DCMAKE_CXX_FLAGS={' '.join(WARNINGS)}")
        run("cmake", "--build", build)
        expect(run(build / "client", timeout=30) == "NotFound\n", "the client starts and looks a name up")
        needed = run("objdump", "-p", build / "client")
        expect("libcuda" not in needed, "the driver's library is linked", needed)


def headers_alone(at):
    run("cmake", "--build", at.build, "--config", at.config, "--target", "all_verify_interface_header_sets", "-j", "2")


def host_only(at):
    build = at.work / "host-only"
    shutil.rmtree(build, ignore_errors=True)
    run("cmake", "-S", at.source, "-B", build, "-G", "Ninja", "-DTENON_CUDA=OFF", "-DTENON_NCCL=OFF",
        f"-DCMAKE_CXX_COMPILER={at.compiler}")
    run("cmake", "--build", build, "--target", "tenon", *(["tenon_relay"] if at.relay else []), "-j", "2", timeout=900)


CHECKS = {
    "prefix": prefix,
    "examples": examples,
    "trainer_engine": trainer_engine,
    "rl_loop": rl_loop,
    "update_group": update_group,
    "client_gcc": lambda at: client(at, "g++"),
    "client_clang": lambda at: client(at, "clang++"),
    "client_cuda": client_cuda,
    "headers_alone": headers_alone,
    "host_only": host_only,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=CHECKS)
    for directory in ("source", "build", "work"):
        parser.add_argument(f"--{directory}", type=pathlib.Path, required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--relay", action="store_true")
    parser.add_argument("--config", required=True)
    at = parser.parse_args()
    at.work.mkdir(parents=True, exist_ok=True)
    at.prefix, at.examples = at.work / "prefix", at.work / "examples"
    try:
        CHECKS[at.check](at)
    except (Failed, subprocess.TimeoutExpired) as e:
        sys.exit(f"{at.check}: {e}")


if __name__ == "__main__":
    main()
