//! Which of some names was meant.

/// Longer names are not compared: a file may hold any.
const MAX_LEN: usize = 256;

/// The candidate that is the fewest insertions, deletions and substitutions of characters away from `name` (Levenshtein
/// 1966), the first of several; upper and lower case count as the same. `None` where all are further than half of the
/// longer name's length.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |text: &str| text.to_lowercase().chars().collect::<Vec<char>>();
    let given = fold(name);
    if given.len() > MAX_LEN {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let other = fold(candidate);
        if other.len() > MAX_LEN {
            continue;
        }
        let away = distance(&given, &other);
        if 2 * away <= given.len().max(other.len()) && best.is_none_or(|(least, _)| away < least) {
            best = Some((away, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// What follows a name that nobody knows: `; did you mean "x"?`, or nothing.
pub fn hint<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or(String::new(), |candidate| format!("; did you mean {candidate:?}?"))
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let names = ["input_ids", "attention_mask", "x"];
        assert_eq!(nearest("inputs_ids", names), Some("input_ids"));
        assert_eq!(nearest("Attention-Mask", names), Some("attention_mask"));
        assert_eq!(nearest("X", names), Some("x"));
        assert_eq!(nearest("pixel_values", names), None);
        assert_eq!(nearest(&"x".repeat(1000), names), None);
        assert_eq!(distance(&['a', 'b', 'c'], &['a', 'c']), 1);
        assert_eq!(distance(&[], &['a', 'c']), 2);
    }
}
