//! The explanation of one node: the formats that it could have had, and which patterns nearly matched it.

use std::collections::BTreeSet;

/// One pattern that did not match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WhyNot {
    /// The pass.
    pub pass: &'static str,
    /// What it would have done.
    pub pattern: &'static str,
    /// What stopped it.
    pub because: String,
}

/// Collects patterns that nearly matched, for all nodes: which of them the user's name means is known in the end.
#[derive(Clone, Debug, Default)]
pub struct Explain {
    is_on: bool,
    known: BTreeSet<(Vec<String>, WhyNot)>,
    found: Vec<(Vec<String>, WhyNot)>,
}

impl Explain {
    /// A trace; of nothing where it is not on.
    pub fn new(is_on: bool) -> Explain {
        Explain { is_on, ..Explain::default() }
    }

    /// Notes that a pattern did not match the nodes of these names. The reason is only worded where somebody asked.
    pub fn note(
        &mut self,
        names: &[&str],
        pass: &'static str,
        pattern: &'static str,
        because: impl FnOnce() -> String,
    ) {
        if self.is_on {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let entry = (names, WhyNot { pass, pattern, because: because() });
            if self.known.insert(entry.clone()) {
                self.found.push(entry);
            }
        }
    }

    /// Adds what another trace found.
    pub(super) fn extend(&mut self, other: Explain) {
        for entry in other.found {
            if self.known.insert(entry.clone()) {
                self.found.push(entry);
            }
        }
    }

    /// What was noted of nodes of these names, or of parts of them (`NODE.part`), in the order of the passes.
    pub fn found(&self, names: &BTreeSet<String>) -> Vec<WhyNot> {
        let is_part = |own: &str, of: &str| own.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
        let is_meant = |own: &String| names.contains(own) || names.iter().any(|name| is_part(own, name));
        let mut found: Vec<WhyNot> = Vec::new();
        for (_, why) in self.found.iter().filter(|(own, _)| own.iter().any(is_meant)) {
            if !found.contains(why) {
                found.push(why.clone());
            }
        }
        found
    }
}

/// A format that nodes have, or could have had.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The format.
    pub format: String,
    /// Whether it was chosen.
    pub is_chosen: bool,
    /// Bytes of weights and other constants, and of the parameters of the dispatches that it adds.
    pub weight_bytes: u64,
    /// Bytes of activations and workspace in the step of the schedule where these nodes need most.
    pub activation_bytes: u64,
    /// The relative error that these nodes add with it.
    pub error: f64,
    /// The predicted relative error of the program with it, all other nodes as they are.
    pub program_error: f64,
    /// The planned peak with it, all other nodes as they are, in bytes.
    pub peak_bytes: u64,
    /// What the program's error rises with each byte saved, or falls with each byte spent, against the chosen format;
    /// `None` where it is no trade.
    pub price: Option<f64>,
    /// Why it was not taken; empty for the chosen one.
    pub why_not: String,
}

/// Nodes that share a format, some of which were asked about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// The nodes that were asked about.
    pub nodes: Vec<String>,
    /// The others that share their format, because they are one kernel, view each other's results or share weights.
    pub others: Vec<String>,
    /// Their format; empty for nodes without floats.
    pub format: String,
    /// Why this one.
    pub reason: String,
    /// All that were considered, the chosen one among them.
    pub candidates: Vec<Candidate>,
    /// How many further ways to split the rows of their matrix were considered.
    pub n_splits: usize,
    /// Formats that were not considered, and why not.
    pub excluded: Vec<(String, String)>,
}

/// The whole answer to `--explain NAME`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// The name as given.
    pub asked: String,
    /// What it means, in words.
    pub meaning: String,
    /// The formats of the nodes that it means.
    pub choices: Vec<Choice>,
    /// Error that one more byte of budget would save at the margin, as a relative error of the program; 0 where the
    /// budget binds nothing.
    pub shadow_price: f64,
    /// Patterns that nearly matched.
    pub near_misses: Vec<WhyNot>,
}
