//! ONNX TfIdfVectorizer: weights of the n-grams in rows, on the host.

use crate::ir::{Attrs, CORE, Class, DType, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::util::{n_elems, operand};
use std::collections::BTreeMap;

/// `tf_idf_vectorizer(x) {...}`: ONNX TfIdfVectorizer, opset 9, of integers: how often runs of numbers occur. On the
/// host.
pub static DEF: OpDef = OpDef {
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
    infer: &infer,
    eval: Some(&eval),
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

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
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

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
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
