//! Ranges in any order, wrong ones found and replaced, and what is left after a process that was killed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

const RANGE: u64 = 1000;

/// A file of 3 ranges and a bit.
fn content() -> Vec<u8> {
    (0..3300_u32).map(|n| (n * 7 + n / 256) as u8).collect()
}

fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

fn open(dir: &Path) -> PartialFile {
    let content = content();
    PartialFile::open(dir, sha1(&content), content.len() as u64, RANGE).unwrap()
}

fn range(number: usize) -> Vec<u8> {
    let content = content();
    content.chunks(RANGE as usize).nth(number).unwrap().to_vec()
}

/// Checks on to the end; `None` when something is missing.
fn check(part: &mut PartialFile) -> Option<bool> {
    let steps = 1 + part.have().len() / HASH_STEP_RANGES;
    (0..steps).find_map(|_| part.check().unwrap())
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("downloads");
    (root, dir)
}

#[test]
fn ranges_in_every_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let (_root, dir) = place();
        let mut part = open(&dir);
        for (n, number) in order.into_iter().enumerate() {
            assert_eq!(part.check().unwrap(), None, "{n} of 4 are there");
            assert_eq!(part.store(number, &range(number)).unwrap(), Stored::New);
        }
        assert_eq!(check(&mut part), Some(true));
        assert_eq!(files(&dir).len(), 2);
        part.finish("name", false).unwrap();
        assert_eq!(files(&dir), ["name"]);
        assert!(fs::read(dir.join("name")).unwrap() == content());
    }
}

#[test]
fn an_empty_file_is_whole_at_once() {
    let (_root, dir) = place();
    let mut part = PartialFile::open(&dir, sha1(b""), 0, RANGE).unwrap();
    assert_eq!(part.check().unwrap(), Some(true));
    part.finish("empty", false).unwrap();
    assert_eq!(fs::read(dir.join("empty")).unwrap(), b"");
    let mut wrong = PartialFile::open(&dir, sha1(b"x"), 0, RANGE).unwrap();
    assert_eq!(wrong.check().unwrap(), Some(false));
}

#[test]
fn a_wrong_range_is_found_and_replaced() {
    for wrong in 0..4 {
        let (_root, dir) = place();
        let mut part = open(&dir);
        for number in 0..4 {
            let mut bytes = range(number);
            bytes[17] ^= u8::from(number == wrong);
            part.store(number, &bytes).unwrap();
        }
        assert_eq!(check(&mut part), Some(false));
        for number in 0..4 {
            let stored = part.store(number, &range(number)).unwrap();
            let differs = number == wrong;
            assert_eq!(stored == Stored::Differs, differs, "{stored:?}");
            assert_eq!(stored == Stored::Same, !differs);
        }
        assert_eq!(check(&mut part), Some(true));
    }
}

#[test]
fn a_later_run_goes_on_with_what_is_there() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    part.store(0, &range(0)).unwrap();
    part.store(3, &range(3)).unwrap();
    // As a process that is killed leaves it.
    drop(part);
    let mut part = open(&dir);
    assert_eq!(part.have(), [true, false, false, true]);
    part.store(2, &range(2)).unwrap();
    part.store(1, &range(1)).unwrap();
    assert_eq!(check(&mut part), Some(true));
}

#[test]
fn marks_without_bytes_are_not_believed_or_found_out() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    (0..4).for_each(|n| _ = part.store(n, &range(n)).unwrap());
    drop(part);
    let [name, marks] = names(&sha1(&content()), 3300);
    // Power was lost: the end of the part is zeroes.
    let file = File::options().write(true).open(dir.join(&name)).unwrap();
    file.set_len(2500).unwrap();
    file.set_len(3300).unwrap();
    let mut part = open(&dir);
    assert_eq!(part.have(), [true; 4]);
    assert_eq!(check(&mut part), Some(false));
    assert_eq!(part.store(1, &range(1)).unwrap(), Stored::Same);
    assert_eq!(part.store(2, &range(2)).unwrap(), Stored::Differs);
    assert_eq!(part.store(3, &range(3)).unwrap(), Stored::Differs);
    assert_eq!(check(&mut part), Some(true));
    drop(part);
    // Marks of something else, or cut: begun again.
    for bad in [&b""[..], b"PLRANGE1", &[7; 100]] {
        fs::write(dir.join(&marks), bad).unwrap();
        assert_eq!(open(&dir).have(), [false; 4]);
    }
}

#[test]
fn two_downloads_of_one_file_exclude_each_other() {
    let (_root, dir) = place();
    let part = open(&dir);
    let content = content();
    let second = PartialFile::open(&dir, sha1(&content), content.len() as u64, RANGE);
    assert!(matches!(second, Err(PartialFileError::InUse)));
    drop(part);
    open(&dir);
}

#[test]
fn nothing_is_overwritten_unless_asked() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    (0..4).for_each(|n| _ = part.store(n, &range(n)).unwrap());
    fs::write(dir.join("name"), "mine").unwrap();
    let other = dir.parent().unwrap().join("other");
    fs::write(&other, "other").unwrap();
    symlink(&other, dir.join("link")).unwrap();
    fs::create_dir(dir.join("folder")).unwrap();
    for name in ["name", "link", "folder"] {
        let check = check_name(&dir, name, false);
        let is_folder = matches!(check, Err(PartialFileError::IsFolder(_)));
        assert_eq!(is_folder, name == "folder");
        assert!(
            is_folder || matches!(check, Err(PartialFileError::Exists(_))),
            "{name}"
        );
        let finish = part.finish(name, false);
        assert!(matches!(finish, Err(PartialFileError::Exists(_))), "{name}");
    }
    assert_eq!(fs::read(dir.join("name")).unwrap(), b"mine");
    let forced = part.finish("folder", true);
    assert!(
        matches!(forced, Err(PartialFileError::IsFolder(_))),
        "{forced:?}"
    );
    // The link goes, not what it leads to.
    part.finish("link", true).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"other");
    assert!(fs::symlink_metadata(dir.join("link")).unwrap().is_file());
}

#[test]
fn received_names_stay_in_the_directory() {
    let (_root, dir) = place();
    let bad = [
        "",
        ".",
        "..",
        "a/",
        "/",
        "a\\",
        ".hidden",
        "a/.hidden",
        "new\nline",
        "nul\0",
        "\u{1b}[2J",
        "\u{9b}x",
    ];
    for name in bad {
        assert_eq!(safe_name(name), None, "{name:?}");
        assert!(matches!(
            check_name(&dir, name, true),
            Err(PartialFileError::BadName(_))
        ));
    }
    assert_eq!(safe_name(&"x".repeat(256)), None);
    assert_eq!(safe_name("../x"), Some("x"));
    assert_eq!(safe_name("/etc/passwd"), Some("passwd"));
    assert_eq!(safe_name("a/../../b"), Some("b"));
    assert_eq!(safe_name("..\\x"), Some("x"));
    assert_eq!(safe_name("%2e%2e"), Some("%2e%2e"));
    assert_eq!(safe_name(&"x".repeat(255)).map(str::len), Some(255));
    let mut part = open(&dir);
    (0..4).for_each(|n| _ = part.store(n, &range(n)).unwrap());
    part.finish("../../etc/passwd", false).unwrap();
    assert_eq!(files(&dir), ["passwd"]);
    assert_eq!(files(dir.parent().unwrap()), ["downloads"]);
}

#[test]
fn a_link_in_the_place_of_the_part_is_refused() {
    let (_root, dir) = place();
    fs::create_dir(&dir).unwrap();
    let victim = dir.parent().unwrap().join("victim");
    fs::write(&victim, "victim").unwrap();
    let content = content();
    let [part, marks] = names(&sha1(&content), 3300);
    for name in [part, marks] {
        for hard in [false, true] {
            let path = dir.join(&name);
            if hard {
                fs::hard_link(&victim, &path).unwrap();
            } else {
                symlink(&victim, &path).unwrap();
            }
            assert!(PartialFile::open(&dir, sha1(&content), content.len() as u64, RANGE).is_err());
            fs::remove_file(&path).unwrap();
        }
    }
    assert_eq!(fs::read(&victim).unwrap(), b"victim");
}

#[test]
fn a_part_without_ranges_leaves_nothing_and_one_of_another_size_spoils_nothing() {
    let (_root, dir) = place();
    drop(open(&dir));
    assert!(files(&dir).is_empty());
    let mut part = open(&dir);
    part.store(1, &range(1)).unwrap();
    drop(part);
    // Somebody announces the same file with another size.
    let sha1 = sha1(&content());
    for size_bytes in [0, 5, 1 << 20] {
        drop(PartialFile::open(&dir, sha1, size_bytes, RANGE).unwrap());
    }
    assert_eq!(open(&dir).have(), [false, true, false, false]);
}

#[test]
fn a_mark_beyond_the_end_does_not_come_true_later() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    part.store(0, &range(0)).unwrap();
    part.store(1, &range(1)).unwrap();
    drop(part);
    let [name, _] = names(&sha1(&content()), 3300);
    let file = File::options().write(true).open(dir.join(&name)).unwrap();
    file.set_len(1000).unwrap();
    let mut part = open(&dir);
    // Behind the one that was lost: its place is a hole now.
    part.store(2, &range(2)).unwrap();
    drop(part);
    assert_eq!(open(&dir).have(), [true, false, true, false]);
}

#[test]
fn who_comes_while_another_ends_begins_anew() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    (0..4).for_each(|n| _ = part.store(n, &range(n)).unwrap());
    // The file has its name, and its marks are not gone yet.
    let [name, marks] = names(&sha1(&content()), 3300);
    fs::rename(dir.join(&name), dir.join("name")).unwrap();
    let second = PartialFile::open(&dir, sha1(&content()), 3300, RANGE);
    assert!(matches!(second, Err(PartialFileError::InUse)));
    fs::remove_file(dir.join(&marks)).unwrap();
    let second = open(&dir);
    drop(part);
    assert_eq!(second.have(), [false; 4]);
    assert_eq!(files(&dir).len(), 3);
}

#[test]
fn after_a_failed_sync_nothing_is_taken_for_whole() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    for number in 0..4 {
        part.store(number, &range(number)).unwrap();
    }
    assert_eq!(check(&mut part), Some(true));
    // A pipe has neither length nor disk: making it durable fails, once.
    let (_reader, pipe) = std::io::pipe().unwrap();
    let file = std::mem::replace(&mut part.file, File::from(OwnedFd::from(pipe)));
    part.finish("name", false).unwrap_err();
    part.file = file;
    part.finish("name", false).unwrap_err();
    part.check().unwrap_err();
    part.store(0, &range(0)).unwrap_err();
    drop(part);
    assert!(!dir.join("name").exists());
    assert_eq!(open(&dir).have(), [false; 4]);
}

#[test]
fn a_range_whose_replacement_failed_is_missing() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    part.store(0, &range(0)).unwrap();
    part.store(1, &range(0)).unwrap();
    let [name, _] = names(&part.sha1, part.size_bytes);
    let readable = File::open(dir.join(name)).unwrap();
    let file = std::mem::replace(&mut part.file, readable);
    part.store(1, &range(1)).unwrap_err();
    assert_eq!(part.have(), [true, false, false, false]);
    part.file = file;
    for number in 1..4 {
        assert_eq!(part.store(number, &range(number)).unwrap(), Stored::New);
    }
    assert_eq!(check(&mut part), Some(true));
}

#[test]
fn a_range_whose_mark_failed_is_missing_and_not_hashed() {
    let (_root, dir) = place();
    let mut part = open(&dir);
    let [_, name] = names(&part.sha1, part.size_bytes);
    let readable = File::open(dir.join(name)).unwrap();
    let ranges = std::mem::replace(&mut part.ranges, readable);
    part.store(0, &range(0)).unwrap_err();
    assert_eq!((part.hashed, part.have[0]), (0, false));
    part.ranges = ranges;
    for number in 0..4 {
        assert_eq!(part.store(number, &range(number)).unwrap(), Stored::New);
    }
    assert_eq!(check(&mut part), Some(true));
}

#[test]
fn an_announced_size_beyond_reason_is_refused_before_anything_is_allocated() {
    let (_root, dir) = place();
    for size_bytes in [u64::MAX, i64::MAX as u64, RANGE * RANGES_MAX as u64 + 1] {
        let refused = PartialFile::open(&dir, [1; 20], size_bytes, RANGE).err();
        assert!(
            matches!(refused, Some(PartialFileError::TooLarge)),
            "{refused:?}"
        );
    }
    assert!(!dir.exists());
}
