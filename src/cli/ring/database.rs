//! The tracker's database: a text file with one item a line, or a JSON array of strings.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The largest file: a million items of 64 bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Items in a database. A peer has all of them in memory.
const ITEMS_MAX: usize = 1_000_000;

/// The longest item. In the encoding that takes the most, protocol 0 with six bytes for a control character, a message with it
/// is under the 64 KiB that a peer reads.
const ITEM_BYTES_MAX: usize = 8 * 1024;

/// Items that plain peers, which read 1,024 bytes once, get whole in every encoding if they are ASCII: beside it a
/// message has a handle, an address and punctuation.
const ITEM_BYTES_PLAIN: usize = 800;

pub(super) fn read(path: &Path) -> Result<Vec<Box<str>>> {
    let name = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {name} (--db)"))?;
    ensure!(
        bytes.len() as u64 <= FILE_BYTES_MAX,
        "{name} (--db) is larger than {FILE_BYTES_MAX} bytes"
    );
    let text = String::from_utf8(bytes).with_context(|| format!("{name} (--db) is not UTF-8"))?;
    let items = parse(&text).with_context(|| format!("{name} (--db)"))?;
    let long = items.iter().filter(|item| item.len() > ITEM_BYTES_PLAIN);
    let long = long.count();
    if long > 0 {
        log::warn!(
            "{long} items are longer than {ITEM_BYTES_PLAIN} bytes: plain peers, which read 1,024 bytes once, will not get them"
        );
    }
    Ok(items)
}

fn parse(text: &str) -> Result<Vec<Box<str>>> {
    // A text of lines may begin with a bracket too; then it is no JSON, or not of strings.
    let json = text.trim_start().starts_with('[');
    let items: Vec<Box<str>> = match serde_json::from_str(text) {
        Ok(items) if json => items,
        Err(e) if json && text.trim_end().ends_with(']') => {
            bail!("not a JSON array of strings: {e}")
        }
        _ => text.lines().map(Box::from).collect(),
    };
    ensure!(!items.is_empty(), "no items in it");
    ensure!(
        items.len() <= ITEMS_MAX,
        "{} items, over the limit of {ITEMS_MAX}",
        items.len()
    );
    let long = items.iter().position(|item| item.len() > ITEM_BYTES_MAX);
    if let Some(seq) = long {
        let bytes = items[seq].len();
        bail!(
            "item {seq} has {bytes} bytes, over the {ITEM_BYTES_MAX} that fit one message; split it"
        );
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<String> {
        let items = parse(text).expect("a database");
        items.into_iter().map(String::from).collect()
    }

    #[test]
    fn lines_and_json() {
        assert_eq!(
            items("the\nsky\r\n\nis blue\n"),
            ["the", "sky", "", "is blue"]
        );
        assert_eq!(items("one"), ["one"]);
        assert_eq!(items(" [\"a\", \"b\\nc\"]\n"), ["a", "b\nc"]);
        assert_eq!(items("[1] first\n[2] second"), ["[1] first", "[2] second"]);
    }

    #[test]
    fn what_is_none() {
        for (text, word) in [
            ("", "no items"),
            ("[]", "no items"),
            ("[1, 2]", "JSON"),
            ("[\"a\",]", "JSON"),
            (&*"x".repeat(8193), "item 0 has 8193 bytes"),
        ] {
            let error = format!("{:#}", parse(text).expect_err(text));
            assert!(error.contains(word), "{error}");
        }
    }
}
