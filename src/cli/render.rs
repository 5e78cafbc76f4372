//! Text for people: colours, bars, durations in words. Whatever came from outside is escaped on its way to a terminal.

use std::{fmt::Write, time::Duration};

const BAR_CELLS: u32 = 20;

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// ANSI colours.
    Colours,
    /// Text alone.
    Plain,
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Worth a look.
    Notice,
    /// Broken.
    Bad,
    /// Of less weight.
    Faint,
}

impl Palette {
    /// The text in that tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Notice => 33,
            Tone::Bad => 31,
            Tone::Faint => 2,
        };
        match self {
            Self::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// How much of a whole is left, as a row of blocks. Empty only if nothing is left.
pub fn bar(left: Duration, whole: Duration) -> String {
    let share = left.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE);
    let filled = (1..=BAR_CELLS).filter(|cell| share > f64::from(cell - 1) / f64::from(BAR_CELLS)).count();
    (0..BAR_CELLS).zip(0usize..).map(|(_, cell)| if cell < filled { '█' } else { '░' }).collect()
}

/// The two largest units: `23 hours 59 minutes`.
pub fn words(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    let first = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    for (size, name) in UNITS.iter().skip(first).take(2) {
        let count = seconds / size;
        seconds %= size;
        if count > 0 || text.is_empty() {
            let separator = if text.is_empty() { "" } else { " " };
            let plural = if count == 1 { "" } else { "s" };
            // Writing to a string can't fail.
            let _infallible = write!(text, "{separator}{count} {name}{plural}");
        }
    }
    text
}

/// Hex in upper case with colons, as fingerprints are written.
pub fn colon_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// Without anything that could steer a terminal: control characters and those that change the direction of text.
pub fn escaped(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().flat_map(|c| if steers(c) { c.escape_unicode().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_full_at_the_start_and_empty_only_at_the_end() {
        let filled = |left, whole| {
            let bar = bar(Duration::from_secs(left), Duration::from_secs(whole));
            assert_eq!(bar.chars().count(), 20, "{bar}");
            bar.chars().filter(|c| *c == '█').count()
        };
        for (left, whole, expected) in
            [(100, 100, 20), (200, 100, 20), (50, 100, 10), (51, 100, 11), (1, 1000, 1), (0, 100, 0), (0, 0, 0)]
        {
            assert_eq!(filled(left, whole), expected, "{left} of {whole}");
        }
    }

    #[test]
    fn words_name_two_units() {
        for (seconds, expected) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (61, "1 minute 1 second"),
            (3_600, "1 hour"),
            (86_399, "23 hours 59 minutes"),
            (86_400 + 59, "1 day"),
            (3_650 * 86_400, "3650 days"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(escaped("CN=a\x1b[2J\r\nö\u{202e}"), "CN=a\\u{1b}[2J\\u{d}\\u{a}ö\\u{202e}");
        assert_eq!(Palette::Plain.paint(Tone::Bad, "x"), "x");
        assert_eq!(Palette::Colours.paint(Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
