//! Every node in the form of the newest opset, so that operators know one form only.
//!
//! What the years changed falls into few kinds: attributes that became inputs (axes, pads, splits, bounds), operators
//! renamed or split (Upsample, Scatter), defaults and spellings that moved (Softmax's axis, GridSample's modes), and
//! numbers that stand for element types. `docs/import.md` lists the forms. Nodes of other domains pass as they are.

use super::data;
use super::read::RawNode;
use crate::ir::{Attr, Attrs, Class, DType, OpDef, Tensor, TensorError, TensorType};

/// A node in the making.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    /// `domain::operator`, without the domain where it is the default one.
    pub(super) op: String,
    pub(super) inputs: Vec<In>,
    /// Empty where nothing needs one.
    pub(super) outputs: Vec<String>,
    pub(super) attrs: Attrs,
}

/// An operand of a draft.
#[derive(Clone, Debug)]
pub(super) enum In {
    /// An optional one that is not given.
    Absent,
    /// A value of the file.
    Value(String),
    /// The first output of an earlier draft of the same node.
    Earlier(usize),
    /// A new constant, named after the node and this.
    Const(&'static str, Tensor),
}

/// What is known of values before a node.
pub(super) trait Facts {
    /// The type of a value.
    fn type_of(&self, name: &str) -> Option<&TensorType>;
    /// The data of a value, where it is a constant.
    fn data_of(&self, name: &str) -> Option<&Tensor>;
}

/// Why a node has no newest form.
type Refusal = String;

/// Attributes that mean nothing to inference where they have this value; `None` is any. Dropped from operators that do
/// not know them.
const NEUTRAL: &[(&str, Option<Attr>)] = &[
    ("momentum", None),
    ("seed", None),
    ("training_mode", Some(Attr::Int(0))),
    ("storage_order", Some(Attr::Int(0))),
    ("saturate", Some(Attr::Int(1))),
    ("stash_type", Some(Attr::Int(1))),
    ("noop_with_empty_axes", Some(Attr::Int(0))),
    ("allowzero", Some(Attr::Int(0))),
    ("batch_dims", Some(Attr::Int(0))),
    ("layout", Some(Attr::Int(0))),
    ("block_size", Some(Attr::Int(0))),
    ("ceil_mode", Some(Attr::Int(0))),
    ("select_last_index", Some(Attr::Int(0))),
    ("is_test", None),
    ("consumed_inputs", None),
];

/// Attributes whose numbers are element types.
const DTYPES: &[(&str, &str)] = &[
    ("Cast", "to"),
    ("BitCast", "to"),
    ("EyeLike", "dtype"),
    ("RandomNormal", "dtype"),
    ("RandomNormalLike", "dtype"),
    ("RandomUniform", "dtype"),
    ("RandomUniformLike", "dtype"),
    ("Bernoulli", "dtype"),
    ("Multinomial", "dtype"),
    ("HannWindow", "output_datatype"),
    ("HammingWindow", "output_datatype"),
    ("BlackmanWindow", "output_datatype"),
    ("MelWeightMatrix", "output_datatype"),
    ("QuantizeLinear", "output_dtype"),
    ("QuantizeLinear", "precision"),
    ("DequantizeLinear", "output_dtype"),
    ("Attention", "softmax_precision"),
];

/// Operators whose number of outputs says something, so that unneeded ones stay.
const COUNTED: &[&str] = &["Split", "If", "Loop", "Scan"];

impl Draft {
    /// The node as the file has it.
    pub(super) fn new(raw: &RawNode) -> Draft {
        let op = raw.key();
        let inputs = raw.inputs.iter().map(|i| if i.is_empty() { In::Absent } else { In::Value(i.clone()) }).collect();
        let mut outputs = raw.outputs.clone();
        while outputs.len() > 1 && !COUNTED.contains(&op.as_str()) && outputs.last().is_some_and(String::is_empty) {
            outputs.pop();
        }
        Draft { name: raw.name.clone(), op, inputs, outputs, attrs: raw.attrs.clone() }
    }

    fn helper(&self, op: &str, suffix: &str, inputs: Vec<In>, attrs: Attrs) -> Draft {
        Draft {
            name: format!("{}.{suffix}", self.name),
            op: op.to_owned(),
            inputs,
            outputs: vec![String::new()],
            attrs,
        }
    }

    fn input(&self, slot: usize) -> In {
        self.inputs.get(slot).cloned().unwrap_or(In::Absent)
    }

    fn set(&mut self, slot: usize, input: In) {
        if self.inputs.len() <= slot {
            self.inputs.resize(slot + 1, In::Absent);
        }
        self.inputs[slot] = input;
    }

    fn take_ints(&mut self, name: &'static str) -> Result<Option<Vec<i64>>, Refusal> {
        match self.attrs.0.remove(name) {
            None => Ok(None),
            Some(Attr::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(format!("attribute {name} is no list of integers")),
        }
    }

    fn take_int(&mut self, name: &'static str) -> Result<Option<i64>, Refusal> {
        match self.attrs.0.remove(name) {
            None => Ok(None),
            Some(Attr::Int(value)) => Ok(Some(value)),
            Some(_) => Err(format!("attribute {name} is no integer")),
        }
    }

    fn take_float(&mut self, name: &'static str) -> Result<Option<f32>, Refusal> {
        match self.attrs.0.remove(name) {
            None => Ok(None),
            Some(Attr::Float(value)) => Ok(Some(value)),
            Some(_) => Err(format!("attribute {name} is no float")),
        }
    }

    fn take_str(&mut self, name: &'static str) -> Result<Option<String>, Refusal> {
        match self.attrs.0.remove(name) {
            None => Ok(None),
            Some(Attr::Str(value)) => Ok(Some(value)),
            Some(_) => Err(format!("attribute {name} is no text")),
        }
    }

    /// Makes the integers of an attribute operand `slot`, where the attribute is given.
    fn ints_to_input(&mut self, name: &'static str, slot: usize) -> Result<(), Refusal> {
        if let Some(values) = self.take_ints(name)? {
            self.set(slot, ints(name, &values)?);
        }
        Ok(())
    }

    /// The type of operand `slot`.
    fn ty<'f>(&self, slot: usize, facts: &'f dyn Facts) -> Result<&'f TensorType, Refusal> {
        match self.inputs.get(slot) {
            Some(In::Value(name)) => facts.type_of(name),
            _ => None,
        }
        .ok_or_else(|| format!("operand {slot} is missing"))
    }

    /// A float as a scalar of the type of operand 0.
    fn scalar_like(&self, suffix: &'static str, value: f32, facts: &dyn Facts) -> Result<In, Refusal> {
        let dtype = self.ty(0, facts)?.dtype;
        let tensor = if dtype.class() == Class::Int {
            Tensor::from_i64s(dtype, &[], &[value as i64])
        } else {
            Tensor::from_f32s(dtype, &[], &[value])
        };
        constant(suffix, tensor)
    }

    /// Whether operand `slot` is a constant without elements, which is how exporters leave optional ones out.
    fn is_empty(&self, slot: usize, facts: &dyn Facts) -> bool {
        let Some(In::Value(name)) = self.inputs.get(slot) else { return false };
        facts.data_of(name).is_some_and(|t| t.ty().shape.n_elems() == Some(0))
    }
}

fn constant(suffix: &'static str, tensor: Result<Tensor, TensorError>) -> Result<In, Refusal> {
    tensor.map(|t| In::Const(suffix, t)).map_err(|e| e.to_string())
}

fn ints(suffix: &'static str, values: &[i64]) -> Result<In, Refusal> {
    constant(suffix, Tensor::from_i64s(DType::I64, &[values.len()], values))
}

/// The nodes that `draft`, of the default domain's `opset`, is in the newest one; the last computes its outputs.
pub(super) fn normalize(mut draft: Draft, opset: i64, facts: &dyn Facts) -> Result<Vec<Draft>, Refusal> {
    for (op, attr) in DTYPES {
        if draft.op == *op
            && let Some(number) = draft.take_int(attr)?
            && number != 0
        {
            let dtype =
                i32::try_from(number).map_err(|_| format!("attribute {attr} is {number}")).and_then(data::dtype)?;
            draft.attrs.0.insert((*attr).to_owned(), Attr::DType(dtype));
        }
    }
    if opset < 7
        && let Some(column) = before_7(&mut draft, facts)?
    {
        return Ok(vec![column, draft]);
    }
    match draft.op.as_str() {
        "Softmax" | "LogSoftmax" | "Hardmax" if opset < 13 => return coerced_softmax(draft, facts),
        "GroupNormalization" if opset < 21 => return per_channel(draft, facts),
        "Squeeze" | "Unsqueeze" if opset < 13 => draft.ints_to_input("axes", 1)?,
        "ReduceSum" if opset < 13 => draft.ints_to_input("axes", 1)?,
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSumSquare"
            if opset < 18 =>
        {
            draft.ints_to_input("axes", 1)?;
        }
        "Slice" if opset < 10 => {
            for (slot, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
                draft.ints_to_input(name, slot)?;
            }
        }
        "Split" => split(&mut draft, opset)?,
        "Clip" if opset < 11 => {
            for (slot, name) in [(1, "min"), (2, "max")] {
                if let Some(value) = draft.take_float(name)? {
                    let bound = draft.scalar_like(name, value, facts)?;
                    draft.set(slot, bound);
                }
            }
        }
        "Pad" if opset < 11 => {
            draft.ints_to_input("pads", 1)?;
            if let Some(value) = draft.take_float("value")? {
                let value = draft.scalar_like("value", value, facts)?;
                draft.set(2, value);
            }
        }
        "Dropout" if opset < 12 => {
            if let Some(ratio) = draft.take_float("ratio")? {
                draft.set(1, constant("ratio", Tensor::from_f32s(DType::F32, &[], &[ratio]))?);
            }
        }
        "TopK" if opset < 10 => {
            let k = draft.take_int("k")?.ok_or("attribute k is missing")?;
            draft.set(1, ints("k", &[k])?);
        }
        "Upsample" | "Resize" => {
            resize(&mut draft, opset, facts)?;
            return of_codes(draft, facts);
        }
        "BatchNormalization" if opset < 14 => batch_norm(&mut draft)?,
        "CastLike" if draft.inputs.len() == 2 => {
            let to = draft.ty(1, facts)?.dtype;
            "Cast".clone_into(&mut draft.op);
            draft.inputs.truncate(1);
            draft.attrs = std::mem::take(&mut draft.attrs).with_dtype("to", to);
        }
        "Scatter" => "ScatterElements".clone_into(&mut draft.op),
        "DFT" if opset < 20 => {
            let axis = draft.take_int("axis")?.unwrap_or(1);
            draft.set(2, constant("axis", Tensor::from_i64s(DType::I64, &[], &[axis]))?);
        }
        "GridSample" if opset < 20 => {
            if let Some(mode) = draft.take_str("mode")? {
                let mode = match mode.as_str() {
                    "bilinear" => "linear",
                    "bicubic" => "cubic",
                    other => other,
                };
                draft.attrs = draft.attrs.with_str("mode", mode);
            }
        }
        "RoiAlign" if opset < 16 => {
            draft.attrs = draft.attrs.with_str("coordinate_transformation_mode", "output_half_pixel")
        }
        "Scan" if opset < 9 => return Err("the batched Scan of opset 8 is not supported".to_owned()),
        _ => {}
    }
    Ok(vec![draft])
}

/// Opset 6: an operand is broadcast where `broadcast` says so, its first axis against `axis` of the other, and training
/// is the default. Gives the node that puts axes after those of operand 1, where it needs them.
fn before_7(draft: &mut Draft, facts: &dyn Facts) -> Result<Option<Draft>, Refusal> {
    match draft.op.as_str() {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "And" | "Or" | "Xor" | "Equal" | "Greater" | "Less" => {
            let is_broadcast = draft.take_int("broadcast")?.unwrap_or(0) != 0;
            let axis = draft.take_int("axis")?;
            let (a, b) = (draft.ty(0, facts)?, draft.ty(1, facts)?);
            let (rank, own) = (a.shape.rank(), b.shape.rank());
            let Some(axis) = axis.filter(|_| is_broadcast) else { return Ok(None) };
            let axis = a.shape.axis(axis).ok_or_else(|| format!("axis {axis} of {a}"))?;
            let after =
                rank.checked_sub(axis + own).ok_or_else(|| format!("axis {axis} leaves no room in {a} for {b}"))?;
            columns(draft, own, after)
        }
        // One slope for each channel, which is axis 1.
        "PRelu" => {
            let (x, slope) = (draft.ty(0, facts)?, draft.ty(1, facts)?);
            let after = if slope.shape.rank() == 1 && slope.shape.n_elems() != Some(1) {
                x.shape.rank().saturating_sub(2)
            } else {
                0
            };
            columns(draft, 1, after)
        }
        "Gemm" => {
            draft.take_int("broadcast")?;
            Ok(None)
        }
        "BatchNormalization" | "Dropout" => match draft.take_int("is_test")?.unwrap_or(0) {
            0 => Err(format!("{} without is_test=1 trains in this opset, which is not supported", draft.op)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Puts `after` axes of size 1 after the `rank` ones of operand 1.
fn columns(draft: &mut Draft, rank: usize, after: usize) -> Result<Option<Draft>, Refusal> {
    if after == 0 {
        return Ok(None);
    }
    let axes: Vec<i64> = (rank..rank + after).map(|axis| axis as i64).collect();
    let column = draft.helper("Unsqueeze", "column", vec![draft.input(1), ints("axes", &axes)?], Attrs::new());
    draft.set(1, In::Earlier(0));
    Ok(Some(column))
}

/// Removes attributes that `def` does not know where they mean nothing.
pub(super) fn drop_neutral(def: &OpDef, attrs: &mut Attrs) {
    let is_neutral =
        |name: &str, value: &Attr| NEUTRAL.iter().any(|(n, v)| *n == name && v.as_ref().is_none_or(|v| v == value));
    attrs.0.retain(|name, value| def.has_attr(name) || !is_neutral(name, value));
}

/// Before opset 13 these work on a matrix: all axes before `axis` against all from it on.
fn coerced_softmax(mut draft: Draft, facts: &dyn Facts) -> Result<Vec<Draft>, Refusal> {
    let ty = draft.ty(0, facts)?;
    let rank = ty.shape.rank();
    let axis = draft.take_int("axis")?.unwrap_or(1);
    draft.attrs = draft.attrs.with_int("axis", -1);
    let at = ty.shape.axis(axis).ok_or_else(|| format!("axis {axis} of {ty}"))?;
    // With the last axis alone the matrix has the rows of the tensor.
    if at + 1 == rank {
        return Ok(vec![draft]);
    }
    let x = draft.input(0);
    let flatten = draft.helper("Flatten", "flatten", vec![x.clone()], Attrs::new().with_int("axis", at as i64));
    let mut softmax = draft.helper(&draft.op, "matrix", vec![In::Earlier(0)], Attrs::new());
    softmax.attrs = std::mem::take(&mut draft.attrs);
    let shape = draft.helper("Shape", "shape", vec![x], Attrs::new());
    "Reshape".clone_into(&mut draft.op);
    draft.inputs = vec![In::Earlier(1), In::Earlier(2)];
    Ok(vec![flatten, softmax, shape, draft])
}

/// Before opset 21 scale and bias of GroupNormalization had an element a group, now one a channel.
fn per_channel(mut draft: Draft, facts: &dyn Facts) -> Result<Vec<Draft>, Refusal> {
    let groups =
        draft.attrs.int("num_groups").filter(|&g| g > 0).ok_or("attribute num_groups is missing or not positive")?;
    let channels =
        draft.ty(0, facts)?.shape.0.get(1).and_then(|c| c.known()).ok_or("the number of channels is not known")?;
    if channels % groups != 0 {
        return Err(format!("{channels} channels do not divide into {groups} groups"));
    }
    let mut drafts = Vec::new();
    for (slot, names) in [(1, ["scale.column", "scale.expand", "scale"]), (2, ["bias.column", "bias.expand", "bias"])] {
        let n = drafts.len();
        let column = ints("axes", &[1])?;
        drafts.push(draft.helper("Unsqueeze", names[0], vec![draft.input(slot), column], Attrs::new()));
        drafts.push(draft.helper(
            "Expand",
            names[1],
            vec![In::Earlier(n), ints("shape", &[1, channels / groups])?],
            Attrs::new(),
        ));
        drafts.push(draft.helper("Reshape", names[2], vec![In::Earlier(n + 1), ints("shape", &[-1])?], Attrs::new()));
        draft.set(slot, In::Earlier(n + 2));
    }
    drafts.push(draft);
    Ok(drafts)
}

/// Sizes became an input in opset 13; equal parts are counted since 18.
fn split(draft: &mut Draft, opset: i64) -> Result<(), Refusal> {
    if opset < 13 {
        draft.ints_to_input("split", 1)?;
    }
    if opset < 18 && matches!(draft.input(1), In::Absent) {
        let n = draft.outputs.len() as i64;
        let attrs = std::mem::take(&mut draft.attrs);
        draft.attrs = attrs.with_int("num_outputs", n);
    }
    Ok(())
}

/// Resize of opset 11 and later: x, roi, scales, sizes, with roi only where it means something.
fn resize(draft: &mut Draft, opset: i64, facts: &dyn Facts) -> Result<(), Refusal> {
    if draft.op == "Upsample" || opset < 11 {
        if draft.op == "Upsample" && opset < 9 {
            let Some(Attr::Floats(scales)) = draft.attrs.0.remove("scales") else {
                return Err("attribute scales is missing".to_owned());
            };
            draft.set(1, constant("scales", Tensor::from_f32s(DType::F32, &[scales.len()], &scales))?);
        }
        if let Some(mode) = draft.take_str("mode")? {
            let mode = if mode == "bilinear" { "linear" } else { &mode };
            draft.attrs = std::mem::take(&mut draft.attrs).with_str("mode", mode);
        }
        let attrs = std::mem::take(&mut draft.attrs);
        draft.attrs = attrs.with_str("coordinate_transformation_mode", "asymmetric").with_str("nearest_mode", "floor");
        draft.inputs = vec![draft.input(0), In::Absent, draft.input(1)];
        "Resize".clone_into(&mut draft.op);
        return Ok(());
    }
    if draft.attrs.str("coordinate_transformation_mode") != Some("tf_crop_and_resize") && draft.inputs.len() > 1 {
        draft.set(1, In::Absent);
    }
    for slot in 2..draft.inputs.len() {
        if draft.is_empty(slot, facts) {
            draft.set(slot, In::Absent);
        }
    }
    Ok(())
}

/// A Resize that only chooses elements, of codes of 8 bits: floats hold them all.
fn of_codes(mut draft: Draft, facts: &dyn Facts) -> Result<Vec<Draft>, Refusal> {
    let dtype = draft.ty(0, facts)?.dtype;
    if dtype.class() != Class::Int || dtype.bits() > 8 || draft.attrs.str("mode").unwrap_or("nearest") != "nearest" {
        return Ok(vec![draft]);
    }
    let floats = Attrs::new().with_dtype("to", DType::F32);
    let cast = draft.helper("Cast", "floats", vec![draft.input(0)], floats);
    let inputs = [In::Earlier(0)].into_iter().chain(draft.inputs.drain(1..)).collect();
    let attrs = std::mem::take(&mut draft.attrs);
    let resize = draft.helper("Resize", "resize", inputs, attrs);
    "Cast".clone_into(&mut draft.op);
    draft.inputs = vec![In::Earlier(1)];
    draft.attrs = Attrs::new().with_dtype("to", dtype);
    Ok(vec![cast, resize, draft])
}

/// `spatial` went in opset 9, the outputs of training became three in 14.
fn batch_norm(draft: &mut Draft) -> Result<(), Refusal> {
    if draft.take_int("spatial")?.unwrap_or(1) != 1 {
        return Err("BatchNormalization with spatial=0 is not supported".to_owned());
    }
    if draft.outputs.iter().skip(1).any(|o| !o.is_empty()) {
        return Err("the training outputs of BatchNormalization before opset 14 are not supported".to_owned());
    }
    draft.outputs.truncate(1);
    Ok(())
}
