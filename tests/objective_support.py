"""A denoiser of two layers to train against, and the same in plain float64."""

import torch
from torch import nn

from erasure_core.chain import Place
from erasure_core.training.adapters import low_rank, whole
from erasure_core.training.engine import Engine
from erasure_core.training.examples import Bank, Example, examples_of
from erasure_core.training.grid import Grid
from erasure_core.training.loop import Trainer
from erasure_core.training.methods import method_named
from erasure_core.training.texts import Texts

WIDTH, TOKENS, SHAPE = 6, 4, (4, 3, 3)
SIGMAS = torch.linspace(0.03, 14.0, 1000, dtype=torch.float64)
LAYERS = ("unet.read", "unet.look")


def texts_of(prompt):
    """[T, d]: rows that depend on the words alone."""
    source = torch.Generator().manual_seed(sum(map(ord, prompt)) + len(prompt))
    return torch.randn(TOKENS, WIDTH, generator=source)


class Words:
    """A library without a text encoder."""

    def __getitem__(self, prompt):
        return Texts(texts_of(prompt)[None])

    def ends(self, prompts):
        return torch.stack([texts_of(prompt)[-1] for prompt in prompts])


class Stub:
    """out = look(x) + 0.5 tanh(read(mean row)) + t / 5000."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.modules = {"unet.read": nn.Linear(WIDTH, SHAPE[0]), "unet.look": nn.Conv2d(4, 4, 3, padding=1)}
        for module in self.modules.values():
            module.requires_grad_(False)

    def place(self, layer):
        return Place(self.modules[layer])

    def predict(self, x, t, texts):
        read = 0.5 * torch.tanh(self.modules["unet.read"](texts.hidden.mean(1)))
        return self.modules["unet.look"](x) + read[:, :, None, None] + t.to(x)[:, None, None, None] / 5000


def trainer_for(name, concepts, examples=None, roughness=0.1, bank=("a dog", "a cup", "a tree"), **options):
    """A trainer on the stub; its adapter holds random values, so that current and frozen predictions differ."""
    method = method_named(name)
    settings = method.Settings(**{"grid": 10, "warmup": 0, **options})
    network = Stub()
    shapes = {f"{n}.{p}": tuple(v.shape) for n, m in network.modules.items() for p, v in m.named_parameters()}
    if settings.form == "weights":
        adapter, roughness = whole(shapes, LAYERS), 0.0
    else:
        adapter = low_rank(shapes, LAYERS, settings.rank, settings.alpha, 1.0, torch.Generator().manual_seed(1))
    source = torch.Generator().manual_seed(2)
    for parameter in adapter.parameters.values():
        parameter.data += roughness * torch.randn(parameter.shape, generator=source)
    engine = Engine(network, adapter, Grid.of(SIGMAS, settings.grid))
    own = examples or getattr(method, "examples", examples_of)(concepts, settings)
    library = Words()
    trainer = Trainer(engine, method, settings, own, library, Bank.of(library, bank), SHAPE)
    trainer.attachment = adapter.attached({layer: network.place(layer) for layer in LAYERS})
    trainer.attachment.__enter__()  # for as long as the trainer lives
    return trainer


def plain(trainer):
    """Frozen and trained prediction in float64, without hooks: functions of x [c, h, w], k and rows [T, d]."""
    modules = trainer.engine.network.modules
    frozen = {name: (m.weight.double(), m.bias.double()) for name, m in modules.items()}
    trained = {}
    for name, (weight, bias) in frozen.items():
        layer = trainer.engine.adapter.layers[name]
        down, up = (layer.parameters[part].detach().double() for part in ("down", "up"))
        change = layer.scale * (up @ down.reshape(len(down), -1)).reshape(weight.shape)
        trained[name] = (weight + change, bias)
    taus = [round(1000 * (len(trainer.engine.grid) - k) / len(trainer.engine.grid)) - 1 for k in range(10)]

    def predict(parameters, x, k, rows):
        weight, bias = parameters["unet.read"]
        read = 0.5 * torch.tanh(weight @ rows.double().mean(0) + bias)
        weight, bias = parameters["unet.look"]
        out = torch.nn.functional.conv2d(x.double()[None], weight, bias, padding=1)[0]
        return out + read[:, None, None] + taus[k] / 5000

    return (lambda x, k, rows: predict(frozen, x, k, rows)), (lambda x, k, rows: predict(trained, x, k, rows))


def example(**texts):
    return Example({"anchor": "", **texts})
