"""The report of a run as HTML, opened in a browser: what it shows, and what it never does."""

from __future__ import annotations

import base64
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from conftest import Buildrun, Project
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

from buildrun.reports import html
from buildrun.reports.attachments import HEAD, TAIL
from buildrun.reports.model import RunReport

LOCAL = "--env-manager=local"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYPj/HwADAgH/p9nM2gAAAABJRU5ErkJg"
    "gg=="
)
KEY = "blake3:" + "0123456789abcdef" * 4


def step(name: str, state: str = "ok", **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "entry_point": name,
        "state": state,
        "exit_code": 0 if state == "ok" else None,
        "seconds": 1.5,
        "log": None,
        "reasons": [{"code": "never-run", "detail": f"`{name}` has not run yet"}],
        "started": 1e9,
        "command": f"make {name}",
        "depends_on": [],
        "key": KEY,
        **more,
    }


def report(*steps: dict[str, Any], **more: Any) -> RunReport:
    told: Any = {
        "version": 1,
        "run_id": "0123",
        "status": "ok",
        "exit_code": 0,
        "project": "sample",
        "root": "/nowhere",
        "entry_point": "main",
        "started": 1e9,
        "seconds": 9.0,
        "steps": list(steps),
        **more,
    }
    return told  # type: ignore[no-any-return]


def log(directory: Path, text: str | bytes) -> str:
    path = directory / "a.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = needs.need_program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


Open = Callable[..., Page]


@pytest.fixture(name="show")
def a_show(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a report; nothing may be asked for, nor go wrong in it."""
    told: list[str] = []
    contexts = []

    def refuse(dialog: Dialog) -> None:
        told.append(dialog.message)
        dialog.dismiss()

    def show(shown: RunReport | str, width: int = 1280, *, script: bool = True) -> Page:
        text = shown if isinstance(shown, str) else html.render(shown)
        path = tmp_path / "report.html"
        path.write_text(text)
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            java_script_enabled=script,
            color_scheme="light",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", refuse)
        page.on("request", lambda request: told.append(request.url))
        page.goto(path.as_uri())
        if script:
            expect(page.locator("body[data-ready]")).to_be_attached()
        return page

    yield show
    for context in contexts:
        context.close()
    asked = [text for text in told if not text.startswith(("file:", "data:image/", "data:,"))]
    assert asked == []


def test_step_unfolds_to_all_that_is_known_of_it(show: Open, tmp_path: Path) -> None:
    page = show(
        report(
            step("first", "cached", saved=61.0),
            step(
                "second",
                depends_on=["first"],
                parameters={"alpha": "0.1"},
                cpu_seconds=1.25,
                peak_memory=12_300_000,
                outputs=[{"path": "out/model.bin", "bytes": 1234}],
                environment={"manager": "virtualenv", "key": "abcd"},
                image="sha256:beef",
                backend="docker",
                log=log(tmp_path, "fine\n"),
            ),
        )
    )
    expect(page.locator("h1")).to_have_text("sample")
    expect(page.locator("header")).to_contain_text("1 min 01 s")
    second = page.locator("#list > details").nth(1)
    expect(second.locator("dl")).to_be_hidden()
    second.locator("summary").first.click()
    for text in (
        "make second", "alpha = 0.1", "out/model.bin 1.2 kB", "1.25 s of CPU", "12.3 MB of memory",
        "virtualenv abcd", "sha256:beef", "docker", KEY,
    ):  # fmt: skip
        expect(second.locator("dl")).to_contain_text(text)
    expect(second.locator("pre")).to_be_hidden()
    second.locator(".log > summary").click()
    expect(second.locator("pre")).to_have_text("fine\n")
    second.locator("dl a").click()
    expect(page.locator("#list > details").first).to_have_attribute("open", "")


def test_states_are_filtered(show: Open) -> None:
    page = show(report(step("a"), step("b", "failed", exit_code=3), step("c", "cached")))
    page.get_by_role("button", name="from the cache").click()
    assert page.locator("#list > details:visible").all_inner_texts()[0].split()[1] == "c"
    expect(page.locator("#list > details:visible")).to_have_count(1)
    page.get_by_role("button", name="All").click()
    expect(page.locator("#list > details:visible")).to_have_count(3)
    expect(page.locator(".failures a")).to_have_text("b")


def test_search_counts_and_marks_what_it_finds(show: Open, tmp_path: Path) -> None:
    text = "a \x1b[31mNeed\x1b[0mle\n" + "hay\n" * 500 + "needle\n"
    page = show(report(step("a", log=log(tmp_path, text)), step("b"), step("needle", "skipped")))
    page.keyboard.press("/")
    page.keyboard.type("needle")
    # In the log, and in the name, the reason and the command of a step.
    expect(page.locator("#found")).to_have_text("5 matches in 2 steps")
    assert page.evaluate("CSS.highlights.get('found').size") == 5
    expect(page.locator("#list > details:visible")).to_have_count(2)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#found")).to_have_text("2 of 5 matches")
    assert page.evaluate(
        """() => {
            const range = [...CSS.highlights.get("current")][0];
            const box = range.getBoundingClientRect();
            const pre = document.querySelector("pre").getBoundingClientRect();
            return range.toString() === "needle" && box.top >= pre.top && box.bottom <= pre.bottom
                && box.top > 0 && box.bottom < innerHeight;
        }"""
    )
    page.locator("#query").fill("nothing of the kind")
    expect(page.locator("#none")).to_be_visible()
    page.locator("#query").fill("")
    expect(page.locator("#list > details:visible")).to_have_count(3)


def test_theme_is_that_of_the_system_until_it_is_chosen(show: Open) -> None:
    page = show(report(step("a")))
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colour)
    assert light != dark
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(colour) == light
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(colour) == dark


def test_timeline_has_a_lane_for_each_step_at_once(show: Open) -> None:
    page = show(
        report(
            step("a", started=1e9),
            step("b", "cached", started=1e9 + 1),
            step("c", started=1e9 + 1.5),
            step("d", "skipped", started=None, seconds=0.0),
        )
    )
    bars = page.locator("#timeline .chart .bar")
    assert bars.count() == 3
    tops = [bar.evaluate("bar => bar.offsetTop") for bar in bars.all()]
    assert tops[0] == tops[2] < tops[1]
    bars.nth(1).hover()
    expect(page.locator("#tip")).to_contain_text("↻ from the cache, 1.50 s, from 1.00 s on")


def test_graph_is_walked_by_keys(show: Open) -> None:
    page = show(
        report(step("a"), step("b", depends_on=["a"]), step("c", depends_on=["a", "b"]), step("d"))
    )
    nodes = page.locator("#graph .node")
    lefts = [node.evaluate("node => node.offsetLeft") for node in nodes.all()]
    assert lefts[0] == lefts[3] < lefts[1] < lefts[2]
    assert page.locator("#graph path").count() == 3
    nodes.first.focus()
    page.keyboard.press("ArrowRight")
    expect(nodes.nth(1)).to_be_focused()
    expect(page.locator("#graph path.near")).to_have_count(2)
    page.keyboard.press("Enter")
    expect(page.locator("#list > details").nth(1)).to_have_attribute("open", "")


def test_phone_scrolls_in_one_direction(show: Open, tmp_path: Path) -> None:
    long = "x" * 300
    page = show(
        report(
            step(long, parameters={long: long}, command=long, log=log(tmp_path, long)),
            *(step(f"s{number}", depends_on=[f"s{number - 1}"]) for number in range(1, 9)),
            step("last", "failed", log=log(tmp_path, long), outputs=[{"path": long, "bytes": 1}]),
            project=long,
            root=f"/{long}",
        ),
        width=390,
    )
    page.locator("#list > details > summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_thousand_steps_are_light(show: Open) -> None:
    steps = [
        step(
            f"shard-{number:04}",
            "failed" if number == 777 else ("ok", "cached", "up-to-date")[number % 3],
            seconds=number % 7 + number / 1000,
            started=1e9 + number,
            cpu_seconds=number / 7,
            peak_memory=30_000_000 + number * 77_777,
            parameters={"shard": str(number), "alpha": "0.1"},
            command=f"python work.py --shard {number} --alpha 0.1",
            depends_on=[f"shard-{number - 100:04}"] if number >= 100 else [],
            key=f"blake3:{number * 7919**16 % 16**64:064x}",
            outputs=[{"path": f"out/part-{number}.csv", "bytes": number * 997}],
        )
        for number in range(1000)
    ]
    text = html.render(report(*steps))
    assert len(text.encode()) < 300_000
    page = show(text)
    assert page.locator("#list > details").count() == 1000
    assert 10 <= page.locator("#graph .node").count() <= 40
    page.locator("#query").fill("--shard 500 ")
    expect(page.locator("#found")).to_have_text("1 match in 1 step")
    page.locator("#list > details:visible > summary").click()
    expect(page.locator("#list > details:visible dl a")).to_have_text("shard-0400")
    unread = show(text, script=False).locator("#list > details")
    expect(unread.nth(500)).to_contain_text("shard-0500")
    expect(unread.nth(777)).to_contain_text("--shard 777 ")


HOSTILE = (
    "</script><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
    "</title></style></pre></template><!--steps--><!-- --!><svg onload=alert(1)>"
    "`'\"&amp;\u2028\u2029\ud800\0\x1b]0;hit\x07\u202e${document.title='hit'}"
)


@pytest.mark.parametrize("count", [1, 2, 300])
def test_hostile_run_is_only_shown(show: Open, tmp_path: Path, count: int) -> None:
    hostile = {
        "entry_point": HOSTILE,
        "reasons": [{"code": HOSTILE, "detail": HOSTILE}] * 2,
        "parameters": {HOSTILE: HOSTILE},
        "command": HOSTILE,
        "depends_on": [HOSTILE, HOSTILE + "0", HOSTILE + "1"],
        "backend": HOSTILE,
        "environment": {"manager": HOSTILE, "key": HOSTILE},
        "image": HOSTILE,
        "key": HOSTILE,
        "outputs": [{"path": HOSTILE, "bytes": 1}, {"path": HOSTILE + ".png", "bytes": 1}],
        "log": log(tmp_path, HOSTILE.encode(errors="replace")),
    }
    told = dict.fromkeys(("project", "root", "entry_point", "run_id", "status"), HOSTILE)
    steps = [
        step(HOSTILE + str(number), HOSTILE if number else "failed", **hostile)
        for number in range(count)
    ]
    page = show(report(*steps, **told))
    page.locator("#query").fill("onerror")
    page.keyboard.press("Enter")
    assert "hit'</script>" in page.title()
    assert page.locator("script").count() == 1
    assert page.locator("img, main svg[onload]").count() == 0
    expect(page.locator("h1")).to_contain_text("<script>")
    expect(page.locator("pre").first).to_contain_text("</pre></template>")


def test_log_is_cut_in_its_middle_and_keeps_colours(show: Open, tmp_path: Path) -> None:
    beginning = "\x1b[1;31mred\x1b[0m\r\n 10%\r 50%\r100%\n\x1b[2Jcleared\x1b]0;title\x07\n"
    path = log(tmp_path, beginning + ". " * 100_000 + "the end\n")
    page = show(report(step("a", "failed", log=path)))
    head, tail = page.locator("pre").all()
    shown = head.text_content() or ""
    assert shown.startswith("red\n100%\ncleared\n")
    assert len(shown) < HEAD
    assert head.locator("span").evaluate("span => getComputedStyle(span).fontWeight") == "700"
    assert TAIL - 3 < len(tail.text_content() or "") <= TAIL
    assert tail.evaluate("pre => pre.scrollTop + pre.clientHeight > pre.scrollHeight - 2")
    expect(page.locator(".log .note")).to_contain_text("left out here")
    expect(page.locator(".log .note")).to_contain_text(path)


def test_logs_and_pictures_have_limits(tmp_path: Path) -> None:
    full = log(tmp_path, b"x" * (HEAD + TAIL))
    (tmp_path / "a.png").write_bytes(PNG.ljust(1_900_000, b"\0"))
    (tmp_path / "big.png").write_bytes(PNG.ljust(2_100_000, b"\0"))
    outputs = [{"path": "a.png", "bytes": 1_900_000}, {"path": "big.png", "bytes": 2_100_000}]
    steps = [step(f"s{number}", log=full, outputs=outputs) for number in range(100)]
    text = html.render(report(*steps, step("late", "failed", log=full), root=str(tmp_path)))
    assert len(text) < 17_000_000
    assert text.count("<pre") == 64
    assert "<pre" in text[text.index("late</b>") :]
    assert text.count("<img") == 4
    assert "big.png is not shown" in text


def test_pictures_are_those_of_the_project_as_they_are_now(show: Open, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "as-made.PNG").write_bytes(PNG)
    (root / "changed.png").write_bytes(PNG + b"\0")
    (root / "text.png").write_text("private")
    (root / "drawn.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
    )
    (tmp_path / "other.png").write_bytes(PNG)
    (root / "link.png").symlink_to(tmp_path / "other.png")
    os.mkfifo(root / "pipe.png")
    names = ("as-made.PNG", "changed.png", "text.png", "drawn.svg", "link.png", "pipe.png")
    outputs = [{"path": name, "bytes": len(PNG)} for name in (*names, "gone.png", "../other.png")]
    page = show(report(step("a", outputs=outputs), root=str(root)))
    assert page.locator("#list img").evaluate_all("all => all.map(each => each.alt)") == [
        "as-made.PNG", "changed.png", "drawn.svg",
    ]  # fmt: skip
    assert page.locator("img").first.evaluate("image => image.naturalWidth") == 1
    assert page.locator("#pictures img").count() == 3
    page.locator("#pictures a").first.click()
    expect(page.locator("#list > details")).to_have_attribute("open", "")
    assert page.locator("#list figcaption").all_inner_texts()[:2] == [
        "as-made.PNG",
        "changed.png has changed since",
    ]
    assert page.locator(".pictures .note").all_inner_texts() == [
        "text.png is no picture",
        *(f"{name} is gone" for name in ("link.png", "pipe.png", "gone.png", "../other.png")),
    ]


def test_report_is_readable_without_scripts(show: Open, tmp_path: Path) -> None:
    steps = (step("a", log=log(tmp_path, "said\n")), step("b", depends_on=["a"]))
    page = show(report(*steps), script=False)
    page.locator("#list > details > summary").first.click()
    page.locator(".log > summary").click()
    expect(page.locator("pre")).to_have_text("said\n")
    expect(page.locator("dl").nth(1)).to_contain_text("make a")
    expect(page.locator("#tools, #graph, #timeline, #theme")).to_have_count(4)
    assert page.locator("#tools:visible, #graph:visible, #timeline:visible").count() == 0


@pytest.mark.parametrize(
    "told",
    [
        {"run_id": "a", "status": "running", "steps": []},
        {
            "status": "ok",
            "seconds": None,
            "exit_code": None,
            "steps": [
                {"id": name, "entry_point": name, "state": state, "seconds": 0, "reasons": []}
                for name, state in (("a", "up-to-date"), ("b", "new"))
            ],
        },
    ],
)
def test_what_is_not_known_is_left_out(show: Open, told: Any) -> None:
    page = show(told)
    assert page.locator("#list > details").count() == len(told["steps"])
    assert "None" not in page.locator("body").inner_text()


RUN = """\
name: drawn
entry_points:
  draw: {outputs: [plot.png], inputs: [a.png], command: "cp a.png plot.png; echo drawn"}
  main: {depends_on: [draw], command: "echo shown; exit 4"}
"""


@pytest.fixture
def failed(project: Project, buildrun: Buildrun) -> Path:
    """Return the directory of a project that has run, and failed."""
    directory = project(RUN)
    (directory / "a.png").write_bytes(PNG)
    assert buildrun("run", directory, LOCAL).code == 4
    return directory


@pytest.mark.usefixtures("failed")
def test_past_run_is_shown_with_its_picture(show: Open, buildrun: Buildrun, tmp_path: Path) -> None:
    out = buildrun("runs", "report", "--output", "r.html", cwd=tmp_path).printed()
    assert out == f"{tmp_path / 'r.html'}\n"
    page = show((tmp_path / "r.html").read_text())
    expect(page.locator(".how")).to_contain_text("failed with exit code 4")
    expect(page.locator("h1")).to_have_text("drawn")
    page.locator("#list > details > summary").first.click()
    expect(page.locator("#list img")).to_be_visible()
    assert page.locator("#list img").evaluate("image => image.naturalWidth") == 1
    expect(page.locator(".failed pre")).to_have_text("shown\n")


def test_past_run_is_written_to_standard_output(failed: Path, buildrun: Buildrun) -> None:
    run = buildrun("runs", "ls", "--format=json").data["runs"][0]["run_id"]
    out = buildrun("runs", "report", run[:8]).printed()
    assert out.startswith(html.BEGINNING)
    (failed / "plot.png").unlink()
    assert "plot.png is gone" in buildrun("runs", "report").printed()


def test_run_writes_its_report_at_its_end(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: echo https://me:sesame@host/ }}\n")
    words = ("run", LOCAL, "--output=stream", "--report", "r.html", "--report", "r.md", ".")
    assert buildrun(*words, cwd=directory).code == 0
    text = (directory / "r.html").read_text()
    assert text.startswith(html.BEGINNING)
    assert text.count("https://host/") == 2
    assert "sesame" not in text
    past = buildrun("runs", "report", "--output", "past.md", cwd=directory).printed()
    assert past == f"{directory / 'past.md'}\n"
    assert (directory / "past.md").read_text() == (directory / "r.md").read_text()


def test_run_that_could_not_begin_is_told(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: [}}\n")
    assert buildrun("run", "--report", "r.html", ".", cwd=directory).code == 1
    assert "MLproject" in (directory / "r.html").read_text()


def test_only_a_report_is_replaced(failed: Path, buildrun: Buildrun, tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("mine")
    refused = buildrun("runs", "report", "--output", "notes.html", cwd=tmp_path)
    refused.refused("something else is there", "--output", code=2)
    assert (tmp_path / "notes.html").read_text() == "mine"
    for output in ("no/r.html", "r.pdf", failed):
        buildrun("runs", "report", "--output", output).refused("hint: ", code=2)
    for output in ("r.html", "r.xml", "r.md", "r.json", "/dev/null"):
        for _ in range(2):
            assert buildrun("runs", "report", "--output", output, cwd=tmp_path).code == 0
    (tmp_path / "r.md").write_text("mine")
    refused = buildrun("runs", "report", "--output", "r.md", cwd=tmp_path)
    refused.refused("something else is there", code=2)


@pytest.mark.usefixtures("failed")
def test_terminal_gets_a_file(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    words = (sys.executable, "-m", "buildrun", "runs", "report")
    subprocess.run(words, cwd=tmp_path, stdout=writer, check=True, timeout=600)
    shown = os.read(reader, 4096).decode().strip()
    os.close(writer)
    os.close(reader)
    (made,) = tmp_path.glob("report-*.html")
    assert shown == str(made)
    assert made.read_text().startswith(html.BEGINNING)
