"""More word problems: groups, sharing, prices, parts of a whole, places that fill and empty, unknown beginnings."""

from __future__ import annotations

from dllm.playground.english import Writer, capitalise
from dllm.playground.stories import LARGEST, Calculation, SentenceMaker, Story, fill_template
from dllm.playground.wordings import HOLDERS, WORDINGS

MONEY = ("dollars", "dollars", "euros", "coins", "pounds", "cents")


def _fill_about_person(writer: Writer, template: str, sentences: SentenceMaker, **numbers: str) -> str:
    """Fill a template about the person of `sentences`; its verbs are in braces in their base form."""
    person = sentences.person
    holders = writer.pick(tuple(HOLDERS))
    good, good2 = writer.rng.sample(WORDINGS["goods"], 2)
    c, d = writer.rng.sample(("red", "blue", "green", "white", "black", "yellow", "big", "small"), 2)
    middle = person.name[0].lower() + person.name[1:] if " " in person.name or person.name == "You" else person.name
    values = {
        "A": person.name,
        "a": middle,
        "things": sentences.things,
        "holders": holders,
        "holder": HOLDERS[holders],
        "good": good,
        "good2": good2,
        "money": writer.pick(MONEY),
        "c": c,
        "d": d,
        "has": person.verb("have", False),
        "he": person.he,
        "his": person.his,
        "He": capitalise(person.he),
        "His": capitalise(person.his),
        "do": person.do(False),
        "verbed": writer.pick(("selling", "losing", "eating", "giving away")),
        **{base: person.verb(base, False) for base in WORDINGS["verbs"]},
        **numbers,
    }
    return fill_template(template.replace(". {a} ", ". {A} "), {f"{{{key}}}": value for key, value in values.items()})


def write_group_story(writer: Writer, steps: int) -> Story:
    """Write a story of equal groups, with a gain or a loss afterwards if it has two steps."""
    sentences = SentenceMaker(writer)
    sentences.past = False
    n, m = draw_factors(writer)
    calculation = Calculation(n)
    calculation.step("*", m)
    numbers = {"n": writer.number(n), "m": writer.number(m)}
    kind = writer.rng.random()
    if steps == 1 and kind < 0.5:
        return calculation.story(
            _fill_about_person(writer, writer.wording("habits" if kind < 0.25 else "price"), sentences, **numbers)
        )
    holders = writer.pick(tuple(HOLDERS))
    values = {"holders": holders, "holder": HOLDERS[holders], **numbers}
    text = _fill_about_person(writer, writer.wording("groups"), sentences, **values)
    if steps == 1:
        return calculation.story(text, _fill_about_person(writer, writer.wording("groups_ask"), sentences, **values))
    sentences.named = True
    gains = calculation.total < 3 or writer.chance(0.5)
    by = writer.draw(1, LARGEST - calculation.total if gains else calculation.total - 1)
    verb = writer.pick(
        ("buy", "find", "get", "receive", "add") if gains else ("lose", "sell", "give away", "use", "eat")
    )
    more = sentences.make("{He} {verb} {n}.", sentences.count(by, more=gains), verb)
    calculation.step("+" if gains else "-", by)
    return calculation.story(text, more, sentences.make(writer.wording("how_many" if gains else "how_many_left")))


def draw_factors(writer: Writer) -> tuple[int, int]:
    """Draw two numbers to be multiplied: of the small multiplication table, or one of them a multiple of ten."""
    if writer.chance(0.15):
        return writer.rng.randint(2, 9), 10 * writer.rng.randint(1, 11)
    return writer.rng.randint(2, 12), writer.rng.randint(2, 12)


def write_sharing_story(writer: Writer, steps: int) -> Story:
    """Write a story of things that are shared equally or packed into equal groups."""
    sentences = SentenceMaker(writer)
    n, each = draw_factors(writer)
    calculation = Calculation(n * each)
    calculation.step("/", n)
    return calculation.story(
        _fill_about_person(writer, writer.wording("share"), sentences, t=str(n * each), n=writer.number(n))
    )


def write_parts_story(writer: Writer, steps: int) -> Story:
    """Write a story that asks for a part, for a whole, or for a number before a change."""
    sentences = SentenceMaker(writer)
    kind = writer.rng.choice(("parts", "parts", "sum", "sum", "minus", "plus"))
    if kind in ("sum", "minus"):
        first = writer.draw(1, LARGEST - 1)
        second = writer.draw(1, LARGEST - first)
        calculation = Calculation(first)
        calculation.step("+", second)
        numbers = {
            "a1": writer.number(first),
            "b1": writer.number(second),
            "t": writer.number(first),
            "m": writer.number(second),
        }
        return calculation.story(
            _fill_about_person(
                writer, writer.wording("sums" if kind == "sum" else "unknown_minus"), sentences, **numbers
            )
        )
    whole = writer.draw(3, LARGEST)
    part = writer.draw(1, whole - 1)
    calculation = Calculation(whole)
    calculation.step("-", part)
    wording = "parts" if kind == "parts" else "unknown_plus"
    return calculation.story(
        _fill_about_person(writer, writer.wording(wording), sentences, t=writer.number(whole), m=writer.number(part))
    )


def write_place_story(writer: Writer, steps: int) -> Story:
    """Write a story of a place where people or animals come and go."""
    things, place = writer.wording("comers"), writer.wording("places")
    start = writer.draw(1, LARGEST)
    calculation = Calculation(start)
    values = {"{things}": things, "{place}": place, "{Place}": place[0].upper() + place[1:]}
    texts = [fill_template(writer.wording("place_start"), values | {"{n}": writer.number(start)})]
    gains = False
    for _ in range(steps):
        gains = calculation.total < 2 or (calculation.total < LARGEST - 1 and writer.chance(0.5))
        by = writer.draw(1, LARGEST - calculation.total if gains else calculation.total)
        texts.append(fill_template(writer.wording("come" if gains else "go"), values | {"{n}": writer.number(by)}))
        calculation.step("+" if gains else "-", by)
    return calculation.story(
        *texts,
        fill_template(writer.wording("place_ask" if gains or writer.chance(0.5) else "place_left"), values),
    )
