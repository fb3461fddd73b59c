"""Compares assay's answers with math-verify on generated pairs.

Run by hand from the repository root, with math-verify installed (pip install math-verify):
    cargo build -p assay-tasks --example answer_pairs
    python tools/golden/answers_math_verify.py [--pairs 3000] [--seed 0]

Every pair has a kind. `value` pairs have a known truth: two spellings of one value, or of two different values. Layout pairs are
whole completions in the layouts of GSM8K, MATH and multiple choice. The table counts agreement by kind; each kind of
disagreement is printed with examples and with the side that is right, where the truth is known.
"""

import argparse
import json
import logging
import random
import subprocess
from collections import Counter, defaultdict
from fractions import Fraction

from math_verify import parse, verify

logging.disable(logging.CRITICAL)
BINARY = "target/debug/examples/answer_pairs"


def decimal(value):
    """The exact decimal of a fraction, or None where it does not end."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    if denominator != 1:
        return None
    text = f"{abs(value.numerator) * 10**12 // value.denominator:013d}"
    text = (text[:-12] + "." + text[-12:]).rstrip("0").rstrip(".")
    return ("-" if value < 0 else "") + text


def grouped(value):
    return f"{value:,}"


def spellings(value, draw):
    """Ways to write a rational, by name."""
    top, bottom = value.numerator, value.denominator
    found = {}
    if bottom == 1:
        found["integer"] = str(top)
        found["decimal zeros"] = f"{top}.{'0' * draw.randint(1, 3)}"
        found["dollars"] = f"-\\${-top}" if top < 0 else f"\\${top}"
        if abs(top) >= 1000:
            found["commas"] = grouped(top)
            found["latex commas"] = grouped(top).replace(",", "{,}")
            found["thin spaces"] = grouped(top).replace(",", "\\,")
        found["text unit"] = f"{top}\\text{{ cm}}"
        found["degrees"] = f"{top}^\\circ"
        found["named"] = f"x = {top}"
        found["equation"] = f"{top - 2} + 2 = {top}"
        if top and top % 10 == 0:
            found["scientific"] = f"{top // 10} \\times 10^{{1}}"
    else:
        sign, size = ("-" if top < 0 else ""), abs(top)
        found["fraction"] = f"{sign}\\frac{{{size}}}{{{bottom}}}"
        found["dfrac"] = f"{sign}\\dfrac{{{size}}}{{{bottom}}}"
        found["slash"] = f"{top}/{bottom}"
        found["minus inside"] = f"\\frac{{{top}}}{{{bottom}}}"
        factor = draw.randint(2, 5)
        found["unreduced"] = f"{sign}\\frac{{{size * factor}}}{{{bottom * factor}}}"
        if size < 10 and bottom < 10:
            found["braceless"] = f"{sign}\\frac{size}{bottom}"
        if size > bottom:
            found["mixed"] = f"{sign}{size // bottom}\\frac{{{size % bottom}}}{{{bottom}}}"
    text = decimal(value)
    if text is not None and bottom != 1:
        found["decimal"] = text
        found["percent"] = f"{decimal(value * 100)}\\%"
    return found


def values(draw):
    """Two spellings, of one value or of two."""
    kind = draw.choice(["integer", "integer", "large", "fraction", "fraction", "decimal"])

    def one():
        if kind == "integer":
            return Fraction(draw.randint(-50, 200))
        if kind == "large":
            return Fraction(draw.randint(1000, 5_000_000))
        if kind == "fraction":
            return Fraction(draw.randint(-40, 40), draw.randint(2, 12))
        return Fraction(draw.randint(1, 4000), draw.choice([4, 5, 8, 10, 20, 100]))

    left = one()
    right = left if draw.random() < 0.6 else one()
    name, answer = draw.choice(sorted(spellings(left, draw).items()))
    gold_name, gold = draw.choice(sorted(spellings(right, draw).items()))
    units = {"dollars", "text unit", "degrees"} & {name, gold_name}
    truth = left == right and len(units) < 2
    percents = (name == "percent") + (gold_name == "percent")
    if percents == 1 and left != right:
        scaled = left / right if right else None
        truth = None if scaled in (100, Fraction(1, 100)) else truth
    return f"value: {' / '.join(sorted([name, gold_name]))}", answer, gold, truth


def near_numbers(draw):
    """A number and what only begins like it."""
    n = draw.randint(3, 40)
    tail = draw.choice(
        ["y", "i", "x^2", "!", "\\pi", "\\sqrt{3}", "k", "a+1", "^2", "\\text{ thousand}", "\\text{ dozen}", "\\%+1"]
    )
    return f"not a number: {tail}", f"{n}{tail}", str(n), False


def compounds(draw):
    """Tuples, sets, intervals, equations, units, approximations."""
    a, b = draw.sample(range(1, 30), 2)
    table = {
        "tuple spacing": (f"({a},{b})", f"({a}, {b})", True),
        "tuple order": (f"({a},{b})", f"({b}, {a})", False),
        "tuple and list": (f"({a},{b})", f"{a}, {b}", False),
        "tuple and element": (f"({a},{b})", f"{a}", False),
        "set order": (f"\\{{{a},{b}\\}}", f"\\{{{b},{a}\\}}", True),
        "list order": (f"{a}, {b}", f"{b}, {a}", True),
        "set and list": (f"\\{{{a},{b}\\}}", f"{a}, {b}", True),
        "list with and": (f"{a} \\text{{ and }} {b}", f"{a}, {b}", True),
        "list and element": (f"{a}, {b}", f"{a}", False),
        "interval ends": (f"[{a}, {a + b})", f"[{a}, {a + b}]", False),
        "interval same": (f"[{a},{a + b})", f"[{a}, {a + b})", True),
        "half-open left": (f"\\left({a},{a + b}\\right]", f"({a}, {a + b}]", True),
        "contradiction": (f"{a} = {b}", f"{b}", False),
        "equation and value": (f"2x + y = {a}", f"{a}", False),
        "sum undone": (f"{a} + {b}", f"{a + b}", None),
        "product undone": (f"{a} \\times {b}", f"{a * b}", None),
        "power": (f"2^{{{a}}}", f"{2**a}", True),
        "power less one": (f"2^{{{a}}} - 1", f"{2**a - 1}", True),
        "factorial": ("5!", "120", True),
        "exact root": (f"\\sqrt{{{a * a}}}", f"{a}", True),
        "root spelling": (f"{a}\\sqrt{{3}}", f"{a}\\sqrt3", True),
        "equal roots": ("2\\sqrt{3}", "\\sqrt{12}", True),
        "root and decimal": ("\\sqrt{2}", "1.41421", None),
        "pi spelling": (f"{a}\\pi", f"{a} \\pi", True),
        "pi fraction": (f"\\frac{{{a}\\pi}}{{7}}", f"\\frac{{{a}}}{{7}}\\pi", True),
        "algebra order": ("x + 1", "1 + x", True),
        "algebra expanded": ("(x+1)^2", "x^2+2x+1", True),
        "algebra same": (f"x^2+{a}x+{b}", f"x^{{2}} + {a}x + {b}", True),
        "algebra different": (f"{a}x", f"{b}x", False),
        "ratio": (f"{a}:{b}", f"\\frac{{{a}}}{{{b}}}", None),
        "rounded": ("0.333", "\\frac{1}{3}", None),
        "approximation of exact": ("\\frac{1}{3} \\approx 0.33", "\\frac{1}{3}", True),
        "approximately": (f"\\approx {a}.5", f"{a}.5", True),
        "other unit": (f"{a}\\text{{ hours}}", f"{a}\\text{{ minutes}}", False),
        "one unit": (f"{a}\\text{{ hours}}", f"{a}", True),
        "unit power": (f"{a}\\text{{ cm}}^2", f"{a}", True),
        "million": (f"{a}\\text{{ million}}", f"{a * 1000000}", True),
        "assignment": (f"x = {a}", f"{a}", True),
        "equation both": (f"x = {a}", f"x = {b}", False),
        "infinity": ("(-\\infty, 3]", "(-\\infty,3]", True),
        "degree sign": (f"{a}°", f"{a}^\\circ", True),
        "base": (f"{a}_8", f"{a}", False),
        "vulgar fraction": ("½", "\\frac{1}{2}", True),
        "full-width": ("４２", "42", True),
        "unicode minus": (f"−{a}", f"-{a}", True),
        "european": ("1.234,50", "1234.5", True),
        "indian": ("1,23,456", "123456", True),
    }
    name = draw.choice(sorted(table))
    answer, gold, truth = table[name]
    return f"compound: {name}", answer, gold, truth


LAYOUTS = {
    "gsm8k": [
        "She has 40+2=<<40+2=42>>42.\n#### {a}",
        "Step 1: 40+2=42.\n\nThe answer is {a}.",
        "40+2=42\n#### {a}\nand that checks.",
        "#### Step 1: add 17\nWe add.\n\nThe final answer is {a}.",
        "### Solution\nWe add 17.\n#### Final Answer:\n{a}",
        "So she has {a} apples.",
        "So she pays ${a}.",
        "**Answer:** {a}",
    ],
    "math": [
        "We add, so the sum is $\\boxed{{{a}}}$.",
        "Final Answer: The final answer is ${a}$. I hope it is correct.",
        "The final answer is: $\\boxed{{{a}}}$. I hope it is correct.",
        "First \\boxed{{17}}. No: $\\boxed{{{a}}}$",
        "Thus $x = {a}$.",
        "**Final Answer**\n\n\\[\n\\boxed{{{a}}}\n\\]",
        "<think>maybe \\boxed{{17}}</think>\n<answer>${a}$</answer>",
        "\\boxed{{\\text{{{a}}}}}",
    ],
    "choice": [
        "The correct answer is ({a}).",
        "The correct answer is {a}.",
        "So the correct option is {a} because 5 > 3.",
        "Answer: {a}",
        "**Answer: {a}**",
        "\\boxed{{{a}}}",
        "\\boxed{{\\text{{({a})}}}}",
        "<answer>{a}. aspirin</answer>",
    ],
}


def layouts(draw):
    name = draw.choice(sorted(LAYOUTS))
    layout = draw.choice(LAYOUTS[name])
    if name == "choice":
        answer = draw.choice("ABCD")
        other = draw.choice([letter for letter in "ABCD" if letter != answer])
    else:
        number = draw.randint(20, 3000)
        answer, other = str(number), str(number + draw.choice([-1, 1, 10]))
    truth = draw.random() < 0.6
    return f"{name}: {layout!r}", layout.format(a=answer), answer if truth else other, truth


def theirs(pair):
    def read(text, marked):
        if pair["layout"] and text == pair["gold"] and text in "ABCD":
            from math_verify import StringExtractionConfig

            return parse(text, extraction_config=[StringExtractionConfig()])
        if pair["layout"] and pair["gold"] in "ABCD":
            from math_verify import LatexExtractionConfig, StringExtractionConfig

            return parse(text, extraction_config=[StringExtractionConfig(), LatexExtractionConfig()])
        return parse(text if marked else f"${text}$")

    return bool(verify(read(pair["gold"], False), read(pair["answer"], pair["layout"])))


def ours(pairs):
    records = []
    for pair in pairs:
        answer = {"text": pair["answer"]} if pair["layout"] else {"answer": f"${pair['answer']}$"}
        gold = pair["gold"] if pair["layout"] else f"${pair['gold']}$"
        records.append(json.dumps({**answer, "gold": gold}))
    run = subprocess.run([BINARY], input="\n".join(records) + "\n", capture_output=True, text=True, check=True)
    return [json.loads(line)["correct"] for line in run.stdout.splitlines()]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--pairs", type=int, default=3000)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    draw = random.Random(options.seed)
    makers = [values] * 4 + [near_numbers, compounds, compounds, layouts, layouts]
    pairs = []
    for _ in range(options.pairs):
        maker = draw.choice(makers)
        kind, answer, gold, truth = maker(draw)
        pairs.append({"kind": kind, "answer": answer, "gold": gold, "truth": truth, "layout": maker is layouts})
    groups, disagreements, wrong = defaultdict(Counter), defaultdict(list), Counter()
    for pair, mine in zip(pairs, ours(pairs)):
        other = theirs(pair)
        group = pair["kind"].split(":")[0]
        groups[group]["pairs"] += 1
        groups[group]["agree"] += mine == other
        if pair["truth"] is not None:
            groups[group]["known"] += 1
            groups[group]["assay"] += mine == pair["truth"]
            groups[group]["math-verify"] += other == pair["truth"]
            if mine != pair["truth"]:
                wrong[f"{pair['kind']}: {pair['answer']!r} {pair['gold']!r}"] += 1
        if mine != other:
            disagreements[pair["kind"]].append((pair, mine, other))
    for group, counts in sorted(groups.items()):
        print(group, dict(counts))
    print("all", dict(sum(groups.values(), Counter())))
    for kind, found in sorted(disagreements.items(), key=lambda entry: -len(entry[1])):
        pair, mine, other = found[0]
        print(f"{len(found):4} {kind}  e.g. {pair['answer']!r} / {pair['gold']!r}"
              f"  truth {pair['truth']} assay {mine} math-verify {other}")
    print("assay against the known truth:")
    for kind, count in wrong.most_common(40):
        print(f"{count:4} {kind}")


if __name__ == "__main__":
    main()
