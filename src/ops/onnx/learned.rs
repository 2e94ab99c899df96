//! Operators of classical learning, of the domain `ai.onnx.ml`, and what is like them.

use crate::ir::{Attrs, CORE, Class, DType, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::compose::gather_within;
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::{n_elems, operand};
use std::collections::BTreeMap;

/// `binarizer(x) {threshold}`: ONNX Binarizer, version 1: 1 above the threshold, else 0.
pub static BINARIZER: OpDef = OpDef {
    name: "binarizer",
    onnx: "ai.onnx.ml::Binarizer",
    levels: ONNX,
    attrs: &[attr::float("threshold")],
    arity: (1, 1),
    infer: &|i| {
        let x = i.ty(0)?;
        if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) {
            return Err(OpError::operand(0, x, "numbers"));
        }
        Ok(vec![x.clone()])
    },
    eval: None,
    expand: Some(&|e| {
        let x = e.input(0)?;
        let (dtype, threshold) = (e.ty(x).dtype, e.attrs.float("threshold").unwrap_or(0.0));
        let text =
            if dtype.is_float() { format!("f(gt(x0,{threshold:?}))") } else { format!("i(gt(f(x0),{threshold:?}))") };
        Ok(vec![pointwise::add(e, &text, dtype, &[x])?])
    }),
    weights: None,
    gradient: None,
};

/// `array_feature_extractor(x, indices)`: ONNX ArrayFeatureExtractor, version 1: elements of the last axis.
pub static ARRAY_FEATURE_EXTRACTOR: OpDef = OpDef {
    name: "array_feature_extractor",
    onnx: "ai.onnx.ml::ArrayFeatureExtractor",
    levels: ONNX,
    attrs: &[],
    arity: (2, 2),
    infer: &|i| {
        let (x, indices) = (i.ty(0)?, i.ty(1)?);
        let n = indices.shape.volume();
        if x.packing.is_some()
            || x.shape.rank() == 0
            || indices.dtype.class() != Class::Int
            || x.dtype.class() == Class::Text
        {
            return Err(OpError::operand(1, indices, format!("indices into the last axis of {x}")));
        }
        let lead = if x.shape.rank() == 1 { vec![Dim::Known(1)] } else { x.shape.0[..x.shape.rank() - 1].to_vec() };
        Ok(vec![TensorType::new(x.dtype, Shape([lead, vec![n]].concat()))])
    },
    eval: None,
    expand: Some(&|e| {
        let (x, indices) = (e.input(0)?, e.input(1)?);
        let (axis, n) = (e.ty(x).shape.rank() - 1, e.ty(indices).shape.volume());
        let rule = Rule { sizes: vec![e.ty(x).shape.0[axis].clone()], negative: false, ignore: None };
        let row = check_indices::add(e, indices, &rule)?;
        let row = reshape::to(e, row, vec![n])?;
        let y = gather_within(e, x, row, axis)?;
        let shape = e.outputs[0].shape.0.clone();
        Ok(vec![reshape::to(e, y, shape)?])
    }),
    weights: None,
    gradient: None,
};

/// `optional_has_element(x?)`: ONNX OptionalHasElement, opset 18, of tensors: whether there is one.
pub static OPTIONAL_HAS_ELEMENT: OpDef = OpDef {
    name: "optional_has_element",
    onnx: "OptionalHasElement",
    levels: ONNX,
    attrs: &[],
    arity: (0, 1),
    infer: &|_| Ok(vec![TensorType::of(DType::Bool, &[])]),
    eval: None,
    expand: Some(&|e| {
        let has = Tensor::from_i64s(DType::Bool, &[], &[i64::from(e.optional(0).is_some())])?;
        Ok(vec![e.constant(has)])
    }),
    weights: None,
    gradient: None,
};

/// `optional_get_element(x)`: ONNX OptionalGetElement, opset 18, of tensors: x.
pub static OPTIONAL_GET_ELEMENT: OpDef = OpDef {
    name: "optional_get_element",
    onnx: "OptionalGetElement",
    levels: ONNX,
    attrs: &[],
    arity: (1, 1),
    infer: &|i| Ok(vec![i.ty(0)?.clone()]),
    eval: None,
    expand: Some(&|e| Ok(vec![e.input(0)?])),
    weights: None,
    gradient: None,
};

/// `tf_idf_vectorizer(x) {...}`: ONNX TfIdfVectorizer, opset 9, of integers: how often runs of numbers occur. On the
/// host.
pub static TF_IDF: OpDef = OpDef {
    name: "tf_idf_vectorizer",
    onnx: "TfIdfVectorizer",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::int("max_gram_length"),
        attr::int("max_skip_count"),
        attr::int("min_gram_length"),
        attr::text("mode"),
        attr::ints("ngram_counts"),
        attr::ints("ngram_indexes"),
        attr::ints("pool_int64s"),
        attr::floats("weights"),
    ],
    arity: (1, 1),
    infer: &infer_tf_idf,
    eval: Some(&eval_tf_idf),
    expand: None,
    weights: None,
    gradient: None,
};

/// Most elements of the result for one row, and most elements between two of a run.
const MAX_WIDTH: i64 = 1 << 24;
const MAX_SKIPS: i64 = 1 << 12;

/// Runs of numbers, each with its place in the result, and how long they are.
struct Grams<'a> {
    places: BTreeMap<&'a [i64], usize>,
    lengths: std::ops::RangeInclusive<usize>,
    n_steps: usize,
    width: usize,
}

impl<'a> Grams<'a> {
    fn of(attrs: &'a Attrs) -> Result<Grams<'a>, OpError> {
        let list = |name: &'static str| attrs.ints(name).ok_or_else(|| OpError::attribute(name, "is missing"));
        let number = |name: &'static str, most: i64| {
            let given = attrs.int(name).ok_or_else(|| OpError::attribute(name, "is missing"))?;
            usize::try_from(given)
                .ok()
                .filter(|_| given <= most)
                .ok_or_else(|| OpError::attribute(name, format!("is {given}")))
        };
        let (pool, counts, indexes) = (list("pool_int64s")?, list("ngram_counts")?, list("ngram_indexes")?);
        let lengths = number("min_gram_length", MAX_SKIPS)?.max(1)..=number("max_gram_length", MAX_SKIPS)?;
        let width =
            indexes.iter().max().copied().filter(|n| (0..MAX_WIDTH).contains(n) && indexes.iter().all(|i| *i >= 0));
        let width = width.ok_or_else(|| OpError::attribute("ngram_indexes", "are none, or out of range"))? as usize + 1;
        let mut places = BTreeMap::new();
        let mut id = 0;
        for (i, &start) in counts.iter().enumerate() {
            let end = counts.get(i + 1).copied().unwrap_or(pool.len() as i64);
            let part = usize::try_from(start)
                .ok()
                .zip(usize::try_from(end).ok())
                .and_then(|(start, end)| pool.get(start..end));
            for gram in
                part.ok_or_else(|| OpError::attribute("ngram_counts", format!("are {counts:?}")))?.chunks_exact(i + 1)
            {
                let place = indexes
                    .get(id)
                    .ok_or_else(|| OpError::attribute("ngram_indexes", "are fewer than there are runs"))?;
                places.insert(gram, *place as usize);
                id += 1;
            }
        }
        Ok(Grams { places, lengths, n_steps: number("max_skip_count", MAX_SKIPS)? + 1, width })
    }
}

fn infer_tf_idf(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let grams = Grams::of(infer.attrs)?;
    if x.dtype.class() != Class::Int || x.packing.is_some() || !(1..=2).contains(&x.shape.rank()) {
        return Err(OpError::operand(0, x, "integers [N] or [B,N]"));
    }
    if !matches!(infer.attrs.str("mode"), Some("TF" | "IDF" | "TFIDF"))
        || infer.attrs.floats("weights").is_some_and(|w| w.len() < grams.width)
    {
        return Err(OpError::attribute(
            "mode",
            format!("is {:?}, with weights for {} results", infer.attrs.str("mode"), grams.width),
        ));
    }
    let lead = &x.shape.0[..x.shape.rank() - 1];
    Ok(vec![TensorType::new(DType::F32, Shape([lead, &[Dim::Known(grams.width as i64)]].concat()))])
}

fn eval_tf_idf(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let grams = Grams::of(attrs)?;
    let (own, values) = (x.dims(), x.to_i64s()?);
    let Some((&n, lead)) = own.split_last() else { return Err(OpError::operand(0, x.ty(), "[N] or [B,N]")) };
    let n_rows = n_elems(lead)?;
    let mut counts = vec![0.0f32; n_rows * grams.width];
    let mut run = Vec::new();
    for (row, counts) in counts.chunks_exact_mut(grams.width).enumerate() {
        let row = &values[row * n..][..n];
        for step in 1..=grams.n_steps {
            // A run of one number is the same whatever the step.
            for length in grams.lengths.clone().filter(|&length| length > 1 || step == 1) {
                for start in 0..n.saturating_sub(step * (length - 1)) {
                    run.clear();
                    run.extend(row[start..].iter().step_by(step).take(length));
                    if let Some(&place) = grams.places.get(run.as_slice()) {
                        counts[place] += 1.0;
                    }
                }
            }
        }
    }
    let weight = |at: usize| attrs.floats("weights").and_then(|w| w.get(at)).copied().unwrap_or(1.0);
    let mode = attrs.str("mode");
    for (i, count) in counts.iter_mut().enumerate() {
        *count = match mode {
            Some("IDF") if *count > 0.0 => weight(i % grams.width),
            Some("TFIDF") => *count * weight(i % grams.width),
            _ => *count,
        };
    }
    Ok(vec![Tensor::from_f32s(DType::F32, &[lead, &[grams.width]].concat(), &counts)?])
}
