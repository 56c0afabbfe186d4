//! The fields of messages: ids, digests, sizes, names, accounts, each with its only notation.
//!
//! Parsing is strict. A value that is refused here reaches neither the catalogue nor the store nor another peer.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::proto::decimal::Decimal;

/// Longest file name in bytes: the limit of file systems.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest user name in bytes: enough for any name, and keeps reply lines short.
pub const USER_BYTES_MAX: usize = 64;

/// Longest password in bytes: longer than any phrase; hashing that many is cheap beside Argon2 itself.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Largest file in bytes: offsets and sizes of system calls are signed 64-bit numbers.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Decimals of `size_mb`: six are exact to the byte.
const SIZE_DECIMALS: u32 = 6;
const BYTES_PER_MB: u64 = 10_u64.pow(SIZE_DECIMALS);

/// A value that its field does not allow. Says what is expected, and never quotes the peer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

/// The id of a registration: 63 bits, written in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u64);

impl PeerId {
    /// The id in the lower 63 of `bits`.
    pub const fn from_bits(bits: u64) -> PeerId {
        PeerId(bits & (u64::MAX >> 1))
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PeerId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<PeerId, Invalid> {
        match decimal(text) {
            Some(id) if id <= u64::MAX >> 1 => Ok(PeerId(id)),
            _ => Err(Invalid("the id is not a decimal number below 2^63")),
        }
    }
}

/// The SHA-1 of a file's content, written as 40 hex digits (lower-case; both are read).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha1(pub [u8; 20]);

impl Sha1 {
    pub fn hex(self) -> [u8; 40] {
        let mut text = [0; 40];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        text
    }
}

impl fmt::Display for Sha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).map_err(|_| fmt::Error)?)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Debug for Sha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha1 {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Sha1, Invalid> {
        const INVALID: Invalid = Invalid("the sha1 is not 40 hex digits");
        if text.len() != 40 {
            return Err(INVALID);
        }
        let digit = |byte: u8| (byte as char).to_digit(16).ok_or(INVALID);
        let mut digest = [0; 20];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Sha1(digest))
    }
}

/// The credentials of requests that change a registration. `Debug` hides the password, so that no log has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Account<'a> {
    pub user: &'a str,
    pub password: &'a str,
}

impl fmt::Debug for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The peers that SHOW_PEERS lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Online,
    Offline,
    All,
    /// One peer. An extension: a holder asks this way whether a requester is online.
    One(PeerId),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Online => f.write_str("online"),
            Which::Offline => f.write_str("offline"),
            Which::All => f.write_str("all"),
            Which::One(id) => id.fmt(f),
        }
    }
}

/// A file as a registration lists it: the line `name|size_mb|sha1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileLine<'a> {
    /// Valid by [`check_name`].
    pub name: &'a str,
    pub size_bytes: u64,
    pub sha1: Sha1,
}

impl<'a> FileLine<'a> {
    pub fn parse(line: &'a str) -> Result<FileLine<'a>, Invalid> {
        let mut fields = line.split('|');
        let (Some(name), Some(size), Some(sha1), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(Invalid("a file is name|size_mb|sha1, and a name has no |"));
        };
        check_name(name)?;
        Ok(FileLine {
            name,
            size_bytes: parse_size(size)?,
            sha1: sha1.parse()?,
        })
    }
}

impl fmt::Display for FileLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}|{}", self.name, SizeMb(self.size_bytes), self.sha1)
    }
}

/// A size in bytes, written in megabytes with exactly six decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeMb(pub u64);

impl SizeMb {
    pub fn decimal(self) -> Decimal {
        Decimal::with_point(self.0, SIZE_DECIMALS)
    }
}

impl fmt::Display for SizeMb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(self.decimal().as_bytes()).map_err(|_| fmt::Error)?)
    }
}

/// Parses a size: megabytes with up to six decimals, or bytes without a point, as the original client sends it.
pub fn parse_size(text: &str) -> Result<u64, Invalid> {
    const INVALID: Invalid = Invalid("the size is not a decimal number with up to 6 decimals");
    let bytes = match text.split_once('.') {
        None => decimal(text).ok_or(INVALID)?,
        Some((whole, fraction)) => {
            let missing = SIZE_DECIMALS.checked_sub(fraction.len() as u32);
            let missing = missing.ok_or(INVALID)?;
            let fraction = decimal(fraction).ok_or(INVALID)? * 10_u64.pow(missing);
            let whole = decimal(whole).ok_or(INVALID)?;
            let whole = whole.checked_mul(BYTES_PER_MB).ok_or(INVALID)?;
            whole.checked_add(fraction).ok_or(INVALID)?
        }
    };
    if bytes > FILE_BYTES_MAX {
        return Err(Invalid("the size is over 2^63 - 1 bytes"));
    }
    Ok(bytes)
}

/// Parses ASCII digits: no sign, no space, no digits of other scripts. `None` also for 2^64 and above.
pub fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Checks that a name may be listed: one component of a path, 1 to 255 bytes, without separators of this protocol or of
/// file systems. Other control characters are allowed; commands escape them before they print a name.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Invalid("the name is empty or over 255 bytes"));
    }
    if name == "." || name == ".." {
        return Err(Invalid("the name is a directory"));
    }
    if name.contains(['|', '\0', '/', '\\', '\n']) {
        return Err(Invalid("the name has |, NUL, /, \\ or a line break"));
    }
    Ok(())
}

/// Checks a user name: 1 to 64 bytes without control characters or `|`, the separator of replies.
pub fn check_user(user: &str) -> Result<(), Invalid> {
    let bad = |c: char| c == '|' || c.is_control();
    if user.is_empty() || user.len() > USER_BYTES_MAX || user.contains(bad) {
        return Err(Invalid(
            "the user is not 1 to 64 bytes without | and control characters",
        ));
    }
    Ok(())
}

/// Checks a password: 1 to 1024 bytes on one line.
pub fn check_password(password: &str) -> Result<(), Invalid> {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX || password.contains('\n') {
        return Err(Invalid("the password is not 1 to 1024 bytes on one line"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_exact_to_the_byte() {
        for bytes in [0, 1, 200, 999_999, 1_000_000, 1_048_576, FILE_BYTES_MAX] {
            assert_eq!(parse_size(&SizeMb(bytes).to_string()), Ok(bytes));
            assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        }
        assert_eq!(SizeMb(200).to_string(), "0.000200");
        assert_eq!(parse_size("1.5"), Ok(1_500_000));
    }

    #[test]
    fn what_is_no_decimal_is_refused() {
        let bad = [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1_0",
            "1e3",
            "0x1",
            "1.",
            ".5",
            "1.2.3",
            "1.-5",
            "NaN",
            "inf",
            "1.0000000",
            "\u{661}",
            "18446744073709551616",
            "9223372036854775808",
            "9223372036855.000000",
        ];
        for text in bad {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
        for text in [
            "",
            "-1",
            "+1",
            " 1",
            "1_0",
            "9223372036854775808",
            "\u{661}",
        ] {
            assert!(text.parse::<PeerId>().is_err(), "{text:?}");
        }
        assert!("9223372036854775807".parse::<PeerId>().is_ok());
    }

    #[test]
    fn digests_are_forty_hex_digits() {
        let text = "eac923ffd38e75dc5a30da86bd6ae3442638a89f";
        let digest: Sha1 = text.parse().expect("valid");
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(digest));
        for bad in [&text[1..], &format!("{text}0"), &text.replace('e', "g"), ""] {
            assert!(bad.parse::<Sha1>().is_err(), "{bad:?}");
        }
        // 40 bytes that are fewer characters.
        assert!("\u{e9}".repeat(20).parse::<Sha1>().is_err());
    }

    #[test]
    fn names_that_could_be_a_path_are_refused() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in [
            "", ".", "..", "../x", "/etc/x", "a/b", "..\\x", "a|b", "a\0b", "a\nb", &long,
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "...", "%2e%2e", "a b", "\u{1b}[31m", &long[1..]] {
            assert_eq!(check_name(good), Ok(()), "{good:?}");
        }
    }
}
