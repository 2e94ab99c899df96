//! What formats of integers store of weights and of activations.

use nyxc::ir::packed::{Coding, Granularity, Packing, dequantize, quantize_dynamic, unpack};
use nyxc::ir::{DType, Format, Graph, MatrixLayout, Op, Tensor, Weights};
use nyxc::ops::weights;
use nyxc::quant;

/// The weights as the format stores them, as f32 in the layout that the operator reads: rows are outputs, columns the
/// reduction.
pub fn fake_quantized(found: &weights::Weights, format: Format, graph: &Graph) -> Result<Tensor, String> {
    let tensor = graph.constant(found.value).ok_or("weights that are no constant")?;
    let (dims, data) = (tensor.dims(), tensor.to_f32s().unwrap());
    let place = |layout: MatrixLayout, row: usize, col: usize| match layout {
        MatrixLayout::Columns => col * found.n_rows + row,
        MatrixLayout::Rows | MatrixLayout::Filters | MatrixLayout::FiltersLast => row * found.n_cols + col,
    };
    let mut out = vec![0.0f32; data.len()];
    let first_tail = format.tail.map_or(found.n_rows, |t| t.from_row as usize).min(found.n_rows);
    for (rows, how) in
        [(0..first_tail, Some(format.weights)), (first_tail..found.n_rows, format.tail.map(|t| t.weights))]
    {
        let (Some(how), false) = (how, rows.is_empty()) else { continue };
        let matrix: Vec<f32> = rows
            .clone()
            .flat_map(|row| (0..found.n_cols).map(move |col| (row, col)))
            .map(|(row, col)| data[place(found.layout, row, col)])
            .collect();
        let values = match how {
            Weights::F32 => matrix.clone(),
            Weights::F16 => {
                Tensor::from_f32s(DType::F16, &[matrix.len()], &matrix).unwrap().to_f32s().unwrap().into_owned()
            }
            Weights::Int { coding, granularity } => {
                let n = rows.len();
                let scale = quant::choose_scale_type(&matrix, n, found.n_cols, coding, granularity)
                    .map_err(|e| e.to_string())?;
                let packing = Packing { coding, granularity, scale };
                let bytes = quant::quantize(&matrix, n, found.n_cols, packing).map_err(|e| e.to_string())?.bytes;
                let (codes, scales) = unpack(packing, n, found.n_cols, &bytes).map_err(|e| e.to_string())?;
                let block = if let Granularity::Block(block) = granularity { block as usize } else { found.n_cols };
                let per_row = found.n_cols.div_ceil(block.max(1));
                let values: Vec<f32> = (0..matrix.len())
                    .map(|i| f32::from(codes[i]) * scales[i / found.n_cols * per_row + i % found.n_cols / block])
                    .collect();
                // Rounding each weight to the nearest of the codes errs by half a step at most, and the search may only
                // do better.
                let most = matrix.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let codes = match coding {
                    Coding::I8 => 127.0,
                    // The widest step of the non-linear codes is 24 of 127, and its largest positive one 103.
                    Coding::N4 => 103.0 / 24.0,
                    _ => coding.largest() - 1.0,
                };
                let step = most / codes;
                let error: f64 = matrix.iter().zip(&values).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let bound = matrix.len() as f64 * f64::from(step * 0.5 + most / 1024.0).powi(2);
                if error > bound + 1e-12 {
                    return Err(format!(
                        "quantized weights are off by {error:e} in squares, at most {bound:e} is right"
                    ));
                }
                values
            }
        };
        for (i, row) in rows.enumerate() {
            (0..found.n_cols).for_each(|col| out[place(found.wanted, row, col)] = values[i * found.n_cols + col]);
        }
    }
    if let (MatrixLayout::FiltersLast, &[rows, height, width, channels]) = (found.layout, &dims[..]) {
        // `out` is `[rows, height * width, channels]`.
        let places = height * width;
        let first: Vec<f32> = (0..out.len())
            .map(|i| (i / (channels * places), i / places % channels, i % places))
            .map(|(row, channel, at)| out[(row * places + at) * channels + channel])
            .collect();
        return Ok(Tensor::from_f32s(DType::F32, &[rows, channels, height, width], &first).unwrap());
    }
    let dims = if found.layout == found.wanted { dims } else { dims.into_iter().rev().collect() };
    Ok(Tensor::from_f32s(DType::F32, &dims, &out).unwrap())
}

/// Activations to INT8 and back: one scale for the image of a convolution, one for each row of the reduction of a
/// product.
pub fn quantized_activations(x: &Tensor, op: &Op) -> Result<Tensor, String> {
    if op.attrs.int("transA").unwrap_or(0) != 0 {
        let transpose = |x: &Tensor| {
            let (dims, values) = (x.dims(), x.to_f32s().unwrap());
            let transposed: Vec<f32> = (0..dims[1])
                .flat_map(|col| (0..dims[0]).map(move |row| (row, col)))
                .map(|(r, c)| values[r * dims[1] + c])
                .collect();
            Tensor::from_f32s(DType::F32, &[dims[1], dims[0]], &transposed).unwrap()
        };
        let plain = Op::new(op.def, nyxc::ir::Attrs::new());
        return quantized_activations(&transpose(x), &plain).map(|y| transpose(&y));
    }
    let whole = op.def.onnx == "Conv";
    let dims = x.dims();
    let n_cols = dims.last().copied().unwrap_or(1);
    let n_rows: usize = dims[..dims.len().saturating_sub(1)].iter().product();
    let granularity = if whole { Granularity::Tensor } else { Granularity::Row };
    let bytes = quantize_dynamic(&x.to_f32s().unwrap(), n_rows, n_cols, granularity).map_err(|e| e.to_string())?;
    let values = dequantize(Packing::activation(granularity), n_rows, n_cols, &bytes).map_err(|e| e.to_string())?;
    Ok(Tensor::from_f32s(DType::F32, &dims, &values).unwrap())
}
