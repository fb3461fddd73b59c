//! The date that templates print: fixed, so that a prompt is the same every day.

use serde::{Deserialize, Serialize};

/// A calendar date.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TemplateDate {
    /// The year.
    pub year: u16,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
];

impl Default for TemplateDate {
    /// 26 July 2024, the default of Llama 3.2's template without a clock.
    fn default() -> Self {
        Self {
            year: 2024,
            month: 7,
            day: 26,
        }
    }
}

impl TemplateDate {
    /// The date in a format of C's `strftime`. Times are midnight; unknown letters are kept.
    pub(super) fn format(self, format: &str) -> String {
        let mut text = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                text.push(letter);
                continue;
            }
            match letters.next() {
                Some('-') => text.push_str(self.field(letters.next()).trim_start_matches('0')),
                letter => text.push_str(&self.field(letter)),
            }
        }
        text
    }

    fn field(self, letter: Option<char>) -> String {
        let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        match letter {
            Some('Y') => self.year.to_string(),
            Some('y') => format!("{:02}", self.year % 100),
            Some('m') => format!("{:02}", self.month),
            Some('d') => format!("{:02}", self.day),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => month[..3].to_owned(),
            Some('A') => self.weekday().to_owned(),
            Some('a') => self.weekday()[..3].to_owned(),
            Some('H' | 'M' | 'S') => "00".to_owned(),
            Some('F') => self.format("%Y-%m-%d"),
            Some('%') | None => "%".to_owned(),
            Some(other) => format!("%{other}"),
        }
    }

    /// Zeller's congruence.
    fn weekday(self) -> &'static str {
        let early = self.month < 3;
        let year = u32::from(self.year) - u32::from(early);
        let month = u32::from(self.month) + if early { 12 } else { 0 };
        let (century, rest) = (year / 100, year % 100);
        let day = u32::from(self.day)
            + 13 * (month + 1) / 5
            + rest
            + rest / 4
            + century / 4
            + 5 * century;
        DAYS[(day % 7) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_by_hand() {
        assert_eq!(
            TemplateDate::default().format("%d %b %Y, %A"),
            "26 Jul 2024, Friday"
        );
        let leap = TemplateDate {
            year: 2000,
            month: 2,
            day: 9,
        };
        assert_eq!(
            leap.format("%-d/%m/%y %a %H:%M 100%%"),
            "9/02/00 Wed 00:00 100%"
        );
        assert_eq!(leap.format("%F %B"), "2000-02-09 February");
    }
}
