"""Builds the API reference as docs/Doxyfile says; fails on any warning. Exit status 77: no doxygen.

    run_doxygen.py SOURCE OUTPUT
"""

import pathlib
import shutil
import subprocess
import sys

source, output = map(pathlib.Path, sys.argv[1:])
if not shutil.which("doxygen"):
    print("skipped: no doxygen (scripts/setup installs it)")
    sys.exit(77)
shutil.rmtree(output, ignore_errors=True)
output.mkdir(parents=True)
settings = (source / "docs/Doxyfile").read_text() + f"OUTPUT_DIRECTORY = {output}\n"
done = subprocess.run(["doxygen", "-"], cwd=source, input=settings, capture_output=True, text=True, timeout=280)
print(done.stdout + done.stderr)
if done.returncode != 0:
    sys.exit(done.returncode)
pages = {path.name for path in (output / "html").glob("*.html")}
for page in ("classtenon_1_1Publisher.html", "classtenon_1_1Subscriber.html", "classtenon_1_1Lease.html"):
    if page not in pages:
        sys.exit(f"no {page}: are the headers still found?")
hidden = sorted(page for page in pages if "detail" in page)
if hidden:
    sys.exit(f"what is in detail is no interface: {hidden}")
