"""What was measured to be fastest on a device, kept as a small table that is read and passed on."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpass_kernels.kernel import Kernel, Product
from qpass_kernels.tuning.bound import bind
from qpass_kernels.tuning.choice import Choice, bucket

# a choice is one for products with any epilogue
KEY = [field.name for field in dataclasses.fields(Product) if field.name != "epilogue"]


@dataclass(frozen=True)
class Tuned:
    """The choices that were measured on a device.

    Attributes:
        device: its kind, as `jax.Device.device_kind` says ("NVIDIA H200").
        platform: "cpu", "cuda" or "tpu".
        jax: the version that the choices were measured with.
        choices: pairs of a product, its m and batch rounded by `bucket`, and what is best for it.
    """

    device: str
    platform: str
    jax: str
    choices: tuple[tuple[Product, Choice], ...] = ()

    def choice(self, product: Product) -> Choice | None:
        """What was measured for products of this kind; None where nothing was."""
        wanted = bucket(product)
        return next((choice for kind, choice in self.choices if kind == wanted), None)

    def kernels(self, table: Sequence[Kernel]) -> tuple[Kernel, ...]:
        """The table with these choices in it; products that were not measured stay as they are.

        A kernel runs with the setting that was chosen for it, if it still has that. One that is for
        this platform alone refuses products for which another kernel of the table was faster.
        """
        return bind(table, self)

    def save(self, file: Path | str) -> None:
        """Write the table as JSON."""
        Path(file).write_text(self.to_json() + "\n", encoding="utf-8")

    def to_json(self) -> str:
        """The table as JSON that a person can read."""
        products = [
            {name: getattr(product, name) for name in KEY}
            | dataclasses.asdict(choice)
            | {"config": _fields(choice)}
            for product, choice in self.choices
        ]
        document = {"device": self.device, "platform": self.platform, "jax": self.jax}
        return json.dumps(document | {"products": products}, indent=1)


def load(file: Path | str) -> Tuned:
    """Read a table that `Tuned.save` has written.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    try:
        document = json.loads(Path(file).read_text(encoding="utf-8"))
        pairs = tuple(map(_read, document.pop("products")))
        return Tuned(**document, choices=pairs)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no table of measured kernels: {error}") from error


def _fields(choice: Choice) -> dict[str, Any] | None:
    return None if choice.config is None else dict(choice.config)


def _read(row: Mapping[str, Any]) -> tuple[Product, Choice]:
    config = row["config"]
    pairs = None if config is None else tuple(config.items())
    choice = Choice(row["kernel"], pairs, row["seconds"])
    return Product(**{name: row[name] for name in KEY}), choice
