//! Sizes of axes: known numbers, or integer expressions over named symbols.

mod order;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, RangeInclusive, Sub};
use std::sync::Arc;

/// The size of one axis: a number, or a polynomial over symbols, floor divisions, minima and maxima, always in normal
/// form, so that equal sizes compare equal whatever the order in which they were built.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A known size.
    Known(i64),
    /// A size that depends on symbols.
    Sym(Arc<Poly>),
}

/// A sum of products: each key is a sorted product of atoms, each value its factor, never zero. The empty product is
/// the constant term.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Poly(BTreeMap<Vec<Atom>, i64>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Atom {
    Symbol(Symbol),
    FloorDiv(Dim, Dim),
    /// The smaller of two, in order.
    Least(Dim, Dim),
    /// The larger of two, in order.
    Most(Dim, Dim),
}

/// A named size, and what it may be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol {
    name: Arc<str>,
    range: Option<(i64, i64)>,
}

impl Symbol {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The smallest and the largest size it may be, where it was given a range.
    pub fn range(&self) -> Option<RangeInclusive<i64>> {
        self.range.map(|(min, max)| min..=max)
    }
}

/// What a term of a size is multiplied of.
#[derive(Clone, Copy)]
pub enum Factor<'a> {
    /// A named size.
    Symbol(&'a Symbol),
    /// A quotient, rounded towards negative infinity.
    FloorDiv(&'a Dim, &'a Dim),
    /// The smaller of two.
    Least(&'a Dim, &'a Dim),
    /// The larger of two.
    Most(&'a Dim, &'a Dim),
}

/// Most terms and symbols in one size, those within divisions, minima and maxima included.
const MAX_PARTS: usize = 1024;
/// Most atoms of a size whose bounds are looked for in its slopes, and how often slopes have slopes.
const MAX_SLOPES: usize = 4;
/// Deepest nesting of divisions, minima and maxima; the text form reads twice as many.
const MAX_DEPTH: usize = 32;

impl Poly {
    fn of(atom: Atom) -> Poly {
        Poly(BTreeMap::from([(vec![atom], 1)]))
    }

    /// Bounds from those of its atoms, by slopes of slopes as often as `depth` says.
    fn bounds(&self, atoms: &BTreeMap<&Atom, (i64, i64)>, depth: usize) -> (i64, i64) {
        let (low, high) = self.interval(atoms);
        self.corners(atoms, depth).map_or((low, high), |(least, most)| (low.max(least), high.min(most)))
    }

    /// Bounds from those of its atoms, each term on its own: n*n-n for n of 1 to 3 is within -2 to 8.
    fn interval(&self, atoms: &BTreeMap<&Atom, (i64, i64)>) -> (i64, i64) {
        let narrow = |(low, high): (i128, i128)| {
            let clamp = |v: i128| v.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
            (clamp(low), clamp(high))
        };
        let product = |a: (i64, i64), b: (i64, i64)| {
            let all = [(a.0, b.0), (a.0, b.1), (a.1, b.0), (a.1, b.1)].map(|(a, b)| i128::from(a) * i128::from(b));
            narrow(all.iter().fold((i128::MAX, i128::MIN), |(low, high), &v| (low.min(v), high.max(v))))
        };
        self.0.iter().fold((0, 0), |sum: (i64, i64), (factors, factor)| {
            let term = factors.iter().fold((*factor, *factor), |term, atom| {
                product(term, atoms.get(atom).copied().unwrap_or((i64::MIN, i64::MAX)))
            });
            narrow((i128::from(sum.0) + i128::from(term.0), i128::from(sum.1) + i128::from(term.1)))
        })
    }

    /// Bounds from two corners, where it only rises or only falls in every atom: n*n-n for n of 1 to 3 is within 0 to
    /// 6.
    fn corners(&self, atoms: &BTreeMap<&Atom, (i64, i64)>, depth: usize) -> Option<(i64, i64)> {
        // Terms of one sign are bounded as well one by one.
        if depth == 0
            || atoms.len() > MAX_SLOPES
            || self.0.values().all(|factor| *factor > 0)
            || self.0.values().all(|factor| *factor < 0)
        {
            return None;
        }
        let (mut least, mut most) = (BTreeMap::new(), BTreeMap::new());
        for (&atom, &(low, high)) in atoms {
            let slope = self.slope(atom)?.bounds(atoms, depth - 1);
            let rises = slope.0 >= 0;
            if !rises && slope.1 > 0 {
                return None;
            }
            least.insert(atom, if rises { low } else { high });
            most.insert(atom, if rises { high } else { low });
        }
        Some((self.at(&least)?, self.at(&most)?))
    }

    /// The derivative; `None` where a factor is too large.
    fn slope(&self, by: &Atom) -> Option<Poly> {
        let mut slope = Poly::default();
        for (atoms, factor) in &self.0 {
            if let Some(place) = atoms.iter().position(|atom| atom == by) {
                let n = atoms.iter().filter(|atom| *atom == by).count() as i64;
                let mut rest = atoms.clone();
                rest.remove(place);
                slope.0.insert(rest, factor.checked_mul(n)?);
            }
        }
        Some(slope)
    }

    /// The value where its atoms have these; `None` where it is too large.
    fn at(&self, values: &BTreeMap<&Atom, i64>) -> Option<i64> {
        let term = |(atoms, factor): (&Vec<Atom>, &i64)| {
            atoms
                .iter()
                .try_fold(i128::from(*factor), |product, atom| product.checked_mul(i128::from(*values.get(atom)?)))
        };
        let sum = self.0.iter().map(term).try_fold(0i128, |sum, term| sum.checked_add(term?))?;
        i64::try_from(sum).ok()
    }

    /// Whether this has at most `left` parts, and divisions nested at most `depth` deep. Takes the parts off `left`.
    fn fits(&self, left: &mut usize, depth: usize) -> bool {
        let inner = |dim: &Dim, left: &mut usize| {
            depth > 0 && if let Dim::Sym(poly) = dim { poly.fits(left, depth - 1) } else { true }
        };
        self.0.keys().all(|atoms| {
            let n = atoms.len() + 1;
            let has_room = *left >= n;
            *left = left.saturating_sub(n);
            has_room
                && atoms.iter().all(|atom| match atom {
                    Atom::Symbol(_) => true,
                    Atom::FloorDiv(a, b) | Atom::Least(a, b) | Atom::Most(a, b) => inner(a, left) && inner(b, left),
                })
        })
    }
}

impl Dim {
    /// The size named `name`, as an ONNX `dim_param`: any number from 1.
    pub fn symbol(name: &str) -> Dim {
        Symbol { name: name.into(), range: None }.into()
    }

    /// The size named `name` which is `min` at least and `max` at most, a symbol even where both are one number.
    pub fn ranged(name: &str, min: i64, max: i64) -> Dim {
        Symbol { name: name.into(), range: Some((min, max.max(min))) }.into()
    }

    /// The number, where it is known.
    pub fn known(&self) -> Option<i64> {
        match self {
            Dim::Known(n) => Some(*n),
            Dim::Sym(_) => None,
        }
    }

    /// Its minimum and maximum by the ranges of its symbols: it is between them, but need
    /// not reach them. Saturates.
    pub fn bounds(&self) -> (i64, i64) {
        self.bounds_with(&|symbol| symbol.range.unwrap_or((1, i64::MAX)))
    }

    /// [`Dim::bounds`] with ranges of the caller's.
    pub fn bounds_with(&self, range: &dyn Fn(&Symbol) -> (i64, i64)) -> (i64, i64) {
        let poly = match self {
            Dim::Known(n) => return (*n, *n),
            Dim::Sym(poly) => poly,
        };
        let of = |atom: &Atom| match atom {
            Atom::Symbol(symbol) => range(symbol),
            Atom::Least(a, b) | Atom::Most(a, b) => {
                let (a, b) = (a.bounds_with(range), b.bounds_with(range));
                if matches!(atom, Atom::Least(..)) {
                    (a.0.min(b.0), a.1.min(b.1))
                } else {
                    (a.0.max(b.0), a.1.max(b.1))
                }
            }
            Atom::FloorDiv(a, b) => {
                let (a, b) = (a.bounds_with(range), b.bounds_with(range));
                if b.0 < 1 {
                    return (i64::MIN, i64::MAX);
                }
                let all = [(a.0, b.0), (a.0, b.1), (a.1, b.0), (a.1, b.1)].map(|(a, b)| a.div_euclid(b));
                all.iter().fold((i64::MAX, i64::MIN), |(low, high), &v| (low.min(v), high.max(v)))
            }
        };
        let mut atoms = BTreeMap::new();
        for atom in poly.0.keys().flatten() {
            atoms.entry(atom).or_insert_with(|| of(atom));
        }
        poly.bounds(&atoms, MAX_SLOPES)
    }

    /// The exact minimum and maximum, where [`Dim::bounds`] are those: every symbol stands in it once, so that
    /// nothing cancels.
    pub fn exact_bounds(&self) -> Option<(i64, i64)> {
        let mut seen = std::collections::BTreeSet::new();
        let mut once = true;
        self.for_each_symbol(&mut |symbol| once &= seen.insert(symbol.name().to_owned()));
        once.then(|| self.bounds())
    }

    /// Its maximum; `None` where it has a symbol without a range.
    pub fn most(&self) -> Option<i64> {
        let mut bounded = true;
        self.for_each_symbol(&mut |symbol| bounded &= symbol.range.is_some());
        bounded.then(|| self.bounds().1)
    }

    /// The quotient rounded towards negative infinity; `None` for a known divisor that is not positive.
    pub fn floor_div(&self, divisor: &Dim) -> Option<Dim> {
        let poly = match (self, divisor) {
            (_, Dim::Known(d)) if *d <= 0 => return None,
            (Dim::Known(n), Dim::Known(d)) => return Some(Dim::Known(n.div_euclid(*d))),
            (_, Dim::Known(1)) => return Some(self.clone()),
            (a, b) if a == b => return Some(Dim::Known(1)),
            (Dim::Sym(poly), Dim::Known(d)) => {
                // What d divides comes out: (8*n+3)/4 is 2*n. Of the constant, its whole multiples do.
                let mut whole = Poly::default();
                let mut rest = Poly::default();
                for (atoms, factor) in &poly.0 {
                    let (quotient, remainder) = if atoms.is_empty() || factor % d == 0 {
                        (factor.div_euclid(*d), factor.rem_euclid(*d))
                    } else {
                        (0, *factor)
                    };
                    whole.0.insert(atoms.clone(), quotient);
                    rest.0.insert(atoms.clone(), remainder);
                }
                let (whole, rest) = (Dim::from(whole), Dim::from(rest));
                if rest.known().is_some() {
                    return Some(whole);
                }
                if whole != Dim::Known(0) {
                    return Some(&whole + &rest.floor_div(divisor)?);
                }
                poly
            }
            (a, b) => {
                return Some(a.divided(b).unwrap_or_else(|| Poly::of(Atom::FloorDiv(a.clone(), b.clone())).into()));
            }
        };
        // A quotient divided again is divided by the product.
        if let (Some((atoms, 1)), Dim::Known(d)) = (poly.0.iter().next().filter(|_| poly.0.len() == 1), divisor)
            && let [Atom::FloorDiv(inner, Dim::Known(first))] = atoms.as_slice()
            && let Some(both) = first.checked_mul(*d)
        {
            return inner.floor_div(&Dim::Known(both));
        }
        Some(Poly::of(Atom::FloorDiv(self.clone(), divisor.clone())).into())
    }

    /// The quotient by one product of symbols, where every term has them: `n*seq*64` by `n*seq`.
    fn divided(&self, divisor: &Dim) -> Option<Dim> {
        let (Dim::Sym(poly), Dim::Sym(by)) = (self, divisor) else { return None };
        let (atoms, factor) = by.0.iter().next().filter(|_| by.0.len() == 1)?;
        let without = |(term, c): (&Vec<Atom>, &i64)| {
            let mut rest = term.clone();
            for atom in atoms {
                rest.remove(rest.iter().position(|a| a == atom)?);
            }
            (c.checked_rem(*factor)? == 0).then(|| (rest, c / factor))
        };
        Some(Poly(poly.0.iter().map(without).collect::<Option<_>>()?).into())
    }

    /// The quotient by a positive number, rounded up.
    pub fn div_ceil(&self, divisor: u64) -> Dim {
        let divisor = Dim::Known(i64::try_from(divisor).unwrap_or(i64::MAX).max(1));
        (&(self + &divisor) - &Dim::Known(1)).floor_div(&divisor).unwrap_or(Dim::Known(i64::MAX))
    }

    /// The value once every symbol has one; `None` if one is missing or the arithmetic overflows.
    pub fn eval(&self, symbols: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        match self {
            Dim::Known(n) => Some(*n),
            Dim::Sym(poly) => {
                let mut sum = 0i64;
                for (atoms, factor) in &poly.0 {
                    let mut term = *factor;
                    for atom in atoms {
                        let value = match atom {
                            Atom::Symbol(symbol) => symbols(&symbol.name)?,
                            Atom::FloorDiv(a, b) => a.eval(symbols)?.checked_div_euclid(b.eval(symbols)?)?,
                            Atom::Least(a, b) => a.eval(symbols)?.min(b.eval(symbols)?),
                            Atom::Most(a, b) => a.eval(symbols)?.max(b.eval(symbols)?),
                        };
                        term = term.checked_mul(value)?;
                    }
                    sum = sum.checked_add(term)?;
                }
                Some(sum)
            }
        }
    }

    /// The terms that add up to this size: a number, and what it is multiplied with.
    pub fn terms(&self) -> Vec<(i64, Vec<Factor<'_>>)> {
        fn factor(atom: &Atom) -> Factor<'_> {
            match atom {
                Atom::Symbol(symbol) => Factor::Symbol(symbol),
                Atom::FloorDiv(a, b) => Factor::FloorDiv(a, b),
                Atom::Least(a, b) => Factor::Least(a, b),
                Atom::Most(a, b) => Factor::Most(a, b),
            }
        }
        match self {
            Dim::Known(n) => vec![(*n, Vec::new())],
            Dim::Sym(poly) => poly.0.iter().map(|(atoms, n)| (*n, atoms.iter().map(factor).collect())).collect(),
        }
    }

    /// The same size with every symbol replaced for which `replace` gives something.
    pub fn substitute(&self, replace: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        let Dim::Sym(poly) = self else { return self.clone() };
        let of = |atom: &Atom| -> Dim {
            let both = |a: &Dim, b: &Dim| (a.substitute(replace), b.substitute(replace));
            match atom {
                Atom::Symbol(symbol) => replace(symbol).unwrap_or_else(|| symbol.clone().into()),
                Atom::FloorDiv(a, b) => {
                    let (a, b) = both(a, b);
                    a.floor_div(&b).unwrap_or(Dim::Known(i64::MAX))
                }
                Atom::Least(a, b) => {
                    let (a, b) = both(a, b);
                    Dim::least(&a, &b)
                }
                Atom::Most(a, b) => {
                    let (a, b) = both(a, b);
                    Dim::larger(&a, &b)
                }
            }
        };
        poly.0.iter().fold(Dim::Known(0), |sum, (atoms, factor)| {
            &sum + &atoms.iter().fold(Dim::Known(*factor), |term, atom| &term * &of(atom))
        })
    }

    /// The symbol that the value of this size determines: n of `a*n+b`. `None` for any other form.
    pub fn solved_symbol(&self) -> Option<&Symbol> {
        self.linear().map(|(symbol, ..)| symbol)
    }

    /// The symbol that the value of this size determines, and its value if this is `value`; `None` also where that
    /// would be no whole number.
    pub fn solve(&self, value: i64) -> Option<(&Symbol, i64)> {
        let (symbol, factor, base) = self.linear()?;
        let rest = value.checked_sub(base)?;
        (rest.checked_rem(factor)? == 0).then(|| (symbol, rest / factor))
    }

    /// Symbol, factor and constant of `factor*symbol+constant`.
    fn linear(&self) -> Option<(&Symbol, i64, i64)> {
        let Dim::Sym(poly) = self else { return None };
        let base = poly.0.get(&Vec::new()).copied().unwrap_or(0);
        let mut terms = poly.0.iter().filter(|(atoms, _)| !atoms.is_empty());
        let (atoms, factor) = terms.next().filter(|_| poly.0.len() == if base == 0 { 1 } else { 2 })?;
        if let [Atom::Symbol(symbol)] = atoms.as_slice() { Some((symbol, *factor, base)) } else { None }
    }

    /// Calls `f` with every symbol in this size.
    pub fn for_each_symbol(&self, f: &mut dyn FnMut(&Symbol)) {
        if let Dim::Sym(poly) = self {
            for atom in poly.0.keys().flatten() {
                match atom {
                    Atom::Symbol(symbol) => f(symbol),
                    Atom::FloorDiv(a, b) | Atom::Least(a, b) | Atom::Most(a, b) => {
                        a.for_each_symbol(f);
                        b.for_each_symbol(f);
                    }
                }
            }
        }
    }

    fn poly(&self) -> Poly {
        match self {
            Dim::Known(0) => Poly::default(),
            Dim::Known(n) => Poly(BTreeMap::from([(Vec::new(), *n)])),
            Dim::Sym(poly) => (**poly).clone(),
        }
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Dim {
        Dim::Sym(Arc::new(Poly::of(Atom::Symbol(symbol))))
    }
}

impl From<Poly> for Dim {
    /// The normal form. It saturates where it would be larger than any model has reason for: sizes share their parts,
    /// so that a file of a few kilobytes could otherwise ask for one whose text fills the disk.
    fn from(mut poly: Poly) -> Dim {
        poly.0.retain(|_, factor| *factor != 0);
        let mut left = MAX_PARTS;
        if !poly.fits(&mut left, MAX_DEPTH) {
            return Dim::Known(i64::MAX);
        }
        match poly.0.iter().next() {
            None => Dim::Known(0),
            Some((atoms, factor)) if atoms.is_empty() && poly.0.len() == 1 => Dim::Known(*factor),
            Some(_) => Dim::Sym(Arc::new(poly)),
        }
    }
}

impl From<i64> for Dim {
    fn from(n: i64) -> Dim {
        Dim::Known(n)
    }
}

impl From<i32> for Dim {
    fn from(n: i32) -> Dim {
        Dim::Known(n.into())
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Dim {
        Dim::Known(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Known(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl Add for &Dim {
    type Output = Dim;
    /// The sum. It saturates: no tensor of such a size passes [`super::Shape::n_elems`].
    fn add(self, other: &Dim) -> Dim {
        if let (Dim::Known(a), Dim::Known(b)) = (self, other) {
            return Dim::Known(a.saturating_add(*b));
        }
        let mut sum = self.poly();
        for (atoms, factor) in other.poly().0 {
            let slot = sum.0.entry(atoms).or_insert(0);
            *slot = slot.saturating_add(factor);
        }
        sum.into()
    }
}

impl Sub for &Dim {
    type Output = Dim;
    fn sub(self, other: &Dim) -> Dim {
        self + &(other * &Dim::Known(-1))
    }
}

impl Mul for &Dim {
    type Output = Dim;
    /// The product. It saturates, as the sum does.
    fn mul(self, other: &Dim) -> Dim {
        if let (Dim::Known(a), Dim::Known(b)) = (self, other) {
            return Dim::Known(a.saturating_mul(*b));
        }
        let mut product = Poly::default();
        for (left, a) in &self.poly().0 {
            for (right, b) in &other.poly().0 {
                let mut atoms: Vec<Atom> = left.iter().chain(right).cloned().collect();
                atoms.sort();
                let slot = product.0.entry(atoms).or_insert(0);
                *slot = slot.saturating_add(a.saturating_mul(*b));
            }
        }
        product.into()
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let poly = match self {
            Dim::Known(n) => return write!(f, "{n}"),
            Dim::Sym(poly) => poly,
        };
        // The constant sorts first but reads better last: `2*seq+1`.
        let terms = poly.0.iter().filter(|t| !t.0.is_empty()).chain(poly.0.iter().filter(|t| t.0.is_empty()));
        for (i, (atoms, factor)) in terms.enumerate() {
            if i > 0 && *factor >= 0 {
                f.write_str("+")?;
            }
            if atoms.is_empty() {
                write!(f, "{factor}")?;
                continue;
            }
            match factor {
                1 => {}
                -1 => f.write_str("-")?,
                _ => write!(f, "{factor}*")?,
            }
            for (j, atom) in atoms.iter().enumerate() {
                if j > 0 {
                    f.write_str("*")?;
                }
                match atom {
                    Atom::Symbol(symbol) => f.write_str(&super::text::symbol(&symbol.name))?,
                    Atom::FloorDiv(a, b) => write!(f, "floordiv({a},{b})")?,
                    Atom::Least(a, b) => write!(f, "min({a},{b})")?,
                    Atom::Most(a, b) => write!(f, "max({a},{b})")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Poly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Dim::Sym(Arc::new(self.clone())))
    }
}
