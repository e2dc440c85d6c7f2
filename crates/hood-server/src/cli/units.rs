//! Times and sizes as people write and read them.

use std::time::Duration;

const KIB: u64 = 1024;
const SIZES: [(&str, u64); 13] = [
    ("kib", KIB),
    ("mib", KIB * KIB),
    ("gib", KIB * KIB * KIB),
    ("tib", KIB * KIB * KIB * KIB),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", KIB),
    ("m", KIB * KIB),
    ("g", KIB * KIB * KIB),
    ("t", KIB * KIB * KIB * KIB),
    ("b", 1),
];
const TIMES_MS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `64MiB`, `64M` (the same), `1.5GB` or a plain number of bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = if unit.is_empty() { Some(1) } else { factor(unit, &SIZES) };
    scaled(number, factor)
        .ok_or_else(|| "write a size such as 64MiB, 512k, 1.5GB, or a plain number of bytes".to_owned())
}

/// `500ms`, `2s`, `1.5m`, `1h`. A plain number could be seconds or milliseconds, so it is refused.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    scaled(number, factor(unit, &TIMES_MS))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a time with its unit: 500ms, 2s, 1.5m, 1h".to_owned())
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

fn factor(unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

/// Whole numbers exactly; fractions as near as whole units allow.
fn scaled(number: &str, factor: Option<u64>) -> Option<u64> {
    let factor = factor?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let value = number.parse::<f64>().ok()? * factor as f64;
    (value.is_finite() && (0.0..u64::MAX as f64).contains(&value)).then_some(value.round() as u64)
}

/// As `9.3 MiB`.
pub(super) fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// As `85 ms`, `2.35 s`, `4 min 10 s`.
pub(super) fn show_millis(millis: f64) -> String {
    if millis < 1000.0 {
        let digits = usize::from(millis < 10.0);
        format!("{millis:.digits$} ms")
    } else if millis < 60_000.0 {
        format!("{:.2} s", millis / 1000.0)
    } else if millis < 3_600_000.0 {
        let seconds = (millis / 1000.0).round() as u64;
        format!("{} min {} s", seconds / 60, seconds % 60)
    } else {
        let minutes = (millis / 60_000.0).round() as u64;
        format!("{} h {} min", minutes / 60, minutes % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("64m", 64 << 20),
            ("64 mib", 64 << 20),
            ("1.5GB", 1_500_000_000),
            ("1.5G", 3 << 29),
            ("1TB", 1_000_000_000_000),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "MiB", "-1", "1.2.3k", "64 miles", "99999999999999999999", "99999999T", "1e3"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_need_their_unit() {
        for (text, expected) in
            [("500ms", 500), ("2s", 2000), ("1.5m", 90_000), ("2min", 120_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for wrong in ["", "2", "s", "-2s", "2 weeks", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(9_751_756), "9.3 MiB");
        assert_eq!(show_bytes(512 << 20), "512 MiB");
        assert_eq!(show_bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(show_millis(0.42), "0.4 ms");
        assert_eq!(show_millis(85.4), "85 ms");
        assert_eq!(show_millis(2346.0), "2.35 s");
        assert_eq!(show_millis(250_000.0), "4 min 10 s");
        assert_eq!(show_millis(7_500_000.0), "2 h 5 min");
    }
}
