"""tenon gc. In a /dev/shm of its own where it can, because it cleans up after everybody."""

import os
import signal

from support import Case, PrivateShm, objects_of, pattern, unique_name

SMALL = [("a", "F32", [2, 2], pattern(16))]


class Gc(Case):
    @classmethod
    def setUpClass(cls):
        cls.shm = None
        try:
            cls.shm = PrivateShm(256).__enter__()
        except BaseException:
            pass

    @classmethod
    def tearDownClass(cls):
        if cls.shm:
            cls.shm.__exit__()

    def test_removes_the_dead_and_leaves_the_living(self):
        dead, living = unique_name("dead"), unique_name("living")
        serve = self.serve(self.file(SMALL), dead)
        gone = self.instance_of(dead)
        self.serve(self.file(SMALL), living)
        kept = self.instance_of(living)
        serve.send(signal.SIGKILL)
        serve.wait()

        text = self.run_tenon("gc", "--dry-run").stdout
        self.assertIn(f"would remove /dev/shm/tenon.{os.geteuid()}.{dead} ", text)
        self.assertNotIn(living, text)
        listed = [l for l in self.json_of("gc", "--dry-run") if l["object"].endswith(dead)]
        self.assertEqual([l["removed"] for l in listed], [False])
        self.assertGreater(listed[0]["bytes"], 0)
        self.assertEqual(len(objects_of(dead, gone)), 2)

        self.assertIn(f"removed /dev/shm/tenon.{os.geteuid()}.{dead} ", self.run_tenon("gc").stdout)
        self.assertEqual(objects_of(dead, gone), [])
        self.assertEqual(len(objects_of(living, kept)), 2)
        self.run_tenon("verify", living, self.file(SMALL))
        self.run_tenon("inspect", dead, expect=3)

    def test_orphaned_slots_go_too(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name)
        instance = self.instance_of(name)
        serve.send(signal.SIGKILL)
        serve.wait()
        os.unlink(objects_of(name)[0])
        self.assertEqual(len(objects_of(name, instance)), 1)
        self.assertIn(instance, self.run_tenon("gc").stdout)
        self.assert_nothing_left(name, instance)

    def test_nothing_to_do(self):
        self.run_tenon("gc")
        self.assertEqual(self.run_tenon("gc").stdout, "nothing to remove\n")
        self.assertEqual(self.json_of("gc"), [])
