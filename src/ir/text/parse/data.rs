//! Constants and attributes.

use super::{Parsed, Parser};
use crate::ir::{Attr, Attrs, Class, DType, Expr, Hash, Tensor, TensorType};

/// What follows `const`.
pub(super) enum Data<'a> {
    Hash(&'a str),
    Values(Vec<&'a str>),
}

impl<'a> Parser<'a> {
    /// What follows `const`, up to its type.
    pub(super) fn data(&mut self) -> Parsed<Data<'a>> {
        if self.take("#") {
            return Ok(Data::Hash(self.word("")));
        }
        let start = self.at;
        self.list(|p| Ok(p.word("+-."))).map(Data::Values).map_err(|_| {
            self.at = start;
            self.refuse("expected a #hash or a list of values")
        })
    }

    /// The tensor of a type that `data` stand for.
    pub(super) fn tensor(&mut self, data: Data<'_>, ty: TensorType) -> Parsed<Tensor> {
        let bad = |p: &Self, e: &dyn std::fmt::Display| p.refuse(e.to_string());
        match data {
            Data::Hash(hash) => match (self.source)(hash, &ty) {
                Some(tensor) if *tensor.ty() == ty => Ok(tensor),
                Some(tensor) => Err(self.refuse(format!("constant #{hash} is {}, not {ty}", tensor.ty()))),
                None => match hash_of(hash) {
                    Some(hash) => Ok(Tensor::absent(ty, hash)),
                    None => Err(self.refuse(format!("#{hash} is no hash"))),
                },
            },
            Data::Values(values) => {
                let dims = ty.shape.known().ok_or_else(|| self.refuse("a constant's sizes must be known"))?;
                let given = values.len() as u64;
                if ty.packing.is_some() || ty.shape.n_elems() != Some(given) {
                    return Err(self.refuse(format!("{given} values for {ty}")));
                }
                match ty.dtype.class() {
                    Class::Float => {
                        let values: Result<Vec<f32>, _> = values.iter().map(|v| v.parse()).collect();
                        let values = values.map_err(|e| bad(self, &e))?;
                        Tensor::from_f32s(ty.dtype, &dims, &values).map_err(|e| bad(self, &e))
                    }
                    _ => {
                        let one = |v: &&str| match ty.dtype {
                            DType::U64 => v.parse().map(u64::cast_signed),
                            _ => v.parse(),
                        };
                        let values: Result<Vec<i64>, _> = values.iter().map(one).collect();
                        let values = values.map_err(|e| bad(self, &e))?;
                        Tensor::from_i64s(ty.dtype, &dims, &values).map_err(|e| bad(self, &e))
                    }
                }
            }
        }
    }

    pub(super) fn attr(&mut self, depth: usize) -> Parsed<Attr> {
        if self.peek("\"") {
            return self.quoted().map(Attr::Str);
        }
        if self.take("`") {
            let len = self.rest().find('`').ok_or_else(|| self.refuse("expected a closing backquote"))?;
            let expr = Expr::parse(&self.rest()[..len]).map_err(|e| self.refuse(e.to_string()))?;
            self.at += len + 1;
            return Ok(Attr::Expr(expr));
        }
        if self.take("(") {
            self.space();
            let graph = self.graph(depth + 1)?;
            self.space();
            self.eat(")")?;
            return Ok(Attr::Graph(Box::new(graph)));
        }
        if self.take("const ") {
            let data = self.data()?;
            self.eat(" : ")?;
            let ty = self.ty()?;
            return self.tensor(data, ty).map(Attr::Tensor);
        }
        if self.peek("[") {
            return self.list(Self::int).map(Attr::Ints);
        }
        if self.take("f[") {
            self.at -= 1;
            return self.list(Self::float).map(Attr::Floats);
        }
        if self.take("s[") {
            self.at -= 1;
            return self.list(Self::quoted).map(Attr::Strs);
        }
        if self.take("d[") {
            self.at -= 1;
            return self.list(|p| p.dim(0)).map(Attr::Dims);
        }
        let start = self.at;
        let word = self.word("+-.");
        if let Ok(dtype) = word.parse() {
            return Ok(Attr::DType(dtype));
        }
        if let Ok(v) = word.parse() {
            return Ok(Attr::Int(v));
        }
        if let Some(Ok(v)) = word.strip_suffix('f').map(str::parse) {
            return Ok(Attr::Float(v));
        }
        self.at = start;
        Err(self.refuse("expected the value of an attribute"))
    }

    pub(super) fn attrs(&mut self, depth: usize) -> Parsed<Attrs> {
        let mut attrs = Attrs::new();
        if !self.take(" {") {
            return Ok(attrs);
        }
        loop {
            let key = self.word("").to_owned();
            self.eat("=")?;
            let value = self.attr(depth)?;
            if attrs.0.insert(key.clone(), value).is_some() {
                return Err(self.refuse(format!("attribute {key} is given twice")));
            }
            if self.take("}") {
                return Ok(attrs);
            }
            self.eat(", ")?;
        }
    }
}

/// A hash of 16 to 64 hexadecimal digits, its rest zeros.
fn hash_of(digits: &str) -> Option<Hash> {
    let mut bytes = [0u8; 32];
    if !(16..=64).contains(&digits.len()) || !digits.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Hash(bytes))
}
