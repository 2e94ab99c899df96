//! Dispatches that touch the same bytes, one of them writing, with no barrier between them. Validation layers miss most
//! of these: they see whole buffers or nothing. This looks at every pair, from the recorded order alone, and shares no
//! code with the planner that places the barriers.

use nyxc::program::{Region, ResultSlice};

/// What one dispatch touches.
#[derive(Clone, Debug)]
pub struct Access {
    pub what: String,
    pub reads: Vec<Region>,
    pub writes: Vec<Region>,
    /// The elements that it writes of a result, the only thing that it writes, where it shares that with others.
    pub result_slice: Option<ResultSlice>,
    /// Whether all dispatches before it are done, and what they wrote is visible, before it starts.
    pub barrier: bool,
}

/// Every pair of dispatches of one step that nothing orders, and every dispatch that writes over its own operands.
pub fn hazards(step: &[Access]) -> Vec<String> {
    let mut found = Vec::new();
    for (j, later) in step.iter().enumerate() {
        for (w, write) in later.writes.iter().enumerate() {
            if let Some(other) = later.reads.iter().chain(&later.writes[w + 1..]).find(|r| overlap(write, r)) {
                found.push(format!("dispatch {j} ({}) touches {other:?} and writes {write:?}", later.what));
            }
        }
        // A barrier orders all before it with all after it, so only dispatches since the last one count.
        if later.barrier {
            continue;
        }
        for i in (0..j).rev() {
            let earlier = &step[i];
            for (kind, a, b) in [
                ("read after write", &earlier.writes, &later.reads),
                ("write after read", &earlier.reads, &later.writes),
                ("write after write", &earlier.writes, &later.writes),
            ] {
                if kind == "write after write" && earlier.writes == later.writes && apart(earlier, later) {
                    continue;
                }
                if let Some((x, y)) = a.iter().flat_map(|x| b.iter().map(move |y| (x, y))).find(|(x, y)| overlap(x, y))
                {
                    found.push(format!(
                        "{kind}: dispatch {i} ({}) {x:?}, dispatch {j} ({}) {y:?}",
                        earlier.what, later.what
                    ));
                }
            }
            if earlier.barrier {
                break;
            }
        }
    }
    found
}

/// Whether two dispatches write different elements of one result, whose sizes are known.
fn apart(a: &Access, b: &Access) -> bool {
    let numbers = |access: &Access| {
        let ResultSlice { pitch, first, width } = access.result_slice.as_ref()?;
        Some((pitch.known()?, first.known()?, width.known()?))
    };
    match (numbers(a), numbers(b)) {
        (Some((pitch, first, width)), Some((other_pitch, other_first, other_width))) => {
            pitch == other_pitch
                && first.max(other_first) >= (first + width).min(other_first + other_width)
                && (first + width).max(other_first + other_width) <= pitch
        }
        _ => false,
    }
}

fn overlap(a: &Region, b: &Region) -> bool {
    a.allocation == b.allocation && a.offset.max(b.offset) < (a.offset + a.bytes).min(b.offset + b.bytes)
}

#[test]
fn each_kind_of_hazard_is_found_and_a_barrier_anywhere_between_ends_it() {
    let region = |allocation, offset| Region { allocation, offset, bytes: 64 };
    let dispatch = |read, write| Access {
        what: "node".to_owned(),
        reads: vec![read],
        writes: vec![write],
        result_slice: None,
        barrier: false,
    };
    let apart = dispatch(region(2, 0), region(2, 512));
    for (kind, first, second) in [
        ("read after write", dispatch(region(0, 0), region(1, 100)), dispatch(region(1, 163), region(1, 512))),
        ("write after read", dispatch(region(1, 100), region(1, 512)), dispatch(region(0, 0), region(1, 37))),
        ("write after write", dispatch(region(0, 0), region(1, 100)), dispatch(region(0, 0), region(1, 100))),
    ] {
        let mut step = vec![first, apart.clone(), second];
        let found = hazards(&step);
        assert!(found.len() == 1 && found[0].starts_with(kind), "{kind}: {found:?}");
        for at in [1, 2] {
            step[at].barrier = true;
            assert!(hazards(&step).is_empty(), "{kind}, barrier before {at}");
            step[at].barrier = false;
        }
        // One before both orders nothing between them.
        step[0].barrier = true;
        assert_eq!(hazards(&step).len(), 1, "{kind}");
    }
}

#[test]
fn neighbours_and_other_allocations_are_no_hazard() {
    let region = |allocation, offset| Region { allocation, offset, bytes: 64 };
    let dispatch = |read, write| Access {
        what: "node".to_owned(),
        reads: vec![read],
        writes: vec![write],
        result_slice: None,
        barrier: false,
    };
    let step = [
        dispatch(region(0, 0), region(1, 64)),
        dispatch(region(0, 0), region(1, 128)),
        dispatch(region(1, 0), region(2, 64)),
    ];
    assert!(hazards(&step).is_empty());
    assert_eq!(hazards(&[dispatch(region(1, 0), region(1, 63))]).len(), 1, "a dispatch that writes over its operand");
}

#[test]
fn slices_of_one_result_are_no_hazard_but_those_that_cross_are() {
    let result = Region { allocation: 1, offset: 0, bytes: 64 };
    let result_slice = |pitch: i64, first: i64, width: i64| Access {
        what: "node".to_owned(),
        reads: vec![],
        writes: vec![result],
        result_slice: Some(ResultSlice { pitch: pitch.into(), first: first.into(), width: width.into() }),
        barrier: false,
    };
    assert!(hazards(&[result_slice(8, 0, 3), result_slice(8, 3, 5)]).is_empty());
    for other in [
        result_slice(8, 2, 5),
        result_slice(4, 3, 1),
        result_slice(8, 3, 6),
        Access { result_slice: None, ..result_slice(8, 3, 5) },
    ] {
        assert_eq!(hazards(&[result_slice(8, 0, 3), other]).len(), 1);
    }
    let reader =
        Access { what: "reader".to_owned(), reads: vec![result], writes: vec![], result_slice: None, barrier: false };
    assert_eq!(hazards(&[result_slice(8, 0, 3), reader]).len(), 1, "who reads all waits for each");
}
