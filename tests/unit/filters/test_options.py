# SPDX-License-Identifier: Apache-2.0
"""[filters] and [relay]: what is refused, and that the refusal says why."""

from typing import Any

import pytest

from gateway.filters.base import FilterOptions, ScoredOptions
from gateway.filters.builtin import build, reference
from gateway.filters.options import FiltersOptions
from gateway.filters.recipients import RelayOptions
from tests.support.resolver import MapResolver

NAMES = ["recipients", "size", "spf", "headers", "dkim"]


def refused(model: type, data: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        model.model_validate(data)  # type: ignore[attr-defined]
    return str(caught.value)


def modes(**options: Any) -> dict[str, str]:
    bound = build(FiltersOptions.model_validate(options), RelayOptions(), 0, MapResolver())
    return {one.filter.name: one.mode for one in bound}


def test_table_has_every_section_once_in_its_order():
    assert list(modes()) == NAMES
    fields = FiltersOptions.model_fields.items()
    sections = [name for name, field in fields if isinstance(own := field.annotation, type) and issubclass(own, FilterOptions)]
    assert sorted(sections) == sorted(NAMES)


def test_general_mode_is_inherited_by_all_that_may_be_off():
    assert modes(mode="off") == {"recipients": "enforce", "size": "enforce"}
    assert modes(mode="shadow") == {name: "enforce" if name in ("recipients", "size") else "shadow" for name in NAMES}
    assert modes(mode="off", spf={"mode": "shadow"})["spf"] == "shadow"
    assert "dkim" not in modes(dkim={"mode": "off"})


@pytest.mark.parametrize("name", ["recipients", "size"])
@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_relay_rule_and_size_cannot_be_switched_off(name: str, mode: str):
    """An open relay must not be one typo away."""
    assert f"{name}.mode" in (text := refused(FiltersOptions, {name: {"mode": mode}}))
    assert "always on" in text


def test_own_keys_reach_the_chain():
    bound = build(
        FiltersOptions.model_validate({"spf": {"timeout": "3s", "on_error": "skip"}}), RelayOptions(), 0, MapResolver()
    )
    assert [(one.timeout, one.on_error, one.always) for one in bound if one.filter.name == "spf"] == [(3.0, "skip", False)]
    assert [one.filter.name for one in bound if one.always] == ["recipients", "size"]


@pytest.mark.parametrize(
    "data",
    [
        {"spam": {}},
        {"spf": {"colour": 1}},
        {"mode": "on"},
        {"spf": {"on_error": "accept"}},
        {"spf": {"timeout": "0s"}},
        {"spf": {"timeout": 10}},
        {"deadline": "0s"},
        {"reject_score": -1},
        {"reject_score": float("nan")},
        {"hold_score": float("inf")},
        {"breaker_faults": 0},
        {"headers": {"scores": {"NO_SUCH_SYMBOL": 1.0}}},
        {"headers": {"scores": {"GTUBE": float("nan")}}},
        {"dkim": {"large_at_once": 0}},
        {"recipients": {"known": {"not a domain": []}}},
        {"recipients": {"extension": "++"}},
    ],
)
def test_bad_filter_options_are_refused(data: dict[str, Any]):
    refused(FiltersOptions, data)


def test_unknown_symbol_is_refused_with_the_known_ones():
    assert "MISSING_FROM" in refused(FiltersOptions, {"headers": {"scores": {"MISSING_FORM": 1.0}}})


def test_scores_are_laid_over_the_built_in_ones():
    options = FiltersOptions.model_validate({"spf": {"scores": {"SPF_SOFTFAIL": 4.5}}}).spf
    assert options.symbols()["SPF_SOFTFAIL"].score == 4.5
    assert options.symbols()["SPF_FAIL"].score == type(options).default_scores["SPF_FAIL"]


def test_every_scored_filter_names_its_symbols():
    for name in NAMES:
        own = getattr(FiltersOptions(), name)
        assert not isinstance(own, ScoredOptions) or own.symbols()


@pytest.mark.parametrize(
    "networks",
    [
        ["0.0.0.0/0"],
        ["::/0"],
        ["0.0.0.0/1", "128.0.0.0/1"],
        ["0.0.0.0/2", "128.0.0.0/2"],
        ["128.0.0.0/1"],
        ["2000::/3"],
        ["2000::/4"],
        ["2000::/5", "3800::/5"],
        ["10.0.0.0/8", "::/1", "8000::/1"],
        ["::ffff:0:0/96"],
        ["::/8"],
    ],
)
def test_networks_that_cover_everybody_need_to_be_wanted(networks: list[str]):
    assert "anyone could relay" in refused(RelayOptions, {"networks": networks})
    assert len(RelayOptions.model_validate({"networks": networks, "open": True}).networks) == len(networks)


@pytest.mark.parametrize("networks", [["10.0.0.0/8", "100.64.0.0/10", "fc00::/7"], ["64.0.0.0/2"], ["2001::/16", "2a00::/8"]])
def test_wide_networks_that_are_not_everybody_are_taken(networks: list[str]):
    assert RelayOptions.model_validate({"networks": networks})


@pytest.mark.parametrize("domain", [".com", ".DE", ".xn--p1ai", ".рф"])
def test_a_whole_top_level_domain_needs_to_be_wanted(domain: str):
    assert "top-level domain" in refused(RelayOptions, {"domains": ["dest.example", domain]})
    assert RelayOptions.model_validate({"domains": [domain], "open": True})


@pytest.mark.parametrize("domain", [".internal", ".local", ".mx.example", ".co.uk", "com"])
def test_private_names_and_names_below_a_top_level_domain_are_taken(domain: str):
    assert RelayOptions.model_validate({"domains": [domain]}).domains == [domain]


@pytest.mark.parametrize("domain", ["*", ".", "*.", "", "..com", ".*"])
def test_no_domain_stands_for_all_of_them(domain: str):
    assert refused(RelayOptions, {"domains": [domain]})


def test_relay_domains_become_a_labels():
    options = RelayOptions.model_validate({"domains": ["Dest.Example", ".Sub.example", "bücher.example"]})
    assert options.domains == ["dest.example", ".sub.example", "xn--bcher-kva.example"]


@pytest.mark.parametrize(
    "data",
    [
        {"domains": ["[192.0.2.1]"]},
        {"domains": ["a b"]},
        {"domains": [""]},
        {"domains": ["."]},
        {"domains": ["*.dest.example"]},
        {"domains": ["dest.example."]},
        {"networks": ["192.0.2.1/24"]},
        {"postmaster": "nobody"},
        {"hosts": []},
    ],
)
def test_bad_relay_options_are_refused(data: dict[str, Any]):
    refused(RelayOptions, data)


def test_defaults_are_those_of_the_contract():
    options, relay = FiltersOptions(), RelayOptions()
    assert (options.mode, options.spf.timeout, options.spf.on_error, options.spf.mode) == ("enforce", 10.0, "defer", None)
    assert (relay.domains, [str(network) for network in relay.networks], relay.open) == ([], ["127.0.0.0/8"], False)


def test_reference_page_has_every_filter_option_and_symbol():
    page = reference()
    for name in NAMES:
        options = getattr(FiltersOptions(), name)
        assert f"\n## {name}\n" in page
        own = set(type(options).model_fields) - set(FilterOptions.model_fields)
        symbols = options.symbols() if isinstance(options, ScoredOptions) else {}
        assert all(f"\n| `{each}` | " in page for each in [*own, *symbols])
    for line in page.splitlines():
        if line.startswith("| "):
            assert line.replace("\\|", "").count("|") in (3, 4), line
