"""pip-audit over every pin: which have a known security hole, and how many could be asked for at all.

    python bench/audit.py [FILE]

FILE: constraints.txt by default. Exit status: 1 where a hole is known, else 0: an audit for which the advisories cannot
be reached is no finding, and says that it was none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    file = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).resolve().parent.parent / "constraints.txt")
    command = [sys.executable, "-m", "pip_audit", "-r", file, "--no-deps", "--disable-pip", "--format", "json",
               "--progress-spinner", "off", "--timeout", "15"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        print("audit: NOT done, the advisories did not come within 300 s")
        return
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
        print(f"audit: NOT done, the advisories cannot be reached ({reason})")
        return
    asked = [package for package in packages if "skip_reason" not in package]
    holes = [(package, hole) for package in asked for hole in package["vulns"]]
    for package, hole in holes:
        mended = ", ".join(hole["fix_versions"]) or "no release"
        print(f"{package['name']} {package['version']}: {hole['id']}, mended in {mended}")
    left = f"; NOT audited: {len(packages) - len(asked)}, which the service does not know" * (
        len(asked) < len(packages)
    )
    print(f"audit: {len(asked)} of {len(packages)} pins audited, {len(holes)} holes known{left}")
    sys.exit(bool(holes))


if __name__ == "__main__":
    main()
