"""tenon doctor: what it finds here and on simulated GPUs, in words and as JSON, by the exit codes it promises."""

import contextlib
import ctypes
import json
import os
import pathlib
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import unittest

from support import KIND, TENON, UID, Case, PrivateShm, environment, pattern, run, segment_path, unique_name

SMALL = [("a", "F32", [2, 2], pattern(16))]
STATUSES = {"ok", "warn", "fail", "not checked"}
SIM = KIND == "cuda"
WITH_CUDA = os.environ.get("TENON_WITH_CUDA") == "1"
DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "doctor.md"
MAGIC = 0x01004E4F4E45541D


def no_pidfd_getfd():
    """As containers have it by default: from here on this process's pidfd_getfd is EPERM. For children to be."""
    load, equal, answer, number, eperm, allow = 0x20, 0x15, 0x06, 438, 0x00050001, 0x7FFF0000
    steps = ((load, 0, 0, 0), (equal, 0, 1, number), (answer, 0, 0, eperm), (answer, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((38, 1, 0, 0, 0), (22, 2, program)):  # no new privileges; a filter of seccomp
        if prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


class DoctorCase(Case):
    def doctor(self, *arguments, expect=None, **more):
        """What it finds, by name. `expect`: its exit code; by default what its own findings ask for."""
        line = [TENON, "doctor", *arguments, "--json"]
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(line, text=True, **piped, **more) as done:
            output, errors = done.communicate(timeout=120)
        what = f"{output}\n{errors}"
        self.assertIn(done.returncode, (0, 1), what)
        checks = json.loads(output)["checks"]
        found = {check["name"]: check for check in checks}
        self.assertEqual(len(found), len(checks), "two of one name")
        for check in checks:
            self.assertEqual(set(check), {"name", "status", "detail", "advice"})
            self.assertIn(check["status"], STATUSES)
            self.assertTrue(check["detail"])
            if check["status"] != "not checked":
                self.assertEqual(bool(check["advice"]), check["status"] in ("warn", "fail"), check)
            if check["advice"]:
                self.assertTrue(check["advice"].endswith(f" [docs/doctor.md#{check['name']}]"), check)
        failed = any(check["status"] == "fail" for check in checks)
        self.assertEqual(done.returncode, int(failed) if expect is None else expect, what)
        self.assertFalse(os.path.exists(f"/dev/shm/tenon-doctor.{UID}.{done.pid}"))
        return found

    def assert_found(self, found, name, status, says):
        check = found[name]
        self.assertEqual(check["status"], status, check)
        self.assertIn(says, check["detail"] + "\n" + check["advice"])


class Host(DoctorCase):
    def test_two_processes_share_wake_and_lock(self):
        found = self.doctor()
        for name in ("shm-sharing", "file-locks", "futex"):
            self.assertEqual(found[name]["status"], "ok", found[name])

    def test_a_full_shm_fails(self):
        with PrivateShm(1):
            with open("/dev/shm/full", "wb") as file, self.assertRaises(OSError):
                while True:
                    file.write(bytes(65536))
                    file.flush()
            found = self.doctor(expect=1)
            self.assert_found(found, "shm-size", "fail", "tenon gc")
            self.assert_found(found, "file-locks", "not checked", "No space left")

    def test_a_small_shm_is_a_warning(self):
        with PrivateShm(64):
            self.assert_found(self.doctor(), "shm-size", "warn", "--shm-size")

    def test_leftovers_are_counted(self):
        with PrivateShm(64):
            self.assert_found(self.doctor(), "stale", "ok", "no leftovers")
            with open(f"/dev/shm/tenon-slot.{UID}.{'0' * 32}.0", "wb") as slot:
                slot.write(bytes(4096))
            self.assert_found(self.doctor(), "stale", "warn", "tenon gc")

    def test_no_file_is_left_by_who_interrupts_it(self):
        """Stopped while its file is there; what it starts meanwhile goes with it."""
        for _ in range(200):
            doctor = self.start("doctor")
            file = f"/dev/shm/tenon-doctor.{UID}.{doctor.pid}"
            while not os.path.exists(file) and doctor.process.poll() is None:
                pass
            doctor.send(signal.SIGSTOP)
            caught = os.path.exists(file)
            if caught:
                doctor.send(signal.SIGINT)
            doctor.send(signal.SIGCONT)
            code = doctor.wait()
            self.assertFalse(os.path.exists(file))
            if caught:
                self.assertEqual(code, 130)
                return
        self.fail("it was never caught")

    def sharer_of(self, pid):
        """The other process that tries /dev/shm, once it is that."""
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as children:
                for other in children.read().split():
                    with open(f"/proc/{other}/cmdline", "rb") as line:
                        if b"sharer" in line.read():
                            return int(other)
        except OSError:  # one that has ended meanwhile
            pass
        return None

    def test_it_can_be_interrupted_while_another_process_hangs(self):
        if not os.path.exists("/proc/thread-self/children"):
            self.skipTest("this kernel does not list children")
        caught = 0
        for _ in range(200):
            doctor = self.start("doctor", "--timeout", "10m")
            other = None
            while not other and doctor.process.poll() is None:
                other = self.sharer_of(doctor.pid)
            if other:
                with contextlib.suppress(ProcessLookupError):  # it may have ended
                    os.kill(other, signal.SIGSTOP)
                doctor.send(signal.SIGINT)
                caught += doctor.wait() == 130  # else it was over already
            self.assertFalse(os.path.exists(f"/dev/shm/tenon-doctor.{UID}.{doctor.pid}"))
            if caught == 5:
                return
        self.fail("it was hardly ever caught")

    def test_processes_that_cannot_be_started(self):
        """For want of descriptors. A build without CUDA starts none for it."""
        few = 7  # 3, 2 of its own, and 2 of the 4 that another process takes
        found = self.doctor(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, few)))
        self.assert_found(found, "shm-sharing", "not checked", "two processes could not try: ")
        if WITH_CUDA:
            self.assert_found(found, "driver", "warn", "the process that asks CUDA was not started: making a pipe")
            self.assert_found(found, "driver", "warn", "ulimit -n")
        else:
            self.assert_found(found, "driver", "not checked", "built without the CUDA toolkit")

    def test_whether_descriptors_can_be_taken(self):
        """PyTorch takes them of another process for expandable segments; Tenon takes none."""
        expandable = environment(PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True")
        asks = "import ctypes, os; a = os.pidfd_open(os.getppid()); exit(ctypes.CDLL(None).syscall(438, a, 2, 0) < 0)"
        refused = subprocess.run([sys.executable, "-c", asks], timeout=60).returncode != 0
        found = self.doctor(env=expandable)
        self.assert_found(found, "ptrace", "warn" if refused else "ok", "pidfd_getfd" if refused else "pidfd_getfd works")
        found = self.doctor(preexec_fn=no_pidfd_getfd)
        self.assert_found(found, "ptrace", "ok", "pidfd_getfd is refused; Tenon needs no ptrace")
        self.assertEqual(found["shm-sharing"]["status"], "ok", found["shm-sharing"])
        found = self.doctor(preexec_fn=no_pidfd_getfd, env=expandable)
        self.assert_found(found, "ptrace", "warn", "pidfd_getfd: Operation not permitted")

    def test_in_a_user_namespace(self):
        inside = ["unshare", "--user", "--map-root-user"]
        if subprocess.run([*inside, "true"], capture_output=True, timeout=60).returncode != 0:
            self.skipTest("user namespaces are not to be had here")
        done = run("doctor", "--json", inside=inside)
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        self.assert_found(found, "user-namespace", "warn", f"where uid 0 is {UID} outside")

    def test_what_the_environment_says(self):
        found = self.doctor(env=environment(PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True", CUDA_LAUNCH_BLOCKING="1"))
        self.assert_found(found, "allocator", "warn", "expandable_segments")
        self.assert_found(found, "launch-blocking", "warn", "CUDA_LAUNCH_BLOCKING")


class Printed(DoctorCase):
    def test_lines_fit_80_columns_without_colour(self):
        text = subprocess.run([TENON, "doctor"], capture_output=True, text=True, timeout=120).stdout
        lines = text.splitlines()
        words = [len(max(re.findall(r"\S+", line), key=len)) for line in lines if line.strip()]
        for line, longest in zip([line for line in lines if line.strip()], words):
            self.assertLessEqual(len(line), max(80, 31 + longest), line)
        self.assertNotIn("\033", text)
        names = [line.split("  ")[0] for line in lines]
        self.assertEqual(len([n for n in names if n in STATUSES]), len(self.doctor()))
        self.assertRegex(lines[-1], r"^\d+ ok, \d+ warn, \d+ fail, \d+ not checked; docs/doctor.md")

    def test_advice_ends_with_where_the_document_says_why(self):
        """The anchor stands behind each finding's advice alone, and the document has it."""
        anchors = set(re.findall(r'<a id="([\w-]+)"></a>', DOCUMENT.read_text()))
        name = unique_name()  # nobody publishes it: there is advice for one check at least
        done = subprocess.run([TENON, "doctor", name], capture_output=True, text=True, timeout=120)
        advised = [check for check in self.doctor(name, expect=1).values() if check["advice"]]
        self.assertIn("publication", [check["name"] for check in advised])
        led_to = re.findall(r"\[docs/doctor\.md#([\w-]+)\]$", done.stdout, re.MULTILINE)
        self.assertEqual(led_to, [check["name"] for check in advised])
        self.assertLessEqual(set(led_to), anchors)

    def on_a_terminal(self, **variables):
        master, slave = pty.openpty()
        try:
            process = subprocess.Popen([TENON, "doctor"], stdout=slave, env=environment(TERM="xterm", **variables))
            os.close(slave)
            text = b""
            while True:
                try:
                    more = os.read(master, 65536)
                except OSError:  # all is read, and nobody writes any more
                    break
                if not more:
                    break
                text += more
            process.wait(60)
            return text
        finally:
            os.close(master)

    def test_terminals_get_colour_unless_they_do_not_want_it(self):
        self.assertIn(b"\033[32mok", self.on_a_terminal())
        self.assertNotIn(b"\033", self.on_a_terminal(NO_COLOR="1"))

    def test_the_document_has_a_row_for_each_check(self):
        rows = re.findall(r'^\| <a id="([\w-]+)"></a>`([\w-]+)` \| ([^|]+) \| ([^|]+) \|$', DOCUMENT.read_text(), re.MULTILINE)
        for anchor, name, _, _ in rows:
            self.assertEqual(anchor, name)
        self.assertEqual([name for _, name, _, _ in rows], list(self.doctor("nobody-publishes-this", expect=1)))


class Publications(DoctorCase):
    def test_one_that_is_ready(self):
        name = unique_name()
        self.serve(self.file(SMALL), name)
        self.assert_found(self.doctor(name), "publication", "ok", "can be attached to")
        self.assertEqual(self.json_of("inspect", name)["subscribers"], [])

    def test_absent(self):
        self.assert_found(self.doctor(unique_name(), expect=1), "publication", "fail", "absent")

    def test_stale(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name)
        serve.process.kill()
        serve.wait()
        self.assert_found(self.doctor(name, expect=1), "publication", "fail", "stale")

    def test_of_another_version(self):
        name = self.segment(struct.pack("<QII", MAGIC, 99, 0) + bytes(8192))
        self.assert_found(self.doctor(name, expect=1), "publication", "fail", "format 99.0")

    def test_of_another_minor_version(self):
        name = unique_name()
        self.serve(self.file(SMALL), name)
        with open(segment_path(name), "r+b") as file:
            major, minor = struct.unpack_from("<II", file.read(16), 8)
            for other, says in ((minor + 1, "newer"), (0, "older")):
                file.seek(12)
                file.write(struct.pack("<I", other))
                file.flush()
                found = self.doctor(name)
                self.assert_found(found, "publication", "warn", f"format {major}.{other}, this tenon has {major}.{minor}")
                self.assert_found(found, "publication", "warn", f"the publisher's Tenon is {says}")

    def test_damaged(self):
        name = self.segment(pattern(8192))
        self.assert_found(self.doctor(name, expect=1), "publication", "fail", "magic")

    def test_not_yours(self):
        name = unique_name()
        os.symlink(self.file(SMALL), segment_path(name))
        self.addCleanup(os.unlink, segment_path(name))
        self.assert_found(self.doctor(name, expect=1), "publication", "fail", "not-yours")

    def test_a_bad_name_is_2(self):
        self.run_tenon("doctor", "a/b", expect=2)


@unittest.skipIf(SIM, "of the real runtime")
class WithoutDriver(DoctorCase):
    def test_no_gpu_is_no_failure(self):
        found = self.doctor(env=environment(CUDA_VISIBLE_DEVICES=""))
        for name in ("compute-mode", "mig", "mps", "ipc-memory", "ipc-events", "peers", "gpu-memory"):
            self.assertEqual(found[name]["status"], "not checked", found[name])


@unittest.skipUnless(SIM, "takes the simulated CUDA runtime")
class Gpus(DoctorCase):
    def on(self, expect=None, arguments=(), **variables):
        return self.doctor(*arguments, expect=expect, env=environment(**variables))

    def test_a_sound_machine(self):
        found = self.on()
        for name in ("runtime", "gpus", "visible-devices", "compute-mode", "mps", "ipc-memory", "ipc-events", "peers", "gpu-memory"):
            self.assertEqual(found[name]["status"], "ok", found[name])
        self.assert_found(found, "gpus", "ok", "2 x Tenon simulated GPU")
        self.assertEqual(self.node.violations(), 0)

    def test_no_driver(self):
        found = self.on(TENON_SIM_DRIVER="0")
        for name in ("runtime", "gpus", "ipc-memory"):
            self.assertEqual(found[name]["status"], "not checked", found[name])

    def test_an_old_driver(self):
        self.assert_found(self.on(expect=1, TENON_SIM_DRIVER="12040"), "runtime", "fail", "CUDA 12.4")

    def test_a_libcuda_of_another_release_than_the_kernels_driver(self):
        found = self.on(expect=1, TENON_SIM_FAIL="cudaGetDeviceCount:0:803")
        self.assert_found(found, "gpus", "fail", "cudaErrorSystemDriverMismatch")
        self.assert_found(found, "gpus", "fail", "of different releases")

    def test_compute_modes(self):
        for mode in ("exclusive", "prohibited"):
            found = self.on(expect=1, TENON_SIM_COMPUTE_MODE=mode)
            self.assert_found(found, "compute-mode", "fail", "GPUs 0, 1")
            self.assert_found(found, "ipc-memory", "fail", "cudaErrorDevicesUnavailable")

    def test_mig_and_mps(self):
        found = self.on(TENON_SIM_DEVICE_NAME="NVIDIA A100 MIG 1g.5gb", TENON_SIM_ATTRIBUTES="133:1")
        self.assert_found(found, "mig", "warn", "GPU instance")
        self.assert_found(found, "mps", "warn", "GPUs 0, 1")

    def test_mig_is_asked_of_nvml(self):
        library = os.environ["TENON_TEST_NVML"]
        for mode, status in (("1", "warn"), ("0", "ok"), ("unsupported", "ok"), ("broken", "not checked")):
            with self.subTest(mode=mode):
                self.assertEqual(self.on(TENON_NVML_LIBRARY=library, TENON_TEST_MIG=mode)["mig"]["status"], status)
        self.assertEqual(self.on(TENON_NVML_LIBRARY="/nowhere/libnvidia-ml.so")["mig"]["status"], "not checked")

    def test_peers(self):
        self.assert_found(self.on(TENON_SIM_NO_PEER="1"), "peers", "warn", "0-1, 1-0")
        self.assert_found(self.on(TENON_SIM_DEVICES="1"), "peers", "ok", "one GPU")

    def test_memory_of_another_gpu(self):
        """Opened by the importer after both GPUs' own: of 1 from 0, then of 0 from 1."""
        for call, says in ((3, "GPU 1 from GPU 0: cudaIpcOpenMemHandle: cudaErrorTooManyPeers"), (4, "GPU 0 from GPU 1: cudaIpcOpenMemHandle: ")):
            found = self.on(expect=1, TENON_SIM_FAIL=f"cudaIpcOpenMemHandle:{call}:711")
            self.assert_found(found, "peers", "fail", says)
            self.assert_found(found, "peers", "fail", "with it current")
            self.assert_found(found, "ipc-memory", "ok", "")
        found = self.on(TENON_SIM_DEVICES="3", TENON_SIM_NO_PEER="0-2", TENON_SIM_FAIL="cudaIpcOpenMemHandle:8:711")
        self.assert_found(found, "peers", "warn", "0-2, 2-0")  # 3 of their own and 4 others: there is no eighth

    def test_visible_devices(self):
        found = self.on(CUDA_VISIBLE_DEVICES="")
        self.assert_found(found, "visible-devices", "warn", "shows 0")
        self.assert_found(found, "gpus", "warn", "visible-devices")
        self.assert_found(self.on(CUDA_VISIBLE_DEVICES="1,7,0"), "visible-devices", "warn", "shows 1 of 3")
        self.assert_found(self.on(CUDA_VISIBLE_DEVICES="1"), "visible-devices", "ok", "'1' shows 1")

    def test_memory_that_does_not_open(self):
        for call, error, says in (
            ("cudaIpcOpenMemHandle", 205, "cudaErrorMapBufferObjectFailed"),
            ("cudaIpcGetMemHandle", 801, "cudaErrorNotSupported"),
            ("cudaMemcpy", 719, "cudaErrorLaunchFailure"),
        ):
            with self.subTest(call=call):
                found = self.on(expect=1, TENON_SIM_FAIL=f"{call}:0:{error}")
                self.assert_found(found, "ipc-memory", "fail", says)
                self.assert_found(found, "ipc-events", "ok", "saw one pass")

    def test_events_that_do_not_open(self):
        for call in ("cudaIpcOpenEventHandle", "cudaIpcGetEventHandle", "cudaEventQuery"):
            with self.subTest(call=call):
                found = self.on(TENON_SIM_FAIL=f"{call}:0:400")
                self.assert_found(found, "ipc-events", "warn", "cudaErrorInvalidResourceHandle")
                self.assert_found(found, "ipc-memory", "ok", "")
        self.assert_found(self.on(TENON_SIM_ATTRIBUTES="125:0"), "ipc-events", "warn", "not supported")

    def test_a_full_gpu(self):
        self.assert_found(self.on(TENON_SIM_MEMORY="300000000"), "gpu-memory", "warn", "300 MB free")

    def test_a_driver_that_hangs_or_crashes_is_a_line(self):
        begin = time.monotonic()
        found = self.on(expect=1, arguments=("--timeout", "5s"), TENON_SIM_DELAY_US="1000000000000")
        self.assertLess(time.monotonic() - begin, 60)  # of some days
        self.assert_found(found, "ipc-memory", "fail", "the exporter did not answer within 5 s")
        self.assert_found(found, "driver", "ok", "CUDA")
        found = self.on(expect=1, TENON_SIM_DEVICES="99")  # the simulator refuses by abort()
        self.assert_found(found, "driver", "fail", "the process that asks CUDA was ended by signal 6")
        self.assert_found(found, "driver", "fail", "LD_LIBRARY_PATH")

    def test_a_publication_on_a_device_that_is_hidden(self):
        name = unique_name()
        self.serve(self.file(SMALL), name, "--memory", "cuda:1")
        self.assert_found(self.doctor(name), "publication", "ok", "can be attached to")
        found = self.on(expect=1, arguments=(name,), CUDA_VISIBLE_DEVICES="0")
        self.assert_found(found, "publication", "fail", "which is not seen here")

    def test_nccl(self):
        found = self.on(expect=1, TENON_NCCL_LIBRARY="/nowhere/libnccl.so.2")
        if found["nccl"]["status"] == "not checked":
            self.skipTest("built without NCCL's header")
        self.assert_found(found, "nccl", "fail", "TENON_NCCL_LIBRARY")

    def test_what_is_set_for_nccl(self):
        found = self.on(expect=1, NCCL_SOCKET_IFNAME="nosuch0")
        self.assert_found(found, "nccl-environment", "fail", "NCCL_SOCKET_IFNAME='nosuch0' leaves none")
        self.assert_found(self.on(NCCL_CUMEM_ENABLE="0"), "nccl-environment", "warn", "NCCL_CUMEM_ENABLE=0")
        self.assert_found(self.on(expect=1, NCCL_COMM_BLOCKING="1"), "nccl-environment", "fail", "NCCL_COMM_BLOCKING=1")
        up = self.on()["interfaces"]
        if up["status"] == "ok":
            first = up["detail"].split(", ")[0]
            self.assert_found(self.on(NCCL_SOCKET_IFNAME=f"={first}"), "nccl-environment", "ok", "nothing set")
