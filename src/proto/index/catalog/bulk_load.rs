//! Bulk load: the catalogue of a server that starts, from everything that its store has.

use slab::Slab;

use super::Catalog;
use super::entry::{Entry, HolderNo, content_key, for_each_word, signature};
use super::postings::Postings;
use super::ranking::Posting;
use crate::proto::index::fields::FileLine;

/// Fills an empty catalogue: sorts all files once, where single inserts would search each list again and again.
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
        // Files numbered in the order of their names are in every list in the order of their numbers.
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        catalog.files = Slab::with_capacity(files.len());
        for file in files {
            let holder = &mut catalog.holders[file.holder as usize];
            let entry = catalog.files.vacant_entry();
            let number = entry.key() as u32;
            let file = entry.insert(file);
            holder.files.push(number);
            let content = Posting::new(number, 1);
            match catalog.lists.contents.get_mut(&content_key(file.sha1)) {
                Some(list) => list.push(content),
                None => catalog
                    .lists
                    .contents
                    .insert(content_key(file.sha1), Postings::One(content)),
            }
            for_each_word(&mut catalog.splitter, &file.name, |word, occurrences| {
                file.signature |= signature(word);
                let posting = Posting::new(number, occurrences);
                match catalog.lists.words.get_mut(word) {
                    Some(list) => list.push(posting),
                    None => catalog
                        .lists
                        .words
                        .insert(word.into(), Postings::One(posting)),
                }
            });
        }
        let lists = catalog.lists.words.values_mut();
        lists
            .chain(catalog.lists.contents.values_mut())
            .for_each(Postings::settle);
        for (_, holder) in &mut catalog.holders {
            holder.files.shrink_to_fit();
        }
        catalog
    }
}
