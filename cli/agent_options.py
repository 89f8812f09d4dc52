"""The options of `podium agent`: their names, environment variables and help."""

from __future__ import annotations

from typing import Annotated

import typer

Controller = Annotated[
    str | None,
    typer.Option(
        "--controller",
        metavar="A,B,C",
        help="Controllers; any of them [env: PODIUM_CONTROLLER; default: 127.0.0.1:7077].",
        show_default=False,
    ),
]

Name = Annotated[
    str, typer.Option("--name", metavar="N", help="Of the node [default: the host name].", show_default=False)
]

Advertise = Annotated[str, typer.Option("--advertise", metavar="H", help="Address at which others reach this node.")]

DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="D",
        help="Journal and output, one per agent [default: /var/lib/podium/agent as root, else "
        "~/.local/share/podium/agent].",
        show_default=False,
    ),
]

Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAMES",
        help="Of docker, process and fake [default: docker, and process where the policy allows it].",
        show_default=False,
    ),
]

Count = Annotated[
    int,
    typer.Option("--count", metavar="N", help="So many nodes that only pretend to run anything; with --runtime fake."),
]

Labels = Annotated[
    str, typer.Option("--labels", metavar="K=V,...", help="For placement constraints.", show_default=False)
]

Cpus = Annotated[
    float | None,
    typer.Option("--cpus", metavar="N", help="Cores to offer [default: what the machine has].", show_default=False),
]

Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="4G", help="Memory to offer [default: what the machine has].", show_default=False),
]

Device = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="KIND[:...]",
        envvar="PODIUM_DEVICE",
        help="Offer devices, e.g. gpu:model=A10,count=2 or fpga:ids=a0+a1; repeatable.",
        show_default=False,
    ),
]

FindDevices = Annotated[
    bool,
    typer.Option(
        "--find-devices/--no-find-devices",
        envvar="PODIUM_FIND_DEVICES",
        help="Offer the GPUs that nvidia-smi lists, unless --device gpu says which.",
    ),
]

Proxy = Annotated[
    str,
    typer.Option(
        "--proxy",
        metavar="auto|relay|haproxy",
        envvar="PODIUM_PROXY",
        help="What carries traffic; auto: HAProxy where it is installed, else the built-in relay (no HTTP routes).",
    ),
]

WebPort = Annotated[
    int,
    typer.Option("--web-port", metavar="P", min=1, max=65535, help="Where HTTP is served that is routed by host."),
]

WebTlsPort = Annotated[int, typer.Option("--web-tls-port", metavar="P", min=1, max=65535, help="The same with TLS.")]

Certs = Annotated[
    str,
    typer.Option(
        "--certs",
        metavar="D",
        envvar="PODIUM_CERTS",
        help="Directory of certificates for it: NAME.pem, or NAME.crt with NAME.key.",
        show_default=False,
    ),
]

ServiceAddresses = Annotated[
    str,
    typer.Option(
        "--service-addresses",
        metavar="auto|none|NET",
        envvar="PODIUM_SERVICE_ADDRESSES",
        help="Addresses of its own that the node gives to jobs which call each other by name.",
    ),
]

DnsForward = Annotated[
    str,
    typer.Option(
        "--dns-forward",
        metavar="A,B",
        envvar="PODIUM_DNS_FORWARD",
        help="Name servers for all other names [default: the machine's].",
        show_default=False,
    ),
]

AllowBind = Annotated[
    str,
    typer.Option(
        "--allow-bind",
        metavar="DIR,...",
        envvar="PODIUM_ALLOW_BIND",
        help="Directories of this machine that tasks may mount, with all below them [default: none].",
        show_default=False,
    ),
]

SecretsDir = Annotated[
    str,
    typer.Option(
        "--secrets-dir",
        metavar="DIR",
        envvar="PODIUM_SECRETS_DIR",
        help="Directory on a tmpfs for the configs and secrets of tasks [default: /run/podium as root, else "
        "$XDG_RUNTIME_DIR/podium].",
        show_default=False,
    ),
]

Policy = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="FILE",
        envvar="PODIUM_POLICY",
        help="What else tasks may have of this machine (docs/security.md) [default: nothing].",
        show_default=False,
    ),
]

ProcessUser = Annotated[
    str,
    typer.Option(
        "--process-user",
        metavar="NAME",
        envvar="PODIUM_PROCESS_USER",
        help="Whom plain processes run as when the agent is root [default: each a user of its own, or the policy's].",
        show_default=False,
    ),
]

HttpListen = Annotated[
    str | None,
    typer.Option(
        "--http-listen",
        metavar="H:P",
        help="Health and metrics; none when empty [default: port 7079 of --advertise when that is 127.x.x.x, "
        "else of 127.0.0.1].",
        show_default=False,
    ),
]

HttpOpen = Annotated[
    bool | None,
    typer.Option(
        "--http-open/--no-http-open",
        help="Let everybody who reaches it read HTTP [default: on loopback only; elsewhere by http.token].",
        show_default=False,
    ),
]

HttpName = Annotated[
    list[str] | None,
    typer.Option(
        "--http-name", metavar="NAME", help="Host name under which HTTP is asked; repeatable.", show_default=False
    ),
]

HttpTokenFile = Annotated[
    str,
    typer.Option(
        "--http-token-file",
        metavar="FILE",
        envvar="PODIUM_HTTP_TOKEN_FILE",
        help="Holds the token by which HTTP is read, mode 0600 [default: http.token in --data-dir, made there].",
        show_default=False,
    ),
]

Join = Annotated[
    str,
    typer.Option(
        "--join",
        metavar="TOKEN",
        envvar="PODIUM_JOIN",
        help="Become a node of a cluster that has an authority (`podium token create`); needed once.",
        show_default=False,
    ),
]

JoinFile = Annotated[
    str,
    typer.Option(
        "--join-file",
        metavar="FILE",
        envvar="PODIUM_JOIN_FILE",
        help="Holds the token instead, mode 0600 (`podium token create --out FILE`); waited for while it is needed.",
        show_default=False,
    ),
]
