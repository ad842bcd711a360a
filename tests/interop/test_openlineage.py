"""OpenLineage events, posted by real stages to a real HTTP server on loopback, and read with openlineage-python's own classes. A server
that answers no, hangs, closes early, redirects or never stops talking must not harm the run."""
import http.server
import json
import os
import socket
import subprocess
import threading

import numpy
import pytest
from safetensors.numpy import save_file
from sealed_run import Run

OVERPROOF = os.environ["OVERPROOF"]
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("OPENLINEAGE_") and k.lower() not in ("http_proxy", "all_proxy")}


def start(*words, **environment):
    return subprocess.Popen([OVERPROOF, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN | environment)


def overproof(*words, code=0, timeout=60, **environment):
    process = start(*words, **environment)
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, f"{words}\n{out}\n{err}"
    return out, err


class Server(http.server.ThreadingHTTPServer):
    """Keeps what is posted. `answer(handler)` decides what comes back."""
    daemon_threads = True

    def __init__(self, answer):
        self.events, self.requests, self.answer = [], [], answer
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers)))
        self.server.events.append(json.loads(body))
        self.server.answer(self)

    def do_GET(self):
        self.server.requests.append(("GET " + self.path, dict(self.headers)))
        self.send_error(500)

    def log_message(self, *words):
        pass


def created(handler):
    handler.send_response(201)
    handler.end_headers()


@pytest.fixture
def server():
    with Server(created) as running:
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "hf").mkdir()
    save_file({"model.embed_tokens.weight": numpy.ones((4, 4), "float32")}, folder / "hf/model.safetensors")
    (folder / "hf/config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


def run_import(source, out, *more, **options):
    return overproof("import", "--path", source / "hf", "--license", "MIT", "--out", out, "--key", source / "key.pem", *more, **options)


# What the specification demands of an event: https://openlineage.io/spec/2-0-2/OpenLineage.json. openlineage-python's classes check types
# of times, UUIDs and URLs, and know each facet's fields; unknown fields and missing ones are errors of their constructors.

def facet(classes, name, fields):
    fields = dict(fields)
    assert fields.pop("_producer").startswith("urn:overproof") and fields.pop("_schemaURL")
    if name.startswith("overproof_"):
        return fields
    made = classes[name](**fields)
    assert made._get_schema() == classes[name]._get_schema()
    return made


def parse(event):
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import (dataset_type_dataset, dataset_version_dataset, documentation_job, error_message_run,
                                             job_type_job, output_statistics_output_dataset, processing_engine_run)
    from openlineage.client.generated import execution_parameters_run
    classes = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet, "errorMessage": error_message_run.ErrorMessageRunFacet,
        "jobType": job_type_job.JobTypeJobFacet, "documentation": documentation_job.DocumentationJobFacet,
        "version": dataset_version_dataset.DatasetVersionDatasetFacet, "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet,
        "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
        "executionParameters": lambda **f: execution_parameters_run.ExecutionParametersRunFacet(
            parameters=[execution_parameters_run.ExecutionParameter(**p) for p in f["parameters"]]),
    }
    classes["executionParameters"]._get_schema = execution_parameters_run.ExecutionParametersRunFacet._get_schema

    def facets(of):
        for name, fields in of.items():
            if name in classes and not name.startswith("overproof_"):
                assert fields["_schemaURL"] == classes[name]._get_schema(), name
        return {name: facet(classes, name, fields) for name, fields in of.items()}

    def dataset(kind, fields):
        fields = dict(fields, facets=facets(fields["facets"]))
        for more in ("inputFacets", "outputFacets"):
            if more in fields:
                fields[more] = facets(fields[more])
        return kind(**fields)

    event = dict(event)
    assert event.pop("schemaURL") == event_v2.RunEvent._get_schema()
    return event_v2.RunEvent(
        eventType=event_v2.RunState(event.pop("eventType")), eventTime=event.pop("eventTime"), producer=event.pop("producer"),
        run=event_v2.Run(**dict(event["run"], facets=facets(event.pop("run")["facets"]))),
        job=event_v2.Job(**dict(event["job"], facets=facets(event.pop("job")["facets"]))),
        inputs=[dataset(event_v2.InputDataset, d) for d in event.pop("inputs")],
        outputs=[dataset(event_v2.OutputDataset, d) for d in event.pop("outputs")], **event)


def test_the_client_refuses_what_is_wrong(source, server, tmp_path):
    run_import(source, tmp_path / "run/teacher", "--openlineage-url", server.url)
    good = server.events[0]
    parse(good)
    for spoil in (lambda e: e.update(eventTime="now"), lambda e: e["run"].update(runId="1"), lambda e: e.update(eventType="BEGIN"),
                  lambda e: e["job"].pop("name"), lambda e: e.update(more=1),
                  lambda e: e["run"]["facets"]["processing_engine"].pop("version"),
                  lambda e: e["job"]["facets"]["jobType"].update(unknown=1),
                  lambda e: e["run"]["facets"]["processing_engine"].update(_schemaURL="https://example.org")):
        event = json.loads(json.dumps(good))
        spoil(event)
        with pytest.raises(Exception):
            parse(event)


def test_a_stage_sends_start_and_complete(source, server, tmp_path):
    out, err = run_import(source, tmp_path / "run/teacher", "--openlineage-url", server.url, "--json")
    root = json.loads(out)["root"]
    assert not err and [path for path, _ in server.requests] == ["/api/v1/lineage"] * 2
    assert all(h["Content-Type"] == "application/json" and "Authorization" not in h for _, h in server.requests)
    first, last = map(parse, server.events)
    assert (first.eventType.value, last.eventType.value) == ("START", "COMPLETE")
    assert first.run.runId == last.run.runId and first.job == last.job and first.job.name == "run/teacher"
    assert not first.outputs and last.outputs[0].name == "run/teacher"
    assert last.outputs[0].facets["version"].datasetVersion == root
    assert last.outputs[0].outputFacets["outputStatistics"].fileCount == 2
    parameters = {p.key: p.value for p in last.run.facets["executionParameters"].parameters}
    assert parameters["license"] == "MIT"
    assert str(tmp_path) not in json.dumps(server.events) and str(source) not in json.dumps(server.events)
    # What is unchanged did not run.
    run_import(source, tmp_path / "run/teacher", "--openlineage-url", server.url)
    assert len(server.events) == 2


def test_environment_key_endpoint_and_namespace(source, server, tmp_path):
    run_import(source, tmp_path / "run/teacher", OPENLINEAGE_URL=server.url + "/", OPENLINEAGE_API_KEY="secret-token",
               OPENLINEAGE_ENDPOINT="custom/events", OPENLINEAGE_NAMESPACE="lab")
    assert [p for p, _ in server.requests] == ["/custom/events"] * 2
    assert all(h["Authorization"] == "Bearer secret-token" for _, h in server.requests)
    assert parse(server.events[1]).job.namespace == "lab" == parse(server.events[1]).outputs[0].namespace


def test_a_failing_stage_sends_fail(source, server, tmp_path):
    overproof("import", "--path", source / "hf", "--sha256", "0" * 64, "--out", tmp_path / "run/teacher", "--key", source / "key.pem",
              "--openlineage-url", server.url, code=4)
    events = [parse(e) for e in server.events]
    assert [e.eventType.value for e in events] == ["START", "FAIL"] and events[0].run.runId == events[1].run.runId
    assert "requires sha256" in events[1].run.facets["errorMessage"].message and not events[1].outputs


def test_recipes_send_events_with_lineage_between_them(server, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/documents.jsonl").write_text("".join(
        json.dumps({"name": f"{i}.txt", "source": "notes", "license": "CC0-1.0"}) + "\n" for i in range(4)))
    for i in range(4):
        (tmp_path / f"texts/{i}.txt").write_text(f"document {i}: " + "some words of text " * 8)
    (tmp_path / "r.ini").write_text("[teacher]\nstage = tiny-teacher\nseed = 1\n[corpus]\nsource = texts\ntokenizer = teacher\nheld-out = 0\n")
    overproof("run", tmp_path / "r.ini", "--out", tmp_path / "run", "--key", tmp_path / "key.pem", "--openlineage-url", server.url)
    events = [parse(e) for e in server.events]
    assert [(e.job.name, e.eventType.value) for e in events] == [("run/teacher", "START"), ("run/teacher", "COMPLETE"),
                                                                 ("run/corpus", "START"), ("run/corpus", "COMPLETE")]
    made = events[1].outputs[0]
    used = next(d for d in events[3].inputs if d.name == made.name)
    assert (used.namespace, used.facets["version"].datasetVersion) == (made.namespace, made.facets["version"].datasetVersion)
    assert events[0].run.runId != events[2].run.runId


# Servers that misbehave

def troubled(answer, source, tmp_path, *, count=2, url=None):
    with Server(answer) as running:
        _, err = run_import(source, tmp_path / "run/teacher", "--openlineage-url", url or running.url)
        running.shutdown()
    assert (tmp_path / "run/teacher/claims.jsonl").exists()
    overproof("audit", "verify", tmp_path / "run/teacher")
    assert err.count("warning: the lineage server") == count
    return running, err


def test_a_server_that_answers_500(source, tmp_path):
    _, err = troubled(lambda h: h.send_error(500), source, tmp_path)
    assert "HTTP status 500" in err


def test_a_server_that_closes_early(source, tmp_path):
    def close(handler):
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
    troubled(close, source, tmp_path)


def test_a_server_that_is_not_there(source, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:password@127.0.0.1:{unused.getsockname()[1]}/?token=hidden"
        _, err = troubled(created, source, tmp_path, url=url)
    assert "password" not in err and "hidden" not in err


def test_a_server_that_never_stops_talking(source, tmp_path):
    def flood(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            handler.close_connection = True
    troubled(flood, source, tmp_path, count=0)


def test_a_server_that_redirects_is_not_followed(source, tmp_path):
    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", handler.server.url + "/elsewhere")
        handler.end_headers()
    running, err = troubled(redirect, source, tmp_path)
    assert [p for p, _ in running.requests] == ["/api/v1/lineage"] * 2 and "HTTP status 302" in err


def test_a_server_that_answers_nonsense(source, tmp_path):
    def nonsense(handler):
        handler.wfile.write(b"\xff\x00 not http at all\r\n\r\n" + b"\x1b[31m" * 100)
        handler.close_connection = True
    _, err = troubled(nonsense, source, tmp_path)
    assert "\x1b" not in err


def test_a_server_that_hangs(source, tmp_path):
    """5 seconds for the first event, 2 for each after it."""
    release = threading.Event()
    try:
        _, err = troubled(lambda handler: release.wait(600), source, tmp_path)
    finally:
        release.set()
    assert "imed out" in err


def test_ctrl_c_ends_a_run_that_waits_for_a_hanging_server(source, tmp_path):
    import signal
    release, arrived = threading.Event(), threading.Event()

    def hang(handler):
        arrived.set()
        release.wait(600)
    with Server(hang) as running:
        process = start("import", "--path", source / "hf", "--out", tmp_path / "run/teacher", "--key", source / "key.pem",
                        "--openlineage-url", running.url)
        assert arrived.wait(30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        release.set()
        running.shutdown()
    assert process.returncode == 130, err
    assert not (tmp_path / "run/teacher").exists()


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://127.0.0.1/", "file:///etc/passwd", "javascript:1"])
def test_what_is_no_url_is_refused_before_anything_is_done(source, tmp_path, url):
    _, err = overproof("import", "--path", source / "hf", "--out", tmp_path / "run/teacher", "--key", source / "key.pem",
                       "--openlineage-url", url, code=2)
    assert "begins with http" in err and not (tmp_path / "run").exists()


def test_a_key_that_would_add_headers_is_not_sent(source, server, tmp_path):
    _, err = run_import(source, tmp_path / "run/teacher", OPENLINEAGE_URL=server.url, OPENLINEAGE_API_KEY="a\r\nX-Evil: 1")
    assert not server.requests and "line break" in err and "X-Evil" not in err


# A finished run

def test_events_of_a_finished_run(tmp_path):
    run = Run(tmp_path / "run")
    out, _ = overproof("audit", "openlineage", run.path, "--created", "2026-11-24T12:00:00Z")
    again, _ = overproof("audit", "openlineage", run.path, "--created", "2026-11-24T12:00:00Z")
    assert out == again and str(tmp_path) not in out
    events = [parse(json.loads(line)) for line in out.splitlines()]
    assert len(events) == 2 * len(run.roots)
    complete = {e.job.name: e for e in events if e.eventType.value == "COMPLETE"}
    assert set(complete) == {f"run/{name}" for name in run.roots}
    versions = {d.name: d.facets["version"].datasetVersion for e in complete.values() for d in e.outputs}
    assert versions == {f"run/{name}": f"sha256:{root}" for name, root in run.roots.items()}
    for e in complete.values():  # every input is some artifact's output: a server draws the whole graph
        for d in e.inputs:
            assert versions[d.name] == d.facets["version"].datasetVersion
    assert {d.name for d in complete["run/student"].inputs} == {"run/corpus", "run/soft-targets", "run/student-init"}
    assert len({e.run.runId for e in events}) == len(run.roots)
    file = tmp_path / "events.jsonl"
    overproof("audit", "openlineage", run.path / "int8", "--out", file)
    assert len(file.read_text().splitlines()) == 2 * 7
