use super::call::Node;
use super::settings::of;
use super::*;
use crate::ir::{Attrs, Expr, Op, Shape};
use crate::kernels::key::Flag;
use crate::ops::core::{matmul, pointwise};
use crate::targets::shipped_names;

fn one(def: &'static crate::ir::OpDef, attrs: Attrs, types: &[TensorType]) -> (Graph, NodeId) {
    let mut graph = Graph::new("g", crate::ir::Level::Kernel);
    let operands: Vec<_> = types.iter().map(|ty| Some(graph.add_input("x", ty.clone()))).collect();
    let node = graph.add_op("node", Op::new(def, attrs), &operands, &["y".to_owned()]).unwrap();
    (graph, node)
}

#[test]
fn sizes_on_a_device_are_whole_words() {
    let bytes = |dtype, dims: &[usize]| device_bytes(&TensorType::of(dtype, dims));
    assert_eq!(bytes(DType::F16, &[3]), Some(8));
    assert_eq!(bytes(DType::I64, &[3]), Some(24));
    assert_eq!(bytes(DType::U32, &[3]), Some(12));
    assert_eq!(bytes(DType::I8, &[3]), Some(12));
    assert_eq!(bytes(DType::Bool, &[]), Some(4));
    assert_eq!(bytes(DType::BF16, &[2]), Some(8));
    assert_eq!(bytes(DType::Str, &[2]), None);
    let symbolic = TensorType::new(DType::F32, Shape(vec![crate::ir::Dim::symbol("n")]));
    assert_eq!((storage(&symbolic), device_bytes(&symbolic)), (Some(Storage::F32), None));
}

#[test]
fn a_parameter_that_is_missing_or_does_not_fit_is_refused() {
    let target = Target::shipped("vulkan-min").unwrap();
    let ty = TensorType::of(DType::F32, &[4]);
    let (graph, id) = one(&pointwise::DEF, pointwise::attrs(Expr::Arg(0), DType::F32), &[ty]);
    let node = Node::new(&graph, id, graph.node(id).op().unwrap(), &target).unwrap();
    let refused = |call: settings::Call<'_, of::Pointwise>| call.workgroups(1).unwrap_err().to_string();
    let missing = refused(node.call(of::Pointwise).vector(0));
    assert!(missing.ends_with("parameter n is missing (this is a bug)"), "{missing}");
    let other = refused(node.call(of::Pointwise).vector(3).n(4));
    assert!(other.ends_with("flag vector is 3, not one of [0, 2, 4, 8] (this is a bug)"), "{other}");
    let large = refused(node.call(of::Pointwise).vector(0).n(1u64 << 32));
    assert_eq!(large, r#"node "node": no kernel for a size beyond 32 bits"#);
}

#[test]
fn every_target_computes_a_product_and_refuses_what_no_binding_spans() {
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        let types = [TensorType::of(DType::F32, &[100, 64]), TensorType::of(DType::F16, &[200, 64])];
        let (graph, id) = one(&matmul::DEF, matmul::attrs(true), &types);
        let calls = dispatches(&graph, id, &target).unwrap();
        let (kernel, groups) = match target.features.cooperative_matrix {
            true => (
                "matmul_mma_f32_f16_f32_flushk64_fragk16_fragm16_fragn16_subgroup32_transb_turns_vector4_whole_v32x32x64_16x16_1",
                4 * 7,
            ),
            false => ("matmul_f32_f16_f32_transb_t64x64x16", 2 * 4),
        };
        assert_eq!(calls[0].key.name(), kernel);
        assert_eq!(
            (calls.len(), calls[0].groups.clone(), calls[0].params.len() % 4),
            (1, [groups, 1, 1].map(Dim::from), 0)
        );
        assert!(calls[0].operands.len() <= max_operands(&target) + 1);
    }
    let target = Target::shipped("vulkan-min").unwrap();
    let types = [TensorType::of(DType::F32, &[1, 8192]), TensorType::of(DType::F32, &[8192, 8192])];
    let (graph, id) = one(&matmul::DEF, matmul::attrs(false), &types);
    let refused = dispatches(&graph, id, &target).unwrap_err().to_string();
    assert_eq!(refused, r#"node "node": "x.2" has 268435456 bytes, a binding may span 134217728"#);
    let (graph, id) = one(&matmul::DEF, matmul::attrs(true), &types);
    let slices = dispatches(&graph, id, &target).unwrap();
    assert_eq!(slices.len(), 3);
    assert!(
        slices
            .iter()
            .all(|c| c.operands.iter().all(|o| o.offset_bytes % target.alignment() == 0 && o.bytes <= 134_217_728))
    );
}

#[test]
fn what_has_no_elements_needs_no_dispatch() {
    let target = Target::shipped("vulkan-min").unwrap();
    let (graph, id) =
        one(&pointwise::DEF, pointwise::attrs(Expr::Arg(0), DType::F32), &[TensorType::of(DType::F32, &[0, 3])]);
    assert_eq!(dispatches(&graph, id, &target), Ok(vec![]));
}

#[test]
fn products_are_taken_in_order_and_sums_in_parts() {
    let target = Target::shipped("vulkan-min").unwrap();
    for (kind, expected) in [("sum", 1), ("max", 1), ("prod", 0)] {
        let types = [TensorType::of(DType::F32, &[3, 1000])];
        let (graph, id) =
            one(&crate::ops::core::reduce::DEF, crate::ops::core::reduce::attrs(kind, &[1], true), &types);
        let calls = dispatches(&graph, id, &target).unwrap();
        assert_eq!((calls.len(), calls[0].key.flags[&Flag::Wide]), (1, expected), "{kind}");
    }
}

#[test]
fn a_kernel_has_no_more_loop_iterations_than_the_target_runs() {
    let refused = |name: &str, depth: crate::ir::Dim| {
        let target = Target::shipped(name).unwrap();
        let types = [vec![10.into(), depth.clone()], vec![depth.clone(), 3.into()]]
            .map(|dims| TensorType::new(DType::F32, Shape(dims)));
        let (graph, id) = one(&matmul::DEF, matmul::attrs(false), &types);
        match dispatches(&graph, id, &target) {
            Ok(calls) => {
                let limit = target.limits.max_loop_iterations.unwrap_or(u64::MAX);
                assert!(calls.iter().all(|call| call.loop_iterations() <= limit), "{name} {depth}");
                None
            }
            Err(error) => Some(error.to_string()),
        }
    };
    let (known, ranged) = (|n: i64| crate::ir::Dim::Known(n), |n: i64| crate::ir::Dim::ranged("k", 1, n));
    for depth in [known(260_000), ranged(260_000)] {
        assert_eq!(refused("lavapipe", depth.clone()), None);
        assert_eq!(refused("h200", depth), None);
    }
    // The upper end of a range counts.
    for depth in [known(2_200_000), ranged(2_200_000)] {
        assert_eq!(refused("h200", depth.clone()), None);
        let what = refused("vulkan-min", depth).unwrap();
        assert!(
            what.contains("matmul_f32_f32_f32_deep2_t32x32 needs 412518 loop iterations, the target has 65535"),
            "{what}"
        );
    }
    // A loop of the epilogue runs for every element that an invocation puts.
    let target = Target::shipped("lavapipe").unwrap();
    let types = [TensorType::of(DType::F32, &[3, 5000]), TensorType::of(DType::F32, &[1])];
    let attrs = Attrs::new().with_int("axis", 1).with_expr("epilogue", Expr::parse("fmod(x0,x1)").unwrap());
    let (graph, id) = one(&crate::ops::core::softmax::DEF, attrs, &types);
    let call = &dispatches(&graph, id, &target).unwrap()[0];
    assert_eq!(call.loop_iterations(), 3 * 41 + 40 * 33, "{:?}", call.loops);
}

#[test]
fn convolutions_of_many_terms_have_kernels_in_either_layout() {
    let target = Target::shipped("vulkan-min").unwrap();
    let kernel = |x: &[usize], w: &[usize], layout: &str| {
        let attrs = Attrs::new().with_ints("kernel", [3, 3]).with_str("layout", layout);
        let types = [TensorType::of(DType::F32, x), TensorType::of(DType::F32, w)];
        let (graph, id) = one(&crate::ops::core::conv::DEF, attrs, &types);
        dispatches(&graph, id, &target).unwrap()[0].key.clone()
    };
    for (channels, deep) in [(16, 0), (512, 1), (8192, 2)] {
        let first = kernel(&[1, channels, 5, 5], &[8, channels, 3, 3], "nchw");
        let last = kernel(&[1, 5, 5, channels], &[8, 3, 3, channels], "nhwc");
        assert_eq!((first.flag(Flag::Deep), last.flag(Flag::Deep)), (deep, deep));
        assert_eq!((first.template, last.template), (key::Template::Conv, key::Template::ConvNhwc));
    }
}

/// The h200 with this tuning table, or none.
fn tuned(cases: &str) -> Target {
    let json = format!(r#"{{"devices": ["h200"], "source": "a test", "cases": {{{cases}}}}}"#);
    let tuning = Some(std::sync::Arc::new(Tuning::parse("test", &json).unwrap()));
    Target { tuning, ..Target::shipped("h200").unwrap() }
}

fn product_of(m: crate::ir::Dim, [n, k]: [usize; 2], dtype: DType) -> (Graph, NodeId) {
    let x = TensorType::new(dtype, Shape(vec![m, crate::ir::Dim::from(k)]));
    one(&matmul::DEF, matmul::attrs(true), &[x, TensorType::of(dtype, &[n, k])])
}

fn chosen(target: &Target, m: i64, nk: [usize; 2]) -> Candidate {
    let (graph, id) = product_of(crate::ir::Dim::Known(m), nk, DType::F16);
    candidates(&graph, id, target).unwrap().into_iter().find(|c| c.is_chosen).unwrap()
}

#[test]
fn the_table_chooses_then_the_nearest_case_of_the_same_kind() {
    let target = tuned(
        r#""matmul f16 f16 f16 t plain 33-64: 4096x4096":
            {"32x32x64_32x32_4": 22400, "64x64x64_32x32_2": 20000, "32x32x64_32x32_2": "wrong", "plain": 655000},
        "matmul f16 f16 f16 t plain 33-64: 768x768": {"32x32x64_32x32_2": 5000, "64x64x64_32x32_2": 9000}"#,
    );
    let is = |m, nk, way: &str, source, ns: Option<u64>| {
        let candidate = chosen(&target, m, nk);
        assert_eq!((candidate.way.to_string().as_str(), candidate.cost.source), (way, source), "{m} {nk:?}");
        assert!(ns.is_none_or(|ns| ns == candidate.cost.ns), "{candidate:?}");
    };
    for m in [33, 48, 64] {
        is(m, [4096, 4096], "64x64x64_32x32_2", Source::Measured, Some(20_000));
        is(m, [768, 768], "32x32x64_32x32_2", Source::Measured, Some(5_000));
    }
    // Sizes nearby are priced by what was measured, and the wrong variant is never taken.
    is(64, [11008, 4096], "64x64x64_32x32_2", Source::Nearest, None);
    is(64, [768, 1024], "32x32x64_32x32_2", Source::Nearest, None);
    // With an epilogue that reads as much, by what was measured without.
    let x = TensorType::of(DType::F16, &[64, 4096]);
    let types = [x.clone(), TensorType::of(DType::F16, &[4096, 4096]), x];
    let (graph, id) =
        one(&matmul::DEF, matmul::attrs(true).with_expr("epilogue", Expr::parse("add(x0,x1)").unwrap()), &types);
    let wide = candidates(&graph, id, &target).unwrap().into_iter().find(|c| c.is_chosen).unwrap();
    assert_eq!((wide.case.kind.contains(" wide "), wide.way.to_string().as_str()), (true, "64x64x64_32x32_2"));
    assert_eq!(wide.cost.source, Source::Nearest);
    // Nothing of the kind.
    is(128, [4096, 4096], &chosen(&tuned(""), 128, [4096, 4096]).way.to_string(), Source::Model, None);
    let none = Target { tuning: None, ..target.clone() };
    is(300, [4096, 4096], &chosen(&none, 300, [4096, 4096]).way.to_string(), Source::Model, None);
}

#[test]
fn of_equal_prices_the_first_variant_is_taken() {
    let target = tuned(
        r#""matmul f16 f16 f16 t plain 33-64: 4096x4096":
            {"64x64x64_32x32_2": 20000, "32x32x64_32x32_4": 20000}"#,
    );
    assert_eq!(chosen(&target, 64, [4096, 4096]).way.to_string(), "32x32x64_32x32_4");
}

#[test]
fn a_number_of_rows_is_computed_alike_alone_and_in_a_range() {
    let table = r#""matmul f16 f16 f16 t plain 5-8: 4096x4096": {"16x16x64_16x16_8": 9000},
        "matmul f16 f16 f16 t plain 1: 4096x4096": {"256x32x8x1x0": 9000},
        "matmul f16 f16 f16 t plain 257-1024: 4096x4096": {"64x64x64_32x32_1": 9000}"#;
    for target in [tuned(table), tuned("")] {
        for dtype in [DType::F16, DType::F32] {
            for most in [8, 512, 100_000] {
                let (graph, id) = product_of(crate::ir::Dim::ranged("m", 1, most), [4096, 4096], dtype);
                let ranged = dispatches(&graph, id, &target).unwrap();
                for m in [1, 2, 3, 7, 8, 9, 16, 17, 64, 200, 512, 3000].into_iter().filter(|m| *m <= most) {
                    let (graph, id) = product_of(crate::ir::Dim::Known(m), [4096, 4096], dtype);
                    let alone = &dispatches(&graph, id, &target).unwrap()[0].key;
                    let runs = |call: &&KernelCall| call.groups[0].eval(&|_| Some(m)).is_some_and(|n| n > 0);
                    let of_range: Vec<&KernelCall> = ranged.iter().filter(runs).collect();
                    assert_eq!(of_range.len(), 1, "{m} of {most}");
                    let key = &of_range[0].key;
                    assert_eq!((key.template, key.variant), (alone.template, alone.variant), "{m} of {most}");
                }
            }
        }
    }
}

#[test]
fn candidates_are_the_same_in_every_run_and_each_is_what_it_says() {
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        for m in [1, 3, 16, 300] {
            let (graph, id) = product_of(crate::ir::Dim::Known(m), [512, 1024], DType::F32);
            let all = candidates(&graph, id, &target).unwrap();
            let facts = |all: &[Candidate]| -> Vec<(String, Cost)> {
                all.iter().map(|c| (c.way.to_string(), c.cost)).collect()
            };
            assert_eq!(facts(&all), facts(&candidates(&graph, id, &target).unwrap()), "{name}");
            assert_eq!(all.iter().filter(|c| c.is_chosen).count(), 1, "{name} {m}");
            for candidate in &all {
                let variant = candidate.calls[0].key.variant.map_or(Way::Plain, Way::Variant);
                assert_eq!(variant, candidate.way, "{name} {m}");
                assert_eq!(candidate.way.to_string().parse(), Ok(candidate.way));
                if candidate.is_chosen {
                    assert_eq!(candidate.calls, dispatches(&graph, id, &target).unwrap(), "{name} {m}");
                }
            }
        }
    }
}

#[test]
fn every_variant_of_a_shipped_table_is_known() {
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        assert_eq!(target.tuning.as_ref().and_then(|tuning| unknown_way(tuning)), None, "{name}");
    }
    let target = tuned(r#""matmul f16 f16 f16 t plain 1: 8x8": {"256x16x8x3000000000x0": 1}"#);
    assert!(unknown_way(target.tuning.as_ref().unwrap()).is_some());
}
