"""The questions of docs/tutorial.md: schedules, rates and unit conversions, with an expert's reasoning.

    python examples/tutorial/make_data.py

Writes train.jsonl, validation.jsonl and test.jsonl beside itself, always the same bytes. Each record has `id`,
`question`, `demonstration` (one reasoning step a line) and `answer`. No two records share a question.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPLITS = {"train": 96, "validation": 24, "test": 24}
PER_TEMPLATE = 12
NAMES = ["Ana", "Ben", "Chidi", "Dana", "Elif", "Farid", "Grete", "Hiro", "Ines", "Jonas", "Kemal", "Lucia"]


def clock(minutes):
    return f"{minutes // 60}:{minutes % 60:02d}"


def journey(name, draw):
    start, ride, wait, walk = draw(6, 11) * 60 + draw(1, 5) * 10, draw(20, 50), draw(4, 15), draw(5, 18)
    total = ride + wait + walk
    question = (
        f"{name} leaves home at {clock(start)}. The bus ride takes {ride} minutes, then {name} waits {wait} minutes for "
        f"a tram and walks {walk} minutes at the end. How many minutes after leaving does {name} arrive?"
    )
    steps = [
        f"The bus and the wait take {ride} + {wait} = {ride + wait} minutes.",
        f"With the walk that is {ride + wait} + {walk} = {total} minutes.",
        f"{name} arrives at {clock(start + total)}, which is {total} minutes after {clock(start)}.",
    ]
    return question, steps, total


def shift(name, draw):
    start, stop, pause = draw(6, 9) * 60 + draw(0, 3) * 15, draw(14, 18) * 60 + draw(0, 3) * 15, draw(2, 9) * 5
    presence = stop - start
    question = (
        f"{name} works from {clock(start)} to {clock(stop)} and takes breaks of {pause} minutes in total. How many minutes "
        f"does {name} work?"
    )
    steps = [
        f"{clock(start)} is {start} minutes after midnight, and {clock(stop)} is {stop} minutes after midnight.",
        f"Between them are {stop} - {start} = {presence} minutes.",
        f"Without the breaks {presence} - {pause} = {presence - pause} minutes remain.",
    ]
    return question, steps, presence - pause


def speed(name, draw):
    kmh, minutes = draw(4, 20) * 6, draw(3, 12) * 5
    metres = kmh * 1000 // 60
    question = f"{name} drives at {kmh} km per hour for {minutes} minutes. How many metres does {name} cover?"
    steps = [
        f"{kmh} km per hour are {kmh} * 1000 = {kmh * 1000} metres per hour.",
        f"Per minute that is {kmh * 1000} / 60 = {metres} metres.",
        f"In {minutes} minutes {name} covers {metres} * {minutes} = {metres * minutes} metres.",
    ]
    return question, steps, metres * minutes


def recipe(name, draw):
    grams, people, guests = draw(3, 12) * 20, draw(2, 5), draw(6, 14)
    question = (
        f"A recipe needs {grams * people} grams of flour for {people} people. How many grams of flour does {name} need "
        f"for {guests} people?"
    )
    steps = [
        f"One person needs {grams * people} / {people} = {grams} grams.",
        f"For {guests} people that is {grams} * {guests} = {grams * guests} grams.",
    ]
    return question, steps, grams * guests


def tank(name, draw):
    rate, minutes, used = draw(6, 15), draw(10, 25), draw(11, 39)
    question = (
        f"{name} fills a tank with {rate} litres per minute for {minutes} minutes and then takes {used} litres out. How "
        f"many millilitres are left?"
    )
    filled = rate * minutes
    steps = [
        f"The tank receives {rate} * {minutes} = {filled} litres.",
        f"After {used} litres are taken out, {filled} - {used} = {filled - used} litres are left.",
        f"In millilitres that is {filled - used} * 1000 = {(filled - used) * 1000}.",
    ]
    return question, steps, (filled - used) * 1000


def medicine(name, draw):
    dose, times, days, tablet = draw(2, 6) * 100, draw(2, 4), draw(3, 9), 100
    question = (
        f"{name} takes {dose} mg of a medicine {times} times a day for {days} days. A tablet holds {tablet} mg. How many "
        f"tablets does {name} need?"
    )
    daily = dose * times
    steps = [
        f"In a day {name} takes {dose} * {times} = {daily} mg.",
        f"In {days} days that is {daily} * {days} = {daily * days} mg.",
        f"This needs {daily * days} / {tablet} = {daily * days // tablet} tablets.",
    ]
    return question, steps, daily * days // tablet


def download(name, draw):
    rate, seconds = draw(2, 9), draw(6, 30) * 20
    question = (
        f"{name} downloads a file of {rate * seconds} megabytes at {rate * 8} megabits per second. How many seconds does "
        f"the download take?"
    )
    steps = [
        f"A byte has 8 bits, so the rate is {rate * 8} / 8 = {rate} megabytes per second.",
        f"The download takes {rate * seconds} / {rate} = {seconds} seconds.",
    ]
    return question, steps, seconds


def fence(name, draw):
    length, width, gap = draw(6, 20), draw(3, 12), draw(2, 5)
    length, width = length * gap, width * gap
    around = 2 * (length + width)
    question = (
        f"{name} fences a field of {length} m by {width} m and sets a post every {gap} m all the way round. How many posts "
        f"does {name} need?"
    )
    steps = [
        f"Two sides have {length} + {width} = {length + width} m.",
        f"All the way round it is 2 * {length + width} = {around} m.",
        f"With a post every {gap} m, {around} / {gap} = {around // gap} posts are needed.",
    ]
    return question, steps, around // gap


def timetable(name, draw):
    first, every, count = draw(5, 8) * 60, draw(3, 9) * 5, draw(6, 14)
    last = first + every * (count - 1)
    question = (
        f"The first train leaves at {clock(first)} and then one leaves every {every} minutes. {name} takes train number "
        f"{count}. How many minutes after the first train does it leave?"
    )
    steps = [
        f"Between the first train and number {count} there are {count} - 1 = {count - 1} intervals.",
        f"They take {count - 1} * {every} = {last - first} minutes.",
        f"The train leaves at {clock(last)}, {last - first} minutes after the first.",
    ]
    return question, steps, last - first


def pay(name, draw):
    wage, hours, extra = draw(11, 19) * 2, draw(30, 38), draw(2, 9)
    over = wage * 3 // 2
    question = (
        f"{name} earns {wage} euros an hour and one and a half times as much for overtime. How many euros are {hours} "
        f"normal hours and {extra} hours of overtime?"
    )
    steps = [
        f"An hour of overtime pays {wage} * 1.5 = {over} euros.",
        f"The normal hours pay {wage} * {hours} = {wage * hours} euros.",
        f"The overtime pays {over} * {extra} = {over * extra} euros.",
        f"Together that is {wage * hours} + {over * extra} = {wage * hours + over * extra} euros.",
    ]
    return question, steps, wage * hours + over * extra


def map_scale(name, draw):
    scale, centimetres = draw(2, 10) * 100, draw(4, 25)
    question = (
        f"On {name}'s map 1 cm stands for {scale} m. Two villages are {centimetres} cm apart on the map, and {name} walks "
        f"there and back. How many metres is that?"
    )
    one_way = scale * centimetres
    steps = [
        f"One way is {centimetres} * {scale} = {one_way} m.",
        f"There and back it is 2 * {one_way} = {2 * one_way} m.",
    ]
    return question, steps, 2 * one_way


def energy(name, draw):
    watts, hours, days = draw(3, 20) * 50, draw(2, 8), draw(5, 30)
    question = (
        f"{name}'s heater draws {watts} watts for {hours} hours a day. How many watt-hours does it use in {days} days, if "
        f"its built-in clock uses one more watt-hour a day?"
    )
    daily = watts * hours
    steps = [
        f"In a day the heater uses {watts} * {hours} = {daily} watt-hours.",
        f"In {days} days that is {daily} * {days} = {daily * days} watt-hours.",
        f"The clock uses {days} watt-hours, so together it is {daily * days} + {days} = {daily * days + days} watt-hours.",
    ]
    return question, steps, daily * days + days


TEMPLATES = [journey, shift, speed, recipe, tank, medicine, download, fence, timetable, pay, map_scale, energy]


def records():
    """All records, shuffled; every question once."""
    generator = random.Random(2026)
    found = {}
    for template in TEMPLATES:
        wanted = len(found) + PER_TEMPLATE
        while len(found) < wanted:
            question, steps, answer = template(generator.choice(NAMES), generator.randint)
            found[question] = {
                "question": question,
                "demonstration": "\n".join(steps),
                "answer": str(answer),
            }
    shuffled = list(found.values())
    generator.shuffle(shuffled)
    return shuffled


def main():
    remaining = records()
    for split, count in SPLITS.items():
        taken, remaining = remaining[:count], remaining[count:]
        with open(HERE / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for index, record in enumerate(taken):
                file.write(json.dumps({"id": f"{split}-{index}", **record}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
