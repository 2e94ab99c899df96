//! Operators of the domain `com.microsoft`, version 1, that are ONNX's own put together: written out as those, so that
//! passes see their weights and products as they see a model's that nobody has fused. ONNX Runtime's optimizer and its
//! tools for transformers write them into files. Definitions: docs/ContribOperators.md of ONNX Runtime;
//! `docs/microsoft.md` lists what is supported.

mod attention;
pub(super) mod blocked;
mod bnb;
mod embed;
mod fused;
mod refused;

use super::build::{Builder, Known};
use super::error::{ImportError, Kind};
use super::normalize::{Draft, In};
use super::read::RawNode;
use super::sequence::Bound;
use super::unroll::form;
use crate::ir::{Attrs, DType, Dim, Tensor, TensorType};

/// Results in the order of the outputs; `None` is one that is not supported.
type Results = Result<Vec<Option<Known>>, ImportError>;

/// One node that is being written out.
struct Writer<'w, 'a> {
    builder: &'w mut Builder<'a>,
    raw: &'w RawNode,
    order: u32,
}

/// That an operator, `domain::name`, is none that the registry has.
pub(super) fn unknown(key: &str) -> ImportError {
    match key.split_once("::").filter(|(domain, _)| *domain == "com.microsoft") {
        Some((domain, op)) => form(format!(
            "operator {domain}.{op} is not supported (docs/microsoft.md lists those that are): write it in operators of ONNX, or add it to the registry"
        )),
        None => Kind::UnknownOp.into(),
    }
}

impl Builder<'_> {
    /// Writes out a node of Microsoft's domains; `None` where it is of no such domain.
    ///
    /// # Errors
    /// It is not supported, or its operands or attributes are wrong.
    pub(super) fn contrib(&mut self, raw: &RawNode, order: u32) -> Result<Option<Vec<Bound>>, ImportError> {
        if let Some(refusal) = refused::refusal(raw) {
            return Err(form(refusal));
        }
        let op = raw.op.as_str();
        let mut w = Writer { builder: self, raw, order };
        let results = match op {
            _ if raw.domain == blocked::DOMAIN => w.blocked(),
            _ if raw.domain != "com.microsoft" => return Ok(None),
            "FusedConv" | "NhwcConv" | "NhwcFusedConv" => w.fused_conv(op != "FusedConv"),
            "FusedGemm" => w.fused_gemm(),
            "FusedMatMul" | "TransposeMatMul" | "FusedMatMulActivation" => w.fused_mat_mul(),
            "GemmFastGelu" => w.gemm_fast_gelu(),
            "MatMulBnb4" => w.mat_mul_bnb4(),
            "NhwcMaxPool" => w.channels_last("MaxPool"),
            "QLinearConv" => w.q_linear_conv(),
            "MultiHeadAttention" => w.multi_head(),
            "DecoderMaskedMultiHeadAttention" => w.decoder_masked(),
            "Attention" => w.attention(),
            "QAttention" => w.q_attention(),
            "EmbedLayerNormalization" => w.embed(),
            "QEmbedLayerNormalization" => w.q_embed(),
            "GroupNorm" => w.group_norm(false),
            "SkipGroupNorm" => w.group_norm(true),
            "BiasAdd" => w.bias_add(),
            "BiasSplitGelu" => w.bias_split_gelu(),
            "BiasSoftmax" => w.bias_softmax(),
            "ExpandDims" => w.expand_dims(),
            "Range" => w.range(),
            "Unique" => w.unique(),
            "GridSample" => w.grid_sample(),
            "Trilu" | "Pad" | "GatherND" => w.same(op),
            _ => return Ok(None),
        }?;
        let mut bound = Vec::with_capacity(raw.outputs.len());
        for (out, name) in raw.outputs.iter().enumerate() {
            bound.push(match results.get(out).copied() {
                Some(Some(known)) => Bound::One(known),
                _ if name.is_empty() => Bound::Nothing,
                Some(None) => return Err(form(format!("output {out} ({name:?}) is not supported: leave it out"))),
                None => return Err(Kind::Outputs { given: raw.outputs.len(), has: results.len() }.into()),
            });
        }
        Ok(Some(bound))
    }
}

impl Writer<'_, '_> {
    fn operand(&self, slot: usize) -> Result<Option<Known>, ImportError> {
        self.builder.operand(self.raw, slot)
    }

    fn required(&self, slot: usize) -> Result<Known, ImportError> {
        self.builder.required(self.raw, slot)
    }

    /// All operands, absent ones among them.
    fn operands(&self) -> Result<Vec<Option<Known>>, ImportError> {
        (0..self.raw.inputs.len()).map(|slot| self.operand(slot)).collect()
    }

    /// The data of operand `slot`, which must be a constant.
    fn data(&self, slot: usize) -> Result<&Tensor, ImportError> {
        let known = self.required(slot)?;
        self.builder.tensor(known).ok_or_else(|| match self.builder.input_behind(known) {
            Some(name) => Kind::FreeInput { slot, name }.into(),
            None => form(format!("operand {slot} is computed while the program runs, and must be a constant")),
        })
    }

    fn ty(&self, known: Known) -> &TensorType {
        self.builder.ty(known)
    }

    fn rank(&self, known: Known) -> usize {
        self.ty(known).shape.rank()
    }

    /// Size `axis` of a value.
    fn dim(&self, known: Known, axis: usize) -> Result<Dim, ImportError> {
        let ty = self.ty(known);
        ty.shape.0.get(axis).cloned().ok_or_else(|| form(format!("{ty} where {} axes are expected", axis + 1)))
    }

    /// Size `axis` of a value, which must be known.
    fn size(&self, known: Known, axis: usize) -> Result<i64, ImportError> {
        self.dim(known, axis)?
            .known()
            .ok_or_else(|| form(format!("{}: the size of axis {axis} must be known", self.ty(known))))
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.raw.attrs.int(name).unwrap_or(default)
    }

    /// Refuses attributes that the operator does not have.
    fn only(&self, names: &[&str]) -> Result<(), ImportError> {
        match self.raw.attrs.0.keys().find(|name| !names.contains(&name.as_str())) {
            Some(name) => Err(Kind::Attribute { name: name.clone(), problem: "is not supported".to_owned() }.into()),
            None => Ok(()),
        }
    }

    /// The attributes but those named.
    fn without(&self, names: &[&str]) -> Attrs {
        let mut attrs = self.raw.attrs.clone();
        attrs.0.retain(|name, _| !names.contains(&name.as_str()));
        attrs
    }

    /// The attributes of these names.
    fn with(&self, names: &[&str]) -> Attrs {
        let mut attrs = self.raw.attrs.clone();
        attrs.0.retain(|name, _| names.contains(&name.as_str()));
        attrs
    }

    /// A node named `name` with `n` results.
    fn node(
        &mut self,
        name: String,
        op: &str,
        operands: &[Option<Known>],
        attrs: Attrs,
        n: usize,
    ) -> Result<Vec<Known>, ImportError> {
        let given: Vec<Known> = operands.iter().flatten().copied().collect();
        let mut next = 0..;
        let inputs = operands.iter().map(|o| o.and_then(|_| next.next()).map_or(In::Absent, In::Earlier)).collect();
        let draft = Draft { name, op: op.to_owned(), inputs, outputs: vec![String::new(); n], attrs };
        let (domain, bare) = op.split_once("::").unwrap_or(("", op));
        let bare = RawNode {
            name: self.raw.name.clone(),
            domain: domain.to_owned(),
            op: bare.to_owned(),
            ..RawNode::default()
        };
        Ok(self.builder.add(draft, &bare, self.order, &given)?.into_iter().map(|o| o.1).collect())
    }

    /// A node that prepares or completes.
    fn op(&mut self, op: &str, operands: &[Known], attrs: Attrs) -> Result<Known, ImportError> {
        self.builder.made(self.raw, op, operands, attrs, self.order)
    }

    /// The node that the operator is about, which keeps its name.
    fn main(&mut self, op: &str, operands: &[Option<Known>], attrs: Attrs) -> Result<Known, ImportError> {
        let results = self.node(self.raw.name.clone(), op, operands, attrs, 1)?;
        results.first().copied().ok_or_else(|| form("a node without output"))
    }

    fn plain(&mut self, op: &str, operands: &[Known]) -> Result<Known, ImportError> {
        self.op(op, operands, Attrs::new())
    }

    fn constant(&mut self, tensor: Tensor) -> Known {
        let name = self.builder.fresh(&format!("{}.const", self.raw.name));
        self.builder.add_pending(&name, &name, tensor, Some(self.order))
    }

    /// A list of integers.
    fn ints(&mut self, values: &[i64]) -> Result<Known, ImportError> {
        Ok(self.constant(Tensor::from_i64s(DType::I64, &[values.len()], values).map_err(form)?))
    }

    /// A scalar.
    fn float(&mut self, dtype: DType, value: f32) -> Result<Known, ImportError> {
        Ok(self.constant(Tensor::from_f32s(dtype, &[], &[value]).map_err(form)?))
    }

    /// A scalar of the type of `like`.
    fn float_like(&mut self, like: Known, value: f32) -> Result<Known, ImportError> {
        self.float(self.ty(like).dtype, value)
    }

    fn cast(&mut self, x: Known, to: DType) -> Result<Known, ImportError> {
        if self.ty(x).dtype == to { Ok(x) } else { self.op("Cast", &[x], Attrs::new().with_dtype("to", to)) }
    }

    /// Another shape: ONNX Reshape, 0 keeps a size and -1 is what is left.
    fn reshape(&mut self, x: Known, sizes: &[i64]) -> Result<Known, ImportError> {
        let sizes = self.ints(sizes)?;
        self.plain("Reshape", &[x, sizes])
    }

    fn transpose(&mut self, x: Known, perm: &[usize]) -> Result<Known, ImportError> {
        self.op("Transpose", &[x], Attrs::new().with_ints("perm", perm.iter().map(|&axis| axis as i64)))
    }

    fn unsqueeze(&mut self, x: Known, axes: &[i64]) -> Result<Known, ImportError> {
        let axes = self.ints(axes)?;
        self.plain("Unsqueeze", &[x, axes])
    }

    /// Elements `start..end` of an axis.
    fn slice(&mut self, x: Known, axis: usize, start: i64, end: i64) -> Result<Known, ImportError> {
        let (start, end, axis) = (self.ints(&[start])?, self.ints(&[end])?, self.ints(&[axis as i64])?);
        self.plain("Slice", &[x, start, end, axis])
    }

    /// Element `at` of an axis, which goes.
    fn pick(&mut self, x: Known, axis: usize, at: i64) -> Result<Known, ImportError> {
        let at = self.constant(Tensor::from_i64s(DType::I64, &[], &[at]).map_err(form)?);
        self.op("Gather", &[x, at], Attrs::new().with_int("axis", axis as i64))
    }

    /// Size `axis` of a value as a list of one integer.
    fn size_of(&mut self, x: Known, axis: i64) -> Result<Known, ImportError> {
        self.op("Shape", &[x], Attrs::new().with_int("start", axis).with_int("end", axis + 1))
    }

    /// `[N,...,C]` as `[N,C,...]`.
    fn channels_first(&mut self, x: Known) -> Result<Known, ImportError> {
        let rank = self.rank(x);
        let perm: Vec<usize> = [0, rank.saturating_sub(1)].into_iter().chain(1..rank.saturating_sub(1)).collect();
        if rank < 3 { Err(form(format!("{}: [N,...,C] is expected", self.ty(x)))) } else { self.transpose(x, &perm) }
    }

    /// `[N,C,...]` as `[N,...,C]`.
    fn channels_behind(&mut self, x: Known) -> Result<Known, ImportError> {
        let perm: Vec<usize> = [0].into_iter().chain(2..self.rank(x)).chain([1]).collect();
        self.transpose(x, &perm)
    }

    /// The operator of ONNX of the same name and form.
    fn same(&mut self, op: &str) -> Results {
        let operands = self.operands()?;
        Ok(vec![Some(self.main(op, &operands, self.raw.attrs.clone())?)])
    }

    /// `ExpandDims(x, axis)`.
    fn expand_dims(&mut self) -> Results {
        let (x, axis) = (self.required(0)?, self.required(1)?);
        let axis = self.cast(axis, DType::I64)?;
        let axis = self.reshape(axis, &[1])?;
        Ok(vec![Some(self.main("Unsqueeze", &[Some(x), Some(axis)], Attrs::new())?)])
    }

    /// `Range(start, limit, delta?)`: scalars or lists of one.
    fn range(&mut self) -> Results {
        let mut operands = Vec::new();
        for slot in 0..2 {
            let bound = self.required(slot)?;
            operands.push(Some(self.reshape(bound, &[])?));
        }
        let delta = match self.operand(2)? {
            Some(delta) => self.reshape(delta, &[])?,
            None => {
                let dtype = self.ty(self.required(0)?).dtype;
                let one = if dtype.is_float() {
                    Tensor::from_f32s(dtype, &[], &[1.0])
                } else {
                    Tensor::from_i64s(dtype, &[], &[1])
                };
                self.constant(one.map_err(form)?)
            }
        };
        operands.push(Some(delta));
        Ok(vec![Some(self.main("Range", &operands, Attrs::new())?)])
    }

    /// `Unique(x)`: what there is in order of appearance, which of it each element is, and how often it occurs.
    fn unique(&mut self) -> Results {
        let x = self.required(0)?;
        let attrs = Attrs::new().with_int("sorted", 0);
        let results = self.node(self.raw.name.clone(), "Unique", &[Some(x)], attrs, 4)?;
        Ok([0, 2, 3].iter().map(|&out| results.get(out).copied()).collect())
    }

    /// `GridSample(x, grid)`: the form of opset 16.
    fn grid_sample(&mut self) -> Results {
        let operands = self.operands()?;
        let mode = match self.raw.attrs.str("mode") {
            None | Some("bilinear") => "linear",
            Some("bicubic") => "cubic",
            Some(other) => other,
        };
        let attrs = self.raw.attrs.clone().with_str("mode", mode);
        Ok(vec![Some(self.main("GridSample", &operands, attrs)?)])
    }
}
