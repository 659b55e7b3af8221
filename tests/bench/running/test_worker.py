"""Peers in processes of their own: what they are told, and what becomes of those that fail."""

import json
import os
import sys
from pathlib import Path

import pytest

from qpass.errors import QPassError
from qpass_bench.running.worker import Peer, PeerError, Worker, installed

PEER = """
import json, os, sys
say = lambda answer: print(json.dumps(answer), flush=True)
say({"ready": {"name": "echo", "version": "1", "threads": int(os.environ["OMP_NUM_THREADS"]),
               "variants": ["int8"]}})
held = {}
for line in sys.stdin:
    asked = json.loads(line)
    if "load" in asked and asked["load"]["k"] > 100:
        say({"error": "too large"})
    elif "load" in asked:
        held[asked["variant"]] = asked["load"]
        say({"loaded": {"bytes": asked["load"]["k"], "seconds": 0.0}})
    elif "run" in asked and asked["run"] == 13:
        print("unlucky", file=sys.stderr)
        sys.exit(1)
    elif "run" in asked:
        say({"seconds": [held[asked["variant"]]["k"] / 1000] * asked["run"]})
    elif "unload" in asked:
        held.clear()
        say({"unloaded": True})
    else:
        break
"""


def script(text):
    return Peer("echo", (sys.executable, "-c", text))


@pytest.fixture
def worker():
    with Worker(script(PEER), threads=3) as worker:
        yield worker


def test_a_peer_is_ready_loads_and_runs(worker):
    assert worker.about["threads"] == 3
    assert worker.variants == ["int8"]
    assert worker.load({"k": 8}, "int8")["bytes"] == 8
    assert worker.run(2, "int8") == [0.008, 0.008]
    worker.unload()


def test_what_a_peer_cannot_do_is_said_and_it_goes_on(worker):
    with pytest.raises(PeerError, match="echo: too large"):
        worker.load({"k": 101}, "int8")
    worker.load({"k": 1}, "int8")


def test_a_peer_that_dies_says_its_last_words(worker):
    with pytest.raises(PeerError, match="ended; it last said: unlucky"):
        worker.run(13, "int8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit('no library')", "no library"),
        ("print('Hello')", "should say 'ready'; it said b'Hello"),
        ("print('{}')", "should say 'ready'"),
        ("import time; time.sleep(9)", "no answer within 0.2 s"),
    ],
)
def test_a_peer_that_is_not_ready(text, message):
    with pytest.raises(PeerError, match=message):
        Worker(script(text), 1, wait=0.2 if "sleep" in text else 30)


def test_a_program_that_is_not_there():
    with pytest.raises(PeerError, match="does not start"):
        Worker(Peer("none", ("/no/such/program",)), 1)


def test_peers_wait_asleep_and_run_where_their_list_lies(tmp_path):
    say = "print(json.dumps({'ready': {'variants': [os.environ['OMP_WAIT_POLICY'], os.getcwd()]}}))"
    file = tmp_path / "peers.json"
    file.write_text(json.dumps({"here": [sys.executable, "-c", f"import json, os; {say}"]}))
    (peer,) = installed(file)
    with Worker(peer, 1) as worker:
        policy, folder = worker.variants
    assert (policy, Path(folder)) == ("passive", Path(os.path.realpath(tmp_path)))


def test_a_list_of_something_else(tmp_path):
    file = tmp_path / "peers.json"
    file.write_text("[1]")
    with pytest.raises(QPassError, match="must hold"):
        installed(file)
