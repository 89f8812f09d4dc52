"""The certificates of routes: which secret one is, and whether it is good for the hosts that show it.

A route names its certificate. Where its namespace has a secret of that name that was made by name, that secret's
current content is it, and nodes are told which; otherwise each node looks among its own files. So another content is
shown from the next moment on, and no version of a job goes back to an expired one. Pure: contents are opened by others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from common.errors import Fault, Invalid
from common.model.asset import Asset, AssetKind, AssetVersion
from common.model.asset_calls import PutAsset, PutHow
from common.model.job import HttpRoute, Job, JobSpec
from common.route_certificates import check_host, date_problem, read_pair
from controller.state import State


class Opener(Protocol):
    """Whoever can read what is in a secret (`controller.security.vault`)."""

    def content(self, asset: Asset, version: AssetVersion) -> bytes:
        """Raises `Invalid`."""


def secret_of(state: State, namespace: str, route: HttpRoute) -> Asset | None:
    """The secret that is the route's certificate; None when the nodes' own files are asked, or it needs none."""
    secret = state.assets.get(AssetKind.SECRET, namespace, route.tls) if route.tls else None
    return secret if secret is not None and secret.kept and secret.current else None


def digest_of(state: State, namespace: str, route: HttpRoute | None) -> str:
    """Of the route's certificate as it is now; empty when it is no secret."""
    secret = None if route is None else secret_of(state, namespace, route)
    return "" if secret is None else secret.current


def showing(state: State, asset: Asset) -> Iterator[tuple[Job, HttpRoute]]:
    """The routes of jobs that name this secret as their certificate, in no order."""
    if asset.kind is AssetKind.SECRET:
        for job in state.jobs.values():
            if job.namespace == asset.namespace and not job.removed:
                yield from ((job, route) for route in routes(state.spec_of(job)) if route.tls == asset.name)


def routes(spec: JobSpec) -> Iterator[HttpRoute]:
    for port in spec.task.ports:
        yield from port.http


# --- before anything is changed


def check_shown(state: State, specs: Iterable[JobSpec], opener: Opener | None, now_s: float) -> None:
    """Raises `Invalid` for specs with routes whose certificate is a secret that cannot be shown for them."""
    faults = [fault for spec in specs for fault in _unfit(state, spec, opener, now_s)]
    if faults:
        raise Invalid(faults)


def _unfit(state: State, spec: JobSpec, opener: Opener | None, now_s: float) -> Iterator[Fault]:
    for route in routes(spec):
        secret = secret_of(state, spec.namespace, route)
        version = None if secret is None else state.assets.version(secret.key, secret.current)
        if secret is None or version is None or opener is None:
            continue
        try:
            check_fits(opener.content(secret, version), route.host, now_s)
        except Invalid as error:
            path, text = f"services.{spec.name}.x-podium.http", f"certificate {route.tls} (a secret): {_text(error)}"
            yield Fault(path=path, text=text)


def check_given(state: State, request: PutAsset, asset: Asset, now_s: float) -> None:
    """Raises `Invalid` for a content that routes would show at once, and that is not good for their hosts."""
    if request.how is PutHow.UPLOAD:
        return
    faults = []
    for job, route in sorted(showing(state, asset), key=lambda pair: (pair[0].name, str(pair[1]))):
        try:
            check_fits(request.content, route.host, now_s)
        except Invalid as error:
            text = f"is the certificate of {route}, which {job.full_name} answers: {_text(error)}"
            faults.append(Fault(path=f"secrets.{asset.name}", text=text))
    if faults:
        raise Invalid(faults)


def check_fits(content: bytes, host: str, now_s: float) -> None:
    """Raises `Invalid` for what clients of the host would not take."""
    pair = read_pair(content)
    check_host(pair, host)
    if problem := date_problem(pair, now_s):
        raise Invalid(f"it {problem}")


def _text(error: Invalid) -> str:
    return "; ".join(fault.text for fault in error.faults)


def notes(state: State, specs: Iterable[JobSpec]) -> tuple[str, ...]:
    """Of routes whose certificate the nodes have to bring, for whoever submits them."""
    return tuple(
        f"namespace {spec.namespace} has no secret {route.tls}: for {route.host} each node shows the certificate of "
        "that name in its own --certs directory, if it has one"
        for spec in specs
        for route in routes(spec)
        if route.tls and secret_of(state, spec.namespace, route) is None
    )
