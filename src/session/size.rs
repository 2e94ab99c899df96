//! Byte counts and budgets as people write them.

#[cfg(feature = "codegen")]
use super::{Compile, CompileError, Progress, budget_bounds};
#[cfg(feature = "codegen")]
use crate::ir::Graph;

/// A budget as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the way from the smallest budget that compiles (0) to what the model needs in `uniform:f32`
    /// (100).
    Percent(f64),
}

impl Budget {
    /// Reads a size, `min`, `max` or a percentage.
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str) -> Result<Budget, String> {
        match text {
            "min" => return Ok(Budget::Percent(0.0)),
            "max" => return Ok(Budget::Percent(100.0)),
            _ => {}
        }
        let Some(number) = text.strip_suffix('%') else {
            let hint = |e| format!("{e}; or min, max, or for example 50% for half way between them");
            return parse(text).map(Budget::Bytes).map_err(hint);
        };
        let is_number = number.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        let percent = number.parse().ok().filter(|p| is_number && (0.0..=100.0).contains(p));
        percent.map(Budget::Percent).ok_or_else(|| format!("{text:?} is no percentage from 0% to 100%"))
    }

    /// The percentage, where it is one.
    pub fn percent(self) -> Option<f64> {
        if let Budget::Percent(percent) = self { Some(percent) } else { None }
    }

    /// The bytes that are meant for this graph under these options.
    ///
    /// # Errors
    /// The model cannot be compiled at any budget.
    #[cfg(feature = "codegen")]
    pub fn resolve(self, graph: &Graph, options: &Compile, progress: Progress<'_>) -> Result<u64, CompileError> {
        match self {
            Budget::Bytes(bytes) => Ok(bytes),
            Budget::Percent(percent) => Ok(between(budget_bounds(graph, options, progress)?, percent)),
        }
    }
}

/// `least + percent / 100 * (most - least)`, in whole bytes.
#[cfg(any(feature = "codegen", test))]
fn between((least, most): (u64, u64), percent: f64) -> u64 {
    if percent >= 100.0 { most } else { least + ((most - least) as f64 * (percent / 100.0)) as u64 }
}

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
    fn budgets_are_sizes_or_parts_of_the_way_from_min_to_max() {
        assert_eq!(Budget::parse("7K"), Ok(Budget::Bytes(7168)));
        for (text, bytes) in [("min", 100), ("0%", 100), ("50%", 200), ("12.5%", 125), ("99.9%", 299), ("max", 300)] {
            let Ok(Budget::Percent(percent)) = Budget::parse(text) else { panic!("{text}") };
            assert_eq!(between((100, 300), percent), bytes, "{text}");
        }
        assert_eq!(between((7, u64::MAX), 100.0), u64::MAX);
        for text in ["101%", "-1%", "%", "1e1%", "nan%", "middle", "MIN", "50 %"] {
            assert!(Budget::parse(text).is_err(), "{text}");
        }
    }

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
