"""Which keys of a Compose file Podium honours, ignores or refuses, and why: the tables, as data.

Every key of the Compose Specification stands in exactly one of the three columns of its section; `docs/compose.md` is
checked against these tables. What an honoured key does is decided by the converters, not here.
"""

from __future__ import annotations

from collections.abc import Mapping

from client.compose.asset_keys import CONFIG, SECRET, USED_CONFIG, USED_SECRET
from client.compose.field import Field
from client.compose.section import Section
from client.compose.volume_keys import (
    MOUNT,
    MOUNT_BIND,
    MOUNT_TMPFS,
    MOUNT_VOLUME,
    VOLUME,
    VOLUME_PODIUM,
)

EXTENSION_PREFIX = "x-"
PODIUM_KEY = "x-podium"


def honoured(field: Field, section: Section, *, active: bool = True) -> dict[str, Field]:
    """The honoured entries of a mapping that say something; the others go to the report.

    Of a service that no active profile asks for (`active` false), neither ignored nor refused keys matter.
    """
    kept: dict[str, Field] = {}
    for key, inner in field.fields().items():
        if key in section.honoured:
            if not inner.is_null:
                kept[key] = inner
        elif key in section.ignored:
            if active:
                inner.warn(f"is ignored: {section.ignored[key]}")
        elif key in section.refused:
            if active:
                inner.fault(": ".join(filter(None, (NOT_SUPPORTED, section.refused[key]))))
        elif key == PODIUM_KEY:
            inner.fault("does not belong here: it stands directly under a service")
        elif not key.startswith(EXTENSION_PREFIX):
            inner.fault(f"is not a key of {section.title}{field.report.nearest(key, section.known)}")
    return kept


NOT_SUPPORTED = "is not supported by this version"

_MORE_RIGHTS = "it gives a task rights over its node, which no node's policy can allow; leave it out"
_BY_POLICY = "where the node's policy allows it ([security.md](security.md#what-tasks-may-have-of-their-node))"
_OTHERS_VOLUMES = "what another container mounts is its own affair; name the volume in both"
_NO_DEVICE_FILES = (
    "device files of a node are not handed out; ask for units that nodes offer with x-podium: {devices: ...}"
)
_UNITS_ARE_CHOSEN = "the scheduler chooses the units: say how many with count"

PROJECT = Section(
    title="a project",
    honoured={
        "name": "the namespace; `-p` and `COMPOSE_PROJECT_NAME` come before it, the directory's name after it",
        "services": "each service is a job",
        "volumes": "named volumes, which nodes keep ([volumes.md](volumes.md))",
        "include": "a list of paths or of mappings: other projects that become part of this one "
        "([below](#several-files))",
        "configs": "files for services, kept by what is in them ([secrets.md](secrets.md))",
        "secrets": "the same, sealed in the store and only in the memory of nodes ([secrets.md](secrets.md))",
    },
    ignored={
        "version": "the Compose Specification has no versions any more",
        "networks": "there is one: services of a project reach each other by name ([names.md](names.md))",
    },
    refused={
        "models": "Podium provides no AI models",
    },
)

INCLUDE = Section(
    title="an include",
    honoured={
        "path": "a file, or a list of files laid over each other",
        "project_directory": "where relative paths in them begin; default: the directory of the first one",
        "env_file": "a path or a list of paths: defaults for variables; default: `.env` in that directory",
    },
)

SERVICE = Section(
    title="a service",
    honoured={
        "image": "a reference of the distribution grammar; without `image` and `build` the command runs as a process",
        "command": "a list, or a text split as a shell would; `$${NAME}` is expanded by the agent",
        "entrypoint": "a list, or a text split as a shell would",
        "environment": "map or list; a name without a value is taken from the environment of `podium up`",
        "env_file": "a path, or a list of paths or `{path, required, format}`",
        "working_dir": "an absolute path",
        "user": "`NAME`, `UID`, `NAME:GROUP` or `UID:GID`",
        "labels": "labels of the container",
        "hostname": "needs an image",
        "init": "needs an image",
        "read_only": "needs an image",
        "volumes": "named volumes, and bind mounts where the node allows them ([volumes.md](volumes.md))",
        "configs": "names of configs, or `{source, target, uid, gid, mode}` ([secrets.md](secrets.md))",
        "secrets": "the same of secrets",
        "tmpfs": "a path or a list of paths, each with `:OPTIONS` if need be; needs an image",
        "cap_add": f"capabilities, {_BY_POLICY}; needs an image",
        "devices": f"`SOURCE[:TARGET[:rwm]]` or a mapping, {_BY_POLICY}; needs an image",
        "ipc": f"`host`, {_BY_POLICY}, or `private` (default); needs an image",
        "network_mode": f"`host`, {_BY_POLICY}, then without `ports`; or `bridge` (default); needs an image",
        "pid": f"`host`, {_BY_POLICY}; needs an image",
        "privileged": f"{_BY_POLICY}; needs an image",
        "security_opt": "`no-new-privileges:true` is the default; `no-new-privileges:false`, `seccomp:unconfined`, "
        f"`apparmor:unconfined` and `label:disable` {_BY_POLICY}; needs an image",
        "use_api_socket": f"the engine's socket, {_BY_POLICY}; needs an image",
        "cap_drop": "capabilities of the kernel that it goes without, or `ALL`; needs an image",
        "ulimits": "a number, or `{soft, hard}`; -1: none; needs an image",
        "shm_size": "of `/dev/shm`, e.g. `256M`; needs an image",
        "pids_limit": "processes and threads; needs an image",
        "extra_hosts": "`NAME:ADDRESS` or a mapping; needs an image",
        "dns_search": "domains in which short names are looked for, after those of the project; needs an image",
        "dns_opt": "options of the resolver, e.g. `ndots:2`; needs an image",
        "group_add": "more groups of its user; needs an image",
        "sysctls": "those that each container has for itself (`net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`, "
        "`fs.mqueue.*`); needs an image",
        "domainname": "needs an image",
        "tty": "its output is that of a terminal; needs an image",
        "stdin_open": "its input stays open; needs an image",
        "oom_score_adj": "0 to 1000: who ends first on a node out of memory; needs an image",
        "gpus": "a list, as in `deploy.resources.reservations.devices`; `all` is refused: nodes have different numbers",
        "memswap_limit": "memory and swap together, -1: all swap of the node; needs a memory limit. Left out: no swap "
        "beside that limit; needs an image",
        "cpuset": "the processors of its node that it may run on, e.g. `0-3`; needs an image",
        "post_start": "programs run in it once it is up ([below](#hooks))",
        "pre_stop": "programs run in it before it is stopped ([below](#hooks))",
        "platform": "e.g. `linux/arm64`: the same as constraints on `node.platform.os` and `node.platform.arch`",
        "label_file": "a path or a list of paths of files with `NAME=VALUE` lines; `labels` comes before them",
        "stop_signal": "default SIGTERM",
        "stop_grace_period": "default 10s",
        "pull_policy": "`missing` (default), `if_not_present`, `always` or `never`",
        "ports": "short and long form, ranges; a port without a published one is not reachable from outside; "
        "other services reach all of them by the service's name",
        "expose": "a port that other services reach by the service's name ([names.md](names.md)), and nobody outside; "
        "those that the image declares need not be repeated",
        "networks": "a list or a mapping; `aliases` are more names of the service, for all of the project",
        "links": "`SERVICE` or `SERVICE:ALIAS`: waits for it to have started; the alias is one more name of it",
        "container_name": "one more name by which other services find it; containers are named by Podium",
        "healthcheck": "run by the agent inside the container",
        "depends_on": "short and long form",
        "deploy": "as in Swarm",
        "scale": "the same as `deploy.replicas`",
        "cpus": "the same as `deploy.resources.limits.cpus`",
        "mem_limit": "the same as `deploy.resources.limits.memory`",
        "mem_reservation": "the same as `deploy.resources.reservations.memory`",
        "restart": "`no`, `always`, `unless-stopped`, `on-failure[:N]`; `deploy.restart_policy` comes before it",
        "extends": "a service of the same file, or `{file, service}`",
        "profiles": "the service is a job only when one of them is active",
        "x-podium": "what Compose has no word for",
    },
    ignored={
        "annotations": "nothing in Podium reads them; use labels",
        "attach": "`podium logs` shows any job's output",
        "build": "Podium does not build; the image must be there (`docker build -t IMAGE .`) or in a registry",
        "cpu_shares": "a hint for busy machines; use deploy.resources",
        "develop": "it is for development on one machine",
        "logging": "Podium keeps every task's output for `podium logs`",
        "mem_swappiness": "a hint for the machine's kernel",
    },
    refused={
        "blkio_config": "disk limits would not be enforced",
        "cgroup": _MORE_RIGHTS,
        "cgroup_parent": "the agent owns the control groups of its tasks; use deploy.resources",
        "cpu_count": "use deploy.resources.limits.cpus",
        "cpu_percent": "use deploy.resources.limits.cpus",
        "cpu_period": "use deploy.resources.limits.cpus",
        "cpu_quota": "use deploy.resources.limits.cpus",
        "cpu_rt_period": "tasks run without real-time scheduling",
        "cpu_rt_runtime": "tasks run without real-time scheduling",
        "credential_spec": "it is for Windows",
        "device_cgroup_rules": _NO_DEVICE_FILES,
        "dns": "the node answers names of services, and asks for others where its agent says: --dns-forward",
        "external_links": "containers outside Podium cannot be linked; give their address in environment",
        "isolation": "it is for Windows",
        "mac_address": "the runtime chooses the addresses of containers",
        "models": "Podium provides no AI models",
        "oom_kill_disable": "a task that outgrows its memory must end, or its node suffers",
        "provider": "Podium runs containers and processes itself",
        "pull_refresh_after": "use pull_policy: always",
        "runtime": "the node decides on its runtime; choose nodes with deploy.placement.constraints",
        "storage_opt": "disk limits would not be enforced",
        "userns_mode": _MORE_RIGHTS,
        "uts": _MORE_RIGHTS,
        "volumes_from": _OTHERS_VOLUMES,
    },
)

HOOK = Section(
    title="a hook",
    honoured={
        "command": "a list, or a text split as a shell would; `$${NAME}` is expanded by the agent",
        "user": "default: the service's; needs an image",
        "working_dir": "default: the service's",
        "environment": "besides the service's",
    },
    refused={"privileged": _MORE_RIGHTS},
)

DEPLOY = Section(
    title="deploy",
    honoured={
        "mode": "`replicated` (default), `replicated-job`, `global` or `global-job` ([jobs.md](jobs.md))",
        "replicas": "default 1; not with `global` and `global-job`",
        "labels": "labels of the job",
        "resources": "",
        "placement": "",
        "restart_policy": "comes before `restart`",
        "update_config": "",
        "rollback_config": "of the way back from this version; what it leaves out is as in `update_config`",
    },
    ignored={
        "endpoint_mode": "every published port is balanced over the healthy tasks",
    },
)

RESOURCES = Section(title="resources", honoured={"limits": "", "reservations": ""})

LIMITS = Section(
    title="limits",
    honoured={
        "cpus": "cores, e.g. `0.5`",
        "memory": "e.g. `256M`",
        "pids": "the same as `pids_limit`",
    },
)

RESERVATIONS = Section(
    title="reservations",
    honoured={
        "cpus": "cores, e.g. `0.5`",
        "memory": "e.g. `256M`",
        "devices": "a list; GPUs only: the kind `gpu`",
        "generic_resources": "a list, as in Swarm",
    },
)

DEVICE = Section(
    title="a device",
    honoured={
        "capabilities": "`[gpu]`",
        "count": "how many whole units; must be given, and `all` is refused: nodes have different numbers of them",
        "driver": "`nvidia`",
    },
    refused={
        "device_ids": _UNITS_ARE_CHOSEN,
        "options": "they would not reach the driver; set its variables in environment",
    },
)

GENERIC_RESOURCE = Section(
    title="a generic resource",
    honoured={"discrete_resource_spec": ""},
    refused={"named_resource_spec": "the scheduler chooses the units: use discrete_resource_spec"},
)

DISCRETE_RESOURCE = Section(
    title="discrete_resource_spec",
    honoured={"kind": "of the devices; `a-z`, `0-9`, `-`", "value": "how many whole units"},
)

PLACEMENT = Section(
    title="placement",
    honoured={
        "constraints": "`ATTRIBUTE == VALUE`, also `!=`, `in (A, B)`, `not in (A, B)`, `<`, `<=`, `>`, `>=` "
        "([scheduler.md](scheduler.md#which-nodes-could-take-a-task))",
        "preferences": "a list of `{spread: ATTRIBUTE}`, the most important first",
        "max_replicas_per_node": "0: no limit; not with `global` and `global-job`",
    },
)

PREFERENCE = Section(title="a preference", honoured={"spread": "an attribute of nodes"})

RESTART_POLICY = Section(
    title="restart_policy",
    honoured={
        "condition": "`any` (default of services), `on-failure` (default of jobs that end) or `none`",
        "delay": "before the first restart, doubled with each failure in a row; default 100ms",
        "max_attempts": "on one node, then the slot moves to another; default 5, 0 never gives up",
        "window": "a run this long makes earlier failures forgotten; default 5m",
    },
)

UPDATE_CONFIG = Section(
    title="update_config",
    honoured={
        "order": "`start-first` (default) or `stop-first`",
        "parallelism": "slots changed at a time, default 1; of a job whose tasks end, tasks at a time, default 0; "
        "0 is all at once",
        "delay": "after a slot is through and before the next one begins; default 0",
        "monitor": "how long a new task must have been well before the old one goes; default 5s, or 0s with a "
        "health check",
        "max_failure_ratio": "0 (default) to 1, of the replicas that change",
        "failure_action": "`rollback` (default), `pause` or `continue`",
    },
)

ROLLBACK_CONFIG = Section(
    title="rollback_config",
    honoured={
        "order": "`start-first` or `stop-first`",
        "parallelism": "slots changed at a time; 0 is all at once",
        "delay": "after a slot is through and before the next one begins",
        "monitor": "how long a task must have been well before the one it follows goes",
        "max_failure_ratio": "0 (default) to 1",
        "failure_action": "`pause` (default: a rollback that fails stops, and says so) or `continue`",
    },
)

HEALTH_CHECK = Section(
    title="healthcheck",
    honoured={
        "test": 'a text (run by a shell), `["CMD", ...]`, `["CMD-SHELL", LINE]` or `["NONE"]`',
        "interval": "default 30s",
        "timeout": "default 30s",
        "retries": "default 3",
        "start_period": "default 0s",
        "start_interval": "default 5s",
        "disable": "`true` is the same as `NONE`",
    },
)

PORT = Section(
    title="a port",
    honoured={
        "target": "the container's port",
        "published": "a port on every node (ingress) or on the task's node (host)",
        "protocol": "`tcp` (default) or `udp`",
        "mode": "`ingress` (default) or `host`",
        "host_ip": "`127.0.0.1` or `::1`: on each node's loopback only; `0.0.0.0` or `::` say no more than none. "
        "Another one is refused: a published port listens on the node's own address",
    },
    ignored={"name": "nothing in Podium reads it", "app_protocol": "bytes are passed on as they are"},
)

DEVICE_FILE = Section(
    title="a device file",
    honoured={
        "source": "below `/dev` of the node",
        "target": "below `/dev` of the container; default: the same",
        "permissions": "of `r`, `w` and `m`; default all",
    },
)

SERVICE_NETWORK = Section(
    title="a network of a service",
    honoured={"aliases": "a list; of letters, digits, `-` and `_`"},
    ignored={
        "priority": "there is one network",
        "gw_priority": "there is one network",
        "interface_name": "the runtime names the interfaces of containers",
        "driver_opts": "there is one network",
    },
    refused={
        "ipv4_address": "the runtime chooses the addresses of containers; others find the service by its name",
        "ipv6_address": "the runtime chooses the addresses of containers; others find the service by its name",
        "link_local_ips": "the runtime chooses the addresses of containers",
        "mac_address": "the runtime chooses the addresses of containers",
    },
)

DEPENDENCY = Section(
    title="a dependency",
    honoured={
        "condition": "`service_started` (default), `service_healthy` or `service_completed_successfully`",
        "required": "with `false`, a service that is not there is no fault",
    },
    ignored={"restart": "a job is not restarted because another one changed"},
)

ENV_FILE = Section(
    title="env_file",
    honoured={
        "path": "relative to the project's directory",
        "required": "default true",
        "format": "`raw`: values are taken as they are",
    },
)

EXTENDS = Section(
    title="extends", honoured={"service": "", "file": "relative to the file that says so; left out: the same file"}
)

PODIUM = Section(
    title=PODIUM_KEY,
    honoured={
        "autoscale": "the number of replicas follows the load, and may come to none "
        "([scaling.md](scaling.md)); `deploy.replicas` is then what the service begins with",
        "attempts": "of a job whose tasks end: tasks tried for one slot before it has failed, each on another node "
        "where one fits; 1 (default) to 100 ([jobs.md](jobs.md#tasks-that-end))",
        "deadline": "of a job whose tasks end: from its first task on, e.g. `10m`; what goes on then is stopped",
        "gang": "`true`: all tasks get their nodes at once or none does, and they stop and start together "
        "([jobs.md](jobs.md#gangs)); default false",
        "devices": "by kind: a number of whole units, e.g. `{gpu: 2}`, a share of one, e.g. `{gpu: 0.5}`, or a mapping",
        "exclusive": "`true`: at most one task of each replica number runs, also while the cluster is cut in two "
        "([exclusive.md](exclusive.md)); default false",
        "depends_on": "like `depends_on` of the service, for jobs of any file: `NAME` of this namespace or "
        "`NAMESPACE/NAME` ([jobs.md](jobs.md#dependencies))",
        "schedule": "when it runs again and again: five fields of cron or a name like `@daily` "
        "([jobs.md](jobs.md#schedules)); `deploy.mode` is then `replicated-job`",
        "timezone": "by whose clocks, e.g. `Europe/Berlin`; default `UTC`",
        "overlap": "when a run is due and the one before goes on: `skip` (default), `queue` or `replace`",
        "keep": "how many runs are kept after they ended: 0 to 100, default 3",
        "start_within": "how late a run may still start that came due while no controller was there; default `12h`",
        "affinity": "where tasks would rather be: a list of `{constraint: RULE, weight: 1 to 100}` and `{job: NAME, "
        "weight: ...}`, or with `required: true` where they must be ([scheduler.md](scheduler.md#beside-and-apart))",
        "anti_affinity": "the same for where they would rather not be, or must not",
        "http": "requests for it by host and path: `{host: NAME, path: /, tls: CERTIFICATE, port: N}`, or a list "
        "of them ([traffic.md](traffic.md#http-by-host-and-path))",
        "proxy_protocol": "`v1` or `v2`: connections over published TCP ports begin with the client's address; or a "
        "mapping by port of the container ([traffic.md](traffic.md#client-addresses-without-http))",
        "slow_start": "for how long the share of a new task grows to its full one, e.g. `30s`; default 0",
        "strategy": "`spread` (to the node with the least reserved) or `binpack` (the most), where nothing before it "
        "decides ([scheduler.md](scheduler.md#which-of-them-should)); default: as the cluster is set",
        "canary": "a few replicas of a new version beside the old ones first ([rollouts.md](rollouts.md#canary))",
        "blue_green": "all of a new version beside the old, then all traffic at once "
        "([rollouts.md](rollouts.md#blue-green))",
        "progress_deadline": "a rollout that comes no further for this long has failed; default 10m, 0 is never "
        "([rollouts.md](rollouts.md#when-a-rollout-fails))",
        "priority": "0 to 100, default 50: whose tasks get nodes first, and who may displace whom where there is no "
        "room for both ([scheduler.md](scheduler.md#priorities))",
    },
)

AUTOSCALE = Section(
    title="autoscale",
    honoured={
        "min": "the least number of replicas, default 1; 0 lets it sleep while nobody uses it",
        "max": "the greatest; always needed",
        "cpu": "per cent of the CPU that a replica reserves (or is limited to) that it should use on average",
        "memory": "the same of memory",
        "requests_per_second": "for each replica: connections to published ports and HTTP requests routed by host",
        "query": "a number of the cluster's Prometheus",
        "up": "how fast it grows; default `{stabilise: 0s, replicas: 4, percent: 100, period: 15s}`",
        "down": "how fast it shrinks; default `{stabilise: 300s, replicas: 0, percent: 100, period: 15s}`",
        "schedule": "a list of `{at: CRON, replicas: N}`: the least from then on; 0 puts it to sleep",
        "timezone": "by whose clocks the schedule goes; default `UTC`",
        "wake": "`true` (default): while it sleeps, the next connection starts it and waits",
        "wake_wait": "how long a connection waits for that; default `60s`",
    },
)

AUTOSCALE_QUERY = Section(
    title="a query of autoscale",
    honoured={
        "prometheus": "an expression with one value, e.g. `sum(rate(orders_total[1m]))`",
        "target": "how much of it one replica should have",
    },
)

AUTOSCALE_PACE = Section(
    title="up or down of autoscale",
    honoured={
        "stabilise": "only as far as everything within this time asked for; at most `3600s`",
        "replicas": "at most so many within a period, or",
        "percent": "so many of those at its beginning, whichever is more; with both 0 nothing changes",
        "period": "`1s` to `3600s`",
    },
)

AUTOSCALE_ENTRY = Section(
    title="an entry of autoscale's schedule",
    honoured={
        "at": "five fields of cron or a name like `@daily`",
        "replicas": "0, or a number from `min` to `max`",
    },
)

AFFINITY = Section(
    title="an affinity",
    honoured={
        "constraint": "which nodes, as in `deploy.placement.constraints`; a rule alone, without a mapping, is the same",
        "job": "beside which job's tasks: `NAME` of this namespace or `NAMESPACE/NAME`, also the service itself",
        "within": "what beside means: on nodes with the same value of this attribute; default: on the same node",
        "weight": "1 to 100, default 50; the greatest sum of what a node fulfils wins",
        "required": "`true`: nowhere else; of a job only. Default false",
    },
)

PODIUM_HTTP = Section(
    title="a route",
    honoured={
        "host": "whose requests are meant, e.g. `shop.example.com`",
        "path": "it and everything below it; default `/`",
        "tls": "name of its certificate: a secret of the namespace, or else a file on the nodes; left out: plain HTTP",
        "port": "of the container; needed where the service has not exactly one TCP port",
    },
)

CANARY = Section(
    title="canary",
    honoured={
        "replicas": "how many of the new version run beside the old ones, from slot 1 on, at most all; default 1",
        "weight": "percent of the traffic that they get together, 1 to 99; default: as much as their number brings",
        "bake": "how long they must have been well; default 60s",
        "promote": "`auto` (default) or `manual`: then each step waits for `podium promote`",
        "steps": "a list of `{replicas, weight, bake}` instead, one after the other",
    },
)

CANARY_STEP = Section(
    title="a step",
    honoured={
        "replicas": "not fewer than in the step before; default 1",
        "weight": "percent of the traffic, 1 to 99",
        "bake": "default 60s",
    },
)

BLUE_GREEN = Section(
    title="blue_green",
    honoured={
        "bake": "how long the old ones are kept after the switch; default 60s",
        "promote": "`auto` (default) or `manual`: then the switch waits for `podium promote`",
    },
)

PODIUM_DEVICE = Section(
    title="a device",
    honoured={
        "count": "how many whole units; default 1",
        "share": "a part of one unit that is set aside, in steps of 0.001; default 1",
        "models": "one or a list, as `podium inspect node` shows them; any of them will do",
    },
)

SECTIONS: Mapping[str, Section] = {
    "(top level)": PROJECT,
    "include[]": INCLUDE,
    "services.NAME": SERVICE,
    "volumes.NAME": VOLUME,
    "volumes.NAME.x-podium": VOLUME_PODIUM,
    "configs.NAME": CONFIG,
    "secrets.NAME": SECRET,
    "services.NAME.volumes[]": MOUNT,
    "services.NAME.volumes[].volume": MOUNT_VOLUME,
    "services.NAME.volumes[].bind": MOUNT_BIND,
    "services.NAME.volumes[].tmpfs": MOUNT_TMPFS,
    "services.NAME.configs[]": USED_CONFIG,
    "services.NAME.secrets[]": USED_SECRET,
    "services.NAME.devices[]": DEVICE_FILE,
    "services.NAME.ports[]": PORT,
    "services.NAME.env_file[]": ENV_FILE,
    "services.NAME.networks.NAME": SERVICE_NETWORK,
    "services.NAME.depends_on.NAME": DEPENDENCY,
    "services.NAME.healthcheck": HEALTH_CHECK,
    "services.NAME.extends": EXTENDS,
    "services.NAME.post_start[], services.NAME.pre_stop[]": HOOK,
    "services.NAME.gpus[]": DEVICE,
    "services.NAME.deploy": DEPLOY,
    "services.NAME.deploy.resources": RESOURCES,
    "services.NAME.deploy.resources.limits": LIMITS,
    "services.NAME.deploy.resources.reservations": RESERVATIONS,
    "services.NAME.deploy.resources.reservations.devices[]": DEVICE,
    "services.NAME.deploy.resources.reservations.generic_resources[]": GENERIC_RESOURCE,
    "services.NAME.deploy.resources.reservations.generic_resources[].discrete_resource_spec": DISCRETE_RESOURCE,
    "services.NAME.deploy.placement": PLACEMENT,
    "services.NAME.deploy.placement.preferences[]": PREFERENCE,
    "services.NAME.deploy.restart_policy": RESTART_POLICY,
    "services.NAME.deploy.update_config": UPDATE_CONFIG,
    "services.NAME.deploy.rollback_config": ROLLBACK_CONFIG,
    "services.NAME.x-podium": PODIUM,
    "services.NAME.x-podium.autoscale": AUTOSCALE,
    "services.NAME.x-podium.autoscale.query": AUTOSCALE_QUERY,
    "services.NAME.x-podium.autoscale.up": AUTOSCALE_PACE,
    "services.NAME.x-podium.autoscale.schedule[]": AUTOSCALE_ENTRY,
    "services.NAME.x-podium.affinity[]": AFFINITY,
    "services.NAME.x-podium.canary": CANARY,
    "services.NAME.x-podium.canary.steps[]": CANARY_STEP,
    "services.NAME.x-podium.blue_green": BLUE_GREEN,
    "services.NAME.x-podium.devices.NAME": PODIUM_DEVICE,
    "services.NAME.x-podium.http": PODIUM_HTTP,
}
"""By the path at which they stand; the order of docs/compose.md."""
