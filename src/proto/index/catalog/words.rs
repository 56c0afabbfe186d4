//! Splits names and searches into words: runs of letters and digits, in lower case.
//!
//! `Book of Songs.pdf` has the words `book`, `of`, `songs` and `pdf`. Words are compared whole: a search for `song` finds
//! `song.mp3` and not `Book of Songs.pdf`.

/// Splits names; reused for its buffer.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    lower: String,
}

impl Splitter {
    /// The words of `name` in lower case, in their order.
    pub(super) fn words(&mut self, name: &str) -> impl Iterator<Item = &str> {
        self.lower.clear();
        if name.is_ascii() {
            self.lower.push_str(name);
            self.lower.make_ascii_lowercase();
        } else {
            self.lower.extend(name.chars().flat_map(char::to_lowercase));
        }
        self.lower
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_letters_and_digits() {
        let words = |name: &str| {
            let mut splitter = Splitter::default();
            splitter.words(name).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words("Book of Songs.pdf"), ["book", "of", "songs", "pdf"]);
        assert_eq!(words("--a__B2..c--"), ["a", "b2", "c"]);
        assert_eq!(
            words("\u{c4}PFEL \u{43c}\u{418}\u{440}"),
            ["\u{e4}pfel", "\u{43c}\u{438}\u{440}"]
        );
        assert_eq!(words("..."), [""; 0]);
    }
}
