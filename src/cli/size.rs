//! Byte counts on the command line.

/// Reads `7G` (powers of 1024), `7GB` (powers of 1000), `7GiB`, or plain bytes; a fraction is allowed.
///
/// # Errors
/// The text is no size.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => {
            return Err(format!(
                "unknown unit {unit:?}: K, M, G, T are powers of 1024; KB, MB, GB, TB powers of 1000; KiB, MiB, GiB, TiB as written"
            ));
        }
    };
    let whole: Option<u64> = number.parse().ok();
    let bytes = match whole {
        Some(n) => n.checked_mul(factor),
        None => number.parse::<f64>().ok().map(|n| n * factor as f64).filter(|n| *n < 9.0e18).map(|n| n as u64),
    };
    bytes.ok_or_else(|| format!("{text:?} is no size; give for example 7G, 512M or 7516192768"))
}

/// A byte count for people: whole bytes, and the nearest binary unit.
pub fn show(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >= 1 << shift) {
        Some((unit, shift)) => format!("{:.2} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_as_written() {
        for (text, bytes) in [
            ("7G", 7 << 30),
            ("7GB", 7_000_000_000),
            ("7GiB", 7 << 30),
            ("1.5K", 1536),
            ("100", 100),
            ("0", 0),
            ("3MB", 3_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "7X", "99999999T", "1e9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
