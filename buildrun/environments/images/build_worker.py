"""The program that runs in a build container."""

import json
import os
import subprocess
import sys
import threading

# The first second of 1980, in UTC; a zip file, such as a wheel, cannot have an earlier one.
_DATE = 315532800


def main() -> None:
    """Do what the first line of standard input asks for."""
    os.dup2(1, 2)
    version = ".".join(str(part) for part in sys.version_info[:3])
    os.write(1, json.dumps({"python": version}).encode() + b"\n")
    text = sys.stdin.buffer.readline()
    if not text:
        sys.exit(1)
    order = json.loads(text.decode())
    watch = threading.Thread(target=_end_with_input)
    watch.daemon = True
    watch.start()
    os.makedirs(order["scratch"])
    # What is built from source shall not have the time in it.
    environ = dict(os.environ, HOME=order["scratch"], PYTHONHASHSEED="0", PYTHONNOUSERSITE="1")
    environ.update(SOURCE_DATE_EPOCH=str(_DATE), PYTHONDONTWRITEBYTECODE="1")
    if order["cwd"]:
        os.makedirs(order["cwd"], exist_ok=True)
        os.chdir(order["cwd"])
    for path in order["sources"]:
        _date(path)
    for argv in order["first"]:
        _run([sys.executable, *argv], environ)
    for number, stage in enumerate(order["stages"]):
        words = [order["python"], "-m", "pip", "install", *order["words"], *stage["words"]]
        for flag in ("requirement", "constraint"):
            if stage[flag]:
                path = os.path.join(order["scratch"], f"{flag}-{number}.txt")
                with open(path, "wb") as file:
                    file.write("\n".join(stage[flag]).encode() + b"\n")
                words += ["--" + flag, path]
        _run(words, environ)
    os._exit(0)


def _date(top: str) -> None:
    """Give all files a time that wheels can have; they have come with none."""
    for directory, _, names in os.walk(top):
        for name in names:
            os.utime(os.path.join(directory, name), (_DATE, _DATE), follow_symlinks=False)


def _run(words: "list[str]", environ: "dict[str, str]") -> None:
    code = subprocess.call(words, stdin=subprocess.DEVNULL, env=environ)
    if code:
        os._exit(code if 0 < code < 126 else 1)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
