"""Spec -> text: what was read, after inheritance, in the notation of a spec."""

from __future__ import annotations

import json

from optgen.ir.nodes import Domain, Hyper, Input, State
from optgen.spec.model import Spec

__all__ = ["hyper_text", "input_text", "spec_text", "state_text"]


def spec_text(spec: Spec) -> str:
    """The merged spec as YAML."""
    lines = [f"name: {spec.name}", f"summary: {spec.summary}"]
    lines += [f"reference: {spec.reference}"] if spec.reference else []
    used = {f"{rule.name}_{hyper.name}" for rule in spec.rules for hyper in rule.added}
    hypers = [hyper for hyper in spec.hypers if hyper.name not in used]
    lines += [f"blocks: {{every: {spec.blocks.every}, order: {spec.blocks.order}}}"] if spec.blocks is not None else []
    lines += ["hyper:", *(f"  {hyper.name}: {hyper_text(hyper)}" for hyper in hypers)] if hypers else []
    if not spec.rules:
        return "\n".join([*lines, *_part(spec)])
    lines.append("rules:")
    for rule in spec.rules:
        condition = f"when: {rule.condition.text}" if rule.condition is not None else "otherwise:"
        body = _part(rule.spec)
        if rule.uses:
            named = {h.name: rule.shared.get(h.name) or hyper_text(h) for h in rule.spec.hypers}
            body = [f"use: {rule.uses}", "hyper:", *(f"  {name}: {text}" for name, text in named.items())]
        lines += [f"  - {condition}", *(f"    {line}".rstrip() for line in [f"name: {rule.name}", *body])]
    return "\n".join(lines)


def _part(spec: Spec) -> list[str]:
    """What stands in a spec, or in a rule of it: inputs, states and the update."""
    lines = [f"view: {{{spec.cut}: {spec.view}}}" if spec.view else f"view: {spec.cut}"] if spec.cut else []
    lines += ["inputs:", *(f"  {each.name}: {input_text(each)}" for each in spec.inputs)] if spec.inputs else []
    lines += ["state:", *(f"  {state.name}: {state_text(spec, state)}" for state in spec.states)] if spec.states else []
    for name, text in {"update": spec.update_text, **spec.point_texts}.items():
        lines += [f"{name}: |", *(f"  {line}".rstrip() for line in text.split("\n"))]
    return lines


def hyper_text(hyper: Hyper) -> str:
    """A hyperparameter in the notation of a spec."""
    default = hyper.text.replace("(", "[").replace(",)", "]").replace(")", "]") if hyper.names else hyper.text
    default = default.lower() if isinstance(hyper.default, bool) else default.strip("'")
    parts = [f"default: {default}"]
    parts += [f"names: [{', '.join(hyper.names)}]"] if hyper.names else []
    parts += [f"choices: [{', '.join(hyper.choices)}]"] if hyper.choices else []
    bounds = (("min", hyper.min), ("above", hyper.above), ("max", hyper.max), ("below", hyper.below))
    parts += [f"{word}: {value:g}" for word, value in bounds if value is not None]
    return "{" + ", ".join([*parts, *_doc(hyper.doc)]) + "}"


def _doc(doc: str) -> list[str]:
    return [f"doc: {json.dumps(doc, ensure_ascii=False)}"] if doc else []


def input_text(each: Input) -> str:
    """An input in the notation of a spec."""
    return "{" + ", ".join(["like: p", *_doc(each.doc)]) + "}"


def state_text(spec: Spec, state: State) -> str:
    """A state in the notation of a spec."""
    shape = "like" if state.domain == Domain.ELEMENT else "shape"
    parts = [f"{shape}: {state.shape}", *([f"scope: {state.scope}"] if state.shared else []), f"save_as: {state.save_as}"]
    parts += ["sign: unsigned"] if state.unsigned else []
    parts += [f"when: {spec.conditions[state.name].text.strip()}"] if state.name in spec.conditions else []
    parts += [f"init: {spec.inits[state.name].text.strip()}"] if state.name in spec.inits else []
    if state.storage is not None:
        s = state.storage
        options = [
            f"codebook: {s.codebook}",
            f"bits: {s.bits}",
            f"block: {s.block if s.scope == 'block' else s.scope}",
            f"rounding: {s.rounding}",
        ]
        options += [f"quantile: {s.quantile:g}"] if s.quantile is not None else []
        options += ["published: true"] if s.published else []
        options += ["zero: true"] if s.zero else []
        options += [f"power: {s.power}"] if s.power is not None else []
        options += [f"levels: [{', '.join(map(repr, s.levels))}]"] if s.levels else []
        parts.append("storage: {" + ", ".join([*options, f"min_size: {s.min_size}", f"min_ndim: {s.min_ndim}"]) + "}")
    if state.floats is not None:
        parts.append(f"storage: {{codebook: {state.floats.dtype}, rounding: {state.floats.rounding}}}")
    return "{" + ", ".join([*parts, *_doc(state.doc)]) + "}"
