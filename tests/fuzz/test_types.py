"""The declared types hold of every default, and of what is published."""

import dataclasses
import json

import pytest
from fuzz_configs import CONFIGS, PUBLISHED

from jaxinv.diffusion.diffusers_config import (
    DEFAULTS,
    READ_BY_ALL,
    TYPES,
    scheduler_options,
)
from jaxinv.files.json_fields import check_field, check_fields
from jaxinv.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    UNet2DConditionConfig,
)


def test_every_option_of_a_scheduler_has_a_type_that_its_default_satisfies():
    for defaults in DEFAULTS.values():
        for name, value in defaults.items():
            check_field(name, value, TYPES[name])
    used = {name for defaults in DEFAULTS.values() for name in defaults}
    assert TYPES.keys() == used | set(READ_BY_ALL)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no published schedulers here")
def test_published_schedulers_are_read_or_named_as_unknown():
    for config in json.loads(PUBLISHED.read_text()).values():
        if config.get("_class_name") in (*DEFAULTS, None):
            scheduler_options(config)


@pytest.mark.parametrize(
    "config",
    [
        UNet2DConditionConfig.sd15(),
        UNet2DConditionConfig.sd21(),
        AutoencoderKLConfig.sd15(),
        AutoencoderKLConfig.flux(),
        CLIPTextConfig.sd21(),
        *CONFIGS.values(),
    ],
    ids=range(5 + len(CONFIGS)),
)
def test_published_models_are_within_the_bounds(config):
    check_fields(config)
    assert dataclasses.replace(config) == config
