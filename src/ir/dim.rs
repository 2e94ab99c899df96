//! Sizes of axes: known numbers, or integer expressions over named symbols.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

/// The size of one axis: a number, or a polynomial over symbols and floor divisions, always in normal form, so that equal sizes compare
/// equal whatever the order in which they were built.
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
    Symbol(Arc<str>),
    FloorDiv(Dim, Dim),
}

/// Most terms and symbols in one size, those within floor divisions included.
const MAX_PARTS: usize = 1024;
/// Deepest nesting of floor divisions; the text form reads twice as many.
const MAX_DEPTH: usize = 32;

impl Poly {
    /// Whether this has at most `left` parts, and divisions nested at most `depth` deep. Takes the parts off `left`.
    fn fits(&self, left: &mut usize, depth: usize) -> bool {
        let inner = |dim: &Dim, left: &mut usize| depth > 0 && if let Dim::Sym(poly) = dim { poly.fits(left, depth - 1) } else { true };
        self.0.keys().all(|atoms| {
            let n = atoms.len() + 1;
            let has_room = *left >= n;
            *left = left.saturating_sub(n);
            has_room
                && atoms.iter().all(|atom| match atom {
                    Atom::Symbol(_) => true,
                    Atom::FloorDiv(a, b) => inner(a, left) && inner(b, left),
                })
        })
    }
}

impl Dim {
    /// The size named `name`, as an ONNX `dim_param`.
    pub fn symbol(name: &str) -> Dim {
        Dim::Sym(Arc::new(Poly(BTreeMap::from([(vec![Atom::Symbol(name.into())], 1)]))))
    }

    /// The number, where it is known.
    pub fn known(&self) -> Option<i64> {
        match self {
            Dim::Known(n) => Some(*n),
            Dim::Sym(_) => None,
        }
    }

    /// The quotient rounded towards negative infinity; `None` for a known divisor that is not positive.
    pub fn floor_div(&self, divisor: &Dim) -> Option<Dim> {
        match (self, divisor) {
            (_, Dim::Known(d)) if *d <= 0 => None,
            (Dim::Known(n), Dim::Known(d)) => Some(Dim::Known(n.div_euclid(*d))),
            (_, Dim::Known(1)) => Some(self.clone()),
            (a, b) if a == b => Some(Dim::Known(1)),
            (Dim::Sym(poly), Dim::Known(d)) if poly.0.values().all(|c| c % d == 0) => {
                Some(Poly(poly.0.iter().map(|(k, c)| (k.clone(), c / d)).collect()).into())
            }
            _ => Some(Poly(BTreeMap::from([(vec![Atom::FloorDiv(self.clone(), divisor.clone())], 1)])).into()),
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
                            Atom::Symbol(name) => symbols(name)?,
                            Atom::FloorDiv(a, b) => a.eval(symbols)?.checked_div_euclid(b.eval(symbols)?)?,
                        };
                        term = term.checked_mul(value)?;
                    }
                    sum = sum.checked_add(term)?;
                }
                Some(sum)
            }
        }
    }

    /// Calls `f` with the name of every symbol in this size.
    pub fn for_each_symbol(&self, f: &mut dyn FnMut(&str)) {
        if let Dim::Sym(poly) = self {
            for atom in poly.0.keys().flatten() {
                match atom {
                    Atom::Symbol(name) => f(name),
                    Atom::FloorDiv(a, b) => {
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
                    Atom::Symbol(name) => f.write_str(&super::text::symbol(name))?,
                    Atom::FloorDiv(a, b) => write!(f, "floordiv({a},{b})")?,
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
    fn floor_division_folds_where_it_can() {
        let seq = Dim::symbol("seq");
        assert_eq!((&seq + &seq).floor_div(&Dim::Known(2)), Some(seq.clone()));
        let half = (&seq + &Dim::Known(1)).floor_div(&Dim::Known(2)).unwrap();
        assert_eq!(half.to_string(), "floordiv(seq+1,2)");
        assert_eq!(half.eval(&|_| Some(4)), Some(2));
        assert_eq!(seq.floor_div(&Dim::Known(0)), None);
    }

    #[test]
    fn sizes_that_grow_without_end_saturate() {
        let (mut nested, mut doubled, mut powers) = (Dim::symbol("n"), Dim::symbol("n"), Dim::symbol("n"));
        for i in 0..200 {
            nested = (&nested + &Dim::Known(1)).floor_div(&Dim::Known(2)).unwrap();
            doubled = &(&doubled.floor_div(&Dim::Known(2)).unwrap() + &doubled.floor_div(&Dim::Known(3)).unwrap()) + &Dim::Known(i);
            powers = &powers * &(&powers + &Dim::symbol("m"));
        }
        for dim in [nested, doubled, powers] {
            assert!(dim.known().is_some_and(|n| n > 1 << 40 || n == 0) || dim.to_string().len() < 100_000, "{dim}");
        }
    }
}
