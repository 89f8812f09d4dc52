"""The seam below the client: the calls of the engineer's API as values, and what carries one of them to one address."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Generic, Protocol, TypeVar

import msgspec

from common.model.api import (
    ApplyRequest,
    BrakeReleased,
    Changes,
    ClusterRequest,
    ClusterView,
    DrainView,
    EventBatch,
    EventsRequest,
    JobDetail,
    JobList,
    JobRef,
    JobsRequest,
    ListJobs,
    ListNodes,
    ListQuotas,
    ListTasks,
    LogLines,
    LogsRequest,
    MoveRequest,
    Moves,
    NodeChanges,
    NodeList,
    NodeRef,
    NodesRequest,
    NodeView,
    Plan,
    QuotaList,
    QuotaView,
    RebalanceRequest,
    ReleaseBrake,
    RemoveNodesRequest,
    RollbackRequest,
    ScaleRequest,
    SetQuota,
    TaskDetail,
    TaskList,
    TaskRef,
    WatchedJobs,
    WatchJobs,
    WhatIfRequest,
    WhyRequest,
)
from common.model.asset_calls import (
    AssetList,
    AssetPut,
    AssetRemoved,
    ConfigContent,
    ListAssets,
    PutAsset,
    ReadConfig,
    RemoveAsset,
)
from common.model.audit import AuditList, AuditRequest
from common.model.joining import (
    AddedUser,
    AddUserRequest,
    AuthorityRequest,
    AuthorityView,
    Caller,
    CanIRequest,
    CreatedToken,
    CreateTokenRequest,
    ListTokens,
    ListUsers,
    Permission,
    RemoveUserRequest,
    RevokeTokenRequest,
    RotateAuthorityRequest,
    RotateKeyRequest,
    RotateUserRequest,
    TokenList,
    UserList,
    WhoAmIRequest,
)
from common.model.program import ExecRequest
from common.model.session import ExecOutput
from common.model.store import (
    BackupPiece,
    BackupRequest,
    CheckReport,
    CheckRequest,
    StopStraysRequest,
    StraysStopped,
)
from common.model.usage import UsageRequest, UsageView
from common.model.verdict import Verdict
from common.model.volume import ListVolumes, RemoveVolumeRequest, VolumeList

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class Method(msgspec.Struct, Generic[RequestT, AnswerT], frozen=True, kw_only=True):
    """One call of protos/v1/api.proto: its place and the values that go in and out."""

    service: str
    name: str
    request: type[RequestT]
    answer: type[AnswerT]
    writes: bool = False
    in_pieces: bool = False
    """The answer may be longer than a message, and comes as several (`common.pieces`)."""

    @property
    def path(self) -> str:
        return f"/podium.v1.{self.service}/{self.name}"


class Transport(Protocol):
    """Carries one call to one address. The seam below the client: gRPC in production, a fake in tests.

    All methods raise `NotLeader` with the leader's address, `Unavailable` when it is certain that nothing was asked
    (nobody there), `OutcomeUnknown` when the request was sent and no answer came, and the errors of the answer itself.
    """

    async def ask(
        self, address: str, method: Method[RequestT, AnswerT], request: RequestT, *, timeout_s: float
    ) -> AnswerT:
        """One request, one answer, whole."""

    def follow(
        self, address: str, method: Method[RequestT, AnswerT], request: RequestT
    ) -> AsyncGenerator[AnswerT, None]:
        """One request, answers until the other side ends them."""

    def converse(
        self, address: str, method: Method[RequestT, AnswerT], requests: AsyncIterator[RequestT]
    ) -> AsyncGenerator[AnswerT, None]:
        """Requests and answers side by side until the other side ends them. No request is fetched before the other
        side takes it."""

    async def close(self) -> None:
        """Close every connection."""


APPLY = Method(service="Jobs", name="Apply", request=ApplyRequest, answer=Changes, writes=True)
PLAN = Method(service="Jobs", name="Plan", request=ApplyRequest, answer=Plan)
JOBS = Method(service="Jobs", name="List", request=ListJobs, answer=JobList, in_pieces=True)
INSPECT_JOB = Method(service="Jobs", name="Inspect", request=JobRef, answer=JobDetail, in_pieces=True)
TASKS = Method(service="Jobs", name="Tasks", request=ListTasks, answer=TaskList, in_pieces=True)
INSPECT_TASK = Method(service="Jobs", name="InspectTask", request=TaskRef, answer=TaskDetail)
SCALE = Method(service="Jobs", name="Scale", request=ScaleRequest, answer=Changes, writes=True)
RESTART = Method(service="Jobs", name="Restart", request=JobsRequest, answer=Changes, writes=True)
ROLLBACK = Method(service="Jobs", name="Rollback", request=RollbackRequest, answer=Changes, writes=True)
PAUSE = Method(service="Jobs", name="Pause", request=JobsRequest, answer=Changes, writes=True)
RESUME = Method(service="Jobs", name="Resume", request=JobsRequest, answer=Changes, writes=True)
PROMOTE = Method(service="Jobs", name="Promote", request=JobsRequest, answer=Changes, writes=True)
STOP = Method(service="Jobs", name="Stop", request=JobsRequest, answer=Changes, writes=True)
REMOVE = Method(service="Jobs", name="Remove", request=JobsRequest, answer=Changes, writes=True)
WHY = Method(service="Jobs", name="Why", request=WhyRequest, answer=Verdict)
WATCH = Method(service="Jobs", name="Watch", request=WatchJobs, answer=WatchedJobs)
LOGS = Method(service="Jobs", name="Logs", request=LogsRequest, answer=LogLines)
VOLUMES = Method(service="Nodes", name="Volumes", request=ListVolumes, answer=VolumeList, in_pieces=True)
REMOVE_VOLUME = Method(
    service="Nodes", name="RemoveVolume", request=RemoveVolumeRequest, answer=VolumeList, writes=True
)
USAGE = Method(service="Nodes", name="Usage", request=UsageRequest, answer=UsageView, in_pieces=True)
EXEC = Method(service="Jobs", name="Exec", request=ExecRequest, answer=ExecOutput)
NODES = Method(service="Nodes", name="List", request=ListNodes, answer=NodeList, in_pieces=True)
INSPECT_NODE = Method(service="Nodes", name="Inspect", request=NodeRef, answer=NodeView)
CORDON = Method(service="Nodes", name="Cordon", request=NodesRequest, answer=NodeChanges, writes=True)
UNCORDON = Method(service="Nodes", name="Uncordon", request=NodesRequest, answer=NodeChanges, writes=True)
DRAIN = Method(service="Nodes", name="Drain", request=NodesRequest, answer=NodeChanges, writes=True)
REMOVE_NODES = Method(service="Nodes", name="Remove", request=RemoveNodesRequest, answer=NodeChanges, writes=True)
PLAN_DRAIN = Method(service="Nodes", name="PlanDrain", request=NodesRequest, answer=Plan)
DRAIN_STATUS = Method(service="Nodes", name="DrainStatus", request=NodesRequest, answer=DrainView)
RELEASE_BRAKE = Method(service="Cluster", name="ReleaseBrake", request=ReleaseBrake, answer=BrakeReleased, writes=True)
WHAT_IF = Method(service="Cluster", name="WhatIf", request=WhatIfRequest, answer=Plan)
REBALANCE = Method(service="Cluster", name="Rebalance", request=RebalanceRequest, answer=Moves, writes=True)
PLAN_REBALANCE = Method(service="Cluster", name="PlanRebalance", request=RebalanceRequest, answer=Plan)
MOVE = Method(service="Jobs", name="Move", request=MoveRequest, answer=Moves, writes=True)
SET_QUOTA = Method(service="Cluster", name="SetQuota", request=SetQuota, answer=QuotaView, writes=True)
QUOTAS = Method(service="Cluster", name="Quotas", request=ListQuotas, answer=QuotaList)
STATUS = Method(service="Cluster", name="Status", request=ClusterRequest, answer=ClusterView)
EVENTS = Method(service="Cluster", name="Events", request=EventsRequest, answer=EventBatch)
BACKUP = Method(service="Store", name="Backup", request=BackupRequest, answer=BackupPiece)
CHECK = Method(service="Store", name="Check", request=CheckRequest, answer=CheckReport)
STOP_STRAYS = Method(service="Store", name="StopStrays", request=StopStraysRequest, answer=StraysStopped, writes=True)
WHO_AM_I = Method(service="Trust", name="WhoAmI", request=WhoAmIRequest, answer=Caller)
CAN_I = Method(service="Trust", name="CanI", request=CanIRequest, answer=Permission)
CREATE_TOKEN = Method(service="Trust", name="CreateToken", request=CreateTokenRequest, answer=CreatedToken, writes=True)
TOKENS = Method(service="Trust", name="Tokens", request=ListTokens, answer=TokenList)
REVOKE_TOKEN = Method(service="Trust", name="RevokeToken", request=RevokeTokenRequest, answer=TokenList, writes=True)
ADD_USER = Method(service="Trust", name="AddUser", request=AddUserRequest, answer=AddedUser, writes=True)
USERS = Method(service="Trust", name="Users", request=ListUsers, answer=UserList)
ROTATE_USER = Method(service="Trust", name="RotateUser", request=RotateUserRequest, answer=AddedUser, writes=True)
REMOVE_USER = Method(service="Trust", name="RemoveUser", request=RemoveUserRequest, answer=UserList, writes=True)
ROTATE_AUTHORITY = Method(
    service="Trust", name="RotateAuthority", request=RotateAuthorityRequest, answer=AuthorityView, writes=True
)
ROTATE_KEY = Method(service="Trust", name="RotateKey", request=RotateKeyRequest, answer=AuthorityView, writes=True)
AUTHORITY = Method(service="Trust", name="Authority", request=AuthorityRequest, answer=AuthorityView)
PUT_ASSET = Method(service="Assets", name="Put", request=PutAsset, answer=AssetPut, writes=True)
LIST_ASSETS = Method(service="Assets", name="List", request=ListAssets, answer=AssetList, in_pieces=True)
READ_CONFIG = Method(service="Assets", name="Read", request=ReadConfig, answer=ConfigContent)
REMOVE_ASSET = Method(service="Assets", name="Remove", request=RemoveAsset, answer=AssetRemoved, writes=True)
AUDIT = Method(service="Trust", name="Audit", request=AuditRequest, answer=AuditList, in_pieces=True)
