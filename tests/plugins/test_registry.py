"""Parts of other packages: found by name, imported only then, and never in the way of anything else."""

from __future__ import annotations

import sys

import pytest

from dllm import Blocks, ConfigError, LocalLeap, NoCache, Threshold, load
from dllm.compose.names import CACHES, POLICIES, SCHEDULERS, SCORES, TABLES
from dllm.compose.options import Options
from dllm.compose.recipes import BUILT_IN, RECIPES, default_recipe
from dllm.models.families import PLUGGED, recognise_family
from tests.packages import Site
from tests.tiny import tiny_model

GOOD = """
    from dataclasses import dataclass
    from dllm.policies import PrefixRule, Confidence
    from dllm.types import Cache as CacheBase

    @dataclass(frozen=True)
    class Good(PrefixRule):
        share: float = 0.5
        score: object = Confidence()

    @dataclass
    class Thawed(PrefixRule):
        score: object = Confidence()

    class Bare(PrefixRule):
        pass

    @dataclass(frozen=True)
    class Cache(CacheBase):
        def init(self, canvas, model, /): ...
        def step(self, model, canvas, window, state, /): ...

    good = Good()
"""


def policies(**points: str) -> dict[str, dict[str, str]]:
    return {"dllm.policies": points}


def complaint(name: str, table=POLICIES) -> str:
    with pytest.raises(ConfigError) as caught:
        table.find(name)
    return str(caught.value)


def test_ours_by_any_spelling():
    assert POLICIES.find("local-leap") is POLICIES.find("local_leap") is POLICIES.find("LocalLeap") is LocalLeap
    assert SCORES.name_of(SCORES.find("sequential")) == "left-to-right", "two names, one class"
    assert POLICIES.name_of(Threshold) == "threshold" and POLICIES.name_of(Blocks) is None
    assert "unknown policy 'treshold' (did you mean 'threshold'?): choose from threshold, factor" in complaint(
        "treshold"
    )
    assert (
        complaint("nonsense", CACHES) == "unknown cache 'nonsense': choose from none, prefix, dual" or len(CACHES) > 3
    )


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_name_of_ours_is_a_part_of_its_kind(table):
    for entry in table.entries():
        found = table.load(entry)
        assert table.adopt(entry, found) is found
        assert table.find(entry.name) is table.find(entry.attribute) is found


def test_a_part_is_imported_when_its_name_is_used(site: Site):
    before = set(POLICIES)
    site.install("dllm-good", policies(good="good_part:Good"), good_part=GOOD)
    assert set(POLICIES) - before == {"good"} and "good" in POLICIES and len(POLICIES) == len(before) + 1
    assert POLICIES.find("threshold") is Threshold
    Options(policy="klass", cache="dual").strategy(tiny_model("bidirectional"), 8)
    assert "good_part" not in sys.modules
    good = POLICIES.find("good")
    assert "good_part" in sys.modules
    assert good is POLICIES["good"] is POLICIES.find("Good") and POLICIES.name_of(good) == "good"
    strategy = Options(policy="good(0.25)").strategy(tiny_model("bidirectional"), 8)
    assert strategy.policy == good(0.25)
    assert repr(Options(recipe=repr(strategy)).strategy(tiny_model("bidirectional"), 8)) == repr(strategy)


BROKEN = {
    "import": ("a:B", "import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module"),
    "syntax": ("a:B", "class (", "SyntaxError"),
    "exit": ("a:B", "raise SystemExit(3)", "SystemExit: 3"),
    "error": ("a:B", "1 / 0", "ZeroDivisionError: division by zero"),
    "attribute": ("a:B", "x = 1", "has no attribute 'B'"),
    "module": ("nowhere_at_all:B", "", "No module named 'nowhere_at_all'"),
    "place": ("not a place", "", "cannot be imported"),
    "empty": ("", "", "cannot be imported"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_package_is_an_error_of_its_own_name_alone(site: Site, case: str):
    place, source, reason = BROKEN[case]
    site.install("dllm-broken", policies(broken=place), version="3.1", a=source)
    said = complaint("broken")
    assert said.startswith("policy 'broken' of dllm-broken 3.1 ("), said
    assert reason in said and "uninstall dllm-broken 3.1" in said
    assert complaint("broken") == said, "the second time too"
    m = tiny_model("bidirectional")
    assert Options(policy="threshold", cache="none").strategy(m, 8).cache == NoCache()
    assert Options(recipe="klass", tau=0.5).strategy(m, 8)
    with pytest.raises(ConfigError, match="dllm-broken"):
        Options(policy="broken").strategy(m, 8)
    with pytest.raises(ConfigError, match="--f does not belong to threshold"):
        Options(f=1.0).strategy(m, 8)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("part:Thawed", "frozen dataclass"),
        ("part:Bare", "frozen dataclass"),
        ("part:good", "a policy is a class"),
        ("part:Cache", "Cache is no policy: it does not derive from dllm.types.Policy"),
    ],
)
def test_what_is_no_policy_is_refused(site: Site, place: str, reason: str):
    site.install("dllm-odd", policies(odd=place), part=GOOD)
    said = complaint("odd")
    assert reason in said and "dllm-odd 0.1" in said and place in said


def test_a_part_of_another_kind_is_known_there_only(site: Site):
    site.install("dllm-odd", {"dllm.caches": {"odd": "part:Cache"}}, part=GOOD)
    assert CACHES.find("odd").__name__ == "Cache"
    assert "unknown scheduler 'odd'" in complaint("odd", SCHEDULERS)


@pytest.mark.parametrize("name", ["threshold", "local-leap", "local_leap"])
def test_a_name_of_ours_that_a_package_claims(site: Site, name: str):
    site.install("dllm-claims", policies(**{name: "part:Good"}), part=GOOD)
    said = complaint(name)
    for party in ("of dllm (dllm.policies:", "and of dllm-claims 0.1 (part:Good)", "uninstall dllm-claims 0.1"):
        assert party in said
    assert POLICIES.find("factor") and "part" not in sys.modules


def test_a_class_of_ours_whose_name_a_package_uses(site: Site):
    site.install("dllm-same", policies(mine="part:Threshold"), part=GOOD.replace("Good", "Threshold"))
    assert POLICIES.find("mine") is not Threshold and POLICIES.find("threshold") is Threshold
    said = complaint("Threshold")
    assert "dllm.policies:Threshold" in said and "part:Threshold" in said, "a repr would be ambiguous"


def test_two_packages_that_claim_one_name(site: Site):
    site.install("dllm-one", policies(good="part:Good"), part=GOOD)
    site.install("dllm-two", policies(good="elsewhere:Good"), elsewhere=GOOD)
    said = complaint("good")
    assert "dllm-one 0.1 (part:Good)" in said and "dllm-two 0.1 (elsewhere:Good)" in said
    assert list(POLICIES).count("good") == 1


def test_of_two_versions_on_the_path_the_first_counts(site: Site, tmp_path):
    site.install("dllm-good", policies(good="part:Good"), version="2.0", part=GOOD)
    Site(tmp_path).install("Dllm_Good", policies(good="part:Other", gone="part:Good"), version="1.0")
    sys.path.append(str(tmp_path))
    try:
        assert POLICIES.find("good").__name__ == "Good" and "gone" not in POLICIES
    finally:
        sys.path.remove(str(tmp_path))


def test_metadata_that_cannot_be_read_hides_nothing_else(site: Site):
    site.install("dllm-good", policies(good="part:Good"), part=GOOD)
    site.metadata("dllm-garbage", "1", "[dllm.policies]\nno equals sign\n")
    (site.folder / "dllm_empty-1.dist-info").mkdir()
    (site.folder / "dllm_empty-1.dist-info" / "entry_points.txt").write_text("[dllm.policies]\nx = part:Good\n")
    assert POLICIES.find("good").__name__ == "Good"
    assert POLICIES.find("threshold") is Threshold


RECIPE = """
    from dllm import Blocks, NoCache, Strategy, Threshold
    from dllm.policies import EqualSplit
    from dllm.recipes import Recipe

    def plain(tau: float = 0.7, block: int = 16) -> Strategy:
        '''Somebody 2026 (arXiv:2601.00001): plain.'''
        return Strategy(Threshold(tau), Blocks(block), NoCache())

    full = Recipe("whatever", plain, EqualSplit(), ("novel", "llada"))

    def raises():
        raise KeyError("oh")

    def strange():
        return 3

    number = 3
"""


def test_recipes_of_packages(site: Site):
    names = ("plain", "full", "raises", "strange", "number")
    site.install("dllm-papers", {"dllm.recipes": {name: f"papers:{name}" for name in names}}, papers=RECIPE)
    m = tiny_model("bidirectional")
    assert list(RECIPES)[: len(BUILT_IN)] == list(BUILT_IN)
    assert Options(recipe="plain").strategy(m, 8).policy == Threshold(0.7)
    assert Options(recipe="plain(tau=0.2, block=4)", tau=0.3).strategy(m, 8).policy == Threshold(0.3)
    assert Options(recipe="plain(tau=0.2, block=4)").strategy(m, 8).scheduler == Blocks(4)
    assert RECIPES["full"].name == "full" and "arXiv:2601" in RECIPES["full"].citation
    with pytest.raises(ConfigError, match=r"plain has no field 'taw' \(did you mean 'tau'\?\): .*tau=0.7, block=16"):
        Options(recipe="plain(taw=0.2)").strategy(m, 8)
    for name, reason in {
        "raises": "KeyError: 'oh'",
        "strange": "makes 3, which is no",
        "number": "a recipe is a",
    }.items():
        with pytest.raises(ConfigError, match=reason) as caught:
            Options(recipe=name).strategy(m, 8)
        assert "dllm-papers 0.1" in str(caught.value)


def test_recipes_of_packages_are_defaults_of_new_families_only(site: Site):
    points = {"raises": "papers:nowhere", "full": "papers:full"}
    site.install("dllm-papers", {"dllm.recipes": points}, papers=RECIPE)
    assert default_recipe("llada").name == "fast_dllm" and default_recipe("").name == "fast_dllm"
    assert "papers" not in sys.modules
    assert default_recipe("novel").name == "full", "a broken neighbour is passed over"
    assert default_recipe("unheard-of").name == "fast_dllm"


FAMILY = """
    from dataclasses import dataclass
    from dllm.models.families.llada import LLaDA

    @dataclass(frozen=True)
    class Novel(LLaDA):
        name: str = "novel"
        title: str = "Novel"
        model_types: tuple[str, ...] = ("novel",)
        architectures: tuple[str, ...] = ("NovelForDiffusion",)

    number = 3
"""


def test_a_family_is_found_by_what_config_json_says(site: Site, tmp_path):
    from tests.models.conftest import write

    points = {
        "novel": "families:Novel",
        "NovelForDiffusion": "families:Novel",
        "other": "nowhere:X",
        "odd": "families:number",
    }
    site.install("dllm-novel", {"dllm.families": points}, families=FAMILY)
    folder = write(tmp_path / "ours", "llada")
    assert load(folder).family == "llada" and "families" not in sys.modules
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llada"', '"model_type": "novel"'))
    found = load(folder)
    assert found.family == "novel" and found.mask_id == 63
    assert recognise_family({"architectures": ["NovelForDiffusion"]}).name == "novel"
    with pytest.raises(ConfigError, match=r"family 'other' of dllm-novel 0.1 \(nowhere:X\): it cannot be imported"):
        recognise_family({"model_type": "other"})
    with pytest.raises(ConfigError, match=r"family 'odd' of dllm-novel .*number is none"):
        recognise_family({"model_type": "odd"})


def test_a_family_of_ours_that_a_package_claims(site: Site):
    site.install("dllm-novel", {"dllm.families": {"llada": "families:Novel"}}, families=FAMILY)
    with pytest.raises(ConfigError, match=r"family 'llada' is a name of dllm \(family llada\) and .*of dllm-novel 0.1"):
        recognise_family({"model_type": "llada"})
    assert recognise_family({"model_type": "Dream"}).name == "dream"
    assert list(PLUGGED) == ["llada"]
