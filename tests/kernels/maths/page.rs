//! The table in docs/maths.md.

use std::collections::BTreeMap;

pub const TABLE: &str = "docs/maths.md";

/// The table in docs/maths.md: header, and rows by function.
pub struct Page {
    pub before: String,
    pub header: Vec<String>,
    pub rows: BTreeMap<String, Vec<String>>,
    pub after: String,
}

impl Page {
    pub fn read() -> Page {
        let text = std::fs::read_to_string(TABLE).unwrap();
        let cells = |line: &str| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.iter().position(|l| l.starts_with("| function")).unwrap();
        let n = lines[first..].iter().take_while(|l| l.starts_with('|')).count();
        let rows = lines[first + 2..first + n]
            .iter()
            .map(|l| cells(l))
            .map(|row| (row[0].trim_matches('`').to_owned(), row[1..].to_vec()));
        Page {
            before: lines[..first].iter().map(|l| format!("{l}\n")).collect(),
            header: cells(lines[first])[1..].to_vec(),
            rows: rows.collect(),
            after: lines[first + n..].iter().map(|l| format!("{l}\n")).collect(),
        }
    }

    pub fn write(&self, order: &[String]) {
        let mut text = self.before.clone();
        text += &format!("| function | {} |\n|---|{}\n", self.header.join(" | "), "---|".repeat(self.header.len()));
        for function in order {
            text += &format!("| `{function}` | {} |\n", self.rows[function].join(" | "));
        }
        std::fs::write(TABLE, text + &self.after).unwrap();
    }

    /// The errors of a function on a driver, where they are known.
    pub fn bounds(&self, function: &str, column: &str) -> Option<(f64, f64)> {
        let at = self.header.iter().position(|name| name == column)?;
        let (ulp, relative) = self.rows.get(function)?.get(at)?.split_once(" / ")?;
        Some((ulp.parse().unwrap(), relative.parse().unwrap()))
    }
}
