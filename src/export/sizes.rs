//! Sizes that change between runs, as arithmetic on shapes: integers of 64 bits, one element each.

use super::{Problem, Work, attribute};
use crate::ir::{DType, Dim, Factor, NodeId, Op, Symbol, Tensor};

impl Work<'_> {
    /// A list of sizes.
    pub(super) fn sizes(&mut self, id: NodeId, op: &Op) -> Result<(), Problem> {
        let ty = self.graph.ty(id.out(0)).clone();
        let wanted = self.name(id.out(0));
        let value = op.attrs.dims("value").unwrap_or_default().to_vec();
        let parts = value.iter().map(|dim| self.size(dim)).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let mut list = match parts[..] {
            [only] => only.to_owned(),
            _ => self.add("Concat", &format!("{wanted}.list"), &parts, vec![attribute::int("axis", 0)]),
        };
        if ty.shape.rank() == 0 {
            list = self.add("Squeeze", &format!("{wanted}.scalar"), &[&list], Vec::new());
        }
        let name = self.graph.node(id).name.clone();
        let (op, attrs) = match ty.dtype {
            DType::I64 => ("Identity", Vec::new()),
            other => ("Cast", vec![attribute::int("to", other.onnx())]),
        };
        self.push(op, &name, &[&list], &[wanted], attrs);
        Ok(())
    }

    /// The name of a value `[1]` that is this size.
    fn size(&mut self, dim: &Dim) -> Result<String, Problem> {
        if let Some(known) = self.measured.get(dim) {
            return Ok(known.clone());
        }
        let name = match dim {
            Dim::Known(n) => self.constant("size", Tensor::from_i64s(DType::I64, &[1], &[*n])?),
            other => self.sum(other)?,
        };
        self.measured.insert(dim.clone(), name.clone());
        Ok(name)
    }

    fn sum(&mut self, dim: &Dim) -> Result<String, Problem> {
        let mut sum: Option<String> = None;
        for (factor, factors) in dim.terms() {
            let mut term = (factor != 1 || factors.is_empty()).then(|| self.size(&Dim::Known(factor))).transpose()?;
            for factor in factors {
                let value = match factor {
                    Factor::Symbol(symbol) => self.symbol(symbol)?,
                    Factor::FloorDiv(a, b) => self.quotient(a, b)?,
                    Factor::Least(a, b) => self.of_two("Min", a, b)?,
                    Factor::Most(a, b) => self.of_two("Max", a, b)?,
                };
                term = Some(match term {
                    Some(term) => self.add("Mul", "size", &[&term, &value], Vec::new()),
                    None => value,
                });
            }
            sum = match (sum, term) {
                (Some(sum), Some(term)) => Some(self.add("Add", "size", &[&sum, &term], Vec::new())),
                (sum, term) => sum.or(term),
            };
        }
        sum.map_or_else(|| self.size(&Dim::Known(0)), Ok)
    }

    fn of_two(&mut self, op: &str, a: &Dim, b: &Dim) -> Result<String, Problem> {
        let (a, b) = (self.size(a)?, self.size(b)?);
        Ok(self.add(op, "size", &[&a, &b], Vec::new()))
    }

    /// The quotient rounded down; ONNX's Div rounds towards zero.
    fn quotient(&mut self, a: &Dim, b: &Dim) -> Result<String, Problem> {
        let (mut over, under) = (self.size(a)?, self.size(b)?);
        if a.bounds().0 < 0 {
            let rest = self.add("Mod", "size", &[&over, &under], Vec::new());
            over = self.add("Sub", "size", &[&over, &rest], Vec::new());
        }
        Ok(self.add("Div", "size", &[&over, &under], Vec::new()))
    }

    /// The size of an axis that is this symbol: of an input, else of the first value that has one.
    fn symbol(&mut self, symbol: &Symbol) -> Result<String, Problem> {
        let dim = Dim::from(symbol.clone());
        let graph = self.graph;
        let axis_of = |id: &NodeId| {
            let outputs = graph.node(*id).outputs.iter().enumerate();
            let mut axes =
                outputs.filter_map(|(out, v)| Some((id.out(out), v.ty.shape.0.iter().position(|d| *d == dim)?)));
            axes.next()
        };
        let computed = || {
            graph
                .order()
                .into_iter()
                .filter(|id| graph.node(*id).op().is_some_and(|op| !op.is(&super::ops::onnx::shape::SIZES)))
        };
        let found = graph.inputs().iter().find_map(axis_of).or_else(|| computed().find_map(|id| axis_of(&id)));
        let (value, axis) = found.ok_or_else(|| Problem::Size { size: symbol.name().to_owned() })?;
        let from = self.name(value);
        let axis = axis as i64;
        let attrs = vec![attribute::int("start", axis), attribute::int("end", axis + 1)];
        Ok(self.add("Shape", symbol.name(), &[&from], attrs))
    }
}
