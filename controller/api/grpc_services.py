"""The engineer's services on the wire: messages to values, one call of a service, values to messages, errors by table.

A stream ends with `NotLeader` when the term does. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
import msgspec
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from common import wire
from common.errors import Fault, Fenced, Invalid, PodiumError
from common.grpc_errors import abort
from common.model import api, asset_calls, audit, joining, store, usage, volume
from common.model.program import ExecRequest
from common.pieces import cut
from common.settings import LIMITS
from controller.api.assets import AssetsService
from controller.api.authority import AuthorityService
from controller.api.balance import BalanceService
from controller.api.cluster import ClusterService
from controller.api.gate import Gate, name_of
from controller.api.grpc_server import Register
from controller.api.jobs import JobsService
from controller.api.nodes import NodesService
from controller.api.opening import Openings, address_of
from controller.api.settings import SERVER_BOUNDS
from controller.api.store import StoreService
from controller.api.streams import Held
from controller.api.term import ApiFront
from controller.api.trust import TrustService
from controller.core.rights import RIGHTS, Caller, Everybody, Nobody
from protos.v1 import api_pb2, assets_pb2, store_pb2, trust_pb2

STILL_LET_S = 1.0
"""A stream lasts for hours; so soon after its user was removed, or its machine, it ends."""

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)
Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"
Contents: TypeAlias = AsyncIterator[bytes]
"""Of a call: its requests, not read yet."""
Send: TypeAlias = Callable[[AnswerT], Awaitable[None]]
Make: TypeAlias = "Callable[[str], grpc.RpcMethodHandler[Any, Any]]"
"""The handler of a method, once it knows its name (`Service/Method`), by which rights go."""


def api_services(front: ApiFront, gate: Gate, trust: TrustService, authority: AuthorityService) -> list[Register]:
    """`Jobs`, `Nodes`, `Cluster`, `Assets`, `Store` and `Trust` over what `front` holds, for whom `gate` lets in."""
    calls, balance = _Calls(front, gate), BalanceService(front)
    return [
        _service("Jobs", _jobs(calls, JobsService(front), balance)),
        _service("Nodes", _nodes(calls, NodesService(front))),
        _service("Cluster", _cluster(calls, ClusterService(front), balance)),
        _service("Assets", _assets(calls, AssetsService(front)), assets_pb2.DESCRIPTOR),
        _service("Store", _store(calls, StoreService(front)), store_pb2.DESCRIPTOR),
        _service("Trust", _trust(calls, trust, authority), trust_pb2.DESCRIPTOR),
    ]


def _jobs(calls: _Calls, jobs: JobsService, balance: BalanceService) -> dict[str, Make]:
    return {
        "Apply": calls.unary(api.ApplyRequest, jobs.apply),
        "Plan": calls.unary(api.ApplyRequest, jobs.plan),
        "List": calls.pieces(api.ListJobs, jobs.list_jobs),
        "Inspect": calls.pieces(api.JobRef, jobs.inspect),
        "Tasks": calls.pieces(api.ListTasks, jobs.tasks),
        "InspectTask": calls.unary(api.TaskRef, jobs.inspect_task),
        "Scale": calls.unary(api.ScaleRequest, jobs.scale),
        "Restart": calls.unary(api.JobsRequest, jobs.restart),
        "Rollback": calls.unary(api.RollbackRequest, jobs.rollback),
        "Pause": calls.unary(api.JobsRequest, jobs.pause),
        "Resume": calls.unary(api.JobsRequest, jobs.resume),
        "Promote": calls.unary(api.JobsRequest, jobs.promote),
        "Stop": calls.unary(api.JobsRequest, jobs.stop),
        "Remove": calls.unary(api.JobsRequest, jobs.remove),
        "Move": calls.unary(api.MoveRequest, balance.move),
        "Why": calls.unary(api.WhyRequest, jobs.why),
        "Watch": calls.stream(api.WatchJobs, jobs.watch),
        "Logs": calls.stream(api.LogsRequest, jobs.logs),
        "Exec": calls.both_ways(ExecRequest, jobs.exec, lambda request: request.body),
    }


def _nodes(calls: _Calls, nodes: NodesService) -> dict[str, Make]:
    return {
        "List": calls.pieces(api.ListNodes, nodes.list_nodes),
        "Inspect": calls.unary(api.NodeRef, nodes.inspect),
        "Cordon": calls.unary(api.NodesRequest, nodes.cordon),
        "Uncordon": calls.unary(api.NodesRequest, nodes.uncordon),
        "Drain": calls.unary(api.NodesRequest, nodes.drain),
        "Remove": calls.unary(api.RemoveNodesRequest, nodes.remove),
        "PlanDrain": calls.unary(api.NodesRequest, nodes.plan_drain),
        "DrainStatus": calls.unary(api.NodesRequest, nodes.drain_status),
        "Volumes": calls.pieces(volume.ListVolumes, nodes.volumes),
        "RemoveVolume": calls.unary(volume.RemoveVolumeRequest, nodes.remove_volume),
        "Usage": calls.pieces(usage.UsageRequest, nodes.usage),
    }


def _cluster(calls: _Calls, cluster: ClusterService, balance: BalanceService) -> dict[str, Make]:
    return {
        "Status": calls.unary(api.ClusterRequest, cluster.status),
        "Events": calls.stream(api.EventsRequest, cluster.events),
        "ReleaseBrake": calls.unary(api.ReleaseBrake, cluster.release_brake),
        "SetQuota": calls.unary(api.SetQuota, cluster.set_quota),
        "Quotas": calls.unary(api.ListQuotas, cluster.quotas),
        "WhatIf": calls.unary(api.WhatIfRequest, balance.what_if),
        "Rebalance": calls.unary(api.RebalanceRequest, balance.rebalance),
        "PlanRebalance": calls.unary(api.RebalanceRequest, balance.plan_rebalance),
    }


def _assets(calls: _Calls, assets: AssetsService) -> dict[str, Make]:
    return {
        "Put": calls.unary(asset_calls.PutAsset, assets.put),
        "List": calls.pieces(asset_calls.ListAssets, assets.list_assets),
        "Read": calls.unary(asset_calls.ReadConfig, assets.read_config),
        "Remove": calls.unary(asset_calls.RemoveAsset, assets.remove),
    }


def _store(calls: _Calls, whole: StoreService) -> dict[str, Make]:
    return {
        "Backup": calls.stream(store.BackupRequest, whole.backup),
        "Check": calls.unary(store.CheckRequest, whole.check),
        "StopStrays": calls.unary(store.StopStraysRequest, whole.stop_strays),
    }


def _trust(calls: _Calls, trust: TrustService, authority: AuthorityService) -> dict[str, Make]:
    return {
        "FindDoors": calls.anywhere(joining.FindDoorsRequest, trust.find_doors),
        "Join": calls.personal(joining.JoinRequest, trust.join),
        "Renew": calls.personal(joining.RenewRequest, trust.renew),
        "Recover": calls.personal(joining.RecoverRequest, trust.recover),
        "WhoAmI": calls.personal(joining.WhoAmIRequest, trust.who_am_i),
        "CanI": calls.personal(joining.CanIRequest, trust.can_i),
        "CreateToken": calls.personal(joining.CreateTokenRequest, trust.create_token),
        "Tokens": calls.personal(joining.ListTokens, trust.tokens),
        "RevokeToken": calls.personal(joining.RevokeTokenRequest, trust.revoke_token),
        "AddUser": calls.personal(joining.AddUserRequest, trust.add_user),
        "Users": calls.personal(joining.ListUsers, trust.users),
        "RotateUser": calls.personal(joining.RotateUserRequest, trust.rotate_user),
        "RemoveUser": calls.personal(joining.RemoveUserRequest, trust.remove_user),
        "RotateAuthority": calls.unary(joining.RotateAuthorityRequest, authority.rotate),
        "RotateKey": calls.unary(joining.RotateKeyRequest, authority.rotate_key),
        "Authority": calls.unary(joining.AuthorityRequest, authority.status),
        "Audit": calls.pieces(audit.AuditRequest, trust.audit),
    }


def _service(name: str, handlers: dict[str, Make], declared_in: FileDescriptor = api_pb2.DESCRIPTOR) -> Register:
    """A service with one handler for each method of its descriptor."""
    descriptor = declared_in.services_by_name[name]
    declared = {method.name for method in descriptor.methods}
    assert set(handlers) == declared, f"{name}: handled and declared differ in {sorted(set(handlers) ^ declared)}"

    def register(server: grpc.aio.Server) -> str:
        full_name: str = descriptor.full_name
        named = {method: make(f"{name}/{method}") for method, make in handlers.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(full_name, named),))
        return full_name

    return register


class _Calls:
    """Makes handlers of methods over values. Whoever may not ask is told so before anything is looked at."""

    def __init__(self, front: ApiFront, gate: Gate) -> None:
        self._front = front
        self._gate = gate
        self._openings = Openings(SERVER_BOUNDS)
        what = "streams open already (watch, logs, events, exec): close one first"
        self._streams = Held(SERVER_BOUNDS.streams_per_caller, what)

    def unary(self, request_type: type[RequestT], method: Callable[[RequestT], Awaitable[msgspec.Struct]]) -> Make:
        return self.personal(request_type, lambda request, _caller: method(request))

    def personal(
        self, request_type: type[RequestT], method: Callable[[RequestT, Caller], Awaitable[msgspec.Struct]]
    ) -> Make:
        """Like `unary`, for methods that want to know who asks."""

        async def answer(name: str, contents: Contents, context: Context) -> msgspec.Struct:
            request, caller = await self._asked(name, request_type, contents, context)
            return await method(request, caller)

        return self._answering(answer)

    def anywhere(self, request_type: type[RequestT], method: Callable[[RequestT], Awaitable[msgspec.Struct]]) -> Make:
        """For what everybody may ask of every controller, whether it leads or not."""

        async def answer(name: str, contents: Contents, context: Context) -> msgspec.Struct:
            assert RIGHTS[name].least is None, f"{name}: a controller that follows knows nobody"
            return await method(_request(request_type, await self._openings.request(Nobody(), context, contents)))

        return self._answering(answer)

    def _answering(self, answer: Callable[[str, Contents, Context], Awaitable[msgspec.Struct]]) -> Make:
        def make(name: str) -> grpc.RpcMethodHandler[Any, Any]:
            async def handle(contents: Contents, context: Context) -> Message:
                try:
                    return wire.encode(await answer(name, contents, context))
                except PodiumError as error:
                    return await abort(context, self._told(error))

            return grpc.stream_unary_rpc_method_handler(handle, None, _serialize)

        return make

    async def _asked(
        self,
        name: str,
        request_type: type[RequestT],
        contents: Contents,
        context: Context,
        about: Callable[[RequestT], msgspec.Struct] = lambda request: request,
    ) -> tuple[RequestT, Caller]:
        """What is asked for, by whom; `about` is what of it says that.

        Raises `NotLeader`, `Unauthenticated`, `Forbidden` or `Invalid`.
        """
        caller = self._gate.known(self._front.term.state, context, name)
        request = _request(request_type, await self._openings.request(caller, context, contents))
        self._gate.let_in(self._front.term.state, caller, context, name, about(request))
        return request, caller

    def pieces(self, request_type: type[RequestT], method: Callable[[RequestT], Awaitable[AnswerT]]) -> Make:
        """Like `unary`, for answers of any length."""

        async def send_all(request: RequestT, send: Send[AnswerT]) -> None:
            for piece in cut(await method(request), LIMITS.items_per_piece):
                await send(piece)

        return self.stream(request_type, send_all)

    def stream(self, request_type: type[RequestT], method: Callable[[RequestT, Send[Any]], Awaitable[None]]) -> Make:
        def make(name: str) -> grpc.RpcMethodHandler[Any, Any]:
            async def handle(contents: Contents, context: Context) -> None:
                async def send(answer: msgspec.Struct) -> None:
                    await context.write(wire.encode(answer))

                try:
                    request, caller = await self._asked(name, request_type, contents, context)
                    with self._streams.held(_named(caller, context)):
                        await self._while_let(caller, lambda: method(request, send))
                except PodiumError as error:
                    await abort(context, self._told(error))

            return grpc.stream_stream_rpc_method_handler(handle, None, _serialize)

        return make

    def both_ways(
        self,
        request_type: type[RequestT],
        method: Callable[[AsyncIterator[RequestT], Send[Any]], Awaitable[None]],
        opening: Callable[[RequestT], msgspec.Struct],
    ) -> Make:
        """A call with requests and answers side by side. What its first request holds says what is asked for."""

        def make(name: str) -> grpc.RpcMethodHandler[Any, Any]:
            async def handle(contents: Contents, context: Context) -> None:
                async def requests(first: RequestT) -> AsyncIterator[RequestT]:
                    yield first
                    async for content in contents:
                        yield _request(request_type, content)

                async def send(answer: msgspec.Struct) -> None:
                    await context.write(wire.encode(answer))

                try:
                    first, caller = await self._asked(name, request_type, contents, context, opening)
                    with self._streams.held(_named(caller, context)):
                        await self._while_let(caller, lambda: method(requests(first), send))
                except PodiumError as error:
                    await abort(context, self._told(error))

            return grpc.stream_stream_rpc_method_handler(handle, None, _serialize)

        return make

    async def _while_let(self, caller: Caller, serve: Callable[[], Awaitable[None]]) -> None:
        """Serve until it is done. Raises `NotLeader` when the term is over before, and `Unauthenticated` when `caller`
        counts no more."""
        over = self._front.term.over
        serving = asyncio.ensure_future(serve())
        ending = asyncio.ensure_future(over.wait())
        watching = asyncio.ensure_future(self._until_turned_away(caller))
        try:
            await asyncio.wait((serving, ending, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            if not serving.done():
                raise self._front.not_leader()
            _first_raised(serving)
        finally:
            for task in (serving, ending, watching):
                task.cancel()
            await asyncio.gather(serving, ending, watching, return_exceptions=True)

    async def _until_turned_away(self, caller: Caller) -> None:
        while True:
            await asyncio.sleep(STILL_LET_S)
            self._gate.still(self._front.term.state, caller)

    def _told(self, error: PodiumError) -> PodiumError:
        """A term that ended under a request is no concern of the engineer's: somebody else leads, or will."""
        return self._front.not_leader() if isinstance(error, Fenced) else error


def _named(caller: Caller, context: Context) -> str:
    """Whose streams are counted together: a user's, or where nobody is known an address's."""
    return address_of(context) if isinstance(caller, Everybody) else name_of(caller)


def _first_raised(served: asyncio.Future[None]) -> None:
    """Raise what a stream raised; of a group of its tasks' errors the first one of ours."""
    try:
        served.result()
    except ExceptionGroup as group:
        ours, rest = group.split(PodiumError)
        if ours is None or rest is not None:
            raise
        error: BaseException = ours
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _request(kind: type[RequestT], content: bytes) -> RequestT:
    """Raises `Invalid` for a message that is too large or that this version does not understand.

    Read here rather than by gRPC, which would log what it cannot read as a fault of ours.
    """
    if len(content) > LIMITS.message_bytes:
        text = f"the request is {len(content)} bytes; at most {LIMITS.message_bytes} are allowed"
        raise Invalid([Fault(path="", text=text)])
    return wire.parse(kind, content)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
