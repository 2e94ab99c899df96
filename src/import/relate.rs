//! Where an operator is refused because two sizes have nothing to do with each other: which bindings of dimensions
//! would relate them.
//!
//! A model whose inputs are tied by more than their names (`total = past + seq`, sides that are multiples of 32) needs
//! them. What is proposed was tried: the node has a type with it, and where possible the whole model.

use super::DimBinding;
use super::error::ImportError;
use crate::ir::{Dim, Infer, Shape, TensorType};
use std::collections::{BTreeMap, BTreeSet};

/// Most bindings tried for one node.
const MAX_TRIED: usize = 4096;
/// Most that are kept, and tried on the whole model.
const MAX_KEPT: usize = 6;
/// Most that are proposed together.
const MAX_DEPTH: usize = 3;
/// Factors that networks halve, double or divide sizes by.
const FACTORS: &[i64] = &[2, 4, 8, 16, 32, 64, 128, 3, 5, 6, 7, 12, 14, 24];

/// Lists of bindings with which `fits` holds of a node that was refused, the simplest first. `ranged` are the names
/// that a binding may use.
pub(super) fn proposals(
    refused: &Infer<'_>,
    ranged: &BTreeMap<String, Dim>,
    fits: &dyn Fn(&Infer<'_>) -> bool,
) -> Vec<Vec<DimBinding>> {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let dims = refused
        .inputs
        .iter()
        .flatten()
        .flat_map(|ty| &ty.shape.0)
        .chain(refused.sizes.iter().flatten().flat_map(|s| s.iter()));
    for dim in dims {
        dim.for_each_symbol(&mut |symbol| {
            names.insert(symbol.name().to_owned());
        });
        let text = dim.to_string();
        let digits = text.split(|c: char| !c.is_ascii_digit());
        numbers.extend(digits.filter_map(|d| d.parse::<i64>().ok()).filter(|n| (1..=1 << 31).contains(n)));
    }
    let own: Vec<(&String, &Dim)> = ranged.iter().filter(|(name, _)| names.contains(*name)).collect();
    let of = |candidates: Candidates, (name, range): (&String, &Dim)| candidates(name, range, ranged, &numbers);
    let kinds: [Candidates; 7] = [equal, sum_of_two, multiple, sum_of_three, multiple_of_new, part_of_range, number];
    let single = kinds.iter().flat_map(|kind| own.iter().flat_map(|&name| of(*kind, name)));
    // Two axes at once: equal sizes of both, or a common factor of all.
    let equals: Vec<Vec<DimBinding>> = own.iter().flat_map(|&name| of(equal, name)).collect();
    let pairs = equals.iter().enumerate().flat_map(|(i, a)| {
        let rest = equals[i + 1..].iter().filter(|b| a[0].name != b[0].name);
        rest.map(|b| [a.as_slice(), b.as_slice()].concat())
    });
    let common = FACTORS.iter().map(|factor| {
        let factor = BTreeSet::from([*factor]);
        own.iter()
            .filter_map(|(name, range)| times_new(name, range, ranged, &factor).into_iter().next())
            .flatten()
            .collect()
    });
    single
        .chain(pairs)
        .chain(common)
        .take(MAX_TRIED)
        .filter(|proposal: &Vec<_>| fits_with(refused, proposal, fits))
        .take(MAX_KEPT)
        .collect()
}

/// Whether `fits` holds once the sizes of the bindings stand in the place of their names.
fn fits_with(refused: &Infer<'_>, bindings: &[DimBinding], fits: &dyn Fn(&Infer<'_>) -> bool) -> bool {
    let of = |name: &str| bindings.iter().find(|b| b.name == name).map(|b| b.size.clone());
    let put = |dim: &Dim| dim.substitute(&|symbol| of(symbol.name()));
    let typed = |ty: &TensorType| TensorType { shape: Shape(ty.shape.0.iter().map(put).collect()), ..ty.clone() };
    let types: Vec<Option<TensorType>> = refused.inputs.iter().map(|ty| ty.map(typed)).collect();
    let lists: Vec<Option<Vec<Dim>>> = refused.sizes.iter().map(|s| s.map(|s| s.iter().map(put).collect())).collect();
    let inputs: Vec<_> = types.iter().map(Option::as_ref).collect();
    let sizes: Vec<_> = lists.iter().map(Option::as_deref).collect();
    fits(&Infer { inputs: &inputs, sizes: &sizes, ..*refused })
}

/// Bindings that have this name, from its range, those of all names, and the numbers at hand.
type Candidates = fn(&str, &Dim, &BTreeMap<String, Dim>, &BTreeSet<i64>) -> Vec<Vec<DimBinding>>;

fn one(name: &str, size: Dim) -> Vec<DimBinding> {
    vec![DimBinding { name: name.to_owned(), size }]
}

/// The other names.
fn others<'r>(name: &str, ranged: &'r BTreeMap<String, Dim>) -> Vec<&'r Dim> {
    ranged.iter().filter(|(other, _)| *other != name).map(|(_, dim)| dim).take(24).collect()
}

fn equal(name: &str, _: &Dim, ranged: &BTreeMap<String, Dim>, _: &BTreeSet<i64>) -> Vec<Vec<DimBinding>> {
    others(name, ranged).into_iter().map(|other| one(name, other.clone())).collect()
}

fn sum_of_two(name: &str, _: &Dim, ranged: &BTreeMap<String, Dim>, _: &BTreeSet<i64>) -> Vec<Vec<DimBinding>> {
    let others = others(name, ranged);
    let pairs = others.iter().enumerate().flat_map(|(i, a)| others[i + 1..].iter().map(move |b| *a + *b));
    pairs.map(|sum| one(name, sum)).collect()
}

fn sum_of_three(name: &str, _: &Dim, ranged: &BTreeMap<String, Dim>, _: &BTreeSet<i64>) -> Vec<Vec<DimBinding>> {
    let others = others(name, ranged);
    let mut sums = Vec::new();
    for (i, a) in others.iter().enumerate() {
        for (j, b) in others.iter().enumerate().skip(i + 1) {
            sums.extend(others[j + 1..].iter().map(|c| one(name, &(*a + *b) + c)));
        }
    }
    sums
}

fn multiple(name: &str, _: &Dim, ranged: &BTreeMap<String, Dim>, numbers: &BTreeSet<i64>) -> Vec<Vec<DimBinding>> {
    let factors: BTreeSet<i64> = FACTORS.iter().chain(numbers).copied().filter(|n| *n > 1).collect();
    let times = |other: &Dim| factors.iter().map(|n| one(name, other * &Dim::Known(*n))).collect::<Vec<_>>();
    others(name, ranged).into_iter().flat_map(times).collect()
}

/// A multiple of a size that no input has by itself: with 32 for a side that is halved five times and doubled again.
fn multiple_of_new(
    name: &str,
    range: &Dim,
    ranged: &BTreeMap<String, Dim>,
    numbers: &BTreeSet<i64>,
) -> Vec<Vec<DimBinding>> {
    times_new(name, range, ranged, &FACTORS.iter().chain(numbers).copied().collect())
}

/// The same, for these factors.
fn times_new(name: &str, range: &Dim, ranged: &BTreeMap<String, Dim>, factors: &BTreeSet<i64>) -> Vec<Vec<DimBinding>> {
    let (low, high) = range.bounds();
    let lower = name.to_lowercase();
    let is_bare = !lower.is_empty() && lower.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let new = |n: i64| {
        let base = if is_bare && lower != name { lower.clone() } else { format!("{name}_{n}") };
        let is_free = !ranged.contains_key(&base);
        let (least, most) = ((low + n - 1).div_euclid(n), high.div_euclid(n));
        (is_free && least <= most).then(|| {
            let count = Dim::ranged(&base, least, most);
            vec![
                DimBinding { name: base, size: count.clone() },
                DimBinding { name: name.to_owned(), size: &count * &Dim::Known(n) },
            ]
        })
    };
    factors.iter().copied().filter(|n| (2..=high).contains(n)).filter_map(new).collect()
}

/// A range that ends where a number ends it: a table has no more rows.
fn part_of_range(name: &str, range: &Dim, _: &BTreeMap<String, Dim>, numbers: &BTreeSet<i64>) -> Vec<Vec<DimBinding>> {
    let (low, high) = range.bounds();
    let parts = numbers.iter().flat_map(|&n| [(low, n), (n, high)]);
    let is_part = |&(a, b): &(i64, i64)| low <= a && a < b && b <= high && (a, b) != (low, high);
    parts.filter(is_part).map(|(a, b)| one(name, Dim::ranged(name, a, b))).collect()
}

fn number(name: &str, range: &Dim, _: &BTreeMap<String, Dim>, numbers: &BTreeSet<i64>) -> Vec<Vec<DimBinding>> {
    let (low, high) = range.bounds();
    numbers.iter().filter(|n| (low..=high).contains(n)).map(|n| one(name, Dim::Known(*n))).collect()
}

/// The error with those of its proposals that the whole model can be imported with, where there are some, put in the
/// place of all.
pub(super) fn settled<T>(
    error: ImportError,
    given: &[DimBinding],
    import: &dyn Fn(&[DimBinding]) -> Result<T, ImportError>,
) -> ImportError {
    let solved = solve(&error, given, import, MAX_DEPTH);
    match solved {
        Some(bindings) => error.with_proposals(vec![bindings]),
        None => error,
    }
}

fn solve<T>(
    error: &ImportError,
    given: &[DimBinding],
    import: &dyn Fn(&[DimBinding]) -> Result<T, ImportError>,
    depth: usize,
) -> Option<Vec<DimBinding>> {
    for proposal in error.proposals() {
        let is_kept = |binding: &&DimBinding| proposal.iter().all(|new| new.name != binding.name);
        let dims: Vec<DimBinding> = given.iter().filter(is_kept).chain(proposal).cloned().collect();
        match import(&dims) {
            Ok(_) => return Some(proposal.clone()),
            Err(next) if depth > 1 && next.node() != error.node() => {
                if let Some(more) = solve(&next, &dims, import, depth - 1) {
                    return Some([proposal.as_slice(), &more].concat());
                }
            }
            Err(_) => {}
        }
    }
    None
}
