//! Tests of core operators in the forms that ONNX does not have: packed operands, epilogues, sizes not yet known.

use crate::ir::packed::{Coding, Granularity, Packing, ScaleType, pack};
use crate::ir::{
    Attr, AttrKind, Attrs, DType, Dim, Expr, Graph, Infer, Level, OpDef, OpError, Shape, Tensor, TensorType,
};
use crate::ops::all;
use crate::ops::core::{
    concat, conv, gather, layout, matmul, norm, pool, quantize_packed, reduce, reshape, softmax, strided,
};
use crate::ops::onnx::{elementwise, movement, pooling, slice};
use crate::ops::reference::expression::apply;
use crate::ops::reference::scalar::{Scalar, scalar};

/// Numbers that look random, between -1 and 1.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn floats(dims: &[usize], seed: u32) -> Tensor {
    Tensor::from_f32s(DType::F32, dims, &noise(dims.iter().product(), seed)).unwrap()
}

/// A packed weight of random codes and scales.
fn packed(packing: Packing, rows: usize, cols: usize, seed: u32) -> Tensor {
    let half = packing.coding.largest() - 1.0;
    let all: Vec<i8> = (-127..=127).filter(|code| packing.coding.has(*code)).collect();
    let near = |v: f32| all.iter().copied().min_by_key(|code| code.abs_diff(v as i8));
    let codes: Vec<i8> = noise(rows * cols, seed).iter().map(|v| near(v * half).unwrap()).collect();
    let n_scales = packing.n_scales(rows as u64, cols as u64).unwrap() as usize;
    let scales: Vec<f32> =
        noise(n_scales, seed + 1).iter().map(|v| half::f16::from_f32((v + 1.5) / 100.0).to_f32()).collect();
    let ty = TensorType { dtype: packing.codes(), shape: Shape::of(&[rows, cols]), packing: Some(packing) };
    Tensor::from_bytes(ty, pack(packing, rows, cols, &codes, &scales).unwrap()).unwrap()
}

fn packings() -> Vec<Packing> {
    let granularities = [Granularity::Block(16), Granularity::Block(32), Granularity::Row, Granularity::Tensor];
    let all = |coding| {
        granularities.map(|granularity| Packing {
            coding,
            granularity,
            scale: if coding == Coding::I8 { ScaleType::F32 } else { ScaleType::F16 },
        })
    };
    Coding::ALL.map(all).concat()
}

fn plain(tensor: &Tensor, dims: &[usize]) -> Tensor {
    Tensor::from_f32s(DType::F32, dims, &tensor.to_f32s().unwrap()).unwrap()
}

fn eval(def: &'static OpDef, attrs: &Attrs, inputs: &[&Tensor]) -> Tensor {
    let inputs: Vec<_> = inputs.iter().map(|t| Some(*t)).collect();
    (def.eval.unwrap())(attrs, &inputs).unwrap().swap_remove(0)
}

fn assert_near(given: &Tensor, expected: &Tensor) {
    assert_eq!(given.dims(), expected.dims());
    let (given, expected) = (given.to_f32s().unwrap(), expected.to_f32s().unwrap());
    let error: f64 = given.iter().zip(expected.iter()).map(|(g, e)| f64::from(g - e).powi(2)).sum();
    let norm: f64 = expected.iter().map(|e| f64::from(*e).powi(2)).sum();
    assert!(error.sqrt() <= 1e-5 * norm.sqrt(), "relative L2 {}", (error / norm).sqrt());
}

fn infer(
    def: &'static OpDef,
    attrs: &Attrs,
    types: &[&TensorType],
    consts: &[Option<&Tensor>],
) -> Result<Vec<TensorType>, OpError> {
    let inputs: Vec<_> = types.iter().map(|t| Some(*t)).collect();
    (def.infer)(&Infer { attrs, inputs: &inputs, consts, sizes: &[], n_outputs: 1 })
}

fn symbolic(dims: &[Dim]) -> TensorType {
    TensorType::new(DType::F32, Shape(dims.to_vec()))
}

#[test]
fn every_attribute_is_refused_where_it_is_of_another_kind() {
    let values = [
        Attr::Int(1),
        Attr::Float(1.0),
        Attr::Str("a".to_owned()),
        Attr::Ints(vec![1]),
        Attr::Floats(vec![1.0]),
        Attr::Strs(vec!["a".to_owned()]),
        Attr::Dims(vec![Dim::Known(1)]),
        Attr::DType(DType::F32),
        Attr::Expr(Expr::Arg(0)),
        Attr::Tensor(Tensor::from_f32s(DType::F32, &[], &[1.0]).unwrap()),
        Attr::Graph(Box::new(Graph::new("g", Level::Onnx))),
    ];
    for def in all() {
        for attr in def.attrs {
            let check = |value: &Attr| def.check_attrs(&Attrs::new().with(attr.name, value.clone()));
            let n_taken = values.iter().filter(|value| check(value).is_ok()).count();
            let n_kinds = match attr.kind {
                AttrKind::Sizes => 3,
                AttrKind::Number => 2,
                _ => 1,
            };
            assert_eq!(n_taken, n_kinds, "{} of {}", attr.name, def.name);
            let refused = values.iter().find_map(|value| check(value).err()).unwrap();
            assert!(refused.name == attr.name && refused.problem.ends_with(&attr.kind.to_string()), "{refused:?}");
        }
        assert_eq!(def.check_attrs(&Attrs::new().with_int("no such", 1)).unwrap_err().name, "no such", "{}", def.name);
    }
}

#[test]
fn packed_matrices_multiply_as_their_values_do() {
    for packing in packings() {
        let b = packed(packing, 13, 75, 3);
        let a = floats(&[2, 5, 75], 5);
        let attrs = matmul::attrs(true);
        assert_near(&eval(&matmul::DEF, &attrs, &[&a, &b]), &eval(&matmul::DEF, &attrs, &[&a, &plain(&b, &[13, 75])]));
        for granularity in [Granularity::Row, Granularity::Tensor] {
            let codes = eval(&quantize_packed::DEF, &quantize_packed::attrs(granularity), &[&a]);
            let expected = eval(&matmul::DEF, &attrs, &[&plain(&codes, &[2, 5, 75]), &plain(&b, &[13, 75])]);
            assert_near(&eval(&matmul::DEF, &attrs, &[&codes, &b]), &expected);
        }
    }
}

#[test]
fn packed_filters_convolve_as_their_values_do() {
    for (packing, group) in packings().into_iter().zip([1, 2].into_iter().cycle()) {
        let depth = 4 / group * 9;
        let (x, w) = (floats(&[2, 4, 6, 7], 9), packed(packing, 6, depth, 11));
        let attrs = Attrs::new()
            .with_ints("kernel", [3, 3])
            .with_ints("strides", [2, 1])
            .with_ints("pads", [1, 0, 1, 2])
            .with_ints("dilations", [1, 2])
            .with_int("group", group as i64);
        let values = plain(&w, &[6, 4 / group, 3, 3]);
        assert_near(&eval(&conv::DEF, &attrs, &[&x, &w]), &eval(&conv::DEF, &attrs, &[&x, &values]));
        let codes = eval(&quantize_packed::DEF, &quantize_packed::attrs(Granularity::Tensor), &[&x]);
        assert_near(
            &eval(&conv::DEF, &attrs, &[&codes, &w]),
            &eval(&conv::DEF, &attrs, &[&plain(&codes, &[2, 4, 6, 7]), &values]),
        );
    }
}

#[test]
fn packed_rows_gather_as_their_values_do() {
    for packing in packings() {
        let data = packed(packing, 9, 37, 13);
        let indices = Tensor::from_i64s(DType::I64, &[2, 2], &[0, -1, 4, 99]).unwrap();
        let attrs = Attrs::new().with_int("axis", 0);
        let expected = eval(&gather::DEF, &attrs, &[&plain(&data, &[9, 37]), &indices]);
        assert_eq!(eval(&gather::DEF, &attrs, &[&data, &indices]), expected);
    }
}

/// Values of several matrices as one.
fn joined(parts: &[&Tensor], dims: &[usize]) -> Tensor {
    let values: Vec<f32> = parts.iter().flat_map(|part| part.to_f32s().unwrap().into_owned()).collect();
    Tensor::from_f32s(DType::F32, dims, &values).unwrap()
}

#[test]
fn rows_stored_in_several_ways_compute_as_one_matrix() {
    for packing in packings() {
        let (w8, float, last) = (packed(packings()[4], 5, 75, 3), floats(&[1, 75], 4), packed(packing, 7, 75, 5));
        let whole = joined(&[&w8, &float, &last], &[13, 75]);
        let (a, attrs) = (floats(&[2, 5, 75], 6), matmul::attrs(true));
        let types: Vec<&TensorType> = [&a, &w8, &float, &last].map(Tensor::ty).to_vec();
        assert_eq!(infer(&matmul::DEF, &attrs, &types, &[None; 4]).unwrap(), [TensorType::of(DType::F32, &[2, 5, 13])]);
        assert_near(&eval(&matmul::DEF, &attrs, &[&a, &w8, &float, &last]), &eval(&matmul::DEF, &attrs, &[&a, &whole]));
        let codes = eval(&quantize_packed::DEF, &quantize_packed::attrs(Granularity::Row), &[&a]);
        let packed_only = joined(&[&w8, &last], &[12, 75]);
        let expected = eval(&matmul::DEF, &attrs, &[&plain(&codes, &[2, 5, 75]), &packed_only]);
        assert_near(&eval(&matmul::DEF, &attrs, &[&codes, &w8, &last]), &expected);
        let indices = Tensor::from_i64s(DType::I64, &[2, 3], &[0, -1, 4, 99, 5, 6]).unwrap();
        let attrs = Attrs::new().with_int("axis", 0);
        let expected = eval(&gather::DEF, &attrs, &[&whole, &indices]);
        assert_eq!(eval(&gather::DEF, &attrs, &[&w8, &indices, &float, &last]), expected);
        let x = floats(&[2, 3, 7, 6], 8);
        let attrs = Attrs::new().with_ints("kernel", [5, 5]);
        let types: Vec<&TensorType> = [&x, &w8, &float, &last].map(Tensor::ty).to_vec();
        assert_eq!(
            infer(&conv::DEF, &attrs, &types, &[None; 4]).unwrap(),
            [TensorType::of(DType::F32, &[2, 13, 3, 2])]
        );
        assert_near(
            &eval(&conv::DEF, &attrs, &[&x, &w8, &float, &last]),
            &eval(&conv::DEF, &attrs, &[&x, &plain(&whole, &[13, 3, 5, 5])]),
        );
    }
    let (a, w, short) = (floats(&[2, 8], 1), floats(&[3, 8], 2), floats(&[3, 7], 3));
    let refused = |attrs, types: [&TensorType; 3]| assert!(infer(&matmul::DEF, &attrs, &types, &[None; 3]).is_err());
    refused(matmul::attrs(true), [a.ty(), w.ty(), short.ty()]);
    refused(matmul::attrs(false), [a.ty(), &TensorType::of(DType::F32, &[8, 3]), w.ty()]);
}

#[test]
fn an_epilogue_is_applied_before_storing() {
    let (a, b, bias) = (floats(&[3, 8], 1), floats(&[8, 5], 2), floats(&[5], 3));
    let product = eval(&matmul::DEF, &Attrs::new(), &[&a, &b]);
    let expr = Expr::parse("relu(add(mul(x0,2.0),x1))").unwrap();
    let expected = apply(&expr, &[&product, &bias], &[3, 5], DType::F16).unwrap();
    let attrs = Attrs::new().with_expr("epilogue", expr).with_dtype("dtype", DType::F16);
    assert_eq!(eval(&matmul::DEF, &attrs, &[&a, &b, &bias]), expected);
    let types = [a.ty(), b.ty(), bias.ty()];
    assert_eq!(infer(&matmul::DEF, &attrs, &types, &[]).unwrap()[0].to_string(), "f16[3,5]");
    // A comparison turns the result into truth values, whatever the operator's own class.
    let attrs = Attrs::new().with_expr("epilogue", Expr::parse("gt(x0,0.0)").unwrap()).with_dtype("dtype", DType::Bool);
    assert_eq!(infer(&matmul::DEF, &attrs, &types[..2], &[]).unwrap()[0].to_string(), "bool[3,5]");
    let truths: Vec<i64> = product.to_f32s().unwrap().iter().map(|v| i64::from(*v > 0.0)).collect();
    assert_eq!(eval(&matmul::DEF, &attrs, &[&a, &b]).to_i64s().unwrap(), truths);
}

#[test]
fn an_epilogue_follows_absent_and_optional_operands() {
    let (x, scale, other) = (floats(&[2, 3, 4], 1), floats(&[4], 2), floats(&[3, 1], 3));
    let attrs = norm::attrs("rms", 2, 1e-5);
    let normal = eval(&norm::DEF, &attrs, &[&x, &scale]);
    let expr = Expr::parse("add(x0,x1)").unwrap();
    let fused = attrs.with_expr("epilogue", expr.clone());
    assert_eq!(
        eval(&norm::DEF, &fused, &[&x, &scale, &other]),
        apply(&expr, &[&normal, &other], &[2, 3, 4], DType::F32).unwrap()
    );
    let refused = infer(&norm::DEF, &fused, &[x.ty(), scale.ty(), &TensorType::of(DType::F32, &[7])], &[]);
    assert!(matches!(refused, Err(OpError::Broadcast { .. })), "{refused:?}");
}

#[test]
fn chunks_compute_what_single_elements_do() {
    let (x, y, z) = (floats(&[3, 1, 700], 1), floats(&[5, 1], 2), floats(&[1], 3));
    let out = [3, 5, 700];
    for text in [
        "max(mul(x0,x1),x2)",
        "select(gt(x0,x1),tanh(x0),pow(abs(x1),x2))",
        "b(i(mul(x0,9.0)))",
        "i(round(mul(x0,x1)))",
        "relu(neg(x1))",
    ] {
        let expr = Expr::parse(text).unwrap();
        let class = expr.class(&[crate::ir::Class::Float; 3]).unwrap();
        let dtype = match class {
            crate::ir::Class::Float => DType::F32,
            crate::ir::Class::Int => DType::I64,
            _ => DType::Bool,
        };
        let given = apply(&expr, &[&x, &y, &z], &out, dtype).unwrap().to_f32s().unwrap().into_owned();
        let (x, y, z) = (x.to_f32s().unwrap(), y.to_f32s().unwrap(), z.to_f32s().unwrap());
        for (i, given) in given.iter().enumerate() {
            let args = [x[i / 3500 * 700 + i % 700], y[i / 700 % 5], z[0]].map(Scalar::<f32>::Float);
            let expected = match scalar(&expr, &args) {
                Scalar::Float(v) => v,
                Scalar::Int(v) => v as f32,
                Scalar::Bool(v) => f32::from(u8::from(v)),
            };
            assert_eq!(*given, expected, "{text} at {i}");
        }
    }
}

/// An f64 that f32 cannot hold: elementwise in f64; and what computes or stores f32 refuses it, at its place.
#[test]
fn f64_is_computed_in_f64() {
    let of = |values: &[f64]| Tensor::from_f64s(DType::F64, &[values.len()], values).unwrap();
    let (x, y) = (of(&[2.5e223, 1.0, f64::INFINITY]), of(&[-1.5e223, 1e-12, 1.0]));
    let sum = |dtype| apply(&Expr::parse("add(x0,x1)").unwrap(), &[&x, &y], &[3], dtype);
    assert_eq!(sum(DType::F64).unwrap().to_f64s().unwrap(), [2.5e223 - 1.5e223, 1.0 + 1e-12, f64::INFINITY]);
    let refused = sum(DType::F32).unwrap_err().to_string();
    assert!(refused.contains("element 0 is 9.999999999999999e222, which does not fit in 32-bit floats"), "{refused}");
    let above = apply(&Expr::parse("gt(x0,x1)").unwrap(), &[&x, &y], &[3], DType::Bool).unwrap();
    assert_eq!(above.to_i64s().unwrap(), [1; 3]);
    let masked = of(&[0.0, f64::MIN, 0.0]);
    let softmax = |log| {
        let op = crate::ir::Op::new(&softmax::DEF, Attrs::new().with_int("axis", 0).with_int("log", log));
        crate::ops::reference::evaluate(&op, &[Some(&masked)], 1)
    };
    assert_eq!(softmax(0).unwrap()[0].to_f64s().unwrap(), [0.5, 0.0, 0.5]);
    assert_eq!(softmax(1).unwrap()[0].to_f64s().unwrap(), [-std::f64::consts::LN_2, f64::MIN, -std::f64::consts::LN_2]);
    // Numbers that f32 rounds, and one that it does not hold.
    let (x, tiny) = (of(&[1_316_904_809.5, 16_777_217.0, 16_777_219.0, 0.1]), of(&[1e-300, 0.0]));
    let one = |onnx: &str, attrs: Attrs, operands: &[&Tensor]| {
        let op = crate::ir::Op::new(crate::ops::registry().by_onnx(onnx).unwrap(), attrs);
        let operands: Vec<_> = operands.iter().map(|t| Some(*t)).collect();
        crate::ops::reference::evaluate(&op, &operands, 1).unwrap().remove(0)
    };
    let none = Attrs::new;
    let to = |dtype| none().with_dtype("to", dtype);
    assert_eq!(one("Cast", to(DType::I32), &[&x]).to_i64s().unwrap(), [1_316_904_809, 16_777_217, 16_777_219, 0]);
    assert_eq!(one("Cast", to(DType::Bool), &[&tiny]).to_i64s().unwrap(), [1, 0]);
    assert_eq!(one("Floor", none(), &[&x]).to_f64s().unwrap(), [1_316_904_809.0, 16_777_217.0, 16_777_219.0, 0.0]);
    assert_eq!(one("ReduceMax", none(), &[&x]).to_f64s().unwrap(), [1_316_904_809.5]);
    assert_eq!(one("ReduceSum", none(), &[&x]).to_f64s().unwrap(), [1_316_904_809.5 + 33_554_436.0 + 0.1]);
    assert_eq!(
        one("CumSum", none(), &[&x, &Tensor::from_i64s(DType::I64, &[], &[0]).unwrap()]).to_f64s().unwrap()[1],
        1_333_682_026.5
    );
    let (column, row) = (x.reshaped(&[4, 1]).unwrap(), x.reshaped(&[1, 4]).unwrap());
    assert_eq!(one("MatMul", none(), &[&column, &row]).to_f64s().unwrap()[6], 16_777_217.0 * 16_777_219.0);
    assert_eq!(one("NonZero", none(), &[&tiny]).to_i64s().unwrap(), [0]);
    let near = of(&[16_777_216.0, 16_777_217.0, 16_777_216.0]);
    let axis = || none().with_int("axis", 0);
    assert_eq!(one("ArgMax", axis(), &[&near]).to_i64s().unwrap(), [1]);
    let pads = Tensor::from_i64s(DType::I64, &[2], &[1, 0]).unwrap();
    assert_eq!(
        one("Pad", none(), &[&tiny, &pads, &of(&[0.1]).reshaped(&[]).unwrap()]).to_f64s().unwrap(),
        [0.1, 1e-300, 0.0]
    );
    assert_eq!(one("Pow", none(), &[&of(&[2.0]), &of(&[0.5 + 1e-12])]).to_f64s().unwrap(), [2f64.powf(0.5 + 1e-12)]);
    let (image, filter) = (x.reshaped(&[1, 1, 1, 4]).unwrap(), of(&[1.0, -1.0]).reshaped(&[1, 1, 1, 2]).unwrap());
    assert_eq!(one("Conv", none(), &[&image, &filter]).to_f64s().unwrap()[1], -2.0);
    let window = none().with_ints("kernel_shape", [1, 2]);
    assert_eq!(one("MaxPool", window, &[&image]).to_f64s().unwrap()[1], 16_777_219.0);
    let scattered = one("ScatterElements", axis().with_str("reduction", "add"), &[&x, &pads, &of(&[1.0, 1e-9])]);
    assert_eq!(scattered.to_f64s().unwrap()[..2], [1_316_904_809.5 + 1e-9, 16_777_218.0]);
}

#[test]
fn large_products_do_not_depend_on_the_number_of_threads() {
    let (a, b) = (floats(&[150, 64], 1), floats(&[64, 700], 2));
    let (x, w) = (floats(&[1, 16, 40, 40], 3), floats(&[32, 16, 3, 3], 4));
    let attrs = Attrs::new().with_ints("kernel", [3, 3]).with_ints("pads", [1, 1, 1, 1]);
    let compute = || (eval(&matmul::DEF, &Attrs::new(), &[&a, &b]), eval(&conv::DEF, &attrs, &[&x, &w]));
    let on = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(compute);
    assert_eq!(on(1), on(5));
    // One row goes another way than many.
    let row = Tensor::from_f32s(DType::F32, &[1, 64], &a.to_f32s().unwrap()[..64]).unwrap();
    let all = on(2).0.to_f32s().unwrap()[..700].to_vec();
    assert_near(
        &eval(&matmul::DEF, &Attrs::new(), &[&row, &b]),
        &Tensor::from_f32s(DType::F32, &[1, 700], &all).unwrap(),
    );
}

#[test]
fn sizes_may_be_unknown() {
    let (n, seq) = (Dim::symbol("n"), Dim::symbol("seq"));
    let x = symbolic(&[n.clone(), seq.clone(), Dim::Known(8)]);
    let shape = |def, attrs: &Attrs, types: &[&TensorType], consts: &[Option<&Tensor>]| {
        infer(def, attrs, types, consts).unwrap()[0].shape.to_string()
    };
    let ints = |values: &[i64]| Tensor::from_i64s(DType::I64, &[values.len()], values).unwrap();
    let none = Attrs::new();

    let w = TensorType::of(DType::F32, &[8, 5]);
    assert_eq!(shape(&matmul::DEF, &none, &[&x, &w], &[]), "[n,seq,5]");
    let back = symbolic(&[n.clone(), Dim::Known(8), seq.clone()]);
    assert_eq!(shape(&matmul::DEF, &none, &[&x, &back], &[]), "[n,seq,seq]");
    assert_eq!(shape(&softmax::DEF, &none, &[&x], &[]), "[n,seq,8]");
    assert_eq!(shape(&movement::TRANSPOSE, &none, &[&x], &[]), "[8,seq,n]");
    assert_eq!(shape(&movement::FLATTEN, &none, &[&x], &[]), "[n,8*seq]");
    assert_eq!(shape(&elementwise::ADD, &none, &[&x, &TensorType::of(DType::F32, &[1, 8])], &[]), "[n,seq,8]");
    assert_eq!(shape(&reduce::DEF, &reduce::attrs("sum", &[1], false), &[&x], &[]), "[n,8]");
    let two = |sizes: &Tensor| {
        infer(&reshape::DEF, &none, &[&x, sizes.ty()], &[None, Some(sizes)]).unwrap()[0].shape.to_string()
    };
    assert_eq!(two(&ints(&[0, -1])), "[n,8*seq]");
    assert_eq!(two(&ints(&[0, 0, 2, -1])), "[n,seq,2,4]");
    assert_eq!(two(&ints(&[-1, 8])), "[n*seq,8]");
    let (start, end, axis) = (ints(&[1]), ints(&[i64::MAX]), ints(&[1]));
    let slots = [&x, start.ty(), end.ty(), axis.ty()];
    assert_eq!(shape(&slice::DEF, &none, &slots, &[None, Some(&start), Some(&end), Some(&axis)]), "[n,seq-1,8]");
    assert_eq!(shape(&concat::DEF, &Attrs::new().with_int("axis", 1), &[&x, &x], &[]), "[n,2*seq,8]");

    let image = symbolic(&[n, Dim::Known(3), seq.clone(), Dim::Known(32)]);
    let filters = TensorType::of(DType::F32, &[4, 3, 3, 3]);
    let attrs = Attrs::new().with_ints("strides", [2, 2]).with_ints("pads", [1, 1, 1, 1]);
    assert_eq!(shape(&conv::DEF, &attrs, &[&image, &filters], &[]), "[n,4,floordiv(seq+1,2),16]");
    assert_eq!(shape(&pooling::MAX, &Attrs::new().with_ints("kernel_shape", [1, 1]), &[&image], &[]), "[n,3,seq,32]");
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = TensorType::of(DType::F32, &[2, 3, 4]);
    let ints = TensorType::of(DType::I64, &[2, 3, 4]);
    let none = Attrs::new();
    let refused = |def, attrs: &Attrs, types: &[&TensorType]| infer(def, attrs, types, &[]).unwrap_err().to_string();
    assert_eq!(
        refused(&matmul::DEF, &none, &[&x, &x]),
        "operand 1 is f32[2,3,4], expected 4 rows to multiply with f32[2,3,4]"
    );
    assert_eq!(
        refused(&softmax::DEF, &Attrs::new().with_int("axis", 3), &[&x]),
        "attribute axis is 3, the operand has 3 axes"
    );
    assert!(refused(&elementwise::ADD, &none, &[&x, &ints]).contains("Float and a Int"));
    assert!(refused(&elementwise::AND, &none, &[&x, &x]).contains("and of a Float"));
    assert!(
        refused(&reshape::DEF, &Attrs::new().with_dims("shape", vec![Dim::Known(5)]), &[&x])
            .contains("as many elements as [5]")
    );
    assert!(refused(&gather::DEF, &none, &[&x, &x]).contains("expected integers"));
    assert!(refused(&concat::DEF, &Attrs::new().with_int("axis", 0), &[&x, &ints]).contains("but for axis 0"));
    assert!(refused(&slice::DEF, &none, &[&x, &ints, &ints]).contains("operand 1 must be a constant"));
    assert!(refused(&pool::DEF, &Attrs::new().with_str("kind", "max"), &[&x]).contains("[N,C,H,W]"));
    let row = Packing { coding: Coding::I4, granularity: Granularity::Row, scale: ScaleType::F16 };
    let b = TensorType { dtype: DType::I4, shape: Shape::of(&[5, 4]), packing: Some(row) };
    assert!(refused(&matmul::DEF, &none, &[&x, &b]).contains("a packed [N,K] with trans_b"));
    let outside =
        strided::View { shape: vec![Dim::Known(5)], strides: vec![Dim::Known(7)], ..strided::View::default() };
    assert!(refused(&strided::DEF, &outside.attrs(), &[&x]).contains("reach elements 0 to 28 of 24"));
    let huge = Tensor::from_i64s(DType::I64, &[3], &[1 << 40, 1 << 40, 1 << 40]).unwrap();
    assert!((crate::ops::onnx::shape::CONSTANT_OF_SHAPE.eval.unwrap())(&none, &[Some(&huge)]).is_err());
}

#[test]
fn names_are_unique() {
    let registry = super::registry();
    assert_eq!(registry.iter().count(), all().count());
    for def in all().filter(|d| !d.onnx.is_empty()) {
        assert!(std::ptr::eq(registry.by_onnx(def.onnx).unwrap(), def), "{}", def.onnx);
    }
    assert!(all().all(|d| d.eval.is_some() || d.expand.is_some()));
}

#[test]
fn products_of_codes_may_be_empty() {
    let codes = |dims: &[usize]| Tensor::from_i64s(DType::U8, dims, &vec![3; dims.iter().product()]).unwrap();
    let number = |v: f32| Tensor::from_f32s(DType::F32, &[], &[v]).unwrap();
    let zero = Tensor::from_i64s(DType::U8, &[], &[1]).unwrap();
    let (a, scale) = (codes(&[3, 300]), number(0.5));
    let product = crate::ops::reference::evaluate(
        &crate::ir::Op::new(&crate::ops::onnx::integer::MAT_MUL, Attrs::new()),
        &[Some(&a), Some(&codes(&[300, 0]))],
        1,
    )
    .unwrap();
    assert_eq!(product[0].dims(), [3, 0]);
    let op = crate::ir::Op::new(&crate::ops::contrib::q_gemm::DEF, Attrs::new().with_int("transB", 1));
    let b = codes(&[0, 300]);
    let product = crate::ops::reference::evaluate(
        &op,
        &[Some(&a), Some(&scale), Some(&zero), Some(&b), Some(&scale), Some(&zero)],
        1,
    )
    .unwrap();
    assert_eq!(product[0].dims(), [3, 0]);
}

#[test]
fn a_table_of_more_codes_than_can_be_counted_is_refused() {
    let (table, indices, scales) = (
        TensorType::of(DType::U8, &[1, 1 << 62]),
        TensorType::of(DType::I64, &[2]),
        TensorType::of(DType::F32, &[1, 1 << 60]),
    );
    for bits in [2, 4] {
        let attrs = Attrs::new().with_int("bits", bits).with_int("block_size", 16);
        assert!(
            infer(&crate::ops::contrib::block_quantized::DEF, &attrs, &[&table, &indices, &scales], &[None; 3])
                .is_err()
        );
    }
}

#[test]
fn channels_last_compute_what_channels_first_do() {
    let transposed = |t: &Tensor| layout::transposed(t, layout::TO_NHWC).unwrap();
    for (at, packing) in packings().into_iter().enumerate() {
        let (group, filters) = [(1, 6), (2, 4), (4, 4), (4, 8)][at % 4];
        let (own, x) = (4 / group, floats(&[2, 4, 6, 7], 9));
        let attrs = Attrs::new()
            .with_ints("kernel", [3, 2])
            .with_ints("strides", [2, 1])
            .with_ints("pads", [1, 0, 1, 2])
            .with_ints("dilations", [1, 2])
            .with_int("group", group as i64);
        let last = attrs.clone().with_str("layout", "nhwc");
        let w = floats(&[filters, own, 3, 2], 12);
        let y = transposed(&eval(&conv::DEF, &attrs, &[&x, &w]));
        assert_near(&eval(&conv::DEF, &last, &[&transposed(&x), &transposed(&w)]), &y);
        // Two parts, the second packed.
        let matrix = packed(packing, filters, own * 6, 11);
        let values = plain(&matrix, &[filters, 3, 2, own]);
        let y = eval(&conv::DEF, &last, &[&transposed(&x), &values]);
        assert_near(&eval(&conv::DEF, &last, &[&transposed(&x), &matrix]), &y);
        if group == 1 {
            let both = eval(&conv::DEF, &last, &[&transposed(&x), &plain(&values, &[filters, own * 6]), &matrix]);
            let doubled: Vec<f32> = y.to_f32s().unwrap().chunks(filters).flat_map(|c| [c, c].concat()).collect();
            let dims = [2, y.dims()[1], y.dims()[2], 2 * filters];
            assert_near(&both, &Tensor::from_f32s(DType::F32, &dims, &doubled).unwrap());
        }
        let codes = eval(&quantize_packed::DEF, &quantize_packed::attrs(Granularity::Tensor), &[&transposed(&x)]);
        let plain_codes = plain(&codes, &[2, 6, 7, 4]);
        assert_near(&eval(&conv::DEF, &last, &[&codes, &matrix]), &eval(&conv::DEF, &last, &[&plain_codes, &values]));
        let pool = attrs.with_str("kind", if at % 2 == 0 { "max" } else { "average" });
        assert_near(
            &eval(&pool::DEF, &pool.clone().with_str("layout", "nhwc"), &[&transposed(&x)]),
            &transposed(&eval(&pool::DEF, &pool, &[&x])),
        );
    }
    let attrs = Attrs::new().with_ints("kernel", [1, 1]).with_str("layout", "chwn");
    let x = TensorType::of(DType::F32, &[1, 2, 3, 4]);
    assert!(infer(&conv::DEF, &attrs, &[&x, &x], &[None; 2]).unwrap_err().to_string().contains("chwn"));
}
