//! Tuning tables: how long each way to compute a case took on a device, as `nyxc tune` measured it. Sorted text, one
//! line a case, so that tables merge and differ line by line.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Most sizes of a case.
const MAX_SIZES: usize = 12;
/// The largest size.
const MAX_SIZE: u64 = 1 << 40;
/// What stands in place of a time where the result was wrong.
const WRONG: &str = "wrong";

/// What is computed, as far as the choice of a kernel depends on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// Words that must agree: operation, storages, class of the epilogue, bucket of rows. Only between cases of one
    /// kind are sizes compared.
    pub kind: String,
    /// Sizes, 1 or more each.
    pub sizes: Vec<u64>,
}

/// What a way to compute a case was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Its time in nanoseconds.
    Ns(u64),
    /// Its result was wrong: it is never taken.
    Wrong,
}

/// Ways to compute a case by their names.
pub type Times = BTreeMap<String, Measured>;

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The devices that it is for: names of profiles, a device's own profile has the name of the device.
    pub devices: Vec<String>,
    /// Who measured what, and where.
    pub source: String,
    /// The times.
    pub cases: BTreeMap<Case, Times>,
}

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum TuningError {
    #[error("tuning table {name}: {source}")]
    Json { name: String, source: serde_json::Error },
    #[error("tuning table {name}: case {case:?}: {what}")]
    Case { name: String, case: String, what: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    devices: Vec<String>,
    source: String,
    cases: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
}

fn is_word(text: &str) -> bool {
    let is_good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(is_good)
}

impl fmt::Display for Case {
    /// `matmul f16 q4g32f16 f16 t plain 33-64: 4096x4096`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.sizes.iter().map(u64::to_string).collect();
        write!(f, "{}: {}", self.kind, sizes.join("x"))
    }
}

impl FromStr for Case {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Case, Self::Err> {
        let wanted = "a case is words, a colon and sizes, such as `matmul f16 f16 f16 t plain 1: 4096x4096`";
        let (kind, sizes) = text.split_once(": ").ok_or(wanted)?;
        let sizes: Option<Vec<u64>> = sizes.split('x').map(|n| n.parse().ok()).collect();
        let sizes = sizes.ok_or(wanted)?;
        let fits = sizes.len() <= MAX_SIZES && sizes.iter().all(|n| (1..=MAX_SIZE).contains(n));
        let case = Case { kind: kind.to_owned(), sizes };
        let is_good = fits && kind.split(' ').all(is_word) && case.to_string() == text;
        if is_good { Ok(case) } else { Err(wanted) }
    }
}

impl Case {
    /// How far apart the sizes of two cases are: the sum of the logarithms of their ratios, in 1/256 of a factor of 2.
    pub fn distance(&self, other: &Case) -> u64 {
        self.sizes.iter().zip(&other.sizes).map(|(a, b)| log2(*a).abs_diff(log2(*b))).sum()
    }
}

/// 256 times the logarithm to base 2, rounded down: by squaring, so that every machine has the same.
fn log2(n: u64) -> u64 {
    let n = n.max(1);
    let whole = u64::from(n.ilog2());
    // 1.0 to 2.0 with 32 bits behind the point.
    let mut mantissa = (u128::from(n) << 32) >> whole;
    let mut log = whole;
    for _ in 0..8 {
        mantissa = (mantissa * mantissa) >> 32;
        let bit = u64::from(mantissa >= 2 << 32);
        mantissa >>= bit;
        log = 2 * log + bit;
    }
    log
}

impl Tuning {
    /// Reads a table.
    ///
    /// # Errors
    /// It is no JSON of a table, has a key that is unknown, or a case that is none.
    pub fn parse(name: &str, json: &str) -> Result<Tuning, TuningError> {
        let file: File =
            serde_json::from_str(json).map_err(|source| TuningError::Json { name: name.to_owned(), source })?;
        let mut tuning = Tuning { devices: file.devices, source: file.source, cases: BTreeMap::new() };
        for (case, times) in file.cases {
            let refuse = |what: &str| {
                Err(TuningError::Case { name: name.to_owned(), case: case.clone(), what: what.to_owned() })
            };
            let key: Case = match case.parse() {
                Ok(key) => key,
                Err(what) => return refuse(what),
            };
            let mut ways = Times::new();
            for (way, time) in times {
                let measured = match (time.as_u64(), time.as_str()) {
                    (Some(ns), _) if ns > 0 => Measured::Ns(ns),
                    (_, Some(WRONG)) => Measured::Wrong,
                    _ => return refuse(&format!("{way:?} has neither nanoseconds, 1 or more, nor {WRONG:?}")),
                };
                if !is_word(&way) {
                    return refuse(&format!("{way:?} is no name of lower-case letters, digits, _ and -"));
                }
                ways.insert(way, measured);
            }
            tuning.cases.insert(key, ways);
        }
        Ok(tuning)
    }

    /// The text: JSON, sorted, one line a case.
    pub fn text(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let devices: Vec<String> = self.devices.iter().map(|d| quoted(d)).collect();
        let of = |(case, times): (&Case, &Times)| {
            let times: Vec<String> = times
                .iter()
                .map(|(way, time)| match time {
                    Measured::Ns(ns) => format!("{}: {ns}", quoted(way)),
                    Measured::Wrong => format!("{}: {}", quoted(way), quoted(WRONG)),
                })
                .collect();
            format!("    {}: {{{}}}", quoted(&case.to_string()), times.join(", "))
        };
        let cases: Vec<String> = self.cases.iter().map(of).collect();
        let lines = if cases.is_empty() { String::new() } else { format!("\n{}\n  ", cases.join(",\n")) };
        format!(
            "{{\n  \"devices\": [{}],\n  \"source\": {},\n  \"cases\": {{{lines}}}\n}}\n",
            devices.join(", "),
            quoted(&self.source)
        )
    }

    /// Takes over the cases of another table: those that both have are the other's.
    pub fn merge(&mut self, other: Tuning) {
        for device in other.devices {
            if !self.devices.contains(&device) {
                self.devices.push(device);
            }
        }
        self.devices.sort();
        if self.source.is_empty() || !other.cases.is_empty() {
            self.source = other.source;
        }
        self.cases.extend(other.cases);
    }

    /// BLAKE3 of the text, in hexadecimal.
    pub fn hash(&self) -> String {
        blake3::hash(self.text().as_bytes()).to_hex().to_string()
    }

    /// The case of the same kind whose sizes are nearest, the first of those that are equally near, with its times:
    /// the case itself where it was measured.
    pub fn nearest(&self, case: &Case) -> Option<(&Case, &Times)> {
        let first = Case { kind: case.kind.clone(), sizes: Vec::new() };
        let of_kind = self.cases.range(first..).take_while(|(other, _)| other.kind == case.kind);
        let comparable = of_kind.filter(|(other, _)| other.sizes.len() == case.sizes.len());
        comparable.min_by_key(|(other, _)| case.distance(other))
    }

    /// The shipped table for a device or profile of this name.
    pub fn shipped(device: &str) -> Option<Arc<Tuning>> {
        SHIPPED.iter().find_map(|(name, json)| {
            // A test reads every shipped table.
            let tuning = Tuning::parse(name, json).ok()?;
            tuning.devices.iter().any(|d| d == device).then(|| Arc::new(tuning))
        })
    }
}

/// The shipped tables.
const SHIPPED: &[(&str, &str)] = &[("h200", include_str!("../../tuning/h200.json"))];

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"{
  "devices": ["h200", "nvidia-h200"],
  "source": "nyxc tune, 580",
  "cases": {
    "matmul f16 f16 f16 t plain 1: 4096x4096": {"256x16x8x2x0": 10400, "256x32x8x1x0": 10900},
    "matmul f16 f16 f16 t plain 1: 32000x4096": {"256x32x8x1x0": 59300, "512x32x16x1x0": "wrong"}
  }
}
"#;

    #[test]
    fn a_table_reads_back_and_others_are_refused() {
        let table = Tuning::parse("t", TABLE).unwrap();
        assert_eq!(table.text(), TABLE);
        assert_eq!(Tuning::parse("t", &Tuning::default().text()).unwrap(), Tuning::default());
        let mut merged = Tuning::default();
        merged.merge(table.clone());
        assert_eq!((merged.text().as_str(), merged.hash()), (TABLE, table.hash()));
        for (from, to, what) in [
            ("\"source\"", "\"sauce\"", "unknown field"),
            ("10400", "0", "nanoseconds"),
            ("10400", "-1", "nanoseconds"),
            ("10400", "\"slow\"", "nanoseconds"),
            ("256x16x8x2x0", "A", "no name"),
            (": 4096x4096", "", "a case is words"),
            (": 4096x4096", ": 4096x0", "a case is words"),
            (": 4096x4096", ": 04096x4096", "a case is words"),
            ("matmul f16 f16 f16 t plain 1: 4096", "matmul  f16: 4096", "a case is words"),
        ] {
            let error = Tuning::parse("t", &TABLE.replacen(from, to, 1)).unwrap_err();
            let text = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains(what), "{from} -> {to}: {text}");
        }
    }

    #[test]
    fn every_shipped_table_reads_and_is_sorted_text() {
        for (name, json) in SHIPPED {
            assert_eq!(Tuning::parse(name, json).unwrap().text(), *json, "{name}");
        }
    }

    #[test]
    fn the_nearest_case_is_of_the_same_kind() {
        let table = Tuning::parse("t", TABLE).unwrap();
        let nearest = |kind: &str, sizes: &[u64]| {
            let case = Case { kind: kind.to_owned(), sizes: sizes.to_vec() };
            table.nearest(&case).map(|(case, _)| case.sizes.clone())
        };
        let kind = "matmul f16 f16 f16 t plain 1";
        assert_eq!(nearest(kind, &[4096, 4096]), Some(vec![4096, 4096]));
        assert_eq!(nearest(kind, &[49152, 576]), Some(vec![32000, 4096]));
        assert_eq!(nearest(kind, &[576, 576]), Some(vec![4096, 4096]));
        assert_eq!(nearest("matmul f16 f16 f16 t plain 2", &[4096, 4096]), None);
        assert_eq!(nearest(kind, &[4096, 4096, 2]), None);
        assert_eq!([1, 2, 3, 1 << 40].map(log2), [0, 256, 405, 256 * 40]);
    }
}
