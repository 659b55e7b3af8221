"""Tables that come with the package, one for each device that was measured; none was so far."""

from importlib import resources

from qpass_kernels.tuning.table import Tuned, load


def shipped() -> tuple[Tuned, ...]:
    """Read all tables that come with the package."""
    folder = resources.files("qpass_kernels.tuning") / "devices"
    found = []
    for file in sorted(folder.iterdir(), key=lambda x: x.name) if folder.is_dir() else ():
        with resources.as_file(file) as path:
            found.append(load(path))
    return tuple(found)


def for_device(device: str) -> Tuned | None:
    """The table of a kind of device, as `jax.Device.device_kind` names it; None without one."""
    return next((tuned for tuned in shipped() if tuned.device == device), None)
