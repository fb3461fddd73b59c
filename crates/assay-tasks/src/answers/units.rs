//! The text after a number: a scale (`million`, `dozens`, `thirds`), a unit, or other words.

use super::rational::Rational;

/// Units in one spelling for each. Units with different names here are different.
const UNITS: [(&str, &[&str]); 65] = [
    ("mm", &["mm", "millimeter", "millimetre"]),
    ("cm", &["cm", "centimeter", "centimetre"]),
    ("m", &["m", "meter", "metre"]),
    ("km", &["km", "kilometer", "kilometre"]),
    ("inch", &["inch", "inche", "in", "\""]),
    ("ft", &["ft", "foot", "feet", "'"]),
    ("yd", &["yd", "yard"]),
    ("mi", &["mi", "mile"]),
    ("mg", &["mg", "milligram"]),
    ("g", &["g", "gram", "gramme"]),
    ("kg", &["kg", "kilogram", "kilo", "公斤", "千克"]),
    ("lb", &["lb", "pound"]),
    ("oz", &["oz", "ounce"]),
    ("ton", &["ton", "tonne"]),
    ("ms", &["ms", "millisecond"]),
    ("s", &["s", "sec", "second", "秒"]),
    ("min", &["min", "minute", "分钟"]),
    ("h", &["h", "hr", "hour", "小时", "時間"]),
    ("day", &["day", "天", "日"]),
    ("week", &["week", "wk", "周"]),
    ("month", &["month"]),
    ("year", &["year", "yr", "年"]),
    ("mL", &["ml", "milliliter", "millilitre", "毫升"]),
    ("L", &["l", "liter", "litre"]),
    ("gal", &["gal", "gallon"]),
    ("qt", &["qt", "quart"]),
    ("pt", &["pt", "pint"]),
    ("cup", &["cup"]),
    ("tbsp", &["tbsp", "tablespoon"]),
    ("tsp", &["tsp", "teaspoon"]),
    ("°", &["°", "degree", "deg"]),
    ("°C", &["°c", "celsiu"]),
    ("°F", &["°f", "fahrenheit"]),
    ("rad", &["rad", "radian"]),
    ("Hz", &["hz", "hertz"]),
    ("kHz", &["khz"]),
    ("MHz", &["mhz"]),
    ("N", &["newton"]),
    ("Pa", &["pascal"]),
    ("kPa", &["kpa"]),
    ("J", &["joule"]),
    ("kJ", &["kj", "kilojoule"]),
    ("cal", &["cal", "calorie"]),
    ("kcal", &["kcal", "kilocalorie"]),
    ("W", &["watt"]),
    ("kW", &["kw", "kilowatt"]),
    ("kWh", &["kwh"]),
    ("V", &["volt"]),
    ("mol", &["mol", "mole"]),
    ("acre", &["acre"]),
    ("ha", &["ha", "hectare"]),
    ("USD", &["$", "us$", "usd", "dollar", "buck"]),
    ("EUR", &["€", "eur", "euro"]),
    ("GBP", &["£", "gbp", "quid"]),
    ("INR", &["₹", "rs", "inr", "rupee"]),
    ("JPY", &["jpy", "yen", "円"]),
    ("CNY", &["cny", "rmb", "yuan", "元", "块"]),
    ("KRW", &["₩", "krw", "원"]),
    ("RUB", &["₽", "rub", "ruble"]),
    ("TRY", &["₺", "lira"]),
    ("BRL", &["r$", "brl", "reai"]),
    ("CHF", &["chf"]),
    ("cent", &["¢", "cent"]),
    ("pence", &["penny", "pence", "pennie"]),
    ("K", &["kelvin"]),
];

/// Words that multiply the number before them.
const SCALES: [(&str, i128, i128); 25] = [
    ("dozen", 12, 1),
    ("hundred", 100, 1),
    ("thousand", 1_000, 1),
    ("million", 1_000_000, 1),
    ("mn", 1_000_000, 1),
    ("billion", 1_000_000_000, 1),
    ("bn", 1_000_000_000, 1),
    ("trillion", 1_000_000_000_000, 1),
    ("lakh", 100_000, 1),
    ("lac", 100_000, 1),
    ("crore", 10_000_000, 1),
    ("half", 1, 2),
    ("halve", 1, 2),
    ("third", 1, 3),
    ("quarter", 1, 4),
    ("fourth", 1, 4),
    ("fifth", 1, 5),
    ("sixth", 1, 6),
    ("seventh", 1, 7),
    ("eighth", 1, 8),
    ("ninth", 1, 9),
    ("tenth", 1, 10),
    ("hundredth", 1, 100),
    ("thousandth", 1, 1_000),
    ("millionth", 1, 1_000_000),
];

/// Such words in Chinese, Japanese and Korean, attached to the number.
const CJK_SCALES: [(&str, i128, i128); 9] = [
    ("百", 100, 1),
    ("千", 1_000, 1),
    ("万", 10_000, 1),
    ("萬", 10_000, 1),
    ("亿", 100_000_000, 1),
    ("億", 100_000_000, 1),
    ("만", 10_000, 1),
    ("억", 100_000_000, 1),
    ("천", 1_000, 1),
];

/// Letters attached to a number that multiply it: `5k`, and after money `$2.5M`.
const SUFFIXES: [(&str, i128); 7] = [
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("m", 1_000_000),
    ("B", 1_000_000_000),
    ("b", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

/// Words that say nothing about the unit.
const FILLERS: [&str; 24] = [
    "in",
    "total",
    "left",
    "each",
    "per",
    "more",
    "of",
    "the",
    "remaining",
    "altogether",
    "all",
    "about",
    "a",
    "an",
    "only",
    "for",
    "at",
    "on",
    "by",
    "from",
    "with",
    "overall",
    "now",
    "approximately",
];

/// Words after which a number is not the whole answer.
const CONTINUATIONS: [&str; 39] = [
    "and",
    "or",
    "to",
    "plus",
    "minus",
    "than",
    "not",
    "is",
    "are",
    "was",
    "were",
    "if",
    "when",
    "but",
    "because",
    "out",
    "mod",
    "modulo",
    "factorial",
    "squared",
    "cubed",
    "pi",
    "sqrt",
    "root",
    "sin",
    "co",
    "tan",
    "log",
    "ln",
    "exp",
    "choose",
    "divided",
    "multiplied",
    "below",
    "above",
    "less",
    "until",
    "through",
    "versu",
];

/// Maximum length of the text after a number, in bytes.
const MAX_BYTES: usize = 160;

/// Maximum number of words after a number.
const MAX_WORDS: usize = 8;

/// The unit of a number: known units with their powers, else other words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Known units such as `km` and `h^-1`, sorted.
    known: Vec<String>,
    /// Other words in the singular, in order.
    words: Vec<String>,
}

impl Unit {
    pub(super) fn percent() -> Self {
        Self {
            known: vec!["%".to_owned()],
            words: Vec::new(),
        }
    }

    pub(super) fn is_percent(&self) -> bool {
        self.known == ["%"]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.words.is_empty()
    }

    /// Whether two units can belong to one quantity: known ones must be equal, other words must
    /// share one.
    ///
    /// No unit is compatible with every unit.
    pub(super) fn compatible(&self, other: &Self) -> bool {
        if self.is_empty() || other.is_empty() {
            return true;
        }
        if !self.known.is_empty() || !other.known.is_empty() {
            return self.known == other.known;
        }
        let alike = |one: &str, two: &str| {
            one == two || (!one.is_ascii() && (one.contains(two) || two.contains(one)))
        };
        let mut pairs = self
            .words
            .iter()
            .flat_map(|one| other.words.iter().map(move |two| (one, two)));
        pairs.any(|(one, two)| alike(one, two))
    }

    /// The unit with its parts in order; `degrees Celsius` counts once.
    fn sorted(mut self) -> Self {
        if self
            .known
            .iter()
            .any(|known| known == "°C" || known == "°F")
        {
            self.known.retain(|known| known != "°");
        }
        self.known.sort();
        self.known.dedup();
        if self.is_percent() {
            self.words.clear();
        }
        self
    }

    fn add(&mut self, known: &str, power: i32) {
        self.known.push(match power {
            1 => known.to_owned(),
            _ => format!("{known}^{power}"),
        });
    }
}

/// Words, then known units: `worker km/h`.
impl Unit {
    /// Whether the written unit is read as this unit. Words that mean something else where they are
    /// written are not a unit, so the answer stays a text.
    pub(super) fn reads_back(&self) -> bool {
        let written = format!(" {self}");
        self.is_empty() || read_unit(&written, None).is_some_and(|(_, read)| read == *self)
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let divides = |known: &&String| known.contains("^-");
        let above = self.known.iter().filter(|known| !divides(known));
        let all: Vec<&str> = self.words.iter().chain(above).map(String::as_str).collect();
        f.write_str(&all.join(" "))?;
        for known in self.known.iter().filter(divides) {
            let unit = known.replace("^-1", "").replace("^-", "^");
            write!(f, "/{unit}")?;
        }
        Ok(())
    }
}

/// The currency mark that a text begins with, and its length in bytes.
///
/// The name is empty if several countries use the mark.
pub(super) fn leading_currency(text: &str) -> Option<(&'static str, usize)> {
    const MARKS: [(&str, &str); 24] = [
        ("US$", "USD"),
        ("A$", ""),
        ("C$", ""),
        ("HK$", ""),
        ("R$", "BRL"),
        ("$", "USD"),
        ("€", "EUR"),
        ("£", "GBP"),
        ("¥", ""),
        ("₹", "INR"),
        ("Rs.", "INR"),
        ("Rs", "INR"),
        ("₩", "KRW"),
        ("₽", "RUB"),
        ("₺", "TRY"),
        ("USD", "USD"),
        ("EUR", "EUR"),
        ("GBP", "GBP"),
        ("INR", "INR"),
        ("JPY", "JPY"),
        ("CNY", "CNY"),
        ("RMB", "CNY"),
        ("CHF", "CHF"),
        ("₦", ""),
    ];
    let found = MARKS.iter().find(|(mark, _)| text.starts_with(mark));
    found.map(|(mark, name)| (*name, mark.len()))
}

/// The factor and unit in the text after a number; `None` if the number is not the whole answer.
///
/// `currency` is the mark before the number, as [`leading_currency`] names it.
pub(super) fn read_unit(after: &str, currency: Option<&str>) -> Option<(Rational, Unit)> {
    let goes_on = after.len() > 1 && after.starts_with(['.', ',', '!', '\\']);
    if after.len() > MAX_BYTES || goes_on {
        return None;
    }
    let mut words = Words::default();
    if let Some(name) = currency.filter(|name| !name.is_empty()) {
        words.unit.add(name, 1);
    }
    let (mut scale, mut rest) = suffix(after, currency.is_some()).unwrap_or((Rational::ONE, after));
    if !is_attachable(rest) {
        return None;
    }
    while let Some((name, top, bottom)) =
        CJK_SCALES.iter().find(|(name, ..)| rest.starts_with(name))
    {
        scale = scale.times(Rational::new(*top, *bottom)?)?;
        rest = &rest[name.len()..];
    }
    let rest = rest.trim();
    if let Some(behind) = rest.strip_prefix('%') {
        words.read(behind)?;
        return Some((scale, Unit::percent()));
    }
    words.read(rest)?;
    let scale = scale.times(words.scale)?;
    Some((scale, words.unit.sorted()))
}

/// The factor of a letter directly after a number, and the text after it.
fn suffix(after: &str, money: bool) -> Option<(Rational, &str)> {
    let (letter, factor) = SUFFIXES
        .iter()
        .find(|(letter, _)| after.starts_with(letter))?;
    let rest = &after[letter.len()..];
    let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '^');
    let alone = matches!(*letter, "k" | "K" | "M" | "B");
    (ends && (money || alone)).then_some((Rational::new(*factor, 1)?, rest))
}

/// Whether letters directly after a number can be a unit: `20km`, not `4y` or `3ab`.
fn is_attachable(after: &str) -> bool {
    let letters: String = after
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect();
    if letters.is_empty() {
        return true;
    }
    let ordinal = matches!(letters.as_str(), "st" | "nd" | "rd" | "th");
    let word = (3..24).contains(&letters.len());
    ordinal
        || word
        || known_unit(&letters).is_some()
        || scale_word(&letters.to_lowercase()).is_some()
}

/// Words with a meaning in one place only: an ordinal's end directly after the number, a per cent
/// mark before `of` or at the end, a power as a word of its own. In another place they are not the
/// name of a unit.
const PLACED: [&str; 10] = [
    "st", "nd", "rd", "th", "percent", "pct", "square", "sq", "cubic", "cu",
];

/// The words after a number while they are read.
struct Words {
    unit: Unit,
    scale: Rational,
    /// Whether `per` or a slash came before.
    divided: bool,
    /// The power that `square` or `cubic` gives to the next unit.
    raise: i32,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            unit: Unit::default(),
            scale: Rational::ONE,
            divided: false,
            raise: 1,
        }
    }
}

impl Words {
    /// Reads all words; `None` if one of them shows that the number is not the whole answer.
    fn read(&mut self, text: &str) -> Option<()> {
        if !has_plain_brackets(text) || text.ends_with('-') {
            return None;
        }
        let is_break = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '*' | '-' | ',');
        let mut words = text
            .split(is_break)
            .filter(|word| !word.is_empty())
            .peekable();
        let (mut count, mut scaled, mut percent) = (0, true, false);
        while let Some(word) = words.next() {
            count += 1;
            if count > MAX_WORDS {
                return None;
            }
            let lower = word.to_lowercase();
            let factor = scale_word(&lower).filter(|_| scaled);
            scaled = factor.is_some();
            match lower.as_str() {
                _ if factor.is_some() => self.scale = self.scale.times(factor?)?,
                "st" | "nd" | "rd" | "th" if count == 1 => {}
                "percent" | "pct" if ends_name(words.peek().copied()) => percent = true,
                "cent" if self.divided && count == 2 => percent = true,
                "per" => self.divided = true,
                "square" | "sq" | "sq." => self.raise = 2,
                "cubic" | "cu" | "cu." => self.raise = 3,
                _ => self.word(word, words.peek().is_none())?,
            }
        }
        if percent {
            // As after the sign: what the share is of is not part of the unit.
            self.unit = Unit::percent();
        }
        Some(())
    }

    /// Reads one word, which may hold slashes: `km/h`.
    fn word(&mut self, word: &str, is_last: bool) -> Option<()> {
        for (index, part) in word.split('/').enumerate() {
            self.divided |= index > 0;
            if !part.is_empty() {
                self.part(part, is_last)?;
                self.raise = 1;
            }
        }
        Some(())
    }

    fn part(&mut self, word: &str, is_last: bool) -> Option<()> {
        let (base, exponent) = split_power(word)?;
        let power = exponent
            * if self.divided {
                -self.raise
            } else {
                self.raise
            };
        let trimmed = base.trim_end_matches(['.', ';', ':']);
        // `in` means inches only at the end.
        let preposition = trimmed == "in" && !is_last;
        if let Some(known) = known_unit(trimmed).filter(|_| !preposition) {
            self.unit.add(known, power);
            return Some(());
        }
        let distance = match trimmed.to_lowercase().as_str() {
            "mph" => Some("mi"),
            "kph" | "kmh" => Some("km"),
            _ => None,
        };
        if let Some(distance) = distance {
            self.unit.add(distance, power);
            self.unit.add("h", -power);
            return Some(());
        }
        if exponent != 1 || !is_plain_word(trimmed) {
            return None;
        }
        let lower = trimmed.to_lowercase();
        let word = singular(&lower);
        if !FILLERS.contains(&word) && !FILLERS.contains(&lower.as_str()) && power > 0 {
            self.unit.words.push(word.to_owned());
        }
        Some(())
    }
}

/// Whether a unit's name ends before the next word: `percent of`, not `percent apples`.
fn ends_name(next: Option<&str>) -> bool {
    next.is_none_or(|next| FILLERS.contains(&next.to_lowercase().as_str()))
}

/// Whether there is at most one pair of parentheses, around something: `(apples)`, `(ten) apples`.
fn has_plain_brackets(text: &str) -> bool {
    let Some((before, inner)) = text.split_once('(') else {
        return !text.contains(')');
    };
    let Some((inner, after)) = inner.split_once(')') else {
        return false;
    };
    let nested = [before, inner, after]
        .iter()
        .any(|part| part.contains(['(', ')']));
    !nested && !inner.trim().is_empty()
}

/// A unit's name and power: `cm^2`, `cm2`, `h^-1`; `None` for a power that no unit has.
fn split_power(word: &str) -> Option<(&str, i32)> {
    if let Some((base, exponent)) = word.split_once('^') {
        let exponent: i32 = exponent.trim_matches(['(', ')']).parse().ok()?;
        return (exponent != 0 && exponent.abs() <= 9).then_some((base, exponent));
    }
    for (digit, power) in [('2', 2), ('3', 3)] {
        if let Some(base) = word
            .strip_suffix(digit)
            .filter(|base| known_unit(base).is_some())
        {
            return Some((base, power));
        }
    }
    Some((word, 1))
}

/// Whether a word can be a unit: it is not a variable, constant, function or conjunction.
fn is_plain_word(word: &str) -> bool {
    let lower = word.to_lowercase();
    let stem = singular(&lower);
    let letters = lower
        .chars()
        .all(|c| c.is_alphabetic() || matches!(c, '\'' | '.'));
    let variable = stem.chars().count() == 1 && stem.is_ascii() && stem != "a";
    let greek = stem.chars().all(|c| ('\u{370}'..'\u{400}').contains(&c));
    let refused = [lower.as_str(), stem].iter().any(|word| {
        CONTINUATIONS.contains(word) || PLACED.contains(word) || scale_word(word).is_some()
    });
    letters && lower.starts_with(char::is_alphabetic) && !variable && !greek && !refused
}

fn scale_word(lower: &str) -> Option<Rational> {
    let word = singular(lower);
    let (_, top, bottom) = SCALES.iter().find(|(name, _, _)| *name == word)?;
    Rational::new(*top, *bottom)
}

/// The one name of a unit, or `None` for any other word.
pub(super) fn known_unit(word: &str) -> Option<&'static str> {
    let lower = word.to_lowercase();
    // Capital letters are other units or variables, except in words.
    let symbol = word.chars().count() <= 2 && word.chars().any(char::is_uppercase);
    let names = UNITS.iter().find(|(name, spellings)| {
        if *name == word {
            return true;
        }
        !symbol && (spellings.contains(&lower.as_str()) || spellings.contains(&singular(&lower)))
    });
    names.map(|(name, _)| *name)
}

/// Whether a word after a number belongs to it: a unit, a scale or a per cent mark.
pub(super) fn belongs_to_number(word: &str) -> bool {
    let lower = word.to_lowercase();
    let percent = matches!(lower.as_str(), "%" | "\\%" | "percent" | "％");
    percent || scale_word(&lower).is_some() || (word != "in" && known_unit(word).is_some())
}

/// The word without the `s` of the plural.
fn singular(word: &str) -> &str {
    match word.strip_suffix('s') {
        Some(stem) if stem.chars().count() > 1 && !stem.ends_with('s') => stem,
        _ => word,
    }
}
