//! What is timed: one kernel's node on its own, by a line of text such as `conv f16 1,56,56,64,64,3,3,1`.

use super::bug;
use crate::cli::Failure;
use crate::ir::packed::{Granularity, Packing, ScaleType};
use crate::ir::{
    Activations, Attrs, DType, Expr, Format, Graph, Level, Node, NodeId, NodeKind, Op, OpDef, Shape, TensorType, Value,
    ValueId, Weights,
};
use crate::kernels::ATTENTION_CHUNK;
use crate::ops::core::{conv, dot_product_attention, matmul, norm, quantize_packed, softmax};
use crate::targets::Target;
use std::fmt;
use std::str::FromStr;

/// Kernels by name, and what the numbers of a shape are.
pub(in crate::cli) const KERNELS: [(&str, &str); 6] = [
    ("matmul", "M,N,K"),
    ("conv", "IMAGES,H,W,C,FILTERS,KH,KW,STRIDE[,GROUPS]"),
    ("attention", "BATCH,HEADS,KV_HEADS,QUERIES,KEYS,HEAD[,CAUSAL]"),
    ("softmax", "ROWS,COLUMNS"),
    ("norm", "ROWS,COLUMNS"),
    ("quantize", "ROWS,COLUMNS"),
];

/// What is timed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) struct Subject {
    pub(in crate::cli) kernel: String,
    pub(in crate::cli) format: String,
    pub(in crate::cli) shape: Vec<u32>,
    /// Whether another tensor of the result's size is added.
    pub(in crate::cli) wide: bool,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(u32::to_string).collect();
        write!(f, "{} {} {}{}", self.kernel, self.format, shape.join(","), if self.wide { " wide" } else { "" })
    }
}

impl FromStr for Subject {
    type Err = String;
    fn from_str(text: &str) -> Result<Subject, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (kernel, format, shape, wide) = match words[..] {
            [kernel, format, shape] => (kernel, format, shape, false),
            [kernel, format, shape, "wide"] => (kernel, format, shape, true),
            _ => return Err(format!("{text:?} is no case such as `conv f16 1,56,56,64,64,3,3,1`, or with ` wide`")),
        };
        let numbers: Option<Vec<u32>> = shape.split(',').map(|n| n.parse().ok()).collect();
        let shape = numbers.ok_or_else(|| format!("{text:?}: {shape:?} is no list of sizes"))?;
        Subject::new(kernel, format, shape, wide)
    }
}

/// A subject as a graph of kernels.
pub(in crate::cli) struct Built {
    pub(in crate::cli) graph: Graph,
    /// The nodes that are timed, in order; the last gives the result.
    pub(in crate::cli) nodes: Vec<NodeId>,
    /// The operands, those of the epilogue last.
    pub(in crate::cli) operands: Vec<ValueId>,
    /// Of which copies are read in turn: weights, or keys and values. Others were just made by the kernel before.
    pub(in crate::cli) rotated: Vec<ValueId>,
    /// Multiplications and additions.
    pub(in crate::cli) n_operations: u64,
}

impl Built {
    pub(in crate::cli) fn result(&self) -> Result<ValueId, Failure> {
        self.nodes.last().map(|node| node.out(0)).ok_or_else(|| bug("a subject without nodes"))
    }
}

impl Subject {
    /// # Errors
    /// There is no such kernel or format, or the shape has other numbers.
    pub(in crate::cli) fn new(kernel: &str, format: &str, shape: Vec<u32>, wide: bool) -> Result<Subject, String> {
        let Some((_, takes)) = KERNELS.iter().find(|(name, _)| *name == kernel) else {
            let names: Vec<&str> = KERNELS.iter().map(|(name, _)| *name).collect();
            return Err(format!("no kernel {kernel:?}: {}", names.join(", ")));
        };
        format.parse::<Format>().map_err(|e| e.to_string())?;
        let (least, most) = (takes.split('[').next().unwrap_or("").split(',').count(), takes.split(',').count());
        if !(least..=most).contains(&shape.len()) {
            return Err(format!("the shape of {kernel} is {takes}, not {} sizes", shape.len()));
        }
        let is_attention = kernel == "attention";
        let sizes = if is_attention { &shape[..6] } else { &shape[..] };
        if sizes.contains(&0) || shape.iter().any(|n| *n > 1 << 24) {
            return Err(format!("a size of {shape:?} is 0 or beyond 2^24"));
        }
        Ok(Subject { kernel: kernel.to_owned(), format: format.to_owned(), shape, wide })
    }

    pub(in crate::cli) fn format(&self) -> Result<Format, Failure> {
        self.format.parse().map_err(|e| Failure::usage(format!("--format: {e}")))
    }

    /// The graph for a target.
    pub(in crate::cli) fn build(&self, target: &Target) -> Result<Built, Failure> {
        let format = self.format()?;
        let s: Vec<usize> = self.shape.iter().map(|n| *n as usize).collect();
        let mut make = Making { graph: Graph::new("bench", Level::Kernel), operands: Vec::new(), format };
        let mul = |sizes: &[usize]| sizes.iter().fold(1u64, |n, size| n.saturating_mul(*size as u64));
        let (nodes, rotated, n_operations) = match (self.kernel.as_str(), &s[..]) {
            ("matmul", &[m, n, k]) => {
                let (x, w) = (make.activations(&[m, k], Granularity::Row), make.weights(&[n, k], &[n, k]));
                let node = make.node(&matmul::DEF, matmul::attrs(true), &[x, w], self.wide)?;
                (vec![node], vec![w], 2 * mul(&[m, n, k]))
            }
            ("conv", &[images, h, w, c, o, kh, kw, stride, ref groups @ ..]) => {
                let groups = groups.first().copied().unwrap_or(1);
                if c % groups != 0 || o % groups != 0 {
                    return Err(Failure::usage(format!("{c} channels and {o} filters in {groups} groups")));
                }
                let last = target.prefers_channels_last();
                let x_dims = if last { [images, h, w, c] } else { [images, c, h, w] };
                let per = c / groups;
                let w_dims = if last { [o, kh, kw, per] } else { [o, per, kh, kw] };
                let x = make.activations(&x_dims, Granularity::Tensor);
                let filters = make.weights(&w_dims, &[o, kh * kw * per]);
                let pads = [kh / 2, kw / 2, (kh - 1) / 2, (kw - 1) / 2].map(|n| n as i64);
                let int = |n: usize| n as i64;
                let attrs = Attrs::new()
                    .with_ints("kernel", [int(kh), int(kw)])
                    .with_ints("strides", [int(stride), int(stride)])
                    .with_ints("pads", pads)
                    .with_int("group", int(groups));
                let attrs = if last { attrs.with_str("layout", "nhwc") } else { attrs };
                let node = make.node(&conv::DEF, attrs, &[x, filters], self.wide)?;
                let pixels = make.graph.ty(node.out(0)).shape.n_elems().unwrap_or(0);
                (vec![node], vec![filters], 2 * pixels.saturating_mul(mul(&[per, kh, kw])))
            }
            ("attention", &[batch, heads, kv_heads, queries, keys, head, ref causal @ ..]) => {
                let is_causal = causal.first().is_some_and(|n| *n != 0);
                let q = make.floats(&[batch, heads, queries, head]);
                let [k, v] = [(); 2].map(|()| make.floats(&[batch, kv_heads, keys, head]));
                let attrs = Attrs::new().with_float("scale", 1.0 / (head as f32).sqrt());
                let offset = keys.saturating_sub(queries) as i64;
                let attrs = if is_causal { attrs.with_int("right", 0).with_int("offset", offset) } else { attrs };
                let mut nodes = Vec::new();
                let is_few = queries as i64 <= dot_product_attention::FEW && keys as i64 > ATTENTION_CHUNK;
                if is_few {
                    let attrs = attrs.clone().with_int("chunk", ATTENTION_CHUNK);
                    nodes.push(make.node(&dot_product_attention::PARTS, attrs, &[q, k, v], false)?);
                }
                let parts = nodes.first().map(|node: &NodeId| node.out(0));
                let own = [Some(q), Some(k), Some(v), None, None, parts];
                let own = if parts.is_some() { &own[..] } else { &own[..3] };
                nodes.push(make.insert(&dot_product_attention::DEF, attrs, own)?);
                let seen = if is_causal { 2 } else { 4 };
                (nodes, vec![k, v], seen * mul(&[batch, heads, queries, keys, head]))
            }
            ("softmax", &[rows, columns]) => {
                let x = make.floats(&[rows, columns]);
                let attrs = Attrs::new().with_int("axis", 1).with_int("log", 0);
                (vec![make.node(&softmax::DEF, attrs, &[x], self.wide)?], vec![], 4 * mul(&[rows, columns]))
            }
            ("norm", &[rows, columns]) => {
                let x = make.floats(&[rows, columns]);
                let [scale, bias] = [(); 2].map(|()| make.floats(&[columns]));
                let node = make.node(&norm::DEF, norm::attrs("layer", 1, 1e-5), &[x, scale, bias], self.wide)?;
                (vec![node], vec![], 6 * mul(&[rows, columns]))
            }
            ("quantize", &[rows, columns]) => {
                let x = make.floats(&[rows, columns]);
                let attrs = quantize_packed::attrs(Granularity::Row);
                (vec![make.node(&quantize_packed::DEF, attrs, &[x], false)?], vec![], 2 * mul(&[rows, columns]))
            }
            _ => return Err(Failure::usage(format!("{self}: no such shape"))),
        };
        Ok(Built { graph: make.graph, nodes, operands: make.operands, rotated, n_operations })
    }

    /// The subject of a node of a kernel-level graph; `None` where none is like it.
    pub(in crate::cli) fn of(graph: &Graph, node: NodeId) -> Option<Subject> {
        let op = graph.node(node).op()?;
        let own = graph.operands(node);
        let ty = |slot: usize| own.get(slot).copied().flatten().map(|v| graph.ty(v));
        let (x, w, y) = (ty(0)?, ty(1)?, graph.ty(node.out(0)));
        let sizes = |ty: &TensorType| -> Option<Vec<u32>> {
            ty.shape.0.iter().map(|d| d.known().and_then(|n| u32::try_from(n).ok())).collect()
        };
        let (x_dims, w_dims, y_dims) = (sizes(x)?, sizes(w)?, sizes(y)?);
        let format = format_of(x, w)?;
        let epilogue = op.attrs.expr("epilogue").map_or(0, |e| e.n_args().saturating_sub(1));
        let extra = &own[own.len().saturating_sub(epilogue)..];
        let wide = extra.iter().flatten().any(|v| graph.ty(*v).shape == y.shape);
        // Weights in several parts are several products.
        let n_own = own.len() - extra.len();
        let shape = match (op.def.name, &w_dims[..]) {
            ("matmul", &[n, k]) if n_own == 2 && op.attrs.int("trans_b") == Some(1) => {
                vec![x_dims.iter().product::<u32>() / k.max(1), n, k]
            }
            ("conv", _) if n_own == 2 && x_dims.len() == 4 && y_dims.len() == 4 => {
                let is_last = op.attrs.str("layout") == Some("nhwc");
                let [n, a, b, c] = x_dims[..] else { return None };
                let (h, width, c) = if is_last { (a, b, c) } else { (b, c, a) };
                let o = if is_last { y_dims[3] } else { y_dims[1] };
                let ints = |name: &str, default: i64, len: usize| {
                    op.attrs.ints(name).map_or(vec![default; len], <[i64]>::to_vec)
                };
                let (kernel, strides, pads) = (ints("kernel", 1, 2), ints("strides", 1, 2), ints("pads", 0, 4));
                let same = pads.first() == Some(&(kernel.first()? / 2)) || kernel.iter().all(|n| *n == 1);
                if !same || strides.first() != strides.get(1) || ints("dilations", 1, 2) != [1, 1] {
                    return None;
                }
                let int = |n: Option<&i64>| n.and_then(|n| u32::try_from(*n).ok());
                let groups = u32::try_from(op.attrs.int("group").unwrap_or(1)).ok()?;
                let mut shape = vec![n, h, width, c, o];
                shape.extend([int(kernel.first())?, int(kernel.get(1))?, int(strides.first())?]);
                shape.extend(Some(groups).filter(|n| *n > 1));
                shape
            }
            _ => return None,
        };
        Subject::new(op.def.name, &format, shape, wide).ok()
    }
}

/// The format whose operands have this layout.
fn format_of(x: &TensorType, w: &TensorType) -> Option<String> {
    let activations = match (x.packing, x.dtype) {
        (Some(_), _) => Activations::I8,
        (None, DType::F16) => Activations::F16,
        (None, DType::F32) => Activations::F32,
        _ => return None,
    };
    let weights = match (w.packing, w.dtype) {
        (Some(packing), _) => Weights::Int { coding: packing.coding, granularity: packing.granularity },
        (None, DType::F16) => Weights::F16,
        (None, DType::F32) => Weights::F32,
        _ => return None,
    };
    let text = Format { weights, activations, ..Format::F32 }.to_string();
    text.parse::<Format>().is_ok_and(|f| f.weights == weights && f.activations == activations).then_some(text)
}

/// A graph under construction.
struct Making {
    graph: Graph,
    operands: Vec<ValueId>,
    format: Format,
}

impl Making {
    fn input(&mut self, ty: TensorType) -> ValueId {
        let value = self.graph.add_input(&format!("x{}", self.operands.len()), ty);
        self.operands.push(value);
        value
    }

    /// What the activations are where they are not quantized.
    fn float(&self) -> DType {
        if self.format.activations == Activations::F16 { DType::F16 } else { DType::F32 }
    }

    fn floats(&mut self, dims: &[usize]) -> ValueId {
        self.input(TensorType::of(self.float(), dims))
    }

    fn activations(&mut self, dims: &[usize], granularity: Granularity) -> ValueId {
        if self.format.activations != Activations::I8 {
            return self.floats(dims);
        }
        self.packed(Packing::activation(granularity), dims)
    }

    /// Of `dims`, or packed as `matrix`.
    fn weights(&mut self, dims: &[usize], matrix: &[usize]) -> ValueId {
        match self.format.weights {
            Weights::F32 => self.input(TensorType::of(DType::F32, dims)),
            Weights::F16 => self.input(TensorType::of(DType::F16, dims)),
            Weights::Int { coding, granularity } => {
                self.packed(Packing { coding, granularity, scale: ScaleType::F16 }, matrix)
            }
        }
    }

    fn packed(&mut self, packing: Packing, dims: &[usize]) -> ValueId {
        self.input(TensorType { dtype: packing.codes(), shape: Shape::of(dims), packing: Some(packing) })
    }

    /// A node, with another tensor added where `wide`.
    fn node(&mut self, def: &'static OpDef, attrs: Attrs, own: &[ValueId], wide: bool) -> Result<NodeId, Failure> {
        let mut own: Vec<Option<ValueId>> = own.iter().copied().map(Some).collect();
        if !wide {
            return self.insert(def, attrs, &own);
        }
        let op = Op::new(def, attrs.clone());
        let ty = self.graph.infer(&op, &own, 1).map_err(bug)?.remove(0);
        own.push(Some(self.input(ty)));
        self.insert(def, attrs.with_expr("epilogue", Expr::parse("add(x0,x1)").map_err(bug)?), &own)
    }

    fn insert(&mut self, def: &'static OpDef, attrs: Attrs, own: &[Option<ValueId>]) -> Result<NodeId, Failure> {
        let op = Op::new(def, attrs);
        let ty = self.graph.infer(&op, own, 1).map_err(bug)?.remove(0);
        let name = format!("y{}", self.graph.n_nodes());
        let node = Node::new("subject", NodeKind::Op(op), vec![Value { name, ty }]);
        Ok(self.graph.insert(Node { format: Some(self.format), ..node }, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_read_back_and_are_found_again_in_their_graphs() {
        let target = Target::shipped("h200").unwrap();
        for text in [
            "matmul w4a16 64,4096,4096",
            "matmul f32 1,32000,4096 wide",
            "matmul w8a8 128,768,3072",
            "conv f16 1,56,56,64,64,3,3,1",
            "conv f16 1,14,14,1024,256,1,1,1 wide",
            "conv w4a16 1,28,28,128,256,3,3,2",
            "conv f32 1,14,14,576,576,3,3,1,576",
        ] {
            let subject: Subject = text.parse().unwrap();
            assert_eq!(subject.to_string(), text);
            let built = subject.build(&target).unwrap();
            assert_eq!(Subject::of(&built.graph, built.nodes[0]), Some(subject), "{text}");
        }
        for text in ["attention f16 1,32,8,2048,2048,128,1", "attention f16 1,32,8,1,4096,128", "norm f16 128,768"] {
            let subject: Subject = text.parse().unwrap();
            assert!(!subject.build(&target).unwrap().nodes.is_empty(), "{text}");
        }
        for text in ["", "matmul", "matmul f16 1,2", "matmul f17 1,2,3", "pool f16 1,2", "conv f16 1,0,2,3,4,5,6,7"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
