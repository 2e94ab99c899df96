//! How formats are assigned.

use crate::ir::{Format, FormatError};
use std::fmt;
use std::str::FromStr;

/// How formats are assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The least predicted error within the budget.
    Budget,
    /// By memory alone: 24 GB and up f32, 12 f16, 4 INT8, below INT4; what does not fit steps down.
    Tiered,
    /// One format for all.
    Uniform(Format),
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Budget => f.write_str("budget"),
            Policy::Tiered => f.write_str("tiered"),
            Policy::Uniform(format) => write!(f, "uniform:{format}"),
        }
    }
}

impl FromStr for Policy {
    type Err = String;
    fn from_str(text: &str) -> Result<Policy, String> {
        match text {
            "budget" => Ok(Policy::Budget),
            "tiered" => Ok(Policy::Tiered),
            _ => match text.strip_prefix("uniform:") {
                Some(format) => format.parse().map(Policy::Uniform).map_err(|e: FormatError| e.to_string()),
                None => Err(format!("unknown policy {text:?}: budget, tiered or uniform:FORMAT")),
            },
        }
    }
}
