//! Countdown: reach a target with the given numbers, each used exactly once.
//!
//! The gold answer of such a problem is its task in words, `98 from 44, 19, 35`.
//! [`CountdownTask::accepts`] evaluates an answer in exact fractions; nothing is executed.

use std::fmt;

use crate::answers::Rational;

/// Maximum length of an expression, in bytes.
const MAX_EXPRESSION: usize = 512;
/// Maximum number of numbers in a task.
const MAX_NUMBERS: usize = 32;
/// Maximum depth of nested parentheses and signs.
const MAX_DEPTH: usize = 64;

/// Numbers and the target they must reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountdownTask {
    /// The value an expression must have.
    pub target: i64,
    /// The numbers, each to be used exactly once.
    pub numbers: Vec<i64>,
}

impl fmt::Display for CountdownTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.numbers.iter().map(i64::to_string).collect();
        write!(f, "{} from {}", self.target, numbers.join(", "))
    }
}

impl CountdownTask {
    /// Reads the form that [`fmt::Display`] writes; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (target, numbers) = text.trim().split_once(" from ")?;
        let numbers: Option<Vec<i64>> = numbers
            .split(", ")
            .take(MAX_NUMBERS + 1)
            .map(|number| number.parse().ok())
            .collect();
        Some(Self {
            target: target.parse().ok()?,
            numbers: numbers.filter(|numbers| numbers.len() <= MAX_NUMBERS)?,
        })
    }

    /// Whether an answer is an expression with `+ - * /` and parentheses that uses each number
    /// exactly once and has the target as its exact value. `= target` may follow it.
    pub(crate) fn accepts(&self, answer: &str) -> bool {
        let Some(target) = Rational::new(i128::from(self.target), 1) else {
            return false;
        };
        let plain = plain(answer);
        let (expression, stated) = match plain.split_once('=') {
            Some((expression, stated)) => (expression, Some(stated)),
            None => (plain.as_str(), None),
        };
        let Some((value, mut used)) = Reader::evaluate(expression) else {
            return false;
        };
        let states_target = stated.is_none_or(|stated| {
            Reader::evaluate(stated).is_some_and(|(value, _)| value == target)
        });
        let mut given = self.numbers.clone();
        given.sort_unstable();
        used.sort_unstable();
        value == target && used == given && states_target
    }
}

/// The expression without the marks that LaTeX and Markdown put around it, with plain operators.
fn plain(answer: &str) -> String {
    let mut plain = answer.to_owned();
    for (mark, operator) in [
        ("\\times", "*"),
        ("\\cdot", "*"),
        ("\\div", "/"),
        ("\\left", ""),
        ("\\right", ""),
        ("\\(", ""),
        ("\\)", ""),
    ] {
        plain = plain.replace(mark, operator);
    }
    let one = |c: char| match c {
        '×' | '·' | '⋅' | '∗' => Some('*'),
        '÷' => Some('/'),
        '−' | '–' => Some('-'),
        '[' => Some('('),
        ']' => Some(')'),
        '$' | '`' => None,
        c if c.is_whitespace() => None,
        c => Some(c),
    };
    // White space between two digits separates numbers; it must not join them.
    let spaced = |(at, c): (usize, char)| {
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let between = digit(plain[..at].trim_end().chars().next_back())
            && digit(plain[at..].trim_start().chars().next());
        match c.is_whitespace() && between {
            true => Some(' '),
            false => one(c),
        }
    };
    plain.char_indices().filter_map(spaced).collect()
}

/// A recursive descent over the bytes of an expression.
struct Reader<'t> {
    bytes: &'t [u8],
    at: usize,
    depth: usize,
    used: Vec<i64>,
}

impl<'t> Reader<'t> {
    /// The value of a whole expression and the numbers in it.
    fn evaluate(text: &'t str) -> Option<(Rational, Vec<i64>)> {
        if text.len() > MAX_EXPRESSION {
            return None;
        }
        let mut reader = Self {
            bytes: text.as_bytes(),
            at: 0,
            depth: 0,
            used: Vec::new(),
        };
        let value = reader.sum()?;
        (reader.at == reader.bytes.len()).then_some((value, reader.used))
    }

    fn sum(&mut self) -> Option<Rational> {
        let mut value = self.product()?;
        while let Some(operator) = self.take(b"+-") {
            let right = self.product()?;
            let right = match operator {
                b'-' => right.negated(),
                _ => right,
            };
            value = value.plus(right)?;
        }
        Some(value)
    }

    fn product(&mut self) -> Option<Rational> {
        let mut value = self.factor()?;
        while let Some(operator) = self.take(b"*/") {
            let right = self.factor()?;
            let right = match operator {
                b'/' => right.inverted()?,
                _ => right,
            };
            value = value.times(right)?;
        }
        Some(value)
    }

    fn factor(&mut self) -> Option<Rational> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = match self.take(b"(-") {
            Some(b'(') => {
                let value = self.sum()?;
                self.take(b")")?;
                value
            }
            Some(_) => self.factor()?.negated(),
            None => self.number()?,
        };
        self.depth -= 1;
        Some(value)
    }

    fn number(&mut self) -> Option<Rational> {
        let digits = self.bytes[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        let end = self.at + digits.count();
        let digits = std::str::from_utf8(&self.bytes[self.at..end]).ok()?;
        let number: i64 = digits.parse().ok()?;
        self.at = end;
        self.used.push(number);
        Rational::new(i128::from(number), 1)
    }

    /// The next byte, if it is one of these.
    fn take(&mut self, any: &[u8]) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        any.contains(&byte).then(|| {
            self.at += 1;
            byte
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(target: i64, numbers: &[i64]) -> CountdownTask {
        CountdownTask {
            target,
            numbers: numbers.to_vec(),
        }
    }

    #[test]
    fn a_task_is_written_and_read() {
        let one = task(98, &[44, 19, 35]);
        assert_eq!(one.to_string(), "98 from 44, 19, 35");
        assert_eq!(CountdownTask::parse("98 from 44, 19, 35"), Some(one));
        for other in [
            "98",
            "98 from",
            "98 from a",
            "x from 1",
            "he is from 3, 4",
            "",
        ] {
            assert_eq!(CountdownTask::parse(other), None, "{other}");
        }
    }

    #[test]
    fn each_number_once_and_the_exact_value() {
        let right = [
            "44 + 19 + 35",
            "(19+35)+44",
            "44+35+19 = 98",
            "$44 + 19 + 35 = 98$",
            "44 - -19 + 35",
            "[44+19]+35",
        ];
        for answer in right {
            assert!(task(98, &[44, 19, 35]).accepts(answer), "{answer}");
        }
        let wrong = [
            "98",
            "44+19+34",
            "44+19+35+0",
            "44+54",
            "44+19+35 = 97",
            "44+19",
            "44 19 35",
            "",
            "44+19+35)",
            "(44+19+35",
            "44++19+35",
            "44+19+35;1",
            "4 4+19+35",
        ];
        for answer in wrong {
            assert!(!task(98, &[44, 19, 35]).accepts(answer), "{answer}");
        }
    }

    /// 8 / (3 - 8 / 3) = 8 / (1 / 3) = 24, which floating point misses; it uses 8, 3, 8, 3.
    #[test]
    fn division_is_exact_and_repeated_numbers_are_counted() {
        for answer in ["8 / (3 - 8 / 3)", "8 \\div (3 − 8 ÷ 3)"] {
            assert!(task(24, &[3, 3, 8, 8]).accepts(answer), "{answer}");
            assert!(!task(24, &[3, 8, 8]).accepts(answer), "{answer}");
            assert!(!task(24, &[3, 3, 3, 8]).accepts(answer), "{answer}");
        }
    }

    #[test]
    fn division_by_zero_and_overflow_are_no_answers() {
        assert!(!task(1, &[1, 2, 2]).accepts("1/(2-2)"));
        assert!(!task(1, &[1]).accepts("99999999999999999999"));
        assert!(!task(1, &[1]).accepts(&"(".repeat(500)));
        assert!(!task(1, &[1]).accepts(&format!("{}1{}", "(".repeat(80), ")".repeat(80))));
        assert!(!task(1, &[1]).accepts(&"-".repeat(511)));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(answer in "(?s).{0,60}|[-+*/()=0-9 ]{0,60}", gold in "(?s).{0,30}|[0-9]{1,3} from [0-9, ]{0,20}") {
            if let Some(task) = CountdownTask::parse(&gold) {
                task.accepts(&answer);
            }
        }
    }
}
