"""How pretended containers behave: images that work, images that crash, batch jobs, slow starts, sick programs."""

from __future__ import annotations

import random

import msgspec

from agent.runtime.fake import Behaviour, Preparation
from agent.runtime.interface import ContainerRequest, ExecResult
from common.errors import NotFound
from common.model.job import Container, Port

SICK = ExecResult(code=1, output="the database does not answer")
WELL = ExecResult(code=0, output="")
DECLARING, DECLARED = "queue", Port(container_port=6379)
"""Images of this name say where they listen; the file of the job does not."""


class Behaviours:
    """Seeded. After `calm` everything works that can work."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._calm = False

    def calm(self) -> None:
        self._calm = True

    def of_container(self, request: ContainerRequest) -> Behaviour:
        rng = self._rng
        usual = Behaviour(
            create_s=rng.choice((0.0, 0.05, 0.3)),
            start_s=rng.choice((0.0, 0.05, 0.5)),
            stop_s=rng.choice((0.0, 0.1, 1.0, 60.0)),
            exec_s=rng.choice((0.0, 0.02, 0.2)),
            output=("hello",),
        )
        image = request.container.image
        if image.startswith("bad"):
            return msgspec.structs.replace(usual, exit_after_s=rng.uniform(0.05, 2.0), exit_code=1)
        if image.startswith("batch"):
            fails = not self._calm and rng.random() < 0.2
            return msgspec.structs.replace(usual, exit_after_s=rng.uniform(0.5, 15.0), exit_code=int(fails))
        return usual

    def of_image(self, container: Container) -> Preparation:
        rng = self._rng
        if not self._calm and rng.random() < 0.01:
            return Preparation(takes_s=0.5, error=NotFound(f"no registry has {container.image}"))
        declares = container.image.startswith(DECLARING)
        return Preparation(
            takes_s=rng.choice((0.0, 0.0, 0.2, 2.0)), progress=("pulling",), ports=(DECLARED,) if declares else ()
        )
