//! Sizes, their ranges, and types.

use super::{MAX_DEPTH, Parsed, Parser};
use crate::ir::packed::Packing;
use crate::ir::{DType, Dim, Shape, TensorType};

/// The functions of sizes. A quotient by what is not positive is none.
type Function = fn(&Dim, &Dim) -> Option<Dim>;
const FUNCTIONS: [(&str, Function); 3] =
    [("floordiv(", Dim::floor_div), ("min(", |a, b| Some(Dim::least(a, b))), ("max(", |a, b| Some(Dim::larger(a, b)))];

impl Parser<'_> {
    pub(super) fn dim(&mut self, depth: usize) -> Parsed<Dim> {
        let mut sum = Dim::Known(0);
        loop {
            let negative = self.take("-");
            self.take("+");
            let mut product = self.factor(depth)?;
            while self.take("*") {
                product = &product * &self.factor(depth)?;
            }
            sum = if negative { &sum - &product } else { &sum + &product };
            if !self.peek("+") && !self.peek("-") {
                return Ok(sum);
            }
        }
    }

    pub(super) fn factor(&mut self, depth: usize) -> Parsed<Dim> {
        if depth > MAX_DEPTH {
            return Err(self.refuse("nested too deeply"));
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return self.int().map(Dim::Known);
        }
        for (function, compute) in FUNCTIONS {
            if self.take(function) {
                let left = self.dim(depth + 1)?;
                self.eat(",")?;
                let right = self.dim(depth + 1)?;
                self.eat(")")?;
                return compute(&left, &right).ok_or_else(|| self.refuse("division by a size that is not positive"));
            }
        }
        let symbol = self.symbol()?;
        let range = self.ranges.get(&symbol).copied().or(self.unlisted);
        Ok(range.map_or_else(|| Dim::symbol(&symbol), |(min, max)| Dim::ranged(&symbol, min, max)))
    }

    pub(super) fn symbol(&mut self) -> Parsed<String> {
        let symbol = if self.peek("\"") { self.quoted()? } else { self.word("").to_owned() };
        if symbol.is_empty() { Err(self.refuse("expected a size")) } else { Ok(symbol) }
    }

    /// The ranges of symbols, behind ` where`.
    pub(super) fn ranges(&mut self) -> Parsed<()> {
        loop {
            self.eat(" ")?;
            let symbol = self.symbol()?;
            self.eat(" in ")?;
            let min = self.int()?;
            self.eat("..")?;
            let max = self.int()?;
            if min < 0 || max < min || max == i64::MAX {
                return Err(self.refuse(format!("{min}..{max} is no range of sizes")));
            }
            if self.ranges.insert(symbol.clone(), (min, max)).is_some() {
                return Err(self.refuse(format!("the range of {symbol} is given twice")));
            }
            if !self.take(",") {
                return Ok(());
            }
        }
    }

    pub(super) fn dtype(&mut self) -> Parsed<DType> {
        let start = self.at;
        self.word("").parse().map_err(|e| {
            self.at = start;
            self.refuse(format!("{e}"))
        })
    }

    pub(super) fn ty(&mut self) -> Parsed<TensorType> {
        let dtype = self.dtype()?;
        let mut packing = None;
        if self.take("<") {
            let text =
                &self.rest()[..self.rest().find('>').ok_or_else(|| self.refuse("expected a packing and \">\""))?];
            packing =
                Some(Packing::parse(dtype, text).ok_or_else(|| self.refuse(format!("{dtype}<{text}> is no packing")))?);
            self.at += text.len() + 1;
        }
        let dims = self.list(|p| p.dim(0))?;
        Ok(TensorType { dtype, shape: Shape(dims), packing })
    }
}
