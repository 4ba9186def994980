"""Erasing fifty concepts through the node's model: what is encoded, what is remembered, what the bar shows."""

import importlib

import graph
import torch

WORDS = [f"circle number {i}" for i in range(50)]


def main():
    model, clip, _ = graph.node("DemoModel")
    module = importlib.import_module(f"{graph.NAME}.nodes.model")
    erase = importlib.import_module(f"{graph.NAME}.erasure_core").erase
    usual = erase(module.HostModel(model, clip), WORDS[:9] + ["star"]).maps["clip_l"].factors[0]
    module._REMEMBERED = 60
    bars = []

    def progress(total, node_id):
        bars.append([total])
        return bars[-1].append

    kept = module.host.progress
    module.host.progress = progress
    try:
        own = module.HostModel(model, clip)
        few = erase(own, WORDS[:9] + ["star"]).maps["clip_l"].factors[0]
        of_few = list(bars)
        bars.clear()
        erase(own, WORDS)
    finally:
        module.host.progress = kept
    return {
        "same": torch.equal(few.up, usual.up) and torch.equal(few.down, usual.down),
        "remembered": len(own._encoded),
        "few": of_few,
        "many": bars,
    }
