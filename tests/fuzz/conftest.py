"""How many random programs: ``FUZZ_PROFILE=few`` (the default, always the same) or ``many``.

``FUZZ_EXAMPLES`` says how many programs each test gets under ``many``; ``--hypothesis-seed=N``
repeats a run.
"""

import os

from hypothesis import HealthCheck, settings

_common = {
    "deadline": None,  # compiling makes single examples slow
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("fuzz few", derandomize=True, max_examples=4, **_common)
settings.register_profile(
    "fuzz many",
    derandomize=False,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")),
    print_blob=True,
    **_common,
)
