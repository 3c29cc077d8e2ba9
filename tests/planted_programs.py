"""Programs that read what their steps do not declare, each in a way of its own."""

from __future__ import annotations

from watch_helpers import Step

_OUT = "open('out.txt', 'w').write"


def _python(code: str, **files: str) -> Step:
    return Step("python prog.py", {"prog.py": code, **files})


OPENAT2 = 437
IO_URING_SETUP = 425

STATIC = r"""
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    char text[64];
    int in = syscall(SYS_openat, AT_FDCWD, "secret.cfg", O_RDONLY);
    int out = syscall(SYS_openat, AT_FDCWD, "out.txt", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    return write(out, text, read(in, text, sizeof text)) < 1;
}
"""

_CALL = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
"""

PLANTED = {
    "redirect": Step("read -r line < secret.cfg; echo $line > out.txt"),
    "bash": Step("bash -c 'mapfile -t lines < secret.cfg; echo $lines > out.txt'"),
    "cat": Step("cat a.txt secret.cfg > out.txt"),
    "source": Step(". ./secret.cfg; echo > out.txt", {"secret.cfg": "A=1\n"}),
    "python": _python(f"{_OUT}(open('secret.cfg').read())"),
    "read-and-write": _python(f"open('secret.cfg', 'r+').read(); {_OUT}('')"),
    "absolute": _python(f"import os; {_OUT}(open(os.path.abspath('secret.cfg')).read())"),
    "dots": _python(f"{_OUT}(open('sub/../secret.cfg').read())", **{"sub/b.txt": ""}),
    "from-below": Step("cd sub && cat ../secret.cfg > ../out.txt", {"sub/b.txt": ""}),
    "directory-descriptor": _python(
        "import os; here = os.open('.', os.O_RDONLY); os.chdir('/')\n"
        "os.write(os.open('out.txt', os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here),"
        " os.read(os.open('secret.cfg', os.O_RDONLY, dir_fd=here), 99))"
    ),
    "path-descriptor": _python(
        f"import os; place = os.open('secret.cfg', os.O_PATH)\n"
        f"{_OUT}(open(f'/proc/self/fd/{{place}}').read())"
    ),
    "child-of-child": _python(
        "import subprocess; subprocess.run(['sh', '-c', 'sh -c \"cat secret.cfg > out.txt\"'])"
    ),
    "mmap": _python(
        f"import mmap, os; at = os.open('secret.cfg', os.O_RDONLY)\n"
        f"{_OUT}(mmap.mmap(at, 0, prot=mmap.PROT_READ)[:].decode())"
    ),
    "sqlite": _python(
        f"import sqlite3; db = sqlite3.connect('file:secret.cfg?mode=ro', uri=True)\n"
        f"try: db.execute('select 1 from sqlite_master')\n"
        f"except sqlite3.DatabaseError: {_OUT}('none')\n"
    ),
    "listed-and-opened": _python(
        f"import os; names = sorted(os.listdir('.'))\n"
        f"{_OUT}(''.join(open(name).read() for name in names if name.endswith('cfg')))"
    ),
    "glob": Step("cat secret* > out.txt"),
    "link-from-outside": Step("ln -s $PWD/secret.cfg $TMPDIR/link; cat $TMPDIR/link > out.txt"),
    "link-in-project": Step(
        "cat name.cfg > out.txt", {"name.cfg": "-> secret.cfg"}, inputs=["a.txt"]
    ),
    "hard-link": Step("ln secret.cfg $TMPDIR/copy; cat $TMPDIR/copy > out.txt"),
    "proc": Step("cat /proc/self/cwd/secret.cfg > out.txt"),
    "link-in-a-cache": Step(
        "mkdir $HOME/.cache; ln -s $PWD/secret.cfg $HOME/.cache/a; cat $HOME/.cache/a > out.txt"
    ),
    "proc-after-chdir": _python(
        "import os; first = open('/proc/self/cwd/a.txt').read(); os.chdir('secret')\n"
        "open('../out.txt', 'w').write(open('/proc/self/cwd/secret.cfg').read())",
        **{"secret/secret.cfg": "x"},
    )._replace(inputs=["prog.py", "a.txt"]),
    "root": Step("cat /proc/self/root/$PWD/secret.cfg > out.txt"),
    "standard-input": Step("cat /dev/stdin < secret.cfg > out.txt"),
    "thread": _python(
        f"import threading\n"
        f"one = threading.Thread(target=lambda: {_OUT}(open('secret.cfg').read()))\n"
        f"one.start(); one.join()"
    ),
    "posix-spawn": _python(
        "import os; to = (os.POSIX_SPAWN_OPEN, 1, 'out.txt', os.O_CREAT | os.O_WRONLY, 0o644)\n"
        "one = os.posix_spawn('/bin/cat', ['cat', 'secret.cfg'], {}, file_actions=[to])\n"
        "os.waitpid(one, 0)"
    ),
    "spawn-opens": _python(
        "import os; of = (os.POSIX_SPAWN_OPEN, 0, 'secret.cfg', os.O_RDONLY, 0)\n"
        "to = (os.POSIX_SPAWN_OPEN, 1, 'out.txt', os.O_CREAT | os.O_WRONLY, 0o644)\n"
        "os.waitpid(os.posix_spawn('/bin/cat', ['cat'], {}, file_actions=[of, to]), 0)"
    ),
    "openat2": _python(
        _CALL + f"how = struct.pack('QQQ', os.O_RDONLY, 0, 0)\n"
        f"at = libc.syscall({OPENAT2}, -100, b'secret.cfg', how, 24); assert at > 0\n"
        f"{_OUT}(os.read(at, 99).decode())"
    ),
    "io-uring": _python(
        _CALL + f"import errno\n"
        f"assert libc.syscall({IO_URING_SETUP}, 8, ctypes.create_string_buffer(120)) == -1\n"
        f"assert ctypes.get_errno() == errno.ENOSYS\n"
        f"{_OUT}(open('secret.cfg').read())"
    ),
    "find-xargs": Step("find . -name 's*.cfg' | xargs cat > out.txt"),
    "rename": Step("mv secret.cfg out.txt"),
    "copy": Step("cp secret.cfg out.txt"),
    "tar": Step("tar cf out.txt secret.cfg"),
    "make": Step("make -s", {"Makefile": "out.txt:\n\t@cat secret.cfg > out.txt\n"}),
    "perl": Step("perl -ne print secret.cfg > out.txt"),
    "in-place": Step("cp a.txt out.txt; sed -i s/e/i/ secret.cfg"),
    "appended-to": Step("cp secret.cfg out.txt; echo >> out.txt"),
    "environment-file": Step("env -S 'cat secret.cfg' > out.txt"),
    "archive": _python("import zipfile; zipfile.ZipFile('out.txt', 'w').write('secret.cfg')"),
    "fork-of-fork": _python(
        "import os\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        while os.read(read, 1): pass\n"
        "        os.write(1, open('secret.cfg', 'rb').read())\n"
        "        os._exit(0)\n"
        "    os._exit(0)\n"
        "os.wait(); open('out.txt', 'w').close(); os.close(read); os.close(write)".replace(
            "        while", "        os.close(write)\n        while"
        )
    ),
}

SCIENCE = {
    "pandas-c": f"import pandas; {_OUT}(str(pandas.read_csv('secret.cfg', engine='c')))",
    "numpy-fromfile": f"import numpy; {_OUT}(str(numpy.fromfile('secret.cfg', dtype='u1')))",
    "numpy-memmap": f"import numpy; {_OUT}(str(numpy.memmap('secret.cfg', mode='r')[0]))",
    "numpy-loadtxt": f"import numpy; {_OUT}(str(numpy.loadtxt('secret.cfg', dtype=str)))",
}
