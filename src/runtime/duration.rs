//! Durations as people write them: `90s`, `24h`, `1h30m`, `250ms`.

use std::time::Duration;

/// In milliseconds, largest first: each at most once, in this order.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Numbers with units, largest unit first.
///
/// # Errors
///
/// When the text has another form or is beyond all bounds.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let complaint = || format!("{text:?} is not a duration: write it as 90s, 24h or 1h30m");
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut millis = 0u64;
    while !rest.is_empty() || text.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(complaint)?);
        let (unit, behind) = behind.split_at(behind.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(behind.len()));
        let (_, size) = units.find(|(name, _)| *name == unit).ok_or_else(complaint)?;
        let part = number.parse().ok().and_then(|number: u64| number.checked_mul(*size));
        millis = part.and_then(|part| millis.checked_add(part)).ok_or_else(complaint)?;
        rest = behind;
    }
    Ok(Duration::from_millis(millis))
}

/// As [`parse`], at least one second and nothing below seconds.
///
/// # Errors
///
/// As [`parse`], and when it is zero or not whole.
pub(super) fn parse_whole_seconds(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        duration if duration.is_zero() || duration.subsec_nanos() > 0 => {
            Err(format!("{text:?} is not a whole number of seconds above zero: write it as 90s, 24h or 1h30m"))
        }
        duration => Ok(duration),
    }
}

/// The shortest text that [`parse`] reads as this duration (to the millisecond). Days are written as hours, as Kubernetes
/// does.
pub(super) fn format(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (name, size) in UNITS.iter().skip(1) {
        if millis >= *size {
            text.push_str(&format!("{}{name}", millis / size));
            millis %= size;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("0s", 0),
            ("90s", 90_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("250ms", 250),
            ("007s", 7_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "5s ",
            " 5s",
            "-5s",
            "+5s",
            "1.5h",
            "30m1h",
            "1h1h",
            "5S",
            "5min",
            "1w",
            "5sx",
            "٥s",
            "99999999999999999999s",
            "18446744073709551615d",
            "1h30",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("{text:?} is not a duration")), "{error}");
        }
        for text in ["0s", "500ms", "1s1ms"] {
            assert!(parse_whole_seconds(text).is_err(), "{text}");
        }
        assert_eq!(parse_whole_seconds("1s"), Ok(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0..u64::MAX / 2) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            let _any = parse(&text);
        }
    }
}
