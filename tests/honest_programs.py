"""Programs that do what their steps declare and no more, each in a way of its own."""

from __future__ import annotations

from watch_helpers import Step

_WRITE = "open('out.txt', 'w').write"


def _python(code: str, command: str = "python prog.py", **files: str) -> Step:
    return Step(command, {"prog.py": code, **files})


_MODULES = {"helper.py": "def f(): return open('a.txt').read()\n"}
_PACKAGE = {
    "pack/__init__.py": "from pack.one import f\n",
    "pack/one.py": "from . import two\nf = two.g\n",
    "pack/two.py": "def g(): return 'g'\n",
    "pack/__main__.py": f"from pack import f\n{_WRITE}(f())\n",
}
_C = '#include <stdio.h>\n#include "own.h"\nint main(void) { puts(TEXT); return 0; }\n'
_WORK = "def work(n): return len(open('a.txt').read()) * n\n"

HONEST = {
    "shell": Step("while read -r line; do echo $line; done < a.txt > out.txt"),
    "nothing": Step("true > out.txt"),
    "cat": Step("cat a.txt > out.txt"),
    "module": _python(f"import helper\n{_WRITE}(helper.f())\n", **_MODULES),
    "module-twice": Step(
        "python prog.py && python prog.py",
        {"prog.py": f"import helper\n{_WRITE}(helper.f())\n", **_MODULES},
    ),
    "package": _python(f"import pack\n{_WRITE}(pack.f())\n", **_PACKAGE),
    "package-as-directory": Step(
        "python -m pack", {"__init__.py": "", **_PACKAGE}, ["pack", "__init__.py"]
    ),
    "python-m": Step("python -m pack", _PACKAGE),
    "python-c": Step(f"python -c \"{_WRITE}(open('a.txt').read())\""),
    "source-directory": Step(
        "PYTHONPATH=src python -m tool", {"src/tool.py": f"import json\n{_WRITE}('x')\n"}
    ),
    "tests": _python(
        f"import sys, unittest\n"
        f"class T(unittest.TestCase):\n"
        f"    def test(self): self.assertEqual(open('a.txt').read(), 'a\\n')\n"
        f"unittest.main(exit=False); {_WRITE}('passed')\n"
    ),
    "json-and-csv": _python(
        f"import csv, json\nrows = list(csv.reader(open('a.txt')))\n{_WRITE}(json.dumps(rows))\n"
    ),
    "sqlite": _python(
        "import sqlite3\ndb = sqlite3.connect('out.txt')\n"
        "db.execute('create table t (a)'); db.execute('insert into t values (1)'); db.commit()\n"
        "assert db.execute('select a from t').fetchall() == [(1,)]\n"
    ),
    "zip": _python(
        "import zipfile\nwith zipfile.ZipFile('out.txt', 'w') as file: file.write('a.txt')\n"
        "assert zipfile.ZipFile('out.txt').read('a.txt')\n"
    ),
    "temporary": _python(
        f"import tempfile\n"
        f"with tempfile.NamedTemporaryFile('w+') as file, tempfile.TemporaryDirectory() as place:\n"
        f"    file.write('x'); file.flush(); text = open(file.name).read()\n"
        f"    open(place + '/b', 'w').write(text); {_WRITE}(open(place + '/b').read())\n"
    ),
    "left-in-temporary": Step("cp a.txt $TMPDIR/left; cat $TMPDIR/left > out.txt"),
    "processes": _python(
        f"import multiprocessing\n{_WORK}"
        f"if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        f"        {_WRITE}(str(pool.map(work, range(4))))\n"
    ),
    "futures": _python(
        f"from concurrent.futures import ProcessPoolExecutor\n{_WORK}"
        f"if __name__ == '__main__':\n"
        f"    with ProcessPoolExecutor(2) as pool: {_WRITE}(str(list(pool.map(work, range(4)))))\n"
    ),
    "replaced": _python(
        "import os\nopen('out.txt.tmp', 'w').write('x'); os.replace('out.txt.tmp', 'out.txt')\n"
    ),
    "log": _python(
        "import logging\nlogging.basicConfig(filename='out.txt', level='INFO')\n"
        "logging.info('one'); open('out.txt').read()\n"
    ),
    "update": _python("open('out.txt', 'w').close(); open('out.txt', 'r+').write('x')\n"),
    "usual-variables": _python(
        f"import getpass, locale, os, platform, time\n"
        f"{_WRITE}(os.path.expanduser('~') + platform.node() + str(os.environ.get('TERM')))\n"
    ),
    "pip": Step("python -m pip --version > out.txt"),
    "git": Step("cd $TMPDIR && git init -q . && cd - && git hash-object a.txt > out.txt"),
    "git-repository": Step(
        "git init -q $TMPDIR/r && cp a.txt $TMPDIR/r && cd $TMPDIR/r && git add a.txt && "
        "git -c user.name=a -c user.email=a@b commit -qm a && git ls-files > $OLDPWD/out.txt"
    ),
    "gcc": Step(
        "gcc -o prog prog.c && ./prog > out.txt", {"prog.c": _C, "own.h": '#define TEXT "a"\n'}
    )._replace(outputs=("out.txt", "prog")),
    "node": Step(
        "node -e \"f = require('fs'); f.writeFileSync('out.txt', f.readFileSync('a.txt'))\""
    ),
    "node-module": Step(
        "node main.js",
        {
            "main.js": "require('./own'); require('fs').writeFileSync('out.txt', '')",
            "own.js": "exports.a = 1;",
        },
    ),
    "make": Step("make -s", {"Makefile": "out.txt: a.txt\n\t@cp a.txt out.txt\n"}),
    "tar": Step("tar cf out.txt a.txt && tar xf out.txt -C $TMPDIR && cat $TMPDIR/a.txt"),
    "sort": Step("sort -S 1M -T $TMPDIR a.txt > out.txt"),
    "heredoc": Step("bash -c 'cat <<END > out.txt\nline\nEND\ncat <<< word >> out.txt'"),
    "sed": Step("cp a.txt out.txt && sed -i s/a/b/ out.txt"),
    "perl": Step("perl -pe s/a/b/ a.txt > out.txt && perl -i -pe s/b/c/ out.txt"),
    "awk": Step("awk '/a/' a.txt > out.txt"),
    "find": Step(
        "find data -name '*.csv' | sort | xargs cat > out.txt",
        {"data/b.csv": "", "data/c/d.csv": ""},
        ["data"],
    ),
    "glob": Step("cat data/*.csv > out.txt", {"data/b.csv": "b", "data/c.csv": "c"}, ["data/"]),
    "output-directory": Step(
        "mkdir -p made/deep && cp a.txt made/deep/one && cp -r made/deep made/more && "
        "rm made/more/one && ls -R made > made/list",
    )._replace(outputs=("made/",)),
    "declared-link": Step("cat link > out.txt", {"link": "-> a.txt"}),
    "link-to-directory": Step(
        "cat now/b.csv > out.txt", {"data/b.csv": "", "now": "-> data"}, ["now", "data"]
    ),
    "pipe": Step("mkfifo $TMPDIR/p; cat a.txt > $TMPDIR/p & cat $TMPDIR/p > out.txt; wait"),
    "diff": Step("cp a.txt out.txt; diff a.txt out.txt"),
    "streams": Step("cat a.txt | tee /dev/stderr > out.txt; cat < /dev/null > /dev/stdout"),
}

SCIENCE = {
    "joblib": (
        "import joblib, math\nvalues = joblib.Parallel(2)(joblib.delayed(math.sqrt)(n) for n in "
        "range(9))\njoblib.dump(values, 'out.txt'); joblib.load('out.txt')\n"
    ),
    "scikit-learn": (
        "import pickle\nfrom sklearn.datasets import load_iris\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "x, y = load_iris(return_X_y=True)\nmodel = LogisticRegression(max_iter=999).fit(x, y)\n"
        "pickle.dump(model, open('out.txt', 'wb'))\n"
    ),
    "pandas": (
        "import pandas\nframe = pandas.read_csv('a.txt'); frame['b'] = 1\n"
        "frame.to_csv('out.txt'); pandas.read_csv('out.txt', engine='c')\n"
    ),
    "matplotlib": (
        "import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as plot\n"
        "plot.plot([1, 2]); plot.title('one'); plot.savefig('out.txt', format='png')\n"
    ),
    "numpy-memmap": (
        "import numpy\none = numpy.memmap('out.txt', dtype='u1', mode='w+', shape=(9,))\n"
        "one[:] = 1; one.flush(); numpy.memmap('out.txt', mode='r+')[0] = 2\n"
    ),
}
