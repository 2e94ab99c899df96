//! The why-not trace: which patterns nearly matched a node, and what stopped them.

/// One pattern that did not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyNot {
    /// The pass.
    pub pass: &'static str,
    /// What it would have done.
    pub pattern: &'static str,
    /// What stopped it.
    pub because: String,
}

/// Collects reasons for one node, by its name or the name of an imported node it came from.
#[derive(Clone, Debug, Default)]
pub struct Explain {
    node: Option<String>,
    found: Vec<WhyNot>,
}

impl Explain {
    /// A trace of `node`; of nothing where that is `None`.
    pub fn new(node: Option<String>) -> Explain {
        Explain { node, found: Vec::new() }
    }

    /// Notes that a pattern did not match, where one of `names` is the node asked for. The reason is only worded then.
    pub fn note(
        &mut self,
        names: &[&str],
        pass: &'static str,
        pattern: &'static str,
        because: impl FnOnce() -> String,
    ) {
        if let Some(node) = &self.node
            && names.contains(&node.as_str())
        {
            let why = WhyNot { pass, pattern, because: because() };
            if !self.found.contains(&why) {
                self.found.push(why);
            }
        }
    }

    /// What was noted, in the order of the passes.
    pub fn found(&self) -> &[WhyNot] {
        &self.found
    }
}
