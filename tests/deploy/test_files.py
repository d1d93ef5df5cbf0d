"""Dockerfile and compose.yaml: what their checkers say, and what they promise that no checker looks at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nextvec.retrieval.backends import find_backend
from nextvec.serving.settings import Settings

BIN = Path(sys.executable).parent


def check(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, check=False)


def check_compose(file: Path) -> subprocess.CompletedProcess[str]:
    """Against the schema of the Compose Specification, which the checker brings along."""
    return check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


def test_the_dockerfile_has_no_fault(root: Path, tmp_path: Path) -> None:
    done = check("hadolint", "--no-color", root / "Dockerfile")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "Dockerfile").write_text((root / "Dockerfile").read_text().replace("ENTRYPOINT [", "ENTRY ["))
    assert check("hadolint", tmp_path / "Dockerfile").returncode != 0


def test_compose_follows_its_specification(root: Path, tmp_path: Path) -> None:
    done = check_compose(root / "compose.yaml")
    assert done.returncode == 0, done.stdout
    (tmp_path / "compose.yaml").write_text(
        (root / "compose.yaml").read_text().replace("cap_drop", "cap_dorp")
    )
    assert check_compose(tmp_path / "compose.yaml").returncode != 0


def test_the_image_runs_as_nobody_in_particular(image: Any) -> None:
    user, group = map(int, image.instructions["USER"].split(":"))
    assert user > 0
    assert group > 0
    assert len(image.bases) == 2, "what builds is not what runs"
    assert all(re.search(r":\d+\.\d+-slim", base) for base in image.bases)


def test_only_what_is_copied_is_sent_and_nothing_secret(root: Path, image: Any) -> None:
    lines = (root / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in lines
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(image.copied)
    assert all((root / source).exists() for source in image.copied)
    settings = (root / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"^(ENV|ARG).*(KEY|TOKEN|PASSWORD|SECRET)", settings, re.MULTILINE)


def test_services_are_for_this_machine_and_give_up_what_they_can(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"server", "prometheus", "postgres"}
    for name, service in compose["services"].items():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "no-new-privileges:true" in service["security_opt"]
        assert {"pids_limit", "mem_limit"} <= set(service)
        assert "privileged" not in service
        if name != "postgres":  # it has to give its folder to another user
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"] is True
            assert name == "server" or "healthcheck" in service  # the server's is in the image
    assert compose["services"]["postgres"]["profiles"] == ["postgres"]
    assert "healthcheck" in compose["services"]["postgres"]


def test_what_is_named_is_there(root: Path, compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (root / source).is_file()
            elif not source.startswith("$"):
                assert source in compose["volumes"]


def test_a_key_is_never_committed(root: Path, compose: dict[str, Any]) -> None:
    file = re.fullmatch(r"\$\{NEXTVEC_API_KEY_FILE:-\./deploy/(\w+)}", compose["secrets"]["api_key"]["file"])
    assert file
    assert file[1] in (root / "deploy/.gitignore").read_text(encoding="utf-8").split()


def test_prometheus_asks_the_server_with_the_key(compose: dict[str, Any], prometheus: dict[str, Any]) -> None:
    [job] = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["server:8000"]}]
    secrets = compose["services"]["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] in [f"/run/secrets/{name}" for name in secrets]


def test_the_server_gets_the_time_that_it_takes_to_end(compose: dict[str, Any]) -> None:
    assert int(compose["services"]["server"]["stop_grace_period"].removesuffix("s")) > Settings().grace


def test_the_example_of_the_page_names_the_database_as_compose_does(
    root: Path, compose: dict[str, Any]
) -> None:
    page = (root / "docs/deploy.md").read_text(encoding="utf-8")
    [spec] = re.findall(r"NEXTVEC_INDEX=(\S+)", page)
    _, address = find_backend(spec)
    made = compose["services"]["postgres"]["environment"]
    assert address == f"postgresql://{made['POSTGRES_USER']}@postgres/{made['POSTGRES_DB']}"


@pytest.mark.parametrize("name", ["compose.yaml", "deploy/prometheus.yml"])
def test_no_key_stands_twice(name: str, root: Path) -> None:
    """YAML would keep the last one without a word."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
            return super().construct_mapping(node, deep)

    assert yaml.load((root / name).read_text(encoding="utf-8"), Strict)  # noqa: S506 - it is a SafeLoader
