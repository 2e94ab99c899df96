//! Calibration: the model in f32 on data of its own, on the CPU reference, with what its weights are multiplied with
//! noted.

use super::{CpuError, Reference, SampleError};
use crate::ir::MatrixLayout;
use crate::ir::{Graph, NodeId, Tensor, ValueId};
use crate::ops::core::window::Window;
use crate::ops::weights;
use crate::quant::calibration::{Calibration, Moments};
use crate::quant::gptq::Gram;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Columns beyond which no moments are taken: 128 MiB a matrix.
const MOST_COLUMNS: usize = 4096;
/// Positions of a window that are noted of one image.
const POSITIONS: usize = 256;

/// Why a model cannot be calibrated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum CalibrateError {
    #[error("sample {sample}: {source}")]
    Run { sample: usize, source: CpuError },
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Pipeline(#[from] crate::passes::PipelineError),
    #[error("calibration needs at least one sample")]
    NoSamples,
    #[error("no error of weights moves an output that is a float: there is no sensitivity to measure")]
    Insensitive,
}

/// How the inputs of a matrix come out of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reading {
    /// Rows of the last axis.
    Rows,
    /// Patches of images `[N, C, H, W]`.
    Patches {
        channels_last: bool,
        n_groups: usize,
        kernel: [usize; 2],
        strides: [usize; 2],
        pads: [usize; 4],
        dilations: [usize; 2],
    },
}

/// One value that is noted in one way.
struct Tap {
    reading: Reading,
    groups: Vec<Gram>,
    /// The constants whose inputs these are.
    constants: Vec<String>,
}

/// Runs `graph`, of the ONNX level as it is imported, on each of `samples` as [`calibrate`] does, after the passes that
/// a compilation under `options` runs before it assigns formats: [`Settings::calibration`](crate::passes::Settings) of
/// these options may be what comes out.
///
/// # Errors
/// As [`calibrate`], or a pass refuses the graph.
#[cfg(feature = "codegen")]
pub fn calibrate_for(
    graph: &Graph,
    options: &super::Compile,
    samples: &mut dyn Iterator<Item = Result<Vec<Tensor>, SampleError>>,
    told: &mut dyn FnMut(usize),
) -> Result<Calibration, CalibrateError> {
    calibrate(&seen(graph, options)?, samples, told)
}

/// The [`sensitivities`](super::sensitivities) of `graph`, of the ONNX level as it is imported, after the same passes.
///
/// # Errors
/// As [`sensitivities`](super::sensitivities), or a pass refuses the graph.
#[cfg(feature = "codegen")]
pub fn sensitivities_for(
    graph: &Graph,
    options: &super::Compile,
    samples: &[Vec<Tensor>],
    divergence: super::Divergence,
    told: &mut dyn FnMut(usize, usize),
) -> Result<BTreeMap<String, f64>, CalibrateError> {
    super::sensitivities(&seen(graph, options)?, samples, divergence, told)
}

/// The graph as `assign_precision` sees it.
#[cfg(feature = "codegen")]
fn seen(graph: &Graph, options: &super::Compile) -> Result<Graph, CalibrateError> {
    let all = crate::passes::DEFAULT.iter().copied();
    let before: Vec<&str> = all.take_while(|name| *name != "assign_precision").collect();
    let mut seen = graph.clone();
    crate::passes::Pipeline::of(&before, options.settings.clone())?.run(&mut seen, &options.target)?;
    Ok(seen)
}

/// Runs `graph`, of the ONNX level as `assign_precision` sees it, on each of `samples` and notes the moments of the
/// inputs of its weights. A sample has the graph's inputs without a default in order; `told` hears how many are done.
///
/// Memory: the moments, `8 n^2` bytes for each value that weights of `n` columns read, and one run.
///
/// # Errors
/// There is no sample, or one cannot be run.
pub fn calibrate(
    graph: &Graph,
    samples: &mut dyn Iterator<Item = Result<Vec<Tensor>, SampleError>>,
    told: &mut dyn FnMut(usize),
) -> Result<Calibration, CalibrateError> {
    let mut taps = taps(graph);
    let inputs: Vec<String> = graph.inputs().iter().map(|id| graph.value(id.out(0)).name.clone()).collect();
    let reference = Reference::new(graph.clone());
    let mut n_runs = 0;
    for sample in samples {
        let sample = with_defaults(graph, sample?);
        for (name, tensor) in inputs.iter().zip(&sample) {
            taps.get_mut(name).into_iter().flatten().for_each(|tap| tap.note(tensor));
        }
        let mut tap = |node: &crate::ir::Node, results: &[Tensor]| {
            for (value, tensor) in node.outputs.iter().zip(results) {
                taps.get_mut(&value.name).into_iter().flatten().for_each(|tap| tap.note(tensor));
            }
        };
        reference.run_with(&sample, &mut tap).map_err(|source| CalibrateError::Run { sample: n_runs, source })?;
        n_runs += 1;
        told(n_runs);
    }
    if n_runs == 0 {
        return Err(CalibrateError::NoSamples);
    }
    let mut moments = BTreeMap::new();
    for tap in taps.into_values().flatten() {
        let shared = Arc::new(Moments::new(tap.groups));
        moments.extend(tap.constants.into_iter().map(|name| (name, shared.clone())));
    }
    Ok(Calibration { moments, n_runs, ..Calibration::default() })
}

/// The inputs of a graph, those with a default included, from the others in their order.
pub(super) fn with_defaults(graph: &Graph, given: Vec<Tensor>) -> Vec<Tensor> {
    let mut given = given.into_iter();
    graph.inputs().iter().filter_map(|id| graph.default_of(*id).cloned().or_else(|| given.next())).collect()
}

/// What is noted, by the name of the value. Weights that more than one value is multiplied with, or that are looked up
/// too, have no inputs of one kind, and none are noted.
fn taps(graph: &Graph) -> BTreeMap<String, Vec<Tap>> {
    let mut by_constant: BTreeMap<ValueId, Vec<Option<Read>>> = BTreeMap::new();
    for id in graph.order() {
        if let Some(found) = weights::of(graph, id) {
            by_constant.entry(found.value).or_default().push(reading(graph, id, &found));
        }
    }
    let mut taps: BTreeMap<String, Vec<Tap>> = BTreeMap::new();
    for (constant, readings) in by_constant {
        let Some(Some((value, reading, n_cols))) = readings.first().cloned() else { continue };
        if readings.iter().any(|other| *other != readings[0]) {
            continue;
        }
        let constant = graph.value(constant).name.clone();
        let own = taps.entry(graph.value(value).name.clone()).or_default();
        match own.iter_mut().find(|tap| tap.reading == reading && tap.groups[0].n_cols() == n_cols) {
            Some(tap) => tap.constants.push(constant),
            None => {
                let groups = vec![Gram::new(n_cols); reading.n_groups()];
                own.push(Tap { reading, groups, constants: vec![constant] });
            }
        }
    }
    taps
}

/// A value, how inputs come out of it, and their elements.
type Read = (ValueId, Reading, usize);

/// Which value a node multiplies its weights with, how, and the columns of the matrix.
fn reading(graph: &Graph, id: NodeId, found: &weights::Weights) -> Option<Read> {
    let op = graph.node(id).op()?;
    if !found.has_products || found.slot != 1 || found.n_cols > MOST_COLUMNS {
        return None;
    }
    let x = graph.operands(id).first().copied()??;
    if op.def.onnx != "Conv" {
        // A scale of a transposed operand belongs to its columns; such products are rare.
        let is_plain = op.attrs.int("transA").unwrap_or(0) == 0 && graph.ty(x).shape.rank() >= 2;
        return is_plain.then_some((x, Reading::Rows, found.n_cols));
    }
    let filters = graph.ty(*graph.operands(id).get(1)?.as_ref()?).shape.known()?;
    let spatial = graph.ty(x).shape.0.get(2..)?.to_vec();
    let kernel: Vec<i64> = filters[2..].iter().map(|k| *k as i64).collect();
    let window = Window::of(&op.attrs, kernel, &spatial).ok()?.flat();
    let pair = |v: &[i64]| Some([usize::try_from(*v.first()?).ok()?, usize::try_from(*v.get(1)?).ok()?]);
    let pads: Vec<usize> = window.pads.iter().filter_map(|p| usize::try_from(*p).ok()).collect();
    let reading = Reading::Patches {
        channels_last: found.layout == MatrixLayout::FiltersLast,
        n_groups: usize::try_from(op.attrs.int("group").unwrap_or(1)).ok().filter(|n| *n > 0)?,
        kernel: pair(&window.kernel)?,
        strides: pair(&window.strides)?,
        pads: pads.try_into().ok()?,
        dilations: pair(&window.dilations)?,
    };
    Some((x, reading, found.n_cols))
}

impl Reading {
    fn n_groups(&self) -> usize {
        match self {
            Reading::Rows => 1,
            Reading::Patches { n_groups, .. } => *n_groups,
        }
    }
}

impl Tap {
    /// Adds what a value holds. One of another shape or type than was expected is left out.
    fn note(&mut self, tensor: &Tensor) {
        let Ok(values) = tensor.to_f32s() else { return };
        let dims = tensor.dims();
        match &self.reading {
            Reading::Rows => {
                if dims.last() == Some(&self.groups[0].n_cols()) {
                    self.groups[0].add(&values);
                }
            }
            patches @ Reading::Patches { .. } => {
                // One spatial axis is two, the first of one row.
                let [n, c, h, w] = match dims[..] {
                    [n, c, w] => [n, c, 1, w],
                    [n, c, h, w] => [n, c, h, w],
                    _ => return,
                };
                let n_groups = self.groups.len();
                let n_cols = self.groups[0].n_cols();
                for image in values.chunks_exact(c * h * w).take(n) {
                    let image = Image { values: image, c: c / n_groups, h, w };
                    self.groups.par_iter_mut().enumerate().for_each(|(group, gram)| {
                        if let Some(rows) = image.patches(group, patches).filter(|rows| rows.len() % n_cols == 0) {
                            gram.add(&rows);
                        }
                    });
                }
            }
        }
    }
}

/// Channels of one image, of each group `c`.
struct Image<'a> {
    values: &'a [f32],
    c: usize,
    h: usize,
    w: usize,
}

impl Image<'_> {
    /// The patches of a group at some positions, evenly spread, each in the order of the filters' columns.
    fn patches(&self, group: usize, reading: &Reading) -> Option<Vec<f32>> {
        let Reading::Patches { channels_last, kernel, strides, pads, dilations, .. } = reading else { return None };
        let out = |axis: usize, size: usize| {
            let room = (size + pads[axis] + pads[axis + 2]).checked_sub(dilations[axis] * (kernel[axis] - 1) + 1)?;
            Some(room / strides[axis] + 1)
        };
        let (rows, cols) = (out(0, self.h)?, out(1, self.w)?);
        let n = (rows * cols).min(POSITIONS);
        let mut patches = Vec::with_capacity(n * self.c * kernel[0] * kernel[1]);
        let value = |channel: usize, y: usize, x: usize, ky: usize, kx: usize| {
            let at = |axis: usize, at: usize, tap: usize, size: usize| {
                (at * strides[axis] + tap * dilations[axis]).checked_sub(pads[axis]).filter(|i| *i < size)
            };
            match (at(0, y, ky, self.h), at(1, x, kx, self.w)) {
                (Some(i), Some(j)) => self.values[((group * self.c + channel) * self.h + i) * self.w + j],
                _ => 0.0,
            }
        };
        for i in 0..n {
            let position = i * rows * cols / n;
            let (y, x) = (position / cols, position % cols);
            let taps = || (0..kernel[0]).flat_map(|ky| (0..kernel[1]).map(move |kx| (ky, kx)));
            if *channels_last {
                taps().for_each(|(ky, kx)| patches.extend((0..self.c).map(|c| value(c, y, x, ky, kx))));
            } else {
                (0..self.c).for_each(|c| patches.extend(taps().map(|(ky, kx)| value(c, y, x, ky, kx))));
            }
        }
        Some(patches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, text};

    fn read(source: &str) -> Graph {
        text::parse(source, &crate::ops::registry(), &|_, _| None).unwrap()
    }

    fn ramp(dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect();
        Tensor::from_f32s(DType::F32, dims, &values).unwrap()
    }

    /// For each constant of weights, `sum (W x)^2` by moments, and of the results of the node that reads them.
    fn energies(source: &str, x: &Tensor, node: &str, constant: &str) -> (f64, f64) {
        let graph = read(source);
        let found = calibrate(&graph, &mut [Ok(vec![x.clone()])].into_iter(), &mut |_| {}).unwrap();
        let moments = &found.moments[constant];
        let id = graph.order().into_iter().find(|id| graph.node(*id).name == node).unwrap();
        let own = weights::of(&graph, id).unwrap();
        let tensor = graph.constant(own.value).unwrap();
        let matrix = own.matrix(tensor).unwrap();
        let by_moments: f64 = matrix
            .chunks_exact(own.n_cols)
            .enumerate()
            .map(|(row, w)| {
                let gram = moments.of_row(row, own.n_rows).unwrap();
                gram.error_of(w) * gram.n_samples() as f64
            })
            .sum();
        let mut energy = 0.0;
        let mut tap = |n: &crate::ir::Node, results: &[Tensor]| {
            if n.name == node {
                energy = results[0].to_f32s().unwrap().iter().map(|y| f64::from(*y).powi(2)).sum();
            }
        };
        Reference::new(graph).run_with(std::slice::from_ref(x), &mut tap).unwrap();
        (by_moments, energy)
    }

    fn agree((a, b): (f64, f64)) {
        assert!(b > 0.0 && (a / b - 1.0).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn moments_are_those_of_what_weights_are_multiplied_with() {
        let product = "graph g onnx
  %x = input : f32[3,2,4]
  %r = relu(%x) : f32[3,2,4]
  %w = const [1.0,2.0,3.0,4.0,-5.0,6.0,7.0,-8.0] : f32[4,2]
  %y = matmul(%r, %w) : f32[3,2,2]
  output %y
";
        agree(energies(product, &ramp(&[3, 2, 4]), "y", "w"));
        let filters: Vec<String> = (0..4 * 2 * 3 * 2).map(|i| format!("{:.1}", f64::from(i * 5 % 13) - 6.0)).collect();
        let convolution = format!(
            "graph g onnx
  %x = input : f32[2,4,5,6]
  %w = const [{}] : f32[4,2,3,2]
  %y = conv(%x, %w) {{dilations=[1,2], group=2, kernel_shape=[3,2], pads=[1,0,1,1], strides=[2,1]}} : f32[2,4,3,5]
  output %y
",
            filters.join(",")
        );
        agree(energies(&convolution, &ramp(&[2, 4, 5, 6]), "y", "w"));
    }

    #[test]
    fn weights_that_are_looked_up_too_have_no_inputs_of_one_kind() {
        let tied = "graph g onnx
  %i = input : i64[2]
  %w = const [1.0,2.0,3.0,4.0,5.0,6.0] : f32[3,2]
  %e = gather(%w, %i) {axis=0} : f32[2,2]
  %t = transpose(%w) {perm=[1,0]} : f32[2,3]
  %y = matmul(%e, %t) : f32[2,3]
  output %y
";
        let ids = Tensor::from_i64s(DType::I64, &[2], &[2, 0]).unwrap();
        let found = calibrate(&read(tied), &mut [Ok(vec![ids])].into_iter(), &mut |_| {}).unwrap();
        assert!(found.moments.is_empty() && found.n_runs == 1);
        assert!(matches!(calibrate(&read(tied), &mut std::iter::empty(), &mut |_| {}), Err(CalibrateError::NoSamples)));
    }

    #[test]
    fn weights_that_read_one_value_share_their_moments() {
        let two = "graph g onnx
  %x = input : f32[3,2]
  %w = const [1.0,2.0,3.0,4.0] : f32[2,2]
  %v = const [1.0,-2.0] : f32[2,1]
  %a = matmul(%x, %w) : f32[3,2]
  %b = matmul(%x, %v) : f32[3,1]
  output %a
  output %b
";
        let found =
            calibrate(&read(two), &mut [Ok(vec![ramp(&[3, 2])]), Ok(vec![ramp(&[3, 2])])].into_iter(), &mut |_| {})
                .unwrap();
        assert!(Arc::ptr_eq(&found.moments["w"], &found.moments["v"]));
        assert_eq!((found.moments["w"].n_samples(), found.n_runs), (6, 2));
    }

    /// Inputs `[n, 96]` whose columns depend on each other.
    #[cfg(feature = "codegen")]
    fn inputs(n: usize, from: u32) -> Tensor {
        let mut seed = from;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut values = Vec::new();
        for _ in 0..n {
            let mut before = 0.0;
            for _ in 0..96 {
                before = 0.9 * before + random();
                values.push(before);
            }
        }
        Tensor::from_f32s(DType::F32, &[n, 96], &values).unwrap()
    }

    /// From calibration to the program: what comes out is nearer to the model on inputs that were not seen, and the
    /// same once more.
    #[cfg(feature = "codegen")]
    #[test]
    fn a_calibrated_program_is_nearer_to_its_model() {
        use crate::session::compare::Comparison;
        use crate::session::{Compile, compile};
        let mut graph = Graph::new("g", crate::ir::Level::Onnx);
        let x = graph.add_input("x", crate::ir::TensorType::of(DType::F32, &[64, 96]));
        let w = inputs(48, 7).to_f32s().unwrap().iter().map(|v| v * 0.1).collect::<Vec<_>>();
        let w = graph.add_const("w", Tensor::from_f32s(DType::F32, &[96, 48], &w).unwrap());
        let op = crate::ir::Op::new(crate::ops::registry().by_onnx("MatMul").unwrap(), crate::ir::Attrs::new());
        let y = graph.add_op("y", op, &[Some(x), Some(w)], &["y".into()]).unwrap();
        graph.add_output("y", y.out(0));
        let settings =
            crate::passes::Settings { policy: "uniform:w4a32".parse().unwrap(), ..crate::passes::Settings::default() };
        let target = crate::targets::Target::shipped("lavapipe").unwrap();
        let mut options = Compile { settings, target, n_threads: 1 };
        let unseen = [inputs(64, 99)];
        let error = |options: &Compile| {
            let program = compile(&graph, options, &|_, _, _| {}, None).unwrap().program;
            let found = Comparison::of(graph.clone(), &unseen, &program, &unseen, &crate::ops::registry()).unwrap();
            (found.worst(), crate::program::file::to_bytes(&program).unwrap())
        };
        let (plain, _) = error(&options);
        let mut samples = (1..9).map(|i| Ok(vec![inputs(64, i)]));
        let found = calibrate_for(&graph, &options, &mut samples, &mut |_| {}).unwrap();
        assert_eq!((found.n_runs, found.moments["w"].n_samples()), (8, 8 * 64));
        options.settings.calibration = Some(Arc::new(found));
        let (calibrated, bytes) = error(&options);
        assert!(calibrated < 0.75 * plain, "{calibrated} {plain}");
        assert!(error(&options).1 == bytes);
    }
}
