"""More word problems: groups, sharing, prices, parts of a whole, places that fill and empty, unknown beginnings."""

from __future__ import annotations

from dllm.playground.english import Writer, sentence
from dllm.playground.stories import LARGEST, Story, Teller, Work, fill
from dllm.playground.wordings import HOLDERS, WORDINGS

MONEY = ("dollars", "dollars", "euros", "coins", "pounds", "cents")


def _told(writer: Writer, template: str, teller: Teller, **numbers: str) -> str:
    """A template about a teller's person, whose verbs stand in braces in their base form."""
    person = teller.person
    holders = writer.pick(tuple(HOLDERS))
    good, good2 = writer.rng.sample(WORDINGS["goods"], 2)
    c, d = writer.rng.sample(("red", "blue", "green", "white", "black", "yellow", "big", "small"), 2)
    middle = person.name[0].lower() + person.name[1:] if " " in person.name or person.name == "You" else person.name
    values = {
        "A": person.name,
        "a": middle,
        "things": teller.things,
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
        "He": sentence(person.he),
        "His": sentence(person.his),
        "do": person.do(False),
        "verbed": writer.pick(("selling", "losing", "eating", "giving away")),
        **{base: person.verb(base, False) for base in WORDINGS["verbs"]},
        **numbers,
    }
    return fill(template.replace(". {a} ", ". {A} "), {f"{{{key}}}": value for key, value in values.items()})


def groups(writer: Writer, steps: int) -> Story:
    """So many times so many, and perhaps a gain or a loss afterwards."""
    tell = Teller(writer)
    tell.past = False
    n, m = factors(writer)
    work = Work(n)
    work.step("*", m)
    numbers = {"n": writer.number(n), "m": writer.number(m)}
    kind = writer.rng.random()
    if steps == 1 and kind < 0.5:
        return work.story(_told(writer, writer.wording("habits" if kind < 0.25 else "price"), tell, **numbers))
    holders = writer.pick(tuple(HOLDERS))
    values = {"holders": holders, "holder": HOLDERS[holders], **numbers}
    text = _told(writer, writer.wording("groups"), tell, **values)
    if steps == 1:
        return work.story(text, _told(writer, writer.wording("groups_ask"), tell, **values))
    tell.named = True
    gains = work.total < 3 or writer.chance(0.5)
    by = writer.draw(1, LARGEST - work.total if gains else work.total - 1)
    verb = writer.pick(
        ("buy", "find", "get", "receive", "add") if gains else ("lose", "sell", "give away", "use", "eat")
    )
    more = tell.say("{He} {verb} {n}.", tell.count(by, more=gains), verb)
    work.step("+" if gains else "-", by)
    return work.story(text, more, tell.say(writer.wording("how_many" if gains else "how_many_left")))


def factors(writer: Writer) -> tuple[int, int]:
    if writer.chance(0.15):
        return writer.rng.randint(2, 9), 10 * writer.rng.randint(1, 11)
    return writer.rng.randint(2, 12), writer.rng.randint(2, 12)


def share(writer: Writer, steps: int) -> Story:
    """So many shared equally, or packed into equal groups."""
    tell = Teller(writer)
    n, each = factors(writer)
    work = Work(n * each)
    work.step("/", n)
    return work.story(_told(writer, writer.wording("share"), tell, t=str(n * each), n=writer.number(n)))


def parts(writer: Writer, steps: int) -> Story:
    """A whole and one of its parts: the other one; two parts: the whole; what there was before a change."""
    tell = Teller(writer)
    kind = writer.rng.choice(("parts", "parts", "sum", "sum", "minus", "plus"))
    if kind in ("sum", "minus"):
        first = writer.draw(1, LARGEST - 1)
        second = writer.draw(1, LARGEST - first)
        work = Work(first)
        work.step("+", second)
        numbers = {
            "a1": writer.number(first),
            "b1": writer.number(second),
            "t": writer.number(first),
            "m": writer.number(second),
        }
        return work.story(_told(writer, writer.wording("sums" if kind == "sum" else "unknown_minus"), tell, **numbers))
    whole = writer.draw(3, LARGEST)
    part = writer.draw(1, whole - 1)
    work = Work(whole)
    work.step("-", part)
    told = "parts" if kind == "parts" else "unknown_plus"
    return work.story(_told(writer, writer.wording(told), tell, t=writer.number(whole), m=writer.number(part)))


def places(writer: Writer, steps: int) -> Story:
    """A place that fills and empties."""
    things, place = writer.wording("comers"), writer.wording("places")
    start = writer.draw(1, LARGEST)
    work = Work(start)
    values = {"{things}": things, "{place}": place, "{Place}": place[0].upper() + place[1:]}
    said = [fill(writer.wording("place_start"), values | {"{n}": writer.number(start)})]
    gains = False
    for _ in range(steps):
        gains = work.total < 2 or (work.total < LARGEST - 1 and writer.chance(0.5))
        by = writer.draw(1, LARGEST - work.total if gains else work.total)
        said.append(fill(writer.wording("come" if gains else "go"), values | {"{n}": writer.number(by)}))
        work.step("+" if gains else "-", by)
    return work.story(
        *said,
        fill(writer.wording("place_ask" if gains or writer.chance(0.5) else "place_left"), values),
    )
