//! Which files are shared and which are not, also when a file or folder is swapped between the scan and the open.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::fs::mkfifoat;

use super::*;

/// A shared directory with a secret beside it.
struct Place {
    _root: tempfile::TempDir,
    share: PathBuf,
    secret: PathBuf,
    dir: SharedDir,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let share = root.path().join("share");
    let secret = root.path().join("secret");
    fs::create_dir_all(share.join("sub/deeper")).unwrap();
    fs::write(&secret, "secret").unwrap();
    let dir = SharedDir::open(&share).unwrap();
    Place {
        _root: root,
        share,
        secret,
        dir,
    }
}

impl Place {
    fn write(&self, path: &str, text: &str) {
        fs::write(self.share.join(path), text).unwrap();
    }

    fn scan(&self, before: &[Arc<SharedFile>]) -> Scan {
        self.dir.scan(before, &mut |_| true).unwrap()
    }
}

fn paths(scan: &Scan) -> Vec<&str> {
    scan.files.iter().map(|file| file.path.as_str()).collect()
}

fn sha1_of(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

#[test]
fn regular_files_are_found_and_hashed() {
    let place = place();
    place.write("b.txt", "bytes");
    place.write("a with spaces ü", "");
    place.write("sub/deeper/c", "cc");
    let scan = place.scan(&[]);
    assert_eq!(paths(&scan), ["a with spaces ü", "b.txt", "sub/deeper/c"]);
    assert_eq!(scan.files[1].sha1, sha1_of(b"bytes"));
    assert_eq!(scan.files[0].sha1, sha1_of(b""));
    assert_eq!(scan.files[2].name(), "c");
    assert_eq!(scan.files[2].stamp.size_bytes, 2);
    assert!(scan.skipped.is_empty() && scan.hashed == 3);
    for file in &scan.files {
        place.dir.open_file(file).unwrap();
    }
}

#[test]
fn what_is_no_plain_file_is_not_shared() {
    let place = place();
    place.write("fine", "fine");
    place.write(".hidden", "x");
    place.write("pipe|name", "x");
    place.write("back\\slash", "x");
    place.write("new\nline", "x");
    symlink(&place.secret, place.share.join("link")).unwrap();
    symlink("fine", place.share.join("inner link")).unwrap();
    symlink("/", place.share.join("folder link")).unwrap();
    fs::hard_link(&place.secret, place.share.join("hard link")).unwrap();
    mkfifoat(place.dir.dir(), "fifo", Mode::RUSR | Mode::WUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.share.join("socket")).unwrap();
    let bad = std::os::unix::ffi::OsStrExt::from_bytes(&b"bad \xff"[..]);
    fs::write(place.share.join::<&std::ffi::OsStr>(bad), "x").unwrap();
    let scan = place.scan(&[]);
    assert_eq!(paths(&scan), ["fine"]);
    // All but the hidden one are told of.
    assert_eq!(scan.skipped.len(), 10, "{:?}", scan.skipped);
    let why = |name: &str| {
        let of = scan.skipped.iter().find(|(path, _)| path.contains(name));
        of.map(|(_, why)| *why)
    };
    assert_eq!(why("hard link"), Some("it has several hard links"));
    assert_eq!(why("folder link"), Some("it is a symbolic link"));
    assert_eq!(why("fifo"), Some("it is no regular file"));
}

#[test]
fn paths_that_leave_the_directory_are_not_opened() {
    let place = place();
    place.write("fine", "fine");
    let stamp = place.scan(&[]).files[0].stamp;
    let secret = place.secret.to_str().unwrap();
    symlink(&place.secret, place.share.join("link")).unwrap();
    symlink("..", place.share.join("up")).unwrap();
    for path in [
        "../secret",
        secret,
        "sub/../../secret",
        "link",
        "up/secret",
        "",
        ".",
        "sub",
    ] {
        for open in [open_beneath, open_by_steps] {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            let opened = open(place.dir.dir().as_fd(), path, flags);
            let is_inside = matches!(path, "." | "sub");
            assert!(opened.is_err() || is_inside, "{path} was opened");
        }
        let file = SharedFile {
            path: path.into(),
            stamp,
            sha1: [0; 20],
        };
        assert!(place.dir.open_file(&file).is_err(), "{path}");
    }
    let steps = open_by_steps(place.dir.dir().as_fd(), "fine", OFlags::RDONLY).unwrap();
    assert!(is_same(&File::from(steps), &stamp).unwrap());
}

#[test]
fn what_took_the_place_of_a_file_is_not_opened() {
    let place = place();
    place.write("sub/x", "before");
    let file = place.scan(&[]).files[0].clone();
    let path = place.share.join("sub/x");
    let swaps: [&dyn Fn(); 5] = [
        &|| symlink(&place.secret, &path).unwrap(),
        &|| fs::hard_link(&place.secret, &path).unwrap(),
        &|| mkfifoat(place.dir.dir(), "sub/x", Mode::RUSR).unwrap(),
        &|| fs::write(&path, "behind").unwrap(),
        &|| fs::create_dir(&path).unwrap(),
    ];
    for swap in swaps {
        let _ = fs::remove_file(&path);
        assert!(place.dir.open_file(&file).is_err());
        swap();
        assert!(place.dir.open_file(&file).is_err());
    }
    // A link in the place of a folder on the way.
    let outside = place.secret.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x"), "before").unwrap();
    fs::remove_dir_all(place.share.join("sub")).unwrap();
    symlink(&outside, place.share.join("sub")).unwrap();
    assert!(place.dir.open_file(&file).is_err());
}

#[test]
fn only_what_changed_is_hashed_again() {
    let place = place();
    place.write("same", "same");
    place.write("changes", "before");
    place.write("goes", "x");
    let first = place.scan(&place.dir.saved());
    assert_eq!(first.hashed, 3);
    place.dir.save(&first.files).unwrap();
    assert_eq!(place.dir.saved(), first.files);

    place.write("changes", "behind");
    place.write("new", "new");
    fs::remove_file(place.share.join("goes")).unwrap();
    let again = SharedDir::open(&place.share).unwrap();
    let mut total = 0;
    let second = again
        .scan(&again.saved(), &mut |hashing| {
            total = hashing.total_bytes;
            true
        })
        .unwrap();
    assert_eq!((second.hashed, total), (2, 9));
    assert_eq!(paths(&second), ["changes", "new", "same"]);
    assert_eq!(second.files[0].sha1, sha1_of(b"behind"));
    assert!(Arc::ptr_eq(
        &place.scan(&second.files).files[2],
        &second.files[2]
    ));
}

#[test]
fn a_scan_can_be_ended_and_bad_saved_lines_are_ignored() {
    let place = place();
    place.write("x", "xx");
    let ended = place.dir.scan(&[], &mut |_| false).unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::Interrupted);
    let sha1 = "a".repeat(40);
    let lines = format!("\n{sha1}\n{sha1} 1 2 3 4 5 6\nzz 1 2 3 4 5 6 x\n{sha1} -1 2 3 4 5 6 x\n");
    fs::write(place.share.join(HASHES), lines).unwrap();
    assert!(place.dir.saved().is_empty());
    fs::write(place.share.join(HASHES), [0xff; 100]).unwrap();
    assert!(place.dir.saved().is_empty());
    assert_eq!(place.scan(&place.dir.saved()).hashed, 1);
}

#[test]
fn a_file_is_hashed_after_the_tick_of_its_last_change() {
    // Before Linux 6.13, and with some file systems since, a change later in the same tick leaves the times as they were.
    let place = place();
    place.write("x", "before");
    let stamp = place.scan(&[]).files[0].stamp;
    let (secs, nanos) = stamp.changed;
    let changed = SystemTime::UNIX_EPOCH + Duration::new(secs as u64, nanos as u32);
    assert!(changed.elapsed().unwrap() >= CLOCK_TICK);
    // A time to come is not waited for, nor one that no clock shows.
    let later = SystemTime::now() + Duration::from_secs(3600);
    let later = later.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let began = std::time::Instant::now();
    for secs in [later.as_secs() as i64, i64::MAX, i64::MIN] {
        let changed = (secs, 999_999_999);
        Stamp { changed, ..stamp }.settle();
    }
    assert!(began.elapsed() < CLOCK_TICK);
}

#[test]
fn more_files_than_are_shared_are_said_and_so_is_how_many_are_not() {
    let mut place = place();
    place.dir.files_max = 5;
    for n in 0..5 {
        place.write(&format!("file {n}"), "x");
    }
    assert!(!place.scan(&[]).is_full);
    place.write("sub/one more", "x");
    let scan = place.scan(&[]);
    assert!(scan.is_full);
    assert_eq!(scan.files.len(), 5);
    // Many that are left out hide neither that nor their number.
    for n in 0..SKIPPED_MAX + 7 {
        symlink("x", place.share.join(format!("link {n}"))).unwrap();
    }
    place.dir.files_max = 6;
    let scan = place.scan(&[]);
    assert_eq!((scan.skipped.len(), scan.skipped_more), (SKIPPED_MAX, 7));
}

#[test]
fn an_interrupted_scan_leaves_the_hashes_so_far() {
    let mut place = place();
    place.dir.save_every_bytes = 10;
    for name in ["a", "b", "c", "d"] {
        place.write(name, "five!");
    }
    let d = place.scan(&[]).files[3..].to_vec();
    fs::remove_file(place.share.join(HASHES)).unwrap();
    let ends = |hashing: Hashing| hashing.done_bytes < 12;
    // "d" is known from before.
    place.dir.scan(&d, &mut |h| ends(h)).unwrap_err();
    let saved = place.dir.saved();
    let names: Vec<&str> = saved.iter().map(|file| file.name()).collect();
    assert_eq!(names, ["a", "b", "d"]);
    assert_eq!(place.scan(&saved).hashed, 1);
}

#[test]
fn a_directory_that_goes_is_said_and_another_with_its_name_is_shared() {
    let place = place();
    place.write("x", "before");
    let scan = place.scan(&[]);
    let away = place.share.with_extension("away");
    fs::rename(&place.share, &away).unwrap();
    let gone = place.dir.scan(&scan.files, &mut |_| true).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    fs::create_dir(&place.share).unwrap();
    place.write("y", "after");
    assert_eq!(paths(&place.scan(&scan.files)), ["y"]);
    fs::remove_dir_all(&place.share).unwrap();
    // A link in its place, or on the way to it, is not what the user meant.
    let private = place.secret.with_extension("private");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("z"), "private").unwrap();
    symlink(&private, &place.share).unwrap();
    assert!(place.dir.scan(&[], &mut |_| true).is_err());
    fs::remove_file(&place.share).unwrap();
    fs::rename(&away, &place.share).unwrap();
    let back = place.scan(&scan.files);
    assert_eq!((paths(&back), back.hashed), (vec!["x"], 0));
    // One that the user names is.
    symlink(&place.share, &away).unwrap();
    let by_link = SharedDir::open(&away).unwrap();
    assert_eq!(paths(&by_link.scan(&[], &mut |_| true).unwrap()), ["x"]);
}

#[test]
fn the_file_of_hashes_is_no_trap() {
    let place = place();
    place.write("x", "x");
    let scan = place.scan(&[]);
    let part = format!("{HASHES}-{}", std::process::id());
    // A pipe without a reader, and a second name of another file.
    mkfifoat(place.dir.dir(), part.as_str(), Mode::RUSR | Mode::WUSR).unwrap();
    place.dir.save(&scan.files).unwrap();
    fs::hard_link(&place.secret, place.share.join(&part)).unwrap();
    place.dir.save(&scan.files).unwrap();
    assert_eq!(fs::read(&place.secret).unwrap(), b"secret");
    assert_eq!(place.dir.saved(), scan.files);
    // A line without an end is not read to its end.
    let good = fs::read(place.share.join(HASHES)).unwrap();
    let long = [&good[..], &vec![b'a'; 1 << 20], b"\n", &good].concat();
    fs::write(place.share.join(HASHES), long).unwrap();
    assert_eq!(place.dir.saved(), scan.files);
}

/// A file system in memory takes sparse files of the largest size there is; three of them are more than 64 bits.
#[test]
fn sizes_that_add_up_to_more_than_64_bits_are_no_panic() {
    let Ok(root) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: no /dev/shm");
        return;
    };
    for name in ["a", "b", "c"] {
        let file = fs::File::create(root.path().join(name)).unwrap();
        if file.set_len(i64::MAX as u64 & !4095).is_err() {
            eprintln!("skipped: /dev/shm takes no file of 8 EiB");
            return;
        }
    }
    let dir = SharedDir::open(root.path()).unwrap();
    let mut total_bytes = 0;
    let scan = dir.scan(&[], &mut |hashing| {
        total_bytes = hashing.total_bytes;
        false
    });
    assert_eq!(scan.unwrap_err().kind(), io::ErrorKind::Interrupted);
    assert_eq!(total_bytes, u64::MAX);
}
