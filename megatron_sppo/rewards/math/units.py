"""Units, currencies and the words that may follow a number: optional, but not interchangeable."""

from __future__ import annotations

import re
from collections import Counter

# canonical name: spellings. Plurals in -s and -es are tried by `lookup`.
SPELLINGS = {
    "cm": "cm centimeter centimetre",
    "m": "m meter metre", "mm": "mm millimeter millimetre", "km": "km kilometer kilometre",
    "nm": "nm nanometer nanometre", "um": "um micrometer micron", "in": "in inch inche", "ft": "ft foot feet", "yd": "yd yard",
    "mi": "mi mile", "ly": "ly lightyear", "pc": "pc parsec", "AU": "AU", "g": "g gram", "kg": "kg kilogram",
    "mg": "mg milligram", "lb": "lb lbs pound", "oz": "oz ounce", "ton": "ton tonne", "s": "s sec second",
    "ms": "ms millisecond", "min": "min minute", "h": "h hr hrs hour", "day": "day", "week": "week wk", "month": "month",
    "year": "year yr yrs", "L": "L l liter litre", "mL": "mL ml milliliter millilitre", "gal": "gallon gal", "mph": "mph",
    "kph": "kph kmh", "degree": "degree deg", "rad": "rad radian", "percent": "percent %", "USD": "dollar USD $ buck",
    "cent": "cent", "EUR": "euro EUR", "GBP": "GBP", "JPY": "yen JPY",
    "N": "N newton", "J": "J joule", "W": "W watt", "V": "V volt",
    "A": "A amp ampere", "K": "K kelvin", "C": "C celsius", "F": "F fahrenheit", "Pa": "Pa pascal", "Hz": "Hz hertz",
    "eV": "eV", "keV": "keV", "MeV": "MeV", "GeV": "GeV", "kJ": "kJ kilojoule", "kW": "kW kilowatt", "MHz": "MHz",
    "kHz": "kHz", "GHz": "GHz", "mol": "mol mole", "ohm": "ohm", "cal": "calorie cal", "kcal": "kcal", "atm": "atm",
    "unit": "unit", "erg": "erg", "Angstrom": "angstrom", "M": "molar", "T": "tesla", "square": "sq square", "cubic": "cubic",
    "nickel": "nickel", "dime": "dime", "quarter": "quarter", "penny": "penny pennie", "point": "point pt", "dozen": "",
}  # fmt: skip
UNITS = {spelling: unit for unit, spellings in SPELLINGS.items() for spelling in spellings.split()}
COMPOUNDS = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}}
MULTIPLIERS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words after which a number no longer means itself: such an answer is not graded as the bare number.
NO_UNIT = frozenset(
    "a an and approximately approx about around almost at away base below but by else except false for from greater if infinity "
    "is isn least less mod modulo more most nearly no non none nor not only or otherwise over plus minus remainder roughly than "
    "times to true under unless up when where with without wrong half halve third fourth fifth sixth seventh eighth ninth tenth "
    "hundredth thousandth dozen score gross lakh crore incorrect undefined unknown maybe perhaps "
    "squared cubed factorial divided multiplied choose pi sqrt sin cos tan log ln exp infinite negative positive".split()
)
WORD = re.compile(r"[^\W\d_]+|%|\$")
PIECE = re.compile(r"\s*(?:(?P<word>[^\W\d_]+|%|\$)\.?\s*(?:\^\s*\{?\s*(?P<power>-?\s*[1-9])\s*\}?)?|(?P<by>[/*·-]|\\cdot))\s*")
MAX_UNIT_WORDS = 6


def lookup(word: str) -> str | None:
    """``metres`` -> ``m``; case matters only for abbreviations."""
    for candidate in (word, word.lower() if len(word) > 3 else word):
        for form in (candidate, candidate.removesuffix("s"), candidate.removesuffix("es")):
            if form in UNITS and (form == candidate or len(form) > 2):
                return UNITS[form]
    return None


def unit_of(text: str) -> str | None:
    """One name for ``m/s^2``, ``meters per second squared`` ...; None where the text is no unit.

    Unknown nouns (``apples``) are units too, as they stand; words that change the value are not.
    """
    powers: Counter[str] = Counter()
    sign, pending, position, words, last = 1, 1, 0, 0, ""
    text = re.sub(r"\bof\b", " ", text)
    while position < len(text):
        piece = PIECE.match(text, position)
        if piece is None or piece.end() == position:
            return None
        position = piece.end()
        word = piece["word"]
        if word is None:
            sign = -1 if piece["by"] == "/" else sign
            continue
        lower = word.lower()
        words += 1
        if lower == "per":
            sign = -1
        elif lower in {"sq", "square", "cubic"}:
            pending = 2 if lower != "cubic" else 3
        elif lower in {"squared", "cubed"} and last:
            powers[last] += sign * (1 if lower == "squared" else 2)
        elif words > MAX_UNIT_WORDS or not may_be_unit(word):
            return None
        else:
            last = lookup(word) or lower.removesuffix("s")
            for part, power in COMPOUNDS.get(last, {last: 1}).items():
                powers[part] += sign * pending * power * int((piece["power"] or "1").replace(" ", ""))
            pending = 1
    if pending != 1:  # "square" alone, as in "15 square units" without a unit
        powers["unit"] += pending
    return "*".join(f"{unit}^{power}" for unit, power in sorted(powers.items()) if power) or None


def may_be_unit(word: str) -> bool:
    lower = word.lower()
    if lower in NO_UNIT or lower.removesuffix("s") in NO_UNIT or lower in MULTIPLIERS:
        return False
    return len(word) > 1 or word in UNITS


def agree(one: str, other: str) -> bool:
    """Either may leave its unit out."""
    return not one or not other or one == other
