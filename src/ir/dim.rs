//! Sizes of axes: known numbers, or integer expressions over named symbols.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, RangeInclusive, Sub};
use std::sync::Arc;

/// The size of one axis: a number, or a polynomial over symbols, floor divisions, minima and maxima, always in normal form, so that equal sizes
/// compare equal whatever the order in which they were built.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A known size.
    Known(i64),
    /// A size that depends on symbols.
    Sym(Arc<Poly>),
}

/// A sum of products: each key is a sorted product of atoms, each value its factor, never zero. The empty product is the constant term.
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

/// Most terms and symbols in one size, those within divisions, minima and maxima included.
const MAX_PARTS: usize = 1024;
/// Most atoms of a size whose bounds are looked for in its slopes, and how often slopes have slopes.
const MAX_SLOPES: usize = 4;
/// Largest factor in a size that is compared with others.
const MAX_FACTOR: u64 = 1 << 40;
/// How many minima, maxima and quotients within each other are looked into where sizes are compared.
const MAX_CASES: usize = 4;
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

    /// Bounds from those of its atoms, each term on its own: n*n-n for n of 1 to 3 lies within -2 to 8.
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

    /// Bounds from two corners, where it only rises or only falls in every atom: n*n-n for n of 1 to 3 lies within 0 to 6.
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

    /// The least and the most that it can be, as far as the ranges of its symbols tell: it lies between them, but need not reach them. Saturates.
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

    /// The least and the most that it is, where [`Dim::bounds`] are those: every symbol stands in it once, so that nothing cancels.
    pub fn exact_bounds(&self) -> Option<(i64, i64)> {
        let mut seen = std::collections::BTreeSet::new();
        let mut once = true;
        self.for_each_symbol(&mut |symbol| once &= seen.insert(symbol.name().to_owned()));
        once.then(|| self.bounds())
    }

    /// The most that it can be; `None` where it has a symbol without a range.
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

    /// Whether it is at most `other` at every size of the ranges of their symbols, as far as that can be proven. What holds of a range holds of each
    /// part of it.
    pub fn at_most(&self, other: &Dim) -> bool {
        match (self, other) {
            (Dim::Known(a), Dim::Known(b)) => a <= b,
            _ => self == other || self.bounds().1 <= other.bounds().0 || (self - other).is_never_positive(MAX_CASES),
        }
    }

    /// Whether it is 0 at most at every size, by its bounds, or by those of what is no smaller: of a minimum either side, of a maximum both sides one
    /// after the other, of a quotient the dividend where all else is multiplied. `depth` says how many of these are looked into.
    fn is_never_positive(&self, depth: usize) -> bool {
        let poly = match self {
            Dim::Known(n) => return *n <= 0,
            Dim::Sym(poly) => poly,
        };
        // Factors as large as these may have saturated.
        if poly.0.values().any(|factor| factor.unsigned_abs() > MAX_FACTOR) {
            return false;
        }
        if self.bounds().1 <= 0 {
            return true;
        }
        let look = |(atoms, &factor): (&Vec<Atom>, &i64)| {
            let [atom] = atoms.as_slice() else { return false };
            if depth == 0 || poly.0.keys().flatten().filter(|other| *other == atom).count() > 1 {
                return false;
            }
            let mut rest = (**poly).clone();
            rest.0.remove(atoms);
            let rest = Dim::from(rest);
            let with = |value: &Dim, times: i64| {
                (&(&rest * &Dim::Known(times)) + &(value * &Dim::Known(factor))).is_never_positive(depth - 1)
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
        if a.at_most(b) {
            a.clone()
        } else if b.at_most(a) {
            b.clone()
        } else {
            Poly::of(Atom::Least(a.min(b).clone(), a.max(b).clone())).into()
        }
    }

    /// The larger of two.
    pub fn larger(a: &Dim, b: &Dim) -> Dim {
        if a.at_most(b) {
            b.clone()
        } else if b.at_most(a) {
            a.clone()
        } else {
            Poly::of(Atom::Most(a.min(b).clone(), a.max(b).clone())).into()
        }
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

    /// The symbol that this size tells: of `a*n+b`, n. `None` for any other form.
    pub fn told(&self) -> Option<&Symbol> {
        self.linear().map(|(symbol, ..)| symbol)
    }

    /// The symbol that this size tells, and what it is if this is `value`; `None` also where that would be no whole number.
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
    /// The normal form. It saturates where it would be larger than any model has reason for: sizes share their parts, so that a file of a few
    /// kilobytes could otherwise ask for one whose text fills the disk.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_have_one_normal_form() {
        let (seq, past) = (Dim::symbol("seq"), Dim::symbol("past"));
        assert_eq!(&(&seq + &past) - &past, seq);
        assert_eq!(&seq * &past, &past * &seq);
        assert_eq!((&(&seq + &seq) + &Dim::Known(1)).to_string(), "2*seq+1");
        assert_eq!(&seq - &seq, Dim::Known(0));
    }

    #[test]
    fn bounds_are_reached_where_a_size_only_rises_or_falls() {
        let (n, m) = (Dim::ranged("n", 1, 37), Dim::ranged("m", 0, 5));
        let one = Dim::Known(1);
        let half = n.floor_div(&Dim::Known(2)).unwrap();
        for (dim, bounds) in [
            (&(&n - &one) * &n, (0, 37 * 36)),
            (&(&(&n - &one) * &n) * &m, (0, 37 * 36 * 5)),
            (&half * &(&n - &one), (0, 18 * 36)),
            (&(&Dim::Known(40) - &n) * &Dim::Known(2), (6, 78)),
            // It falls in n and rises in m.
            (&(&Dim::Known(38) - &n) * &m, (0, 37 * 5)),
            // It rises and falls: each term for itself.
            (&(&n * &m) - &(&m * &Dim::Known(3)), (-15, 37 * 5)),
        ] {
            assert_eq!(dim.bounds(), bounds, "{dim}");
        }
    }

    #[test]
    fn floor_division_folds_where_it_can() {
        let seq = Dim::symbol("seq");
        assert_eq!((&seq + &seq).floor_div(&Dim::Known(2)), Some(seq.clone()));
        let half = (&seq + &Dim::Known(1)).floor_div(&Dim::Known(2)).unwrap();
        assert_eq!(half.to_string(), "floordiv(seq+1,2)");
        assert_eq!(half.eval(&|_| Some(4)), Some(2));
        assert_eq!(seq.floor_div(&Dim::Known(0)), None);
    }

    #[test]
    fn quotients_have_one_normal_form() {
        let n = Dim::ranged("n", 1, 40);
        let times = |k: i64, add: i64| &(&n * &Dim::Known(k)) + &Dim::Known(add);
        let div = |dim: &Dim, by: i64| dim.floor_div(&Dim::Known(by)).unwrap();
        assert_eq!(div(&times(32, 31), 32), n);
        assert_eq!(div(&times(32, -1), 32), &n - &Dim::Known(1));
        assert_eq!(div(&div(&times(3, 1), 2), 2), div(&times(3, 1), 4));
        // Halving three times, rounded up each time, as strided convolutions do.
        let halve = |dim: &Dim| &div(&(dim + &Dim::Known(-1)), 2) + &Dim::Known(1);
        assert_eq!(halve(&halve(&halve(&times(8, 0)))), n);
        for (dim, at) in [(halve(&halve(&times(1, 0))), 7), (times(3, 1).div_ceil(128), 40), (div(&times(5, -9), 4), 1)]
        {
            let value = dim.eval(&|_| Some(at)).unwrap();
            let (low, high) = dim.bounds();
            assert!((low..=high).contains(&value), "{dim} is {value}, bounds {low}..{high}");
        }
        assert_eq!(halve(&halve(&n)).eval(&|_| Some(7)), Some(2));
        assert_eq!(div(&times(5, -9), 4).eval(&|_| Some(1)), Some(-1));
    }

    #[test]
    fn forms_decide_minima_where_they_can() {
        let (seq, past) = (Dim::ranged("seq", 1, 64), Dim::ranged("past", 0, 512));
        assert_eq!(Dim::least(&seq, &Dim::Known(i64::MAX)), seq);
        assert_eq!(Dim::larger(&seq, &Dim::Known(1)), seq);
        assert_eq!(Dim::least(&seq, &Dim::Known(64)), seq);
        assert_eq!(Dim::least(&seq, &Dim::Known(63)).to_string(), "min(63,seq)");
        let both = Dim::least(&past, &seq);
        assert_eq!(both, Dim::least(&seq, &past));
        assert_eq!((both.to_string().as_str(), both.bounds()), ("min(past,seq)", (0, 64)));
        assert_eq!((&past + &seq).bounds(), (1, 576));
        assert_eq!((&past - &seq).bounds(), (-64, 511));
        assert_eq!(Dim::symbol("n").most(), None);
        let doubled = (&(&seq + &past) - &past).substitute(&|s| (s.name() == "seq").then_some(Dim::Known(3)));
        assert_eq!(doubled, Dim::Known(3));
        assert_eq!(
            (&(&seq * &Dim::Known(32)) + &Dim::Known(1)).solve(97).map(|(s, n)| (s.name().to_owned(), n)),
            Some(("seq".to_owned(), 3))
        );
        assert!((&seq * &Dim::Known(32)).solve(97).is_none());
    }

    #[test]
    fn minima_and_maxima_fold_by_what_holds_at_every_size() {
        let (s, p, rows) = (Dim::ranged("s", 1, 6), Dim::ranged("p", 0, 9), Dim::Known(448));
        let (total, zero, one) = (&p + &s, Dim::Known(0), Dim::Known(1));
        let free = Dim::symbol("free");
        let wide = Dim::ranged("wide", 1, 500);
        let cut = Dim::least(&wide, &rows);
        let half = |dim: &Dim| dim.floor_div(&Dim::Known(2)).unwrap();
        for (a, b) in [
            (&p, &total),
            (&s, &total),
            (&zero, &p),
            (&one, &s),
            (&cut, &rows),
            (&cut, &wide),
            (&half(&wide), &wide),
            (&half(&(&wide + &one)), &wide),
            (&(&total - &one), &(&free + &Dim::Known(14))),
            (&Dim::larger(&p, &s), &total),
            (&zero, &(&wide - &half(&wide))),
        ] {
            assert!(a.at_most(b), "{a} <= {b}");
            assert_eq!((Dim::least(a, b), Dim::larger(a, b)), (a.clone(), b.clone()), "{a} <= {b}");
        }
        for (a, b) in [(&wide, &rows), (&p, &s), (&s, &p), (&total, &wide), (&free, &wide), (&wide, &half(&wide))] {
            assert!(!a.at_most(b), "{a} <= {b}");
        }
        // What has grown too large to be true proves nothing.
        let huge = &wide * &Dim::Known(i64::MAX);
        assert!(!(&huge + &huge).at_most(&wide));
    }

    #[test]
    fn comparisons_are_right_at_every_size() {
        let atoms = [Dim::ranged("n", 0, 4), Dim::ranged("m", 1, 3), Dim::Known(2), Dim::Known(-1)];
        let mut all: Vec<Dim> = atoms.to_vec();
        for a in &atoms {
            for b in &atoms {
                all.extend([a + b, a - b, a * b, Dim::least(a, b), Dim::larger(a, b)]);
                all.extend((a + b).floor_div(&Dim::Known(2)));
                all.extend((a - b).floor_div(&Dim::Known(3)));
            }
        }
        all.sort();
        all.dedup();
        let sizes: Vec<(i64, i64)> = (0..5).flat_map(|n| (1..4).map(move |m| (n, m))).collect();
        let at = |dim: &Dim, (n, m): (i64, i64)| dim.eval(&|name| Some(if name == "n" { n } else { m })).unwrap();
        let mut n_proven = 0;
        for a in &all {
            for b in &all {
                let is_proven = a.at_most(b);
                n_proven += usize::from(is_proven);
                let (least, larger) = (Dim::least(a, b), Dim::larger(a, b));
                for &size in &sizes {
                    let (x, y) = (at(a, size), at(b, size));
                    assert!(!is_proven || x <= y, "{a} <= {b} at {size:?}");
                    assert_eq!((at(&least, size), at(&larger, size)), (x.min(y), x.max(y)), "{a}, {b} at {size:?}");
                }
            }
        }
        assert!(n_proven > all.len() * 8, "{n_proven} of {} pairs", all.len() * all.len());
    }

    #[test]
    fn sizes_that_grow_without_end_saturate() {
        let (mut nested, mut doubled, mut powers) = (Dim::symbol("n"), Dim::symbol("n"), Dim::symbol("n"));
        for i in 0..200 {
            nested = (&nested + &Dim::Known(1)).floor_div(&Dim::Known(2)).unwrap();
            doubled = &(&doubled.floor_div(&Dim::Known(2)).unwrap() + &doubled.floor_div(&Dim::Known(3)).unwrap())
                + &Dim::Known(i);
            powers = &powers * &(&powers + &Dim::symbol("m"));
        }
        for dim in [nested, doubled, powers] {
            assert!(dim.known().is_some_and(|n| n > 1 << 40 || n == 0) || dim.to_string().len() < 100_000, "{dim}");
        }
    }
}
