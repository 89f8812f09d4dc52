"""The commands that serve, as people type them: dev, controller and agent. Their parts are imported when they run."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import agent_options
from cli.command import command, surroundings
from cli.options import Insecure

if TYPE_CHECKING:
    import msgspec

    from cli.resident import Part
    from common.tls import TlsFiles


class DevRuntime(enum.Enum):
    AUTO = "auto"
    DOCKER = "docker"
    PROCESS = "process"


class LogLevel(enum.Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Level = Annotated[LogLevel, typer.Option("--log-level", envvar="PODIUM_LOG_LEVEL", help="Least that is logged.")]
DockerHost = Annotated[
    str,
    typer.Option("--docker-host", metavar="URL", envvar="DOCKER_HOST", help="Docker Engine.", show_default=False),
]
Prometheus = Annotated[
    str,
    typer.Option(
        "--prometheus",
        metavar="URL",
        envvar="PODIUM_PROMETHEUS",
        help="Prometheus by which jobs may be scaled, e.g. http://prometheus:9090.",
        show_default=False,
    ),
]
Tune = Annotated[
    list[str] | None,
    typer.Option(
        "--tune",
        metavar="NAME=VALUE",
        envvar="PODIUM_TUNE",
        help="Set a timer or limit, e.g. heartbeat=2 or down=12; docs/operations.md lists them.",
        show_default=False,
    ),
]
TlsCa = Annotated[
    str,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        envvar="PODIUM_TLS_CA",
        help="Authority of the other side's certificate (PEM).",
        show_default=False,
    ),
]
TlsCert = Annotated[
    str,
    typer.Option(
        "--tls-cert", metavar="FILE", envvar="PODIUM_TLS_CERT", help="Our certificate (PEM).", show_default=False
    ),
]
TlsKey = Annotated[
    str,
    typer.Option(
        "--tls-key", metavar="FILE", envvar="PODIUM_TLS_KEY", help="Its private key (PEM).", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    command(app, "podium dev", "podium dev --nodes 5 --runtime process --data-dir /tmp/podium")(dev)
    command(
        app,
        "podium controller --store sqlite:///var/lib/podium/controller.db",
        "podium controller --store etcd://10.0.0.1:2379,10.0.0.2:2379 --grpc-listen 10.0.0.1:7077",
    )(controller)
    command(
        app,
        "podium agent --controller 127.0.0.1:7077",
        "podium agent --controller 10.0.0.1:7077,10.0.0.2:7077 --advertise 10.0.0.7 --labels zone=eu --join TOKEN",
    )(agent)


def dev(
    ctx: typer.Context,
    nodes: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="How many agents.")] = 3,
    data_dir: Annotated[
        str | None,
        typer.Option(
            metavar="D", help="Everything is kept here [default: ~/.local/share/podium/dev].", show_default=False
        ),
    ] = None,
    grpc_port: Annotated[int, typer.Option(metavar="P", min=0, max=65535, help="Controller's API (0: any).")] = 7077,
    http_port: Annotated[int, typer.Option(metavar="P", min=0, max=65535, help="Health and metrics (0: any).")] = 7078,
    runtime: Annotated[
        DevRuntime, typer.Option(help="auto: Docker and processes when an engine answers, else processes.")
    ] = DevRuntime.AUTO,
    policy: agent_options.Policy = "",
    allow_bind: agent_options.AllowBind = "",
    service_addresses: agent_options.ServiceAddresses = "auto",
    dns_forward: agent_options.DnsForward = "",
    secrets_dir: agent_options.SecretsDir = "",
    docker_host: DockerHost = "",
    proxy: agent_options.Proxy = "relay",
    web_port: agent_options.WebPort = 80,
    web_tls_port: agent_options.WebTlsPort = 443,
    certs: agent_options.Certs = "",
    insecure: Insecure = None,
    prometheus: Prometheus = "",
    tune: Tune = None,
    log_level: Level = LogLevel.WARNING,
) -> None:
    """Run a whole cluster in this process: a controller, its store and N agents.

    Prints `ready` on stdout once jobs can run. Each node offers an equal share of this machine's CPUs and memory, so
    that together they never promise more than it has. Your own commands on this machine find it, and their right to
    command it, by themselves. ^C or SIGTERM stops the tasks and leaves nothing behind outside
    the data directory; jobs are kept there and start again next time.
    """
    from cli.serving import parts, serve
    from common.logs import configure

    with parts("all"):
        from cli.dev import DevSettings, run_dev
        from controller.settings import Timers
        from controller.tuning import tuned

    configure(log_level.value)
    settings = DevSettings(
        nodes=nodes,
        data_dir=Path(data_dir) if data_dir else user_data(surroundings(ctx).environ) / "dev",
        grpc_port=grpc_port,
        http_port=http_port,
        runtime=runtime.value,
        allow_bind=_parts(allow_bind),
        service_addresses=service_addresses,
        dns_forward=_parts(dns_forward),
        secrets_dir=secrets_dir,
        policy=policy,
        docker_host=docker_host,
        proxy=proxy,
        web_port=web_port,
        web_tls_port=web_tls_port,
        certs=certs,
        insecure=_insecure(ctx, insecure),
        prometheus=prometheus,
        timers=tuned(Timers(), tune or ()),
    )
    _exit(serve(lambda stop: run_dev(settings, stop, surroundings(ctx).environ)))


def controller(
    ctx: typer.Context,
    store: Annotated[
        str, typer.Option(metavar="URL", help="sqlite:///path, or etcd://h1:2379,h2:2379 for several controllers.")
    ],
    grpc_listen: Annotated[str, typer.Option(metavar="H:P", help="Where agents and commands connect.")] = (
        "127.0.0.1:7077"
    ),
    http_listen: Annotated[str, typer.Option(metavar="H:P", help="Health and metrics.")] = "127.0.0.1:7078",
    advertise: Annotated[
        str,
        typer.Option(
            metavar="H:P", help="Where others reach this controller [default: --grpc-listen].", show_default=False
        ),
    ] = "",
    cluster_key: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar="PODIUM_CLUSTER_KEY",
            help="The cluster's keys, the same on all controllers; the first start writes the file [default: "
            "cluster.key in --data-dir].",
            show_default=False,
        ),
    ] = "",
    data_dir: Annotated[
        str,
        typer.Option(
            metavar="D",
            envvar="PODIUM_DATA_DIR",
            help="Keys, first tokens and the audit log lie here [default: beside an SQLite store, else "
            "/var/lib/podium/controller for root and ~/.local/share/podium/controller for others].",
            show_default=False,
        ),
    ] = "",
    audit_log: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar="PODIUM_AUDIT_LOG",
            help="Who did what, as JSON lines [default: audit.log beside --cluster-key].",
            show_default=False,
        ),
    ] = "",
    agent_listen: Annotated[
        str,
        typer.Option(
            metavar="H:P",
            help="Where agents connect with their certificates [default: port 7076 beside 7077, else any free one].",
            show_default=False,
        ),
    ] = "",
    join: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            envvar="PODIUM_JOIN",
            help="Become a further controller of the cluster that the store holds (`podium token create --role "
            "controller`); needed once.",
            show_default=False,
        ),
    ] = "",
    join_file: agent_options.JoinFile = "",
    join_at: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            envvar="PODIUM_JOIN_AT",
            help="Controllers to show the token to, where the leader is not reached at its --advertise from here.",
            show_default=False,
        ),
    ] = "",
    http_open: Annotated[
        bool | None,
        typer.Option(
            "--http-open/--no-http-open",
            help="Let everybody who reaches it read HTTP [default: on loopback only; elsewhere by http.token].",
            show_default=False,
        ),
    ] = None,
    http_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Host name under which HTTP is asked; repeatable.", show_default=False),
    ] = None,
    prometheus: Prometheus = "",
    tune: Tune = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    insecure: Insecure = None,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run one controller; several on one etcd elect a leader.

    The first start gives the cluster an authority: everything is encrypted, machines join by a token, people ask with
    one. Your own commands on this machine need none.
    """
    from cli.resident import Part
    from controller.data_dir import key_file
    from controller.settings import ControllerSettings, Timers
    from controller.tuning import tuned

    tls, clear = _tls(tls_ca, tls_cert, tls_key), _insecure(ctx, insecure)
    keys = cluster_key or key_file(store, data_dir) or str(controller_data(surroundings(ctx).environ) / "cluster.key")
    settings = ControllerSettings(
        store=store,
        grpc_listen=grpc_listen,
        http_listen=http_listen,
        advertise=advertise,
        cluster_key=cluster_key if tls or clear else keys,
        agent_listen=agent_listen,
        join_token=join,
        join_file=join_file,
        join_at=_parts(join_at),
        http_open=http_open,
        http_names=tuple(http_name or ()),
        audit_log=audit_log,
        tls=tls,
        insecure=clear,
        prometheus=prometheus,
        timers=tuned(Timers(), tune or ()),
        long_lived=True,
    )
    settings.check()
    _serve(ctx, Part.CONTROLLER, settings, log_level)


def agent(
    ctx: typer.Context,
    controller: agent_options.Controller = None,
    name: agent_options.Name = "",
    advertise: agent_options.Advertise = "127.0.0.1",
    data_dir: agent_options.DataDir = None,
    runtime: agent_options.Runtime = "",
    count: agent_options.Count = 1,
    docker_host: DockerHost = "",
    labels: agent_options.Labels = "",
    cpus: agent_options.Cpus = None,
    memory: agent_options.Memory = None,
    device: agent_options.Device = None,
    find_devices: agent_options.FindDevices = True,
    proxy: agent_options.Proxy = "auto",
    web_port: agent_options.WebPort = 80,
    web_tls_port: agent_options.WebTlsPort = 443,
    certs: agent_options.Certs = "",
    policy: agent_options.Policy = "",
    allow_bind: agent_options.AllowBind = "",
    service_addresses: agent_options.ServiceAddresses = "auto",
    dns_forward: agent_options.DnsForward = "",
    secrets_dir: agent_options.SecretsDir = "",
    process_user: agent_options.ProcessUser = "",
    http_listen: agent_options.HttpListen = None,
    http_open: agent_options.HttpOpen = None,
    http_token_file: agent_options.HttpTokenFile = "",
    http_name: agent_options.HttpName = None,
    join: agent_options.Join = "",
    join_file: agent_options.JoinFile = "",
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    insecure: Insecure = None,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run one node. Several on one machine need their own --name, --data-dir, --advertise and --http-listen."""
    from agent.devices import declared
    from agent.policy_file import node_policy
    from agent.settings import AgentSettings
    from cli.parsing import Together, cpu_millis, size_bytes
    from cli.parsing import labels as parse_labels
    from cli.resident import Part
    from cli.serving import parts
    from client.settings import controllers

    environ, given = surroundings(ctx).environ, Together()
    allowed, runtimes = node_policy(
        policy, bind=_parts(allow_bind), process_user=process_user, runtimes=_parts(runtime)
    )
    settings = AgentSettings(
        controllers=controllers(environ, controller or surroundings(ctx).controller),
        data_dir=data_dir or str(agent_data(environ)),
        name=name,
        count=count,
        advertise=advertise,
        runtimes=runtimes,
        policy=allowed,
        docker_host=docker_host,
        labels=given.read(lambda: parse_labels("labels", labels), {}),
        cpus=given.read(lambda: cpu_millis("cpus", cpus) / 1000 if cpus is not None else 0.0, 0.0),
        memory_bytes=given.read(lambda: size_bytes("memory", memory) if memory is not None else 0, 0),
        devices=given.read(lambda: declared(device or ()), ()),
        find_devices=find_devices,
        proxy=proxy,
        web_port=web_port,
        web_tls_port=web_tls_port,
        certs=certs,
        service_addresses=service_addresses,
        dns_forward=_parts(dns_forward),
        secrets_dir=secrets_dir,
        http_listen=agent_http(http_listen, advertise),
        http_open=http_open,
        http_token_file=http_token_file,
        http_names=tuple(http_name or ()),
        join_token=join,
        join_file=join_file,
        insecure=_insecure(ctx, insecure),
        tls=_tls(tls_ca, tls_cert, tls_key),
    )
    given.read(settings.check, None)
    given.check()
    with parts(Part.AGENT.value):
        from cli.joining import with_a_right_to_join
    _serve(ctx, Part.AGENT, with_a_right_to_join(settings, environ), log_level)


def user_data(environ: Mapping[str, str]) -> Path:
    """Where this user's data is kept."""
    base = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".local" / "share")
    return Path(base) / "podium"


def agent_data(environ: Mapping[str, str]) -> Path:
    """Root's agent is the machine's; anybody else's is their own."""
    return Path("/var/lib/podium/agent") if os.geteuid() == 0 else user_data(environ) / "agent"


def controller_data(environ: Mapping[str, str]) -> Path:
    """As an agent's, of a controller whose state lies elsewhere."""
    return Path("/var/lib/podium/controller") if os.geteuid() == 0 else user_data(environ) / "controller"


def agent_http(given: str | None, advertise: str) -> str:
    """On the node's own loopback address when it has one, so that agents that share a machine do not meet."""
    if given is not None:
        return given
    return f"{advertise if advertise.startswith('127.') else '127.0.0.1'}:7079"


def _parts(text: str) -> tuple[str, ...]:
    """Of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _serve(ctx: typer.Context, part: Part, settings: msgspec.Struct, log_level: LogLevel) -> None:
    """Serve to the end, and leave the command line's libraries behind for it where this process may."""
    from cli.resident import begin_anew, carry_out, order

    given = order(part, settings, log_level.value)
    if surroundings(ctx).own_process:
        begin_anew(given)
    _exit(carry_out(given))


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _insecure(ctx: typer.Context, insecure: bool | None) -> bool:
    from client.settings import truth

    around = surroundings(ctx)
    given = around.insecure if insecure is None else insecure
    return bool(truth(around.environ, "PODIUM_INSECURE") if given is None else given)


def _tls(ca: str, cert: str, key: str) -> TlsFiles | None:
    from common.tls import tls_files

    return tls_files(ca, cert, key)
