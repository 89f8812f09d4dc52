"""Every key of the Compose Specification is in exactly one of three lists, and docs/compose.md says the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from client.compose import keys
from client.compose.keys import SECTIONS
from client.compose.reference import with_tables
from client.compose.section import Section
from tests.compose_files import Workspace

DOCS = Path(__file__).parents[2] / "docs" / "compose.md"

# From the JSON schema of the Compose Specification (compose-spec.json), as published in 2025: every mapping of it with
# a fixed set of keys, by the path at which it stands.
SPECIFICATION = {
    "(top level)": "version name include services models networks volumes secrets configs",
    "include[]": "path env_file project_directory",
    "services.NAME": """
        annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name
        cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec
        depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file
        environment expose extends external_links extra_hosts gpus group_add healthcheck hostname image init ipc
        isolation label_file labels links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit
        models network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_stop
        privileged profiles provider pull_policy pull_refresh_after read_only restart runtime scale secrets
        security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits
        use_api_socket user userns_mode uts volumes volumes_from working_dir
    """,
    "services.NAME.blkio_config": """
        device_read_bps device_read_iops device_write_bps device_write_iops weight weight_device
    """,
    "services.NAME.build": """
        context dockerfile dockerfile_inline entitlements args ssh labels cache_from cache_to no_cache
        additional_contexts network pull target shm_size extra_hosts isolation privileged secrets tags ulimits platforms
    """,
    "services.NAME.configs[]": "source target uid gid mode",
    "services.NAME.credential_spec": "config file registry",
    "services.NAME.depends_on.NAME": "restart required condition",
    "services.NAME.deploy": """
        mode endpoint_mode replicas labels rollback_config update_config resources restart_policy placement
    """,
    "services.NAME.deploy.placement": "constraints preferences max_replicas_per_node",
    "services.NAME.deploy.placement.preferences[]": "spread",
    "services.NAME.deploy.resources": "limits reservations",
    "services.NAME.deploy.resources.limits": "cpus memory pids",
    "services.NAME.deploy.resources.reservations": "cpus memory generic_resources devices",
    "services.NAME.deploy.resources.reservations.devices[]": "capabilities count device_ids driver options",
    "services.NAME.deploy.resources.reservations.generic_resources[]": "discrete_resource_spec",
    "services.NAME.deploy.resources.reservations.generic_resources[].discrete_resource_spec": "kind value",
    "services.NAME.deploy.restart_policy": "condition delay max_attempts window",
    "services.NAME.deploy.rollback_config": "parallelism delay failure_action monitor max_failure_ratio order",
    "services.NAME.deploy.update_config": "parallelism delay failure_action monitor max_failure_ratio order",
    "services.NAME.develop": "watch",
    "services.NAME.develop.watch[]": "ignore include path action target exec",
    "services.NAME.devices[]": "source target permissions",
    "services.NAME.env_file[]": "path format required",
    "services.NAME.extends": "service file",
    "services.NAME.gpus[]": "capabilities count device_ids driver options",
    "services.NAME.healthcheck": "disable interval retries test timeout start_period start_interval",
    "services.NAME.logging": "driver options",
    "services.NAME.models.NAME": "endpoint_var",
    "services.NAME.networks.NAME": """
        aliases interface_name ipv4_address ipv6_address link_local_ips mac_address driver_opts priority gw_priority
    """,
    "services.NAME.ports[]": "name mode host_ip target published protocol app_protocol",
    "services.NAME.post_start[]": "command user privileged working_dir environment",
    "services.NAME.pre_stop[]": "command user privileged working_dir environment",
    "services.NAME.provider": "type options",
    "services.NAME.secrets[]": "source target uid gid mode",
    "services.NAME.ulimits.NAME": "hard soft",
    "services.NAME.volumes[]": "type source target read_only consistency bind volume tmpfs image",
    "services.NAME.volumes[].bind": "propagation create_host_path recursive selinux",
    "services.NAME.volumes[].image": "subpath",
    "services.NAME.volumes[].tmpfs": "size mode",
    "services.NAME.volumes[].volume": "labels nocopy subpath",
    "models.NAME": "name model context_size runtime_flags",
    "networks.NAME": "name driver driver_opts ipam external internal enable_ipv4 enable_ipv6 attachable labels",
    "networks.NAME.ipam": "driver config options",
    "networks.NAME.ipam.config[]": "subnet ip_range gateway aux_addresses",
    "volumes.NAME": "name driver driver_opts external labels",
    "secrets.NAME": "name environment file external labels driver driver_opts template_driver",
    "configs.NAME": "name content environment file external labels template_driver",
}
OWN = {
    "services.NAME": {"x-podium"},
    "volumes.NAME": {"x-podium"},
    # Of configs only; said here for who looks for it.
    "secrets.NAME": {"content"},
    # Not in the schema, but Docker's own command has always read it.
    "services.NAME.deploy.resources.reservations.generic_resources[]": {"named_resource_spec"},
}
"""Keys that we know besides."""
READ_WHOLE = {"services.NAME.ulimits.NAME"}
"""Honoured by what reads the key above it; see the tests of that."""


def section_of(path: str) -> Section | None:
    found = (section for paths, section in SECTIONS.items() if path in paths.split(", "))
    return next(found, None)


def is_settled_above(path: str) -> bool:
    """Whether a key that the path leads through is ignored or refused, with all that stands below it."""
    above = "(top level)"
    for name in path.replace("[]", "").split("."):
        section = section_of(above) or section_of(f"{above}[]")
        if section is not None and (name in section.ignored or name in section.refused):
            return True
        above = name if above == "(top level)" else f"{above}.{name}"
    return False


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.mark.parametrize("path", SPECIFICATION)
def test_every_key_of_the_specification_is_known(path: str) -> None:
    section = section_of(path)
    if section is None:
        assert is_settled_above(path) or path in READ_WHOLE
    else:
        assert set(section.known) - OWN.get(path, set()) == set(SPECIFICATION[path].split())


@pytest.mark.parametrize("section", SECTIONS.values(), ids=list(SECTIONS))
def test_every_key_is_in_one_list_only(section: Section) -> None:
    assert [key for key, times in Counter(section.known).items() if times > 1] == []


@pytest.mark.parametrize("section", SECTIONS.values(), ids=list(SECTIONS))
def test_every_ignored_key_says_what_that_means(section: Section) -> None:
    assert all(section.ignored.values())


@pytest.mark.parametrize("section", SECTIONS.values(), ids=list(SECTIONS))
def test_every_refused_key_says_why(section: Section) -> None:
    assert all(section.refused[key] for key in section.refused if key != "autoscale")


@pytest.mark.parametrize("key", keys.SERVICE.ignored)
def test_an_ignored_key_is_a_warning_with_its_line(workspace: Workspace, key: str) -> None:
    warnings = workspace.warnings(f"services:\n  web:\n    image: a\n    {key}: [1]\n")
    assert warnings == [f"compose.yaml:4: services.web.{key}: is ignored: {keys.SERVICE.ignored[key]}"]


@pytest.mark.parametrize("key", keys.SERVICE.refused)
def test_a_refused_key_is_a_fault_with_its_line_and_reason(workspace: Workspace, key: str) -> None:
    faults = workspace.faults(f"services:\n  web:\n    image: a\n    {key}: [1]\n")
    assert faults == [
        f"compose.yaml:4: services.web.{key}: is not supported by this version: {keys.SERVICE.refused[key]}"
    ]


@pytest.mark.parametrize("key", keys.PROJECT.refused)
def test_a_refused_key_of_the_top_level_too(workspace: Workspace, key: str) -> None:
    (fault,) = workspace.faults(f"services: {{web: {{image: a}}}}\n{key}: {{a: b}}\n")
    assert fault.startswith(f"compose.yaml:2: {key}: is not supported by this version: ")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("imagee", "image"), ("port", "ports"), ("enviroment", "environment"), ("health_check", "healthcheck")],
)
def test_an_unknown_key_is_a_fault_with_the_nearest(workspace: Workspace, key: str, nearest: str) -> None:
    faults = workspace.faults(f"services:\n  web:\n    image: a\n    {key}: x\n")
    assert faults == [f"compose.yaml:4: services.web.{key}: is not a key of a service (did you mean {nearest}?)"]


def test_an_unknown_key_that_is_like_no_other_is_a_fault_all_the_same(workspace: Workspace) -> None:
    assert workspace.faults("services: {web: {image: a}}\nqqq: 1\n") == [
        "compose.yaml:2: qqq: is not a key of a project"
    ]


def test_the_documentation_has_the_tables() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run: python -m client.compose.reference docs/compose.md"


def test_the_documented_refusal_is_what_is_printed(workspace: Workspace) -> None:
    """The example in the documentation: a file in one block, what `podium validate` prints in the next."""
    text = DOCS.read_text(encoding="utf-8")
    found = re.search(r"<!-- refusal -->\n+```yaml\n(.*?)```.*?```text\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert workspace.faults(found[1]) == found[2].splitlines()
