"""What is particular about GPU memory: which device, who can read it, what is missing where there is none."""

import os
import resource

from support import Case, environment, every_dtype, large, pattern, read_safetensors, unique_name

SMALL = [("a", "F32", [2, 2], pattern(16)), ("b", "U8", [3], b"abc")]
STREAMING = ["--mode", "streaming", "--bucket-size", "2KiB"]
REAL = os.environ.get("TENON_REAL_BIN", "tenon")
NO_DRIVER = {"TENON_SIM_DRIVER": "0"}


class Devices(Case):
    def device_of(self, name):
        seen = self.json_of("inspect", name)
        self.assertEqual(seen["memory"], "cuda")
        self.assertRegex(seen["device"], r"^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        return seen["device"]

    def test_each_number_is_a_device_of_its_own(self):
        devices = []
        for memory in ("cuda", "cuda:0", "cuda:1"):
            name = unique_name()
            self.serve(self.file(SMALL), name, "--memory", memory)
            devices.append(self.device_of(name))
            self.assertIn("differing=0", self.run_tenon("verify", name, self.file(SMALL)).stdout)
            self.assertIn(devices[-1], self.run_tenon("inspect", name).stdout)
            listed = [p for p in self.json_of("ls") if p["name"] == name]
            self.assertEqual([(p["memory"], p["device"]) for p in listed], [("cuda", devices[-1])])
        self.assertEqual(devices[0], devices[1])
        self.assertNotEqual(devices[1], devices[2])

    def test_host_publications_have_no_device(self):
        name = unique_name()
        self.serve(self.file(SMALL), name, "--memory", "host")
        self.assertNotIn("device", self.json_of("inspect", name))
        self.run_tenon("verify", name, self.file(SMALL), env=environment(**NO_DRIVER))

    def test_without_peer_access_readers_still_find_the_device(self):
        file = self.file(every_dtype())
        for more in ([], STREAMING):
            with self.subTest(arguments=more):
                name = unique_name()
                alone = environment(TENON_SIM_NO_PEER="1")
                serve = self.start("serve", file, "--name", name, "--memory", "cuda:1", *more, env=alone)
                done = self.run_tenon("verify", name, file, "--timeout", "50s", env=alone)
                self.assertIn("differing=0", done.stdout)
                self.assertEqual(serve.stop(), 0)
        # The device has another number where it is the only one that is seen.
        name = unique_name()
        self.serve(file, name, "--memory", "cuda:1", env=environment(TENON_SIM_NO_PEER="1"))
        only = environment(TENON_SIM_NO_PEER="1", CUDA_VISIBLE_DEVICES=self.device_of(name))
        self.run_tenon("verify", name, file, env=only)

    def test_a_device_that_does_not_exist_is_1(self):
        name = unique_name()
        for arguments in (["serve", self.file(SMALL), "--name", name], ["demo"]):
            done = self.run_tenon(*arguments, "--memory", "cuda:7", expect=1)
            self.assertIn("no device 7: 2 can be seen", done.stderr)
            self.assertIn("--memory host", done.stderr)
        self.assert_nothing_left(name)


class Missing(Case):
    def test_publishing_without_a_gpu_is_1_and_names_host_memory(self):
        name = unique_name()
        for missing, says in ((NO_DRIVER, "there is no NVIDIA driver"),
                              ({"CUDA_VISIBLE_DEVICES": ""}, "no GPU can be used here"),
                              ({"TENON_SIM_DEVICES": "0"}, "no GPU can be used here")):  # fmt: skip
            for arguments in (["serve", self.file(SMALL), "--name", name], ["demo"]):
                with self.subTest(missing=missing, command=arguments[0]):
                    done = self.run_tenon(*arguments, env=environment(**missing), expect=1)
                    self.assertIn(says, done.stderr)
                    self.assertIn("--memory host", done.stderr)
        self.assert_nothing_left(name)

    def test_reading_without_a_gpu_is_1_and_says_where_the_publication_is(self):
        for more in ([], ["--subscribers", "2", *STREAMING]):
            name = unique_name()
            serve = self.start("serve", self.file(every_dtype()), "--name", name, *more)
            serve.wait_for_stderr("still waiting") if more else serve.line()
            device = self.json_of("inspect", name)["device"]
            out = self.path("o")
            reading = (["get", name, "scalar"], ["verify", name, self.file(every_dtype())], ["dump", name, out])
            for arguments in reading:
                with self.subTest(arguments=arguments):
                    done = self.run_tenon(*arguments, env=environment(**NO_DRIVER), expect=1)
                    self.assertIn(f"'{name}' is in GPU memory, on {device}: no GPU", done.stderr)
            self.assertFalse(os.path.exists(out))
            # Looking takes no GPU.
            self.assertEqual(self.json_of("inspect", name)["subscribers"], [])
            self.run_tenon("inspect", name, env=environment(**NO_DRIVER))
            self.run_tenon("ls", env=environment(**NO_DRIVER))

    def test_the_command_on_the_real_runtime_says_so_too(self):
        """tenon itself: no GPU is visible to it, wherever this runs."""
        name = unique_name()
        self.serve(self.file(SMALL), name)
        done = self.run_tenon("get", name, "a", program=REAL, env=environment(CUDA_VISIBLE_DEVICES=""), expect=1)
        self.assertIn(f"'{name}' is in GPU memory, on GPU-", done.stderr)
        self.assertIn("no GPU can be used here: cudaError", done.stderr)
        self.assertEqual(self.json_of("inspect", name)["subscribers"], [])

    def test_reading_where_the_device_is_hidden_is_1(self):
        name = unique_name()
        self.serve(self.file(SMALL), name, "--memory", "cuda:1")
        device = self.json_of("inspect", name)["device"]
        done = self.run_tenon("get", name, "a", env=environment(CUDA_VISIBLE_DEVICES="0"), expect=1)
        self.assertIn(f"on {device}, which is none of the 1 devices", done.stderr)


class Memory(Case):
    def test_a_full_gpu_is_1_and_leaves_nothing(self):
        name = unique_name()
        file = self.file([large(8)])
        done = self.run_tenon("serve", file, "--name", name, env=environment(TENON_SIM_MEMORY="4000000"), expect=1)
        self.assertIn("8 MiB", done.stderr)
        self.assert_nothing_left(name)
        done = self.run_tenon("demo", "--layers", 2, env=environment(TENON_SIM_MEMORY="2100000000"), expect=1)
        self.assertRegex(done.stderr, r" of GPU memory, of which 2.1 GB are free; choose a smaller --model")
        done = self.run_tenon("demo", env=environment(TENON_SIM_MEMORY="3000000000"), expect=1)
        self.assertIn("6.03 GB of GPU memory, of which 3 GB are free; --layers 3 would fit", done.stderr)

    def test_files_go_through_little_host_memory(self):
        """Less private memory, stacks included, than the one parameter that is served and dumped."""

        def limit():
            resource.setrlimit(resource.RLIMIT_DATA, (350 << 20, 350 << 20))

        name = unique_name()
        tensors = [large(400)]
        file = self.file(tensors)
        self.serve(file, name, preexec_fn=limit)
        out = self.path("o")
        self.run_tenon("dump", name, out, preexec_fn=limit)
        self.assertEqual(read_safetensors(out)[0]["large"][2], tensors[0][3])
        self.run_tenon("verify", name, file, preexec_fn=limit)

    def test_a_killed_publisher_leaves_its_memory_to_nobody(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name)
        serve.process.kill()
        serve.wait()
        self.run_tenon("get", name, "a", "--timeout", "10m", expect=5)
        self.serve(self.file(SMALL), name)
        self.run_tenon("verify", name, self.file(SMALL))
