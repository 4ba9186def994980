"""Text methods in the host: a CONDITIONING rewritten, or every prompt on its way into the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.errors import BadInput
from ..erasure_core.gates import GATES
from ..erasure_core.guidance.text import Steered, TextTerm, settings_of
from ..erasure_core.models import Encoded
from ..erasure_core.options import parse_options
from ..erasure_core.prompts import CHUNK
from . import host, stamp
from .wrapper import NEGATIVE, TextWrapper


@dataclass
class Rewriting:
    """One sampling: steered texts, by uuid the number of each row's text (0: left alone), and where the run is."""

    clock: Callable[[Mapping[str, Any]], float]
    texts: list[Steered] = field(default_factory=list)
    numbers: dict[Any, Tensor] = field(default_factory=dict)
    progress: float = 0.0


class Rewrite(TextWrapper):
    """A text method around the denoiser: gains are numbers of the run's texts, one for each row.

    Texts whose words are not known are left alone, as is the negative prompt.
    """

    def __init__(self, term: TextTerm, family: str, node_id: str | None) -> None:
        self._term, self._family = term, family
        self.key = f"{host.KEY}.text.{node_id}"

    def begin(self, guider: Any) -> Rewriting:
        """Steer every prompt; the text encoder may be needed, so this comes before the denoiser."""
        run = Rewriting(host.clock_of(guider))
        pooled = host.pooled_vectors(guider) if self._family == "sdxl" else {}  # others carry one that nothing reads
        for role, ident, rows, words in host.conditionings(guider):
            encoded = None if NEGATIVE in role else known(rows, pooled.get(ident), words)
            if encoded is not None:
                run.texts.append(self._term(encoded))
            run.numbers[ident] = torch.full((len(rows), 1), float(len(run.texts) if encoded is not None else 0))
        return run

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One call of the denoiser, at its own point of the run."""
        options = args[5] if len(args) > 5 else kwargs.get("transformer_options")
        run = (options or {}).get(self.key)
        if run is not None:
            run.progress = run.clock(options)
        return super().__call__(executor, *args, **kwargs)

    def gains(self, index: int, ident: Any, rows: Tensor, run: Rewriting | None) -> Tensor:
        """The numbers found at the start."""
        found = None if run is None else run.numbers.get(ident)
        return torch.zeros(len(rows), 1) if found is None else found

    def guess(self, rows: Tensor, run: Rewriting | None) -> Tensor:
        """Words that are not known cannot be steered."""
        return torch.zeros(len(rows), 1)

    def mapped(self, rows: Tensor, gains: Tensor, run: Rewriting) -> Tensor:
        """Each row's own text, as it is at this point of the run."""
        return self._each(rows, gains, run, lambda text: text.hidden)

    def pooled(self, y: Tensor, gains: Tensor, run: Rewriting) -> Tensor:
        """Each row's own pooled vector."""
        width = next((text.first.pooled.shape[1] for text in run.texts if text.first.pooled is not None), None)
        if width is None:
            return y
        changed = self._each(y[:, :width], gains, run, lambda text: text.pooled)
        return torch.cat([changed, y[:, width:]], dim=1)

    def _each(self, rows: Tensor, gains: Tensor, run: Rewriting, part: Callable[[Encoded], Tensor | None]) -> Tensor:
        result = rows
        for number in gains.unique().int().tolist():
            if not number:
                continue
            text = run.texts[number - 1]
            before, after = part(text.then), part(text.at(run.progress))
            if before is None or after is None or torch.equal(before, after):
                continue  # a text that is not changed keeps the bits that the host gave it
            mine = (gains[:, 0] == number).to(rows.device)
            own = after.to(rows)
            if own.dim() == 3:
                own = own.repeat(1, rows.shape[1] // own.shape[1], 1)
            result = result.clone() if result is rows else result
            result[mine] = own.expand(int(mine.sum()), *own.shape[1:])
        return result


def read(method: str, options: str) -> dict[str, str]:
    """The settings of the method and its gate. Raises BadInput for what cannot be read or is not known."""
    given = parse_options(options)
    if given.get("gate", "auto") not in GATES:
        raise BadInput(f"The option 'gate' cannot be {given['gate']!r}. It takes {' | '.join(GATES)}.")
    settings_of(method, {name: value for name, value in given.items() if name != "gate"})
    return given


def known(rows: Tensor, pooled: Tensor | None, words: Mapping[str, Any] | None) -> Encoded | None:
    """One text [1, T, d] with its tokens; None where its words are not known any more."""
    if stamp.read(words, rows)[0][0].ids is None or words is None:
        return None
    ids = torch.tensor(words["ids"]).unsqueeze(0)
    ends = torch.tensor([[chunk.index(stamp.END) for chunk in ids[0].tolist()]])
    tokens = {words["encoder"]: ids}
    if pooled is not None:  # the second encoder of SDXL pads with 0 where the first repeats its end token
        after = torch.arange(CHUNK) > ends.unsqueeze(-1)
        tokens["clip_g"] = ids.masked_fill(after, 0)
    return Encoded(rows.detach().float().cpu(), tokens, ends, None if pooled is None else pooled.detach().float().cpu())


def rewritten(conditioning: Any, term: TextTerm, family: str) -> tuple[list[Any], str]:
    """A CONDITIONING with every entry steered, and a line for each. Raises BadInput where words are not known."""
    entries, spans, lines = [], [], []
    for rows, extra in conditioning:
        pooled = extra.get("pooled_output") if family == "sdxl" else None
        encoded = known(rows, pooled, extra.get(host.STAMP))
        if encoded is None:
            raise BadInput(
                "The words of this conditioning are not known: it was joined, averaged, or made with another CLIP. "
                "Encode the prompt with the CLIP that this node gives, and connect that conditioning."
            )
        steered = term(encoded)
        (report,) = steered.reports
        lines.append(f"{extra[host.STAMP].get('text', '')}: {report}")
        if not any(report.changed.values()):
            entries.append([rows, extra])
            spans.append((0.0, 1.0))
            continue
        more = (
            {} if steered.first.pooled is None else {"pooled_output": steered.first.pooled.to(extra["pooled_output"])}
        )
        entries.append([steered.first.hidden.to(rows), {**extra, **more}])
        spans.append((0.0, report.until))
        if report.until < 1:
            entries.append([rows, extra])
            spans.append((report.until, 1.0))
    return host.timed(entries, spans), "\n".join(lines)
