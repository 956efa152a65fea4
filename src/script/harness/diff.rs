//! Two long texts, line by line: what both have, what one has.

/// Lines of each text that are compared; what is beyond is only counted.
const LINES: usize = 400;
/// Equal lines shown before and after a difference.
const AROUND: usize = 2;

/// `- ` before what was expected, `+ ` before what came instead.
pub fn diff(expected: &str, got: &str) -> String {
    let cut = |text: &'_ str| text.lines().count().saturating_sub(LINES);
    let left: Vec<&str> = expected.lines().take(LINES).collect();
    let right: Vec<&str> = got.lines().take(LINES).collect();
    let mut lines = around(&paired(&left, &right));
    for (sign, more) in [('-', cut(expected)), ('+', cut(got))] {
        if more > 0 {
            lines.push(format!("{sign} ... {more} more lines"));
        }
    }
    lines.join("\n")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Both,
    Left,
    Right,
}

/// The lines of both, by a longest common subsequence.
fn paired<'t>(left: &[&'t str], right: &[&'t str]) -> Vec<(Side, &'t str)> {
    let width = right.len() + 1;
    // How many lines the rests from (i, j) have in common.
    let mut common = vec![0_u32; (left.len() + 1) * width];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            common[i * width + j] = match left[i] == right[j] {
                true => common[(i + 1) * width + j + 1] + 1,
                false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            lines.push((Side::Both, left[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == right.len()
            || (i < left.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push((Side::Left, left[i]));
            i += 1;
        } else {
            lines.push((Side::Right, right[j]));
            j += 1;
        }
    }
    lines
}

/// With signs, and without the equal lines that are far from any difference.
fn around(lines: &[(Side, &str)]) -> Vec<String> {
    let near = |index: usize| {
        let window = index.saturating_sub(AROUND)..(index + AROUND + 1).min(lines.len());
        lines[window].iter().any(|(side, _)| *side != Side::Both)
    };
    let mut shown = Vec::new();
    for (index, (side, line)) in lines.iter().enumerate() {
        match side {
            Side::Left => shown.push(format!("- {line}")),
            Side::Right => shown.push(format!("+ {line}")),
            Side::Both if near(index) => shown.push(format!("  {line}")),
            Side::Both if shown.last().is_none_or(|last| last != "  ...") => {
                shown.push("  ...".to_owned());
            }
            Side::Both => {}
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_and_its_surroundings_are_shown() {
        let expected = "a\nb\nc\nd\ne\nf\ng";
        let got = "a\nb\nc\nd\nE\nf\ng\nh";
        assert_eq!(diff(expected, got), "  ...\n  c\n  d\n- e\n+ E\n  f\n  g\n+ h");
        assert_eq!(diff("", "x"), "+ x");
    }

    #[test]
    fn long_texts_are_cut() {
        let long: String = (0..500).map(|i| format!("{i}\n")).collect();
        assert!(diff(&long, "").ends_with("- 399\n- ... 100 more lines"));
    }
}
