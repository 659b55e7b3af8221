"""What each contestant is worth: its size, its perplexity, its words and its speed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from qpass_bench.demo.options import Options
from qpass_bench.models import smollm
from qpass_bench.models.evaluate import make_loss, perplexity
from qpass_bench.models.generate import NEVER, Generator, complete, make_generator
from qpass_bench.running.contestant import Contestant, sizes
from qpass_bench.running.measure import interleaved
from qpass_bench.running.progress import Stages

PREFILLS = (128, 512)


def judge(
    model: smollm.SmolLM,
    text: np.ndarray,
    contestants: Sequence[Contestant],
    options: Options,
    stages: Stages,
) -> list[dict[str, Any]]:
    """Quality, words and speed of every contestant, in the shape of the report."""
    generators = {c.name: make_generator(c.forward, model.config) for c in contestants}
    quality = measure_perplexity(model, text, contestants, stages)
    words = answer(model, contestants, generators, options, stages)
    speed = measure_speed(contestants, generators, options, stages)
    float_bytes = sizes(model.params, model.params).total
    return [
        {
            "name": c.name,
            "about": c.variant.about,
            "rules": [rule.describe() for rule in c.variant.rules],
            "plan": plan_file(c),
            "sizes": sizes(c.params, model.params).report(float_bytes),
            "perplexity": quality[c.name],
            "perplexity_ratio": quality[c.name] / quality[contestants[0].name],
            "completion": words[c.name],
            "speed": {measure: by_name[c.name] for measure, by_name in speed.items()},
        }
        for c in contestants
    ]


def measure_perplexity(
    model: smollm.SmolLM, text: np.ndarray, contestants: Sequence[Contestant], stages: Stages
) -> dict[str, float]:
    """Perplexity on the same windows by name."""
    with stages.stage("Perplexity", len(contestants) * len(text)) as tick:
        return {
            c.name: perplexity(make_loss(c.forward, model.config), c.params, text, tick)
            for c in contestants
        }


def answer(
    model: smollm.SmolLM,
    contestants: Sequence[Contestant],
    generators: dict[str, Generator],
    options: Options,
    stages: Stages,
) -> dict[str, dict[str, str]]:
    """What each says to the question, greedily."""
    prompt = model.tokenizer.encode(smollm.chat(options.question)).ids
    said = {}
    with stages.stage("Complete a prompt", len(contestants)) as tick:
        for c in contestants:
            ids = complete(
                generators[c.name], c.params, prompt, options.steps, model.stop, PREFILLS[0]
            )
            text = model.tokenizer.decode(ids[len(prompt) :])
            said[c.name] = {"prompt": f"{options.question}\n", "text": text}
            tick()
    return said


def measure_speed(
    contestants: Sequence[Contestant],
    generators: dict[str, Generator],
    options: Options,
    stages: Stages,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Tokens per second by measure and name; within a measure the contestants take turns."""
    speed = {}
    measures = {f"prefill_{n}": (n, partial(_prefill_call, length=n)) for n in PREFILLS}
    measures["decode"] = (options.steps, partial(_decode_call, steps=options.steps))
    for name, (tokens, make) in measures.items():
        calls = {c.name: make(generators[c.name], c.params) for c in contestants}
        title = f"Time {name.replace('_', ' ')}"
        with stages.stage(title, len(contestants) * (options.rounds + 1)) as tick:
            timings = interleaved(calls, options.rounds, tick=tick)
        speed[name] = {who: timing.report(tokens) for who, timing in timings.items()}
    return speed


def _prefill_call(generator: Generator, params: Any, length: int) -> Any:
    tokens = np.arange(length, dtype=np.int32)[None]
    return lambda: generator.prefill(params, tokens, np.int32(length - 1), length=length)


def _decode_call(generator: Generator, params: Any, steps: int) -> Any:
    length = PREFILLS[0] + steps
    tokens = np.arange(PREFILLS[0], dtype=np.int32)[None]
    start = np.int32(PREFILLS[0])
    token, cache = generator.prefill(params, tokens, start - 1, length=length)
    return lambda: generator.decode(params, token, cache, start, np.int32(steps), np.int32(NEVER))


def plan_file(contestant: Contestant) -> str:
    """The name of the contestant's plan page, or nothing for the float one."""
    return f"plan-{contestant.name.replace(' ', '-')}.html" if contestant.plan is not None else ""
