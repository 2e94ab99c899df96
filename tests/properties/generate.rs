//! Random valid graphs of the ONNX level. Every node is computed as it is added, so that the next ones can be chosen by
//! what their operands are: a logarithm of positive numbers, say. What the CPU reference refuses, or what is not finite
//! or large, is not added.

use crate::random::Random;
use crate::spec::{Node, Reach, Source, Spec, Value};
use crate::{layers, movement, pointwise};
use nyxc::ir::{Attrs, Class, DType, Op, Registry, Tensor};
use nyxc::ops;

/// Most elements of a value.
const MAX_ELEMS: usize = 3000;
/// Largest magnitude of an integer in a graph whose integers are not of any size.
const MAX_INT: u64 = 1 << 20;

impl Spec {
    /// Largest magnitude of a float.
    fn max_float(&self) -> f64 {
        match self.reach {
            Reach::Usual => 200.0,
            Reach::Half => 6e4,
            Reach::Far => 1e30,
        }
    }

    /// Finite, not large and not many; and far from what is no normal number, which devices may take for 0.
    pub fn is_useful(&self, tensor: &Tensor) -> bool {
        let n: usize = tensor.dims().iter().product();
        let most = self.max_float();
        let is_normal = |v: f64| self.reach != Reach::Far || v == 0.0 || v.abs() > 1e-36;
        let small = match tensor.dtype().class() {
            Class::Float => tensor.to_f64s().is_ok_and(|v| v.iter().all(|&v| v.abs() <= most && is_normal(v))),
            Class::Int => self.wide || tensor.to_i64s().is_ok_and(|v| v.iter().all(|v| v.unsigned_abs() <= MAX_INT)),
            Class::Bool => true,
            Class::Text => false,
        };
        small && n <= MAX_ELEMS
    }
}

pub struct Gen {
    pub random: Random,
    pub spec: Spec,
    registry: Registry,
    /// The type of new floats: one of them for most of a graph.
    dtype: DType,
}

/// The graph of a seed.
pub fn generate(seed: u64) -> Spec {
    let mut random = Random::new(seed);
    let dtype = if random.chance(12) { random.pick(&[DType::F16, DType::BF16, DType::F64]) } else { DType::F32 };
    let (wide, reach) = (random.chance(35), random.below(100));
    let reach = match reach {
        0..12 => Reach::Half,
        12..28 if dtype != DType::F16 => Reach::Far,
        _ => Reach::Usual,
    };
    let spec = Spec { wide, reach, ..Spec::default() };
    let mut g = Gen { random, spec, registry: ops::registry(), dtype };
    let most = g.random.int(3, 25) as usize;
    for _ in 0..most * 6 {
        if g.spec.nodes.len() >= most {
            break;
        }
        step(&mut g);
    }
    if g.spec.nodes.is_empty() {
        let x = g.new_value(DType::F32, &[3, 5]);
        g.add("Relu", Attrs::new(), &[Some(x)]);
    }
    g.outputs();
    g.spec
}

/// Tries to add one operator, or a few that belong together.
fn step(g: &mut Gen) -> Option<usize> {
    match g.random.below(100) {
        // Integers take the place of some of these where they are of any size.
        0..26 if g.spec.wide && g.random.chance(70) => pointwise::integers(g),
        0..14 => pointwise::unary(g),
        14..26 => pointwise::binary(g),
        26..30 => pointwise::variadic(g),
        30..35 => pointwise::logic(g),
        35..40 => pointwise::integers(g),
        40..44 => pointwise::cast(g),
        44..48 => pointwise::composite(g),
        48..55 => layers::matmul(g),
        55..58 => layers::gemm(g),
        58..64 => layers::conv(g),
        64..66 => layers::conv_transpose(g),
        66..69 => layers::pool(g),
        69..74 => layers::reduce(g),
        74..75 => layers::softmax(g),
        75..76 => layers::attention(g),
        76..80 => layers::norm(g),
        80..82 => layers::gather(g),
        82..83 => layers::resize(g),
        83..85 => layers::host(g),
        85..86 => layers::data_dependent(g),
        86..87 => layers::quantize(g),
        _ => movement::any(g),
    }
}

impl Gen {
    /// Adds a use of an operator, unless the reference refuses it or its results are of no use; gives its first result.
    pub fn add_all(&mut self, onnx: &str, attrs: Attrs, operands: &[Option<usize>], n_outputs: usize) -> Option<usize> {
        let def = self.registry.by_onnx(onnx).unwrap_or_else(|| panic!("no operator {onnx}"));
        let op = Op::new(def, attrs);
        let tensors: Vec<Option<&Tensor>> = operands.iter().map(|o| o.map(|o| &self.spec.values[o].tensor)).collect();
        let results = ops::reference::evaluate(&op, &tensors, n_outputs).ok()?;
        if results.len() < n_outputs || !results.iter().all(|result| self.spec.is_useful(result)) {
            return None;
        }
        let (node, first) = (self.spec.nodes.len(), self.spec.values.len());
        self.spec.nodes.push(Node { op, operands: operands.to_vec(), n_outputs });
        for (out, tensor) in results.into_iter().take(n_outputs).enumerate() {
            self.spec.values.push(Value { source: Source::Node(node, out), tensor });
        }
        Some(first)
    }

    pub fn add(&mut self, onnx: &str, attrs: Attrs, operands: &[Option<usize>]) -> Option<usize> {
        self.add_all(onnx, attrs, operands, 1)
    }

    pub fn tensor(&self, value: usize) -> &Tensor {
        &self.spec.values[value].tensor
    }

    pub fn dims(&self, value: usize) -> Vec<usize> {
        self.tensor(value).dims()
    }

    /// An axis of the value, at times counted from the end.
    pub fn axis(&mut self, value: usize) -> Option<i64> {
        let rank = self.dims(value).len() as i64;
        let axis = if rank == 0 { return None } else { self.random.int(0, rank - 1) };
        Some(if self.random.chance(30) { axis - rank } else { axis })
    }

    pub fn constant(&mut self, tensor: Tensor) -> usize {
        self.spec.values.push(Value { source: Source::Const, tensor });
        self.spec.values.len() - 1
    }

    /// A constant list of integers, as shapes and axes are given.
    pub fn ints(&mut self, values: &[i64]) -> Option<usize> {
        Some(self.constant(Tensor::from_i64s(DType::I64, &[values.len()], values).unwrap()))
    }

    /// A new input, or a constant.
    pub fn new_value(&mut self, dtype: DType, dims: &[usize]) -> usize {
        let constant = self.random.chance(45);
        self.value_of(dtype, dims, constant)
    }

    pub fn value_of(&mut self, dtype: DType, dims: &[usize], constant: bool) -> usize {
        let tensor = match (dtype.class(), self.spec.reach) {
            (Class::Int, _) if self.spec.wide => self.random.wide_tensor(dtype, dims),
            (Class::Float, Reach::Half) if self.random.chance(60) => self.random.far_tensor(dtype, dims, (-5.0, 4.7)),
            (Class::Float, Reach::Far) if self.random.chance(60) && dtype != DType::F16 => {
                self.random.far_tensor(dtype, dims, (-30.0, 29.9))
            }
            _ => self.random.tensor(dtype, dims),
        };
        self.spec.values.push(Value { source: if constant { Source::Const } else { Source::Input }, tensor });
        self.spec.values.len() - 1
    }

    /// Weights: mostly constant, at times shared with another use.
    pub fn weights(&mut self, dtype: DType, dims: &[usize]) -> usize {
        if self.random.chance(25)
            && let Some(found) = self.pick(|v| v.tensor.dtype() == dtype && v.tensor.dims() == dims)
        {
            return found;
        }
        let constant = self.random.chance(85);
        self.value_of(dtype, dims, constant)
    }

    /// One of the values that fit, rather a late one.
    pub fn pick(&mut self, fits: impl Fn(&Value) -> bool) -> Option<usize> {
        // The ends of a Slice may be the last integers that there are, the bounds of a Clip the last floats.
        let is_end = |v: &Value| v.source == Source::Const && !self.spec.is_useful(&v.tensor);
        let all: Vec<usize> = (0..self.spec.values.len())
            .filter(|&i| fits(&self.spec.values[i]) && !is_end(&self.spec.values[i]))
            .collect();
        if all.is_empty() {
            return None;
        }
        let late = all.len().saturating_sub(3);
        Some(if self.random.chance(60) { self.random.pick(&all[late..]) } else { self.random.pick(&all) })
    }

    pub fn size(&mut self) -> usize {
        if self.random.chance(1) { 0 } else { self.random.pick(&[1, 1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 31, 32, 33]) }
    }

    /// Sizes of a new value of this many axes.
    pub fn sizes(&mut self, rank: usize) -> Vec<usize> {
        let mut dims: Vec<usize> = (0..rank).map(|_| self.size()).collect();
        while dims.iter().product::<usize>() > 1200 {
            let at = (0..rank).max_by_key(|&i| dims[i]).unwrap_or(0);
            dims[at] = dims[at].div_ceil(2);
        }
        dims
    }

    pub fn float(&mut self) -> usize {
        self.float_of(0, 5)
    }

    /// A float value with so many axes: one that is there, or a new one.
    pub fn float_of(&mut self, least: usize, most: usize) -> usize {
        let fits = |v: &Value| v.tensor.dtype().is_float() && (least..=most).contains(&v.tensor.dims().len());
        if self.random.chance(85)
            && let Some(found) = self.pick(|v| fits(v) && v.source != Source::Const).or_else(|| self.pick(fits))
        {
            return found;
        }
        let rank = self.random.int(least.max(1).min(most) as i64, most.min(4) as i64) as usize;
        let dims = self.sizes(rank);
        let (dtype, constant) = (self.dtype, self.random.chance(8));
        self.value_of(dtype, &dims, constant)
    }

    /// A value of a class other than floats: one that is there, or a new one of type `new`.
    pub fn of_class(&mut self, class: Class, new: DType) -> usize {
        // Shapes and axes are small.
        let any = class != Class::Int || !self.spec.wide;
        if self.random.chance(75)
            && let Some(found) = self.pick(|v| v.tensor.dtype().class() == class && (any || v.source != Source::Const))
        {
            return found;
        }
        let rank = self.random.int(0, 4) as usize;
        let dims = self.sizes(rank);
        let constant = self.random.chance(25);
        self.value_of(new, &dims, constant)
    }

    /// A value of the same type that broadcasts with `value`.
    pub fn partner(&mut self, value: usize) -> usize {
        let (dtype, dims) = (self.tensor(value).dtype(), self.dims(value));
        if self.random.chance(55)
            && let Some(found) = self.pick(|v| v.tensor.dtype() == dtype && broadcasts(&v.tensor.dims(), &dims))
        {
            return found;
        }
        let dims = self.narrowed(&dims);
        self.new_value(dtype, &dims)
    }

    /// Sizes that broadcast with `dims`: some of one element, the first ones perhaps missing.
    pub fn narrowed(&mut self, dims: &[usize]) -> Vec<usize> {
        let mut dims = dims.to_vec();
        for dim in &mut dims {
            if self.random.chance(20) {
                *dim = 1;
            }
        }
        let missing = if self.random.chance(35) { self.random.below(dims.len() + 1) } else { 0 };
        dims.split_off(missing)
    }

    /// What the graph gives: most of what nothing reads, some of what is read, now and then an input, a constant or the
    /// same twice.
    fn outputs(&mut self) {
        let n = self.spec.values.len();
        let mut read = vec![false; n];
        self.spec.nodes.iter().flat_map(|node| node.operands.iter().flatten()).for_each(|&o| read[o] = true);
        for (i, &read) in read.iter().enumerate() {
            let percent = match (self.spec.values[i].source, read) {
                (Source::Node(..), false) => 75,
                (Source::Node(..), true) => 10,
                (_, true) => 1,
                (_, false) => 5,
            };
            if self.random.chance(percent) {
                self.spec.outputs.push(i);
            }
            if self.random.chance(1) {
                self.spec.outputs.push(i);
            }
        }
        let last = (0..n).rev().find(|&i| matches!(self.spec.values[i].source, Source::Node(..)));
        if let (false, Some(last)) =
            (self.spec.outputs.iter().any(|&o| matches!(self.spec.values[o].source, Source::Node(..))), last)
        {
            self.spec.outputs.push(last);
        }
        if self.random.chance(10) {
            let dims = self.sizes(2);
            self.value_of(DType::F32, &dims, false);
        }
    }
}

pub fn broadcasts(a: &[usize], b: &[usize]) -> bool {
    a.iter().rev().zip(b.iter().rev()).all(|(a, b)| a == b || *a == 1 || *b == 1)
}
