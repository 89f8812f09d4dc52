"""Names of jobs on one node: whom each means, which address it has, and what a task is told."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec
import pytest

from agent.core.names import Names, entrances
from agent.core.neighbours import NEIGHBOURS_LIMIT, Neighbours, neighbours_of
from agent.network.feed import Feed
from agent.network.interface import listeners_of
from agent.network.names.book import AddressBook, Page
from agent.network.names.forward import Forwarder, answers, machine_search, machine_servers
from agent.network.names.place import least_port
from agent.network.names.zone import Empty, Foreign, Meant, Unknown, Zone
from agent.network.relay.slots import SlotAddresses, job_of, slot_service
from common.model.endpoint import Endpoint, Service
from common.model.job import Container, DesiredState, EngineOptions, HttpRoute, Protocol, TaskSpec
from common.model.session import Assignment

NETWORK = "198.18.16.0/20"


def service(job: str = "web", *slots: int, namespace: str = "shop", port: int = 80, **fields: object) -> Service:
    endpoints = tuple(
        Endpoint(task_id=f"{job}{slot}", slot=slot, node_id="n", address="10.0.0.1", port=30_000 + slot)
        for slot in slots
    )
    made = Service(namespace=namespace, job=job, container_port=port, endpoints=endpoints)
    return msgspec.structs.replace(made, **fields)


def names_of(*services: Service, least_port: int = 0, network: str = NETWORK) -> Names:
    return AddressBook(Page(network=network), least_port=least_port).names_of(services)


def zone_of(*services: Service) -> Zone:
    return Zone(services, names_of(*services))


def meaning(zone: Zone, name: str) -> str:
    """`namespace/job`, `namespace/job.slot`, or the kind of finding."""
    match zone.find(tuple(part for part in name.split(".") if part)):
        case Meant(job=job, slot=None):
            return job.job_name
        case Meant(job=job, slot=slot):
            return f"{job.job_name}.{slot}"
        case found:
            return type(found).__name__


# --- whom a name means


@pytest.mark.parametrize(
    ("name", "whom"),
    [
        ("web.shop.podium", "shop/web"),
        ("3.web.shop.podium", "shop/web.3"),
        ("web.shop", "shop/web"),
        ("3.web.shop", "shop/web.3"),
        ("db", "shop/db"),
        ("web", "Foreign"),  # two namespaces have one
        ("3.web", "Foreign"),
        ("4.db", "shop/db.4"),
        ("web.blog.podium", "blog/web"),
        ("www.shop.podium", "shop/web"),
        ("3.www.shop.podium", "shop/web.3"),
        ("www", "shop/web"),
        ("podium", "Empty"),
        ("shop.podium", "Empty"),
        ("nobody.podium", "Unknown"),
        ("nobody.shop.podium", "Unknown"),
        ("9.web.shop.podium", "Unknown"),
        ("9.web.shop", "Unknown"),
        ("03.web.shop.podium", "shop/web.3"),
        ("x.3.web.shop.podium", "Unknown"),
        ("9999999999.web.shop.podium", "Unknown"),
        ("web.shop.example", "Foreign"),
        ("shop", "Foreign"),
        ("", "Foreign"),
    ],
)
def test_each_form_of_a_name(name: str, whom: str) -> None:
    shop = service("web", 3, aliases=("www",)), service("db", 4)
    assert meaning(zone_of(*shop, service("web", 3, namespace="blog")), name) == whom


def test_a_job_whose_name_is_a_number_is_no_slot() -> None:
    zone = zone_of(service("3", 1), service("shop", 3, namespace="3"))
    assert (meaning(zone, "3.shop"), meaning(zone, "3.shop.podium"), meaning(zone, "1.3.shop")) == (
        "shop/3",
        "shop/3",
        "shop/3.1",
    )


def test_a_jobs_own_name_comes_before_the_alias_of_another() -> None:
    assert meaning(zone_of(service("a", aliases=("web",)), service("web")), "web.shop.podium") == "shop/web"


def test_a_job_has_its_name_while_nobody_answers() -> None:
    assert meaning(zone_of(service("web")), "web.shop.podium") == "shop/web"


def test_without_names_everything_is_elsewhere() -> None:
    assert isinstance(Zone().find(("web",)), Foreign)
    assert isinstance(Zone().find(("shop", "podium")), Unknown)
    assert isinstance(Zone().find(("podium",)), Empty)


# --- addresses


def test_an_address_is_given_once_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    book = AddressBook(Page(network=NETWORK), path)
    before = book.names_of([service("web"), service("db")]).addresses
    again = AddressBook(msgspec.json.decode(path.read_bytes(), type=Page), path)
    assert again.names_of([service("db"), service("new"), service("web")]).addresses.items() >= before.items()
    assert len(set(again.names.addresses.values())) == 3


def test_a_lost_book_gives_the_same_addresses() -> None:
    assert names_of(service("db"), service("web")).addresses == names_of(service("web"), service("db")).addresses


def test_addresses_are_of_the_network_and_of_nobody_else() -> None:
    names = names_of(*(service(f"j{number}") for number in range(500)))
    network = ipaddress.IPv4Network(NETWORK)
    slots = {names.at(place) for place in range(*names.slot_addresses())}
    assert all(ipaddress.IPv4Address(address) in network for address in names.addresses.values())
    assert not {names.resolver, str(network[0]), *slots} & set(names.addresses.values())


def test_when_all_are_given_the_rest_go_without() -> None:
    names = names_of(*(service(f"j{number}") for number in range(200)), network="198.18.0.0/24")
    assert len(names.addresses) == 190
    assert len(entrances(tuple(service(f"j{number}") for number in range(200)), names)) == 190


def test_forgotten_jobs_make_room() -> None:
    book = AddressBook(Page(network="198.18.0.0/24"))
    book.names_of([service(f"old{number}") for number in range(190)])
    book.keep([service("old7")])
    assert len(book.names_of([service(f"new{number}") for number in range(189)]).addresses) == 190


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    book = AddressBook(Page(network=NETWORK), tmp_path / "gone" / "names.json")
    assert book.names_of([service("web")]).addresses


# --- where a job listens for others


def test_published_ports_are_reached_by_others_too_and_routes_are_not_twice() -> None:
    published = service("web", published_port=8080)
    routed = service("web", http=HttpRoute(host="a.example"))
    names = names_of(published, routed)
    places = {(one.address, one.port) for one in listeners_of("10.0.0.1", (published, routed), names)}
    assert places == {("10.0.0.1", 8080), (names.addresses["shop/web"], 80)}
    assert {(one.address, one.port) for one in listeners_of("10.0.0.1", (published, routed))} == {("10.0.0.1", 8080)}


def test_two_published_ports_of_one_are_one_entrance() -> None:
    services = service("web", published_port=8080), service("web", published_port=8081)
    assert len(entrances(services, names_of(*services))) == 1


def test_ports_of_root_move_where_the_node_is_not_root() -> None:
    services = service("web", port=80), service("web", port=8080), service("web", port=80, protocol=Protocol.UDP)
    ports = [port for _, port, _ in entrances(services, names_of(*services, least_port=1024))]
    assert ports == [10_080, 8080, 10_080]


@pytest.mark.parametrize(
    ("rights", "least"),
    [("CapEff:\t000001ffffffffff", 0), ("CapEff:\t0000000000000400", 0), ("CapEff:\t00000000a80021fb", 81), ("", 1024)],
)
def test_who_may_listen_on_low_ports_is_told_by_the_right_to_not_by_the_user(
    rights: str, least: int, tmp_path: Path
) -> None:
    status, setting = tmp_path / "status", tmp_path / "setting"
    status.write_text(f"Name:\tpython\n{rights}\n")
    setting.write_text("81\n")
    assert least_port(status, setting) == least


# --- slots


def feed(*services: Service) -> Feed:
    return Feed(revision=1, services=services, names=names_of(*services))


def test_a_slot_is_offered_once_it_was_asked_for() -> None:
    slots, fed = SlotAddresses(), feed(service("web", 1, 2), service("db", 1))
    assert slots.extend(fed) == fed
    assert fed.names is not None
    address = slots.give(("shop/web", 2), fed.names)
    added = slots.extend(fed)
    (listener,) = added.listeners
    (one,) = [service for service in added.services if service.key == listener.service]
    assert (listener.address, listener.port) == (address, 80)
    assert [endpoint.task_id for endpoint in one.endpoints] == ["web2"]
    assert job_of(one) == "shop/web"
    assert slots.known(("shop/web", 2)) == address


def test_the_slot_that_nobody_asks_for_makes_room() -> None:
    services = service("web", *range(1, 66))
    slots, names = SlotAddresses(), names_of(services, network="198.18.0.0/24")
    slots.extend(Feed(revision=1, services=(services,), names=names))
    given = [slots.give(("shop/web", number), names) for number in range(1, 64)]
    assert len(set(given)) == 63
    slots.known(("shop/web", 1))
    assert slots.give(("shop/web", 64), names) == given[1]
    assert (slots.known(("shop/web", 1)), slots.known(("shop/web", 2))) == (given[0], "")


def test_slots_go_with_their_job() -> None:
    slots, fed = SlotAddresses(), feed(service("web", 1))
    slots.extend(fed)
    assert fed.names is not None
    slots.give(("shop/web", 1), fed.names)
    slots.extend(feed(service("db")))
    assert slots.known(("shop/web", 1)) == ""


def test_the_service_of_a_slot_is_no_other_ones() -> None:
    published = service("web", 1, 2, published_port=8080)
    keys = {published.key, *(slot_service(published, number).key for number in (1, 2, 12))}
    assert len(keys) == 4


# --- what a task is told


def assignment(image: str = "shop:1", namespace: str = "shop", **options: object) -> Assignment:
    container = Container(image=image, engine=EngineOptions(**options))  # type: ignore[arg-type]
    return Assignment(
        task_id="t",
        namespace=namespace,
        job="web",
        slot=1,
        version=1,
        desired=DesiredState.RUN,
        task=TaskSpec(container=container),
    )


def test_a_container_is_told_whom_to_ask_and_a_process_where_everybody_is() -> None:
    services = service("my-db", port=5432), service("my-db", port=80), service("else", namespace="blog")
    names = names_of(*services, least_port=1024)
    told = neighbours_of(assignment(), services, names, ("example.com",))
    address = names.addresses["shop/my-db"]
    assert told.environment == {
        "PODIUM_SERVICE_MY_DB_HOST": address,
        "PODIUM_SERVICE_MY_DB_PORT": "10080",
        "PODIUM_SERVICE_MY_DB_PORT_80": "10080",
        "PODIUM_SERVICE_MY_DB_PORT_5432": "5432",
    }
    assert (told.resolver, told.search) == ("198.18.16.1", ("shop.podium", "podium", "example.com"))
    process = neighbours_of(assignment(image=""), services, names, ("example.com",))
    assert process == Neighbours(environment=told.environment)


def test_the_engineers_domains_come_instead_of_the_machines() -> None:
    told = neighbours_of(assignment(dns_search=("a.example",)), (), names_of(), ("example.com",))
    assert told.search == ("shop.podium", "podium", "a.example")


def test_a_container_is_told_nothing_of_addresses_it_has_no_way_to() -> None:
    names = names_of(service("db"), network="127.64.0.0/20")
    assert neighbours_of(assignment(), (service("db"),), names, ()) == Neighbours()
    assert neighbours_of(assignment(image=""), (service("db"),), names, ()).environment


def test_so_many_are_told_of_in_the_environment_and_no_more() -> None:
    services = tuple(service(f"j{number:03}") for number in range(NEIGHBOURS_LIMIT + 20))
    told = neighbours_of(assignment(), services, names_of(*services), ())
    assert len(told.environment) == 3 * NEIGHBOURS_LIMIT
    assert "PODIUM_SERVICE_J000_HOST" in told.environment


# --- whom to ask for other names


def test_the_machines_servers_and_domains_are_read_as_the_c_library_does(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# c\nnameserver 10.0.0.2\nnameserver  fe80::1%eth0 \nsearch a b\nsearch c.example d\noptions x\n")
    assert machine_servers(path) == ("10.0.0.2", "fe80::1%eth0")
    assert machine_search(path) == ("c.example", "d")
    assert machine_servers(tmp_path / "none") == machine_search(tmp_path / "none") == ()


async def test_a_node_whose_machine_asks_the_node_asks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 198.18.16.1\n")
    assert await Forwarder((), ("198.18.16.1", 53), path).ask(b"q" * 20, stream=False) is None


def test_an_answer_to_another_question_is_none() -> None:
    query = b"\1\2\1\0\0\1\0\0\0\0\0\0\3web\4shop\0\0\1\0\1"
    answer = query[:2] + b"\x81\x80" + query[4:]
    assert answers(answer, query)
    assert answers(answer.replace(b"web", b"WEB"), query)
    assert not answers(query, query)
    assert not answers(rb"\9" + answer[1:], query)
    assert not answers(answer.replace(b"web", b"bad"), query)
