"""Weights & Biases away: training goes on, and the run is kept for a later `wandb sync`."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from trials import run_folder

KEY = "0" * 40


@pytest.fixture
def silent_server():
    """A server that takes connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def take():
        while True:
            try:
                kept.append(listener.accept())
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


class HalfWay(BaseHTTPRequestHandler):
    """As much of W&B's server as it takes to begin a run; it goes away once the run's first lines arrive."""

    RUN = {
        "id": "1", "name": "run", "displayName": "run", "config": "{}", "historyLineCount": 0,
        "project": {"id": "2", "name": "esd", "entity": {"id": "3", "name": "me"}},
    }  # fmt: skip
    DATA = {
        "viewer": {"id": "4", "username": "me", "entity": "me", "teams": {"edges": []}, "flags": "{}"},
        "serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}, "model": None, "project": None,
        "entity": None, "upsertBucket": {"bucket": RUN, "inserted": True},
        "createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []},
    }  # fmt: skip

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "file_stream" in self.path:
            self.server.gone = True
            threading.Thread(target=lambda: (self.server.shutdown(), self.server.server_close())).start()
        content = json.dumps({"data": self.DATA}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, *args):
        pass


def test_a_server_that_goes_away_half_way_is_not_waited_for(faults, server):
    wandb = ThreadingHTTPServer(("127.0.0.1", 0), HalfWay)
    wandb.gone = False
    threading.Thread(target=wandb.serve_forever, daemon=True).start()
    cwd = faults.place()
    env = {"WANDB_BASE_URL": f"http://127.0.0.1:{wandb.server_address[1]}", "WANDB_API_KEY": KEY, "WANDB_MODE": None}
    arguments = [argument for argument in faults.arguments("student, adam") if not argument.startswith("logger=")]
    done = server.run(cwd, *arguments, env={**env, "WANDB_FINISH_TIMEOUT": "5"})
    assert done["code"] == 0, done["err"]
    folder = run_folder(cwd)
    assert wandb.gone and f"wandb sync {folder}/wandb/run-*" in done["err"]
    (kept,) = folder.glob("wandb/run-*/run-*.wandb")
    assert kept.stat().st_size > 1000 and (folder / "edit.safetensors").is_file()


@pytest.mark.parametrize("kind", ["refuses", "never answers"])
def test_training_does_not_wait_for_a_server_that_is_away(faults, server, silent_server, kind):
    cwd = faults.place()
    env = {
        "WANDB_BASE_URL": "http://127.0.0.1:9" if kind == "refuses" else silent_server,
        "WANDB_API_KEY": KEY,
        "WANDB_MODE": None,
    }
    arguments = [argument for argument in faults.arguments("student, adam") if not argument.startswith("logger=")]
    done = server.run(cwd, *arguments, env=env)
    assert done["code"] == 0, done["err"]
    folder = run_folder(cwd)
    assert f"wandb sync {folder}/wandb/offline-run-*" in done["err"]
    assert len(list(folder.glob("wandb/offline-run-*/run-*.wandb"))) == 1
    assert (folder / "edit.safetensors").is_file()
