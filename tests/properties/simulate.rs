//! What a graph with formats must compute, by the words of the formats alone: an implementation apart from the passes,
//! in which the oracle computes the nodes that it knows. And how far rounding may lead: the same with every operand
//! moved at random by about its last bits (Monte Carlo arithmetic, Parker 1997).

use crate::oracle::{self, broadcast_places};
use crate::quantized::{fake_quantized, quantized_activations};
use crate::random::Random;
use nyxc::ir::{Activations, Class, DType, Graph, NodeId, NodeKind, Op, Tensor, TensorType, ValueId, Weights};
use nyxc::ops;
use nyxc::ops::weights;
use std::collections::{BTreeMap, BTreeSet};

/// How far an operand stored as this type is moved, relative to itself: several last bits, for sums in another order
/// and functions of a device.
fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        DType::F64 => 1e-13,
        _ => 1e-6,
    }
}

/// Operators that round nothing where their operands are exact and their results are on the grid.
const EXACT: &[&str] = &[
    "Abs",
    "Neg",
    "Relu",
    "Ceil",
    "Floor",
    "Round",
    "Sign",
    "Identity",
    "Dropout",
    "Max",
    "Min",
    "Add",
    "Sub",
    "Mul",
    "Sum",
    "Where",
    "Cast",
    "CastLike",
    "Gather",
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Expand",
    "Tile",
    "Split",
    "Slice",
    "Pad",
    "Concat",
    "DepthToSpace",
    "SpaceToDepth",
    "Constant",
    "ConstantOfShape",
    "Shape",
    "Size",
    "Clip",
    "LeakyRelu",
    "ReduceMax",
    "ReduceMin",
    "MaxPool",
    "GlobalMaxPool",
    "MatMul",
    "ReduceSum",
];

/// Whether every element is a multiple of 1/64 of at most 16: those are exact in every float type but bf16.
fn on_grid(tensor: &Tensor) -> bool {
    !tensor.dtype().is_float()
        || tensor.dtype() != DType::BF16
            && tensor.to_f32s().unwrap().iter().all(|v| v.abs() <= 16.0 && (v * 64.0).fract() == 0.0)
}

struct Run<'a> {
    graph: &'a Graph,
    values: BTreeMap<ValueId, Tensor>,
    exact: BTreeSet<ValueId>,
    noise: Option<&'a mut Random>,
    /// By how much the narrowest type in the graph rounds.
    narrowest: f64,
    /// Whether some node stores f16.
    narrow: bool,
}

/// The outputs of a graph of the ONNX level, as its formats have it; with `noise`, moved, and floats as f32.
pub fn run(graph: &Graph, inputs: &[Tensor], noise: Option<&mut Random>) -> Result<Vec<Tensor>, String> {
    let values = graph.order().into_iter().flat_map(|id| graph.node(id).outputs.iter().map(|v| v.ty.dtype));
    let narrowest = values.filter(|dtype| dtype.is_float()).map(epsilon).fold(0.0, f64::max);
    let narrow =
        graph.order().iter().any(|id| graph.node(*id).format.is_some_and(|f| f.activations == Activations::F16));
    let mut run = Run { graph, values: BTreeMap::new(), exact: BTreeSet::new(), noise, narrowest, narrow };
    for (id, tensor) in graph.inputs().iter().zip(inputs) {
        run.set(id.out(0), tensor.clone(), true);
    }
    for id in graph.order() {
        match &graph.node(id).kind {
            NodeKind::Input => {}
            NodeKind::State => return Err("the simulation has no states".to_owned()),
            NodeKind::Const(tensor) => run.set(id.out(0), tensor.clone(), true),
            NodeKind::Op(op) => {
                run.node(id, op).map_err(|e| format!("simulation of node {:?}: {e}", graph.node(id).name))?
            }
        }
    }
    let output = |o: &nyxc::ir::Output| {
        let (value, dtype) = (&run.values[&o.value], graph.ty(o.value).dtype);
        if run.noise.is_none() && dtype.is_float() { stored(value, dtype) } else { value.clone() }
    };
    Ok(graph.outputs().iter().map(output).collect())
}

fn stored(tensor: &Tensor, dtype: DType) -> Tensor {
    if tensor.dtype() == dtype {
        return tensor.clone();
    }
    Tensor::from_f64s(dtype, &tensor.dims(), &tensor.to_f64s().unwrap()).unwrap()
}

/// The type in which floats are moved: f64 for f64, which formats leave as it is, else f32.
fn moved_as(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Every float of a tensor made another.
fn each(tensor: &Tensor, f: impl FnMut(f64) -> f64) -> Tensor {
    let values: Vec<f64> = tensor.to_f64s().unwrap().into_iter().map(f).collect();
    match moved_as(tensor.dtype()) {
        DType::F64 => Tensor::from_f64s(DType::F64, &tensor.dims(), &values).unwrap(),
        dtype => {
            let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            Tensor::from_f32s(dtype, &tensor.dims(), &values).unwrap()
        }
    }
}

/// The largest magnitude.
fn most(tensor: &Tensor) -> f64 {
    tensor.to_f64s().unwrap().into_iter().fold(0.0, |most, v| most.max(v.abs()))
}

impl Run<'_> {
    fn set(&mut self, value: ValueId, tensor: Tensor, may_be_exact: bool) {
        if may_be_exact && on_grid(&tensor) {
            self.exact.insert(value);
        }
        let wide = self.noise.is_some() && tensor.dtype().is_float();
        self.values.insert(value, if wide { stored(&tensor, moved_as(tensor.dtype())) } else { tensor });
    }

    fn moved(&mut self, tensor: &Tensor, epsilon: f64) -> Tensor {
        let Some(random) = &mut self.noise else { return tensor.clone() };
        let floor = if epsilon > 1e-4 { 1e-7 } else { 1.2e-38 };
        each(tensor, |v| v + v * epsilon * f64::from(random.unit()) + floor * f64::from(random.unit()))
    }

    /// Moved by as much as `most`, whatever its size: a small result is the difference of larger ones.
    fn shifted(&mut self, tensor: &Tensor, most: f64) -> Tensor {
        let Some(random) = &mut self.noise else { return tensor.clone() };
        each(tensor, |v| v + most * f64::from(random.unit()))
    }

    /// The smallest that a float may be without being stored as 0: devices may flush what is not normal (Vulkan 1.3,
    /// "Precision and Operation of SPIR-V Instructions"), here or where it was before.
    fn least_normal(&self) -> f64 {
        if self.narrow { 6.2e-5 } else { 1.2e-38 }
    }

    /// What is beyond f16 as storing makes it, the largest f16, or as a kernel keeps it for its next operator.
    fn perhaps_largest(&mut self, tensor: &Tensor) -> Tensor {
        let largest = 65504.0;
        let Some(random) = self.noise.as_mut().filter(|_| most(tensor) > largest) else { return tensor.clone() };
        let is_beyond = |v: f64| v.is_finite() && v.abs() > largest;
        each(tensor, |v| if is_beyond(v) && random.unit() > 0.0 { v.clamp(-largest, largest) } else { v })
    }

    /// Truth values, either of them where floats are so near to 0, or next to nothing beside the others, that they may
    /// be 0.
    fn perhaps_true(&mut self, x: &Tensor, truth: &Tensor, next_to_nothing: f64) -> Result<Tensor, String> {
        let normal = self.least_normal().max(1e-30);
        let Some(random) = self.noise.as_mut().filter(|_| x.dtype().is_float()) else { return Ok(truth.clone()) };
        let least = normal.max(next_to_nothing * most(x));
        let (x, values) = (x.to_f64s().unwrap(), truth.to_i64s().unwrap());
        let either = |(x, v): (&f64, i64)| if x.abs() < least { i64::from(random.unit() > 0.0) } else { v };
        Tensor::from_i64s(DType::Bool, &truth.dims(), &x.iter().zip(values).map(either).collect::<Vec<_>>())
            .map_err(|e| e.to_string())
    }

    /// Integers and truth values of floats that say nothing (NaN) say nothing either: they are anything where operands,
    /// single elements as results are, are NaN, and everywhere where results are not of single elements.
    fn unknown(&mut self, operands: &[Option<&Tensor>], result: Tensor) -> Result<Tensor, String> {
        let has_nan = |t: &Tensor| t.dtype().is_float() && t.to_f64s().unwrap().iter().any(|v| v.is_nan());
        if result.dtype().is_float() || !operands.iter().flatten().any(|t| has_nan(t)) {
            return Ok(result);
        }
        let values = result.to_i64s().unwrap();
        let mut free = vec![false; values.len()];
        for operand in operands.iter().flatten().filter(|t| has_nan(t)) {
            let x = operand.to_f64s().unwrap();
            match broadcast_places(&operand.dims(), &result.dims()) {
                Some(places) => free.iter_mut().zip(places).for_each(|(free, place)| *free |= x[place].is_nan()),
                None => free.fill(true),
            }
        }
        let random = self.noise.as_mut().ok_or("no noise")?;
        let other = |(v, free): (i64, bool)| if free && random.unit() > 0.0 { v ^ 1 } else { v };
        Tensor::from_i64s(result.dtype(), &result.dims(), &values.into_iter().zip(free).map(other).collect::<Vec<_>>())
            .map_err(|e| e.to_string())
    }

    /// Whether floats are equal: either where they are next to each other, since rounding decides.
    fn perhaps_equal(&mut self, operands: &[Option<&Tensor>], equal: &Tensor) -> Result<Tensor, String> {
        if !operands.iter().flatten().all(|t| t.dtype().is_float()) {
            return Ok(equal.clone());
        }
        let of = |onnx: &str| {
            let def = ops::registry().by_onnx(onnx).ok_or("no operator")?;
            ops::reference::evaluate(&Op::new(def, nyxc::ir::Attrs::new()), operands, 1).map_err(|e| e.to_string())
        };
        let (apart, sums) = (of("Sub")?.remove(0), of("Add")?.remove(0));
        let (apart, sums) = (apart.to_f64s().unwrap(), sums.to_f64s().unwrap());
        let least = self.narrowest.max(1.0 / 1024.0);
        let normal = self.least_normal();
        let near = |i: usize| apart[i].abs() <= (4.0 * least * sums[i].abs()).max(normal);
        let values = equal.to_i64s().unwrap();
        let random = self.noise.as_mut().ok_or("no noise")?;
        let values: Vec<i64> =
            values.iter().enumerate().map(|(i, &v)| if near(i) { i64::from(random.unit() > 0.0) } else { v }).collect();
        Tensor::from_i64s(DType::Bool, &equal.dims(), &values).map_err(|e| e.to_string())
    }

    fn node(&mut self, id: NodeId, op: &Op) -> Result<(), String> {
        let node = self.graph.node(id);
        let format = node.format;
        let wanted = format.map(|f| if f.activations == Activations::F16 { DType::F16 } else { DType::F32 });
        let found = weights::of(self.graph, id);
        let mut operands = Vec::new();
        let mut exact = EXACT.contains(&op.def.onnx);
        for (slot, value) in self.graph.operands(id).into_iter().enumerate() {
            let Some(value) = value else {
                operands.push(None);
                continue;
            };
            let mut tensor = self.values[&value].clone();
            let mut is_exact = self.exact.contains(&value);
            if tensor.dtype().is_float() {
                let rounds = rounding(self.graph.ty(value).dtype, wanted);
                match (found.as_ref().filter(|f| f.slot == slot), format) {
                    (Some(found), Some(format))
                        if format.has_int_weights() || format.tail.is_some() || format.weights == Weights::F16 =>
                    {
                        tensor = fake_quantized(found, format, self.graph)?;
                        is_exact = on_grid(&tensor);
                    }
                    // Operands are read as they are stored.
                    _ => {}
                }
                if !is_exact && !keeps_type(op, slot) {
                    tensor = self.moved(&tensor, rounds);
                }
                let products = found.as_ref().is_some_and(|f| f.has_products);
                if slot == 0
                    && products
                    && format
                        .is_some_and(|f| f.activations == Activations::I8 && (f.has_int_weights() || f.tail.is_some()))
                {
                    tensor = quantized_activations(&tensor, op)?;
                    is_exact = false;
                }
                exact &= is_exact;
            }
            operands.push(Some(tensor));
        }
        // What was rounded to f16 before may be 0 there, whatever this node computes in.
        let next_to_nothing =
            4.0 * epsilon(if self.narrow { DType::F16 } else { wanted.unwrap_or(DType::F32) }).max(self.narrowest);
        if let (true, "Reciprocal", Some(Some(x))) = (self.noise.is_some(), op.def.onnx, operands.first_mut()) {
            *x = without_cancelled(x, next_to_nothing);
        }
        if let (true, "Mod" | "Div", Some(Some(divisor))) = (self.noise.is_some(), op.def.onnx, operands.get_mut(1))
            && divisor.dtype().is_float()
        {
            *divisor = without_cancelled(divisor, next_to_nothing);
            // A remainder of a quotient beyond f32's integers has no digit that is right on a device
            // (docs/core-operators.md).
            if let ("Mod", [Some(dividend), Some(divisor)]) = (op.def.onnx, &mut operands[..]) {
                *divisor = without_below(divisor, most(dividend) / 4e6);
            }
        }
        // Operators read operands of one type: the wider, where they are stored in two.
        let is_activation =
            |(slot, t): &(usize, &Option<Tensor>)| t.as_ref().is_some_and(is_half_or_wider) && !keeps_type(op, *slot);
        let mut types =
            operands.iter().enumerate().filter(is_activation).filter_map(|(_, t)| Some(t.as_ref()?.dtype()));
        let first = types.next();
        if types.any(|dtype| Some(dtype) != first) {
            for (slot, operand) in operands.iter_mut().enumerate() {
                if let Some(tensor) = operand.as_mut().filter(|t| is_half_or_wider(t) && !keeps_type(op, slot)) {
                    *tensor = stored(tensor, DType::F32);
                }
            }
        }
        // A Cast rounds what was moved, so that a value next to where rounding turns may be either.
        let borrowed: Vec<_> = operands.iter().map(Option::as_ref).collect();
        let mut results = match oracle::evaluate(op, &borrowed, node.outputs.len()) {
            Some(results) => results,
            None => ops::reference::evaluate(op, &borrowed, node.outputs.len()).map_err(|e| e.to_string())?,
        };
        if self.noise.is_some() {
            results = match (op.def.onnx, &borrowed[..]) {
                ("Equal", _) if !exact => vec![self.perhaps_equal(&borrowed, &results[0])?],
                ("Cast" | "CastLike", [Some(x), ..]) if results[0].dtype() == DType::Bool => {
                    vec![self.perhaps_true(x, &results[0], next_to_nothing)?]
                }
                ("ReduceProd", [Some(x), rest @ ..]) if x.dtype().is_float() => {
                    vec![products_in_any_order(op, x, rest, &results[0])?]
                }
                _ if oracle::squares_beyond_f32(op, &borrowed) => {
                    results.iter().map(|t| without_below(t, f64::INFINITY)).collect()
                }
                _ => results,
            };
            results = results.into_iter().map(|result| self.unknown(&borrowed, result)).collect::<Result<_, _>>()?;
        }
        for (out, tensor) in results.into_iter().enumerate() {
            if out >= node.outputs.len() {
                break;
            }
            // An output is stored as the model has it, for all that read it.
            let wanted = wanted.filter(|_| !self.graph.is_output(id.out(out)));
            let tensor = match wanted {
                Some(wanted) if is_stored(&tensor) && self.noise.is_none() => stored(&tensor, wanted),
                Some(DType::F16) if is_stored(&tensor) => self.perhaps_largest(&tensor),
                _ => tensor,
            };
            let (own, rounds) = (node.outputs[out].ty.dtype, rounding(node.outputs[out].ty.dtype, wanted));
            let is_exact = exact && on_grid(&tensor);
            let tensor = if tensor.dtype().is_float() && !is_exact { self.moved(&tensor, rounds) } else { tensor };
            // Near 0 these are the difference of larger numbers, whose last bits a device may have otherwise.
            let tensor = match op.def.onnx {
                "Elu" | "Celu" | "Selu" if own == DType::F64 => self.shifted(&tensor, 1e-15),
                "Gelu" if own == DType::F64 => self.shifted(&tensor, 1e-8),
                "Elu" | "Celu" | "Selu" => self.shifted(&tensor, 4e-7),
                "Gelu" => self.shifted(&tensor, 1e-6),
                "Resize" if op.attrs.str("mode").is_some_and(|mode| mode != "nearest") => {
                    // Places are quotients, of which a device may have some last bits otherwise; between neighbours
                    // that are far apart they count.
                    let x = operands[0].as_ref().ok_or("no operand")?;
                    let longest = x.dims().into_iter().max().unwrap_or(1) as f64;
                    self.shifted(&tensor, 3e-7 * longest * most(x))
                }
                _ => tensor,
            };
            self.set(id.out(out), tensor, is_exact);
        }
        Ok(())
    }
}

/// NaN, which says nothing, for products of which a part may be beyond what a float holds: kernels multiply in an order
/// of their own.
fn products_in_any_order(op: &Op, x: &Tensor, rest: &[Option<&Tensor>], products: &Tensor) -> Result<Tensor, String> {
    let extreme = |part: fn(f32) -> f32| {
        let values: Vec<f32> = x.to_f32s().unwrap().iter().map(|v| part(v.abs())).collect();
        let x = Tensor::from_f32s(DType::F32, &x.dims(), &values).map_err(|e| e.to_string())?;
        let operands: Vec<_> = [Some(&x)].into_iter().chain(rest.iter().copied()).collect();
        ops::reference::evaluate(op, &operands, 1).map(|mut all| all.remove(0)).map_err(|e| e.to_string())
    };
    let (least, most) = (extreme(|v| v.min(1.0))?, extreme(|v| v.max(1.0))?);
    let (least, most) = (least.to_f32s().unwrap(), most.to_f32s().unwrap());
    let values = products.to_f32s().unwrap();
    let values: Vec<f32> = values
        .iter()
        .enumerate()
        .map(|(i, &v)| if least[i] < 1e-36 || most[i] > 1e36 { f32::NAN } else { v })
        .collect();
    Tensor::from_f32s(DType::F32, &products.dims(), &values).map_err(|e| e.to_string())
}

/// NaN, which says nothing, for elements that are next to nothing beside the others: with rounding they may be 0, by
/// which quotient and remainder are NaN.
fn without_cancelled(tensor: &Tensor, share: f64) -> Tensor {
    without_below(tensor, most(tensor) * share)
}

/// NaN for elements whose magnitude is less than `least`.
fn without_below(tensor: &Tensor, least: f64) -> Tensor {
    each(tensor, |v| if v.abs() < least { f64::NAN } else { v })
}

/// Whether formats say how a tensor is stored: f64 stays f64.
fn is_stored(tensor: &Tensor) -> bool {
    tensor.dtype().is_float() && tensor.dtype() != DType::F64
}

/// By how much a value of this type of the model is rounded where a format says how it is stored: by either, for the
/// oracle has each value in the model's type, and a program in the format's. f64 is f64 under each.
fn rounding(dtype: DType, wanted: Option<DType>) -> f64 {
    match wanted {
        Some(wanted) if dtype.is_float() && dtype != DType::F64 => epsilon(dtype).max(epsilon(wanted)),
        _ => epsilon(dtype),
    }
}

fn is_half_or_wider(tensor: &Tensor) -> bool {
    tensor.dtype().is_float() && !tensor.dtype().is_minifloat()
}

/// Scales, roi and the like, which are f32 in every format.
fn keeps_type(op: &Op, slot: usize) -> bool {
    (op.def.onnx == "Resize" && slot > 0)
        || ["Cast", "DequantizeLinear", "QuantizeLinear", "Range"].contains(&op.def.onnx)
}

/// What outputs must be, and how far each element may be off.
pub struct Expected {
    pub outputs: Vec<Tensor>,
    moved: Vec<Vec<Tensor>>,
}

impl Expected {
    pub fn of(graph: &Graph, inputs: &[Tensor], seed: u64) -> Result<Expected, String> {
        let outputs = run(graph, inputs, None)?;
        let mut expected = Expected { outputs, moved: Vec::new() };
        expected.add(graph, inputs, seed, 3)?;
        Ok(expected)
    }

    fn add(&mut self, graph: &Graph, inputs: &[Tensor], seed: u64, n: usize) -> Result<(), String> {
        for i in 0..n {
            self.moved.push(run(graph, inputs, Some(&mut Random::new(seed ^ ((self.moved.len() + i) as u64) << 32)))?);
        }
        Ok(())
    }

    /// Tolerances of one output; infinite where the moved results say nothing.
    fn tolerances(&self, at: usize) -> Vec<f64> {
        let base = self.outputs[at].to_f64s().unwrap();
        let mut most = vec![0.0f64; base.len()];
        for moved in &self.moved {
            for ((m, a), b) in most.iter_mut().zip(base.iter()).zip(moved[at].to_f64s().unwrap().iter()) {
                let far = (a - b).abs();
                *m = if far.is_nan() { f64::INFINITY } else { m.max(far) };
            }
        }
        let finite: Vec<f64> = most.iter().filter(|m| m.is_finite()).copied().collect();
        let rms = (finite.iter().map(|m| m * m).sum::<f64>() / finite.len().max(1) as f64).sqrt();
        let last = epsilon(self.outputs[at].dtype());
        most.iter().zip(base.iter()).map(|(m, v)| 8.0 * m + 4.0 * rms + last * v.abs()).collect()
    }

    /// The integers and truth values of one output that no moved result has otherwise: those must be given exactly.
    fn stable(&self, at: usize) -> Vec<bool> {
        let base = self.outputs[at].to_i64s().unwrap();
        let mut stable = vec![true; base.len()];
        for moved in &self.moved {
            let moved = moved[at].to_i64s().unwrap();
            stable.iter_mut().enumerate().for_each(|(i, stable)| *stable &= moved[i] == base[i]);
        }
        stable
    }

    /// Whether a comparison means much: floats of which most may be off by a twentieth at most of what they usually
    /// are, and other classes of which most are stable.
    pub fn sharp(&self, at: usize) -> bool {
        if self.outputs[at].dtype().class() != Class::Float {
            let stable = self.stable(at);
            return stable.iter().filter(|s| **s).count() as f32 >= 0.9 * stable.len() as f32;
        }
        let base = self.outputs[at].to_f64s().unwrap();
        let size = (base.iter().map(|v| v.powi(2)).sum::<f64>() / base.len().max(1) as f64).sqrt();
        let sharp = self.tolerances(at).iter().filter(|t| **t <= 0.05 * size || **t < 1e-6).count();
        sharp as f32 >= 0.9 * base.len() as f32
    }

    /// The first element that is off.
    fn fault(&self, given: &[Tensor]) -> Option<String> {
        if given.len() != self.outputs.len() {
            return Some(format!("{} outputs, expected {}", given.len(), self.outputs.len()));
        }
        for (at, (given, wanted)) in given.iter().zip(&self.outputs).enumerate() {
            let (a, b): (&TensorType, &TensorType) = (given.ty(), wanted.ty());
            if a != b {
                return Some(format!("output {at} is {a}, expected {b}"));
            }
            if !wanted.dtype().is_float() {
                let (g, w) = (given.to_i64s().unwrap(), wanted.to_i64s().unwrap());
                let stable = self.stable(at);
                if let Some(i) = (0..w.len()).find(|&i| stable[i] && g[i] != w[i]) {
                    return Some(format!("output {at} {a}, element {i} is {}, expected {}", g[i], w[i]));
                }
                continue;
            }
            let (g, w) = (given.to_f64s().unwrap(), wanted.to_f64s().unwrap());
            for (i, ((g, w), tolerance)) in g.iter().zip(w.iter()).zip(self.tolerances(at)).enumerate() {
                // NaN is no nearness.
                let near = (g - w).abs() <= tolerance;
                if tolerance.is_finite() && w.is_finite() && !near {
                    return Some(format!("output {at} {a}, element {i} is {g}, expected {w} within {tolerance:e}"));
                }
            }
        }
        None
    }

    /// What is wrong with results that `graph` should have given. Before it is said, more moved results are asked.
    pub fn check(&mut self, graph: &Graph, inputs: &[Tensor], given: &[Tensor], seed: u64) -> Result<(), String> {
        for _ in 0..2 {
            let Some(fault) = self.fault(given) else { return Ok(()) };
            if self.moved.len() > 40 {
                return Err(fault);
            }
            self.add(graph, inputs, seed.wrapping_add(77), 40)?;
        }
        self.fault(given).map_or(Ok(()), Err)
    }
}
