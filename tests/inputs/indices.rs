//! Indices out of range.

use super::*;

/// The fault that ended a run, and the node that it names.
fn fault(error: SessionError) -> (String, IndexFault) {
    match error {
        SessionError::Runtime(RuntimeError::Index { node, fault }) => (node, fault),
        SessionError::Cpu(CpuError::Op { node, source: OpError::Index(fault) }) => (node, fault),
        other => panic!("{other:?}"),
    }
}

/// `shared/cases/11`: a table of 20 rows, token ids beyond it.
#[test]
fn token_ids_beyond_the_table_end_the_run_and_the_next_one_is_right() {
    let graph = graph(
        "  %table = input : f32[20,3]
  %ids = input : i64[1,4]
  %x = gather(%table, %ids) {axis=0} named \"look up\" : f32[1,4,3]
  %y = neg(%x) : f32[1,4,3]
  output %y
",
    );
    let table: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let table = floats(&[20, 3], &table);
    let program = program(&graph);
    for (name, mut session) in sessions(&program) {
        for round in 0..2 {
            let good = session.run(&[table.clone(), ints(DType::I64, &[1, 4], &[0, 19, -1, -20])]).unwrap().outputs;
            let rows = good[0].to_f32s().unwrap();
            assert_eq!([rows[0], rows[3], rows[6], rows[9]], [0.0, -57.0, -57.0, 0.0], "{name}");
            for (ids, element, index) in [([0, 7, 20, 21], 2, 20), ([-21, 7, 1, i64::from(i32::MAX)], 0, -21)] {
                let error = session.run(&[table.clone(), ints(DType::I64, &[1, 4], &ids)]).unwrap_err();
                let expected = format!(
                    "node \"look up\": index {index} (element {element} of the indices) is out of range: -20 to 19 are allowed"
                );
                assert_eq!(error.to_string(), expected, "{name}, round {round}");
                assert_eq!(fault(error).1, IndexFault { element, index, least: -20, most: 19 }, "{name}");
            }
        }
    }
    // What the check takes is in the ledger.
    let plan = &program.plans[0];
    assert_eq!(plan.ledger.peak_bytes(), plan.planned_peak_bytes);
    assert!(plan.ledger.workspace >= 256, "{:?}", plan.ledger);
}

#[test]
fn an_unchecked_program_reads_the_nearest_row_and_has_no_check() {
    let body = "  %table = input : f32[5,2]
  %ids = input : i64[3]
  %at = input : i64[2,2]
  %x = gather(%table, %ids) {axis=0} : f32[3,2]
  %z = gather_elements(%table, %at) {axis=0} : f32[2,2]
  output %x
  output %z
";
    let unchecked = compiled(&graph(body), Settings { check_indices: false, ..Settings::default() }).unwrap();
    let checks = |program: &Program| {
        let steps = program.plans[0].entries[0].steps.iter();
        let dispatches = steps.flat_map(|s| if let Step::Device(list) = s { list.as_slice() } else { &[] });
        dispatches.filter(|d| d.check.is_some()).count()
    };
    assert_eq!((checks(&unchecked), checks(&program(&graph(body)))), (0, 2));
    let table = floats(&[5, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    for (name, mut session) in sessions(&unchecked) {
        let inputs = [table.clone(), ints(DType::I64, &[3], &[7, -1, -9]), ints(DType::I64, &[2, 2], &[0, 5, -6, -1])];
        let outputs = session.run(&inputs).unwrap().outputs;
        assert_eq!(outputs[0].to_f32s().unwrap()[..], [8.0, 9.0, 8.0, 9.0, 0.0, 1.0], "{name}");
        assert_eq!(outputs[1].to_f32s().unwrap()[..], [0.0, 9.0, 0.0, 9.0], "{name}");
    }
}

#[test]
fn constant_indices_out_of_range_are_found_while_compiling() {
    for body in [
        "  %x = input : f32[4,3]\n  %i = const [1,4] : i64[2]\n  %y = gather(%x, %i) {axis=0} : f32[2,3]\n  output %y\n",
        "  %x = input : f32[4,3]\n  %i = const [0,1,-4,2] : i64[2,2]\n  %y = gather_elements(%x, %i) {axis=1} : f32[2,2]\n  output %y\n",
        "  %x = input : f32[4,3]\n  %i = const [0,0,1,3] : i64[2,2]\n  %y = gather_nd(%x, %i) : f32[2]\n  output %y\n",
    ] {
        match compiled(&graph(body), Settings::default()).unwrap_err() {
            CompileError::Pipeline(PipelineError::Pass { source: PassError::Op { node, source }, .. }) => {
                assert_eq!(node, "y");
                let text = source.to_string();
                assert!(text.contains("is out of range: "), "{text}");
            }
            other => panic!("{other}"),
        }
    }
}

/// What picks or scatters by indices: the node, its last operand before the indices, their shape, and the range of each
/// number of an index.
type IndexCase<'a> = (&'a str, &'a str, &'a [usize], &'a [(i64, i64)]);

#[test]
fn every_operator_finds_the_first_index_out_of_range() {
    let cases: &[IndexCase<'_>] = &[
        ("gather(%x, %i) {axis=1} : f32[4,2,3,6]", "x", &[2, 3], &[(-5, 4)]),
        ("gather_elements(%x, %i) {axis=1} : f32[4,2,6]", "x", &[4, 2, 6], &[(-5, 4)]),
        ("gather_nd(%x, %i) : f32[7,6]", "x", &[7, 2], &[(-4, 3), (-5, 4)]),
        ("gather_nd(%x, %i) {batch_dims=1} : f32[4,3]", "x", &[4, 3, 2], &[(-5, 4), (-6, 5)]),
        ("scatter_elements(%x, %i, %u) {axis=1} : f32[4,5,6]", "u", &[2, 3, 2], &[(-5, 4)]),
        ("scatter_nd(%x, %i, %u) : f32[4,5,6]", "u", &[3, 2], &[(-4, 3), (-5, 4)]),
        ("max_unpool(%p, %i) {kernel_shape=[2,2], strides=[2,2]} : f32[1,1,4,6]", "p", &[1, 1, 2, 3], &[(0, 23)]),
        ("tensor_scatter(%x, %t, %i) {axis=1} : f32[4,5,6]", "t", &[4], &[(0, 3)]),
        ("reverse_sequence(%x, %i) {batch_axis=0, time_axis=1} : f32[4,5,6]", "x", &[4], &[(0, 5)]),
        ("array_feature_extractor(%m, %i) : f32[4,3]", "m", &[3], &[(0, 5)]),
        ("negative_log_likelihood_loss(%m, %i) {reduction=\"none\", ignore_index=-100} : f32[4]", "m", &[4], &[(0, 5)]),
        ("rotary_embedding(%q, %c, %s, %i) : f32[1,2,3,4]", "q", &[1, 3], &[(-9, 8)]),
    ];
    let mut state = 7u64;
    let mut random = |low: i64, high: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + ((state >> 33) % (high - low + 1) as u64) as i64
    };
    for (op, wanted, dims, ranges) in cases {
        let updates = if op.starts_with("scatter_nd") { "f32[3,6]" } else { "f32[2,3,2]" };
        let inputs: &[(&str, &str)] = match *wanted {
            "x" => &[("x", "f32[4,5,6]")],
            "u" => &[("x", "f32[4,5,6]"), ("u", updates)],
            "p" => &[("p", "f32[1,1,2,3]")],
            "t" => &[("x", "f32[4,5,6]"), ("t", "f32[4,2,6]")],
            "m" => &[("m", "f32[4,6]")],
            _ => &[("q", "f32[1,2,3,4]"), ("c", "f32[9,2]"), ("s", "f32[9,2]")],
        };
        let list = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut body: String = inputs.iter().map(|(name, ty)| format!("  %{name} = input : {ty}\n")).collect();
        body += &format!(
            "  %i = input : i64[{}]\n  %y = {}\n  output %y\n",
            list(dims),
            op.replacen(" :", " named \"by index\" :", 1)
        );
        let graph = graph(&body);
        let mut sessions = sessions(&program(&graph));
        let given: Vec<Tensor> = graph.inputs()[..inputs.len()]
            .iter()
            .enumerate()
            .map(|(k, id)| {
                let dims = graph.ty(id.out(0)).shape.known().unwrap();
                floats(&dims, &(0..dims.iter().product()).map(|v| (v * 7 % 13 + k) as f32).collect::<Vec<_>>())
            })
            .collect();
        let n: usize = dims.iter().product();
        for round in 0..6 {
            let mut indices: Vec<i64> = (0..n).map(|e| ranges[e % ranges.len()]).map(|(l, h)| random(l, h)).collect();
            if op.contains("ignore_index") {
                indices[0] = -100;
            }
            // Up to three places are out of range, on either side, a little or by far.
            let mut first: Option<IndexFault> = None;
            for _ in 0..round.min(3) {
                let element = random(0, n as i64 - 1) as usize;
                let (least, most) = ranges[element % ranges.len()];
                let far = [1, 2, 1000][random(0, 2) as usize];
                indices[element] = if random(0, 1) == 0 { least - far } else { most + far };
                if indices[element] == -100 && op.contains("ignore_index") {
                    indices[element] = -101;
                }
            }
            for (element, &index) in indices.iter().enumerate() {
                let (least, most) = ranges[element % ranges.len()];
                let is_ignored = op.contains("ignore_index") && index == -100;
                if first.is_none() && !(least..=most).contains(&index) && !is_ignored {
                    first = Some(IndexFault { element: element as u64, index, least, most });
                }
            }
            let inputs = [given.clone(), vec![ints(DType::I64, dims, &indices)]].concat();
            let mut expected = None;
            for (name, session) in &mut sessions {
                match (session.run(&inputs), first) {
                    (Ok(outcome), None) => {
                        let values = outcome.outputs[0].to_f32s().unwrap().into_owned();
                        let expected = expected.get_or_insert_with(|| values.clone());
                        let close = expected.iter().zip(&values).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs().max(1.0));
                        assert!(close, "{op} on {name}: {values:?}, not {expected:?}");
                    }
                    (Err(error), Some(wanted)) => {
                        let (node, given) = fault(error);
                        assert_eq!((node.as_str(), given), ("by index", wanted), "{op} on {name}: {indices:?}");
                    }
                    (outcome, wanted) => {
                        panic!("{op} on {name}: {wanted:?}, {indices:?}: {:?}", outcome.map(|o| o.outputs))
                    }
                }
            }
        }
    }
}

/// A size that changes between runs: the range is that of the run, and what waits for its sizes on the host says the
/// same as the kernel.
#[test]
fn the_range_is_that_of_the_sizes_of_the_run() {
    for op in ["gather(%x, %i) {axis=0} : f32[3,2]", "gather_elements(%x, %i) {axis=0} : f32[3,2]"] {
        let dims: &[usize] = if op.contains("elements") { &[3, 2] } else { &[3] };
        let list = dims.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let text = format!(
            "graph g onnx where n in 1..9\n  %x = input : f32[n,2]\n  %i = input : i64[{list}]\n  %y = {op}\n  output %y\n"
        );
        let graph = text::parse(&text, &registry(), &|_, _| None).unwrap();
        let program = program(&graph);
        for (name, mut session) in sessions(&program) {
            for n in [9usize, 4, 9] {
                let x = floats(&[n, 2], &vec![0.5; 2 * n]);
                let mut indices = vec![0; dims.iter().product()];
                indices[2] = 4;
                let run = session.run(&[x, ints(DType::I64, dims, &indices)]);
                if n > 4 {
                    assert!(run.unwrap().outputs[0].to_f32s().unwrap().iter().all(|v| *v == 0.5), "{op} on {name}");
                } else {
                    let wanted = IndexFault { element: 2, index: 4, least: -4, most: 3 };
                    assert_eq!(fault(run.unwrap_err()), ("y".to_owned(), wanted), "{op} on {name}");
                }
            }
        }
    }
}

/// Thousands of indices, over many workgroups, of which many are out of range: the first is named, whichever invocation
/// came first.
#[test]
fn the_first_of_many_is_named_each_time() {
    let n = 40_000;
    let program = program(&graph(&format!(
        "  %x = input : f32[50]\n  %i = input : i32[{n}]\n  %y = gather(%x, %i) {{axis=0}} : f32[{n}]\n  output %y\n"
    )));
    let x = floats(&[50], &[0.5; 50]);
    for (name, mut session) in sessions(&program) {
        for start in [0usize, 127, 128, 31_003, 39_999] {
            let at = |i: usize| if i >= start && (i - start).is_multiple_of(3) { 50 + i as i64 } else { i as i64 % 50 };
            let indices: Vec<i64> = (0..n).map(at).collect();
            let error = session.run(&[x.clone(), ints(DType::I32, &[n], &indices)]).unwrap_err();
            let wanted = IndexFault { element: start as u64, index: 50 + start as i64, least: -50, most: 49 };
            assert_eq!(fault(error), ("y".to_owned(), wanted), "{name}");
        }
    }
}

/// The notes of a check are no other dispatch's memory, and each is in the arena.
#[test]
fn checks_note_in_memory_of_their_own() {
    let program = program(&graph(
        "  %x = input : f32[4,5]
  %i = input : i64[2]
  %j = input : i64[3]
  %a = gather(%x, %i) {axis=0} : f32[2,5]
  %b = gather(%a, %j) {axis=1} : f32[2,3]
  %y = softmax(%b) {axis=1} : f32[2,3]
  output %y
",
    ));
    let plan = &program.plans[0];
    let entry = &plan.entries[0];
    let mut noted = Vec::new();
    let mut others: Vec<_> = entry.inputs.iter().chain(&entry.outputs).map(|port| port.region).collect();
    for step in &entry.steps {
        let Step::Device(list) = step else { continue };
        for dispatch in list {
            let own = dispatch.check.as_ref().map(|c| c.binding as usize);
            noted.extend(own.map(|binding| dispatch.bindings[binding]));
            others.extend(dispatch.bindings.iter().enumerate().filter(|(b, _)| Some(*b) != own).map(|(_, r)| *r));
        }
    }
    assert_eq!(noted.len(), 2);
    for (k, region) in noted.iter().enumerate() {
        assert_eq!(plan.allocations[region.allocation as usize].kind, AllocationKind::Arena);
        let apart = |other: &nyxc::program::Region| {
            other.allocation != region.allocation
                || other.offset + other.bytes <= region.offset
                || region.offset + region.bytes <= other.offset
        };
        assert!(others.iter().chain(&noted[..k]).all(apart), "{region:?}");
    }
}
