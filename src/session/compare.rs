//! A program held against its model in f32, value by value, both on the CPU reference.

use super::{CpuError, Reference};
use crate::ir::{DType, Format, Graph, Node, Registry, Tensor};
use crate::passes::{Pin, wide_range};
use crate::program::Program;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Values from here on become the largest of f16, or would be infinite: what is below rounds to it.
const BEYOND_F16: f32 = 65520.0;

/// How far a value is from its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// Name of the value.
    pub name: String,
    /// `10 log10(|x|^2 / |x - y|^2)`, infinite where both are equal.
    pub snr_db: f64,
    /// Cosine of the angle between both.
    pub cosine: f64,
    /// The largest difference of an element.
    pub max_error: f64,
    /// `|x - y| / |x|`.
    pub relative_l2: f64,
}

/// A value that is beyond the range of f16 in f32, stored as f16 all the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Overflow {
    /// The node of the model that computes it.
    pub node: String,
    /// Name of the value.
    pub value: String,
    /// How many elements are beyond f16.
    pub n_beyond: usize,
    /// Of how many.
    pub n_elems: usize,
    /// The largest finite magnitude in f32.
    pub largest: f32,
}

impl Overflow {
    /// The value of `--precision` that stores it wider.
    pub fn pin(&self) -> String {
        Pin::text_for(&self.node, Format::F32)
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Values that both have, in the program's order.
    pub nodes: Vec<Distance>,
    /// Outputs.
    pub outputs: Vec<Distance>,
    /// Values that f16 does not hold.
    pub overflows: Vec<Overflow>,
}

impl Comparison {
    /// Compares `program` with `model`, a graph of the ONNX level in f32, on `given` inputs in the order of the
    /// program's entry and `own` inputs in the order of the graph. Values are taken before they are stored; what is
    /// only added before a softmax, or chosen there, to take elements out is a mask and no overflow. `registry` has the
    /// program's operators.
    ///
    /// # Errors
    /// One of both cannot be computed.
    pub fn of(
        model: Graph,
        own: &[Tensor],
        program: &Program,
        given: &[Tensor],
        registry: &Registry,
    ) -> Result<Comparison, CpuError> {
        let mut values: BTreeMap<String, (String, Tensor)> = BTreeMap::new();
        let mut keep = |node: &Node, results: &[Tensor]| {
            for (value, tensor) in node.outputs.iter().zip(results) {
                values.insert(value.name.clone(), (node.name.clone(), tensor.clone()));
            }
        };
        let masks = masks(&model);
        let expected = Reference::new(model).run_with(own, &mut keep)?;
        let mut found = Comparison::default();
        let mut measure = |node: &Node, results: &[Tensor]| {
            for (value, tensor) in node.outputs.iter().zip(results) {
                let Some((of, reference)) = values.get(&value.name) else { continue };
                found.nodes.extend(Distance::between(&value.name, reference, tensor));
                found.overflows.extend(overflow(of, &value.name, reference, tensor, masks.contains(&value.name)));
            }
        };
        let given = Reference::of(program, 0, registry)?.run_with(given, &mut measure)?;
        let ports = program.entry().into_iter().flat_map(|entry| &entry.outputs);
        found.outputs = ports
            .zip(expected.iter().zip(&given))
            .filter_map(|(port, (a, b))| Distance::between(&port.name, a, b))
            .collect();
        Ok(found)
    }

    /// The largest relative L2 error of an output; NaN where one is.
    pub fn worst(&self) -> f64 {
        // A NaN must not hide behind `f64::max`.
        let worse = |a: f64, b: f64| if b.is_nan() { b } else { a.max(b) };
        self.outputs.iter().map(|d| d.relative_l2).fold(0.0, worse)
    }

    /// As one document: `nodes`, `outputs`, `overflows`, `worst_relative_l2`.
    pub fn to_json(&self) -> Value {
        let row = |d: &Distance| {
            json!({
                "name": d.name, "snr_db": d.snr_db, "cosine": d.cosine, "max_error": d.max_error,
                "relative_l2": d.relative_l2,
            })
        };
        let overflow = |o: &Overflow| {
            json!({
                "node": o.node, "value": o.value, "beyond": o.n_beyond, "of": o.n_elems, "largest": o.largest,
                "limit": f32::from(half::f16::MAX), "precision": o.pin(),
            })
        };
        json!({
            "nodes": self.nodes.iter().map(row).collect::<Vec<_>>(),
            "outputs": self.outputs.iter().map(row).collect::<Vec<_>>(),
            "overflows": self.overflows.iter().map(overflow).collect::<Vec<_>>(),
            "worst_relative_l2": self.worst(),
        })
    }
}

impl Distance {
    /// The distance of `given` from `reference`; `None` for values that are no floats, or of another shape.
    pub fn between(name: &str, reference: &Tensor, given: &Tensor) -> Option<Distance> {
        if !reference.dtype().is_float() || given.ty().packing.is_some() || reference.ty().shape != given.ty().shape {
            return None;
        }
        let (a, b) = (reference.to_f32s().ok()?, given.to_f32s().ok()?);
        let (mut aa, mut bb, mut ab, mut ee, mut max_error) = (0f64, 0f64, 0f64, 0f64, 0f64);
        for (&x, &y) in a.iter().zip(b.iter()) {
            let (x, y) = (f64::from(x), f64::from(y));
            // Infinities that agree are no error.
            let e = if x == y { 0.0 } else { x - y };
            aa += x * x;
            bb += y * y;
            ab += x * y;
            ee += e * e;
            max_error = if e.is_nan() { f64::NAN } else { max_error.max(e.abs()) };
        }
        Some(Distance {
            name: name.to_owned(),
            snr_db: if ee == 0.0 { f64::INFINITY } else { 10.0 * (aa / ee).log10() },
            cosine: if ee == 0.0 { 1.0 } else { ab / (aa * bb).sqrt() },
            max_error,
            relative_l2: if ee == 0.0 { 0.0 } else { (ee / aa).sqrt() },
        })
    }
}

/// The values of a graph that only mask elements before a softmax.
fn masks(graph: &Graph) -> BTreeSet<String> {
    let values = graph.order().into_iter().flat_map(|id| (0..graph.node(id).outputs.len()).map(move |out| id.out(out)));
    values.filter(|value| wide_range::only_masks(graph, *value)).map(|value| graph.value(value).name.clone()).collect()
}

/// Whether the value of a node of the model, which is `reference` in f32, is beyond the range of the f16 that it is
/// stored as. What the model does not have, the program computes in f32 (`ops::widen`), or moves as it is.
fn overflow(node: &str, value: &str, reference: &Tensor, given: &Tensor, is_mask: bool) -> Option<Overflow> {
    // A model of f16 has no other values.
    if given.dtype() != DType::F16 || given.ty().packing.is_some() || reference.dtype() == DType::F16 {
        return None;
    }
    let values = reference.to_f32s().ok()?;
    let is_beyond = |v: &&f32| v.is_finite() && if is_mask { **v >= BEYOND_F16 } else { v.abs() >= BEYOND_F16 };
    let largest = values.iter().filter(is_beyond).fold(0.0f32, |most, v| most.max(v.abs()));
    let n_beyond = values.iter().filter(is_beyond).count();
    let (node, value) = (node.to_owned(), value.to_owned());
    (n_beyond > 0).then_some(Overflow { node, value, n_beyond, n_elems: values.len(), largest })
}
