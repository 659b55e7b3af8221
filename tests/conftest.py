"""What every test stands on: four CPU devices, repeatable random examples, a browser when asked."""

import os

from hypothesis import HealthCheck, settings

# Before anything imports jax: the devices of a process are fixed by its first use of a backend.
_FOUR_DEVICES = "--xla_force_host_platform_device_count=4"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FOUR_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Compiling makes single examples slow and the first one slowest, so time limits say nothing here.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", parent=settings.get_profile("ci"), derandomize=False, max_examples=1000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
