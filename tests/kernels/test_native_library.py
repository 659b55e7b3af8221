"""Which library is loaded, which is not and why; the real one where there is a compiler."""

import os
import subprocess
import sys

from qpass_kernels.native import build, library
from tests.helpers import with_compiled_kernels

HASH = build.source_hash()
INSTALLED = build.ffi_version(build.include_dir())


def put(folder, version, digest=HASH):
    file = folder / f"libqpass_cpu-ffi{version[0]}.{version[1]}-{digest}.so"
    file.write_text("not a library")
    return file


@with_compiled_kernels
def test_it_is_there_where_there_is_a_compiler():
    assert library.why_not() is None


def test_none(tmp_path):
    assert build.COMMAND in library.why_not(tmp_path)


def test_a_library_of_other_sources_is_not_loaded(tmp_path):
    put(tmp_path, INSTALLED, "0123456789abcdef")
    assert "other sources" in library.why_not(tmp_path)
    assert build.COMMAND in library.why_not(tmp_path)


def test_a_library_for_a_newer_interface_is_not_loaded(tmp_path):
    """XLA would give up its whole CPU backend."""
    major, minor = INSTALLED
    put(tmp_path, (major, minor + 1))
    assert "newer jaxlib" in library.why_not(tmp_path)


def test_the_newest_that_this_jaxlib_can_call_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ffi_version", lambda headers: (0, 10))
    files = {minor: put(tmp_path, (0, minor)) for minor in (4, 9, 10, 11)}
    assert library.find(tmp_path) == files[10]
    files[10].unlink()
    assert library.find(tmp_path) == files[9]


def test_what_the_loader_says_is_the_reason(tmp_path):
    put(tmp_path, INSTALLED)
    assert "does not load" in library.why_not(tmp_path)


def test_importing_the_kernels_loads_nothing():
    code = "from qpass_kernels.native import why_not; print(why_not.cache_info().currsize)"
    assert run(code) == "0"


def test_the_command_runs_as_a_module():
    code = "import qpass_kernels, sys; print('qpass_kernels.native.build' in sys.modules)"
    assert run(code) == "False", "python -m would warn that it is imported twice"


def run(code, **env):
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        (sys.executable, "-c", code),
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CAPPED = """
import jax.numpy as jnp
from qpass_kernels.native import integer, why_not
from tests.kernels.oracle import product
from qpass_kernels.tuning.operands import operands
assert why_not() is None, why_not()
p = product(1, 8, 64, "int8", "int8")
lhs, lhs_scale, rhs, scale = operands(p)
for isa in ("portable", "avx2", "neon"):
    try:
        integer.run_stacked(p, lhs, lhs_scale, rhs[None], scale[None], jnp.int32(0), isa=isa)
    except Exception as error:
        print(isa, "refused" if "lacks the instructions" in str(error) else error)
"""


@with_compiled_kernels
def test_a_cap_on_instructions():
    assert run(CAPPED, QPASS_CPU_ISA="portable").split("\n") == ["avx2 refused", "neon refused"]


def test_a_cap_that_is_no_instruction_set_is_not_passed_over():
    asks = "from qpass_kernels.native import why_not; print(why_not())"
    assert "'sse9', none of portable, avx2" in run(asks, QPASS_CPU_ISA="sse9")


RUNS = """
import jax, jax.numpy as jnp, numpy as np
from concurrent.futures import ThreadPoolExecutor
import qpass

events = []
jax.monitoring.register_event_listener(lambda event, **kw: events.append(event))
w = jnp.asarray(np.random.default_rng(0).standard_normal((512, 512), np.float32))
x = jnp.asarray(np.random.default_rng(1).standard_normal((8, 512), np.float32))
q = qpass.transform(lambda w, x: x @ w, [qpass.Rule(weight="int8", act="int8")])
(row,) = q.plan(w, x).rows
run = jax.jit(q)
first = np.asarray(run(w, x))
hits = events.count("/jax/compilation_cache/cache_hits")
with ThreadPoolExecutor(8) as pool:
    same = all(pool.map(lambda i: (np.asarray(run(w, x)) == first).all(), range(64)))
print(row.kernel, hits > 0, same, np.abs(first).sum())
"""


@with_compiled_kernels
def test_a_kept_program_runs_in_another_process_and_in_many_threads(tmp_path):
    first, second = (run(RUNS, JAX_COMPILATION_CACHE_DIR=str(tmp_path)) for _ in range(2))
    name, hits, same, result = first.split()
    assert (name, hits, same) == ("cpu-native-int", "False", "True")
    assert second.split() == [name, "True", "True", result]
