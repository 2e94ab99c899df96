//! Folds a BatchNormalization into the weights and the bias of the convolution or product before it, so that what is
//! quantized is what the network multiplies with, and neither factor nor shift is stored.
//!
//! Looks for Conv, Gemm and MatMul of two matrices with constant weights of f32 whose result only a BatchNormalization
//! with constant parameters reads. Writes Conv or Gemm. Equal because `f (w x + b) + s` is `(f w) x + (f b + s)` a
//! channel, but for rounding. Refuses where the product has other readers, where others read its weights, which would
//! be stored twice, while training, and where what comes of it is not finite in f32.

use super::{Context, Pass, PassError, at};
use crate::ir::{Attrs, DType, Edit, Graph, Level, NodeId, Op, OpDef, OpError, Patch, Tensor, ValueId};
use crate::ops::onnx::gemm;

/// The pass.
pub struct FoldBatchNorm;

impl Pass for FoldBatchNorm {
    fn name(&self) -> &str {
        "fold_batch_norm"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        if graph.level != Level::Onnx {
            return Ok(edit.finish());
        }
        for id in graph.order() {
            let node = graph.node(id);
            if node.op().is_none_or(|op| op.def.onnx != "BatchNormalization") {
                continue;
            }
            match Fold::of(graph, id) {
                Ok(fold) => fold.emit(graph, id, &mut edit).map_err(at(&node.name))?,
                Err(because) => {
                    cx.explain.note(&[&node.name], "fold_batch_norm", "product", || because.to_owned());
                }
            }
        }
        Ok(edit.finish())
    }
}

/// A product with the normalization of its results.
struct Fold {
    /// The product.
    product: NodeId,
    x: ValueId,
    /// The constant of its weights.
    w: ValueId,
    /// What computes the result.
    def: &'static OpDef,
    attrs: Attrs,
    /// The weights and the bias, normalized.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Fold {
    fn of(graph: &Graph, id: NodeId) -> Result<Fold, &'static str> {
        let op = graph.node(id).op().ok_or("it is no operator")?;
        if op.attrs.int("training_mode").unwrap_or(0) != 0 || graph.node(id).outputs.len() > 1 {
            return Err("it learns its mean and variance");
        }
        let operands = graph.operands(id);
        let operand = |slot: usize| operands.get(slot).copied().flatten().ok_or("an operand is absent");
        let result = operand(0)?;
        let product = result.node;
        let before = graph.node(product).op().ok_or("no product is before it")?;
        let rank = graph.ty(result).shape.rank();
        let is_matrix = rank == 2;
        let mut attrs = before.attrs.clone();
        // Gemm is `alpha a b + beta c`: here, its factors go into weights and bias.
        let [mut alpha, mut beta] = [1.0, 1.0];
        let (def, axis) = match before.def.onnx {
            "Conv" => (before.def, 0),
            "Gemm" => {
                let mut take = |name: &str| {
                    let value = attrs.float(name).map_or(1.0, f64::from);
                    attrs.0.remove(name);
                    value
                };
                (alpha, beta) = (take("alpha"), take("beta"));
                (before.def, usize::from(before.attrs.int("transB").unwrap_or(0) == 0))
            }
            "MatMul" if is_matrix => (&gemm::DEF, 1),
            _ => return Err("no convolution or product of two matrices is before it"),
        };
        if graph.is_output(result) || graph.users(result).len() != 1 {
            return Err("the product has other readers");
        }
        let sources = graph.operands(product);
        let source = |slot: usize| sources.get(slot).copied().flatten();
        let (x, w) = source(0).zip(source(1)).ok_or("an operand is absent")?;
        if is_matrix && graph.ty(x).shape.rank() != 2 {
            return Err("no convolution or product of two matrices is before it");
        }
        let present = |value: ValueId| graph.constant(value).filter(|tensor| tensor.is_present());
        let weights =
            present(w).filter(|tensor| tensor.dtype() == DType::F32).ok_or("weights are no constant of f32")?;
        if graph.is_output(w) || graph.users(w).len() != 1 {
            return Err("others read the weights");
        }
        let dims = weights.dims();
        let (_, [n, inner @ ..]) = dims.split_at_checked(axis).ok_or("the weights are no matrix")? else {
            return Err("the weights are no matrix");
        };
        let (n, inner) = (*n, inner.iter().product::<usize>());
        let values = |value: ValueId| present(value).and_then(|tensor| tensor.to_f64s().ok());
        let parameter = |slot: usize| {
            let found = values(operand(slot)?).filter(|values| values.len() == n);
            found.ok_or("a parameter is no constant of a number a channel")
        };
        let (scale, shift, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let bias = match source(2) {
            // One number for all, or one a channel; that of Gemm may be one a row too.
            Some(bias) => present(bias)
                .filter(|tensor| tensor.dims().iter().all(|n| *n == 1) || tensor.dims().last() == Some(&n))
                .and_then(|tensor| tensor.to_f64s().ok())
                .filter(|values| values.len() == 1 || values.len() == n)
                .ok_or("the bias is no constant of a number a channel")?,
            None => vec![0.0],
        };
        let epsilon = f64::from(op.attrs.float("epsilon").unwrap_or(1e-5));
        let own: Vec<f64> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let normalized = |i: usize| (own[i] * (beta * bias[i % bias.len()] - mean[i]) + shift[i]) as f32;
        let bias: Vec<f32> = (0..n).map(normalized).collect();
        let before = weights.to_f32s().map_err(|_| "weights are no constant of f32")?;
        let factor = |i: usize| own[i / inner.max(1) % n.max(1)] * alpha;
        let weights: Vec<f32> = before.iter().enumerate().map(|(i, w)| (f64::from(*w) * factor(i)) as f32).collect();
        if !bias.iter().chain(&weights).all(|value| value.is_finite()) {
            return Err("what it is normalized to is not finite");
        }
        Ok(Fold { product, x, w, def, attrs, weights, bias })
    }

    fn emit(self, graph: &Graph, id: NodeId, edit: &mut Edit<'_>) -> Result<(), OpError> {
        let dims = graph.ty(self.w).shape.known().unwrap_or_default();
        edit.on_behalf_of_all(self.product, vec![id]);
        let w = Tensor::from_f32s(DType::F32, &dims, &self.weights)?;
        let w = edit.add_named_const(&format!("{}.bn", graph.value(self.w).name), w);
        let b = Tensor::from_f32s(DType::F32, &[self.bias.len()], &self.bias)?;
        let b = edit.add_named_const(&format!("{}.bias", graph.node(self.product).name), b);
        let folded = edit.add(Op::new(self.def, self.attrs), &[self.x.into(), w, b]);
        edit.replace(id.out(0), folded.map_err(|e| OpError::Edit(Box::new(e)))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{Graph, text};
    use crate::passes::testing::{check, stays};
    use crate::passes::{Context, Settings, by_name};
    use crate::session::Reference;
    use crate::targets::Target;

    const PARAMETERS: &str = "  %s = const [2.0,-0.5] : f32[2]
  %t = const [1.0,0.25] : f32[2]
  %m = const [0.5,-1.0] : f32[2]
  %v = const [3.0,0.25] : f32[2]
";

    fn convolution(bias: &str, reader: &str) -> String {
        let (constant, operand) = match bias {
            "" => (String::new(), ""),
            bias => (format!("  %b = const [{bias}] : f32[2]\n"), ", %b"),
        };
        format!(
            "graph g onnx
  %x = input : f32[1,2,3,1]
  %w = const [1.0,2.0,-3.0,4.0] : f32[2,2,1,1]
{constant}  %c = conv(%x, %w{operand}) : f32[1,2,3,1]
{PARAMETERS}  %y = batch_normalization(%c, %s, %t, %m, %v) {{epsilon=1f}} : f32[1,2,3,1]
{reader}  output %y
"
        )
    }

    fn is_normalized(graph: &Graph) -> bool {
        graph.to_string().contains("batch_normalization")
    }

    #[test]
    fn factor_and_shift_become_weights_and_bias() {
        let after = check("fold_batch_norm", &convolution("", ""), "without_bias").to_string();
        // Factors 2 / sqrt(3 + 1) and -0.5 / sqrt(0.25 + 1); biases 1 - 0.5 and 0.25 - 0.5 / sqrt(1.25).
        assert!(after.contains("const [1.0,2.0,1.3416408,-1.7888544] : f32[2,2,1,1]"), "{after}");
        assert!(after.contains("const [0.5,-0.19721359] : f32[2]"), "{after}");
        let after = check("fold_batch_norm", &convolution("0.5,-3.0", ""), "with_bias");
        assert!(!is_normalized(&after));
        // Both nodes of the model can still be pinned.
        let pins = ["c=f16", "y=f16"].map(|pin| pin.parse().unwrap()).to_vec();
        Settings { pins, ..Settings::default() }.check_pins(&after).unwrap();
        let product = format!(
            "graph g onnx
  %x = input : f32[3,2]
  %w = const [1.0,2.0,-3.0,4.0] : f32[2,2]
  %c = matmul(%x, %w) : f32[3,2]
{PARAMETERS}  %y = batch_normalization(%c, %s, %t, %m, %v) : f32[3,2]
  output %y
"
        );
        assert!(check("fold_batch_norm", &product, "product").to_string().contains("gemm("));
    }

    #[test]
    fn what_others_read_stays() {
        let text = convolution("", "  %z = neg(%c) : f32[1,2,3,1]\n  output %z\n");
        stays("fold_batch_norm", &text);
        // Filters that others read would be stored twice.
        stays("fold_batch_norm", &convolution("", "  %z = neg(%w) : f32[2,2,1,1]\n  output %z\n"));
    }

    /// A stream of numbers from -2 to 2.
    struct Random(u32);

    impl Random {
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 8) as f32 / (1 << 22) as f32 - 2.0
        }

        fn list(&mut self, n: usize, map: impl Fn(f32) -> f32) -> String {
            (0..n).map(|_| format!("{:?}", map(self.next()))).collect::<Vec<_>>().join(",")
        }

        fn constant(&mut self, name: &str, dims: &[usize]) -> String {
            let shape = dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            format!("  %{name} = const [{}] : f32[{shape}]\n", self.list(dims.iter().product(), |v| v))
        }

        /// A product of a kind before a normalization of `n` channels.
        fn network(&mut self, kind: &str, n: usize) -> String {
            let (x, w, y) = match kind {
                "conv" => (vec![2, 4, 5, 3], vec![n, 2, 3, 2], format!("2,{n},3,2")),
                "gemm_transposed" => (vec![3, 4], vec![n, 4], format!("3,{n}")),
                _ => (vec![3, 4], vec![4, n], format!("3,{n}")),
            };
            let shape = x.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let mut text = format!("graph g onnx\n  %x = input : f32[{shape}]\n") + &self.constant("w", &w);
            let (product, bias) = match kind {
                "conv" => ("conv(%x, %w, %b) {group=2}", vec![n]),
                "gemm" => ("gemm(%x, %w, %b) {alpha=0.5f, beta=-3f}", vec![1]),
                "gemm_transposed" => ("gemm(%x, %w, %b) {beta=2f, transB=1}", vec![1, n]),
                _ => ("matmul(%x, %w)", vec![]),
            };
            if !bias.is_empty() {
                text += &self.constant("b", &bias);
            }
            text += &format!("  %c = {product} : f32[{y}]\n");
            ["s", "t", "m"].into_iter().for_each(|name| text += &self.constant(name, &[n]));
            text += &format!("  %v = const [{}] : f32[{n}]\n", self.list(n, |v| v * v));
            text + &format!(
                "  %y = batch_normalization(%c, %s, %t, %m, %v) {{epsilon=0.01f}} : f32[{y}]\n  output %y\n"
            )
        }
    }

    #[test]
    fn on_random_numbers_results_are_the_same() {
        let (target, settings) = (Target::shipped("lavapipe").unwrap(), Settings::default());
        let mut random = Random(7);
        for round in 0..48 {
            let kind = ["conv", "gemm", "gemm_transposed", "matmul"][round % 4];
            let source = random.network(kind, 2 * (1 + round % 5));
            let graph = text::parse(&source, &crate::ops::registry(), &|_, _| None).unwrap();
            let mut folded = graph.clone();
            let pass = by_name("fold_batch_norm").unwrap();
            crate::passes::pipeline::run_one(pass.as_ref(), &mut folded, &mut Context::new(&target, &settings))
                .unwrap();
            assert!(!is_normalized(&folded), "{kind}");
            let x = graph.ty(graph.inputs()[0].out(0)).clone();
            let values: Vec<f32> = (0..x.shape.n_elems().unwrap()).map(|_| random.next()).collect();
            let x = crate::ir::Tensor::from_f32s(x.dtype, &x.shape.known().unwrap(), &values).unwrap();
            let run = |graph: Graph| Reference::new(graph).run(std::slice::from_ref(&x)).unwrap().remove(0);
            let (own, new) = (run(graph), run(folded));
            for (a, b) in own.to_f32s().unwrap().iter().zip(new.to_f32s().unwrap().iter()) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{kind}: {a} {b}");
            }
        }
    }
}
