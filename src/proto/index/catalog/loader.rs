//! The catalogue of a server that starts.

use slab::Slab;

use super::{Catalog, Entry, HolderNo, Posting, Postings, for_each_word, front, signature};
use crate::proto::index::fields::FileLine;

/// Fills an empty catalogue with many files at once: sorted once instead of merged again and again.
#[derive(Debug, Default)]
pub struct Loader {
    catalog: Catalog,
    files: Vec<Entry>,
}

impl Loader {
    pub fn add_holder(&mut self) -> HolderNo {
        self.catalog.add_holder()
    }

    pub fn insert(&mut self, holder: HolderNo, line: FileLine<'_>) {
        self.files.push(Entry::new(holder, line));
    }

    pub fn finish(self) -> Catalog {
        let Loader {
            mut catalog,
            mut files,
        } = self;
        // Numbered in the order of their names, files are in every list in the order of their numbers.
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        catalog.files = Slab::with_capacity(files.len());
        for file in files {
            let holder = &mut catalog.holders[file.holder as usize];
            let entry = catalog.files.vacant_entry();
            let number = entry.key() as u32;
            let file = entry.insert(file);
            holder.files.push(number);
            let content = Posting::new(number, 1);
            match catalog.contents.get_mut(&front(file.sha1)) {
                Some(list) => list.push(content),
                None => catalog
                    .contents
                    .insert(front(file.sha1), Postings::One(content)),
            }
            for_each_word(&mut catalog.splitter, &file.name, |word, occurrences| {
                file.signature |= signature(word);
                let posting = Posting::new(number, occurrences);
                match catalog.words.get_mut(word) {
                    Some(list) => list.push(posting),
                    None => catalog.words.insert(word.into(), Postings::One(posting)),
                }
            });
        }
        let lists = catalog.words.values_mut();
        lists
            .chain(catalog.contents.values_mut())
            .for_each(Postings::settle);
        for (_, holder) in &mut catalog.holders {
            holder.files.shrink_to_fit();
        }
        catalog
    }
}
