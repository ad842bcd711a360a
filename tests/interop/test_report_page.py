"""The report in other programs: Chromium shows it, markdown-it reads the Markdown, Python counts its numbers again.

$OVERPROOF_SHOTS names a folder that keeps the pictures, to look at them."""
import base64
import collections
import configparser
import hashlib
import html.parser
import json
import os
import pathlib
import re
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from markdown_it import MarkdownIt
from safetensors.numpy import load_file, safe_open

from chromium import Browser
from program import SOURCE, overproof, write_labelled_texts

HOSTILE = ["me@evil.example", "<img src=x onerror=alert(1)>", "a|b`*_[x](javascript:1)\u202e\u061c&amp;"]
RECIPE = """
[teacher]
stage = tiny-teacher
seed = 1

[corpus]
source = texts
tokenizer = teacher
window-length = 64
held-out = 0.25

[statistics]
stage = observe
tokens = 1024

[soft-targets]
stage = teach
tokens = 1024

[student-init]
stage = carve
experts = 7
shared = 1
top-k = 1

[student]
stage = distill
student = student-init
targets = soft-targets
steps = 12

[int8]
stage = quantize
model = student

[evaluation]
stage = evaluate
tokens = 256
student = student
int8 = int8
"""


def root(run, name):
    return json.loads(overproof("show", run / name, "--json").stdout)["root"].removeprefix("sha256:")


def subject(run, name):
    """An artifact as an audit record names it: by its files and by the SHA-256 of its statement."""
    claims = json.loads((run / name / "claims.jsonl").read_text().splitlines()[0])
    return {"name": name, "digest": {"sha256": root(run, name)},
            "annotations": {"statementSha256": hashlib.sha256(base64.b64decode(claims["payload"])).hexdigest()}}


def sign_record(file, kind, subjects, result, key):
    """An audit record as provenance/audit_record.h describes it, made without the program."""
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    payload_type = "application/vnd.in-toto+json"
    payload = json.dumps({"_type": "https://in-toto.io/Statement/v1", "subject": subjects,
                          "predicateType": f"urn:overproof:audit:{kind}:v2", "predicate": {"result": result, "auditor": pem.decode()}}).encode()
    signature = key.sign(b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(payload), payload), ec.ECDSA(hashes.SHA256()))
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"payload": base64.b64encode(payload).decode(), "payloadType": payload_type,
                                "signatures": [{"keyid": hashlib.sha256(pem).hexdigest(), "sig": base64.b64encode(signature).decode()}]}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose sources have hostile names, with the records of three audits."""
    folder = tmp_path_factory.mktemp("report")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    write_labelled_texts(folder / "texts", HOSTILE, ["CC0-1.0", "GPL-3.0-only", "<script>alert(2)</script>|x"])
    (folder / "recipe.ini").write_text(RECIPE)
    made = folder / "run"
    overproof("run", folder / "recipe.ini", "--out", made)

    auditor = ec.generate_private_key(ec.SECP256R1())
    (folder / "auditor.pub").write_bytes(auditor.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    student, int8 = subject(made, "student"), subject(made, "int8")
    segments = [{"segment": s, "first_step": 2 * s, "end_step": 2 * s + 2, "from_step": 0, "equal": True} for s in (1, 4)]
    sign_record(made / "audits/replay-student.json", "replay", [student],
                {"artifact": "student", "root": "sha256:" + student["digest"]["sha256"], "seed": "5f2c9a41", "holds": True, "mode": "bitwise", "tolerance": 0, "steps": 12,
                 "steps_planned_equal": 12, "segments_total": 6, "segments": segments, "faults": [], "notes": ["<b>made again with 2 threads</b>"],
                 "odds": [{"forged_fraction": 0.05, "caught_at_least": 0.0975, "forged_segments": 1, "caught": 1 / 3}]}, auditor)
    sign_record(made / "audits/recompute-run.json", "recompute", [int8],
                {"holds": True, "artifacts": [{"artifact": "int8", "stage": "quantize", "root": "sha256:" + int8["digest"]["sha256"], "status": "equal", "details": []}], "notes": []}, auditor)
    sign_record(made / "audits/compare-x.json", "compare", [student, {"name": "x", "digest": {"sha256": "0" * 64}}],
                {"a": {"name": "student"}, "b": {"name": "sus|pect"}, "tests": [
                    {"name": "committed-order", "ran": True, "null_hypothesis": "no order", "computed_on": "12 windows", "statistic": "rho", "value": -0.5,
                     "p_value": 0.0, "log10_p": -331.5, "p_kind": "exact", "cannot_show": "<i>who</i> taught whom", "details": {"monte_carlo_p": 1e-5}},
                    {"name": "radioactivity", "ran": False, "null_hypothesis": "no key", "not_run": "no key"}]}, auditor)
    (made / "audits/broken.json").write_text("{<img src=y>")
    return made


@pytest.fixture(scope="module")
def written(run):
    """The report in its three formats."""
    files = {f: run.parent / f"report.{f}" for f in ("html", "json", "markdown")}
    for name, file in files.items():
        overproof("audit", "report", run, "--format", name, "--out", file, "--auditor-key", run.parent / "auditor.pub")
    return files


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def without_marks(text):
    """What the report shows for marks that change the direction of text."""
    return text.replace("\u202e", "\ufffd").replace("\u061c", "\ufffd")


def keep(name, picture):
    if folder := os.environ.get("OVERPROOF_SHOTS"):
        (pathlib.Path(folder) / f"{name}.png").write_bytes(picture)


CUT = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text, rect, path')].filter(e => getComputedStyle(e).display !== 'none').filter(e => {
          const b = e.getBoundingClientRect(); return b.width > 0 && (b.right > frame.right + 1 || b.left < frame.left - 1 || b.bottom > frame.bottom + 1) })
          .map(e => e.outerHTML.slice(0, 80)) })"""
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


def test_nothing_is_loaded_and_nothing_complains(browser, written):
    browser.open(written["html"])
    requests = {e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"}
    assert {r for r in requests if not r.startswith("data:")} == {written["html"].as_uri()}
    assert not [e for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")]
    assert browser.evaluate("document.querySelectorAll('script,img,iframe,object,embed,form,base').length") == 0
    # The policy holds: an injected script does not run, a picture from another site does not load.
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.invalid/x.png\" onerror=\"window.ran = 1\">')")
    browser.evaluate("{const s = document.createElement('script'); s.textContent = 'window.ran = 2'; document.body.append(s)}")
    browser.evaluate("new Promise(done => setTimeout(done, 200))")
    assert browser.evaluate("window.ran") is None
    assert not [e for e in browser.events if e["method"] == "Network.responseReceived" and "example.invalid" in e["params"]["response"]["url"]]


def test_the_text_is_there_and_hostile_names_are_shown_unchanged(browser, written):
    browser.open(written["html"])
    browser.evaluate(OPEN_ALL)
    text = browser.evaluate("document.body.innerText")
    for piece in ["Files and signatures hold; ", "May this be shipped?", "What is it?", "proved by sample", "proved by audit", "only recorded", "3.2e-332", "9.8\u00a0%", "<i>who</i> taught whom",
                  "<b>made again with 2 threads</b>", "sus|pect", "<script>alert(2)</script>|x", "share-alike", "5f2c9a", *HOSTILE[:2]]:
        assert piece in text, piece
    assert without_marks(HOSTILE[2]) in text and "\u202e" not in text and "\u061c" not in text
    assert str(written["html"].parent) not in written["html"].read_text()


COLOURS = """(() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
  const lum = c => { const f = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 };
                     return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]) };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c;
                        if (c[3] > 0) throw new Error('half transparent') } return [255, 255, 255, 1] };
  const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05) };
  const worst = {};
  const note = (what, text, value) => { if (!(what in worst) || value < worst[what][0]) worst[what] = [value, text.trim().slice(0, 40)] };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data;
    if (!text.trim() || e.closest('title,desc,style,script')) continue;
    const style = getComputedStyle(e), svg = e.closest('svg');
    const box = svg && e.closest('.box');
    const back = box && style.getPropertyValue('fill') ? parse(getComputedStyle(box.querySelector('rect')).fill) : behind(svg ? svg.parentElement : e);
    note(svg ? 'svg text' : e.tagName + '.' + e.className, text, ratio(parse(svg ? style.fill : style.color), back));
  }
  for (const e of document.querySelectorAll('.box rect')) note('box edge', '', ratio(parse(getComputedStyle(e).stroke), behind(e.closest('svg').parentElement)) * 1.5);
  return worst })()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(browser, written, scheme):
    browser.open(written["html"], scheme=scheme)
    browser.evaluate(OPEN_ALL)
    worst = browser.evaluate(COLOURS)
    assert len(worst) > 12
    assert {what: value for what, value in worst.items() if value[0] < 4.5} == {}


def test_light_and_dark_are_two_pictures(browser, written):
    pictures, backs = {}, {}
    for scheme in ("light", "dark"):
        browser.open(written["html"], scheme=scheme)
        pictures[scheme] = browser.screenshot()
        backs[scheme] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        keep(f"report-{scheme}", browser.screenshot(full=True))
    assert pictures["light"] != pictures["dark"] and backs["light"] != backs["dark"]
    assert all(len(p) > 20000 for p in pictures.values())  # an empty page is some 5 kB
    browser.open(written["html"], scheme="light")
    assert browser.screenshot() == pictures["light"]


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_overflows(browser, written, width):
    browser.open(written["html"], width=width, height=800)
    browser.evaluate(OPEN_ALL)
    if width == 360:
        keep("report-phone", browser.screenshot(full=True))
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    beyond = browser.evaluate("""[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll > *') && !e.classList.contains('skip') &&
        e.getBoundingClientRect().width > 1 && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))""")
    assert beyond == []
    # What is wider than the screen is moved sideways, and can be reached by keyboard.
    assert browser.evaluate("[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth && e.tabIndex !== 0).length") == 0


def test_the_keyboard_reaches_everything_in_order(browser, written):
    browser.open(written["html"])
    browser.evaluate("""{let n = 0; for (const e of document.querySelectorAll('a[href], summary, [tabindex="0"]'))
        if (!e.closest('details:not([open])') || e.tagName === 'SUMMARY') e.dataset.stop = n++}""")
    stops = browser.evaluate("document.querySelectorAll('[data-stop]').length")
    assert stops > 20
    seen = []
    for _ in range(stops):
        browser.press("Tab", 9)
        stop, outline = browser.evaluate("[document.activeElement.dataset.stop, getComputedStyle(document.activeElement).outlineStyle]")
        seen.append(stop)
        assert outline != "none", stop
    assert seen == [str(i) for i in range(stops)]

    browser.open(written["html"])
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") >= 0  # it shows itself
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("document.activeElement.id") == "main"
    browser.press("Tab", 9)
    assert browser.evaluate("document.getElementById('main').contains(document.activeElement)")
    browser.evaluate("document.querySelector('summary').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("document.querySelector('details').open")


STRUCTURE = """(() => {
  const faults = [], all = s => [...document.querySelectorAll(s)];
  const say = (what, e) => faults.push(what + ': ' + (e ? e.outerHTML.slice(0, 100) : ''));
  if (document.documentElement.lang !== 'en') say('no language');
  if (!document.title) say('no title');
  for (const [s, n] of [['main', 1], ['body > header', 1], ['body > footer', 1], ['nav', 1], ['h1', 1]]) if (all(s).length !== n) say(s + ' is not there ' + n + ' times');
  let level = 0;
  for (const h of all('h1,h2,h3,h4,h5,h6')) { const l = +h.tagName[1]; if (l > level + 1) say('a heading skips a level', h); level = l; if (!h.textContent.trim()) say('empty heading', h) }
  const ids = all('[id]').map(e => e.id);
  if (new Set(ids).size !== ids.length) say('ids are not unique');
  for (const e of all('[aria-labelledby]')) for (const id of e.getAttribute('aria-labelledby').split(' ')) if (!document.getElementById(id)?.textContent.trim()) say('labelled by nothing', e);
  for (const e of all('a[href^="#"]')) if (!document.getElementById(e.hash.slice(1))) say('leads nowhere', e);
  for (const e of all('a')) if (!e.textContent.trim() || !e.getAttribute('href').startsWith('#')) say('no link within the page', e);
  for (const e of all('summary')) if (!e.textContent.trim() || e.parentElement.firstElementChild !== e) say('summary', e);
  for (const t of all('table')) {
    if (!t.caption?.textContent.trim()) say('no caption', t);
    const columns = t.tHead.rows[0].cells.length;
    for (const c of t.tHead.rows[0].cells) if (c.scope !== 'col') say('no scope', c);
    if (!t.tBodies[0].rows.length) say('empty table', t);
    for (const r of t.tBodies[0].rows) { if (r.cells.length !== columns) say('ragged row', r); if (r.cells[0].scope !== 'row') say('no row header', r) }
  }
  for (const s of all('svg')) if (s.getAttribute('aria-hidden') !== 'true' && (s.getAttribute('role') !== 'img' || !s.querySelector(':scope > title')?.textContent || !s.querySelector(':scope > desc')?.textContent)) say('drawing without words', s);
  for (const e of all('[tabindex]')) if (+e.getAttribute('tabindex') > 0) say('tabindex', e);
  for (const e of all('section')) if (!e.getAttribute('aria-labelledby')) say('section without a name', e);
  if (!document.querySelector('meta[name=viewport]') || /user-scalable=no|maximum-scale/.test(document.querySelector('meta[name=viewport]').content)) say('viewport');
  return faults })()"""


def test_structure_for_screen_readers(browser, written):
    browser.open(written["html"])
    assert browser.evaluate(STRUCTURE) == []
    # The screen reader's own view; on a narrow screen, where tables become cards, they must stay tables to it.
    for width in (1280, 360):
        browser.open(written["html"], width=width)
        browser.evaluate(OPEN_ALL)
        nodes = [n for n in browser.command("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
        roles = collections.Counter(n["role"]["value"] for n in nodes)
        tables, rows = browser.evaluate("[document.querySelectorAll('table').length, document.querySelectorAll('tbody tr').length]")
        assert roles["table"] == tables and roles["rowheader"] == rows and roles["columnheader"] > tables
        assert roles["main"] == roles["navigation"] == roles["banner"] == roles["contentinfo"] == 1
        assert all(n["name"]["value"] for n in nodes if n["role"]["value"] in ("image", "region", "table", "heading", "link"))


def test_print_unfolds_all_but_the_tables_of_each_layer(browser, written):
    browser.open(written["html"])
    browser.media(kind="print")
    hidden = "[...document.querySelectorAll('%s table')].filter(t => !t.checkVisibility()).length"
    assert browser.evaluate("document.querySelectorAll('details:not(.bulk) table').length") > 3
    assert browser.evaluate(hidden % "details:not(.bulk)") == 0
    assert browser.evaluate(hidden % "details.bulk") == browser.evaluate("document.querySelectorAll('details.bulk table').length") > 0
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    pdf = base64.b64decode(browser.command("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 30000
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) < 12


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run with the artifacts, layers, experts and figures of the demo's, of a teacher that is small. The report of it."""
    folder = tmp_path_factory.mktemp("large")
    recipe = configparser.ConfigParser()
    recipe.read(SOURCE / "examples/smollm2-moe.ini")
    for step in recipe.values():
        if "tokens" in step:
            step["tokens"] = "128"
        if step.get("stage") == "recover":
            step["min-tokens"] = "1"
        if step.get("stage") == "carve":
            step["certificate-tokens"] = "64"
    recipe.pop("q8_0")
    recipe["teacher"] = {"stage": "tiny-teacher", "layers": "30", "hidden-size": "32", "intermediate-size": "96", "seed": "1"}
    recipe["samples"].update({"count": "4", "chat": "0", "max-tokens": "48"})
    recipe["corpus"].update({"source": str(SOURCE / "examples/texts"), "window-length": "64", "source-share": "1", "held-out": "0.25"})
    recipe["evaluation"].update({"tokens": "64", "prompts": "0"})
    with (folder / "recipe.ini").open("w") as file:
        recipe.write(file)
    overproof("run", folder / "recipe.ini", "--out", folder / "run", "--threads", 1, env={"OVERPROOF_KEY": str(folder / "key.pem")})
    overproof("audit", "report", folder / "run", "--out", folder / "report.html", "--quiet")
    return folder / "report.html"


def test_a_run_like_the_demo_is_printed_on_less_than_twenty_pages(browser, large):
    browser.open(large)
    assert browser.evaluate("document.querySelectorAll('#lineage .box').length") == 24
    assert browser.evaluate("document.querySelectorAll('#training figure').length") > 10
    browser.media(kind="print")
    for paper in ({}, {"paperWidth": 8.27, "paperHeight": 11.69}):  # letter, A4
        pdf = base64.b64decode(browser.command("Page.printToPDF", **paper)["data"])
        assert 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) < 20
    # What is folded on the screen has its heading on paper: the caption of its table.
    assert browser.evaluate("[...document.querySelectorAll('details:not(.bulk)')].every(d => d.querySelector('caption').checkVisibility())")
    assert browser.evaluate("[...document.querySelectorAll('details.bulk > summary')].every(s => s.checkVisibility())")


@pytest.mark.parametrize("width", [320, 1280])
def test_no_label_of_a_large_drawing_is_cut(browser, large, width):
    browser.open(large, width=width, height=900)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate(CUT) == []


def test_the_first_screen_answers_both_readers(browser, run, written):
    browser.open(written["html"], width=1280, height=900)
    shown = browser.evaluate("""[...document.querySelectorAll('#summary h3')].map(h => [h.textContent, h.getBoundingClientRect().top])""")
    assert [title for title, _ in shown] == ["May this be shipped?", "What is it?"]
    assert all(top < 500 for _, top in shown) and abs(shown[0][1] - shown[1][1]) < 2  # side by side
    assert browser.evaluate("document.querySelector('.verdict').className") == "verdict warn"
    assert browser.evaluate("document.querySelectorAll('.good').length") == 0  # claims are unchecked: nothing is green
    summary = browser.evaluate("document.getElementById('summary').innerText")
    for piece in ["Teacher", "Dates", "Not checked", "Signed with", "of teacher in bf16", "KL to teacher", "read a token", "Not legal advice"]:
        assert piece in summary, piece
    evaluation = json.loads((run / "evaluation/evaluation.json").read_text())["models"]
    int8 = next(m for m in evaluation if m["name"] == "int8")
    assert f"{int8['bytes'] / 2 / evaluation[0]['parameters']:.2f}" in summary

    # The licences that training reached, as audit trace computes them, and the terms of the final model.
    report = json.loads(written["json"].read_text())
    traced = json.loads(overproof("audit", "trace", run, "--export", "int8", "--reached", "--json").stdout)
    reached = {l["license"]: l["documents_reached"] for l in traced["licenses"]}
    assert {l["recorded"]: l["documents_reached"] for l in report["corpora"][0]["licenses"]} == reached
    shipping = next(s for s in report["shipping"] if "int8" in s["models"])
    terms = {t["name"]: t for t in shipping["items"]}
    assert terms["GPL-3.0-only"]["state"] == "open" and terms["GPL-3.0-only"]["documents_reached"] == reached["GPL-3.0-only"]
    assert not shipping["holds"] and shipping["missing"] == [t["name"] for t in shipping["items"] if t["state"] == "open"]


@pytest.mark.parametrize("width", [320, 360])
def test_no_drawing_is_cut_on_a_phone(browser, written, width):
    browser.open(written["html"], width=width, height=800)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate(CUT) == []
    smallest = browser.evaluate("""Math.min(...[...document.querySelectorAll('figure svg text')].filter(e => getComputedStyle(e).display !== 'none')
        .map(e => e.getBoundingClientRect().height))""")
    assert smallest >= 8


class Reader(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.rows = collections.Counter(), "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_data(self, data):
        self.text += data


def test_markdown_has_the_same_content_in_another_renderer(written):
    source = written["markdown"].read_text()
    reader = Reader(MarkdownIt("commonmark", {"html": True}).enable("table").render(source))
    assert set(reader.tags) <= {"h1", "h2", "h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "strong", "code"}
    assert reader.tags["h1"] == 1 and reader.tags["table"] > 12
    for piece in ["Files and signatures hold; ", "<i>who</i> taught whom", "sus|pect", "<script>alert(2)</script>|x", "3.2e-332", *HOSTILE[:2], without_marks(HOSTILE[2])]:
        assert piece in reader.text, piece
    page = Reader(written["html"].read_text())
    assert sum(reader.rows) == sum(page.rows)  # cell for cell the tables of the page
    assert not any(line.startswith(("    ", "\t")) for line in source.splitlines())


def test_json_is_what_python_counts_and_what_the_page_shows(browser, run, written):
    report = json.loads(written["json"].read_text())
    assert report["format_version"] == 2 and report["holds"] is True
    assert {a["name"]: a["root"] for a in report["artifacts"]} == {a.name: "sha256:" + root(run, a.name) for a in run.iterdir() if (a / "model.sig").exists()}

    documents = [json.loads(line) for line in (run / "corpus/documents.jsonl").read_text().splitlines()]
    for kind, field in [("sources", "source"), ("licenses", "license")]:
        counts = collections.Counter(d[field] for d in documents)
        listed = {(t["name"] if kind == "sources" else t["recorded"]): t["documents"] for t in report["corpora"][0][kind]}
        assert listed == counts and len(listed) == 3
    assert report["corpora"][0]["documents"] == len(documents)

    counted = [a.name for a in run.iterdir() if (a / "routing/router_counts.safetensors").exists()]
    assert sorted(e["artifact"] for e in report["experts"]) == sorted(counted)
    for e in report["experts"]:
        file = run / e["artifact"] / "routing/router_counts.safetensors"
        with safe_open(file, "numpy") as f:
            names = json.loads(f.metadata()["sources"])
        counts = load_file(file)["counts"].astype(float)
        for row in (x for layer in e["by_layer"] for x in layer):
            mine = counts[:, row["layer"], row["expert"]]
            assert row["tokens"] == mine.sum()
            for share in row["sources"]:
                s = names.index(share["source"])
                mass = mine[s] / mine.sum()
                part = counts[s, row["layer"]].sum() / counts[:, row["layer"]].sum()
                assert share["tokens"] == mine[s] and share["mass"] == pytest.approx(mass) and share["lift"] == pytest.approx(mass / part)

    status = {c["id"]: c["status"] for c in report["claims"]}
    assert status["files-unchanged"] == "proved" and status["training-student"] == "sampled" and status["derived-equal"] == "audited"
    assert status["kinship"] == "estimated" and status["document-origin"] == status["time"] == status["nothing-else"] == "recorded"
    assert {a["file"]: a["status"] for a in report["audits"]} == {
        "broken.json": "unreadable", "compare-x.json": "counts", "recompute-run.json": "counts", "replay-student.json": "counts"}
    browser.open(written["html"])
    shown = browser.evaluate("[...document.querySelectorAll('#claims > .scroll > table')][0].tBodies[0].rows.length")
    assert shown == len(report["claims"])


def test_same_bytes_twice_and_records_without_a_trusted_key_count_as_statements(run, written, tmp_path):
    for name, file in written.items():
        overproof("audit", "report", run, "--format", name, "--out", tmp_path / name, "--auditor-key", run.parent / "auditor.pub")
        assert (tmp_path / name).read_bytes() == file.read_bytes()
    report = json.loads(overproof("audit", "report", run, "--format", "json", "--out", "-").stdout)
    status = {c["id"]: c["status"] for c in report["claims"]}
    assert status["training-student"] == "recorded" and status["kinship"] == "recorded"
    overproof("audit", "report", run, "--out", run / "student" / "report.html", code=2)


def test_a_changed_run_begins_with_its_findings(browser, run, tmp_path):
    copy = tmp_path / "touched"
    subprocess.run(["cp", "-a", run, copy], check=True)
    weights = copy / "student/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    overproof("audit", "report", copy, "--out", tmp_path / "touched.html", code=4)
    browser.open(tmp_path / "touched.html")
    assert browser.evaluate("document.querySelector('.verdict').innerText") == "✗ This run does not hold"
    titles = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert titles[:2] == ["Summary", "Findings"]
    assert browser.evaluate("document.querySelectorAll('.box.bad').length") >= 1
    assert browser.evaluate(STRUCTURE) == []
    worst = browser.evaluate(COLOURS)
    assert {what: value for what, value in worst.items() if value[0] < 4.5} == {}
    keep("report-touched", browser.screenshot(full=True))
