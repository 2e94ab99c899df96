//! Which of two sizes is smaller, at every size of the ranges of their symbols.

use super::{Atom, Dim, Poly, Symbol};

/// Largest factor in a size that is compared with others.
const MAX_FACTOR: u64 = 1 << 40;
/// How many minima, maxima and quotients within each other are looked into where sizes are compared.
const MAX_CASES: usize = 4;

/// What a symbol may be.
type Range<'r> = &'r dyn Fn(&Symbol) -> (i64, i64);

/// What its range says.
fn own(symbol: &Symbol) -> (i64, i64) {
    symbol.range.unwrap_or((1, i64::MAX))
}

/// What holds of every range: sizes are 0 or 1 at least and less than 2^31.
fn any(symbol: &Symbol) -> (i64, i64) {
    (symbol.range.map_or(1, |(min, _)| min.min(1)), 1 << 31)
}

impl Dim {
    /// Whether it is at most `other` at every size of the ranges of their symbols, as far as that can be proven. What
    /// holds of a range holds of each part of it.
    pub fn at_most(&self, other: &Dim) -> bool {
        self.at_most_with(other, &own)
    }

    /// Whether it is `other` at every size of the ranges of their symbols, as far as that can be proven. Equal sizes
    /// have one form where that does not depend on a range: of `n` in 1..2, `max(n-2,0)` is 0, and of `n` in 2..2 it is
    /// `n-2`.
    pub fn is_always(&self, other: &Dim) -> bool {
        self == other || (self.at_most(other) && other.at_most(self))
    }

    fn at_most_with(&self, other: &Dim, range: Range<'_>) -> bool {
        match (self, other) {
            (Dim::Known(a), Dim::Known(b)) => a <= b,
            _ => {
                self == other
                    || self.bounds_with(range).1 <= other.bounds_with(range).0
                    || (self - other).is_never_positive(range, MAX_CASES)
            }
        }
    }

    /// Whether it is 0 at most at every size, by its bounds, or by those of what is no smaller: of a minimum either
    /// side, of a maximum both sides one after the other, of a quotient the dividend where all else is multiplied.
    /// `depth` says how many of these are looked into.
    fn is_never_positive(&self, range: Range<'_>, depth: usize) -> bool {
        let poly = match self {
            Dim::Known(n) => return *n <= 0,
            Dim::Sym(poly) => poly,
        };
        // Factors as large as these may have saturated.
        if poly.0.values().any(|factor| factor.unsigned_abs() > MAX_FACTOR) {
            return false;
        }
        if self.bounds_with(range).1 <= 0 {
            return true;
        }
        let look = |(atoms, &factor): (&Vec<Atom>, &i64)| {
            let [atom] = atoms.as_slice() else { return false };
            if depth == 0 || poly.0.keys().flatten().filter(|other| *other == atom).count() > 1 {
                return false;
            }
            let mut rest: Poly = (**poly).clone();
            rest.0.remove(atoms);
            let rest = Dim::from(rest);
            let with = |value: &Dim, times: i64| {
                (&(&rest * &Dim::Known(times)) + &(value * &Dim::Known(factor))).is_never_positive(range, depth - 1)
            };
            match atom {
                Atom::Symbol(_) => false,
                Atom::Least(a, b) if factor > 0 => with(a, 1) || with(b, 1),
                Atom::Most(a, b) if factor < 0 => with(a, 1) || with(b, 1),
                Atom::Least(a, b) | Atom::Most(a, b) => with(a, 1) && with(b, 1),
                Atom::FloorDiv(a, Dim::Known(by)) if factor > 0 => with(a, *by),
                Atom::FloorDiv(a, Dim::Known(by)) => with(&(a - &Dim::Known(by - 1)), *by),
                Atom::FloorDiv(..) => false,
            }
        };
        poly.0.iter().any(look)
    }

    /// The smaller of two.
    pub fn least(a: &Dim, b: &Dim) -> Dim {
        match in_order(a, b) {
            Some((smaller, _)) => smaller.clone(),
            None => Poly::of(Atom::Least(a.min(b).clone(), a.max(b).clone())).into(),
        }
    }

    /// The larger of two.
    pub fn larger(a: &Dim, b: &Dim) -> Dim {
        match in_order(a, b) {
            Some((_, larger)) => larger.clone(),
            None => Poly::of(Atom::Most(a.min(b).clone(), a.max(b).clone())).into(),
        }
    }
}

/// The smaller and the larger of two, where one is at every size. What holds of every range is asked first, so that a
/// range of one size gives the form that a wider one does; of two that are always equal, that with symbols is both.
fn in_order<'d>(a: &'d Dim, b: &'d Dim) -> Option<(&'d Dim, &'d Dim)> {
    let ranges: [Range<'_>; 2] = [&any, &own];
    ranges.into_iter().find_map(|range| match (a.at_most_with(b, range), b.at_most_with(a, range)) {
        (true, true) => {
            let both = if a.known().is_some() { b } else { a };
            Some((both, both))
        }
        (true, false) => Some((a, b)),
        (false, true) => Some((b, a)),
        (false, false) => None,
    })
}
