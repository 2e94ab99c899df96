//! Which of several ways to compute a case is taken: the one whose price, in whole nanoseconds, is least. A price is
//! what was measured on such a device, or what was measured at the nearest sizes, moved to these by the model, or the
//! model's alone.

use super::call::Node;
use super::model::Work;
use crate::kernels::variant::Variant;
use crate::targets::tuning::{Case, Measured, Times, Tuning};
use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

/// A way to compute a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By the kernel that every target has.
    Plain,
    /// By this variant of another.
    Variant(Variant),
}

impl fmt::Display for Way {
    /// `plain`, or the variant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Plain => f.write_str("plain"),
            Way::Variant(variant) => variant.fmt(f),
        }
    }
}

impl FromStr for Way {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Way, Self::Err> {
        if text == "plain" { Ok(Way::Plain) } else { text.parse().map(Way::Variant) }
    }
}

/// Where a price comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The tuning table has the case.
    Measured,
    /// It has another of the same kind.
    Nearest,
    /// The model of bytes, operations and workgroups.
    Model,
}

/// What a way to compute a case costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Nanoseconds.
    pub ns: u64,
    /// Where they come from.
    pub source: Source,
}

/// Something that can be computed in several ways.
pub(super) trait Problem {
    /// What it is called in a tuning table.
    fn case(&self) -> Case;
    /// Every way that the target can take, in a fixed order.
    fn ways(&self) -> Vec<Way>;
    /// Whether the target can take this one.
    fn suits(&self, way: Way) -> bool;
    /// What a way takes of the device, were the case's sizes these.
    fn work(&self, way: Way, sizes: &[u64]) -> Work;
    /// What is taken where nothing of the kind was measured.
    fn usual(&self) -> Way;
}

/// A choice that was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) case: Case,
    /// Every way with its price, in a fixed order.
    pub(super) ways: Vec<(Way, Cost)>,
    pub(super) chosen: Way,
}

/// What somebody asks of choices.
#[derive(Default)]
pub(super) struct Asked {
    /// The way to take wherever the case can be computed so.
    pub(super) way: Option<Way>,
    /// Where choices are noted, if anywhere.
    pub(super) made: Option<RefCell<Vec<Made>>>,
}

impl Asked {
    /// The variant to take, where it is one.
    pub(super) fn variant(&self) -> Option<Variant> {
        self.way.and_then(|way| if let Way::Variant(variant) = way { Some(variant) } else { None })
    }
}

/// The way that is taken.
pub(super) fn choose(node: &Node<'_>, problem: &dyn Problem) -> Way {
    let asked = node.asked.way.filter(|way| problem.suits(*way));
    let chosen = asked.or_else(|| measured(node, problem)).unwrap_or_else(|| problem.usual());
    if let Some(made) = &node.asked.made {
        let case = problem.case();
        let ways = problem.ways().into_iter().map(|way| (way, price(node, problem, &case, way))).collect();
        made.borrow_mut().push(Made { case, ways, chosen });
    }
    chosen
}

/// What the table has for a case or for the nearest of its kind; where nothing of the kind was measured, for the
/// nearest without the epilogue's further tensor, then with weights of f16 instead of packed ones under the same
/// activations.
fn nearest<'t>(tuning: &'t Tuning, case: &Case) -> Option<(&'t Case, &'t Times)> {
    let plain = case.kind.replacen(" wide ", " plain ", 1);
    let mut words: Vec<&str> = plain.split(' ').collect();
    if let [_, "f16", b, ..] = &mut words[..] {
        *b = "f16";
    }
    let of_f16 = words.join(" ");
    let mut kinds = vec![case.kind.clone(), plain.clone(), of_f16];
    kinds.dedup();
    kinds.into_iter().find_map(|kind| tuning.nearest(&Case { kind, sizes: case.sizes.clone() }))
}

/// The best by the table, among those that it has for the nearest case.
fn measured(node: &Node<'_>, problem: &dyn Problem) -> Option<Way> {
    let tuning = node.target.tuning.as_ref()?;
    let case = problem.case();
    let (_, times) = nearest(tuning, &case)?;
    let ways = times.keys().filter_map(|name| name.parse::<Way>().ok()).filter(|way| problem.suits(*way));
    let priced = ways.map(|way| (price(node, problem, &case, way), way));
    // Of equal prices the first way's.
    priced
        .filter(|(cost, _)| cost.source != Source::Model && cost.ns < u64::MAX)
        .min_by_key(|(c, w)| (c.ns, *w))
        .map(|(_, way)| way)
}

/// What a way costs; wrong ones cost more than any.
fn price(node: &Node<'_>, problem: &dyn Problem, case: &Case, way: Way) -> Cost {
    let modelled = problem.work(way, &case.sizes).ns(node.target);
    let found = node.target.tuning.as_ref().and_then(|tuning| nearest(tuning, case));
    let Some((other, time)) = found.and_then(|(other, times)| Some((other, times.get(&way.to_string())?))) else {
        return Cost { ns: modelled, source: Source::Model };
    };
    let source = if other == case { Source::Measured } else { Source::Nearest };
    let ns = match time {
        Measured::Wrong => u64::MAX,
        Measured::Ns(ns) if source == Source::Measured => *ns,
        Measured::Ns(ns) => {
            let there = u128::from(problem.work(way, &other.sizes).ns(node.target).max(1));
            u64::try_from(u128::from(*ns) * u128::from(modelled) / there).unwrap_or(u64::MAX)
        }
    };
    Cost { ns, source }
}
