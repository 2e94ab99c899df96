//! A depth-first search for a packing of given height.
//!
//! It differs from MiniMalloc's in what it branches on, see the board, and in
//! how it treats columns that have fallen apart into components that share no
//! unplaced item.  MiniMalloc solves these recursively; here the search keeps
//! one stack, and on a dead end goes back to the latest decision about that
//! component, past all that was decided about others.

use super::board::{Board, Move, Pick, Range};
use super::columns::Item;

/// The columns and items that are looked at for the price of one node.
const BREADTH_PER_NODE: usize = 1024;

/// The most untried moves that are kept, some 50 MB of them.
const MAX_MOVES: usize = 1 << 21;

pub(super) enum Outcome {
    /// For each item its offset, in units.
    Packed(Vec<u64>),
    /// No packing of this height exists.
    Infeasible,
    /// The nodes or the moves are used up.
    GaveUp,
}

/// A decision and its untried alternatives.
struct Frame {
    /// The component that the decision is about.
    component: Range,
    /// The state of the board before the decision.
    mark: usize,
    /// Its moves are those from here to the start of the next frame's.
    moves: usize,
    next: usize,
}

enum Node {
    Packed,
    Dead(Range),
    Branched,
}

/// The price of looking at this many columns and items, in nodes.
///
/// A node of a long trace counts as several, so that a limit on nodes is a
/// limit on time whatever the length of the trace.
pub(super) fn price(breadth: usize) -> u64 {
    1 + (breadth / BREADTH_PER_NODE) as u64
}

/// Searches for offsets with which no item ends above `capacity`.
///
/// `items` are the items of a part, the preferred ones first, and `loads` its
/// loads; all sizes are in units.  The nodes searched are added to `n_nodes`,
/// which does not come to exceed `max_nodes`.
pub(super) fn search(
    items: &[Item],
    loads: &[u64],
    capacity: u64,
    pick: Pick,
    max_nodes: u64,
    n_nodes: &mut u64,
) -> Outcome {
    let Some(board) = Board::new(items, loads, capacity) else {
        return Outcome::Infeasible;
    };
    let all = board.all();
    let mut search = Search { board, pick, frames: Vec::new(), moves: Vec::new(), best: Vec::new() };
    let mut around = all;
    loop {
        let spent = n_nodes.saturating_add(price(search.board.breadth(around)));
        if spent > max_nodes || search.moves.len() > MAX_MOVES {
            return Outcome::GaveUp;
        }
        *n_nodes = spent;
        match search.expand(around) {
            Node::Packed if around != all => {
                around = all;
                continue;
            }
            Node::Packed => return Outcome::Packed(search.board.into_offsets()),
            Node::Branched => {}
            Node::Dead(component) => search.back_to(component),
        }
        match search.advance() {
            Some(component) => around = component,
            None => return Outcome::Infeasible,
        }
    }
}

struct Search<'a> {
    board: Board<'a>,
    pick: Pick,
    frames: Vec<Frame>,
    moves: Vec<Move>,
    best: Vec<Move>,
}

impl Search<'_> {
    /// Pushes a frame for the first component in the range, unless one of its
    /// components is dead or it has none.
    fn expand(&mut self, around: Range) -> Node {
        let start = self.moves.len();
        let mut first = None;
        let mut at = around.lo;
        while let Some(component) = self.board.component(at, around.hi) {
            self.board.survey(component, self.pick, &mut self.best);
            if self.best.is_empty() {
                self.moves.truncate(start);
                return Node::Dead(component);
            }
            if first.is_none() {
                first = Some(component);
                self.moves.extend_from_slice(&self.best);
            }
            at = component.hi;
        }
        let Some(component) = first else {
            return Node::Packed;
        };
        let mark = self.board.mark();
        self.frames.push(Frame { component, mark, moves: start, next: start });
        Node::Branched
    }

    /// Makes the next untried move; gives the component it is about, or `None`
    /// once none is left.
    fn advance(&mut self) -> Option<Range> {
        while let Some(frame) = self.frames.last_mut() {
            let Frame { component, mark, .. } = *frame;
            let step = self.moves.get(frame.next).copied();
            frame.next += 1;
            self.board.undo(mark);
            match step {
                Some(step) if self.board.apply(step) => return Some(component),
                Some(_) => {}
                None => {
                    self.pop();
                    self.back_to(component);
                }
            }
        }
        None
    }

    /// Drops all frames after the last one that bears on the component.
    ///
    /// Components only ever split, so a frame about other columns has not
    /// touched this one, and no other move of it revives this one.
    fn back_to(&mut self, dead: Range) {
        let bears = |other: Range| other.lo < dead.hi && dead.lo < other.hi;
        while self.frames.last().is_some_and(|frame| !bears(frame.component)) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(frame) = self.frames.pop() {
            self.board.undo(frame.mark);
            self.moves.truncate(frame.moves);
        }
    }
}
