"""The server of the review page over HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hardmine.mining.pool_store import PoolStore
from hardmine.review import decisions
from hardmine.review.candidate_list import (
    CANDIDATES,
    SECOND_LOOK,
    CandidateList,
    Item,
    open_candidates,
)
from hardmine.review.decisions import Asked, DecisionDesk
from hardmine.review.request_guard import MAX_BODY, Access
from hardmine.review.server import Review, _DecideBody
from hardmine.types import Verdict
from review_world import Served, decided, draw, mined, serve

BOX = [0, 1, 2, 5, "raccoon"]
SECRET = b"the-content-of-a-file-that-is-not-listed"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.txt").write_bytes(SECRET)
    (folder / "pool").mkdir()
    run = mined(folder, 5, similar={1: 2})
    link = folder / "pool" / "pic-004.jpg"
    link.unlink()
    link.symlink_to(folder / "secret.txt")  # listed once, and now it leads elsewhere
    draw(folder / "unlisted.jpg", 99)
    return run


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Served]:
    server = serve(run, "--who", "ann")
    yield server
    server.stop()


def test_the_list_has_leaders_and_members_and_details_name_them(served: Served) -> None:
    columns = json.loads(served.get("/api/list")[1])
    assert columns["verdict"] == "0" * 7
    assert columns["fixed"]["leader"] == [-1, -1, 1, 1, -1, -1, -1]
    status, body, headers = served.get("/api/images?ids=1,2")
    first, member = json.loads(body)
    assert (status, first["name"], first["members"]) == (200, "pic-001.jpg", [2, 3])
    assert member["name"] == "like-1-0.jpg"
    assert [row[5] for row in member["boxes"]] == ["raccoon", "raccoon"]
    assert headers["cache-control"] == "no-store"


def test_pictures_come_with_the_size_that_boxes_refer_to(served: Served) -> None:
    status, body, headers = served.get("/thumbnail/0")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert (headers["x-image-width"], headers["x-image-height"]) == ("240", "160")
    assert body.startswith(b"\xff\xd8\xff")
    assert served.get("/picture/0/full")[1] == served.get("/picture/0")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/picture/4711",
        "/picture/-1",
        "/picture/0/../../secret.txt",
        "/picture/%2e%2e%2fsecret.txt",
        "/picture/..%252fsecret.txt",
        "/thumbnail/%2Fetc%2Fpasswd",
        "/page/..%2f..%2fserver.py",
        "/page/%2e%2e/server.py",
        "/page//etc/passwd",
        "/page/server.py",
        "/secret.txt",
        "//etc/passwd",
        "/picture/0%00.txt",
        "/api/images?ids=../secret.txt",
        "/api/images?ids=99999999999999999999",
    ],
)
def test_nothing_but_listed_images_is_served(served: Served, path: str) -> None:
    status, body, _ = served.get(path)
    assert status in (400, 404)
    assert SECRET not in body
    assert b"import" not in body
    assert b"root:" not in body


def test_a_listed_name_that_links_to_another_file_serves_no_byte_of_it(served: Served) -> None:
    for path in ("/thumbnail/6", "/picture/6", "/picture/6/full"):
        status, body, _ = served.get(path)
        assert status == 422
        assert "not an image" in json.loads(body)["error"]
        assert SECRET not in body


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "",
        "a b",
    ],
)
def test_another_host_name_is_refused(served: Served, host: str) -> None:
    given = host.format(port=served.port)
    assert served.get("/api/list", Host=given)[0] in (400, 403)


def test_two_host_headers_and_none_are_refused(served: Served) -> None:
    good = f"Host: 127.0.0.1:{served.port}\r\n"
    for hosts in (good + "Host: evil.example\r\n", ""):
        answer = served.raw(f"GET /api/list HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        assert answer.split(b" ")[1] in (b"400", b"403")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}"])
def test_another_origin_is_refused_even_with_the_key(served: Served, origin: str) -> None:
    body = {"images": [{"id": 0}], "verdict": "empty"}
    status, _, _ = served.ask(
        "POST", "/api/decide", body, {**key_of(served), "Origin": origin.format(port=served.port)}
    )
    assert status == 403
    assert served.get("/api/session", Origin=origin.format(port=served.port))[0] == 403


def test_another_site_can_open_the_page_and_read_nothing(served: Served) -> None:
    assert served.get("/", Sec_Fetch_Site="cross-site")[0] == 200
    for path in ("/api/session", "/api/list", "/picture/0", "/page/review.js"):
        assert served.get(path, Sec_Fetch_Site="cross-site")[0] == 403
        assert served.get(path, Sec_Fetch_Site="same-site")[0] == 403


def key_of(served: Served) -> dict[str, str]:
    return {"X-Hardmine-Key": json.loads(served.get("/api/session")[1])["key"]}


@pytest.mark.parametrize("key", [None, "", "wrong", "ü"])
def test_what_writes_needs_the_key_of_this_run(served: Served, run: Path, key: str | None) -> None:
    before = decided(run)
    headers = {} if key is None else {"X-Hardmine-Key": key}
    body = {"images": [{"id": 0}], "verdict": "empty"}
    assert served.ask("POST", "/api/decide", body, headers)[0] == 403
    assert served.ask("POST", "/api/undo", {}, headers)[0] == 403
    assert served.get("/api/decide", **headers)[0] == 405
    assert served.ask("PUT", "/api/decide", body, key_of(served))[0] == 405
    assert decided(run) == before


def test_a_large_request_is_refused_with_and_without_a_length(served: Served) -> None:
    body = b" " * (MAX_BODY + 1)
    key = key_of(served)
    assert served.ask("POST", "/api/decide", body, key)[0] == 413
    chunk = b"%x\r\n%s\r\n" % (500_000, b"x" * 500_000)
    head = (
        f"POST /api/decide HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n"
        f"X-Hardmine-Key: {key['X-Hardmine-Key']}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = served.raw(head.encode() + chunk * 2 + b"1\r\nx\r\n")
    assert answer.split(b" ")[1] == b"413"
    head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n".encode()
    many = served.raw(head + b"X-A: b\r\n" * 5000 + b"\r\n")
    assert many.split(b" ")[1] in (b"400", b"431")
    assert served.get(f"/api/search?q={'x' * 17_000}")[0] == 431


def _with_boxes(*boxes: list[object], verdict: str = "contains_object") -> dict[str, object]:
    return {"images": [{"id": 0, "boxes": list(boxes)}], "verdict": verdict}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 200_000, 400),
        ({"images": [], "verdict": "empty"}, 400),
        ({"images": [{"id": 0}], "verdict": "maybe"}, 400),
        ({"images": [{"id": 0, "path": "/etc/passwd"}], "verdict": "empty"}, 400),
        ({"images": [{"id": 99}], "verdict": "empty"}, 404),
        ({"images": [{"id": -1}], "verdict": "empty"}, 404),
        ({"images": [{"id": 0}] * 5001, "verdict": "empty"}, 400),
        (
            {
                "images": [{"id": 0, "boxes": [[9, 1, 2, 5, "raccoon"]]}],
                "verdict": "contains_object",
            },
            400,
        ),
        (
            {"images": [{"id": 0, "boxes": [[0, 1, 2, 5, "cat"]]}], "verdict": "contains_object"},
            400,
        ),
        ({"images": [{"id": 0, "boxes": [[0, 1, 2, 5, "raccoon"]]}], "verdict": "empty"}, 400),
        (
            {
                "images": [{"id": 0, "boxes": [[0, 1, 2, 5, "raccoon"]] * 101}],
                "verdict": "contains_object",
            },
            400,
        ),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_whole(
    served: Served, run: Path, body: object, status: int
) -> None:
    before = decided(run)
    answer = served.ask("POST", "/api/decide", body, key_of(served))
    assert answer[0] == status
    assert "error" in json.loads(answer[1])
    assert decided(run) == before


def test_answers_carry_a_strict_policy(served: Served) -> None:
    for path in ("/", "/api/list", "/picture/0", "/nothing"):
        _, _, headers = served.get(path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert served.get("/", Host="evil.example")[2]["content-security-policy"]


def test_a_decision_is_on_the_disk_with_all_that_was_seen(served: Served, run: Path) -> None:
    body = {"images": [{"id": 0}], "verdict": "empty", "shown": 1, "who": " bob\u0000 \n b "}
    status, told = served.post("/api/decide", body)
    assert (status, told["changes"][0][:2]) == (200, [0, "1"])
    with PoolStore(run / "pool.sqlite", read_only=True) as store:
        said = store.decisions_after(0)[-1].decision
    assert (said.verdict.value, said.who, said.model_id) == ("empty", "bob b", "model-1")
    assert [box.to_list() for box in said.shown] == [
        [30, 20, 110, 90, pytest.approx(0.95), "raccoon"]
    ]
    assert said.when.endswith("+00:00")
    assert served.post("/api/undo", {"who": "bob b"})[1]["images"] == 1
    assert "pic-000.jpg" not in decided(run)


def test_a_conflict_names_the_place_in_the_list_that_was_asked(tmp_path: Path) -> None:
    """The same picture is a candidate and, later, in the second look: the second place is meant."""
    items = [
        Item("/pool/a.png", "a.png", 0.5, "can", queue, model_id="m", boxes=[])
        for queue in (CANDIDATES, SECOND_LOOK)
    ]
    store = tmp_path / "pool.sqlite"
    listed = CandidateList(store, tuple(items), ("can",), "pool", lambda name: "")
    with DecisionDesk(store) as desk:
        review = Review(listed, desk, "ann")
        body = {"images": [{"id": 1, "seen": 0}], "verdict": "empty", "who": "ann"}
        assert review.decide(msgspec.convert(body, _DecideBody))[0] == 200
        body |= {"verdict": "ignore", "who": "ben"}
        status, told = review.decide(msgspec.convert(body, _DecideBody))
        review.pictures.close()
    assert (status, [each["id"] for each in told["conflicts"]]) == (409, [1])


def test_the_second_of_two_people_is_told_what_the_first_said(served: Served, run: Path) -> None:
    body = {"images": [{"id": 5, "seen": 0}], "verdict": "empty", "who": "ann"}
    _, first = served.post("/api/decide", body)
    other = {"images": [{"id": 5, "seen": 0}], "verdict": "ignore", "who": "ben"}
    status, told = served.post("/api/decide", other)
    assert status == 409
    assert [(c["id"], c["who"], c["verdict"]) for c in told["conflicts"]] == [(5, "ann", "empty")]
    assert decided(run)["pic-003.jpg"] == ("empty", "ann")
    other["images"] = [{"id": 5, "seen": first["changes"][0][2]}]
    assert served.post("/api/decide", other)[0] == 200
    assert decided(run)["pic-003.jpg"] == ("ignore", "ben")
    for who in ("ben", "ann"):
        served.post("/api/undo", {"who": who})


def test_what_another_process_decides_is_told(served: Served, run: Path) -> None:
    session = json.loads(served.get("/api/session")[1])
    at = json.loads(served.get("/api/list")[1])["cursor"]
    path = f"/api/changes?run={session['run']}&queue=candidates&after="
    with PoolStore(run / "pool.sqlite") as other:  # as a run does, with the writer lock
        from hardmine.types import Decision, Verdict

        image = str(run.parent / "pool" / "pic-002.jpg")
        action = other.add_decisions([Decision(image, Verdict.UNSURE, "csv", "2026-01-01", "m")])
        told = json.loads(served.get(f"{path}{at}")[1])
        assert [change[:2] for change in told["changes"]] == [[4, "4"]]
        assert told["scanning"] is True
        assert told["progress"]["decided"] == 1
        other.take_back(action, "csv", "2026-01-01")
    told = json.loads(served.get(f"{path}{told['cursor']}")[1])
    assert [change[:2] for change in told["changes"]] == [[4, "0"]]
    assert told["scanning"] is False
    assert json.loads(served.get(f"/api/changes?run=older&after={at}")[1]) == {"restarted": True}


def test_beyond_this_machine_every_request_needs_the_token() -> None:
    here, there = Access.of("127.0.0.1", 80), Access.of("192.0.2.7", 8017)
    assert here.token is None
    assert here.url == "http://127.0.0.1:80/"
    assert there.token is not None
    assert there.url == f"http://192.0.2.7:8017/?token={there.token}"
    assert Access.of("0.0.0.0", 80).token is not None
    assert Access.of("192.0.2.7", 8017).token != there.token
    assert there.knows_host("192.0.2.7:8017")
    assert not there.knows_host("evil.example:8017")


def test_a_server_beyond_this_machine_lets_in_who_has_the_token(tmp_path: Path) -> None:
    server = serve(mined(tmp_path, 2), "--host", "0.0.0.0")
    try:
        assert server.get("/")[0] == 401
        assert server.get("/?token=wrong")[0] == 401
        assert server.get("/api/list", Cookie=f"hardmine_token_{server.port}=wrong")[0] == 401
        token = server.token
        status, _, headers = server.get(f"/?token={token}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert cookie.startswith(f"hardmine_token_{server.port}=")  # beside another review's
        assert "SameSite=Strict" in cookie
        assert server.get("/api/list", Cookie=cookie.partition(";")[0])[0] == 200
        assert server.get(f"/api/list?token={token}")[0] == 401  # the token opens the page alone
        assert server.get("/", Host=f"evil.example:{server.port}", Cookie=cookie)[0] == 403
    finally:
        server.stop()


def test_a_killed_server_loses_nothing_and_the_next_one_goes_on(tmp_path: Path) -> None:
    run = mined(tmp_path, 3)
    first = serve(run)
    assert first.post("/api/decide", {"images": [{"id": 0}], "verdict": "empty"})[0] == 200
    first.kill()
    second = serve(run, port=first.port)
    try:
        assert json.loads(second.get("/api/list")[1])["verdict"] == "100"
        assert second.post("/api/undo", {})[1]["images"] == 1
    finally:
        assert "decisions are in" in second.stop()
    assert second.process.returncode == 0


def test_pictures_beside_another_are_no_further_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "RUN_OF_EMPTY", 2)
    listed = open_candidates(mined(tmp_path, 3, similar={0: 2}))
    with DecisionDesk(listed.store) as desk:
        review = Review(listed, desk, "ann")
        try:
            together = [Asked(item) for item in listed.items[:3]]
            desk.decide(together, Verdict.EMPTY, "ann")
            assert review.progress(CANDIDATES)["advice"] == []
            desk.decide([Asked(listed.items[3])], Verdict.EMPTY, "ann")
            (advice,) = review.progress(CANDIDATES)["advice"]
            assert advice.startswith("The last 2 pictures")
        finally:
            review.pictures.close()
