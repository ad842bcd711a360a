"""Headless Chromium through its own protocol (https://chromedevtools.github.io/devtools-protocol/), over two pipes: no port, no driver."""
import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time


class Browser:
    """One browser, one page. Commands wait for their answer; events are kept in `events`."""

    def __init__(self, profile):
        names = [os.environ.get("CHROMIUM", ""), "chromium-headless-shell", "chromium", "google-chrome"]
        program = next((found for found in map(shutil.which, filter(None, names)) if found), None)
        assert program, "no Chromium: tools/setup.sh test installs chromium-headless-shell"
        # The protocol uses descriptors 3 and 4; above 10 nothing is in their way until the child puts them there.
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        child = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (commands, answers)]
        start = f"import os, sys; os.dup2({child[0]}, 3); os.dup2({child[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
                   "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen([sys.executable, "-c", start, program, *options, "about:blank"], pass_fds=child,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for fd in [commands, answers, *child]:
            os.close(fd)
        self._buffer, self._number, self._session, self.events = b"", 0, None, []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network", "DOM", "Accessibility"]:
            self.command(f"{domain}.enable")

    def close(self):
        if self._process.poll() is None:
            os.write(self._out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)  # Debian's program is a script around the real one
                self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def _message(self, seconds=120):
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], max(0, end - time.monotonic()))[0], "Chromium does not answer"
            piece = os.read(self._in, 1 << 20)
            assert piece, "Chromium ended"
            self._buffer += piece
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def command(self, method, **parameters):
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data):]
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def open(self, file, width=1280, height=900, scheme="light"):
        """Loads a file anew, and waits until it is there. Events from before are forgotten."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.media(scheme)
        self.command("Page.navigate", url="about:blank")
        self.events = []
        self.command("Page.navigate", url=file.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(self._message())
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def media(self, scheme="light", kind="screen"):
        self.command("Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression):
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key, code=0, text=None):
        more = {"text": text} if text else {}
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **more)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, full=False):
        return base64.b64decode(self.command("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"])
