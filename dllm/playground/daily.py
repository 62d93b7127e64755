"""More word problems: groups, sharing, prices, parts of a whole, places that fill and empty, unknown beginnings."""

from __future__ import annotations

from dllm.playground.english import HOLDERS, Writer
from dllm.playground.stories import HOW_MANY, HOW_MANY_LEFT, LARGEST, Story, Teller, Work, fill

GOODS = (
    "pen", "book", "cup", "kite", "card", "candle", "hat", "ticket", "toy", "cake", "shirt", "ball", "notebook",
    "lamp", "sandwich", "apple", "bag", "doll", "plate", "chair", "coffee", "bottle of water", "ice cream", "pizza",
)  # fmt: skip
MONEY = ("dollars", "dollars", "euros", "coins", "pounds", "cents")
GROUPS = (
    "{A} {has} {n} {holders} with {m} {things} in each {holder}.", "{A} {has} {n} {holders} with {m} {things} each.", "There are {n} {holders} with {m} {things} in each.",
    "There are {n} {holders}. Each {holder} has {m} {things}.", "Each {holder} holds {m} {things}. There are {n} {holders}.", "{A} {fill} {n} {holders} and {put} {m} {things} in each {holder}.",
    "{A} {buy} {n} {holders} of {m} {things} each.", "There are {m} {things} in every {holder}, and there are {n} {holders}.", "A {holder} holds {m} {things}, and {a} {has} {n} {holders}.",
    "{A} {has} {n} {holders}. Every {holder} contains {m} {things}.", "{A} {put} {m} {things} in each of {n} {holders}.", "In each of {n} {holders} there are {m} {things}.",
)  # fmt: skip
GROUPS_ASK = (
    "How many {things} are there?", "How many {things} are there in all?", "How many {things} is that altogether?", "How many {things} are there in total?",
    "How many {things} are in the {holders}?", "What is the total number of {things}?", "How many is that?", "Find the number of {things}.",
)  # fmt: skip
HABITS = (
    "{A} {read} {m} pages every day. How many pages {do} {he} read in {n} days?", "{A} {bake} {m} cakes a day. How many cakes {do} {he} bake in {n} days?",
    "{A} {walk} {m} miles each day. How many miles is that in {n} days?", "{A} {save} {m} dollars a week. How much {do} {he} save in {n} weeks?",
    "{A} {earn} {m} dollars an hour. How much {do} {he} earn in {n} hours?", "{A} {draw} {m} pictures each week. How many pictures {do} {he} draw in {n} weeks?",
    "{A} {run} {m} miles a day for {n} days. How many miles {do} {he} run?", "For {n} days {a} {read} {m} pages a day. How many pages is that?",
    "{A} {make} {m} toys an hour. How many toys {do} {he} make in {n} hours?", "{A} {write} {m} letters every week. How many letters in {n} weeks?",
    "A car drives {m} miles in an hour. How far does it go in {n} hours?", "A machine makes {m} toys a minute. How many toys does it make in {n} minutes?",
)  # fmt: skip
PRICE = (
    "A {good} costs {m} {money}. How much do {n} cost?", "One {good} costs {m} {money}. How much are {n} of them?", "{A} {buy} {n} times the same {good} for {m} {money}. How much {do} {he} pay?",
    "The price of a {good} is {m} {money}. {A} {buy} {n}. How much {do} {he} pay?", "{n} friends each pay {m} {money} for a {good}. How much is that in all?",
    "{A} {buy} {n} at {m} {money} each. How much {do} {he} spend?", "Each {good} costs {m} {money}. What do {n} cost?", "If a {good} costs {m} {money}, how much do {n} cost?",
)  # fmt: skip
SHARE = (
    "{A} {share} {t} {things} equally among {n} friends. How many does each friend get?", "{n} children share {t} {things} equally. How many does each get?",
    "{A} {put} {t} {things} into {n} {holders}, the same number in each. How many are in each {holder}?", "{t} {things} are shared by {n} people. How many does each person get?",
    "{t} {things} are packed into {holders} of {n}. How many {holders} are there?", "{A} {has} {t} {things} and {put} {n} in each {holder}. How many {holders} {do} {he} need?",
    "There are {t} {things} for {n} children. How many does each child get?", "{A} {split} {t} {things} into {n} equal groups. How many are in each group?",
    "{A} {divide} {t} {things} equally between {n} friends. How many does each one get?", "How many {holders} of {n} can be filled with {t} {things}?",
    "{n} tickets cost {t} dollars. How much is one ticket?", "{n} friends pay {t} dollars together, each the same. How much does each pay?",
)  # fmt: skip
PARTS = (
    "There are {t} {things}. {m} are {c}, the others are {d}. How many are {d}?", "{A} {has} {t} {things}. {m} of them are {c}. How many are not {c}?",
    "Of {t} {things}, {m} are {c} and the rest are {d}. How many {d} ones are there?", "{A} {want} to read a book of {t} pages. {He} {have} read {m}. How many pages are left?",
    "A book has {t} pages. {A} {read} {m} of them. How many pages are left to read?", "{A} {need} {t} {things} and {has} {m}. How many more {do} {he} need?",
    "{A} {want} to have {t} {things}. {He} already {have} {m}. How many more {do} {he} need?", "A rope is {t} meters long. {A} {cut} off {m} meters. How long is it now?",
    "{A} {has} {t} dollars and {buy} a {good} for {m} dollars. How much money is left?", "A {good} costs {m} dollars. {A} {pay} with {t} dollars. How much change {do} {he} get?",
    "There are {t} children in a school. {m} are girls. How many are boys?", "A class has {t} pupils and {m} of them are ill. How many are there today?",
    "{A} {have} {t} dollars. {He} {spend} {m} dollars on a {good}. How much {do} {he} have left?", "{A} {walk} {m} of {t} miles. How many miles are left?",
    "{A} {bake} {t} {things} and {sell} {m}. How many are left?", "From {t} {things} {m} are taken away. How many are left?",
)  # fmt: skip
SUMS = (
    "{A} {has} {a1} {c} {things} and {b1} {d} {things}. How many {things} {do} {he} have?", "There are {a1} boys and {b1} girls. How many children are there?",
    "There are {a1} {c} {things} and {b1} {d} ones. How many is that in all?", "{A} {read} {a1} pages on Monday and {b1} pages on Tuesday. How many pages is that?",
    "A {good} costs {a1} dollars and a {good2} costs {b1} dollars. How much do both cost?", "{A} {see} {a1} {things} here and {b1} there. How many {things} is that together?",
    "{A} {walk} {a1} miles and then {b1} miles. How far is that in all?", "In one {holder} there are {a1} {things}, in another {b1}. How many are there together?",
    "{A} {buy} a {good} for {a1} dollars and a {good2} for {b1} dollars. How much {do} {he} spend?", "{A} {make} {a1} {things} today and {b1} tomorrow. How many {things} is that?",
    "A train has {a1} people in one car and {b1} in the other. How many people are on the train?", "A boy is {a1} years old. How old will he be in {b1} years?",
)  # fmt: skip
UNKNOWN_MINUS = (
    "{A} had some {things}. {He} gave away {m} and {has} {t} left. How many did {he} have at first?", "After {verbed} {m} {things}, {a} {has} {t} left. How many were there before?",
    "{A} {lose} {m} {things} and still {has} {t}. How many {things} did {he} have before?", "{m} of the {things} were sold, and {t} are left. How many were there at the start?",
)  # fmt: skip
UNKNOWN_PLUS = (
    "{A} had some {things}. {He} got {m} more and now {has} {t}. How many did {he} have at first?", "After buying {m} {things}, {a} {has} {t}. How many did {he} have before?",
    "With {m} new {things} {a} now {has} {t} {things}. How many were there before?", "{A} {find} {m} {things} and then {has} {t}. How many {things} did {he} have at first?",
)  # fmt: skip
PLACES = (
    "on a tree",
    "on a bus",
    "in a room",
    "in a park",
    "on a train",
    "in a pond",
    "in the garden",
    "at a party",
    "in a shop",
    "on a farm",
    "in a field",
    "in a hall",
)
COMERS = (
    "birds",
    "people",
    "children",
    "ducks",
    "cows",
    "girls",
    "boys",
    "men",
    "visitors",
    "passengers",
    "students",
    "sheep",
    "frogs",
    "guests",
)
COME = (
    "{n} more come.",
    "{n} more {things} come.",
    "{n} {things} join them.",
    "Then {n} more arrive.",
    "Then {n} come in.",
    "{n} others join them.",
    "Later {n} more {things} arrive.",
    "{n} more get on.",
)
GO = (
    "{n} leave.",
    "{n} of them go away.",
    "Then {n} {things} leave.",
    "{n} go home.",
    "Later {n} of them leave.",
    "{n} fly away.",
    "Then {n} run away.",
    "{n} get off.",
    "{n} of the {things} go.",
)
PLACE_ASK = (
    "How many {things} are there now?",
    "How many are there now?",
    "How many {things} are {place} now?",
    "How many {things} are there in the end?",
    "How many is that now?",
)
PLACE_LEFT = (
    "How many {things} are left?",
    "How many are left?",
    "How many {things} stay?",
    "How many remain?",
    "How many {things} are still there?",
)
PLACE_START = (
    "There are {n} {things} {place}.",
    "{n} {things} are {place}.",
    "{n} {things} sit {place}.",
    "At first there are {n} {things} {place}.",
    "{Place} there are {n} {things}.",
)


def _told(writer: Writer, template: str, teller: Teller, **numbers: str) -> str:
    """A template about a teller's person, whose verbs stand in braces in their base form."""
    person = teller.person
    holders = writer.pick(tuple(HOLDERS))
    good, good2 = writer.rng.sample(GOODS, 2)
    c, d = writer.rng.sample(("red", "blue", "green", "white", "black", "yellow", "big", "small"), 2)
    middle = person.name[0].lower() + person.name[1:] if " " in person.name or person.name == "You" else person.name
    values = {
        "{A}": person.name, "{a}": middle, "{things}": teller.things, "{holders}": holders, "{holder}": HOLDERS[holders],
        "{good}": good, "{good2}": good2, "{money}": writer.pick(MONEY), "{c}": c, "{d}": d, "{has}": person.verb("have", False),
        "{he}": person.he, "{He}": person.he, "{do}": person.do(False), "{verbed}": writer.pick(("selling", "losing", "eating", "giving away")),
        **{f"{{{key}}}": value for key, value in numbers.items()},
    }  # fmt: skip
    values["{He}"] = person.he[0].upper() + person.he[1:]
    for base in VERBS:
        values[f"{{{base}}}"] = person.verb(base, False)
    return fill(template.replace(". {a} ", ". {A} "), values)


VERBS = (
    "fill", "put", "buy", "read", "bake", "walk", "save", "earn", "draw", "run", "make", "write", "share", "split",
    "divide", "want", "have", "need", "cut", "pay", "spend", "sell", "see", "lose", "find",
)  # fmt: skip


def groups(writer: Writer, steps: int) -> Story:
    """So many times so many, and perhaps a gain or a loss afterwards."""
    tell = Teller(writer)
    tell.past = False
    n, m = _factors(writer)
    work = Work(n)
    work.step("*", m)
    numbers = {"n": writer.number(n), "m": writer.number(m)}
    kind = writer.rng.random()
    if steps == 1 and kind < 0.5:
        return work.story(_told(writer, writer.pick(HABITS if kind < 0.25 else PRICE), tell, **numbers))
    holders = writer.pick(tuple(HOLDERS))
    values = {"holders": holders, "holder": HOLDERS[holders], **numbers}
    text = _told(writer, writer.pick(GROUPS), tell, **values)
    if steps == 1:
        return work.story(text, _told(writer, writer.pick(GROUPS_ASK), tell, **values))
    tell.named = True
    gains = work.total < 3 or writer.chance(0.5)
    by = writer.draw(1, LARGEST - work.total if gains else work.total - 1)
    verb = writer.pick(
        ("buy", "find", "get", "receive", "add") if gains else ("lose", "sell", "give away", "use", "eat")
    )
    more = tell.say("{He} {verb} {n}.", tell.count(by, more=gains), verb)
    work.step("+" if gains else "-", by)
    return work.story(text, more, tell.say(writer.pick(HOW_MANY if gains else HOW_MANY_LEFT)))


def _factors(writer: Writer) -> tuple[int, int]:
    if writer.chance(0.15):
        return writer.rng.randint(2, 9), 10 * writer.rng.randint(1, 11)
    return writer.rng.randint(2, 12), writer.rng.randint(2, 12)


def share(writer: Writer, steps: int) -> Story:
    """So many shared equally, or packed into equal groups."""
    tell = Teller(writer)
    n, each = _factors(writer)
    work = Work(n * each)
    work.step("/", n)
    return work.story(_told(writer, writer.pick(SHARE), tell, t=str(n * each), n=writer.number(n)))


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
        return work.story(_told(writer, writer.pick(SUMS if kind == "sum" else UNKNOWN_MINUS), tell, **numbers))
    whole = writer.draw(3, LARGEST)
    part = writer.draw(1, whole - 1)
    work = Work(whole)
    work.step("-", part)
    told = PARTS if kind == "parts" else UNKNOWN_PLUS
    return work.story(_told(writer, writer.pick(told), tell, t=writer.number(whole), m=writer.number(part)))


def places(writer: Writer, steps: int) -> Story:
    """A place that fills and empties."""
    things, place = writer.pick(COMERS), writer.pick(PLACES)
    start = writer.draw(1, LARGEST)
    work = Work(start)
    values = {"{things}": things, "{place}": place, "{Place}": place[0].upper() + place[1:]}
    said = [fill(writer.pick(PLACE_START), values | {"{n}": writer.number(start)})]
    gains = False
    for _ in range(steps):
        gains = work.total < 2 or (work.total < LARGEST - 1 and writer.chance(0.5))
        by = writer.draw(1, LARGEST - work.total if gains else work.total)
        said.append(fill(writer.pick(COME if gains else GO), values | {"{n}": writer.number(by)}))
        work.step("+" if gains else "-", by)
    return work.story(*said, fill(writer.pick(PLACE_ASK if gains or writer.chance(0.5) else PLACE_LEFT), values))
