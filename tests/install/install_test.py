"""Uses Tenon as somebody who installed it does. One check per run:

    install_test.py CHECK --source DIR --build DIR --work DIR --compiler PATH --config NAME

prefix must run before the others, examples before trainer_engine and rl_loop; CTest sees to that.
Exit status 77: skipped.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
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


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


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
    folders = [path for path in at.prefix.rglob("tenon-client.cmake") if "INTERFACE_INCLUDE_DIRECTORIES" in path.read_text()]
    expect(folders, "CMake 3.22 finds the headers, without file sets")
    expect(not leaked, f"package files that lead back to the source tree: {leaked}")


def examples(at):
    shutil.rmtree(at.examples, ignore_errors=True)
    run("cmake", "-S", at.source / "examples", "-B", at.examples, "-G", "Ninja", f"-DCMAKE_BUILD_TYPE={at.config}",
        f"-DCMAKE_PREFIX_PATH={at.prefix}", f"-DCMAKE_CXX_COMPILER={at.compiler}",
        f"-DCMAKE_CXX_FLAGS={' '.join(WARNINGS)}")
    found = re.search(r"^tenon_DIR:PATH=(.*)$", (at.examples / "CMakeCache.txt").read_text(), re.MULTILINE)
    expect(found and pathlib.Path(found[1]).is_relative_to(at.prefix), f"found another Tenon: {found and found[1]}")
    run("cmake", "--build", at.examples, "-j", "2")


def hand_over(trainer, engine):
    """Five versions, from one of these programs to the other."""
    name, last = f"install-test-{os.getpid()}", 5
    engine = subprocess.Popen([engine, name, str(last)], stdout=subprocess.PIPE, text=True)
    try:
        published = run(trainer, name, last, timeout=60)
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
        skip(f"no {compiler} here; the client header was NOT compiled with it")
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


def components(at):
    """Where none of the optional packages is: the client is found all the same, the rest says what it is short of."""
    absent = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{package}=ON" for package in ("CUDAToolkit", "Gloo", "OpenSSL")]
    build, cuda = at.work / "components", (at.prefix / "include/tenon/cuda.hpp").exists()

    def configure(asked, *more):
        """What configuring says, without line breaks; whether it succeeds."""
        shutil.rmtree(build, ignore_errors=True)
        command = ["cmake", "-S", at.source / "tests/install/client", "-B", build, "-G", "Ninja", f"-DCOMPONENTS={asked}",
                   f"-DCMAKE_PREFIX_PATH={at.prefix}", f"-DCMAKE_CXX_COMPILER={at.compiler}", *more]
        print("+", *command, flush=True)
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
        return " ".join((done.stdout + done.stderr).split()), done.returncode == 0

    def targets(said):
        return re.findall(r"has tenon::(\w+)", said)

    said, found = configure("", *absent)
    expect(found and targets(said)[0] == "client", "the client is found by a bare find_package()", said)
    lacking = ({"cuda": "CUDAToolkit 13.0", "tenon": "CUDAToolkit 13.0"} if cuda else {}) | ({"relay": "Gloo"} if at.relay else {})
    for name, package in lacking.items():
        if name == "tenon" and name in targets(said):
            continue  # a shared library brings it
        expect(name not in targets(said), f"tenon::{name} is there, {package} is not", said)
        expect(re.search(rf"tenon::{name} needs [^;]*{package}", said), f"it tells why there is no tenon::{name}", said)
        asked, found = configure(name, *absent)
        expect(not found, f"tenon::{name} is found without {package}", asked)
        expect(re.search(rf"tenon::{name} needs [^;]*{package}", asked), f"it tells what tenon::{name} needs", asked)
    said, found = configure("client;wheel")
    expect(not found and "built without tenon::wheel" in said, "a component that there is not", said)
    if at.relay:
        said, found = configure("relay")
        expect(found and targets(said) == ["client", "tenon", "relay"], "what is asked for, what it needs, no more", said)
    said, found = configure("client", *absent)
    expect(found and targets(said) == ["client"], "the client alone", said)
    run("cmake", "--build", build)
    run(build / "client", timeout=30)


def pkg_config(at):
    """In a prefix that was moved, as an unpacked tarball is. Both without --static and with it."""
    if shutil.which("pkg-config") is None:
        skip("no pkg-config here; the .pc files were NOT used")
    moved = at.work / "moved prefix"
    shutil.rmtree(moved, ignore_errors=True)
    shutil.copytree(at.prefix, moved, symlinks=True)
    found = {path.stem: path for path in moved.rglob("*.pc")}
    folders = {path.parent for path in found.values()}
    expect(len(folders) == 1, f"one folder of .pc files: {found}")
    os.environ["PKG_CONFIG_PATH"] = str(folders.pop())
    leaks = [path for path in found.values() if str(at.prefix) in path.read_text()]
    expect(not leaks, f"they lead back to where they were first installed: {leaks}")

    uses = [("tenon-client", "-std=c++17", sorted((at.source / "tests/install").glob("client_only*.cpp"))),
            ("tenon", "-std=c++20", [at.source / "examples/trainer.cpp"])]
    if at.relay:
        uses.append(("tenon-relay", "-std=c++20", [at.source / "examples/update_group.cpp"]))
    if (at.prefix / "include/tenon/cuda.hpp").exists():
        uses.append(("tenon-cuda", "-std=c++17", sorted((at.source / "tests/install/cuda").glob("*.cpp"))))
    expect(sorted(found) == sorted(name for name, _, _ in uses), f"a .pc file for each: {sorted(found)}")
    version = re.search(r"^project\(tenon VERSION (\S+)", (at.source / "CMakeLists.txt").read_text(), re.MULTILINE)[1]
    for module, standard, sources in uses:
        run("pkg-config", "--validate", module)
        expect(run("pkg-config", "--modversion", module).strip() == version, f"{module}'s version")
        for more in ([], ["--static"]):
            flags = shlex.split(run("pkg-config", *more, "--cflags", "--libs", module))
            own = [pathlib.Path(flag[2:]).resolve() for flag in flags if flag.startswith("-I")]
            expect((moved / "include").resolve() in own, f"{module} is found where it was moved to", flags)
            program = at.work / f"pc-{module}"
            run(at.compiler, standard, *WARNINGS, *sources, *flags, "-o", program)
    run(at.work / "pc-tenon-client", timeout=30)
    hand_over(at.work / "pc-tenon", at.examples / "engine")


def subproject_by(at, name, *options):
    """Tenon's sources in another project: that gets its targets, and no more."""
    build, installed = at.work / name, at.work / f"{name}-prefix"
    for folder in (build, installed):
        shutil.rmtree(folder, ignore_errors=True)
    launchers = [f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("CXX", "CUDA") if shutil.which("ccache")]
    run("cmake", "-S", at.source / "tests/install/subproject", "-B", build, "-G", "Ninja", f"-DTENON_SOURCE={at.source}",
        f"-DCMAKE_CXX_COMPILER={at.compiler}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *launchers, *options)
    run("cmake", "--build", build, "-j", "2", timeout=600)
    shown = run("cmake", "-LA", "-N", build)
    variables = re.findall(r"^(\w+):(?!STATIC|INTERNAL)", shown, re.MULTILINE)
    known = r"TENON_|CMAKE_|FETCHCONTENT_|ADD$|[A-Za-z_0-9]+_DIR$|(OPENSSL|Boost|pkgcfg|PKG_CONFIG|CUDA|CUDAToolkit)_"
    strange = [variable for variable in variables if not re.match(known, variable)]
    expect(not strange, f"options that the parent gets: {strange}", shown)
    expect("\nCMAKE_BUILD_TYPE:STRING=\n" in shown, "the parent's build type stays its own", shown)
    expect("Total Tests: 0" in run("ctest", "-N", "--test-dir", build), "the parent gets no tests")
    built = {path.name for path in build.rglob("*") if path.is_file() and os.access(path, os.X_OK)}
    programs = {name for name in built if re.search(r"tenon|test|bench|demo|_engine|_trainer", name)}
    with_cuda = {"parent_cuda_engine"} if "-DTENON_CUDA=ON" in options else set()
    expect(programs == {"parent_engine", "parent_trainer"} | with_cuda, f"programs that were built: {programs}")
    of_parent = [c["command"] for c in json.loads((build / "compile_commands.json").read_text())
                 if "/examples/" in c["file"]]
    expect(len(of_parent) == 2 and not any(" -W" in command for command in of_parent),
           "no flags of Tenon's own for the parent", of_parent)
    run("cmake", "--install", build, "--prefix", installed)
    files = sorted(str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file())
    expect(files == ["bin/parent_engine"], f"the parent installs its own: {files}")
    hand_over(build / "parent_trainer", build / "parent_engine")
    if with_cuda:
        expect(run(build / "parent_cuda_engine", timeout=30) == "NotFound\n", "a client of GPU memory starts")


def subproject(at):
    for add in ("OFF", "ON"):
        subproject_by(at, f"subproject-{add}", f"-DADD={add}", "-DTENON_CUDA=OFF")


def subproject_cuda(at):
    """By FetchContent; for one architecture and without the relay, which add nothing here but minutes."""
    subproject_by(at, "subproject-cuda", "-DTENON_CUDA=ON", "-DTENON_CUDA_ARCHITECTURES=90-real", "-DTENON_RELAY=OFF")


def cpack(at, generator, pattern):
    """The packages of the build; what CPack wrote, by name."""
    folder = at.work / f"packages-{generator}"
    shutil.rmtree(folder, ignore_errors=True)
    run("cpack", "--config", at.build / "CPackConfig.cmake", "-G", generator, "-C", at.config, "-B", folder)
    return {path.name: path for path in folder.glob(pattern)}


def tarball(at):
    """Unpacked anywhere, it is a prefix."""
    made = cpack(at, "TGZ", "*.tar.gz")
    expect(len(made) == 1, f"one tarball: {list(made)}")
    unpacked = at.work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    run("tar", "-xzf", *made.values(), "-C", unpacked)
    expect(len(list(unpacked.iterdir())) == 1, "it unpacks into a folder of its own")
    root = next(unpacked.iterdir())
    expect(run(root / "bin/tenon", "--version").startswith("tenon "), "the command runs")
    for file in ("man/man1/tenon.1", "bash-completion/completions/tenon", "zsh/site-functions/_tenon",
                 "zsh/vendor-completions/_tenon", "doc/tenon/docs/errors.md", "doc/libtenon-dev/examples/engine.cpp"):
        expect((root / "share" / file).stat().st_size > 1000, f"{file} is there")
    build = at.work / "tarball-client"
    shutil.rmtree(build, ignore_errors=True)
    run("cmake", "-S", at.source / "tests/install/client", "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={root}",
        f"-DCMAKE_CXX_COMPILER={at.compiler}")
    found = re.search(r"^tenon_DIR:PATH=(.*)$", (build / "CMakeCache.txt").read_text(), re.MULTILINE)
    expect(found and pathlib.Path(found[1]).is_relative_to(root), f"found another Tenon: {found and found[1]}")
    run("cmake", "--build", build)
    run(build / "client", timeout=30)


def deb(at):
    """Installed in a root that is this one's copy, used there, and removed without a trace."""
    def cannot(why):
        expect(os.environ.get("TENON_REQUIRE_NAMESPACES") != "1", why)
        skip(f"{why}: the Debian packages were NOT installed")

    missing = [tool for tool in ("dpkg", "dpkg-shlibdeps", "pkg-config", "unshare") if not shutil.which(tool)]
    if missing:
        cannot(f"no {', '.join(missing)} here")
    made = cpack(at, "DEB", "*.deb")
    packages = {name.split("_")[0]: path for name, path in made.items()}
    expect(sorted(packages) == ["libtenon-dev", "tenon"], f"two packages: {list(made)}")
    depends = {name: run("dpkg-deb", "-f", path, "Depends") for name, path in packages.items()}
    wanted = {"tenon": ["libc6", "libfmt"] + (["libgloo0", "libssl3"] if at.relay else []),
              "libtenon-dev": ["libboost-dev"] + (["libgloo-dev", "libssl-dev"] if at.relay else [])}
    for name, needs in wanted.items():
        for need in needs:
            expect(need in depends[name], f"{name} depends on {need}", depends[name])

    chosen = re.search(r"^TENON_PACKAGE_MAINTAINER:STRING=(.*)$", (at.build / "CMakeCache.txt").read_text(), re.MULTILINE)[1]
    maintainers = {run("dpkg-deb", "-f", path, "Maintainer").strip() for path in packages.values()}
    expect(maintainers == {chosen}, f"the maintainer is who was chosen, {chosen}: {maintainers}")

    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "true"], capture_output=True, text=True)
    if done.returncode != 0:
        cannot(f"namespaces are not to be had here ({done.stderr.strip()})")
    log = run("unshare", "--mount", "--pid", "--fork", "--kill-child", at.source / "tests/install/clean_root.sh",
              at.source / "tests/install", *packages.values())
    print(log)
    inside, left = log.split("changed:\n")
    expect(re.search(r"^tenon \d+\.\d+\.\d+$", inside, re.MULTILINE), "the command runs", log)
    expect(re.search(r"^NAME +STATE +VERSION", inside, re.MULTILINE), "tenon ls lists", log)
    expect("the client found nothing, as it should" in inside, "a client compiles and runs", log)
    seen = len(re.findall(r"(?m)^installed: /usr/(?:bin/tenon|include/tenon/subscriber.hpp)$", inside))
    expect(seen == 2, "they are where they should be", log)
    of_dpkg = ("/var/lib/dpkg/", "/var/log/", "/var/cache/", "/tmp/")
    new = [path for path in left.splitlines() if not os.path.lexists(path) and not path.startswith(of_dpkg)]
    expect(not new, f"left behind by removal: {new}")


def headers_alone(at):
    run("cmake", "--build", at.build, "--config", at.config, "--target", "all_verify_interface_header_sets", "-j", "2")


CHECKS = {
    "prefix": prefix,
    "examples": examples,
    "trainer_engine": lambda at: hand_over(at.examples / "trainer", at.examples / "engine"),
    "rl_loop": rl_loop,
    "update_group": update_group,
    "client_gcc": lambda at: client(at, "g++"),
    "client_clang": lambda at: client(at, "clang++"),
    "client_cuda": client_cuda,
    "components": components,
    "pkg_config": pkg_config,
    "subproject": subproject,
    "subproject_cuda": subproject_cuda,
    "tarball": tarball,
    "deb": deb,
    "headers_alone": headers_alone,
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
