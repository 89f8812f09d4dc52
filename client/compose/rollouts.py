"""Reads how a service goes from version to version: `update_config`, `rollback_config` and what `x-podium` adds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from client.compose import keys, optional
from client.compose.field import Field
from client.compose.tree import shown
from common.errors import Invalid
from common.model.job import FailureAction, UpdateOrder, UpdatePolicy
from common.model.rollout import BlueGreen, Canary, CanaryStep, Promotion
from common.settings import LIMITS

ORDERS: Mapping[str, UpdateOrder] = {order.value: order for order in UpdateOrder}
FAILURE_ACTIONS: Mapping[str, FailureAction] = {action.value: action for action in FailureAction}
ROLLBACK_ACTIONS: Mapping[str, FailureAction] = {
    action.value: action for action in (FailureAction.PAUSE, FailureAction.CONTINUE)
}
PROMOTIONS: Mapping[str, Promotion] = {promotion.value: promotion for promotion in Promotion}

_RATIO = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_ONE_STEP = ("replicas", "weight", "bake")
_WEIGHT_LIMIT = 99


def read_update(
    given: Mapping[str, Field], podium: Mapping[str, Field], *, checked: bool, active: bool
) -> UpdatePolicy:
    """From the honoured keys of `update_config` and of `x-podium`. `checked`: there is a health check, so that nothing
    has to be watched any longer unless the file says so."""
    usual = UpdatePolicy(monitor_s=0.0) if checked else UpdatePolicy()
    return UpdatePolicy(
        parallelism=optional.count(given.get("parallelism"), usual.parallelism),
        delay_s=optional.duration_s(given.get("delay"), usual.delay_s),
        monitor_s=optional.duration_s(given.get("monitor"), usual.monitor_s),
        max_failure_ratio=_ratio(given.get("max_failure_ratio")),
        order=optional.choice(given.get("order"), ORDERS, usual.order),
        failure_action=optional.choice(given.get("failure_action"), FAILURE_ACTIONS, usual.failure_action),
        progress_deadline_s=optional.duration_s(podium.get("progress_deadline"), usual.progress_deadline_s),
        canary=_canary(podium.get("canary"), active),
        blue_green=_blue_green(podium.get("blue_green"), active),
    )


def read_rollback(field: Field | None, update: UpdatePolicy, active: bool) -> UpdatePolicy | None:
    """`field` is `rollback_config`; what it does not say is as in `update`. None where there is none."""
    if field is None:
        return None
    given = keys.honoured(field, keys.ROLLBACK_CONFIG, active=active)
    return UpdatePolicy(
        parallelism=optional.count(given.get("parallelism"), update.parallelism),
        delay_s=optional.duration_s(given.get("delay"), update.delay_s),
        monitor_s=optional.duration_s(given.get("monitor"), update.monitor_s),
        max_failure_ratio=_ratio(given.get("max_failure_ratio")),
        order=optional.choice(given.get("order"), ORDERS, update.order),
        failure_action=optional.choice(given.get("failure_action"), ROLLBACK_ACTIONS, FailureAction.PAUSE),
        progress_deadline_s=update.progress_deadline_s,
    )


def _canary(field: Field | None, active: bool) -> Canary | None:
    """One step written directly, or a list of them."""
    if field is None:
        return None
    given = keys.honoured(field, keys.CANARY, active=active)
    if "steps" in given:
        for key in _ONE_STEP:
            if key in given:
                given[key].fault("says something of a single step, and there are steps: write it into one of them")
        steps = tuple(_canary_step(keys.honoured(item, keys.CANARY_STEP, active=active)) for item in _items(given))
    else:
        steps = (_canary_step(given),)
    return Canary(steps=steps, promote=optional.choice(given.get("promote"), PROMOTIONS, Promotion.AUTO))


def _items(given: Mapping[str, Field]) -> list[Field]:
    return given["steps"].items()


def _canary_step(given: Mapping[str, Field]) -> CanaryStep:
    usual = CanaryStep()
    return CanaryStep(
        replicas=optional.count(given.get("replicas"), usual.replicas, least=1, most=LIMITS.replicas),
        weight=optional.count(given.get("weight"), usual.weight, least=1, most=_WEIGHT_LIMIT),
        bake_s=optional.duration_s(given.get("bake"), usual.bake_s),
    )


def _blue_green(field: Field | None, active: bool) -> BlueGreen | None:
    if field is None:
        return None
    given = keys.honoured(field, keys.BLUE_GREEN, active=active)
    usual = BlueGreen()
    return BlueGreen(
        bake_s=optional.duration_s(given.get("bake"), usual.bake_s),
        promote=optional.choice(given.get("promote"), PROMOTIONS, usual.promote),
    )


def _ratio(field: Field | None) -> float:
    return optional.parsed(field, _parse_ratio, "a ratio from 0 to 1", 0.0)


def _parse_ratio(text: str) -> float:
    ratio = float(text) if len(text) <= 20 and _RATIO.fullmatch(text) else math.inf
    if ratio > 1:
        raise Invalid(f"{shown(text)} is given; a ratio from 0 to 1 is expected")
    return ratio
