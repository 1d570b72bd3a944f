"""Which host this is, and which of its interfaces the others reach."""

from __future__ import annotations

import socket

import pytest

from pipeline.errors import ConfigError
from pipeline.ranks import Place
from stages.train.config import TrainConfig
from stages.train.distributed.agent import describe_exit, launch_settings
from stages.train.distributed.entrance import share_of
from stages.train.distributed.hosts import interface_of, own_index
from stages.train.stage import Train

ELSEWHERE = "192.0.2.7"  # reserved for documentation: nobody's


def test_a_host_is_known_by_its_address_or_its_name():
    assert own_index([ELSEWHERE, "127.0.0.1"]) == 1
    assert own_index([socket.gethostname(), ELSEWHERE]) == 0


def test_a_host_that_is_not_named_is_told_which_are():
    with pytest.raises(ConfigError, match=f"none of {ELSEWHERE} is this host"):
        own_index([ELSEWHERE])


def test_a_host_named_twice_is_told_so():
    with pytest.raises(ConfigError, match=r"127.0.0.1 and 127.0.0.1 are all this host"):
        own_index(["127.0.0.1", "127.0.0.1"])


def test_the_interface_is_that_of_the_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of(ELSEWHERE) is None


def test_the_stage_says_its_place_among_the_hosts():
    hosts = TrainConfig.model_validate({"launch": {"hosts": [ELSEWHERE, "127.0.0.1"]}})
    assert Train(hosts).place() == Place(1, 2)
    assert Train(TrainConfig()).place() == Place()


@pytest.mark.parametrize(("host", "keeps"), [(0, "true"), (1, "false")])
def test_the_first_host_keeps_the_store_whatever_names_say(host, keeps, tmp_path):
    config = TrainConfig.model_validate(
        {"launch": {"processes": 3, "hosts": ["127.0.0.1", ELSEWHERE]}}
    )
    settings = launch_settings(config, "id", host, tmp_path)
    assert settings.rdzv_configs["is_host"] == keeps
    assert settings.rdzv_endpoint == "127.0.0.1:29400"
    assert settings.local_addr == ["127.0.0.1", ELSEWHERE][host]
    assert (settings.min_nodes, settings.max_nodes, settings.nproc_per_node) == (2, 2, 3)


def test_one_host_needs_no_names_and_no_fixed_port(tmp_path):
    config = TrainConfig.model_validate({"launch": {"processes": 2}})
    settings = launch_settings(config, "id", 0, tmp_path)
    assert (settings.rdzv_endpoint, settings.local_addr) == ("localhost:0", "localhost")


def test_the_way_a_process_ended_is_told_in_words():
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(3) == "ended with exit code 3"


@pytest.mark.parametrize("world", [1, 2, 4, 16])
def test_shares_of_a_batch_make_up_the_batch(world):
    assert share_of(16, world) * world == 16


@pytest.mark.parametrize(("batch", "told"), [(16, "Use 15 or 18"), (2, "Use 3,")])
def test_a_batch_that_cannot_be_shared_is_told_what_could(batch, told):
    with pytest.raises(ConfigError, match=told):
        share_of(batch, 3)
